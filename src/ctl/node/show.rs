//! `clusterctl node show`.

use comfy_table::Cell;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{ago, bare_table, bytes, judged, number, ranges, right, span, table, text};
use super::super::shard::{Replica, shards};
use super::{Node, ShowOptions};
use crate::proto::v1;
use crate::time::WallMs;

/// A node and its replicas.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    node: Node,
    /// Shards that it leads.
    leads: Vec<u32>,
    /// Its replicas, of whatever shard.
    holds: Vec<Held>,
}

/// One of its replicas.
#[derive(Debug, Serialize)]
struct Held {
    shard: u32,
    #[serde(flatten)]
    replica: Replica,
}

pub(super) async fn run(context: &Context, options: ShowOptions) -> Result<(), Failure> {
    let admin = context.admin()?;
    let status = context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?;
    let mut nodes: Vec<Node> = status.nodes.into_iter().map(Node::from).collect();
    let Some(at) = nodes.iter().position(|node| node.node == options.node) else {
        return Err(unknown(&options.node, &nodes));
    };
    let node = nodes.swap_remove(at);
    let shards = shards(context, None).await?;
    let leads = shards.iter().filter(|shard| shard.leader.as_deref() == Some(&node.node)).map(|s| s.shard).collect();
    let held = shards.into_iter().flat_map(|shard| shard.replicas.into_iter().map(move |r| (shard.shard, r)));
    let holds = held.filter(|(_, replica)| replica.node == node.node).map(|(shard, replica)| Held { shard, replica });
    let shown = Shown { holds: holds.collect(), leads, node };
    let verdict = verdict(&shown);
    context.show(context.screen(&shown, || tables(&shown, context.clock.wall()), verdict)?)
}

/// No node has this name.
pub(in super::super) fn unknown(name: &str, nodes: &[Node]) -> Failure {
    let known: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
    Failure::Usage(format!("there is no node {name:?}: {} are there", known.join(", ")))
}

fn verdict(shown: &Shown) -> Result<(), Failure> {
    let node = &shown.node;
    let troubled = shown.holds.iter().filter(|held| held.replica.is_troubled()).count();
    match (node.liveness, troubled) {
        ("alive", 0) if node.replicas >= node.replicas_wanted => Ok(()),
        ("alive", 0) => {
            let (have, want) = (node.replicas, node.replicas_wanted);
            Err(Failure::Degraded(format!("{} holds {have} of {want} replicas", node.node)))
        }
        ("alive", some) => Err(Failure::Degraded(format!("{some} replicas of {} do not follow", node.node))),
        (liveness, _) => Err(Failure::Degraded(format!("{} is {liveness}", node.node))),
    }
}

fn tables(shown: &Shown, now: WallMs) -> String {
    let node = &shown.node;
    let mut lines = bare_table();
    let mut line = |name: &str, cell: Cell| {
        lines.add_row([Cell::new(name), cell]);
    };
    line("node", Cell::new(format!("{} (number {})", node.node, node.node_id)));
    let seen = format!("{}, last pulse {}", node.liveness, ago(node.pulse_time.as_ref(), now));
    line("seen", judged(seen, node.liveness == "alive"));
    line("intent", Cell::new(format!("{}, weight {}, zone {}", node.intent, node.weight, node.zone)));
    let started = ago(node.start_time.as_ref(), now);
    line("started", Cell::new(format!("{started}, version {}, start {}", node.version, node.generation)));
    line("clients", Cell::new(&node.client_endpoint));
    line("operators", Cell::new(&node.admin_endpoint));
    line("other nodes", Cell::new(&node.node_endpoint));
    line("disk", Cell::new(format!("log {}, store {}", bytes(node.log_bytes), bytes(node.store_bytes))));
    line("active views", Cell::new(number(node.active_views)));
    let acknowledged = (number(node.commands_acknowledged), number(node.reports_acknowledged));
    line("commands acknowledged", Cell::new(format!("{}, {} of them reports", acknowledged.0, acknowledged.1)));
    let waiting = match node.hints_waiting {
        0 => "none waits".to_string(),
        some => format!("{} views wait, the oldest for {}", number(some), span(node.hints_oldest_ms)),
    };
    let lost = (node.hints_dropped, node.hints_damaged);
    let well = lost == (0, 0) && !node.hints_broken;
    let troubles = match well {
        true => String::new(),
        false if node.hints_broken => "; its disk takes none".into(),
        false => format!("; {} dropped, {} places unreadable", number(lost.0), number(lost.1)),
    };
    line("hints", judged(format!("{waiting}{troubles}"), well));
    let ms = |us: u64| format!("{:.1} ms", us as f64 / 1_000.0);
    let times = (node.command_p50_us, node.command_p99_us);
    line("commands took", Cell::new(format!("p50 {}, p99 {}, in the last 10 s", ms(times.0), ms(times.1))));
    let held = format!("{} of {} wanted", node.replicas, node.replicas_wanted);
    line("replicas", judged(held, node.replicas >= node.replicas_wanted));
    let mut roles = table(["ROLE", "REPLICAS", "MOST LAG", "SHARDS"]);
    right(&mut roles, &[1, 2]);
    let mut known: Vec<&str> = shown.holds.iter().map(|held| held.replica.role).collect();
    known.sort_unstable();
    known.dedup();
    for role in known {
        let of_role: Vec<&Held> = shown.holds.iter().filter(|held| held.replica.role == role).collect();
        roles.add_row([
            judged(role, of_role.iter().all(|held| !held.replica.is_troubled())),
            Cell::new(of_role.len()),
            Cell::new(number(of_role.iter().map(|held| held.replica.lag).max().unwrap_or_default())),
            Cell::new(super::super::text::wrapped(&ranges(of_role.iter().map(|held| held.shard)), 40).join("\n")),
        ]);
    }
    format!("{}\n\n{}", text(&mut lines), text(&mut roles))
}
