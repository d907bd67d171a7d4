//! When refused callers are to come back: spread out, so that they don't come back together, and the later the more of them there are.
//!
//! Who refuses nine of ten and asks all of them back within a fifth of a second has ten times the load again in a fifth of a second.
//! So the wait grows with how much is refused for each request that is done.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::time::{Clock, MonotonicMs};

/// For how long refusals are counted before the waits follow them.
const WINDOW_MS: u64 = 500;
/// The most that a wait is stretched.
const TIMES_MAX: f64 = 50.0;

/// The waits that a node tells.
pub(super) struct Spread {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    random: StdRng,
    began: MonotonicMs,
    refused: u64,
    done: u64,
    /// By how much waits are stretched, by the window before.
    times: f64,
}

/// By how much the waits of one answer are longer than at the least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stretch {
    /// For load.
    pub(super) overloaded: f64,
    /// For anything else that will be over: up to twice.
    pub(super) other: f64,
}

impl Stretch {
    /// `wait`, longer.
    pub(super) fn of(wait: Duration, times: f64) -> Duration {
        // Never 0, which would say nothing.
        Duration::from_millis((wait.as_millis() as f64 * times).max(1.0) as u64)
    }
}

impl Spread {
    pub(super) fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        let began = clock.monotonic();
        let random = StdRng::seed_from_u64(seed);
        Self { clock, state: Mutex::new(State { random, began, refused: 0, done: 0, times: 1.0 }) }
    }

    /// So many requests were refused for load, so many were not.
    pub(super) fn note(&self, refused: usize, done: usize) {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        state.refused += refused as u64;
        state.done += done as u64;
        if now.since(state.began) >= WINDOW_MS {
            state.times = (1.0 + state.refused as f64 / state.done.max(1) as f64).min(TIMES_MAX);
            (state.began, state.refused, state.done) = (now, 0, 0);
        }
    }

    /// Draws the waits of one answer: between the least, and twice and a half of what the load asks for.
    pub(super) fn draw(&self) -> Stretch {
        let mut state = self.state.lock();
        let (times, drawn) = (state.times, state.random.random_range(0.0..1.0));
        Stretch { overloaded: 1.0 + drawn * (2.5 * times - 1.0), other: 1.0 + drawn }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::time::testing::Hands;

    #[test]
    fn waits_are_spread_over_a_range_that_grows_with_what_is_refused_and_is_bounded() {
        let clock = Arc::new(Hands::default());
        let spread = Spread::new(clock.clone(), 7);
        let draws = || (0..1_000).map(|_| spread.draw().overloaded).collect::<Vec<_>>();
        let range = |draws: &[f64]| draws.iter().fold((f64::MAX, 0.0_f64), |(a, b), d| (a.min(*d), b.max(*d)));
        let (least, most) = range(&draws());
        assert!((1.0..1.1).contains(&least) && (2.3..=2.5).contains(&most), "{least} {most}");
        let window = |refused, done| {
            spread.note(refused, done);
            clock.awake.fetch_add(WINDOW_MS, Ordering::Relaxed);
            spread.note(0, 0);
        };
        window(900, 100);
        let at_ten = draws();
        let (least, most) = range(&at_ten);
        assert!((1.0..1.3).contains(&least) && (24.0..=25.0).contains(&most), "{least} {most}");
        for quarter in at_ten.chunks(250) {
            let early = quarter.iter().filter(|draw| **draw < 13.0).count();
            assert!((80..170).contains(&early), "{early} of 250 in the first half");
        }
        window(1_000_000, 0);
        assert!(range(&draws()).1 <= 2.5 * TIMES_MAX);
        window(0, 100);
        assert!(range(&draws()).1 <= 2.5);
        assert_eq!(Stretch::of(Duration::from_millis(200), 1.5), Duration::from_millis(300));
    }
}
