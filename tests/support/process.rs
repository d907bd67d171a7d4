//! What node processes count and use.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Cluster, Result};

/// All metrics of the node that tells them at this address.
pub async fn metrics(address: &str) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// The sum of a metric over its labels.
pub fn sum(metrics: &str, name: &str) -> f64 {
    let of_name = metrics.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
    of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

pub fn pids(cluster: &mut Cluster) -> Vec<i32> {
    cluster.local.names().iter().filter_map(|name| cluster.local.pid(name)).collect()
}

/// User and system CPU of a process, us.
pub fn cpu_us(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may have blanks; the 12th and 13th fields behind it are user and system ticks.
    let behind = stat.rsplit(')').next().unwrap_or_default().to_string();
    let fields: Vec<u64> = behind.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // Linux shows ticks of 10 ms to user space, whatever the kernel counts in.
    fields.get(11).zip(fields.get(12)).map_or(0, |(user, system)| user + system) * 10_000
}

/// Forgets how much memory the nodes had at most.
pub fn reset_peaks(cluster: &mut Cluster) {
    for pid in pids(cluster) {
        // Where that isn't allowed the peak is the one since the node began.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

/// Resident memory of each node at most, bytes.
pub fn peaks(cluster: &mut Cluster) -> Vec<u64> {
    let of = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().to_string();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    pids(cluster).into_iter().map(of).collect()
}
