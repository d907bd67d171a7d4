//! What the nodes count, over their deaths: looked at four times a second and added up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::support::Cluster;
use crate::support::process;

const LOOK: Duration = Duration::from_millis(250);
/// Bytes of snapshots that came, and of those that were taken over whole.
const NAMES: [&str; 2] = ["playhead_snapshot_bytes_received_total", "playhead_snapshot_bytes_taken_total"];

/// Sums of counters over all nodes.
#[derive(Clone, Default)]
pub(crate) struct Counted(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Where each node tells.
    nodes: Mutex<BTreeMap<String, String>>,
    last: Mutex<BTreeMap<(String, usize), u64>>,
    sums: [AtomicU64; NAMES.len()],
}

/// Counts until it is ended.
pub(crate) struct Watch {
    of: Counted,
    begun: [u64; NAMES.len()],
    task: JoinHandle<()>,
}

impl Counted {
    /// From now on.
    pub(crate) async fn begin(&self, cluster: &Cluster) -> Watch {
        *self.0.nodes.lock() = cluster.local.names().iter().filter_map(|name| endpoint(cluster, name)).collect();
        self.look().await;
        let of = self.clone();
        let task = tokio::spawn({
            let of = of.clone();
            async move {
                loop {
                    tokio::time::sleep(LOOK).await;
                    of.look().await;
                }
            }
        });
        Watch { begun: self.sums(), of, task }
    }

    fn sums(&self) -> [u64; NAMES.len()] {
        self.0.sums.each_ref().map(|sum| sum.load(Ordering::Relaxed))
    }

    /// One that can't be asked has counted nothing since.
    async fn look(&self) {
        let nodes = self.0.nodes.lock().clone();
        for (node, address) in nodes {
            let Ok(text) = process::metrics(&address).await else { continue };
            for (number, name) in NAMES.iter().enumerate() {
                let now = process::sum(&text, name) as u64;
                let last = self.0.last.lock().insert((node.clone(), number), now);
                // A process that began anew counts from zero.
                let more = now.checked_sub(last.unwrap_or(0)).unwrap_or(now);
                self.0.sums[number].fetch_add(more, Ordering::Relaxed);
            }
        }
    }
}

impl Watch {
    /// This node, too.
    pub(crate) fn with(self, cluster: &Cluster, node: &str) -> Self {
        self.of.0.nodes.lock().extend(endpoint(cluster, node));
        self
    }

    /// Bytes that came, and of those that were taken over.
    pub(crate) async fn end(self) -> (u64, u64) {
        self.task.abort();
        self.of.look().await;
        let [moved, taken] = self.of.sums();
        (moved - self.begun[0], taken - self.begun[1])
    }
}

fn endpoint(cluster: &Cluster, name: &str) -> Option<(String, String)> {
    Some((name.to_string(), cluster.local.endpoints(name)?.metrics.clone()))
}
