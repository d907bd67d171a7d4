//! `clusterctl node`.

mod add;
mod drain;
mod forget;
mod give_up;
mod hand_over;
mod list;
mod remove;
mod replace;
mod restart;
mod show;
mod update;

use clap::{Args, Subcommand};
use comfy_table::Table;
use prost_types::Timestamp;
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::output::{ago, bytes, judged, number, rfc3339, right, table};
use super::text::plain;
use super::watch;
use crate::proto::v1;
use crate::time::WallMs;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// All nodes: where they are, what they hold
    List(watch::Repeat),
    /// One node: where it is, what it leads and holds
    Show(ShowOptions),
    /// Let a node into the cluster: it gets its share of the shards
    Add(add::Options),
    /// Empty a node, so that it can be switched off and removed
    Drain(drain::Options),
    /// Take a node out for good: one that holds nothing, or a dead one
    Remove(remove::Options),
    /// Let a node in for one that is dead for good
    Replace(replace::Options),
    /// Give a dead node up now: its replicas are made anew elsewhere
    GiveUp(give_up::Options),
    /// Change a node's zone or weight, or hold it when it is dead
    Update(update::Options),
    /// List a removed node no more
    Forget(forget::Options),
    /// Give a node's leads to others and keep it without for a while: for work on its machine
    HandOver(hand_over::Options),
    /// Restart nodes, one after the other, each only when all is well before, and waiting until it is again
    RestartSafe(restart::Options),
}

#[derive(Debug, Args)]
pub(super) struct ShowOptions {
    /// The node's name
    #[arg(value_name = "NAME", value_parser = node_name)]
    node: String,
}

/// A node's name: 1 to 128 bytes without control characters.
pub(super) fn node_name(text: &str) -> Result<String, String> {
    let fits = (1..=128).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_string()).ok_or_else(|| "1 to 128 bytes without control characters are accepted".into())
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(repeat) => list::run(context, &repeat).await,
        Command::Show(options) => show::run(context, options).await,
        Command::Add(options) => add::run(context, options).await,
        Command::Drain(options) => drain::run(context, options).await,
        Command::Remove(options) => remove::run(context, options).await,
        Command::Replace(options) => replace::run(context, options).await,
        Command::GiveUp(options) => give_up::run(context, options).await,
        Command::Update(options) => update::run(context, options).await,
        Command::Forget(options) => forget::run(context, options).await,
        Command::HandOver(options) => hand_over::run(context, options).await,
        Command::RestartSafe(options) => restart::run(context, options).await,
    }
}

/// One node, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Node {
    pub(super) node: String,
    pub(super) node_id: u64,
    pub(super) intent: &'static str,
    pub(super) liveness: &'static str,
    pub(super) client_endpoint: String,
    pub(super) admin_endpoint: String,
    pub(super) node_endpoint: String,
    pub(super) zone: String,
    pub(super) weight: u32,
    pub(super) generation: u64,
    pub(super) version: String,
    pub(super) shards_led: u32,
    pub(super) replicas: u32,
    pub(super) replicas_wanted: u32,
    pub(super) active_views: u64,
    pub(super) log_bytes: u64,
    pub(super) store_bytes: u64,
    pub(super) reports_acknowledged: u64,
    pub(super) commands_acknowledged: u64,
    pub(super) disk_full: bool,
    pub(super) command_p50_us: u64,
    pub(super) command_p99_us: u64,
    /// Views whose reports or starts it has accepted, and not yet handed off.
    pub(super) hints_waiting: u64,
    pub(super) hints_oldest_ms: u64,
    pub(super) hints_damaged: u64,
    pub(super) hints_dropped: u64,
    /// Its disk takes none.
    pub(super) hints_broken: bool,
    /// It gives its leads away and takes none.
    pub(super) without_leads: bool,
    #[serde(serialize_with = "rfc3339")]
    pub(super) report_time: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    pub(super) pulse_time: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    pub(super) start_time: Option<Timestamp>,
}

impl From<v1::NodeStatus> for Node {
    fn from(node: v1::NodeStatus) -> Self {
        let (intent, liveness) = (intent(node.intent()), liveness(node.liveness()));
        Self {
            node: plain(&node.node),
            node_id: node.node_id,
            intent,
            liveness,
            client_endpoint: plain(&node.client_endpoint),
            admin_endpoint: plain(&node.admin_endpoint),
            node_endpoint: plain(&node.node_endpoint),
            zone: plain(&node.zone),
            weight: node.weight,
            generation: node.generation,
            version: plain(&node.version),
            shards_led: node.shards_led,
            replicas: node.replicas,
            replicas_wanted: node.replicas_wanted,
            active_views: node.active_views,
            log_bytes: node.log_bytes,
            store_bytes: node.store_bytes,
            reports_acknowledged: node.reports_acknowledged,
            commands_acknowledged: node.commands_acknowledged,
            disk_full: node.disk_full,
            command_p50_us: node.command_p50_us,
            command_p99_us: node.command_p99_us,
            hints_waiting: node.hints_waiting,
            hints_oldest_ms: u64::try_from(node.hints_oldest_ms).unwrap_or_default(),
            hints_damaged: node.hints_damaged,
            hints_dropped: node.hints_dropped,
            hints_broken: node.hints_broken,
            without_leads: node.without_leads,
            report_time: node.report_time,
            pulse_time: node.pulse_time,
            start_time: node.start_time,
        }
    }
}

fn intent(intent: v1::NodeIntent) -> &'static str {
    match intent {
        v1::NodeIntent::Unspecified => "unknown",
        v1::NodeIntent::Joining => "joining",
        v1::NodeIntent::Active => "active",
        v1::NodeIntent::Draining => "draining",
        v1::NodeIntent::Removed => "removed",
    }
}

pub(super) fn liveness(liveness: v1::NodeLiveness) -> &'static str {
    match liveness {
        v1::NodeLiveness::Unspecified => "unheard",
        v1::NodeLiveness::Alive => "alive",
        v1::NodeLiveness::Suspect => "suspect",
        v1::NodeLiveness::Dead => "dead",
    }
}

/// What nodes do, as a table.
pub(super) fn table_of(nodes: &[Node], now: WallMs) -> Table {
    let mut table = table(["NODE", "SEEN", "LEADS", "REPLICAS", "VIEWS", "LOG", "STORE", "PULSE"]);
    right(&mut table, &[2, 3, 4]);
    for node in nodes {
        table.add_row([
            node.node.clone().into(),
            match node.liveness {
                "alive" if node.disk_full => judged("disk full", false),
                "alive" if node.without_leads => "no leads".into(),
                liveness => judged(liveness, liveness == "alive"),
            },
            // What a node that is silent said last holds no longer.
            if node.liveness == "alive" { node.shards_led.to_string() } else { "-".to_string() }.into(),
            judged(format!("{}/{}", node.replicas, node.replicas_wanted), node.replicas >= node.replicas_wanted),
            if node.liveness == "alive" { number(node.active_views) } else { "-".to_string() }.into(),
            bytes(node.log_bytes).into(),
            bytes(node.store_bytes).into(),
            ago(node.pulse_time.as_ref(), now).into(),
        ]);
    }
    table
}
