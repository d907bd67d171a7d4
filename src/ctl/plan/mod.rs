//! `clusterctl plan`: the change that the cluster is in, and what every command that brings one about has in common.
//!
//! Such a command asks what it would bring about, shows that, asks whether to go on, does it, and waits where it is told to.

mod follow;
mod leads;
mod show;
mod turn;

use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde::Serialize;

use super::ask::permission;
use super::context::Context;
use super::exit::Failure;
use super::output::{bytes, rfc3339, right, span, table, text};
use super::text::{plain, short, wrapped};
use super::watch;
use crate::client::{AdminClient, Error};
use crate::proto::v1;
pub(super) use leads::Leads;
use turn::Turn;

/// The most moves that a table lists.
const MOVES_SHOWN_MAX: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// What is being moved, how far it is, how long it takes
    Show(watch::Repeat),
    /// Begin the change that is due, where changes don't begin by themselves or the last one was cancelled
    Apply(turn::Options),
    /// Begin no further move; those under way are finished
    Pause(turn::Options),
    /// Go on with a paused change
    Resume(turn::Options),
    /// Drop the change: what is under way is finished, the rest stays where it is
    Cancel(turn::Options),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Show(repeat) => show::run(context, &repeat).await,
        Command::Apply(options) => turn::run(context, Turn::Apply, options).await,
        Command::Pause(options) => turn::run(context, Turn::Pause, options).await,
        Command::Resume(options) => turn::run(context, Turn::Resume, options).await,
        Command::Cancel(options) => turn::run(context, Turn::Cancel, options).await,
    }
}

/// One shard's way.
#[derive(Clone, Debug, Serialize)]
struct Move {
    shard: u32,
    to: Vec<String>,
    from: Vec<String>,
    /// Null: the preferred leader stays.
    leader_before: Option<String>,
    leader_after: Option<String>,
    bytes_about: u64,
    under_way: bool,
}

impl From<v1::PlanMove> for Move {
    fn from(step: v1::PlanMove) -> Self {
        let names = |names: Vec<String>| names.iter().map(|name| plain(name)).collect();
        let name = |name: String| (!name.is_empty()).then(|| plain(&name));
        Self {
            shard: step.shard,
            to: names(step.to_nodes),
            from: names(step.from_nodes),
            leader_before: name(step.leader_before),
            leader_after: name(step.leader_after),
            bytes_about: step.bytes,
            under_way: step.under_way,
        }
    }
}

/// A change, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    state: &'static str,
    reason: String,
    #[serde(serialize_with = "rfc3339")]
    start_time: Option<Timestamp>,
    copies_total: u32,
    copies_done: u32,
    copies_under_way: u32,
    copies_left: u32,
    leaders_left: u32,
    bytes_left_about: u64,
    bytes_moved: u64,
    /// Null: it can't be told yet.
    left_ms_about: Option<u64>,
    moves: Vec<Move>,
    moves_count: u32,
    waits: Vec<String>,
}

impl From<v1::Plan> for Plan {
    fn from(plan: v1::Plan) -> Self {
        let state = match plan.state() {
            v1::PlanState::Unspecified => "unknown",
            v1::PlanState::None => "none",
            v1::PlanState::Waiting => "waiting",
            v1::PlanState::Running => "running",
            v1::PlanState::Paused => "paused",
            v1::PlanState::Cancelled => "cancelled",
            v1::PlanState::Asked => "asked",
        };
        Self {
            state,
            reason: plain(&plan.reason),
            start_time: plan.start_time,
            copies_total: plan.copies_total,
            copies_done: plan.copies_done,
            copies_under_way: plan.copies_under_way,
            copies_left: plan.copies_left,
            leaders_left: plan.leaders_left,
            bytes_left_about: plan.bytes_left,
            bytes_moved: plan.bytes_moved,
            left_ms_about: u64::try_from(plan.left_ms).ok().filter(|ms| *ms > 0),
            moves: plan.moves.into_iter().map(Move::from).collect(),
            moves_count: plan.moves_count,
            waits: plan.waits.iter().map(|wait| plain(wait)).collect(),
        }
    }
}

