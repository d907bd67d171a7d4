//! What is wrong, told so that it can be read.

use std::fmt;

use super::history::{Action, Answer, Mode, Name, Names, OnLimit, Op, Outcome, Revision, Rules, Seen, What};
use super::search::{Bounds, Found, Stuck, search};

/// So many operations are told.
const LINES_MAX: usize = 24;

/// A contradiction in one account: the operations without which there would be none, as far as that was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// The account.
    pub account: Name,
    /// What cannot be.
    pub why: String,
    /// The operations of it that matter, in the order of their calls, the last of them with the contradiction.
    pub ops: Vec<Op>,
    /// The account as it could be before the last of them; empty where that doesn't matter.
    pub state: String,
}

impl Story {
    /// A promise that the operation at `at` breaks.
    pub(super) fn of(account: &Name, why: String, ops: &[&Op], at: usize) -> Self {
        let until = ops[at].returned_us;
        let mut before: Vec<Op> = ops.iter().filter(|op| op.invoked_us <= until).map(|op| (*op).clone()).collect();
        before.sort_by_key(|op| (op.invoked_us, op.returned_us));
        Self { account: account.clone(), why, ops: before, state: String::new() }
    }
}

/// Shortens a history that has no order, and tells it.
pub(super) fn tell(rules: &Rules, account: &Name, ops: &[Op], bounds: &Bounds, stuck: Stuck) -> Story {
    let mut teller = Teller { rules, bounds: *bounds };
    let mut stuck = stuck;
    let mut short: Vec<Op> = ops.to_vec();
    if let Some((shorter, found)) = teller.shortest_prefix(&short) {
        (short, stuck) = (shorter, found);
    }
    // Reads and refusals change nothing: without one that doesn't matter it is as wrong as with it. So is it without a view that
    // nobody else is concerned by, but that is not tried.
    let mut at = short.len();
    while at > 0 {
        at -= 1;
        let changes_nothing =
            matches!(short[at].what, What::Read { .. } | What::Write(_, Outcome::Unavailable | Outcome::Refused(..)));
        if !changes_nothing {
            continue;
        }
        let mut shorter = short.clone();
        shorter.remove(at);
        if let Some(found) = teller.is_wrong(&shorter) {
            (short, stuck) = (shorter, found);
        }
    }
    let next: Vec<String> = stuck.next.iter().filter_map(|n| short.get(*n)).take(4).map(line).collect();
    let why = format!("no order of the operations explains it; what can not be next: {}", next.join(" | "));
    short.sort_by_key(|op| (op.invoked_us, op.returned_us));
    Story { account: account.clone(), why, ops: short, state: stuck.state }
}

struct Teller<'a> {
    rules: &'a Rules,
    /// What may still be spent.
    bounds: Bounds,
}

impl Teller<'_> {
    fn is_wrong(&mut self, ops: &[Op]) -> Option<Stuck> {
        let ops: Vec<&Op> = ops.iter().collect();
        let (found, steps) = search(self.rules, &Names::of(&ops), &ops, &self.bounds);
        self.bounds.steps_max = self.bounds.steps_max.saturating_sub(steps + ops.len() as u64);
        match found {
            Found::None(stuck) => Some(stuck),
            Found::Order | Found::TooMuch => None,
        }
    }

    /// What was known at the earliest moment at which it was wrong.
    fn shortest_prefix(&mut self, ops: &[Op]) -> Option<(Vec<Op>, Stuck)> {
        let mut ends: Vec<u64> = ops.iter().map(|op| op.returned_us).collect();
        ends.sort_unstable();
        ends.dedup();
        let (mut low, mut high) = (0, ends.len().checked_sub(1)?);
        let mut found = None;
        while low <= high {
            let middle = low + (high - low) / 2;
            let prefix = until(ops, ends[middle]);
            match self.is_wrong(&prefix) {
                Some(stuck) => {
                    found = Some((prefix, stuck));
                    let Some(lower) = middle.checked_sub(1) else { break };
                    high = lower;
                }
                None => low = middle + 1,
            }
        }
        found
    }
}

/// The history as it was known at a moment: what had not been answered was unknown.
fn until(ops: &[Op], moment_us: u64) -> Vec<Op> {
    let called = ops.iter().filter(|op| op.invoked_us <= moment_us);
    let known = called.filter_map(|op| match (&op.what, op.returned_us <= moment_us) {
        (_, true) => Some(op.clone()),
        (What::Write(_, Outcome::Unavailable) | What::Read { .. }, false) => None,
        (What::Write(action, Outcome::Accepted), false) => {
            Some(Op { what: What::Write(action.clone(), Outcome::Accepted), ..op.clone() })
        }
        (What::Write(action, _), false) => {
            Some(Op { what: What::Write(action.clone(), Outcome::Unknown), ..op.clone() })
        }
    });
    known.collect()
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "WRONG: account {}: {}", self.account, self.why)?;
        let hidden = self.ops.len().saturating_sub(LINES_MAX);
        if hidden > 0 {
            writeln!(f, "  ... {hidden} operations before")?;
        }
        for op in &self.ops[hidden..] {
            writeln!(f, "  {}", line(op))?;
        }
        if !self.state.is_empty() {
            writeln!(f, "  the account could be, at best: {}", self.state)?;
        }
        Ok(())
    }
}

