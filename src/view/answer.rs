//! What a shard answers to a command.

use minicbor::{Decode, Encode};

use super::{ActiveView, Handed, StreamPolicy, Stretch};
use crate::ids::{DeviceId, Revision, ViewId};
use crate::time::{LogicalMs, WallMs};
use crate::versions::ClusterVersion;

/// What [`State::apply`](super::State::apply) did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The shard's revision after the command.
    pub revision: Revision,
    /// What the caller is told.
    pub answer: Answer,
    /// What became true, in order.
    pub events: Vec<super::Event>,
}

/// What a command's caller is told.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// To a tick.
    #[n(0)]
    Ticked(#[n(0)] Ticked),
    /// To new settings: they hold from now on.
    #[n(1)]
    SettingsUpdated,
    /// To a start.
    #[n(2)]
    Started(#[n(0)] Box<Started>),
    /// To a report.
    #[n(3)]
    Progressed(#[n(0)] Progressed),
    /// To a stop.
    #[n(4)]
    Stopped(#[n(0)] Box<Stopped>),
    /// To the end of another device's view.
    #[n(5)]
    Ended(#[n(0)] ViewId),
    /// To an import.
    #[n(6)]
    Imported(#[n(0)] Imported),
    /// To a new stream policy: it holds from now on, and ends nothing.
    #[n(7)]
    PolicyUpdated(#[n(0)] StreamPolicy),
    /// The command changed nothing, because of this.
    #[n(8)]
    Rejected(#[n(0)] Rejection),
    /// To the adoption of a version: the shard works by this one now, which may be a newer one.
    #[n(9)]
    Adopted(#[n(0)] ClusterVersion),
    /// To what was handed off: one for each view, in their order.
    #[n(10)]
    HandedOff(#[n(0)] Vec<Handed>),
    /// To a stretch: devices are told to report so much more seldom.
    #[n(11)]
    Stretched(#[n(0)] Stretch),
}

/// To a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ticked {
    /// Views that expired. When this is [`TICK_EXPIRIES_MAX`](super::TICK_EXPIRIES_MAX), another tick is due at once.
    #[n(0)]
    pub expired: u32,
}

/// To a start.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Started {
    /// The view as it is now.
    #[n(0)]
    pub view: ActiveView,
    /// How often to report, in ms.
    #[n(1)]
    pub interval_ms: u64,
    /// When it expires without a report.
    #[n(2)]
    pub expires_at: WallMs,
    /// Where the profile left the title, in ms, before this view; `None`: nowhere, begin at 0.
    #[n(3)]
    pub resume_ms: Option<u64>,
    /// The profile has watched the title before.
    #[n(4)]
    pub watched: bool,
    /// The view was active already: this start changed nothing.
    #[n(5)]
    pub repeated: bool,
    /// The view had expired and is back.
    #[n(6)]
    pub brought_back: bool,
    /// It goes on with the history entry that begins then (same profile, title and device, within 60 min).
    #[n(7)]
    pub continues: Option<WallMs>,
    /// Views that ended for it: the device's own former one, and what `on_limit` ended.
    #[n(8)]
    pub ended: Vec<ViewId>,
}

/// What a device has to do after a report.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Directive {
    /// Go on.
    #[n(0)]
    Continue,
    /// Stop playing: the view has ended.
    #[n(1)]
    Stop(#[n(0)] EndedView),
}

/// To a report.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Progressed {
    /// Whether it was the view's newest, so that its position and state hold. Its played ranges count either way.
    #[n(0)]
    pub applied: bool,
    /// How often to report, in ms.
    #[n(1)]
    pub interval_ms: u64,
    /// When the view expires without another report.
    #[n(2)]
    pub expires_at: WallMs,
    /// What the device has to do.
    #[n(3)]
    pub directive: Directive,
}

/// To a stop.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Stopped {
    /// The stopped view.
    #[n(0)]
    pub view: ViewId,
    /// Where the title was left, in ms; `None` when that is not known.
    #[n(1)]
    pub position_ms: Option<u64>,
    /// How the play counts.
    #[n(2)]
    pub outcome: Outcome,
    /// The view that follows, where one was asked for.
    #[n(3)]
    pub next: Option<Started>,
}

/// How a play counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Outcome {
    /// It can be resumed, or simply ended somewhere.
    #[default]
    #[n(0)]
    Partial,
    /// Too little to be resumed; the history keeps it, rows don't show it.
    #[n(1)]
    Sampled,
    /// The title was watched.
    #[n(2)]
    Completed,
    /// Its end was reached without watching half of it: not watched.
    #[n(3)]
    CompletedBySeek,
    /// Playback failed, or a preview: no play at all.
    #[n(4)]
    Nothing,
}

/// Why a view is no longer active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum EndReason {
    /// Its device stopped it.
    #[n(0)]
    Stopped,
    /// Its device started another view.
    #[n(1)]
    Replaced,
    /// Another start asked for its stream.
    #[n(2)]
    EndedForAnother,
    /// Somebody ended it from elsewhere.
    #[n(3)]
    EndedByOwner,
    /// It was silent for too long.
    #[n(4)]
    Expired,
    /// It was paused for too long.
    #[n(5)]
    PausedTooLong,
    /// It gave its stream away in a long pause, and none was free when it went on.
    #[n(6)]
    StreamTaken,
    /// It was let in while the shard had no leader, and with it the account watched more than it may.
    #[n(7)]
    OverLimit,
}

impl EndReason {
    /// Whether the same view may be started again.
    pub fn may_come_back(self) -> bool {
        matches!(self, Self::Expired | Self::PausedTooLong)
    }
}

/// A view that is no longer active: who ended it and why.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EndedView {
    /// The view.
    #[n(0)]
    pub view: ViewId,
    /// Why.
    #[n(1)]
    pub why: EndReason,
    /// The device that caused it, where one did.
    #[n(2)]
    pub by: Option<DeviceId>,
    /// When, by the calendar.
    #[n(3)]
    pub at: WallMs,
    /// When, in the shard's time.
    #[n(4)]
    pub logical: LogicalMs,
    /// The view's newest sequence.
    #[n(5)]
    pub sequence: u64,
}

/// What became of each play of an import, in the order of its plays.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Imported {
    /// One for each play.
    #[n(0)]
    pub results: Vec<ImportResult>,
}

impl Imported {
    /// How many plays came out like this.
    pub fn count(&self, result: ImportResult) -> usize {
        self.results.iter().filter(|r| **r == result).count()
    }

    /// How many plays were refused.
    pub fn refused(&self) -> usize {
        self.results.iter().filter(|r| r.refusal().is_some()).count()
    }
}

/// What became of one play of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ImportResult {
    /// It is in the history now.
    #[n(0)]
    Added,
    /// A play that equals it in every field was in the history already.
    #[n(1)]
    Unchanged,
    /// A preview: counted, and kept out of rows and history.
    #[n(2)]
    Preview,
    /// Refused: its runtime is 0 or more than [`MEDIA_MS_MAX`](super::MEDIA_MS_MAX).
    #[n(3)]
    BadDuration,
    /// Refused: its position is more than [`MEDIA_MS_MAX`](super::MEDIA_MS_MAX).
    #[n(4)]
    BadPosition,
    /// Refused: it took longer than [`MEDIA_MS_MAX`](super::MEDIA_MS_MAX).
    #[n(5)]
    BadElapsed,
    /// Refused: it ends more than 5 min in the future.
    #[n(6)]
    InFuture,
    /// Refused: its history entry holds as many plays as one may.
    #[n(7)]
    EntryFull,
    /// Refused: the account has as many profiles as one may.
    #[n(8)]
    TooManyProfiles,
}

impl ImportResult {
    /// Why the play was refused; `None` when it wasn't.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Added | Self::Unchanged | Self::Preview => None,
            Self::BadDuration => Some("duration_ms must be 1 ms to 30 days"),
            Self::BadPosition => Some("position_ms must be at most 30 days"),
            Self::BadElapsed => Some("elapsed_ms must be at most 30 days"),
            Self::InFuture => Some("it ends more than 5 minutes in the future"),
            Self::EntryFull => Some("its history entry holds 1000 plays already"),
            Self::TooManyProfiles => Some("the account has 64 profiles already"),
        }
    }
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Rejection {
    /// The account's stream limit is reached.
    #[error("the account's limit of {limit} streams is reached")]
    #[n(0)]
    StreamLimit {
        /// The limit.
        #[n(0)]
        limit: u16,
        /// The views that hold the streams, oldest first.
        #[n(1)]
        views: Vec<ActiveView>,
    },
    /// The view has ended and cannot come back.
    #[error("view {} has ended: {:?}", .0.view, .0.why)]
    #[n(1)]
    ViewEnded(#[n(0)] EndedView),
    /// The view has expired: start it again with the same id.
    #[error("view {} has expired: start it again with the same id", .0.view)]
    #[n(2)]
    ViewExpired(#[n(0)] EndedView),
    /// No such view is, or lately was, active on the account.
    #[error("view {0} is not active on this account")]
    #[n(3)]
    ViewUnknown(#[n(0)] ViewId),
    /// The view's id is taken by a view of another profile, device, title or kind.
    #[error("view id {0} is in use for another profile, device, title or kind")]
    #[n(4)]
    ViewIdInUse(#[n(0)] ViewId),
    /// `on_limit` names a view that holds no stream of this account.
    #[error("view {0} holds no stream of this account, so ending it makes no room")]
    #[n(5)]
    NamedViewUnknown(#[n(0)] ViewId),
    /// The account has as many active views, of all kinds, as one may.
    #[error("the account has {max} active views already")]
    #[n(6)]
    TooManyViews {
        /// The most.
        #[n(0)]
        max: u32,
    },
    /// The account has as many profiles as one may.
    #[error("the account has {max} profiles already")]
    #[n(7)]
    TooManyProfiles {
        /// The most.
        #[n(0)]
        max: u32,
    },
    /// The request is older than what the account remembers of requests: it may have run already, so it doesn't run now.
    #[error(
        "the request was first sent before {remembered_since}, or may have been, and that is as far back as requests are remembered"
    )]
    #[n(8)]
    RequestTooOld {
        /// Requests first sent after this can still be told apart.
        #[n(0)]
        remembered_since: WallMs,
    },
    /// The request id was used for another command.
    #[error("the request id was used for another command")]
    #[n(9)]
    RequestIdReused,
    /// A field's value is not accepted. The edge checks all fields before; this is the shard's own safeguard.
    #[error("{field} {accepted}")]
    #[n(10)]
    Invalid {
        /// The field.
        #[n(0)]
        field: Box<str>,
        /// What is accepted.
        #[n(1)]
        accepted: Box<str>,
    },
    /// The shard has newer settings.
    #[error("the shard has settings of version {version} already")]
    #[n(11)]
    SettingsOlder {
        /// The shard's version.
        #[n(0)]
        version: u64,
    },
}

impl Rejection {
    pub(crate) fn invalid(field: &str, accepted: &str) -> Self {
        Self::Invalid { field: field.into(), accepted: accepted.into() }
    }
}
