//! What becomes of a replica that has stopped by itself or can't be opened: when it is tried again, and when it is given up.
//!
//! # Contract
//!
//! Giving a replica up is for ever, and what it alone knows is lost with it. So it is done only for reasons that lie in the
//! replica's own data ([`Cause::Lost`], [`Cause::Disk`] again and again), never for one that all replicas of a group may
//! meet alike, such as a command that this build can't apply: all of them would be given up at the same place
//! (node/20). Such a replica is shown as failed, and tried again for ever, at growing distances.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::ids::ReplicaId;
use crate::raft::Cause;
use crate::time::MonotonicMs;

/// After the first failure it is waited this long, then each time twice as long.
pub(super) const RETRY_MS: u64 = 5000;
/// The longest wait.
const RETRY_MS_MAX: u64 = 300_000;
/// Who has been open for so long begins anew.
const WELL_MS: u64 = 60_000;
/// So often in a row may a replica's data be unreadable.
const DISK_FAILURES_MAX: u32 = 5;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It may be opened again from then on.
    Again(MonotonicMs),
    /// It must never be opened again.
    Retire,
}

#[derive(Clone, Copy, Debug, Default)]
struct History {
    failures: u32,
    of_disk: u32,
    opened: Option<MonotonicMs>,
}

/// How the replicas of this node have failed so far.
#[derive(Debug)]
pub(super) struct Mender {
    /// A replica that runs again has forgotten which lease it granted: it isn't opened before that has run out.
    lease_ms: u64,
    histories: Mutex<BTreeMap<ReplicaId, History>>,
}

impl Mender {
    pub(super) fn new(lease_ms: u64) -> Self {
        Self { lease_ms, histories: Mutex::default() }
    }

    /// A replica is open.
    pub(super) fn opened(&self, replica: ReplicaId, now: MonotonicMs) {
        if let Some(history) = self.histories.lock().get_mut(&replica) {
            history.opened = Some(now);
        }
    }

    /// A replica has failed.
    pub(super) fn failed(&self, replica: ReplicaId, cause: Cause, now: MonotonicMs) -> Next {
        let mut histories = self.histories.lock();
        let history = histories.entry(replica).or_default();
        if history.opened.take().is_some_and(|at| now.since(at) >= WELL_MS) {
            *history = History::default();
        }
        history.failures = history.failures.saturating_add(1);
        history.of_disk = if cause == Cause::Disk { history.of_disk.saturating_add(1) } else { 0 };
        if cause == Cause::Lost || history.of_disk >= DISK_FAILURES_MAX {
            histories.remove(&replica);
            return Next::Retire;
        }
        let wait = (RETRY_MS << (history.failures - 1).min(10)).min(RETRY_MS_MAX);
        Next::Again(now.plus(wait.max(self.lease_ms)))
    }

    /// Its replica is gone.
    pub(super) fn forget(&self, replica: ReplicaId) {
        self.histories.lock().remove(&replica);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: ReplicaId = ReplicaId(7);

    fn waits(mender: &Mender, cause: Cause, times: u32) -> Vec<u64> {
        let now = MonotonicMs(1_000_000);
        let failed = (0..times).map(|_| match mender.failed(R, cause, now) {
            Next::Again(at) => at.since(now),
            Next::Retire => 0,
        });
        failed.collect()
    }

    #[test]
    fn what_every_replica_may_meet_never_retires_one_and_is_tried_at_growing_distances() {
        let mender = Mender::new(600);
        let waits = waits(&mender, Cause::Other, 1000);
        assert_eq!(waits[..3], [5000, 10_000, 20_000]);
        assert!(waits.iter().all(|wait| (5000..=300_000).contains(wait)));
        assert_eq!(waits[999], 300_000);
    }

    #[test]
    fn lost_data_retires_at_once_and_unreadable_data_when_it_stays_so() {
        let mender = Mender::new(600);
        assert_eq!(waits(&mender, Cause::Lost, 1), [0]);
        assert_eq!(waits(&mender, Cause::Disk, 5), [5000, 10_000, 20_000, 40_000, 0]);
        // Another reason in between: then it was read.
        assert!(!waits(&mender, Cause::Disk, 4).contains(&0));
        assert!(!waits(&mender, Cause::Other, 1).contains(&0));
        assert!(!waits(&mender, Cause::Disk, 4).contains(&0));
    }

    #[test]
    fn who_was_open_for_a_minute_begins_anew_and_nobody_comes_back_before_its_lease_has_run_out() {
        let mender = Mender::new(120_000);
        let at = |ms| MonotonicMs(ms);
        assert_eq!(mender.failed(R, Cause::Disk, at(0)), Next::Again(at(120_000)));
        for round in 1..20 {
            mender.opened(R, at(round * 200_000));
            let now = at(round * 200_000 + WELL_MS);
            assert_eq!(mender.failed(R, Cause::Disk, now), Next::Again(now.plus(120_000)));
        }
        mender.opened(R, at(9_000_000));
        assert_ne!(mender.failed(R, Cause::Disk, at(9_000_001)), Next::Retire);
    }
}
