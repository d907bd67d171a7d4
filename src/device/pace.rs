//! Reports by the clock: when each is due, and how long it took from then on.
//!
//! A household that sends its next report a while after the last one was answered asks a slow cluster less, and the answers
//! that it would have waited for are in no latency ("coordinated omission"). Here the clock alone says when a report is due:
//! what comes late out of its household, because the report before it was not answered yet, has waited from then on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::time::Instant;

use super::household::Household;

/// How often a household that is to report something tries to begin a play.
const BEGINS_MAX: usize = 6;

/// How reports are offered by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Reports a second of all households together, 1 to 1,000,000.
    pub rate: u32,
    /// For how long reports become due.
    pub duration: Duration,
    /// A report that cannot be sent within so long of when it was due is given up.
    pub late_max: Duration,
}

impl Pace {
    /// Between two reports of each of `households`.
    pub fn interval(&self, households: usize) -> Duration {
        let nanos = households as u128 * 1_000_000_000 / u128::from(self.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long the households have to begin their first plays before the first report is due.
    pub fn lead(&self, households: usize) -> Duration {
        self.interval(households).max(Duration::from_secs(1))
    }
}

/// When the reports of one household are due, from the beginning: one in the first half of every interval of its own.
#[derive(Debug)]
pub(super) struct Dues {
    interval: Duration,
    duration: Duration,
    next: Duration,
    rng: StdRng,
}

impl Dues {
    pub(super) fn new(pace: &Pace, households: usize, mut rng: StdRng) -> Self {
        let interval = pace.interval(households).max(Duration::from_nanos(1));
        // Each household has its own phase; on average every one has as many whole intervals as the rate says.
        let next = interval.mul_f64(rng.random_range(0.0..1.0));
        Self { interval, duration: pace.duration, next, rng }
    }
}

impl Iterator for Dues {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let slot = self.next;
        (slot < self.duration).then(|| {
            self.next = slot.saturating_add(self.interval);
            let jitter = self.interval.mul_f64(self.rng.random_range(0.0..0.5));
            slot.saturating_add(jitter)
        })
    }
}

/// What became of the reports that were due.
#[derive(Debug)]
pub(super) struct Timing {
    offered: AtomicU64,
    acknowledged: AtomicU64,
    given_up: AtomicU64,
    cut_off: AtomicU64,
    unanswered: AtomicU64,
    /// Households that still have reports to send.
    busy: AtomicU64,
    latest_us: Mutex<Histogram<u64>>,
}

/// The reports that were due until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Due {
    /// Reports that were due and were sent, or given up.
    pub offered: u64,
    /// Of those, acknowledged.
    pub acknowledged: u64,
    /// Of those, never sent: it was too late for them, or there was no view to report.
    pub given_up: u64,
    /// Of those, never sent, because the fleet was stopped when they were due and not late yet.
    pub cut_off: u64,
    /// Of those, sent and refused, or never answered.
    pub unanswered: u64,
    /// Households that still have reports to send.
    #[serde(skip)]
    pub busy: u64,
}

/// From a microsecond to ten minutes, three significant digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

impl Timing {
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let latest_us = Mutex::new(latencies());
        Self {
            offered: zero(),
            acknowledged: zero(),
            given_up: zero(),
            cut_off: zero(),
            unanswered: zero(),
            busy: zero(),
            latest_us,
        }
    }

    pub(super) fn counts(&self) -> Due {
        Due {
            offered: self.offered.load(Relaxed),
            acknowledged: self.acknowledged.load(Relaxed),
            given_up: self.given_up.load(Relaxed),
            cut_off: self.cut_off.load(Relaxed),
            unanswered: self.unanswered.load(Relaxed),
            busy: self.busy.load(Relaxed),
        }
    }

    /// The latencies since the last call, microseconds.
    pub(super) fn take(&self) -> Histogram<u64> {
        let mut latest = self.latest_us.lock();
        std::mem::replace(&mut *latest, latencies())
    }

    pub(super) fn is_busy(&self, begins: bool) {
        if begins {
            self.busy.fetch_add(1, Relaxed)
        } else {
            self.busy.fetch_sub(1, Relaxed)
        };
    }

    /// A report is due.
    fn offer(&self) {
        self.offered.fetch_add(1, Relaxed);
    }

    /// Every report that was due leaves one latency, also one that was not acknowledged: otherwise the worst would be left out.
    fn record(&self, which: &AtomicU64, since_due: Duration) {
        which.fetch_add(1, Relaxed);
        let us = u64::try_from(since_due.as_micros()).unwrap_or(u64::MAX).max(1);
        self.latest_us.lock().saturating_record(us);
    }

    pub(super) fn answered(&self, acknowledged: bool, due: Instant) {
        let which = if acknowledged { &self.acknowledged } else { &self.unanswered };
        self.record(which, due.elapsed());
    }

    /// A report was due when the fleet was stopped: late already, or nobody will know.
    fn stopped(&self, due: Instant, late_max: Duration) {
        self.offer();
        let since_due = due.elapsed();
        let which = if since_due > late_max { &self.given_up } else { &self.cut_off };
        self.record(which, since_due);
    }

    pub(super) fn gave_up(&self, due: Instant) {
        self.record(&self.given_up, due.elapsed());
    }
}

