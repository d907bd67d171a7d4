//! How fast a queue goes, and what that means for who comes.

use super::Priority;
use crate::time::MonotonicMs;

/// For how long commands are counted before a speed is told: so long at least, and until there are some, but no longer than that.
const WINDOW_MS: (u64, u64) = (100, 1_000);
/// How many are some.
const SOME: u64 = 8;
/// A measure older than this tells nothing.
const FRESH_MS: u64 = 2_000;

/// How near to its capacity a leader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// How long what was proposed last had waited, smoothed, in milliseconds.
    pub delay_ms: u64,
    /// Whether more waits than entries take.
    pub standing: bool,
}

/// Commands by priority.
pub(crate) type Counts = [usize; Priority::COUNT];

/// How fast one priority goes.
#[derive(Clone, Copy, Debug, Default)]
struct Speed {
    /// Since when something always waited, and how many commands were taken since.
    window: Option<(MonotonicMs, u64)>,
    /// Commands a second while something always waited.
    per_second: Option<u64>,
}

impl Speed {
    fn note(&mut self, now: MonotonicMs, taken: usize) {
        // The first entry that leaves something begins the count: what it took had come at any time.
        let Some((began, counted)) = &mut self.window else {
            self.window = Some((now, 0));
            return;
        };
        *counted += taken as u64;
        let elapsed_ms = now.since(*began);
        if elapsed_ms >= WINDOW_MS.1 || (elapsed_ms >= WINDOW_MS.0 && *counted >= SOME) {
            let measured = *counted * 1_000 / elapsed_ms;
            self.per_second = Some(self.per_second.map_or(measured, |before| (before + measured) / 2).max(1));
            self.window = Some((now, 0));
        }
    }
}

/// The speed of one queue. Pure: told what was taken and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flow {
    speeds: [Speed; Priority::COUNT],
    /// Smoothed, in eighths of a millisecond.
    delay_eighths: u64,
    noted: MonotonicMs,
}

impl Flow {
    /// An entry has taken `taken` commands, the oldest of which had waited for `age_ms`; `left` wait still.
    pub(crate) fn note(&mut self, now: MonotonicMs, taken: &Counts, left: &Counts, age_ms: u64) {
        let before = if now.since(self.noted) > FRESH_MS { 0 } else { self.delay_eighths };
        self.delay_eighths = before - before / 8 + age_ms;
        self.noted = now;
        let mut left_so_far = 0;
        for (at, speed) in self.speeds.iter_mut().enumerate() {
            left_so_far += left[at];
            match left_so_far {
                0 => *speed = Speed::default(),
                // Also where only something more important waits: that leaves the less important a part of the speed.
                _ => speed.note(now, taken[at]),
            }
        }
    }

    /// Whether every entry has left something that is worth more than a listing, for a while.
    pub(crate) fn is_standing(&self) -> bool {
        self.speeds[..Priority::Listing as usize].iter().any(|speed| speed.per_second.is_some())
    }

    /// Whether every entry has left something that is worth so much or more.
    pub(crate) fn stands_before(&self, priority: Priority) -> bool {
        self.speeds[priority as usize].per_second.is_some()
    }

    /// How long a newcomer waits behind `waiting` commands of its priority, in milliseconds, as far as is known.
    pub(crate) fn wait_ms(&self, priority: Priority, waiting: usize) -> u64 {
        self.speeds[priority as usize].per_second.map_or(0, |per_second| waiting as u64 * 1_000 / per_second)
    }

    /// How many commands of a priority may wait if the last of them is to have its turn in time; `None`: as many as there is room for.
    pub(crate) fn waiting_max(&self, priority: Priority) -> Option<usize> {
        let per_second = self.speeds[priority as usize].per_second.filter(|_| priority != Priority::Own)?;
        Some(usize::try_from(per_second.saturating_mul(priority.wait_ms_max()) / 1_000).unwrap_or(usize::MAX))
    }

    /// How near this is to its capacity.
    pub(crate) fn pressure(&self, now: MonotonicMs) -> Pressure {
        match now.since(self.noted) > FRESH_MS {
            true => Pressure::default(),
            false => Pressure { delay_ms: self.delay_eighths / 8, standing: self.is_standing() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Counts = [0; Priority::COUNT];

    fn reports(count: usize) -> Counts {
        [0, 0, count, 0, 0]
    }

    #[test]
    fn a_queue_that_each_entry_empties_bounds_nobody_and_one_that_is_never_emptied_bounds_by_its_speed() {
        let mut flow = Flow::default();
        flow.note(MonotonicMs(1_000), &reports(500), &NONE, 90);
        assert_eq!((flow.is_standing(), flow.waiting_max(Priority::Report)), (false, None));
        for n in 0..=10 {
            flow.note(MonotonicMs(2_000 + n * 20), &reports(10), &reports(40), 90);
        }
        assert_eq!(flow.waiting_max(Priority::Report), Some(100), "ten in 20 ms is 500 a second, for 200 ms");
        assert_eq!(flow.waiting_max(Priority::Prompt), None, "none of these waits");
        assert_eq!(flow.waiting_max(Priority::Own), None, "what the cluster needs is never refused");
        assert_eq!(flow.wait_ms(Priority::Report, 50), 100);
        assert!(flow.pressure(MonotonicMs(2_200)).standing);
        flow.note(MonotonicMs(2_220), &reports(50), &NONE, 1);
        assert_eq!((flow.is_standing(), flow.waiting_max(Priority::Report)), (false, None));
        assert_eq!(flow.pressure(MonotonicMs(60_000)), Pressure::default(), "what is old says nothing");
    }

    #[test]
    fn what_is_less_important_is_bounded_by_what_the_more_important_leaves_it() {
        let mut flow = Flow::default();
        for n in 0..=20 {
            flow.note(MonotonicMs(1_000 + n * 100), &[0, 70, 10, 0, 0], &[0, 30, 0, 0, 0], 90);
        }
        assert_eq!(flow.waiting_max(Priority::Prompt), Some(210));
        assert_eq!(
            flow.waiting_max(Priority::Report),
            Some(20),
            "a hundred a second, however empty its queue is now and then"
        );
    }

    #[test]
    fn the_delay_follows_what_was_waited() {
        let mut flow = Flow::default();
        (0..100).for_each(|n| flow.note(MonotonicMs(n), &reports(1), &NONE, 80));
        let delay_ms = flow.pressure(MonotonicMs(100)).delay_ms;
        assert!((70..=80).contains(&delay_ms), "{delay_ms}");
    }
}
