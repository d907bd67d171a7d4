//! What the shards cost that are led here: counted, averaged, told to the other nodes and shown as metrics.
//!
//! # Contract
//!
//! [`Thermometer::read`] is told once a second what each replica has done, and answers with what each shard that is led here costs: an
//! average over so long as this node has led it, at most over a minute (`heat.average_ms`). It knows no clock but what it is told.
//!
//! # Caveats
//!
//! Counted is what a leader commits and answers itself (`docs/balance.md`). What a node does for shards that it doesn't lead, as their
//! follower or for clients that come in at it, counts for nobody.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ReplicaId, ShardId};
use crate::plan::balance::{averaged, cost_over};
use crate::raft::Work;
use crate::telemetry::{Metrics, ShardLabels};
use crate::time::MonotonicMs;

use super::gossip::ShardHeat;
use super::shards::Shards;

/// What a replica has done by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    shard: ShardId,
    replica: ReplicaId,
    /// Whether it leads, with a quorum.
    leads: bool,
    work: Work,
    active_views: u64,
}

/// What came of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Read {
    shard: ShardId,
    /// Done since the last count.
    work: Work,
    active_views: u64,
    /// Of a shard that is led here.
    heat: Option<ShardHeat>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    work: Work,
    led: Option<ShardHeat>,
}

/// Averages what shards cost.
#[derive(Debug)]
pub(super) struct Thermometer {
    over_ms: u64,
    last: Option<MonotonicMs>,
    known: BTreeMap<ReplicaId, Known>,
    shown: BTreeSet<ShardId>,
}

impl Thermometer {
    /// One that averages over so long.
    pub(super) fn over(over_ms: u64) -> Self {
        Self { over_ms, last: None, known: BTreeMap::new(), shown: BTreeSet::new() }
    }

    /// Takes in the counts of all replicas that run here.
    fn read(&mut self, now: MonotonicMs, counts: impl Iterator<Item = Count>) -> Vec<Read> {
        let elapsed_ms = self.last.replace(now).map_or(0, |last| now.since(last));
        let before = std::mem::take(&mut self.known);
        let reads = counts.map(|count| {
            let Count { shard, replica, leads, work, active_views } = count;
            let known = before.get(&replica);
            let done = known.map_or(work, |known| work.since(known.work));
            let cost = cost_over(done.requests, done.bytes, active_views, elapsed_ms);
            let led = match known.and_then(|known| known.led) {
                _ if !leads => None,
                // It has come since the last count, at any time.
                None => Some(ShardHeat { shard, cost: 0, measured_ms: 0 }),
                Some(led) if elapsed_ms == 0 => Some(led),
                Some(ShardHeat { measured_ms: 0, .. }) => Some(ShardHeat { shard, cost, measured_ms: elapsed_ms }),
                // Until it is measured for so long, all of it weighs alike.
                Some(ShardHeat { cost: old, measured_ms, .. }) => Some(ShardHeat {
                    shard,
                    cost: averaged(old, cost, elapsed_ms, measured_ms.min(self.over_ms)),
                    measured_ms: measured_ms.saturating_add(elapsed_ms),
                }),
            };
            self.known.insert(replica, Known { work, led });
            Read { shard, work: done, active_views, heat: led }
        });
        reads.collect()
    }

    /// Counts what was done here, shows it, and answers what is led here and costs how much.
    pub(super) fn look(&mut self, now: MonotonicMs, shards: &Shards, metrics: &Metrics) -> Vec<ShardHeat> {
        let counts = shards.all().into_iter().filter_map(|hosted| {
            let leads = hosted.leads() && !hosted.has_lost_quorum();
            let (work, active_views) = (hosted.work(), hosted.active_views());
            Some(Count { shard: hosted.group.shard()?, replica: hosted.replica, leads, work, active_views })
        });
        let reads = self.read(now, counts);
        self.show(&reads, metrics);
        reads.into_iter().filter_map(|read| read.heat).collect()
    }

