//! What two looks tell together: rates, what has happened, what is moving.
//!
//! What the answering node knows of others is up to a second old and comes with the time at which it was told. Rates are taken
//! between those times, not between the looks: otherwise they would jump by half. They are hearsay of one node by its own clock,
//! so they begin anew when another node answers.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::super::exit::Failure;
use super::super::node::Node;
use super::super::output::{clock_time, ranges, wall};
use super::super::shard::{Replica, SILENT, Shard};
use super::Look;
use crate::time::WallMs;

/// Happenings that are remembered.
const HAPPENINGS_MAX: usize = 50;

/// What is shown.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Top {
    /// When, UTC: `18:04:05`.
    pub(super) time: String,
    /// Why the last look told nothing, if it did not: then the rest is older.
    pub(super) missed: Option<String>,
    pub(super) answered_by: String,
    pub(super) epoch: u64,
    pub(super) shards: u32,
    pub(super) shards_led: u32,
    pub(super) replicas_wanted: u32,
    pub(super) replicas_current: u32,
    pub(super) active_views: u64,
    pub(super) meta_leader: String,
    pub(super) meta_term: u64,
    /// Of all nodes together; null until there are two looks.
    pub(super) reports_per_second: Option<f64>,
    pub(super) commands_per_second: Option<f64>,
    /// The rate of a node that lives is not known yet: it is missing in the sums.
    pub(super) rates_partial: bool,
    /// Of the slowest node.
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) complaints: Vec<String>,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) heat: Vec<ShardRow>,
    pub(super) moving: Vec<String>,
    /// The newest first.
    pub(super) happened: VecDeque<Happening>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub(super) struct NodeRow {
    pub(super) node: String,
    pub(super) seen: String,
    pub(super) well: bool,
    #[serde(skip)]
    pub(super) alive: bool,
    pub(super) shards_led: u32,
    pub(super) replicas: u32,
    pub(super) replicas_wanted: u32,
    pub(super) reports_per_second: Option<f64>,
    pub(super) commands_per_second: Option<f64>,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) active_views: u64,
    pub(super) disk_bytes: u64,
}

/// A shard's heat.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ShardRow {
    pub(super) shard: u32,
    pub(super) leader: Option<String>,
    pub(super) commands_per_second: Option<f64>,
    pub(super) active_views: u64,
    /// The most that a replica is behind, in log entries.
    pub(super) lag: u64,
}

/// Something that has happened between two looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Happening {
    /// When it was seen, UTC: `18:04:05`.
    pub(super) time: String,
    pub(super) what: String,
}

/// A counter, and how fast it has grown lately.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    last: Option<(WallMs, u64)>,
    rate: Option<f64>,
}

impl Meter {
    fn take(&mut self, at: WallMs, count: u64) {
        match self.last {
            // Nothing new was told.
            Some((before, known)) if at <= before && count == known => return,
            Some((before, known)) if at > before && count >= known => {
                self.rate = Some((count - known) as f64 * 1_000.0 / at.since(before) as f64);
            }
            // It began anew, or a clock did.
            _ => self.rate = None,
        }
        self.last = Some((at, count));
    }
}

/// What is known from all looks together.
#[derive(Debug, Default)]
pub(super) struct Model {
    top: Top,
    last: Option<Look>,
    reports: BTreeMap<String, Meter>,
    commands: BTreeMap<String, Meter>,
    shards: BTreeMap<u32, Meter>,
}

impl Model {
    /// What is shown now.
    pub(super) fn top(&self) -> &Top {
        &self.top
    }

    /// A look told nothing.
    pub(super) fn miss(&mut self, why: &str) {
        self.top.missed = Some(why.to_string());
    }

