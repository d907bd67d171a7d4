//! What the node processes use.

use crate::support::Cluster;
use crate::support::process::pids;

/// User and system CPU of all nodes, us.
pub fn cpu_us(cluster: &mut Cluster) -> u64 {
    let of = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may have blanks; the 12th and 13th fields behind it are user and system ticks.
        let behind = stat.rsplit(')').next().unwrap_or_default().to_string();
        let fields: Vec<u64> = behind.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        fields.get(11).zip(fields.get(12)).map_or(0, |(user, system)| user + system)
    };
    // Linux shows ticks of 10 ms to user space, whatever the kernel counts in.
    pids(cluster).into_iter().map(of).sum::<u64>() * 10_000
}
