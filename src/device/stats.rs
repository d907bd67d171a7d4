//! What a fleet counts while it plays, readable at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

use super::pace::{Due, Timing};
use crate::time::MonotonicMs;

/// The most mismatches that are described.
const MISMATCHES_MAX: usize = 50;

/// Counters of a running fleet.
#[derive(Debug)]
pub struct Stats {
    reports_acknowledged: AtomicU64,
    writes_acknowledged: AtomicU64,
    refused_by_limit: AtomicU64,
    unknown: AtomicU64,
    resolved: AtomicU64,
    unresolved: AtomicU64,
    unavailable: AtomicU64,
    accepted: AtomicU64,
    accepted_compared: AtomicU64,
    accepted_lost: AtomicU64,
    /// All that was accepted has been handed off.
    handed_off: AtomicBool,
    checks: AtomicU64,
    reads: AtomicU64,
    facts: AtomicU64,
    mismatches: AtomicU64,
    playing: AtomicU64,
    described: Mutex<Vec<String>>,
    latency_us: Mutex<Histogram<u64>>,
    shards: Mutex<BTreeMap<u32, Acks>>,
    pub(super) timing: Timing,
    pub(super) still: Still,
}

/// Households that stand still around a fault.
#[derive(Debug, Default)]
pub(super) struct Still {
    standing: AtomicU64,
    compared: AtomicU64,
    facts: AtomicU64,
}

impl Still {
    pub(super) fn reset(&self) {
        [&self.standing, &self.compared, &self.facts].into_iter().for_each(|count| count.store(0, Relaxed));
    }

    pub(super) fn stands(&self) {
        self.standing.fetch_add(1, Relaxed);
    }

    pub(super) fn standing(&self) -> u64 {
        self.standing.load(Relaxed)
    }

    pub(super) fn was_compared(&self, facts: u64) {
        self.facts.fetch_add(facts, Relaxed);
        self.compared.fetch_add(1, Relaxed);
    }

    /// How many were compared, and how many facts.
    pub(super) fn compared(&self) -> (u64, u64) {
        (self.compared.load(Relaxed), self.facts.load(Relaxed))
    }
}

/// When writes of a shard were acknowledged.
#[derive(Clone, Copy, Debug)]
struct Acks {
    last: MonotonicMs,
    longest_gap_ms: u64,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Progress reports that the cluster acknowledged.
    pub reports_acknowledged: u64,
    /// Starts and stops that the cluster acknowledged.
    pub writes_acknowledged: u64,
    /// Starts refused because the account watched as much as it may.
    pub refused_by_limit: u64,
    /// Writes whose outcome was unknown at first.
    pub unknown: u64,
    /// Of those, how many the cluster decided when they were asked again.
    pub resolved: u64,
    /// Of those, how many stayed unknown after all attempts.
    pub unresolved: u64,
    /// Calls that nobody decided in time.
    pub unavailable: u64,
    /// Reports, stops and starts that were only accepted, while their shard had no leader.
    pub accepted: u64,
    /// How often the latest of them was looked for after it had been handed off.
    pub accepted_compared: u64,
    /// Of these, how often it was not there.
    pub accepted_lost: u64,
    /// Checks of a household.
    pub checks: u64,
    /// Strong reads that they made.
    pub reads: u64,
    /// Single facts that they compared with what was acknowledged.
    pub facts: u64,
    /// Answers that contradict what was acknowledged.
    pub mismatches: u64,
    /// Devices that play now.
    pub playing: u64,
    /// Half of the reports were answered within this time, microseconds.
    pub p50_us: u64,
    /// 99 of 100 reports were answered within this time, microseconds.
    pub p99_us: u64,
    /// The first mismatches, in words.
    pub described: Vec<String>,
}

impl Stats {
    pub(super) fn new() -> Self {
        // From a microsecond to ten minutes, two significant digits: about 50 KiB.
        let latency = Histogram::new_with_bounds(1, 600_000_000, 2).expect("the bounds are in order");
        Self {
            reports_acknowledged: AtomicU64::new(0),
            writes_acknowledged: AtomicU64::new(0),
            refused_by_limit: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            unresolved: AtomicU64::new(0),
            unavailable: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            accepted_compared: AtomicU64::new(0),
            accepted_lost: AtomicU64::new(0),
            handed_off: AtomicBool::new(false),
            checks: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            facts: AtomicU64::new(0),
            mismatches: AtomicU64::new(0),
            playing: AtomicU64::new(0),
            described: Mutex::new(Vec::new()),
            latency_us: Mutex::new(latency),
            shards: Mutex::new(BTreeMap::new()),
            timing: Timing::new(),
            still: Still::default(),
        }
    }

    /// Says that everything that was accepted has been handed off: from now on the latest of it has to be there.
    pub fn all_is_handed_off(&self) {
        self.handed_off.store(true, Relaxed);
    }

    pub(super) fn is_handed_off(&self) -> bool {
        self.handed_off.load(Relaxed)
    }

    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(super) fn accepted_compared(&self) {
        self.accepted_compared.fetch_add(1, Relaxed);
    }