/// `1 replica`, `2 replicas`.
fn count(n: u32, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// What copies may take of each node, in words.
pub(super) fn copies_sentence(bytes_per_second: Option<u64>) -> String {
    match bytes_per_second {
        Some(rate) => format!("each node sends at most {} of copies a second", bytes(rate)),
        None => "each node sends as much of copies as it has set".to_string(),
    }
}

/// What leaders take of one account, in words.
pub(super) fn account_sentence(per_second: Option<u32>) -> String {
    match per_second {
        Some(rate) => format!("each leader takes at most {} a second of one account", count(rate, "command")),
        None => "each leader takes as much of one account as its node has set".to_string(),
    }
}

impl Plan {
    /// Whether nothing is under way and nothing will be by itself.
    fn is_over(&self) -> bool {
        matches!(self.state, "none" | "waiting" | "cancelled") && self.copies_under_way == 0
    }

    /// How much it is, in a few words.
    fn brief(&self) -> String {
        let copies = self.copies_under_way + self.copies_left;
        let leads = self.leaders_left;
        match (copies, leads) {
            (0, 0) => "nothing moves".to_string(),
            (0, leads) => format!("{} change", count(leads, "preferred leader")),
            (copies, 0) => format!("{} are copied, about {}", count(copies, "replica"), bytes(self.bytes_left_about)),
            (copies, leads) => {
                let (copies, leads) = (count(copies, "replica"), count(leads, "more preferred leader"));
                format!("{copies} are copied, about {}; {leads} change", bytes(self.bytes_left_about))
            }
        }
    }

    /// How far it is, as a line.
    fn line(&self) -> String {
        let done =
            format!("{} of {} copies made, {} under way", self.copies_done, self.copies_total, self.copies_under_way);
        let left = self.left_ms_about.map_or_else(String::new, |ms| format!(", about {} left", span(ms)));
        format!("{done}, {} moved{left}", bytes(self.bytes_moved))
    }

    fn text(&self) -> String {
        let mut out = match self.state {
            "none" => return "nothing is to be moved".to_string(),
            "asked" => format!("{}\n", self.brief()),
            "waiting" => format!("waits for `clusterctl plan apply`: {}\nwhy: {}\n", self.brief(), self.reason),
            state => format!("{state}: {}\nwhy: {}\n", self.line(), self.reason),
        };
        if !self.moves.is_empty() {
            out.push_str(&format!("\n{}\n", self.moves_text()));
        }
        for wait in &self.waits {
            out.push_str(&format!("\n{}\n", wrapped(&format!("waits: {wait}"), 80).join("\n")));
        }
        out
    }

    fn moves_text(&self) -> String {
        let mut rows = table(["SHARD", "TO", "FROM", "LEADER", "BYTES", ""]);
        right(&mut rows, &[0, 4]);
        let list = |names: &[String]| match names {
            [] => "-".to_string(),
            names => short(&names.join(", "), 18),
        };
        for step in self.moves.iter().take(MOVES_SHOWN_MAX) {
            let leader = match (&step.leader_before, &step.leader_after) {
                (_, None) => "-".to_string(),
                (None, Some(after)) => short(after, 12),
                (Some(before), Some(after)) => format!("{} -> {}", short(before, 10), short(after, 10)),
            };
            let size = if step.to.is_empty() { "-".to_string() } else { bytes(step.bytes_about) };
            let state = if step.under_way { "under way" } else { "" };
            rows.add_row([step.shard.to_string(), list(&step.to), list(&step.from), leader, size, state.to_string()]);
        }
        let shown = self.moves.len().min(MOVES_SHOWN_MAX);
        match (self.moves_count as usize).saturating_sub(shown) {
            0 => text(&mut rows),
            more => format!("{}\nand {more} more: --output json lists up to 1,024", text(&mut rows)),
        }
    }
}

/// How a change is asked for.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct How {
    /// Only say what would be done, or why it is refused
    #[arg(long)]
    dry_run: bool,
    /// Wait until everything has moved; ctrl-C ends the waiting, not the change
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

/// What a command brings about, or would.
#[derive(Debug, Serialize)]
struct Changed {
    what: String,
    done: bool,
    plan: Plan,
}

impl Changed {
    fn text(&self) -> String {
        let Self { what, done, plan } = self;
        let head = wrapped(what, 80).join("\n");
        match (done, plan.is_over()) {
            (false, _) => format!("{head}\n{}\nnothing was done: this was a dry run", plan.text()),
            (true, true) => format!("{head}\nnothing is left to be moved"),
            (true, false) => format!(
                "{head}\n{}\n\nit goes on by itself: `clusterctl plan show --watch` shows how far it is",
                plan.brief()
            ),
        }
    }
}

/// Asks what a command would bring about, shows it, asks whether to go on, does it, and waits if it is to.
///
/// `ask` makes the call, told whether it is only to say what would be; it gives what that is, as a sentence without its full
/// stop, and what moves by it.
pub(super) async fn change(
    context: &Context,
    how: How,
    ask: impl AsyncFn(AdminClient, bool) -> Result<(String, Option<v1::Plan>), Error>,
) -> Result<(), Failure> {
    let plan = |plan: Option<v1::Plan>| Plan::from(plan.unwrap_or_default());
    let (what, would) = ask(context.patient_admin().await?, true).await?;
    let (what, would) = (plain(&what), plan(would));
    if how.dry_run {
        let changed = Changed { what, done: false, plan: would };
        return context.answer(&changed, || changed.text());
    }
    let context = permission(context, &format!("{what}: {}", would.brief())).await?;
    let (what, now) = ask(context.patient_admin().await?, false).await?;
    let (what, mut now) = (plain(&what), plan(now));
    if how.wait {
        now = follow::until_over(&context).await?;
    }
    let changed = Changed { what, done: true, plan: now };
    context.answer(&changed, || changed.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let step = v1::PlanMove {
            shard: 7,
            to_nodes: vec!["n4".into()],
            from_nodes: vec!["n1".into()],
            leader_before: "n1".into(),
            leader_after: "n4".into(),
            bytes: 1536,
            under_way: true,
        };
        Plan::from(v1::Plan {
            state: v1::PlanState::Running.into(),
            reason: "n4 joined".into(),
            copies_total: 48,
            copies_done: 12,
            copies_under_way: 2,
            copies_left: 34,
            leaders_left: 3,
            bytes_left: 3 << 20,
            bytes_moved: 1 << 20,
            left_ms: 90_000,
            moves: vec![step],
            moves_count: 36,
            waits: vec!["n5 is silent".into()],
            ..Default::default()
        })
    }

    #[test]
    fn a_plan_says_how_far_it_is_what_is_left_and_what_it_waits_for() {
        let text = plan().text();
        for told in [
            "running: 12 of 48 copies made, 2 under way, 1.0 MiB moved, about 90 s left",
            "why: n4 joined",
            "n1 -> n4",
            "1.5 KiB",
            "and 35 more",
            "waits: n5 is silent",
        ] {
            assert!(text.contains(told), "{told:?} in {text}");
        }
        assert_eq!(plan().brief(), "36 replicas are copied, about 3.0 MiB; 3 more preferred leaders change");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn only_a_plan_of_which_nothing_is_under_way_is_over() {
        let over = |state, copies_under_way| Plan { state, copies_under_way, ..plan() }.is_over();
        assert!(over("none", 0) && over("cancelled", 0) && over("waiting", 0));
        assert!(!over("cancelled", 1) && !over("running", 0) && !over("paused", 0) && !over("unknown", 0));
        assert_eq!(Plan { state: "none", ..plan() }.text(), "nothing is to be moved");
    }
}
