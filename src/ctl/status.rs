//! `clusterctl status`.

use std::time::Duration;

use clap::Args;
use comfy_table::Cell;
use serde::Serialize;

use super::context::{Context, Screen};
use super::exit::Failure;
use super::output::{bare_table, judged, number, span, text};
use super::text::plain;
use super::{node, watch};
use crate::proto::v1;

/// How often it is looked while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Wait until every shard is led and every replica follows, at most as long as --timeout
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    #[command(flatten)]
    repeat: watch::Repeat,
}

/// So many nodes with hints are named.
const NODES_NAMED: usize = 5;

/// The cluster in a few numbers.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Status {
    pub(super) cluster_id: String,
    pub(super) epoch: u64,
    pub(super) cluster_version: u32,
    pub(super) shards: u32,
    pub(super) shards_led: u32,
    pub(super) replicas_wanted: u32,
    pub(super) replicas_current: u32,
    pub(super) replication_factor: u32,
    pub(super) active_views: u64,
    pub(super) reports_acknowledged: u64,
    pub(super) commands_acknowledged: u64,
    pub(super) meta_leader: String,
    pub(super) meta_term: u64,
    pub(super) answered_by: String,
    pub(super) healthy: bool,
    pub(super) nodes: Vec<node::Node>,
}

impl From<v1::GetClusterStatusResponse> for Status {
    fn from(answer: v1::GetClusterStatusResponse) -> Self {
        let cluster = answer.cluster.unwrap_or_default();
        let mut status = Self {
            cluster_id: plain(&cluster.cluster_id),
            epoch: cluster.epoch,
            cluster_version: cluster.cluster_version,
            shards: cluster.shards,
            shards_led: cluster.shards_led,
            replicas_wanted: cluster.replicas_wanted,
            replicas_current: cluster.replicas_current,
            replication_factor: cluster.replication_factor,
            active_views: cluster.active_views,
            reports_acknowledged: answer.nodes.iter().map(|n| n.reports_acknowledged).sum(),
            commands_acknowledged: answer.nodes.iter().map(|n| n.commands_acknowledged).sum(),
            meta_leader: plain(&cluster.meta_leader),
            meta_term: cluster.meta_term,
            answered_by: plain(&answer.answered_by),
            healthy: false,
            nodes: answer.nodes.into_iter().map(node::Node::from).collect(),
        };
        status.healthy = status.complaints().is_empty();
        status
    }
}

impl Status {
    /// What is not as it should be.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.cluster_id.is_empty() {
            complaints.push("there is no cluster yet: make one with `clusterctl bootstrap`".to_string());
            return complaints;
        }
        if self.shards_led < self.shards {
            complaints.push(format!("{} of {} shards have no leader", self.shards - self.shards_led, self.shards));
        }
        if self.replicas_current < self.replicas_wanted {
            let missing = self.replicas_wanted - self.replicas_current;
            complaints.push(format!("{missing} of {} replicas do not follow", self.replicas_wanted));
        }
        if self.meta_leader.is_empty() {
            complaints.push("the meta group has no leader".to_string());
        }
        let wanted = self.nodes.iter().filter(|node| node.intent != "removed");
        let silent: Vec<&str> = wanted.filter(|node| node.liveness != "alive").map(|node| node.node.as_str()).collect();
        if !silent.is_empty() {
            complaints.push(format!("not alive: {}", silent.join(", ")));
        }
        let full: Vec<&str> = self.nodes.iter().filter(|node| node.disk_full).map(|node| node.node.as_str()).collect();
        if !full.is_empty() {
            complaints.push(format!("out of disk space: {}", full.join(", ")));
        }
        complaints
    }

    /// The lines above the nodes.
    pub(super) fn summary(&self) -> String {
        let mut lines = bare_table();
        let well = |n: u32, of: u32| judged(format!("{n} of {of}"), n == of && of > 0);
        let id: String = self.cluster_id.chars().take(36).collect();
        lines.add_row([Cell::new("cluster"), Cell::new(format!("{id}  epoch {}", self.epoch))]);
        lines.add_row([Cell::new("shards led"), well(self.shards_led, self.shards)]);
        lines.add_row([Cell::new("replicas following"), well(self.replicas_current, self.replicas_wanted)]);
        let leader = if self.meta_leader.is_empty() { "none" } else { &self.meta_leader };
        lines.add_row([Cell::new("meta leader"), judged(leader, !self.meta_leader.is_empty())]);
        lines.add_row([Cell::new("active views"), Cell::new(number(self.active_views))]);
        lines.add_row([Cell::new("commands acknowledged"), Cell::new(number(self.commands_acknowledged))]);
        let waiting: Vec<&node::Node> = self.nodes.iter().filter(|node| node.hints_waiting > 0).collect();
        if let Some(oldest_ms) = waiting.iter().map(|node| node.hints_oldest_ms).max() {
            let of = waiting.iter().map(|node| format!("{} on {}", number(node.hints_waiting), node.node));
            let of: Vec<String> = of.take(NODES_NAMED).collect();
            let what = format!("{}; the oldest for {}", of.join(", "), span(oldest_ms));
            lines.add_row([Cell::new("views with hints"), Cell::new(what)]);
        }
        text(&mut lines)
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    watch::run(context, &options.repeat, async |context: &Context| look(context, options.wait).await).await
}

async fn look(context: &Context, wait: bool) -> Result<Screen, Failure> {
    let admin = context.admin()?;
    let status = loop {
        let status = Status::from(context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?);
        // What is asked for after the end would be told as nobody's answer.
        if status.healthy || !wait || context.left() <= LOOK_EVERY * 2 {
            break status;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let now = context.clock.wall();
    let verdict = match status.complaints() {
        none if none.is_empty() => Ok(()),
        complaints => Err(Failure::Degraded(complaints.join("; "))),
    };
    let table = || format!("{}\n\n{}", status.summary(), text(&mut node::table_of(&status.nodes, now)));
    context.screen(&status, table, verdict)
}
