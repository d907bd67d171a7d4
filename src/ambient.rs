//! The machine's own clock and randomness: the only place that reads them, so that everything else takes what it is handed.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::time::{AwakeOrNotMs, Clock, MonotonicMs, WallMs};

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose stopwatch starts now.
    #[allow(clippy::new_without_default, reason = "reading a clock is never a default")]
    #[allow(clippy::disallowed_methods, reason = "this is the one reader of the clock")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> MonotonicMs {
        MonotonicMs(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one reader of the clock")]
    fn wall(&self) -> WallMs {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMs(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }

    #[cfg(target_os = "linux")]
    fn awake_or_not(&self) -> AwakeOrNotMs {
        let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ms = i128::from(at.tv_sec) * 1000 + i128::from(at.tv_nsec) / 1_000_000;
        AwakeOrNotMs(u64::try_from(ms).unwrap_or(0))
    }

    #[cfg(target_os = "linux")]
    fn suspended_ms(&self) -> u64 {
        use rustix::time::{ClockId, clock_gettime};
        let ms = |clock| {
            let at = clock_gettime(clock);
            i128::from(at.tv_sec) * 1000 + i128::from(at.tv_nsec) / 1_000_000
        };
        // Read in this order, so that being interrupted between the two doesn't look like having been suspended for less.
        let running = ms(ClockId::Monotonic);
        u64::try_from(ms(ClockId::Boottime) - running).unwrap_or(0)
    }
}

/// A number that nobody can foresee, from the machine's randomness.
#[allow(clippy::disallowed_methods, reason = "this is the one reader of the machine's randomness")]
pub fn random_u64() -> u64 {
    rand::random()
}
