//! What the nodes say of themselves, and what the machine says of their processes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Cluster, Result};

pub const NODES: usize = 5;

/// Each node at a moment.
pub struct Seen {
    /// What the shards cost that it leads, requests a second.
    pub cost: [f64; NODES],
    /// Leads that were moved by it, wherever that was decided.
    pub moves: u64,
    requests: [f64; NODES],
    cpu_s: [f64; NODES],
}

fn less(after: &[f64; NODES], before: &[f64; NODES]) -> [f64; NODES] {
    std::array::from_fn(|node| (after[node] - before[node]).max(0.0))
}

impl Seen {
    pub async fn now(cluster: &mut Cluster) -> Result<Self> {
        let mut seen = Self { cost: [0.0; NODES], moves: 0, requests: [0.0; NODES], cpu_s: [0.0; NODES] };
        for (node, name) in cluster.local.names().iter().take(NODES).enumerate() {
            let metrics = scrape(&cluster.local.endpoints(name).ok_or("a node without endpoints")?.metrics).await?;
            let sum = |metric: &str| -> f64 {
                let lines = metrics.lines().filter(|line| line.starts_with(metric) && !line.starts_with('#'));
                lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
            };
            seen.cost[node] = sum("playhead_shard_cost{");
            seen.requests[node] = sum("playhead_shard_requests_total{");
            seen.moves += sum("playhead_heat_moves_total") as u64;
            seen.cpu_s[node] = cluster.local.pid(name).map_or(0.0, cpu_s);
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

async fn scrape(address: &str) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// User and system time of a process, seconds.
fn cpu_s(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may have blanks; the 12th and 13th fields behind it are user and system ticks.
    let behind = stat.rsplit(')').next().unwrap_or_default().to_string();
    // Linux shows ticks of 10 ms to user space, whatever the kernel counts in.
    let fields: Vec<f64> = behind.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    fields.get(11).zip(fields.get(12)).map_or(0.0, |(user, system)| (user + system) / 100.0)
}
