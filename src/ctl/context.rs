//! What every command works with: where the cluster is, how to answer, how long it may take, the clock.

use std::future::Future;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::connect::Connection;
use super::exit::Failure;
use super::{Global, Output, output, text};
use crate::client::{self, AdminClient, Builder, Client};
use crate::proto::v1;
use crate::time::{Clock, MonotonicMs};

/// The longest that one node may take to answer an operator's call before another one is asked.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);

/// How much later than a call's own deadline a reading is ended.
const GRACE: Duration = Duration::from_millis(250);

/// A command's surroundings.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) connection: Connection,
    pub(super) output: Output,
    pub(super) timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    /// The authority of the clients' endpoints, PEM.
    authority: Option<Vec<u8>>,
    /// What changes something is done without asking.
    pub(super) yes: bool,
    /// A JSON document takes one line.
    one_line: bool,
    /// When `timeout` has passed since the command began.
    end: MonotonicMs,
    seed: u64,
    clients_made: Arc<AtomicU64>,
}

/// An answer, written out, and how the cluster is by it.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) text: String,
    pub(super) verdict: Result<(), Failure>,
}

impl Context {
    pub(super) fn new(global: Global, clock: Arc<dyn Clock>, seed: u64) -> Result<Self, Failure> {
        let (connection, output, timeout, yes) = (global.endpoints, global.output, global.timeout, global.yes);
        let read = |path: std::path::PathBuf| {
            std::fs::read(&path).map_err(|e| Failure::Usage(format!("--authority {}: {e}", path.display())))
        };
        let authority = global.authority.map(read).transpose()?;
        let (end, clients_made) = (end(&*clock, timeout), Arc::default());
        Ok(Self { connection, output, timeout, clock, authority, yes, one_line: false, end, seed, clients_made })
    }

    /// A builder of clients of these endpoints, over TLS where an authority is named.
    fn builder(&self, endpoints: &[String]) -> Result<Builder, Failure> {
        if endpoints.is_empty() {
            return Err(Failure::Usage("--endpoints names no client endpoint: HOST:PORT,HOST:PORT is accepted".into()));
        }
        let builder = Client::builder(self.clock.clone(), self.seed()).deadline(self.timeout);
        let Some(authority) = &self.authority else { return Ok(builder.endpoints(endpoints.to_vec())) };
        let secure = |endpoint: &String| match endpoint.strip_prefix("http://") {
            Some(address) => format!("https://{address}"),
            None => endpoint.clone(),
        };
        Ok(builder.endpoints(endpoints.iter().map(secure)).authority(authority))
    }

    /// The same, of another cluster.
    pub(super) fn at(&self, connection: Connection) -> Self {
        Self { connection, ..self.again() }
    }

    /// The same, with the whole of `--timeout` left.
    pub(super) fn again(&self) -> Self {
        Self { end: end(&*self.clock, self.timeout), ..self.clone() }
    }

    /// The same, for one of many answers: with the whole of `--timeout` left, and JSON documents of one line each.
    pub(super) fn one_of_many(&self) -> Self {
        Self { one_line: true, ..self.again() }
    }

    /// What is left of `--timeout`; at least a millisecond, so that what is asked too late ends as what takes too long.
    pub(super) fn left(&self) -> Duration {
        Duration::from_millis(self.end.since(self.clock.monotonic()).max(1))
    }

