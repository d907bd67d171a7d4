//! One fault and what came of it, as a row.

use serde::Serialize;

use super::super::output::{clock, number, paint};
use super::super::text::short;
use super::schedule::Kind;
use crate::device::Snapshot;

/// The columns, of 80 characters together.
pub(super) const HEADER: &str = "   TIME FAULT      NODES LASTED   ACKED    GAP MEDIAN UNAVL UNKNOWN HEALED WRONG";

/// A fault, from its beginning until the cluster was healthy again.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Row {
    /// When it began, after the households began to play.
    pub(super) at_ms: u64,
    pub(super) fault: Option<Kind>,
    /// To whom it was done; those that were to lead, where leaders moved.
    pub(super) nodes: Vec<String>,
    /// How many shards it concerned: those that the nodes led, or that moved.
    pub(super) shards: usize,
    /// From its beginning until it was undone.
    pub(super) lasted_ms: Option<u64>,
    /// Writes acknowledged in that time.
    pub(super) acknowledged: u64,
    /// The longest time without an acknowledged write on the worst of the shards that it concerned.
    pub(super) gap_worst_ms: Option<u64>,
    /// The same of the shard in the middle of them.
    pub(super) gap_median_ms: Option<u64>,
    /// Calls that nobody decided in the devices' patience.
    pub(super) unavailable: u64,
    /// Writes whose outcome was unknown at first.
    pub(super) unknown: u64,
    /// Such writes, of this fault or of one before it, of which it was learned what had become of them.
    pub(super) unknown_resolved: u64,
    /// From when it was undone until every node said that all is well, and every shard had acknowledged writes again.
    pub(super) healthy_after_ms: Option<u64>,
    /// Households that stood still from before it until they were compared after it.
    pub(super) stood_still: u64,
    /// Of those, how many could be read.
    pub(super) compared: u64,
    /// Facts of theirs that were compared.
    pub(super) facts: u64,
    /// Answers that contradicted what was acknowledged.
    pub(super) mismatches: u64,
    /// It was done, and had an effect.
    pub(super) shown: bool,
    /// Something went wrong that should not.
    pub(super) trouble: bool,
    /// Why it does not count, or what went wrong.
    pub(super) remarks: Vec<String>,
}

impl Row {
    /// Takes up what was counted since its beginning; `lasting`: it is not undone yet.
    pub(super) fn count(&mut self, before: &Snapshot, now: &Snapshot, lasting: bool) {
        let acknowledged = |at: &Snapshot| at.reports_acknowledged + at.writes_acknowledged;
        if lasting {
            self.acknowledged = acknowledged(now).saturating_sub(acknowledged(before));
        }
        self.unavailable = now.unavailable.saturating_sub(before.unavailable);
        self.unknown = now.unknown.saturating_sub(before.unknown);
        self.unknown_resolved = now.resolved.saturating_sub(before.resolved);
        self.mismatches = now.mismatches.saturating_sub(before.mismatches);
    }

    /// Takes up the longest times without an acknowledged write of the shards that it concerned.
    pub(super) fn gaps(&mut self, mut gaps_ms: Vec<u64>) {
        gaps_ms.sort_unstable();
        self.gap_worst_ms = gaps_ms.last().copied();
        self.gap_median_ms = gaps_ms.get(gaps_ms.len() / 2).copied();
    }

    /// It was not undone as it should be, or not done as planned, or a node ended by itself; without an effect alone is no
    /// failure.
    pub(super) fn failed(&self) -> bool {
        self.trouble
    }

    /// Something that should not be.
    pub(super) fn trouble(&mut self, what: String) {
        self.trouble = true;
        self.remarks.push(what);
    }

    /// Its line, under [`HEADER`].
    pub(super) fn line(&self) -> String {
        let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_string(), brief);
        let nodes = if self.fault == Some(Kind::KillAll) { "all".to_string() } else { self.nodes.join(",") };
        let wrong = format!("{:>5}", self.mismatches);
        format!(
            "{:>7} {:<10} {:<5} {:>6} {:>7} {:>6} {:>6} {:>5} {:>7} {:>6} {}",
            clock(i64::try_from(self.at_ms).unwrap_or(i64::MAX)),
            self.fault.map_or("", Kind::word),
            short(&nodes, 5),
            ms(self.lasted_ms),
            number(self.acknowledged),
            ms(self.gap_worst_ms),
            ms(self.gap_median_ms),
            self.unavailable,
            format!("{}/{}", self.unknown_resolved, self.unknown),
            ms(self.healthy_after_ms),
            if self.mismatches == 0 { wrong } else { paint(&wrong, 31) },
        )
    }

    /// Its line, and below it what there is to say of it.
    pub(super) fn text(&self) -> String {
        let remarks = self.remarks.iter().map(|remark| format!("\n          {remark}"));
        format!("{}{}", self.line(), remarks.collect::<String>())
    }
}

/// A span in at most six characters: `812ms`, `4.2s`, `12m05s`.
pub(super) fn brief(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..100_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{}m{:02}s", ms / 60_000, ms / 1_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stands_under_its_header_and_fits_a_terminal() {
        let row = Row {
            at_ms: 3_599_000,
            fault: Some(Kind::PauseKill),
            nodes: vec!["n1".into(), "n2".into()],
            lasted_ms: Some(99_999),
            acknowledged: 123_456,
            gap_worst_ms: Some(3_540_000),
            gap_median_ms: Some(999),
            unavailable: 99_999,
            unknown: 999,
            unknown_resolved: 999,
            healthy_after_ms: Some(61_000),
            ..Row::default()
        };
        assert_eq!((HEADER.len(), row.line().len()), (80, 80), "\n{HEADER}\n{}", row.line());
        let ends = |text: &str| text.match_indices(' ').map(|(at, _)| at).collect::<Vec<_>>();
        assert!(ends(HEADER).contains(&7) && ends(&row.line()).contains(&7));
    }

    #[test]
    fn the_worst_gap_and_the_one_in_the_middle_are_told() {
        let mut row = Row::default();
        row.gaps(vec![]);
        assert_eq!((row.gap_worst_ms, row.gap_median_ms), (None, None));
        row.gaps(vec![5, 900, 30]);
        assert_eq!((row.gap_worst_ms, row.gap_median_ms), (Some(900), Some(30)));
    }

    #[test]
    fn spans_are_brief() {
        assert_eq!([brief(0), brief(999), brief(1_050), brief(99_990)], ["0ms", "999ms", "1.0s", "99.9s"]);
        assert_eq!([brief(100_000), brief(725_000)], ["1m40s", "12m05s"]);
    }
}
