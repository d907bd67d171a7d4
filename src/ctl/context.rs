//! What every command works with: where the cluster is, how to answer, the clock.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::connect::Connection;
use super::exit::Failure;
use super::{Global, Output};
use crate::client::{AdminClient, Builder, Client};
use crate::time::Clock;

/// The longest that one attempt of a call may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);

/// A command's surroundings.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) connection: Connection,
    pub(super) output: Output,
    pub(super) timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    /// The authority of the clients' endpoints, PEM.
    authority: Option<Vec<u8>>,
    seed: u64,
    clients_made: Arc<AtomicU64>,
}

impl Context {
    pub(super) fn new(global: Global, clock: Arc<dyn Clock>, seed: u64) -> Result<Self, Failure> {
        let (connection, output, timeout) = (global.endpoints, global.output, global.timeout);
        let read = |path: std::path::PathBuf| {
            std::fs::read(&path).map_err(|e| Failure::Usage(format!("--authority {}: {e}", path.display())))
        };
        let authority = global.authority.map(read).transpose()?;
        Ok(Self { connection, output, timeout, clock, authority, seed, clients_made: Arc::default() })
    }

    /// A builder of clients of these endpoints, over TLS where an authority is named.
    fn builder(&self, endpoints: &[String]) -> Builder {
        let builder = Client::builder(self.clock.clone(), self.seed());
        let Some(authority) = &self.authority else { return builder.endpoints(endpoints.to_vec()) };
        let secure = |endpoint: &String| match endpoint.strip_prefix("http://") {
            Some(address) => format!("https://{address}"),
            None => endpoint.clone(),
        };
        builder.endpoints(endpoints.iter().map(secure)).authority(authority)
    }

    /// The same, of another cluster.
    pub(super) fn at(&self, connection: Connection) -> Self {
        Self { connection, ..self.clone() }
    }

    /// A seed that was not given out before: two clients with one seed make the same request ids.
    pub(super) fn seed(&self) -> u64 {
        self.seed.wrapping_add(self.clients_made.fetch_add(1, Ordering::Relaxed))
    }

    /// How long one attempt may take: a node that hangs must leave time to ask another.
    fn attempt(&self) -> Duration {
        self.timeout.min(ATTEMPT_MAX)
    }

    /// A client of the cluster.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.client_of(&self.connection.client)
    }

    /// A client of these nodes, which learns the others.
    pub(super) fn client_of(&self, endpoints: &[String]) -> Result<Client, Failure> {
        if endpoints.is_empty() {
            return Err(Failure::Usage("--endpoints names no client endpoint: HOST:PORT,HOST:PORT is accepted".into()));
        }
        Ok(self.builder(endpoints).deadline(self.timeout).attempt(self.attempt()).build()?)
    }

    /// A client for each node, which asks that node only.
    pub(super) fn client_of_each(&self) -> Result<Vec<(String, Client)>, Failure> {
        let mut clients = Vec::new();
        for endpoint in &self.connection.client {
            let builder = self.builder(std::slice::from_ref(endpoint)).follow_hints(false);
            clients.push((endpoint.clone(), builder.deadline(self.timeout).attempt(self.attempt()).build()?));
        }
        Ok(clients)
    }

    /// A client of the operators' services.
    pub(super) fn admin(&self) -> Result<AdminClient, Failure> {
        if self.connection.admin.is_empty() {
            let message = "--endpoints names no admin endpoint: HOST:PORT,..;admin=HOST:PORT,.. is accepted";
            return Err(Failure::Usage(message.into()));
        }
        let builder = Client::builder(self.clock.clone(), self.seed()).endpoints(self.connection.admin.clone());
        Ok(builder.deadline(self.timeout).attempt(self.attempt()).build_admin()?)
    }

    /// Writes an answer to standard output: as JSON, or as the text that `table` makes.
    pub(super) fn answer(&self, value: &impl Serialize, table: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = match self.output {
            Output::Table => table(),
            Output::Json => serde_json::to_string_pretty(value).map_err(Failure::error)?,
        };
        match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
            // Whoever read it has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }

    /// Says something beside the answer, on standard error.
    pub(super) fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}
