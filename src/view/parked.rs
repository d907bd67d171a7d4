//! What a node took in while a shard had no leader, as it is handed off to the shard.

use minicbor::{Decode, Encode};

use super::{PlayState, Played, StartView};
use crate::ids::{RequestId, ViewId};

/// The most views in one [`HandOff`].
pub const HANDOFF_VIEWS_MAX: usize = 16;
/// The longest that anything may have been parked.
pub const PARKED_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// See [`AccountCommand::HandOff`](super::AccountCommand::HandOff). Needs no request id: done again it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandOff {
    /// 1 to [`HANDOFF_VIEWS_MAX`], each another one.
    #[n(0)]
    pub views: Vec<Parked>,
}

/// All that a node took in of one view. Ages are as of when the command is proposed: no two machines' calendars are compared.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Parked {
    /// The view.
    #[n(0)]
    pub view: ViewId,
    /// It was let in there.
    #[n(1)]
    pub start: Option<ParkedStart>,
    /// What its device said last.
    #[n(2)]
    pub told: Option<ParkedTold>,
}

/// A view that a node let start.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ParkedStart {
    /// As it was asked for. What it says of the stream limit is not followed: other views are not ended for this one.
    #[n(0)]
    pub start: StartView,
    /// Where it began, as the caller was told, in ms.
    #[n(1)]
    pub position_ms: Option<u64>,
    /// The request's id.
    #[n(2)]
    pub request_id: Option<RequestId>,
    /// How long ago, in ms.
    #[n(3)]
    pub age_ms: u64,
}

/// The latest report or stop of a view, with what those before it said that it doesn't.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ParkedTold {
    /// As in [`ReportProgress`](super::ReportProgress); `None`, of a stop only: newer than all.
    #[n(0)]
    pub sequence: Option<u64>,
    /// Where it was, in ms; `None`: where it was last reported.
    #[n(1)]
    pub position_ms: Option<u64>,
    /// What the player did.
    #[n(2)]
    pub state: PlayState,
    /// Stretches really played, as in [`ReportProgress`](super::ReportProgress).
    #[n(3)]
    pub played: Vec<Played>,
    /// A seek was among what led here.
    #[n(4)]
    pub seeked: bool,
    /// How long ago, in ms.
    #[n(5)]
    pub age_ms: u64,
    /// It was a stop.
    #[n(6)]
    pub stop: Option<ParkedStop>,
}

/// What a stop says beyond a report.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ParkedStop {
    /// Playback failed: nothing changes but the view's end.
    #[n(0)]
    pub failed: bool,
    /// The request's id ...
    #[n(1)]
    pub request_id: Option<RequestId>,
    /// ... and the [fingerprint](super::AccountCommand::fingerprint) of the command.
    #[n(2)]
    pub fingerprint: u64,
}

/// What became of a parked view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Handed {
    /// It is in the state, now or since before.
    #[n(0)]
    Taken,
    /// Something newer was there: its position was not needed any more.
    #[n(1)]
    Older,
    /// The shard knows no such view. Its start may be parked elsewhere.
    #[n(2)]
    Unknown,
    /// It is in the state, and its view has ended: with it the account would watch more than it may.
    #[n(3)]
    OverLimit,
    /// It can't be taken: its view's id is in use, or a bound is reached.
    #[n(4)]
    Refused,
}