    /// Takes in a look; what is shown from now on.
    pub(super) fn take(&mut self, look: Look, now: WallMs) -> Top {
        let time = clock_time(now);
        if let Some(last) = &self.last {
            if last.status.answered_by != look.status.answered_by {
                self.reports.clear();
                self.commands.clear();
                self.shards.clear();
            }
            for what in happened(last, &look).into_iter().rev() {
                self.top.happened.push_front(Happening { time: time.clone(), what });
            }
            self.top.happened.truncate(HAPPENINGS_MAX);
        }
        let nodes: Vec<NodeRow> = look.status.nodes.iter().map(|node| self.node(node)).collect();
        let heat = look.shards.iter().map(|shard| self.shard(shard)).collect();
        let sum = |of: fn(&NodeRow) -> Option<f64>| {
            let rates: Vec<f64> = nodes.iter().filter_map(of).collect();
            (!rates.is_empty()).then(|| rates.iter().sum())
        };
        let status = &look.status;
        self.top = Top {
            time,
            missed: None,
            answered_by: status.answered_by.clone(),
            epoch: status.epoch,
            shards: status.shards,
            shards_led: status.shards_led,
            replicas_wanted: status.replicas_wanted,
            replicas_current: status.replicas_current,
            active_views: status.active_views,
            meta_leader: status.meta_leader.clone(),
            meta_term: status.meta_term,
            reports_per_second: sum(|node| node.reports_per_second),
            commands_per_second: sum(|node| node.commands_per_second),
            rates_partial: nodes.iter().any(|node| node.alive && node.commands_per_second.is_none()),
            p50_us: nodes.iter().map(|node| node.p50_us).max().unwrap_or_default(),
            p99_us: nodes.iter().map(|node| node.p99_us).max().unwrap_or_default(),
            complaints: status.complaints(),
            moving: moving(&look.shards),
            happened: std::mem::take(&mut self.top.happened),
            heat,
            nodes,
        };
        self.last = Some(look);
        self.top.clone()
    }

    fn node(&mut self, node: &Node) -> NodeRow {
        let alive = node.liveness == "alive";
        let reports = self.reports.entry(node.node.clone()).or_default();
        let commands = self.commands.entry(node.node.clone()).or_default();
        match node.report_time.as_ref().and_then(wall) {
            Some(at) if alive => {
                reports.take(at, node.reports_acknowledged);
                commands.take(at, node.commands_acknowledged);
            }
            // What a silent node said last holds no longer.
            _ => (*reports, *commands) = Default::default(),
        }
        let now = |n: u64| if alive { n } else { 0 };
        NodeRow {
            node: node.node.clone(),
            seen: if alive && node.disk_full { "disk full".into() } else { node.liveness.into() },
            well: alive && !node.disk_full,
            alive,
            shards_led: if alive { node.shards_led } else { 0 },
            replicas: node.replicas,
            replicas_wanted: node.replicas_wanted,
            reports_per_second: reports.rate,
            commands_per_second: commands.rate,
            p50_us: now(node.command_p50_us),
            p99_us: now(node.command_p99_us),
            active_views: now(node.active_views),
            disk_bytes: node.log_bytes.saturating_add(node.store_bytes),
        }
    }

    fn shard(&mut self, shard: &Shard) -> ShardRow {
        let meter = self.shards.entry(shard.shard).or_default();
        let leads = |replica: &&Replica| replica.role == "leader" && Some(&replica.node) == shard.leader.as_ref();
        match shard.replicas.iter().find(leads).and_then(|replica| wall(replica.report_time.as_ref()?)) {
            Some(at) => meter.take(at, shard.revision),
            None => *meter = Meter::default(),
        }
        ShardRow {
            shard: shard.shard,
            leader: shard.leader.clone(),
            commands_per_second: meter.rate,
            active_views: shard.active_views,
            lag: shard.replicas.iter().map(|replica| replica.lag).max().unwrap_or_default(),
        }
    }
}

