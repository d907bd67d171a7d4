//! Households that stand still around a fault, so that what was acknowledged just before it is read back as it was.
//!
//! A device that goes on reports a newer position half a second later, and nobody sees whether the one before it was kept. So
//! before a fault a third of the households, another third each time, make one more write, and send nothing until they are
//! told. What they know is compared by strong reads once the fault is undone, before they go on.

use std::time::Duration;

use tokio::sync::watch;

use super::fleet::Fleet;
use super::household::Household;

/// One household of so many stands still.
const ONE_OF: u64 = 3;
/// How often it is looked how many are so far.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a household is asked for until it answers.
const ATTEMPTS_MAX: usize = 20;
/// Between two times.
const AGAIN: Duration = Duration::from_millis(200);

/// What the households are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Counts the times that they were told to stand still.
    round: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Play,
    Still,
    Compare,
}

/// Whether this household is one of those that stand still in this round.
fn is_chosen(seed: u64, round: u64, number: usize) -> bool {
    let mut x = seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)).is_multiple_of(ONE_OF)
}

impl Turn {
    pub(super) fn stands_still(self, seed: u64, number: usize) -> bool {
        self.phase != Phase::Play && is_chosen(seed, self.round, number)
    }
}

impl Fleet {
    /// Has a third of the households, by seed and round, end the call that they are in, make one more write, and send nothing
    /// until [`Fleet::go_on`]. Returns how many stand still; whoever is not so far within `patience` follows.
    pub async fn stand_still(&self, patience: Duration) -> u64 {
        self.stats().still.reset();
        let mut round = 0;
        self.turns.send_modify(|turn| {
            round = turn.round + 1;
            *turn = Turn { round, phase: Phase::Still };
        });
        let plan = &self.around.plan;
        let chosen = (0..plan.households).filter(|number| is_chosen(plan.seed, round, *number)).count() as u64;
        self.until(patience, || self.stats().still.standing() >= chosen).await;
        self.stats().still.standing()
    }

    /// Compares those that stand still with strong reads: (how many could be read, how many facts were compared).
    pub async fn compare_still(&self, patience: Duration) -> (u64, u64) {
        let still = || self.stats().still.compared();
        self.turns.send_modify(|turn| turn.phase = Phase::Compare);
        self.until(patience, || still().0 >= self.stats().still.standing()).await;
        still()
    }

    /// Lets all play on.
    pub fn go_on(&self) {
        self.turns.send_modify(|turn| turn.phase = Phase::Play);
    }

    async fn until(&self, patience: Duration, mut is_so: impl FnMut() -> bool) {
        let look = async {
            while !is_so() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let _ = tokio::time::timeout(patience, look).await;
    }
}

impl Household {
    /// Stands still until it may go on, or the fleet is stopped.
    pub(super) async fn stand_still(&mut self, turns: &mut watch::Receiver<Turn>) {
        let (stop, stats) = (self.around.stop.clone(), self.around.stats.clone());
        stats.still.stands();
        let mut compared = false;
        loop {
            let phase = turns.borrow_and_update().phase;
            match phase {
                Phase::Play => return,
                Phase::Compare if !compared => {
                    compared = true;
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.compare() => {}
                    }
                }
                Phase::Still | Phase::Compare => tokio::select! {
                    () = stop.cancelled() => return,
                    changed = turns.changed() => if changed.is_err() { return },
                },
            }
        }
    }

    async fn compare(&mut self) {
        let (around, client) = (self.around.clone(), self.around.client.clone());
        let Ok(_turn) = around.checking.acquire().await else { return };
        for _ in 0..ATTEMPTS_MAX {
            match self.check_all(&client).await {
                Ok(facts) => return around.stats.still.was_compared(facts),
                Err(_) => around.stats.unavailable(),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_a_third_stands_still_another_one_each_time_and_the_seed_says_who() {
        let of = |seed, round| (0..300).filter(|number| is_chosen(seed, round, *number)).collect::<Vec<_>>();
        for round in 1..20 {
            assert!((70..130).contains(&of(7, round).len()), "{}", of(7, round).len());
        }
        assert_eq!(of(7, 1), of(7, 1));
        assert!(of(7, 1) != of(7, 2) && of(7, 1) != of(8, 1));
        let turn = Turn { round: 1, phase: Phase::Still };
        assert!((0..300).filter(|n| turn.stands_still(7, *n)).eq(of(7, 1)));
        assert!(!(0..300).any(|n| Turn { phase: Phase::Play, ..turn }.stands_still(7, n)));
    }
}