    pub(super) fn accepted_lost(&self) {
        self.accepted_lost.fetch_add(1, Relaxed);
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let latency = self.latency_us.lock();
        let (p50_us, p99_us) = (latency.value_at_quantile(0.5), latency.value_at_quantile(0.99));
        drop(latency);
        Snapshot {
            reports_acknowledged: self.reports_acknowledged.load(Relaxed),
            writes_acknowledged: self.writes_acknowledged.load(Relaxed),
            refused_by_limit: self.refused_by_limit.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            resolved: self.resolved.load(Relaxed),
            unresolved: self.unresolved.load(Relaxed),
            unavailable: self.unavailable.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            accepted_compared: self.accepted_compared.load(Relaxed),
            accepted_lost: self.accepted_lost.load(Relaxed),
            checks: self.checks.load(Relaxed),
            reads: self.reads.load(Relaxed),
            facts: self.facts.load(Relaxed),
            mismatches: self.mismatches.load(Relaxed),
            playing: self.playing.load(Relaxed),
            p50_us,
            p99_us,
            described: self.described.lock().clone(),
        }
    }

    /// What became of the reports that were due by the clock; all zero in a fleet without a [`Pace`](super::Pace).
    pub fn due(&self) -> Due {
        self.timing.counts()
    }

    /// How long the reports that were due took since then, microseconds: those that ended since the last call.
    pub fn take_latencies(&self) -> Histogram<u64> {
        self.timing.take()
    }

    /// The longest time between two acknowledged writes of each shard since the last call, milliseconds. A gap that is still
    /// open at `now` counts with what it has; the next call begins at `now`.
    pub fn take_gaps(&self, now: MonotonicMs) -> BTreeMap<u32, u64> {
        let mut shards = self.shards.lock();
        let taken = shards.iter_mut().map(|(shard, acks)| {
            let gap_ms = acks.longest_gap_ms.max(now.since(acks.last));
            *acks = Acks { last: now, longest_gap_ms: 0 };
            (*shard, gap_ms)
        });
        taken.collect()
    }

    /// The shards that have acknowledged writes, and none since this moment.
    pub fn silent_since(&self, moment: MonotonicMs) -> Vec<u32> {
        let shards = self.shards.lock();
        shards.iter().filter(|(_, acks)| acks.last <= moment).map(|(shard, _)| *shard).collect()
    }

    /// How many shards have acknowledged writes at all.
    pub fn shards_written(&self) -> usize {
        self.shards.lock().len()
    }

    pub(super) fn report_acknowledged(&self, shard: u32, took: Duration, now: MonotonicMs) {
        self.reports_acknowledged.fetch_add(1, Relaxed);
        self.latency_us.lock().saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
        self.acknowledged(shard, now);
    }

    pub(super) fn write_acknowledged(&self, shard: u32, now: MonotonicMs) {
        self.writes_acknowledged.fetch_add(1, Relaxed);
        self.acknowledged(shard, now);
    }

    fn acknowledged(&self, shard: u32, now: MonotonicMs) {
        let mut shards = self.shards.lock();
        let acks = shards.entry(shard).or_insert(Acks { last: now, longest_gap_ms: 0 });
        acks.longest_gap_ms = acks.longest_gap_ms.max(now.since(acks.last));
        acks.last = acks.last.max(now);
    }

    pub(super) fn limit_reached(&self) {
        self.refused_by_limit.fetch_add(1, Relaxed);
    }

    /// Counts a call that nobody decided.
    pub(super) fn unavailable(&self) {
        self.unavailable.fetch_add(1, Relaxed);
    }

    /// Counts a write whose outcome is unknown, once.
    pub(super) fn unknown(&self) {
        self.unknown.fetch_add(1, Relaxed);
    }

    /// Such a write has come to its end: whether it was learned what became of it.
    pub(super) fn no_longer_asked(&self, learned: bool) {
        if learned { &self.resolved } else { &self.unresolved }.fetch_add(1, Relaxed);
    }

    pub(super) fn compared(&self, facts: usize) {
        self.facts.fetch_add(facts as u64, Relaxed);
    }

    pub(super) fn checked(&self, reads: u64) {
        self.checks.fetch_add(1, Relaxed);
        self.reads.fetch_add(reads, Relaxed);
    }

    pub(super) fn read(&self, reads: u64) {
        self.reads.fetch_add(reads, Relaxed);
    }

    pub(super) fn mismatch(&self, what: String) {
        self.mismatches.fetch_add(1, Relaxed);
        let mut described = self.described.lock();
        if described.len() < MISMATCHES_MAX {
            described.push(what);
        }
    }

    pub(super) fn now_playing(&self, started: bool) {
        match started {
            true => self.playing.fetch_add(1, Relaxed),
            false => self.playing.fetch_sub(1, Relaxed),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_of_a_shard_counts_also_when_it_is_still_open() {
        let stats = Stats::new();
        for at in [100, 150, 950, 1_000] {
            stats.write_acknowledged(7, MonotonicMs(at));
        }
        stats.write_acknowledged(8, MonotonicMs(1_000));
        assert_eq!(stats.take_gaps(MonotonicMs(3_000)), BTreeMap::from([(7, 2_000), (8, 2_000)]));
        assert_eq!(stats.silent_since(MonotonicMs(3_000)), [7, 8]);
        stats.write_acknowledged(7, MonotonicMs(3_100));
        assert_eq!(stats.silent_since(MonotonicMs(3_000)), [8]);
        assert_eq!(stats.take_gaps(MonotonicMs(3_150)), BTreeMap::from([(7, 100), (8, 150)]));
    }
}
