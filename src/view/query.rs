//! What a shard can be asked, and what it says.

use minicbor::{Decode, Encode};

use super::{EndedView, HistoryEntry, StreamPolicy, TitleType};
use crate::ids::{AccountId, DeviceId, ProfileId, TitleId, ViewId};
use crate::time::{LogicalMs, WallMs};

/// The most titles in one [`Query::GetResumePoints`].
pub const RESUME_POINTS_MAX: usize = 1000;
/// The most items on a page of a list.
pub const PAGE_ITEMS_MAX: u32 = 1000;

/// What a shard can be asked. Every query is about one account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Query {
    /// One view, also one that lately ended.
    #[n(0)]
    GetView(#[n(0)] AccountId, #[n(1)] ViewId),
    /// All active views of the account.
    #[n(1)]
    ListActiveViews(#[n(0)] AccountId),
    /// Where a profile left titles: at most [`RESUME_POINTS_MAX`], one consistent answer.
    #[n(2)]
    GetResumePoints(#[n(0)] AccountId, #[n(1)] ProfileId, #[n(2)] Vec<TitleId>),
    /// The continue-watching row of a profile, newest activity first.
    #[n(3)]
    ListContinueWatching(#[n(0)] AccountId, #[n(1)] ProfileId, #[n(2)] Page),
    /// The history of a profile, by entry start, newest first.
    #[n(4)]
    ListHistory(#[n(0)] AccountId, #[n(1)] ProfileId, #[n(2)] HistoryFilter, #[n(3)] Page),
    /// What is known of the account as a whole.
    #[n(5)]
    GetAccount(#[n(0)] AccountId),
    /// The account's stream policy.
    #[n(6)]
    GetStreamPolicy(#[n(0)] AccountId),
}

impl Query {
    /// The account that is asked about.
    pub fn account(&self) -> &AccountId {
        match self {
            Self::GetView(a, _)
            | Self::ListActiveViews(a)
            | Self::GetResumePoints(a, ..)
            | Self::ListContinueWatching(a, ..)
            | Self::ListHistory(a, ..)
            | Self::GetAccount(a)
            | Self::GetStreamPolicy(a) => a,
        }
    }
}

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Page {
    /// The most items: 1 to [`PAGE_ITEMS_MAX`].
    #[n(0)]
    pub items_max: u32,
    /// The most bytes of items, by their encoding here; at least one item is given all the same. `None`: no such bound.
    #[n(1)]
    pub bytes_max: Option<u32>,
    /// Where the last page ended: the `next` of its reply, unchanged. `None`: from the beginning. What isn't such a place
    /// in just this list is answered with [`Reply::Invalid`].
    #[cbor(n(2), with = "minicbor::bytes")]
    pub after: Option<Vec<u8>>,
}

/// Which history entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct HistoryFilter {
    /// Only of this title.
    #[n(0)]
    pub title: Option<TitleId>,
    /// Only those that begin at this time or later.
    #[n(1)]
    pub from: Option<WallMs>,
    /// Only those that begin before this time.
    #[n(2)]
    pub to: Option<WallMs>,
}

/// What a shard says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// To [`Query::GetView`].
    #[n(0)]
    View(#[n(0)] ViewStatus),
    /// To [`Query::ListActiveViews`]: oldest first.
    #[n(1)]
    ActiveViews(#[n(0)] Vec<ActiveView>),
    /// To [`Query::GetResumePoints`]: one for each title asked for, in that order.
    #[n(2)]
    ResumePoints(#[n(0)] Vec<TitleState>),
    /// To [`Query::ListContinueWatching`].
    #[n(3)]
    ContinueWatching {
        /// The items of this page.
        #[n(0)]
        items: Vec<ContinueItem>,
        /// Where the next page begins; `None`: this was the last.
        #[cbor(n(1), with = "minicbor::bytes")]
        next: Option<Vec<u8>>,
    },
    /// To [`Query::ListHistory`].
    #[n(4)]
    History {
        /// The entries of this page.
        #[n(0)]
        entries: Vec<HistoryEntry>,
        /// Where the next page begins; `None`: this was the last.
        #[cbor(n(1), with = "minicbor::bytes")]
        next: Option<Vec<u8>>,
    },
    /// To [`Query::GetAccount`].
    #[n(5)]
    Account(#[n(0)] AccountSummary),
    /// To [`Query::GetStreamPolicy`].
    #[n(6)]
    StreamPolicy(#[n(0)] StreamPolicy),
    /// The query is not accepted.
    #[n(7)]
    Invalid {
        /// The field.
        #[n(0)]
        field: Box<str>,
        /// What is accepted.
        #[n(1)]
        accepted: Box<str>,
    },
}

/// What is known of a view.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ViewStatus {
    /// It runs.
    #[n(0)]
    Active(#[n(0)] ActiveView),
    /// It ended lately.
    #[n(1)]
    Ended(#[n(0)] EndedView),
    /// Nothing is known of it.
    #[n(2)]
    Unknown,
}

/// A view that runs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ActiveView {
    /// Its id.
    #[n(0)]
    pub view: ViewId,
    /// Who watches.
    #[n(1)]
    pub profile: ProfileId,
    /// On what.
    #[n(2)]
    pub device: DeviceId,
    /// What.
    #[n(3)]
    pub media: super::Media,
    /// What kind of playback.
    #[n(4)]
    pub kind: super::ViewKind,
    /// What its player did at the last report.
    #[n(5)]
    pub state: super::PlayState,
    /// Where it was at the last report, in ms; `None` when never told.
    #[n(6)]
    pub position_ms: Option<u64>,
    /// Its newest sequence; 0 before the first report.
    #[n(7)]
    pub sequence: u64,
    /// When it started.
    #[n(8)]
    pub started_at: WallMs,
    /// When it last reported.
    #[n(9)]
    pub reported_at: WallMs,
    /// How much of the title it really played, in ms.
    #[n(10)]
    pub watched_ms: u64,
    /// Whether it counts against the stream limit now.
    #[n(11)]
    pub holds_stream: bool,
    /// It was let in while the shard had no leader.
    #[cbor(n(12), skip_if = "super::command::is_off")]
    pub degraded: bool,
}

/// Where a title was left.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ResumePoint {
    /// Position in ms.
    #[n(0)]
    pub position_ms: u64,
    /// The title's runtime in ms, where known.
    #[n(1)]
    pub duration_ms: Option<u64>,
    /// On what.
    #[n(2)]
    pub device: DeviceId,
    /// When.
    #[n(3)]
    pub at: WallMs,
}

/// A resume point that lost against another device's.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Alternate {
    /// The point.
    #[n(0)]
    pub point: ResumePoint,
    /// Kept until then, in the shard's time.
    #[n(1)]
    pub until: LogicalMs,
}

/// All that is known of a profile and a title. Views that run count as if they ended at their last report.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TitleState {
    /// The title.
    #[n(0)]
    pub title: TitleId,
    /// What kind of thing it is, as last told.
    #[n(1)]
    pub title_type: TitleType,
    /// Where to resume; `None` where the rules give no resume point.
    #[n(2)]
    pub resume: Option<ResumePoint>,
    /// Where the title was left last, also where that is no resume point.
    #[n(3)]
    pub last: Option<ResumePoint>,
    /// The point of another device that lost lately.
    #[n(4)]
    pub alternate: Option<Alternate>,
    /// When it was last watched to the end; `None`: never.
    #[n(5)]
    pub watched_at: Option<WallMs>,
    /// How often it was watched to the end.
    #[n(6)]
    pub play_count: u32,
}

/// An item of the continue-watching row.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContinueItem {
    /// The title.
    #[n(0)]
    pub title: TitleId,
    /// What kind of thing it is.
    #[n(1)]
    pub title_type: TitleType,
    /// Where to resume.
    #[n(2)]
    pub resume: ResumePoint,
    /// A view of it runs.
    #[n(3)]
    pub active: bool,
}

/// An account as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AccountSummary {
    /// Its stream policy.
    #[n(0)]
    pub policy: StreamPolicy,
    /// The policy is its own, not the default.
    #[n(1)]
    pub policy_is_own: bool,
    /// Its profiles, in the order of their names.
    #[n(2)]
    pub profiles: Vec<ProfileSummary>,
    /// How many views are active.
    #[n(3)]
    pub active_views: u32,
    /// How many of them hold a stream.
    #[n(4)]
    pub streams: u32,
}

/// A profile as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProfileSummary {
    /// The profile.
    #[n(0)]
    pub profile: ProfileId,
    /// Its titles of which anything is known.
    #[n(1)]
    pub titles: u64,
    /// Its history entries.
    #[n(2)]
    pub entries: u64,
    /// The plays in them.
    #[n(3)]
    pub plays: u64,
}
