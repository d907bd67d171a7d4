//! History entries and their plays.

use minicbor::{Decode, Encode};

use super::{Outcome, TitleType, ViewKind};
use crate::ids::{DeviceId, TitleId, ViewId};
use crate::time::WallMs;

/// The most plays in one history entry.
pub const ENTRY_PLAYS_MAX: usize = 1000;

/// Plays of the same profile, title and device, each within 60 min of another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HistoryEntry {
    /// The title.
    #[n(0)]
    pub title: TitleId,
    /// On what.
    #[n(1)]
    pub device: DeviceId,
    /// When its first play began.
    #[n(2)]
    pub start: WallMs,
    /// When its last play ended.
    #[n(3)]
    pub end: WallMs,
    /// Its plays by start: 1 to [`ENTRY_PLAYS_MAX`].
    #[n(4)]
    pub plays: Vec<Play>,
}

/// One stretch of watching.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Play {
    /// When it began.
    #[n(0)]
    pub start: WallMs,
    /// How long it took, in ms.
    #[n(1)]
    pub elapsed_ms: u64,
    /// Where the title was left, in ms; `None` when not known.
    #[n(2)]
    pub position_ms: Option<u64>,
    /// The title's runtime in ms; `None` when not known.
    #[n(3)]
    pub duration_ms: Option<u64>,
    /// What kind of thing the title is.
    #[n(4)]
    pub title_type: TitleType,
    /// What kind of playback.
    #[n(5)]
    pub kind: ViewKind,
    /// How it counts.
    #[n(6)]
    pub outcome: Outcome,
    /// The view behind it; `None` for an imported play.
    #[n(7)]
    pub view: Option<ViewId>,
    /// How much of the title was really played, in ms; for an imported play what is concluded from its times.
    #[n(8)]
    pub watched_ms: u64,
}

impl Play {
    /// When it ended.
    pub fn end(&self) -> WallMs {
        self.start.plus(self.elapsed_ms)
    }
}

impl Play {
    /// Whether two plays are the same one: equal in all that their source told of them.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let told = |p: &'_ Self| (p.start, p.elapsed_ms, p.position_ms, p.duration_ms, p.title_type, p.kind);
        told(self) == told(other) && self.view == other.view
    }
}

/// An entry's row. Title, device and start stand in its key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct EntryRow {
    #[n(0)]
    pub(super) end: WallMs,
    /// In their order.
    #[n(1)]
    pub(super) plays: Vec<Play>,
}

impl EntryRow {
    /// How it is shown.
    pub(super) fn show(self, title: TitleId, device: DeviceId, start: WallMs) -> HistoryEntry {
        HistoryEntry { title, device, start, end: self.end, plays: self.plays }
    }
}
