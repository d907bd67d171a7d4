//! Cutting a node off from the other nodes, and from nobody else: the firewall drops what the link's connections carry.

use std::collections::HashSet;
use std::process::Command;

use crate::support::{Cluster, Result};

/// A cut; healed when it is dropped.
pub(crate) struct Cut {
    rules: Vec<Vec<String>>,
}

impl Cut {
    /// Drops all that `node` and the others say to each other on the link. Connections that the node makes afterwards get through:
    /// it notices that its lanes are dead only seconds later.
    pub(crate) fn make(cluster: &mut Cluster, node: &str) -> Result<Self> {
        let link = |name: &str| -> Result<u16> {
            let endpoints = cluster.local.endpoints(name).ok_or("the node has no endpoints")?;
            Ok(endpoints.link.rsplit(':').next().unwrap_or_default().parse()?)
        };
        let own = link(node)?;
        let names = cluster.local.names();
        let others =
            names.iter().filter(|name| *name != node).map(|name| link(name)).collect::<Result<HashSet<u16>>>()?;
        let pid = cluster.local.pid(node).ok_or("the node doesn't run")?;
        let mut ports = vec![own];
        ports.extend(ports_to(pid, &others)?);
        let mut cut = Self { rules: Vec::new() };
        for port in ports {
            for side in ["--dport", "--sport"] {
                let rule = ["OUTPUT", "-o", "lo", "-p", "tcp", side, &port.to_string(), "-j", "DROP"];
                let rule: Vec<String> = rule.map(String::from).to_vec();
                if !iptables("-I", &rule)? {
                    return Err("the firewall can't be changed: this needs root and iptables".into());
                }
                cut.rules.push(rule);
            }
        }
        Ok(cut)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for rule in &self.rules {
            if !iptables("-D", rule).unwrap_or(false) {
                eprintln!("a rule of the firewall stays: {}", rule.join(" "));
            }
        }
    }
}

fn iptables(verb: &str, rule: &[String]) -> Result<bool> {
    Ok(Command::new("iptables").arg("-w").arg(verb).args(rule).status()?.success())
}

/// The local ports of the process's connections to one of `ports`.
fn ports_to(pid: i32, ports: &HashSet<u16>) -> Result<Vec<u16>> {
    let mut sockets = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let target = std::fs::read_link(entry?.path()).unwrap_or_default();
        let name = target.to_string_lossy().into_owned();
        if let Some(inode) = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            sockets.insert(inode.to_string());
        }
    }
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let port = |address: &str| address.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_its = sockets.contains(*fields.get(9)?) && ports.contains(&port(fields.get(2)?)?);
        is_its.then(|| port(fields[1]))?
    };
    Ok(table.lines().filter_map(of_line).collect())
}
