//! The machine's own clock and randomness: the only place that reads them, so that everything else takes what it is handed.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::time::{Clock, MonotonicMs, WallMs};

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
}

/// A number that nobody can foresee, from the machine's randomness.
#[allow(clippy::disallowed_methods, reason = "this is the one reader of the machine's randomness")]
pub fn random_u64() -> u64 {
    rand::random()
}