/// What is different from the last look.
fn happened<'a>(last: &'a Look, look: &'a Look) -> Vec<String> {
    let mut happened = Vec::new();
    let known: BTreeMap<&str, &Node> = last.status.nodes.iter().map(|node| (node.node.as_str(), node)).collect();
    for node in &look.status.nodes {
        let name = &node.node;
        match known.get(name.as_str()) {
            None => happened.push(format!("{name} is new")),
            Some(before) => {
                if before.liveness != node.liveness {
                    happened.push(format!("{name}: {} -> {}", before.liveness, node.liveness));
                }
                if before.generation < node.generation && before.generation > 0 {
                    happened.push(format!("{name} has started again (start {})", node.generation));
                }
                if before.intent != node.intent {
                    happened.push(format!("{name} shall be {}", node.intent));
                }
            }
        }
    }
    if last.status.epoch != look.status.epoch {
        happened.push(format!("the placement is at epoch {}", look.status.epoch));
    }
    if last.status.meta_leader != look.status.meta_leader {
        let name = |leader: &str| if leader.is_empty() { "nobody".to_string() } else { leader.to_string() };
        happened.push(format!("meta lead: {} -> {}", name(&last.status.meta_leader), name(&look.status.meta_leader)));
    }
    let before: BTreeMap<u32, &Shard> = last.shards.iter().map(|shard| (shard.shard, shard)).collect();
    let mut leads: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    for shard in &look.shards {
        let Some(before) = before.get(&shard.shard) else { continue };
        if before.leader != shard.leader {
            let name = |leader: &'a Option<String>| leader.as_deref().unwrap_or("nobody");
            leads.entry((name(&before.leader), name(&shard.leader))).or_default().push(shard.shard);
        }
        let ids: Vec<u64> = before.replicas.iter().map(|replica| replica.replica_id).collect();
        for replica in shard.replicas.iter().filter(|replica| !ids.contains(&replica.replica_id)) {
            happened.push(format!("shard {}: replica {} on {} is new", shard.shard, replica.replica_id, replica.node));
        }
        for replica in before.replicas.iter().filter(|r| !shard.replicas.iter().any(|n| n.replica_id == r.replica_id)) {
            happened.push(format!("shard {}: replica {} on {} is gone", shard.shard, replica.replica_id, replica.node));
        }
    }
    happened.extend(leads.into_iter().map(|((from, to), of)| format!("lead {from} -> {to}: {}", shards_of(&of))));
    happened
}

/// What is on its way, or stands still where it should not.
fn moving(shards: &[Shard]) -> Vec<String> {
    let mut moving = Vec::new();
    let without: Vec<u32> = shards.iter().filter(|shard| shard.leader.is_none()).map(|shard| shard.shard).collect();
    if !without.is_empty() {
        moving.push(format!("no leader: {}", shards_of(&without)));
    }
    let mut stand: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    let mut elsewhere = Vec::new();
    for shard in shards {
        for replica in &shard.replicas {
            let Replica { replica_id, node, lag, .. } = replica;
            match replica.role {
                "learner" => moving.push(format!(
                    "shard {}: replica {replica_id} on {node} catches up, {lag} entries behind",
                    shard.shard
                )),
                "leader" | "follower" => {}
                role => stand.entry((node, role)).or_default().push(shard.shard),
            }
            if replica.leaving {
                moving.push(format!("shard {}: replica {replica_id} on {node} leaves", shard.shard));
            }
        }
        if shard.leader.is_some() && shard.leader.as_ref() != shard.placement.first() {
            elsewhere.push(shard.shard);
        }
    }
    for ((node, role), of) in stand {
        let what = if role == SILENT { "with no word of them".to_string() } else { role.to_string() };
        moving.push(format!("{} replicas on {node} {what}: {}", of.len(), shards_of(&of)));
    }
    if !elsewhere.is_empty() {
        moving.push(format!("not led where preferred: {}", shards_of(&elsewhere)));
    }
    moving
}

/// `shard 3`, `shards 3-7, 9`.
fn shards_of(shards: &[u32]) -> String {
    let plural = if shards.len() == 1 { "" } else { "s" };
    format!("shard{plural} {}", ranges(shards.iter().copied()))
}

impl Top {
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match &self.complaints[..] {
            [] => Ok(()),
            some => Err(Failure::Degraded(some.join("; "))),
        }
    }
}
