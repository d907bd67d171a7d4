//! What came of it all, and whether that is right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{bare_table, judged, number, ranges, text};
use super::super::shard::{Compared, compare_all};
use super::lead::{self, ReadUnder};
use super::nodes::{Nodes, complaints};
use super::row::{Row, brief};
use super::schedule::Kind;
use crate::device::{Played, Report, Stats};
use crate::local::Stopped;

/// How long the reading back of everything through one node may take.
const READ_MAX: Duration = Duration::from_secs(300);
/// How long a single read may take.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// How long the cluster may take to be healthy at the end, and to compare its states.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How often it is read back once more, where a shard was not yet read under each of its replicas.
const READINGS_MORE: usize = 4;
/// One household of so many may have active views that cannot be compared.
const BLIND_ONE_OF: usize = 20;
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A run and its verdict.
#[derive(Debug, Default, Serialize)]
pub(super) struct Verdict {
    pub(super) seed: u64,
    /// The command that does the same faults again.
    pub(super) again: String,
    pub(super) nodes: usize,
    pub(super) shards: u32,
    pub(super) replicas: u32,
    pub(super) households: u32,
    pub(super) played_ms: u64,
    /// The kinds of faults that were to come.
    pub(super) planned: Vec<Kind>,
    /// The nodes were started for this run.
    #[serde(skip)]
    pub(super) own: bool,
    pub(super) root: PathBuf,
    pub(super) rows: Vec<Row>,
    /// What the households counted, and how many could be read through every node.
    pub(super) devices: Option<Report>,
    /// Through how many nodes all of them were read back.
    pub(super) read_through: usize,
    /// How often everything was read back: through each node, and until every replica of every shard had led.
    pub(super) readings: usize,
    /// By shard that was played on, under the lead of which nodes everything of it was read back.
    pub(super) read_under: ReadUnder,
    /// Shards that were not read back under each of their replicas.
    pub(super) not_read_under_all: Vec<u32>,
    /// Facts that were compared at the end, over all readings.
    pub(super) facts_at_end: u64,
    /// Facts of households that stood still around a fault.
    pub(super) facts_around_faults: u64,
    pub(super) states: Compared,
    /// What the nodes say is wrong at the end, and what could not be done.
    pub(super) complaints: Vec<String>,
    /// Null where the nodes were there before, and run on.
    pub(super) nodes_stopped_when_asked: Option<bool>,
    pub(super) processes_left: Option<usize>,
    pub(super) right: bool,
}

impl Verdict {
    /// Reads everything back, compares the states, stops the nodes.
    pub(super) async fn check(&mut self, here: &Context, nodes: &mut Nodes, mut played: Played) {
        let here = here.at(nodes.connection());
        self.settle(&here, nodes, &played.stats()).await;
        match self.read_back(&here, nodes, &mut played).await {
            Ok(report) => self.devices = Some(report),
            Err(failure) => self.complaints.push(format!("could not be read back: {failure}")),
        }
        let mut patient = here.again();
        patient.timeout = SETTLE_MAX;
        match compare_all(&patient.again()).await {
            Ok(states) => self.states = states,
            Err(failure) => self.complaints.push(format!("states could not be compared: {failure}")),
        }
        if self.own {
            self.stop(nodes).await;
        } else if let Ok(client) = here.client() {
            // Its accounts stay, and watch nothing more.
            let (_, left) = played.end_views(&client).await;
            if left > 0 {
                self.complaints.push(format!("the views of {left} households could not be ended"));
            }
        }
        self.right = self.is_right();
    }

