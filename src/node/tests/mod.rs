//! Whole nodes in this process, one at a time: what is promised of a node and needs no others.

mod alone;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::bootstrap::Wishes;
use super::config::{Config, Sources, load};
use super::router::Call;
use super::{Node, Seeds, Started};
use crate::ambient::SystemClock;
use crate::ids::AccountId;
use crate::telemetry::trace::TraceId;
use crate::view::{AccountCommand, Command, Envelope, StreamPolicy};

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

pub(in crate::node) fn config(data: &Path, more: &[(&str, &str)]) -> Config {
    let anywhere = ["listen-client", "listen-link", "listen-admin", "listen-metrics"].map(|name| (name, "127.0.0.1:0"));
    let mut flags: BTreeMap<String, String> =
        anywhere.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string())).collect();
    flags.insert("data-dir".to_string(), data.to_string_lossy().into_owned());
    load(&Sources { flags, ..Sources::default() }).unwrap()
}

pub(in crate::node) async fn start(config: Config) -> Node {
    let clock = Arc::new(SystemClock::new());
    let Started { node, .. } = Node::start(config, clock, Seeds { node: 7 << 32, jitter: 7 }).await.unwrap();
    node
}

pub(in crate::node) fn call(node: &Node, ms: u64) -> Call {
    Call { trace: TraceId::from_random(1), deadline: node.clock().monotonic().plus(ms) }
}

/// A cluster of one node, with a leader in each of its four shards.
pub(in crate::node) async fn alone(data: &Path) -> Node {
    let node = start(config(data, &[])).await;
    let wishes = Wishes { shards: 4, replication: 1, addresses: Vec::new(), random: (1, 2) };
    node.bootstrap(wishes, &call(&node, 60_000)).await.unwrap();
    until("every group led", || node.shards().led().len() == 5).await;
    node
}

/// Looks until it is so.
pub(in crate::node) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "{what}: not seen");
}

/// A command that isn't idempotent by itself, without a request id.
pub(in crate::node) fn limit_of(account: &str) -> Envelope {
    let account = AccountId::new(account).unwrap();
    let command = AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(3));
    Envelope::plain(Command::Account(account, command))
}
