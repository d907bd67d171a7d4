//! How long commands have taken lately.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Turns that are remembered; the node turns once a second.
const TURNS: usize = 10;
/// What took longer is counted as this.
const LONGEST_US: u64 = 100_000_000;

/// Times of the last [`TURNS`] turns.
#[derive(Debug)]
pub struct Lately {
    running: Mutex<Histogram<u32>>,
    past: Mutex<VecDeque<Histogram<u32>>>,
}

/// What the times of a while were; all zero where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// Half of them took no longer, microseconds.
    pub p50_us: u64,
    /// 99 of 100 took no longer, microseconds.
    pub p99_us: u64,
}

fn empty() -> Histogram<u32> {
    // Two significant digits, about 16 KiB.
    Histogram::new_with_bounds(1, LONGEST_US, 2).expect("the bounds are in order")
}

impl Lately {
    pub(super) fn new() -> Self {
        Self { running: Mutex::new(empty()), past: Mutex::new(VecDeque::with_capacity(TURNS + 1)) }
    }

    /// So many have taken so long.
    pub fn note(&self, took: Duration, count: usize) {
        let us = u64::try_from(took.as_micros()).unwrap_or(LONGEST_US).clamp(1, LONGEST_US);
        self.running.lock().saturating_record_n(us, u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Ends a turn: what the remembered ones were together. Called once a second, by the one who reports.
    pub fn turn(&self) -> Times {
        let mut past = self.past.lock();
        let mut next = if past.len() < TURNS { empty() } else { past.pop_back().unwrap_or_else(empty) };
        next.reset();
        past.push_front(std::mem::replace(&mut *self.running.lock(), next));
        let mut all = empty();
        for turn in past.iter() {
            // Made with the same bounds.
            let _ = all.add(turn);
        }
        let at = |quantile| if all.is_empty() { 0 } else { all.value_at_quantile(quantile).min(LONGEST_US) };
        Times { count: all.len(), p50_us: at(0.5), p99_us: at(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let lately = Lately::new();
        assert_eq!(lately.turn(), Times::default());
        lately.note(Duration::from_micros(100), 99);
        lately.note(Duration::from_millis(90), 1);
        lately.note(Duration::from_secs(7_200), 0);
        let times = lately.turn();
        assert_eq!((times.count, times.p50_us, times.p99_us), (100, 100, 100));
        lately.note(Duration::from_millis(90), 1);
        assert!((89_000..=91_000).contains(&lately.turn().p99_us));
        for _ in 0..TURNS {
            lately.turn();
        }
        assert_eq!(lately.turn(), Times::default());
    }

    #[test]
    fn what_took_for_ever_is_the_longest_time() {
        let lately = Lately::new();
        lately.note(Duration::MAX, 3);
        assert_eq!(lately.turn(), Times { count: 3, p50_us: LONGEST_US, p99_us: LONGEST_US });
    }
}
