//! What the nodes say of themselves, and what the machine says of their processes.

use crate::support::process::{cpu_us, metrics, sum};
use crate::support::{Cluster, Result};

pub const NODES: usize = 5;

/// Each node at a moment.
pub struct Seen {
    /// What the shards cost that it leads, requests a second.
    pub cost: [f64; NODES],
    /// Leads that were moved by it, wherever that was decided.
    pub moves: u64,
    /// Active views of all shards.
    pub views: u64,
    requests: [f64; NODES],
    cpu_s: [f64; NODES],
}

fn less(after: &[f64; NODES], before: &[f64; NODES]) -> [f64; NODES] {
    std::array::from_fn(|node| (after[node] - before[node]).max(0.0))
}

impl Seen {
    pub async fn now(cluster: &mut Cluster) -> Result<Self> {
        let mut seen = Self { cost: [0.0; NODES], moves: 0, views: 0, requests: [0.0; NODES], cpu_s: [0.0; NODES] };
        for (node, name) in cluster.local.names().iter().take(NODES).enumerate() {
            let told = metrics(&cluster.local.endpoints(name).ok_or("a node without endpoints")?.metrics).await?;
            seen.cost[node] = sum(&told, "playhead_shard_cost");
            seen.requests[node] = sum(&told, "playhead_shard_requests_total");
            seen.views += sum(&told, "playhead_shard_active_views") as u64;
            seen.moves += sum(&told, "playhead_heat_moves_total") as u64;
            seen.cpu_s[node] = cluster.local.pid(name).map_or(0.0, |pid| cpu_us(pid) as f64 / 1e6);
        }
        Ok(seen)
    }

    /// Requests served of the shards that each node led.
    pub fn requests_since(&self, before: &Self) -> [f64; NODES] {
        less(&self.requests, &before.requests)
    }

    /// Seconds of processors.
    pub fn cpu_since(&self, before: &Self) -> [f64; NODES] {
        less(&self.cpu_s, &before.cpu_s)
    }
}

/// The most beside the mean.
pub fn peak(loads: &[f64; NODES]) -> f64 {
    let sum: f64 = loads.iter().sum();
    if sum > 0.0 { loads.iter().copied().fold(0.0, f64::max) * NODES as f64 / sum } else { 0.0 }
}