    fn show(&mut self, reads: &[Read], metrics: &Metrics) {
        let label = |shard: ShardId| ShardLabels { shard: shard.0 };
        for read in reads.iter().filter(|read| read.work != Work::default()) {
            metrics.shard_requests.get_or_create(&label(read.shard)).inc_by(read.work.requests);
            metrics.shard_bytes.get_or_create(&label(read.shard)).inc_by(read.work.bytes);
        }
        let led: BTreeSet<ShardId> = reads.iter().filter(|read| read.heat.is_some()).map(|read| read.shard).collect();
        for gone in self.shown.difference(&led) {
            metrics.shard_active_views.remove(&label(*gone));
            metrics.shard_cost.remove(&label(*gone));
        }
        for (read, heat) in reads.iter().filter_map(|read| Some((read, read.heat?))) {
            let views = i64::try_from(read.active_views).unwrap_or(i64::MAX);
            metrics.shard_active_views.get_or_create(&label(read.shard)).set(views);
            metrics.shard_cost.get_or_create(&label(read.shard)).set(heat.cost as f64 / 1e3);
        }
        self.shown = led;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(leads: bool, requests: u64, active_views: u64) -> Count {
        let work = Work { requests, bytes: 16 * 1024 * requests };
        Count { shard: ShardId(7), replica: ReplicaId(9), leads, work, active_views }
    }

    /// What the shard costs after a second in which its count came to this.
    fn after(thermometer: &mut Thermometer, at_s: u64, count: Count) -> Option<(u64, u64)> {
        let read = thermometer.read(MonotonicMs(1000 * at_s), [count].into_iter());
        read[0].heat.map(|heat| (heat.cost, heat.measured_ms))
    }

    #[test]
    fn a_cost_is_the_mean_since_the_lead_came_and_then_follows_over_a_minute() {
        let mut thermometer = Thermometer::over(4_000);
        let mut next = |at_s, count| after(&mut thermometer, at_s, count);
        assert_eq!(next(1, count(true, 500, 0)), Some((0, 0)), "nobody knows since when");
        assert_eq!(next(2, count(true, 520, 0)), Some((40_000, 1000)), "20 requests of 16 KiB");
        assert_eq!(next(3, count(true, 520, 0)), Some((20_000, 2000)));
        assert_eq!(next(4, count(true, 520, 6_000)), Some((15_333, 3000)), "6,000 views are six requests a second");
        assert_eq!(next(5, count(true, 520, 0)), Some((11_499, 4000)));
        assert_eq!(next(6, count(true, 520, 0)), Some((9_199, 5000)));
        assert_eq!(next(7, count(true, 520, 0)), Some((7_359, 6000)), "a fifth less each second from now on");
        assert_eq!(next(8, count(false, 520, 6_000)), None);
        assert_eq!(next(9, count(true, 530, 6_000)), Some((0, 0)), "another lead is measured anew");
        assert_eq!(next(10, count(true, 3, 0)), Some((6_000, 1000)), "started anew meanwhile");
        assert_eq!(next(10, count(true, 3, 0)), Some((6_000, 1000)), "no time has passed");
    }

    #[test]
    fn what_is_led_is_shown_and_what_is_led_no_more_is_not() {
        let (mut thermometer, metrics) = (Thermometer::over(60_000), Metrics::new());
        for (at, count) in [count(true, 5, 2_000), count(true, 9, 2_000)].into_iter().enumerate() {
            let reads = thermometer.read(MonotonicMs(1000 * at as u64), [count].into_iter());
            thermometer.show(&reads, &metrics);
        }
        let text = metrics.encode();
        for line in ["shard_requests_total{shard=\"7\"} 9", "shard_active_views{shard=\"7\"} 2000"] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
        assert!(text.contains("shard_cost{shard=\"7\"} 10.0"), "{text}");
        let reads = thermometer.read(MonotonicMs(3000), [count(false, 9, 2_000)].into_iter());
        thermometer.show(&reads, &metrics);
        let text = metrics.encode();
        assert!(!text.contains("shard_cost{") && text.contains("shard_requests_total{shard=\"7\"} 9"), "{text}");
    }
}
