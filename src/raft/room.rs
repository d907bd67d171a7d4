//! How much room the node has: what may still be proposed here.

use std::sync::atomic::{AtomicU8, Ordering};

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RoomLevel {
    /// Everything is taken.
    #[default]
    Ample = 0,
    /// What adds much is refused.
    Short = 1,
    /// What adds anything is refused.
    Scarce = 2,
}

/// What a command adds to what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// It adds nothing that stays, or makes an end of something.
    None,
    /// It changes what is there.
    Little,
    /// It adds something.
    Much,
}

impl RoomLevel {
    /// Whether a command that adds so much may be proposed.
    pub fn admits(self, growth: Growth) -> bool {
        match self {
            Self::Ample => true,
            Self::Short => growth != Growth::Much,
            Self::Scarce => growth == Growth::None,
        }
    }
}

/// The room of a node, as its groups see it.
#[derive(Debug, Default)]
pub struct Room(AtomicU8);

impl Room {
    /// How much there is now.
    pub fn level(&self) -> RoomLevel {
        match self.0.load(Ordering::Relaxed) {
            0 => RoomLevel::Ample,
            1 => RoomLevel::Short,
            _ => RoomLevel::Scarce,
        }
    }

    /// So much there is from now on.
    pub fn set(&self, level: RoomLevel) {
        self.0.store(level as u8, Ordering::Relaxed);
    }
}
