//! What becomes true by a command: typed facts, for watch streams, the event feed and region links.
//!
//! Folding all events of an account gives everything that its members can see, except positions of views that still run
//! (plain progress is no event). An event's id is (cluster, group, revision, its place in the command's list).

use minicbor::{Decode, Encode};

use super::{ActiveView, EndedView, HistoryEntry, Settings, StreamPolicy, TitleState};
use crate::ids::{AccountId, DeviceId, ProfileId, TitleId};
use crate::time::WallMs;

/// A fact, and the account that it is about (`None`: the whole shard).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Event {
    /// Whom it is about.
    #[n(0)]
    pub account: Option<AccountId>,
    /// What became true.
    #[n(1)]
    pub fact: Fact,
}

/// What became true.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Fact {
    /// A view is active.
    #[n(0)]
    Started {
        /// The view.
        #[n(0)]
        view: ActiveView,
        /// It had expired and is back.
        #[n(1)]
        brought_back: bool,
    },
    /// A view is no longer active: its device stopped it.
    #[n(1)]
    Stopped(#[n(0)] ViewEnd),
    /// A view is no longer active: it was silent or paused for too long.
    #[n(2)]
    Expired(#[n(0)] ViewEnd),
    /// A view is no longer active: something else ended it.
    #[n(3)]
    Ended(#[n(0)] ViewEnd),
    /// A profile has watched a title (again).
    #[n(4)]
    Watched {
        /// Who.
        #[n(0)]
        profile: ProfileId,
        /// What.
        #[n(1)]
        title: TitleId,
        /// How often by now.
        #[n(2)]
        play_count: u32,
    },
    /// Where a profile left a title, or what else is known of the two, is now this.
    #[n(5)]
    ResumePointMoved {
        /// Who.
        #[n(0)]
        profile: ProfileId,
        /// All that is known.
        #[n(1)]
        state: TitleState,
    },
    /// A history entry is gone: what it held is part of another one now.
    #[n(6)]
    EntryRemoved {
        /// Whose.
        #[n(0)]
        profile: ProfileId,
        /// Of which title.
        #[n(1)]
        title: TitleId,
        /// On which device.
        #[n(2)]
        device: DeviceId,
        /// When it began.
        #[n(3)]
        start: WallMs,
    },
    /// A history entry is now this.
    #[n(7)]
    EntryPut {
        /// Whose.
        #[n(0)]
        profile: ProfileId,
        /// The entry.
        #[n(1)]
        entry: HistoryEntry,
    },
    /// The account's stream policy is now this.
    #[n(8)]
    PolicyChanged(#[n(0)] StreamPolicy),
    /// The shard's settings are now these.
    #[n(9)]
    SettingsChanged(#[n(0)] Settings),
}

/// The end of a view.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ViewEnd {
    /// The view as it was at last.
    #[n(0)]
    pub view: ActiveView,
    /// Who ended it and why.
    #[n(1)]
    pub end: EndedView,
}