fn line(op: &Op) -> String {
    let ms = |us: u64| format!("{}.{:03}", us / 1000, us % 1000);
    let when = format!("{:>10}..{:<10} ms c{}", ms(op.invoked_us), ms(op.returned_us), op.client);
    match &op.what {
        What::Write(action, outcome) => format!("{when} {} -> {}", asks(action), came(outcome)),
        What::Read { mode, seen, info } => {
            let by = info.by.as_deref().map_or(String::new(), |by| format!(" by {by}"));
            let at = info.revision.map_or(String::new(), |n| format!(" at revision {n}"));
            let age = info.age_ms.map_or(String::new(), |ms| format!(" at most {ms} ms old"));
            let degraded = if info.degraded { " degraded" } else { "" };
            format!("{when} read {}{by}{at}{age}{degraded} -> {}", how(*mode), saw(seen))
        }
    }
}

fn position(position_ms: Option<u64>) -> String {
    position_ms.map_or("no position".into(), |ms| format!("{ms} ms"))
}

fn asks(action: &Action) -> String {
    match action {
        Action::Start { view, device, title, position_ms, on_limit, .. } => {
            let limit = match on_limit {
                OnLimit::Reject => String::new(),
                OnLimit::EndOldest => ", may end the oldest".into(),
                OnLimit::EndNamed(named) => format!(", may end {named}"),
            };
            format!("start {view} on {device} of {title} at {}{limit}", position(*position_ms))
        }
        Action::Progress { view, sequence, position_ms, .. } => {
            format!("progress of {view}, sequence {sequence}, at {}", position(*position_ms))
        }
        Action::Stop { view, position_ms, .. } => format!("stop {view} at {}", position(*position_ms)),
        Action::End { view } => format!("end {view}"),
        Action::SetLimit { streams } => format!("set limit {streams}"),
    }
}

fn came(outcome: &Outcome) -> String {
    let by = |revision: &Option<Revision>| match revision {
        Some(Revision::Exact(n)) => format!(" as revision {n}"),
        Some(Revision::By(n)) => format!(" by revision {n}"),
        None => String::new(),
    };
    match outcome {
        Outcome::Committed(answer, revision) => {
            let what = match answer {
                Answer::Started { repeated: true, .. } => "runs already".into(),
                Answer::Started { ended, degraded, .. } => {
                    let ended = if ended.is_empty() { String::new() } else { format!(", ended {}", ended.join(", ")) };
                    format!("started{ended}{}", if *degraded { ", degraded" } else { "" })
                }
                Answer::Progressed { applied } => if *applied { "applied" } else { "not the newest" }.into(),
                Answer::Done => "done".to_string(),
            };
            format!("committed{}: {what}", by(revision))
        }
        Outcome::Refused(why, revision) => format!("refused{}: {why:?}", by(revision)),
        Outcome::Unavailable => "unavailable".into(),
        Outcome::Unknown => "unknown".into(),
        Outcome::Accepted => "accepted".into(),
    }
}

fn how(mode: Mode) -> String {
    match mode {
        Mode::Strong => "STRONG".into(),
        Mode::Lease => "LEASE".into(),
        Mode::Session(revision) => format!("SESSION({revision})"),
        Mode::Bounded(ms) => format!("BOUNDED({ms} ms)"),
        Mode::Any => "ANY".into(),
    }
}

fn saw(seen: &Seen) -> String {
    match seen {
        Seen::Active(views) if views.is_empty() => "no active views".into(),
        Seen::Active(views) => {
            let views = views.iter().map(|v| {
                let played = v.watched_ms.map_or(String::new(), |ms| format!(", {ms} ms played"));
                format!("{} (sequence {}, {}{played})", v.view, v.sequence, position(v.position_ms))
            });
            format!("active: {}", views.collect::<Vec<_>>().join(", "))
        }
        Seen::View(view, None) => format!("{view} is not active"),
        Seen::View(view, Some(v)) => format!("{view}: sequence {}, {}", v.sequence, position(v.position_ms)),
        Seen::Left { title, position_ms } => format!("{title} left at {}", position(*position_ms)),
        Seen::Ended(views) => {
            let views = views.iter().map(|(view, at)| format!("{view} at {}", position(*at)));
            format!("history: {}", views.collect::<Vec<_>>().join(", "))
        }
        Seen::Limit(limit) => format!("limit {limit}"),
    }
}