    /// Waits until every node says that all is well; what is still wrong after a while is a complaint.
    async fn settle(&mut self, here: &Context, nodes: &mut Nodes, stats: &Stats) {
        let healed = nodes.heal().await;
        self.complaints.extend(nodes.take_troubles());
        if let Err(e) = healed {
            self.complaints.push(format!("not started again: {e}"));
            return;
        }
        let Ok(admins) = nodes.admins(here) else { return };
        let deadline = here.clock.monotonic().plus(u64::try_from(SETTLE_MAX.as_millis()).unwrap_or(u64::MAX));
        loop {
            let wrong = complaints(&admins).await;
            if wrong.is_empty() {
                stats.all_is_handed_off();
            }
            if wrong.is_empty() || here.clock.monotonic() >= deadline {
                self.complaints.extend(wrong);
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Compares the whole ledger of every household, through each node.
    async fn read_back(&mut self, here: &Context, nodes: &mut Nodes, played: &mut Played) -> Result<Report, Failure> {
        let before = played.stats().snapshot().facts;
        let mut worst: Option<Report> = None;
        let through: Vec<_> = nodes.local.names().into_iter().zip(here.client_of_each()?).collect();
        let least = through.len().max(self.replicas as usize);
        for reading in 0..least + READINGS_MORE {
            // The first under whoever leads.
            if reading > 0 {
                lead::turn(here, &self.read_under).await?;
            }
            let Some((name, (_, client))) = through.get(reading % through.len().max(1)) else { break };
            let clients = [client.clone().with_deadline(READ_PATIENCE)];
            let read = tokio::time::timeout(READ_MAX, played.check(&clients)).await;
            let report = read.map_err(|_| Failure::error(format!("{name} took more than {} s", READ_MAX.as_secs())))?;
            let checked =
                worst.map_or(report.households_checked, |w| w.households_checked.min(report.households_checked));
            worst = Some(Report { households_checked: checked, ..report });
            for (shard, by) in played.served_by() {
                self.read_under.entry(shard).or_default().extend(by);
            }
            (self.readings, self.read_through) = (reading + 1, (reading + 1).min(through.len()));
            if reading + 1 >= least {
                self.not_read_under_all = lead::unread(here, &self.read_under).await?;
                if self.not_read_under_all.is_empty() {
                    break;
                }
            }
        }
        self.facts_around_faults = self.rows.iter().map(|row| row.facts).sum();
        let report = worst.ok_or_else(|| Failure::error("there is no node to read through"))?;
        self.facts_at_end = report.counters.facts.saturating_sub(before);
        Ok(report)
    }

    async fn stop(&mut self, nodes: &mut Nodes) {
        match nodes.local.stop_all().await {
            Ok(stopped) => {
                let badly: Vec<_> = stopped.iter().filter(|(_, how)| *how != Stopped::Well).collect();
                self.nodes_stopped_when_asked = Some(badly.is_empty());
                self.complaints.extend(badly.iter().map(|(name, how)| format!("{name} {how}")));
            }
            Err(e) => self.complaints.push(format!("not stopped: {e}")),
        }
        self.processes_left = Some(nodes.local.left().len());
    }

    /// The faults that were done and had an effect, by kind.
    fn shown(&self) -> BTreeMap<Kind, usize> {
        let mut shown = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.shown) {
            *shown.entry(row.fault.unwrap_or(Kind::Kill)).or_default() += 1;
        }
        shown
    }

    /// What keeps the verdict from being right, in words.
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.shown().is_empty() {
            reasons.push("no fault was done that had an effect, so nothing is shown".to_string());
        }
        match &self.devices {
            None => reasons.push("it is not known what was lost".to_string()),
            Some(report) => {
                let counters = &report.counters;
                if counters.reports_acknowledged == 0 {
                    reasons.push("nothing was acknowledged, so nothing could be lost".into());
                }
                if counters.mismatches > 0 {
                    reasons.push(format!("{} facts are lost or contradicted", number(counters.mismatches)));
                }
                if report.households_checked < report.households {
                    let unread = report.households - report.households_checked;
                    reasons.push(format!("{unread} households could not be read back through every node"));
                }
                let blind = report.households_blind;
                if blind > report.households / BLIND_ONE_OF {
                    reasons.push(format!("the active views of {blind} households could not be compared"));
                }
            }
        }
        if self.read_through != self.nodes {
            reasons.push(format!("it was read back through {} of {} nodes", self.read_through, self.nodes));
        }
        if !self.not_read_under_all.is_empty() {
            let shards = ranges(self.not_read_under_all.iter().copied());
            reasons.push(format!("shards {shards} were not read back under each of their replicas"));
        }
        let unhealed = self.rows.iter().filter(|row| row.healthy_after_ms.is_none()).count();
        if unhealed > 0 {
            reasons.push("the cluster was not healthy again after a fault".into());
        }
        if self.rows.iter().any(Row::failed) {
            reasons.push("a fault could not be done as planned, or a node ended by itself".into());
        }
        if !self.states.differ.is_empty() {
            reasons.push(format!("replicas of shards {} differ", ranges(self.states.differ.iter().copied())));
        }
        if self.states.equal.len() != self.shards as usize && self.states.differ.is_empty() {
            reasons.push("not all replicas could be compared".into());
        }
        reasons.extend(self.complaints.iter().map(|complaint| format!("at the end: {complaint}")));
        if self.nodes_stopped_when_asked == Some(false) {
            reasons.push("not every node stopped when it was asked".into());
        }
        if self.processes_left.is_some_and(|left| left > 0) {
            reasons.push("processes are left".into());
        }
        reasons
    }

    pub(super) fn is_right(&self) -> bool {
        self.reasons().is_empty()
    }

    pub(super) fn text(&self) -> String {
        let mut rows = bare_table();
        let mut row = |what: &str, value: String, well: bool| {
            rows.add_row([what.into(), value.into(), judged(if well { "ok" } else { "WRONG" }, well)]);
        };
        let shown = self.shown();
        // A number and its word stay in one line.
        let each: Vec<String> = shown.iter().map(|(kind, count)| format!("{count}\u{a0}{}", kind.word())).collect();
        let count: usize = shown.values().sum();
        row("faults that had an effect", format!("{count}: {}", each.join(", ")), count > 0);
        if let Some(report) = &self.devices {
            let counters = &report.counters;
            let acked = counters.reports_acknowledged + counters.writes_acknowledged;
            row("writes acknowledged", number(acked), counters.reports_acknowledged > 0);
            let accepted = format!(
                "{}, looked for {} times, not found {} times",
                number(counters.accepted),
                number(counters.accepted_compared),
                number(counters.accepted_lost)
            );
            row("writes accepted only", accepted, counters.accepted_lost == 0);
            let rest = counters.facts.saturating_sub(self.facts_at_end + self.facts_around_faults);
            let facts = format!(
                "{} at the end, {} around faults, {} besides",
                number(self.facts_at_end),
                number(self.facts_around_faults),
                number(rest)
            );
            row("facts compared", facts, self.facts_at_end > 0);
            row("lost or contradicted", number(counters.mismatches), counters.mismatches == 0);
            let unknown = format!(
                "{}, {} learned, {} never",
                number(counters.unknown),
                number(counters.resolved),
                number(counters.unresolved)
            );
            row("writes with unknown outcome", unknown, true);
            let read = format!(
                "{} of {}, through each of {} nodes",
                number(report.households_checked as u64),
                number(report.households as u64),
                self.read_through
            );
            let all = report.households_checked == report.households && self.read_through == self.nodes;
            row("households read back", read, all);
            let still: u64 = self.rows.iter().map(|row| row.compared).sum();
            row("compared around a fault", format!("{} households", number(still)), true);
            let blind = report.households_blind;
            row("views not comparable", format!("of {blind} households"), blind <= report.households / BLIND_ONE_OF);
            let least = self.read_under.values().map(BTreeSet::len).min().unwrap_or_default();
            let played = self.read_under.len();
            let under = format!("{played} of {} shards, each under {least} leaders or more", self.shards);
            row("shards played on, read back", under, self.not_read_under_all.is_empty());
        }
        let gaps = self.rows.iter().filter_map(|row| row.gap_worst_ms);
        if let Some(worst) = gaps.max() {
            row("longest time without a write", brief(worst), true);
        }
        let equal = self.states.equal.len();
        row("shards with equal replicas", format!("{equal} of {}", self.shards), equal == self.shards as usize);
        row(
            "cluster at the end",
            if self.complaints.is_empty() { "healthy" } else { "not healthy" }.into(),
            self.complaints.is_empty(),
        );
        if let (Some(stopped), Some(left)) = (self.nodes_stopped_when_asked, self.processes_left) {
            row("nodes stopped when asked", if stopped { "all" } else { "not all" }.into(), stopped);
            row("processes left", left.to_string(), left == 0);
        }
        format!("{}\n{}", text(&mut rows), self.words())
    }

    /// The verdict in words, with what was found.
    fn words(&self) -> String {
        let mut out = String::new();
        let described = self.devices.as_ref().map(|report| &report.counters.described);
        for mismatch in described.into_iter().flatten() {
            out.push_str(&format!("\n  {mismatch}"));
        }
        let silent = self.rows.iter().filter(|row| !row.shown).filter_map(|row| row.fault);
        let silent: Vec<&str> = silent.map(Kind::word).collect();
        if !silent.is_empty() {
            out.push_str(&format!("\ndone without an effect, and not counted: {}", silent.join(", ")));
        }
        let never = self.planned.iter().filter(|kind| self.rows.iter().all(|row| row.fault != Some(**kind)));
        let never: Vec<&str> = never.map(|kind| kind.word()).collect();
        if !never.is_empty() {
            out.push_str(&format!("\nnever came, as the time was too short: {}", never.join(", ")));
        }
        let reasons = self.reasons();
        match reasons.is_empty() {
            true => out.push_str("\nRIGHT: nothing that was acknowledged is lost or contradicted."),
            false => out.push_str(&format!("\nWRONG: {}.", reasons.join("; "))),
        }
        out.push_str(&format!("\nThe same faults again: {}", self.again));
        out
    }
}
