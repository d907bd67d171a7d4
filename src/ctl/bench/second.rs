//! What came of one second, or of all, as a row.

use hdrhistogram::Histogram;

use super::super::output::{number, paint};
use crate::device::{Due, Snapshot};

/// The columns, of 80 characters together.
pub(super) const HEADER: &str = " TIME OFFERED   ACKED    P50    P90    P99  P99.9    MAX UNAVL  UNKN LIMIT WRONG";

/// The counters of a span of time, and its latencies.
#[derive(Debug)]
pub(super) struct Second {
    at: String,
    offered: u64,
    acknowledged: u64,
    quantiles_us: [u64; 5],
    unavailable: u64,
    unknown: u64,
    refused: u64,
    mismatches: u64,
}

impl Second {
    pub(super) fn new(
        at: String,
        before: &(Due, Snapshot),
        now: &(Due, Snapshot),
        latencies_us: &Histogram<u64>,
    ) -> Self {
        let since = |of: fn(&(Due, Snapshot)) -> u64| of(now).saturating_sub(of(before));
        Self {
            at,
            offered: since(|(due, _)| due.offered),
            acknowledged: since(|(due, _)| due.acknowledged),
            quantiles_us: quantiles(latencies_us),
            unavailable: since(|(_, counters)| counters.unavailable),
            unknown: since(|(_, counters)| counters.unknown),
            refused: since(|(_, counters)| counters.refused_by_limit),
            mismatches: since(|(_, counters)| counters.mismatches),
        }
    }

    /// Its line, under [`HEADER`].
    pub(super) fn line(&self) -> String {
        let [p50, p90, p99, p999, max] = self.quantiles_us.map(brief);
        let missing = self.acknowledged < self.offered;
        let acknowledged = format!("{:>7}", number(self.acknowledged));
        let wrong = format!("{:>5}", self.mismatches);
        format!(
            "{:>5} {:>7} {} {p50:>6} {p90:>6} {p99:>6} {p999:>6} {max:>6} {:>5} {:>5} {:>5} {}",
            self.at,
            number(self.offered),
            if missing { paint(&acknowledged, 31) } else { acknowledged },
            self.unavailable,
            self.unknown,
            self.refused,
            if self.mismatches > 0 { paint(&wrong, 31) } else { wrong },
        )
    }
}

/// p50, p90, p99, p99.9 and the greatest, microseconds.
pub(super) fn quantiles(latencies_us: &Histogram<u64>) -> [u64; 5] {
    let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|q| latencies_us.value_at_quantile(q));
    [p50, p90, p99, p999, latencies_us.max()]
}

/// A latency in at most six characters: `812us`, `4.21ms`, `812ms`, `4.2s`.
pub(super) fn brief(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..100_000 => format!("{}.{:0width$}ms", us / 1_000, fraction(us), width = if us < 10_000 { 2 } else { 1 }),
        100_000..1_000_000 => format!("{}ms", us / 1_000),
        _ => format!("{}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// What follows the point of milliseconds: two digits below ten, one above.
fn fraction(us: u64) -> u64 {
    us % 1_000 / if us < 10_000 { 10 } else { 100 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::latencies;

    #[test]
    fn a_row_stands_under_its_header_and_fits_a_terminal() {
        let mut latest = latencies();
        latest.record(4_210).expect("it is within the bounds");
        let due = Due { offered: 1_000, acknowledged: 999, ..Due::default() };
        let line = Second::new("12s".into(), &Default::default(), &(due, Snapshot::default()), &latest).line();
        assert_eq!((HEADER.len(), line.len()), (80, 80), "\n{HEADER}\n{line}");
        assert!(line.contains(" 1,000     999 4.21ms "), "{line}");
    }

    #[test]
    fn latencies_are_brief() {
        assert_eq!([brief(812), brief(4_210), brief(10_050), brief(99_999)], ["812us", "4.21ms", "10.0ms", "99.9ms"]);
        assert_eq!([brief(812_000), brief(4_250_000)], ["812ms", "4.2s"]);
    }
}
