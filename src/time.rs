//! Units of time, and the clock that is handed to whoever needs one.
//!
//! Nothing in this crate reads a clock by itself: the binaries make one and hand it down (`ambient::SystemClock`), a
//! simulation hands down its own. The kinds of time never mix, so each is a type:
//!
//! - [`LogicalMs`]: a shard's own time, which comes from its log and stands still while the shard has no leader. Every rule
//!   of the domain (expiry, windows) counts in it.
//! - [`WallMs`]: the calendar, for people and for the times that clients send. No rule may depend on it being right.
//! - [`MonotonicMs`]: one process's stopwatch. Its zero means nothing outside that process.
//! - [`AwakeOrNotMs`]: the same, and it also runs while the machine is suspended.

use std::fmt;

macro_rules! milliseconds {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] pub u64);

        impl $name {
            /// This time, `ms` milliseconds later; stays at the greatest time that can be told.
            pub const fn plus(self, ms: u64) -> Self {
                Self(self.0.saturating_add(ms))
            }

            /// How many milliseconds this is after `earlier`; 0 when it is before.
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}ms", self.0)
            }
        }
    };
}

milliseconds!(
    /// A shard's logical time: milliseconds during which the shard had a leader, counted through its log.
    LogicalMs
);
milliseconds!(
    /// Milliseconds since 1970-01-01T00:00:00Z by somebody's calendar clock.
    WallMs
);
milliseconds!(
    /// Milliseconds since some moment of this process.
    MonotonicMs
);

milliseconds!(
    /// Milliseconds since some moment of this machine, those during which it was suspended included: by this it is told how old
    /// something is. Its zero means nothing outside the process.
    AwakeOrNotMs
);

/// Both times under which a command is applied, fixed when its leader proposes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Stamp {
    /// The shard's logical time: never goes back within a shard.
    #[n(0)]
    pub logical: LogicalMs,
    /// The leader's calendar, only to be shown and to be compared with times that clients send.
    #[n(1)]
    pub wall: WallMs,
}

/// A source of time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The process's stopwatch: never goes back.
    fn monotonic(&self) -> MonotonicMs;
    /// A stopwatch that also counts while the machine is suspended, taken in one reading: never goes back.
    fn awake_or_not(&self) -> AwakeOrNotMs {
        AwakeOrNotMs(self.monotonic().0)
    }
    /// The machine's calendar: may jump either way.
    fn wall(&self) -> WallMs;
    /// For how many milliseconds the machine was suspended since some moment: time that the stopwatch didn't count, but
    /// others did. 0 where nobody knows.
    fn suspended_ms(&self) -> u64 {
        0
    }
}

/// For tests: clocks, and how much of what goes by chance is tried.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{AwakeOrNotMs, Clock, MonotonicMs, WallMs};

    /// How many tries of what goes by chance: few where nobody asks for more. `PLAYHEAD_TRIES` times them.
    pub(crate) fn tries(few: u32) -> u32 {
        let times = std::env::var("PLAYHEAD_TRIES").map_or(Ok(1), |times| times.parse::<u32>());
        let times = times.ok().filter(|times| *times > 0).expect("PLAYHEAD_TRIES: a whole number from 1 is accepted");
        few.saturating_mul(times)
    }

    /// A clock that is set by hand: awake for so long, and suspended for so long.
    #[derive(Debug, Default)]
    pub(crate) struct Hands {
        pub(crate) awake: AtomicU64,
        pub(crate) suspended: AtomicU64,
    }

    impl Clock for Hands {
        fn monotonic(&self) -> MonotonicMs {
            MonotonicMs(self.awake.load(Ordering::Relaxed))
        }

        fn awake_or_not(&self) -> AwakeOrNotMs {
            AwakeOrNotMs(self.monotonic().0 + self.suspended_ms())
        }

        fn wall(&self) -> WallMs {
            WallMs(0)
        }

        fn suspended_ms(&self) -> u64 {
            self.suspended.load(Ordering::Relaxed)
        }
    }
}
