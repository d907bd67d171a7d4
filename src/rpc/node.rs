//! The faces of a node: its services over its router, on its listeners.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::operator::{Bootstrap, Founded, GiveLeads, LetsIn, Operator, OperatorParts};
use super::routed::Routed;
use super::serve::{ServeError, Services, ServicesParts};
use super::{Fault, Limits};
use crate::net::Listener;
use crate::node::bootstrap::{BootstrapError, Wishes};
use crate::node::join::{JoinError, LetIn, Newcomer};
use crate::node::rollout::heat::Times;
use crate::node::router::Call;
use crate::node::{Given, Node};
use crate::ring::ShardCount;
use crate::telemetry::trace::TraceId;

/// How long founding a cluster may take: an election of the meta group and one round of its log.
const BOOTSTRAP_MS_MAX: u64 = 20_000;

/// How long handing over all leads may take before it is told what is left.
const GIVE_MAX: Duration = Duration::from_secs(5);

struct Founder {
    node: Node,
    random: Mutex<StdRng>,
}

#[async_trait]
impl Bootstrap for Founder {
    async fn bootstrap(&self, shards: ShardCount, replication: u32, endpoints: Vec<String>) -> Result<Founded, Fault> {
        let random = self.random.lock().random();
        let wishes = Wishes { shards: shards.get(), replication, addresses: endpoints, random };
        let deadline = self.node.clock().monotonic().plus(BOOTSTRAP_MS_MAX);
        let call = Call { trace: TraceId::from_random(random.0), deadline };
        let made = self.node.bootstrap(wishes, &call).await.map_err(fault)?;
        Ok(Founded {
            cluster: made.charter.cluster.to_string(),
            nodes: made.charter.founders.iter().map(|founder| founder.name.clone()).collect(),
            replication: made.charter.rules.replication.get(),
            created: made.created,
        })
    }
}

struct Giver(Node);

#[async_trait]
impl GiveLeads for Giver {
    async fn give(&self, hold: Duration) -> Given {
        self.0.give_leads(hold, GIVE_MAX).await
    }

    fn held(&self) -> bool {
        self.0.is_without_leads()
    }
}

struct Host(Node);

#[async_trait]
impl LetsIn for Host {
    async fn meet(&self, newcomer: &Newcomer) -> Result<LetIn, JoinError> {
        self.0.meet(newcomer).await
    }

    async fn let_in(&self, who: &LetIn) -> Result<(), JoinError> {
        self.0.let_in(who).await
    }
}

fn fault(error: BootstrapError) -> Fault {
    let told = error.to_string();
    match error {
        BootstrapError::Shards(why) => Fault::field("shards", why.to_string()),
        BootstrapError::Replication(why) => Fault::field("replication_factor", why.to_string()),
        BootstrapError::Address(_)
        | BootstrapError::Nodes(_)
        | BootstrapError::WithoutMe(_)
        | BootstrapError::SameName(_) => Fault::field("node_endpoints", told.trim_start_matches("node_endpoints: ")),
        BootstrapError::Unreachable(_)
        | BootstrapError::Taken(_)
        | BootstrapError::Differ { .. }
        | BootstrapError::HalfWay(_)
        | BootstrapError::Versions(_)
        | BootstrapError::Slow => Fault::cluster_state(told),
    }
}

async fn read(path: &std::path::Path) -> Result<Vec<u8>, ServeError> {
    tokio::fs::read(path).await.map_err(|source| ServeError::TlsFile { path: path.to_path_buf(), source })
}

/// The services of a node, ready to serve.
pub struct Faces {
    node: Node,
    services: Services,
}

impl Faces {
    /// Serves clients and operators until the node closes.
    pub async fn serve(self, client: Listener, admin: Listener) -> Result<(), ServeError> {
        let stop = self.node.closing();
        tokio::try_join!(
            self.services.serve_clients(client, stop.clone()),
            self.services.serve_admin(admin, stop.clone())
        )?;
        Ok(())
    }
}

/// Makes the services of `node`; whatever is wrong with the files of its TLS is found here. `seed` is for ids of requests whose
/// callers give none, and of a cluster that is made here.
pub async fn faces(node: Node, seed: u64) -> Result<Faces, ServeError> {
    let config = node.config();
    let limits = Limits {
        deadline_max: Duration::from_millis(config.limits_call_ms_max),
        calls: config.limits_calls_max as usize,
        message_bytes: usize::try_from(config.limits_message_kib).unwrap_or(usize::MAX).saturating_mul(1_024),
        grace: Duration::from_millis(config.shutdown_drain_ms.min(5_000)),
        ..Limits::default()
    };
    let files = config.client_tls();
    let scheme = if files.is_some() { "https" } else { "http" };
    let reporting = node.clone();
    let operations = Operator::new(OperatorParts {
        router: node.router().clone(),
        shards: node.shards().clone(),
        ear: node.ear().clone(),
        leaders: node.leaders().clone(),
        book: node.book().clone(),
        endpoints: node.endpoints().clone(),
        client_scheme: scheme,
        report: Arc::new(move || reporting.report()),
        spoken: node.spoken(),
        heat_measured_ms: Times::of(config).measured_ms(),
        generation: node.generation(),
        bootstrap: Arc::new(Founder { node: node.clone(), random: Mutex::new(StdRng::seed_from_u64(seed)) }),
        leads: Arc::new(Giver(node.clone())),
        join: Arc::new(Host(node.clone())),
        threads: node.threads().clone(),
    });
    let services = Services::new(ServicesParts {
        backend: Arc::new(Routed::new(node.router().clone(), node.ready(), scheme)),
        operations: Arc::new(operations),
        limits,
        clock: node.clock().clone(),
        metrics: node.metrics().clone(),
        seed,
    });
    let services = match files {
        Some(files) => services.with_client_tls(&read(&files.certificate).await?, &read(&files.key).await?),
        None => services,
    };
    services.check()?;
    Ok(Faces { node, services })
}
