//! What the node processes use.

use crate::support::Cluster;

fn pids(cluster: &mut Cluster) -> Vec<i32> {
    cluster.local.names().iter().filter_map(|name| cluster.local.pid(name)).collect()
}

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

/// Forgets how much memory the nodes had at most.
pub fn reset_peaks(cluster: &mut Cluster) {
    for pid in pids(cluster) {
        // Where that isn't allowed the peak is the one since the node began.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

/// Resident memory of all nodes at most, bytes.
pub fn peak_bytes(cluster: &mut Cluster) -> u64 {
    let of = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().to_string();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    pids(cluster).into_iter().map(of).sum()
}
