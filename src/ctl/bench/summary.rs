//! What came of the whole run.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::super::exit::Failure;
use super::super::output::{bar, bare_table, judged, number, right, table, text};
use super::By;
use super::second::{brief, quantiles};
use crate::device::{Due, Report};

/// How wide the longest bar of the histogram is.
const BAR: usize = 40;

/// How long reports took.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(latencies_us: &Histogram<u64>) -> Self {
        let [p50_us, p90_us, p99_us, p999_us, max_us] = quantiles(latencies_us);
        Self { p50_us, p90_us, p99_us, p999_us, max_us }
    }
}

/// So many reports took longer than the bar before it, and at most this.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Bar {
    pub(super) up_to_us: u64,
    pub(super) reports: u64,
}

/// The latencies in bars, each twice as wide as the one before; from the first to the last that has any.
pub(super) fn bars(latencies_us: &Histogram<u64>) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    let mut below = 0;
    for up_to_us in (6..31).map(|power| 1u64 << power) {
        let reports = latencies_us.count_between(below, up_to_us);
        below = latencies_us.highest_equivalent(up_to_us) + 1;
        if reports > 0 || !bars.is_empty() {
            bars.push(Bar { up_to_us, reports });
        }
    }
    while bars.last().is_some_and(|bar| bar.reports == 0) {
        bars.pop();
    }
    bars
}

#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) seed: u64,
    /// How its accounts are named; they stay.
    pub(super) accounts: String,
    pub(super) rate: u32,
    /// For how long they were offered: less than asked for where it was interrupted.
    pub(super) seconds: f64,
    pub(super) way: By,
    #[serde(flatten)]
    pub(super) due: Due,
    /// From when a report was due, also of those that were given up or not answered.
    pub(super) since_due: Latency,
    pub(super) histogram: Vec<Bar>,
    /// What the households counted; its latencies count from when a report was sent.
    pub(super) devices: Report,
    pub(super) views_ended: u64,
    /// Households whose views could not be ended.
    pub(super) households_left: u64,
    /// What is wrong with the cluster at the end.
    pub(super) complaints: Vec<String>,
}

impl Summary {
    /// What keeps it from being right, in words.
    fn reasons(&self) -> Vec<String> {
        let (due, counters) = (&self.due, &self.devices.counters);
        let mut reasons = Vec::new();
        if due.offered == 0 {
            reasons.push("nothing was offered".to_string());
        }
        if due.given_up > 0 {
            reasons.push(format!("{} reports could not be offered in time", number(due.given_up)));
        }
        if due.unanswered > 0 {
            reasons.push(format!("{} reports were not acknowledged", number(due.unanswered)));
        }
        if counters.mismatches > 0 {
            reasons.push(format!("{} answers contradict what was acknowledged", number(counters.mismatches)));
        }
        if self.devices.households_checked < self.devices.households {
            reasons.push("not all households could be read back".into());
        }
        if counters.unresolved > 0 {
            let unresolved = number(counters.unresolved);
            reasons.push(format!("nobody learned what came of {unresolved} writes"));
        }
        if self.households_left > 0 {
            reasons.push(format!("views of {} households could not be ended", number(self.households_left)));
        }
        reasons
    }

    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match (self.reasons(), &self.complaints) {
            (none, complaints) if none.is_empty() && complaints.is_empty() => Ok(()),
            (none, complaints) if none.is_empty() => Err(Failure::Degraded(complaints.join("; "))),
            (reasons, _) => Err(Failure::error(reasons.join("; "))),
        }
    }

    pub(super) fn text(&self) -> String {
        let (due, devices, latency) = (&self.due, &self.devices, &self.since_due);
        let counters = &devices.counters;
        let mut rows = bare_table();
        let mut row = |what: &str, value: String, well: bool| {
            rows.add_row([what.into(), value.into(), judged(if well { "ok" } else { "WRONG" }, well)]);
        };
        let rate = |n: u64| (n as f64 / self.seconds.max(0.001)).round() as u64;
        let a_second = |n: u64| format!("{} ({}/s)", number(n), number(rate(n)));
        row("offered", a_second(due.offered), due.offered > 0);
        row("acknowledged", a_second(due.acknowledged), due.acknowledged + due.cut_off == due.offered);
        row("not offered in time", number(due.given_up), due.given_up == 0);
        row("due at the end, not sent", number(due.cut_off), true);
        row("not acknowledged", number(due.unanswered), due.unanswered == 0);
        row("starts and stops beside them", number(counters.writes_acknowledged), true);
        let unknown = format!("{}, {} learned", number(counters.unknown), number(counters.resolved));
        row("unknown outcomes", unknown, counters.unresolved == 0);
        row("calls that nobody decided", number(counters.unavailable), true);
        row("starts refused by the limit", number(counters.refused_by_limit), true);
        row("facts compared", number(counters.facts), devices.households_checked == devices.households);
        row("mismatches", number(counters.mismatches), counters.mismatches == 0);
        row("views ended", number(self.views_ended), self.households_left == 0);
        let mut out = text(&mut rows);
        let of = |name: &str, us: u64| format!("{name} {}", brief(us));
        let since_due = [
            of("p50", latency.p50_us),
            of("p90", latency.p90_us),
            of("p99", latency.p99_us),
            of("p99.9", latency.p999_us),
            of("max", latency.max_us),
        ];
        out.push_str(&format!("\n\nsince due:  {}", since_due.join("  ")));
        let since_sent = [of("p50", counters.p50_us), of("p99", counters.p99_us)];
        out.push_str(&format!("\nsince sent: {}\n\n{}", since_sent.join("  "), self.drawn()));
        for mismatch in &counters.described {
            out.push_str(&format!("\n  {mismatch}"));
        }
        out.push_str(&format!("\n\nIts accounts {} stay, with their history.", self.accounts));
        out
    }

    /// The latencies since due as bars.
    fn drawn(&self) -> String {
        let most = self.histogram.iter().map(|bar| bar.reports).max().unwrap_or(1).max(1);
        let all: u64 = self.histogram.iter().map(|bar| bar.reports).sum();
        let mut rows = table(["UP TO", "REPORTS", "SHARE", ""]);
        right(&mut rows, &[0, 1, 2]);
        for Bar { up_to_us, reports } in &self.histogram {
            rows.add_row([
                brief(*up_to_us),
                number(*reports),
                format!("{:.2} %", *reports as f64 * 100.0 / all.max(1) as f64),
                bar(*reports as f64 / most as f64, BAR),
            ]);
        }
        text(&mut rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::latencies;

    #[test]
    fn bars_have_every_report_once_and_begin_and_end_with_some() {
        let mut all = latencies();
        for us in [1, 700, 1_000, 1_024, 1_025, 9_000, 600_000_000] {
            all.record(us).expect("it is within the bounds");
        }
        let bars = bars(&all);
        assert_eq!(bars.iter().map(|bar| bar.reports).sum::<u64>(), 7);
        assert_eq!(bars.first(), Some(&Bar { up_to_us: 64, reports: 1 }));
        assert!(bars.last().is_some_and(|bar| bar.reports == 1));
        let of = |up_to_us| bars.iter().find(|bar| bar.up_to_us == up_to_us).map(|bar| bar.reports);
        assert_eq!((of(1_024), of(2_048), of(4_096)), (Some(3), Some(1), Some(0)));
        assert!(super::bars(&latencies()).is_empty());
    }
}