impl Household {
    /// Plays by the clock until no further report becomes due, or the fleet is stopped.
    pub(super) async fn live_by_the_clock(mut self, dues: Dues, pace: Pace, begun: Instant) -> Self {
        let (stop, stats) = (self.around.stop.clone(), self.around.stats.clone());
        let lead = pace.lead(self.around.plan.households);
        let begins = begun + dues.next;
        let at = |due: Duration| begun + lead + due;
        let mut dues = dues.map(at);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(begins) => self.have_something_to_report().await,
        }
        for due in dues.by_ref() {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    if due <= Instant::now() {
                        stats.timing.stopped(due, pace.late_max);
                    }
                    break;
                }
                () = tokio::time::sleep_until(due) => {}
            }
            stats.timing.offer();
            if due.elapsed() > pace.late_max {
                stats.timing.gave_up(due);
                continue;
            }
            self.due = Some(due);
            if self.next_device().is_none() {
                self.have_something_to_report().await;
            }
            if let Some(device) = self.next_device() {
                self.step(device).await;
            }
            if let Some(due) = self.due.take() {
                stats.timing.gave_up(due);
            }
            self.have_something_to_report().await;
        }
        let now = Instant::now();
        for due in dues.take_while(|due| *due <= now) {
            stats.timing.stopped(due, pace.late_max);
        }
        self.leave();
        stats.timing.is_busy(false);
        self
    }

    /// Ends the plays that are over and begins another where none is left, so that the next report can go when it is due.
    async fn have_something_to_report(&mut self) {
        while let Some(device) = self.over() {
            self.step(device).await;
        }
        for _ in 0..BEGINS_MAX {
            if self.next_device().is_some() || self.around.stop.is_cancelled() {
                break;
            }
            self.begin().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn pace(rate: u32, seconds: u64) -> Pace {
        Pace { rate, duration: Duration::from_secs(seconds), late_max: Duration::from_secs(1) }
    }

    #[test]
    fn as_many_reports_are_due_as_the_rate_says_each_in_its_turn() {
        let pace = pace(1_000, 10);
        let of = |seed| Dues::new(&pace, 250, StdRng::seed_from_u64(seed)).collect::<Vec<_>>();
        let all: Vec<Vec<Duration>> = (0..250).map(of).collect();
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 10_000);
        assert!(all.iter().flat_map(|dues| dues.windows(2)).all(|pair| pair[0] < pair[1]));
        assert_eq!(all[7], of(7));
        assert_ne!(all[7], all[8]);
    }

    #[test]
    fn every_report_that_was_due_leaves_a_latency_from_when_it_was() {
        let timing = Timing::new();
        let due = Instant::now();
        timing.stopped(due, Duration::from_secs(3_600));
        (0..3).for_each(|_| timing.offer());
        timing.answered(true, due);
        timing.answered(false, due);
        timing.gave_up(due);
        let counts = timing.counts();
        assert_eq!((counts.offered, counts.acknowledged, counts.unanswered, counts.given_up), (4, 1, 1, 1));
        assert_eq!(counts.cut_off, 1);
        assert_eq!((timing.take().len(), timing.take().len()), (4, 0));
        std::thread::sleep(Duration::from_millis(2));
        timing.stopped(due, Duration::from_millis(1));
        assert_eq!(timing.counts().given_up, 2);
    }
}
