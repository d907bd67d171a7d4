//! Bugs that can be switched on, so that the simulation shows that it would find them.
//!
//! Each is one that this design has to fear, put back into the place where it would stand. [`is`] is `false` for the compiler
//! unless the crate is built with the feature `planted`, which a release build refuses; only the workspace in `sim/` asks for it.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` puts bugs into the product: it is for simulations, never for a release");

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The log calls back before its batch is durable.
    AckBeforeFlush = 1,
    /// A replica that has lost its log goes on under its id.
    ReplicaIdReused = 2,
    /// Frames reach whichever replica of the group is on the node, whoever they were meant for.
    FramesWithoutAddressee = 3,
    /// A checkpoint's rows come first and its header later.
    TornCheckpoint = 4,
    /// Views expire by the calendar of the node that applies the command.
    ExpiryByLocalClock = 5,
    /// A restarted leader goes on leading without an election.
    LeaderRestore = 6,
    /// A replica applies by the settings that the node was told last, not by those in the log.
    SettingsOutsideTheLog = 7,
    /// A request that comes again is run again.
    RetryRunTwice = 8,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AckBeforeFlush,
        Self::ReplicaIdReused,
        Self::FramesWithoutAddressee,
        Self::TornCheckpoint,
        Self::ExpiryByLocalClock,
        Self::LeaderRestore,
        Self::SettingsOutsideTheLog,
        Self::RetryRunTwice,
    ];

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeFlush => "ack-before-flush",
            Self::ReplicaIdReused => "replica-id-reused",
            Self::FramesWithoutAddressee => "frames-without-addressee",
            Self::TornCheckpoint => "torn-checkpoint",
            Self::ExpiryByLocalClock => "expiry-by-local-clock",
            Self::LeaderRestore => "leader-restore",
            Self::SettingsOutsideTheLog => "settings-outside-the-log",
            Self::RetryRunTwice => "retry-run-twice",
        }
    }
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches a bug on for the rest of the process.
#[cfg(feature = "planted")]
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, std::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is switched on.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// No bug is.
#[cfg(not(feature = "planted"))]
pub const fn is(_: Bug) -> bool {
    false
}

/// What the machines of a simulation know by themselves, for bugs that look at it.
#[cfg(feature = "planted")]
mod local {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicI64, AtomicU16};

    pub(super) const MACHINES: usize = 256;
    pub(super) static OFF_MS: [AtomicI64; MACHINES] = [const { AtomicI64::new(0) }; MACHINES];
    pub(super) static STREAMS: [AtomicU16; MACHINES] = [const { AtomicU16::new(0) }; MACHINES];

    thread_local! {
        pub(super) static HERE: Cell<u8> = const { Cell::new(0) };
    }
}

/// What is applied from now on, on this thread, is applied by this machine, whose calendar is off by so many milliseconds.
#[cfg(feature = "planted")]
pub fn here(machine: u8, off_ms: i64) {
    local::HERE.set(machine);
    local::OFF_MS[usize::from(machine)].store(off_ms, std::sync::atomic::Ordering::Relaxed);
}

/// How far this machine's calendar is off.
#[cfg(feature = "planted")]
pub(crate) fn off_ms() -> i64 {
    local::OFF_MS[usize::from(local::HERE.get())].load(std::sync::atomic::Ordering::Relaxed)
}

/// Nothing is known of a machine's own calendar.
#[cfg(not(feature = "planted"))]
pub(crate) const fn off_ms() -> i64 {
    0
}

/// The node was told that an account without a policy may have so many streams.
#[cfg(feature = "planted")]
pub(crate) fn tell_streams(max: u16) {
    local::STREAMS[usize::from(local::HERE.get())].store(max, std::sync::atomic::Ordering::Relaxed);
}

/// Nobody listens.
#[cfg(not(feature = "planted"))]
pub(crate) const fn tell_streams(_: u16) {}

/// What the node was told last, if anything.
#[cfg(feature = "planted")]
pub(crate) fn told_streams() -> Option<u16> {
    let told = local::STREAMS[usize::from(local::HERE.get())].load(std::sync::atomic::Ordering::Relaxed);
    Some(told).filter(|told| *told > 0)
}

/// Nothing.
#[cfg(not(feature = "planted"))]
pub(crate) const fn told_streams() -> Option<u16> {
    None
}