    /// Does what only reads, and ends it with what is left of `--timeout`, however many calls it takes.
    pub(super) async fn read<T>(&self, reading: impl Future<Output = Result<T, client::Error>>) -> Result<T, Failure> {
        // A call ends by itself at that time, and knows more of why: it goes first.
        match tokio::time::timeout(self.left() + GRACE, reading).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::Unreachable(format!("no answer within {}", output::span_of(self.timeout)))),
        }
    }

    /// A seed that was not given out before: two clients with one seed make the same request ids.
    pub(super) fn seed(&self) -> u64 {
        self.seed.wrapping_add(self.clients_made.fetch_add(1, Ordering::Relaxed))
    }

    /// How long one attempt may take: a node that hangs must leave time to ask another.
    fn attempt(&self) -> Duration {
        self.timeout.min(ATTEMPT_MAX)
    }

    /// A client of the cluster for long work: each call may take as long as `--timeout`.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(self.builder(&self.connection.client)?.attempt(self.attempt()).build()?)
    }

    /// A client of the cluster for devices with this patience, of which one node that hangs takes no more than `attempt`.
    pub(super) fn device(&self, patience: Duration, attempt: Duration) -> Result<Client, Failure> {
        Ok(self.builder(&self.connection.client)?.deadline(patience).attempt(attempt).build()?)
    }

    /// A client of the cluster for short questions: what is left of `--timeout` is shared out among the nodes, so that one that
    /// hangs does not eat it up.
    pub(super) fn asking(&self) -> Result<Client, Failure> {
        let (builder, left) = (self.builder(&self.connection.client)?, self.left());
        Ok(builder.deadline(left).attempt(share(left, self.connection.client.len())).build()?)
    }

    /// A client for each node, which asks that node only.
    pub(super) fn client_of_each(&self) -> Result<Vec<(String, Client)>, Failure> {
        let mut clients = Vec::new();
        for endpoint in &self.connection.client {
            let builder = self.builder(std::slice::from_ref(endpoint))?.follow_hints(false);
            clients.push((endpoint.clone(), builder.attempt(self.attempt()).build()?));
        }
        Ok(clients)
    }

    /// A client of the operators' services.
    pub(super) fn admin(&self) -> Result<AdminClient, Failure> {
        let builder = self.admin_builder(&self.connection.admin)?;
        Ok(builder.attempt(share(self.timeout, self.connection.admin.len())).build_admin()?)
    }

    /// A client of the operators' services for what takes its time and must not be asked twice: of one node that is known to
    /// answer, because a change that is sent to a node that hangs has an outcome that nobody knows.
    pub(super) async fn patient_admin(&self) -> Result<AdminClient, Failure> {
        let endpoints = &self.connection.admin;
        if endpoints.len() > 1 {
            for endpoint in endpoints {
                let one = self.admin_of(endpoint, share(self.left(), endpoints.len()))?;
                if one.get_cluster_status(v1::GetClusterStatusRequest {}).await.is_ok() {
                    return self.admin_of(endpoint, self.left());
                }
            }
        }
        let left = self.left();
        Ok(self.admin_builder(endpoints)?.deadline(left).attempt(left).build_admin()?)
    }

    /// A client of one node's services for operators, which answers or fails within `patience`.
    pub(super) fn admin_of(&self, endpoint: &str, patience: Duration) -> Result<AdminClient, Failure> {
        let builder = self.admin_builder(&[endpoint.to_string()])?;
        Ok(builder.deadline(patience).attempt(patience).connect(patience).build_admin()?)
    }

    /// A builder of clients of these endpoints for operators.
    fn admin_builder(&self, endpoints: &[String]) -> Result<Builder, Failure> {
        if endpoints.is_empty() {
            let message = "--endpoints names no admin endpoint: HOST:PORT,..;admin=HOST:PORT,.. is accepted";
            return Err(Failure::Usage(message.into()));
        }
        Ok(Client::builder(self.clock.clone(), self.seed()).endpoints(endpoints.to_vec()).deadline(self.timeout))
    }

    /// Writes an answer to standard output: as JSON, or as the text that `table` makes.
    pub(super) fn answer(&self, value: &impl Serialize, table: impl FnOnce() -> String) -> Result<(), Failure> {
        self.show(self.screen(value, table, Ok(()))?)
    }

    /// An answer as it is to be written, and how the cluster is by it.
    pub(super) fn screen(
        &self,
        value: &impl Serialize,
        table: impl FnOnce() -> String,
        verdict: Result<(), Failure>,
    ) -> Result<Screen, Failure> {
        let text = match self.output {
            Output::Table => text::harmless(table().trim_end()),
            Output::Json if self.one_line => text::escaped(&serde_json::to_string(value).map_err(Failure::error)?),
            Output::Json => text::escaped(&serde_json::to_string_pretty(value).map_err(Failure::error)?),
        };
        Ok(Screen { text, verdict })
    }

    /// Writes an answer to standard output; how the cluster is by it.
    pub(super) fn show(&self, screen: Screen) -> Result<(), Failure> {
        self.print(&screen.text)?;
        screen.verdict
    }

    /// Writes a text to standard output; whether anybody reads on.
    pub(super) fn print(&self, text: &str) -> Result<bool, Failure> {
        match writeln!(io::stdout().lock(), "{text}") {
            // Whoever read it has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true).map_err(Failure::from),
        }
    }

    /// Says something beside the answer, on standard error.
    pub(super) fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{}", text::harmless(text));
    }
}

fn end(clock: &dyn Clock, timeout: Duration) -> MonotonicMs {
    clock.monotonic().plus(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}

/// How long one of `nodes` nodes may take, so that another can be asked after it.
fn share(whole: Duration, nodes: usize) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
    (whole / nodes).clamp(Duration::from_millis(1), ATTEMPT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_that_hangs_leaves_time_for_the_others() {
        assert_eq!(share(Duration::from_secs(10), 3), ATTEMPT_MAX);
        assert_eq!(share(Duration::from_millis(900), 3), Duration::from_millis(300));
        assert_eq!(share(Duration::from_millis(1), 64), Duration::from_millis(1));
    }
}
