//! How much of its machine a node uses, where somebody bounds it: turns for all groups of a node.
//!
//! Whoever is to work first waits for a turn, which is worth some commands; turns of one priority go round in the order in which they were
//! asked for, and a lower priority gets one only while there is more in the bucket than a higher one needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Priority;
use crate::time::{Clock, MonotonicMs};

/// A turn is worth what the node may do in so many milliseconds, and one command at least.
const TURN_MS: u64 = 2;
/// What the bucket holds: so many milliseconds' worth, and four commands at least.
const BURST_MS: u64 = 20;

#[derive(Debug)]
struct Bucket {
    /// Thousandths of a command.
    level: i64,
    filled: MonotonicMs,
}

/// The turns of a node.
#[derive(Debug)]
pub struct Pacer {
    per_second: u32,
    clock: Arc<dyn Clock>,
    bucket: Mutex<Bucket>,
    /// Fair: first come, first served.
    gates: [tokio::sync::Mutex<()>; Priority::COUNT],
    waiting: [AtomicUsize; Priority::COUNT],
}

impl Pacer {
    /// So many commands and queries a second; 0: as many as there are.
    pub(super) fn new(per_second: u32, clock: Arc<dyn Clock>) -> Self {
        let bucket = Mutex::new(Bucket { level: 0, filled: clock.monotonic() });
        Self { per_second, clock, bucket, gates: Default::default(), waiting: Default::default() }
    }

    /// What a turn is worth, in commands.
    pub(crate) fn worth(&self) -> usize {
        match self.per_second {
            0 => usize::MAX,
            per_second => usize::try_from((u64::from(per_second) * TURN_MS / 1_000).max(1)).unwrap_or(usize::MAX),
        }
    }

    /// Waits for a turn, and says how many commands it is worth. What was really done is told by [`Self::settle`].
    pub(crate) async fn turn(&self, priority: Priority) -> usize {
        if self.per_second == 0 {
            return usize::MAX;
        }
        let _one = self.gates[priority as usize].lock().await;
        while let Some(wait) = self.pay(priority) {
            tokio::time::sleep(wait).await;
        }
        self.worth()
    }

    /// A turn for a query; `false`: it would come too late.
    pub(crate) async fn read(&self, priority: Priority) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let waiting = &self.waiting[priority as usize];
        let most = u64::from(self.per_second).saturating_mul(priority.wait_ms_max()) / 1_000;
        let _counted = Counted::new(waiting);
        if waiting.load(Ordering::Relaxed) as u64 > most.max(1) {
            return false;
        }
        // Whoever has waited so long is refused while somebody still listens.
        let patience = Duration::from_millis(priority.wait_ms_max());
        if tokio::time::timeout(patience, self.turn(priority)).await.is_err() {
            return false;
        }
        self.settle(1);
        true
    }

    /// A turn that was paid for was used for so many commands.
    pub(crate) fn settle(&self, done: usize) {
        if self.per_second > 0 {
            let owed = i64::try_from(done).unwrap_or(i64::MAX) - i64::try_from(self.worth()).unwrap_or(1);
            let mut bucket = self.bucket.lock();
            bucket.level = bucket.level.saturating_sub(owed.saturating_mul(1_000));
        }
    }

    /// Pays for a turn, or says how long to wait before it is tried again.
    fn pay(&self, priority: Priority) -> Option<Duration> {
        let now = self.clock.monotonic();
        let per_second = i64::from(self.per_second);
        let holds = (per_second * BURST_MS as i64).max(4_000);
        let price = i64::try_from(self.worth()).unwrap_or(1) * 1_000;
        let least = match priority {
            Priority::Own => i64::MIN,
            Priority::Prompt => 0,
            Priority::Report => holds / 4,
            Priority::Listing | Priority::Bulk => holds / 2,
        };
        let mut bucket = self.bucket.lock();
        let elapsed_ms = i64::try_from(now.since(bucket.filled)).unwrap_or(i64::MAX);
        bucket.level = bucket.level.saturating_add(elapsed_ms.saturating_mul(per_second)).min(holds);
        bucket.filled = now;
        if bucket.level >= least {
            bucket.level -= price;
            return None;
        }
        let missing_ms = (least - bucket.level) / per_second.max(1) + 1;
        Some(Duration::from_millis(u64::try_from(missing_ms).unwrap_or(1).clamp(1, 50)))
    }
}

/// One that waits.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::testing::Hands;

    #[test]
    fn what_is_paid_for_is_bounded_and_the_important_is_paid_for_first() {
        let clock = Arc::new(Hands::default());
        let pacer = Pacer::new(1_000, clock.clone());
        let (mut prompt, mut report) = (0, 0);
        for ms in 1..=1_000 {
            clock.awake.store(ms, Ordering::Relaxed);
            while pacer.pay(Priority::Prompt).is_none() {
                prompt += pacer.worth();
            }
            while pacer.pay(Priority::Report).is_none() {
                report += pacer.worth();
            }
        }
        assert_eq!(report, 0, "there was always something more important");
        assert!((990..=1_010).contains(&prompt), "{prompt}");
        clock.awake.store(2_000, Ordering::Relaxed);
        assert!(pacer.pay(Priority::Report).is_none() && pacer.pay(Priority::Own).is_none());
    }

    #[test]
    fn a_turn_that_was_used_for_more_than_it_was_worth_is_owed() {
        let clock = Arc::new(Hands::default());
        clock.awake.store(100, Ordering::Relaxed);
        let pacer = Pacer::new(1_000, clock.clone());
        clock.awake.store(200, Ordering::Relaxed);
        assert!(pacer.pay(Priority::Report).is_none());
        pacer.settle(120);
        assert!(pacer.pay(Priority::Prompt).is_some(), "a hundred milliseconds are owed");
        clock.awake.store(310, Ordering::Relaxed);
        assert!(pacer.pay(Priority::Prompt).is_none());
    }
}
