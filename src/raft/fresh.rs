//! How old a replica's state is at most.
//!
//! # What is proof
//!
//! A replica knows one thing for certain: a moment of its *own* clock at which it asked, and a log index that was answered. If the
//! leader began a ReadIndex round after it was asked, and a quorum confirmed the lead in that round, then everything that was
//! acknowledged anywhere before the moment of asking stands at or below the index that the leader read. Once this replica has applied
//! up to there, its state has all of it: `(moment, index)` is a *proof*, and the state's age is at most what has passed since the
//! moment. Invariant raft/14.
//!
//! That an append or a heartbeat came in is no proof, whatever it says: it may have lain in a socket while this process stood still, and
//! who sent it may have lost its lead without knowing. Nor does a lease count: it compares the clocks of two machines.
//!
//! # What it rests on
//!
//! Only on this machine's stopwatch, in one reading ([`Clock::awake_or_not`]), which goes on while the process stands still (SIGSTOP, a
//! page that is swapped in) and while the machine is suspended; it may run wrong by [`RATE`]. What it can't see is a virtual
//! machine whose clocks are all stopped and not put right afterwards. Nothing here rests on another machine's clock, on how long a
//! message was under way, or on the calendar.
//!
//! The moment is read *before* the question is sent, the present *after* the state was looked at, and parts of milliseconds count as whole
//! ones: every error makes the state look older. Proofs are kept in memory only; a replica that is started anew has none.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::time::{AwakeOrNotMs, Clock};

/// Proofs that wait until the state has reached them. A replica that is further behind keeps the first of them and the newest.
const WAITING_MAX: usize = 8;
/// A stopwatch is right to one part in so many: ten times worse than clocks are let run.
const RATE: u64 = 200;

/// What one replica can prove of its state's age.
#[derive(Debug)]
pub(crate) struct Fresh {
    clock: Arc<dyn Clock>,
    proofs: Mutex<Proofs>,
}

#[derive(Debug, Default)]
struct Proofs {
    /// The newest moment of which the state has everything.
    proven: Option<AwakeOrNotMs>,
    /// Moments, and the index that the state must have reached; both grow.
    waiting: VecDeque<(AwakeOrNotMs, u64)>,
}

impl Proofs {
    fn reach(&mut self, applied: Option<u64>) {
        while let Some((moment, _)) = self.waiting.front().copied().filter(|(_, index)| applied >= Some(*index)) {
            self.waiting.pop_front();
            self.proven = self.proven.max(Some(moment));
        }
    }
}

impl Fresh {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, proofs: Mutex::default() }
    }

    /// The moment for a question that is asked from now on.
    pub(crate) fn moment(&self) -> AwakeOrNotMs {
        self.clock.awake_or_not()
    }

    /// A leader has answered `index` to a question that was asked after `moment`, by a round that began after it was asked.
    pub(crate) fn prove(&self, moment: AwakeOrNotMs, index: u64, applied: Option<u64>) {
        let mut proofs = self.proofs.lock();
        if proofs.proven < Some(moment) && proofs.waiting.back().is_none_or(|(last, _)| *last < moment) {
            if proofs.waiting.len() >= WAITING_MAX {
                proofs.waiting.pop_back();
            }
            // An older question may have been answered by a later index; the newer one's is enough for both.
            let index = proofs.waiting.back().map_or(index, |(_, before)| index.max(*before));
            proofs.waiting.push_back((moment, index));
        }
        proofs.reach(applied);
    }

    /// The newest moment before which everything is in a state that has applied up to `applied`.
    pub(crate) fn proven(&self, applied: Option<u64>) -> Option<AwakeOrNotMs> {
        let mut proofs = self.proofs.lock();
        proofs.reach(applied);
        proofs.proven
    }

    /// How old, at most, what was proven of `moment` is now, in milliseconds.
    pub(crate) fn age_ms(&self, moment: AwakeOrNotMs) -> u64 {
        let passed = self.clock.awake_or_not().since(moment);
        passed.saturating_add(passed.div_ceil(RATE)).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::time::testing::Hands;

    fn fresh() -> (Fresh, Arc<Hands>) {
        let hands = Arc::new(Hands::default());
        (Fresh::new(hands.clone()), hands)
    }

    #[test]
    fn a_moment_is_proven_when_the_state_has_reached_its_index_and_not_before() {
        let (fresh, hands) = fresh();
        hands.awake.store(1000, Ordering::Relaxed);
        fresh.prove(fresh.moment(), 7, Some(6));
        assert_eq!(fresh.proven(Some(6)), None);
        assert_eq!(fresh.proven(None), None);
        assert_eq!(fresh.proven(Some(7)), Some(AwakeOrNotMs(1000)));
        // A late answer to an older question takes nothing back.
        fresh.prove(AwakeOrNotMs(500), 9, Some(7));
        assert_eq!(fresh.proven(Some(7)), Some(AwakeOrNotMs(1000)));
    }

    #[test]
    fn an_age_counts_the_time_that_the_machine_was_suspended_and_is_never_too_small() {
        let (fresh, hands) = fresh();
        let moment = fresh.moment();
        assert!(fresh.age_ms(moment) >= 1, "it began within a millisecond");
        hands.awake.store(2000, Ordering::Relaxed);
        assert!((2001..=2100).contains(&fresh.age_ms(moment)));
        hands.suspended.store(3_600_000, Ordering::Relaxed);
        assert!(fresh.age_ms(moment) > 3_602_000);
    }

    #[test]
    fn who_is_always_behind_still_proves_something_and_keeps_a_bounded_number() {
        let (fresh, _) = fresh();
        for n in 1..=100 {
            fresh.prove(AwakeOrNotMs(n), n * 10, Some(0));
        }
        assert_eq!(fresh.proofs.lock().waiting.len(), WAITING_MAX);
        assert_eq!(fresh.proven(Some(10)), Some(AwakeOrNotMs(1)), "the oldest is not pushed out by newer ones");
        assert_eq!(fresh.proven(Some(1000)), Some(AwakeOrNotMs(100)));
    }

    #[test]
    fn a_question_asked_later_and_answered_sooner_proves_no_more_than_its_index() {
        let (fresh, _) = fresh();
        fresh.prove(AwakeOrNotMs(20), 8, Some(1));
        fresh.prove(AwakeOrNotMs(10), 9, Some(1));
        assert_eq!(fresh.proven(Some(7)), None);
        assert_eq!(fresh.proven(Some(8)), Some(AwakeOrNotMs(20)));
    }
}
