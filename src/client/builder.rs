//! How a client is described and checked.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::call::Core;
use super::endpoints::Endpoints;
use super::{AdminClient, Client};
use crate::net::Net;
use crate::time::Clock;

/// Why no client could be made. Every fault is named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .faults.join("; "))]
pub struct InvalidClient {
    /// What is wrong, each with what is accepted.
    pub faults: Vec<String>,
}

/// Describes a client.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    clock: Arc<dyn Clock>,
    seed: u64,
    endpoints: Vec<String>,
    deadline: Duration,
    attempt: Duration,
    connect: Duration,
    silence: Duration,
    follow_hints: bool,
    tls: Option<ClientTlsConfig>,
    net: Net,
}

/// The silence of a connection after which a node is asked for a sign of life, as a share of all that it may take.
const ASK_AFTER: u32 = 3;
/// What operators' calls allow: some of them do much at a time, and none of them is in a hurry.
const SILENCE_ADMIN: Duration = Duration::from_secs(3);

/// A duration in whole milliseconds, at least one.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Builder {
    pub(super) fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            clock,
            seed,
            endpoints: Vec::new(),
            deadline: Duration::from_secs(5),
            attempt: Duration::from_secs(2),
            connect: Duration::from_secs(1),
            silence: Duration::from_millis(300),
            follow_hints: true,
            tls: None,
            net: Net::Tcp,
        }
    }

    /// Nodes to ask, as `http://host:port` or `host:port`: 1 to 64. They need not be all nodes; leaders are learned.
    pub fn endpoints<S: Into<String>>(mut self, endpoints: impl IntoIterator<Item = S>) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// How long a call may take with all its attempts. Default: 5 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one attempt may take before another node is asked. Default: 2 s.
    pub fn attempt(mut self, attempt: Duration) -> Self {
        self.attempt = attempt;
        self
    }

    /// How long it may take to connect. Default: 1 s.
    pub fn connect(mut self, connect: Duration) -> Self {
        self.connect = connect;
        self
    }

    /// How long a node may be silent that has calls to answer before it counts as hanging, and they go to another one. A node that
    /// lives answers a ping, however long its calls take. Default: 300 ms; for operators' calls 3 s.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Whether calls go to the leaders that answers name. Off, they go round the endpoints given. Default: on.
    pub fn follow_hints(mut self, follow: bool) -> Self {
        self.follow_hints = follow;
        self
    }

    /// Speak TLS, and trust certificates that this authority (PEM) has signed; the endpoints are `https://host:port` then, and
    /// their certificates must name that host.
    pub fn authority(self, pem: impl AsRef<[u8]>) -> Self {
        self.tls(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }

    /// Speak TLS; the endpoints are `https://host:port` then.
    pub fn tls(mut self, tls: ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connect over this network instead of the machine's.
    pub fn net(mut self, net: Net) -> Self {
        self.net = net;
        self
    }

    /// Makes the client. Must be called within a tokio runtime; connects when first used.
    pub fn build(self) -> Result<Client, InvalidClient> {
        let deadline_ms = millis(self.deadline);
        Ok(Client { core: Arc::new(self.core()?), deadline_ms, age_ms: 0, reading: None })
    }

    /// Makes a client of the operators' services instead; the endpoints are the admin ports then.
    pub fn build_admin(mut self) -> Result<AdminClient, InvalidClient> {
        let deadline_ms = millis(self.deadline);
        // Hints name the ports of clients.
        self.follow_hints = false;
        self.silence = self.silence.max(SILENCE_ADMIN);
        Ok(AdminClient::new(Arc::new(self.core()?), deadline_ms))
    }

    fn core(self) -> Result<Core, InvalidClient> {
        let mut faults = Vec::new();
        let mut nodes = Vec::new();
        if self.endpoints.is_empty() || self.endpoints.len() > super::endpoints::CONFIGURED_MAX {
            faults.push(format!(
                "endpoints: {} were given, 1 to {} are accepted",
                self.endpoints.len(),
                super::endpoints::CONFIGURED_MAX
            ));
        }
        for text in &self.endpoints {
            match endpoint(text, self.connect, self.silence, self.tls.as_ref()) {
                Ok(endpoint) => nodes.push(endpoint),
                Err(why) => faults.push(format!("endpoint {text:?}: {why}")),
            }
        }
        if self.attempt > self.deadline && self.deadline < Duration::from_millis(1) {
            faults.push("deadline: at least 1 ms is accepted".into());
        }
        if !faults.is_empty() {
            return Err(InvalidClient { faults });
        }
        let (connect, silence, tls) = (self.connect, self.silence, self.tls);
        let make = move |uri: &str| endpoint(uri, connect, silence, tls.as_ref()).ok();
        let endpoints = Endpoints::new(nodes, self.follow_hints, Box::new(make), self.net);
        Ok(Core::new(self.clock, self.seed, endpoints, millis(self.attempt)))
    }
}

/// A node's endpoint with its deadlines: a connection to a dead machine ends with its silence.
fn endpoint(
    text: &str,
    connect: Duration,
    silence: Duration,
    tls: Option<&ClientTlsConfig>,
) -> Result<Endpoint, String> {
    const ACCEPTED: &str = "http://host:port is accepted";
    let uri = match (text.contains("://"), tls) {
        (true, _) => text.to_string(),
        (false, None) => format!("http://{text}"),
        (false, Some(_)) => format!("https://{text}"),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|e| format!("{e}; {ACCEPTED}"))?;
    let scheme = endpoint.uri().scheme_str().unwrap_or_default();
    if endpoint.uri().port_u16().is_none() || endpoint.uri().host().is_none_or(str::is_empty) {
        return Err(format!("has no host and port; {ACCEPTED}"));
    }
    if scheme != "http" && scheme != "https" {
        return Err(format!("speaks {scheme:?}; {ACCEPTED}"));
    }
    let endpoint = endpoint
        .connect_timeout(connect)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(10)))
        .http2_keep_alive_interval(silence / ASK_AFTER)
        .keep_alive_timeout(silence - silence / ASK_AFTER)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    match tls {
        Some(tls) => endpoint.tls_config(tls.clone()).map_err(|e| e.to_string()),
        None => Ok(endpoint),
    }
}
