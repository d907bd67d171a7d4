//! The listeners: what is served where, and how it stops.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;
use tonic::transport::{Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};

use super::account::Account;
use super::admin::Admin;
use super::backend::{Backend, Operations};
use super::collection::Collection;
use super::front::Front;
use super::history::History;
use super::limits::Limits;
use super::progress::Progress;
use super::spread::Spread;
use super::tally::TallyLayer;
use crate::net::Listener;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::v1::account_service_server::AccountServiceServer;
use crate::proto::v1::admin_service_server::AdminServiceServer;
use crate::proto::v1::collection_service_server::CollectionServiceServer;
use crate::proto::v1::history_service_server::HistoryServiceServer;
use crate::proto::v1::progress_service_server::ProgressServiceServer;
use crate::telemetry::Metrics;
use crate::time::Clock;

/// Why a listener ended other than by being stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the listener failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Certificate or key is not sound.
    #[error("client.tls: the certificate or its key is not sound: {0}")]
    Tls(#[source] tonic::transport::Error),
    /// A file of the certificate or the key can't be read.
    #[error("client.tls: {}: {source}", path.display())]
    TlsFile {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The descriptors for reflection can't be read: a fault of the build.
    #[error("reflection can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The names of the services whose health is told, beside that of the whole node (the empty name).
const HEALTH_NAMES: [&str; 5] = [
    "",
    "playhead.v1.CollectionService",
    "playhead.v1.ProgressService",
    "playhead.v1.HistoryService",
    "playhead.v1.AccountService",
];

/// What the services are made of.
pub struct ServicesParts {
    /// The router.
    pub backend: Arc<dyn Backend>,
    /// What operators can have done.
    pub operations: Arc<dyn Operations>,
    /// Bounds.
    pub limits: Limits,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// For the ids of requests and calls whose callers give none.
    pub seed: u64,
}

/// How long a client may take for its TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// The services of a node.
pub struct Services {
    parts: ServicesParts,
    spread: Arc<Spread>,
    tls: Option<ServerTlsConfig>,
}

macro_rules! sized {
    ($service:expr, $limits:expr) => {
        $service.max_decoding_message_size($limits.message_bytes).max_encoding_message_size($limits.message_bytes)
    };
}

impl Services {
    /// The services over these parts.
    pub fn new(parts: ServicesParts) -> Self {
        let spread = Arc::new(Spread::new(parts.clock.clone(), parts.seed));
        Self { parts, spread, tls: None }
    }

    /// Serves clients over TLS: `certificate` is the chain that they are shown, `key` its private key, both PEM. Operators are
    /// not concerned.
    pub fn with_client_tls(mut self, certificate: &[u8], key: &[u8]) -> Self {
        let identity = tonic::transport::Identity::from_pem(certificate, key);
        self.tls = Some(ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE_MAX));
        self
    }

    /// What is wrong with certificate or key, before anybody is served.
    pub fn check(&self) -> Result<(), ServeError> {
        match &self.tls {
            Some(tls) => self.server().tls_config(tls.clone()).map(drop).map_err(ServeError::Tls),
            None => Ok(()),
        }
    }

    /// Serves clients on `listener` until `stop`: the services, health, and reflection. Then health says that the node doesn't
    /// serve, streams end, and calls at work are waited for, not longer than [`Limits::grace`].
    pub async fn serve_clients(
        &self,
        listener: impl Into<Listener>,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        let ServicesParts { backend, limits, clock, seed, .. } = &self.parts;
        let front = Arc::new(Front::new(backend.clone(), *limits, clock.clone(), self.spread.clone(), *seed));
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut server = self.server();
        if let Some(tls) = &self.tls {
            server = server.tls_config(tls.clone()).map_err(ServeError::Tls)?;
        }
        let telling = tokio::spawn(tell_health(health, backend.clone(), stop.clone()));
        let router = server
            .add_service(sized!(CollectionServiceServer::new(Collection::new(front.clone(), stop.clone())), limits))
            .add_service(sized!(ProgressServiceServer::new(Progress(front.clone())), limits))
            .add_service(sized!(HistoryServiceServer::new(History(front.clone())), limits))
            .add_service(sized!(AccountServiceServer::new(Account(front)), limits))
            .add_service(health_service)
            .add_service(reflection()?);
        let served = serve(router, listener.into(), stop, self.parts.limits.grace).await;
        telling.abort();
        served
    }

    /// Serves operators on `listener` until `stop`: the admin service and reflection.
    pub async fn serve_admin(&self, listener: impl Into<Listener>, stop: CancellationToken) -> Result<(), ServeError> {
        let router = self
            .server()
            .add_service(sized!(AdminServiceServer::new(Admin(self.parts.operations.clone())), self.parts.limits))
            .add_service(reflection()?);
        serve(router, listener.into(), stop, self.parts.limits.grace).await
    }

    fn server(&self) -> Server<Stack<TallyLayer, Identity>> {
        Server::builder()
            .max_concurrent_streams(self.parts.limits.connection_streams)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .http2_max_header_list_size(16 << 10)
            .layer(TallyLayer::new(
                self.parts.metrics.clone(),
                self.spread.clone(),
                self.parts.seed,
                &self.parts.limits,
            ))
    }
}

fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
    ServeError,
> {
    Ok(tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?)
}

async fn serve(
    router: Router<Stack<TallyLayer, Identity>>,
    listener: Listener,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), ServeError> {
    let serving = router.serve_with_incoming_shutdown(listener.incoming(), stop.clone().cancelled_owned());
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    until(serving, too_long).await.unwrap_or(Ok(())).map_err(ServeError::from)
}

/// What `work` gives, or `None` if `limit` ends first.
async fn until<T>(work: impl Future<Output = T>, limit: impl Future<Output = ()>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = limit => {
            tracing::warn!("calls were still at work when the time for stopping was over");
            None
        }
    }
}

/// Keeps health in step with the node's readiness.
async fn tell_health(health: HealthReporter, backend: Arc<dyn Backend>, stop: CancellationToken) {
    let mut ready = backend.ready();
    loop {
        let serves = *ready.borrow_and_update() && !stop.is_cancelled();
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in HEALTH_NAMES {
            health.set_service_status(name, status).await;
        }
        if stop.is_cancelled() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            changed = ready.changed() => if changed.is_err() { stop.cancelled().await },
        }
    }
}
