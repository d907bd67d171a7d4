//! What the meta state knows of nodes that come and go, and of the way from one placement to the next.

use crate::ids::NodeId;
use crate::ring::Placement;
use crate::time::WallMs;

/// How long a node may be dead before it is given up, when nobody says otherwise.
pub const GRACE_MS_DEFAULT: u64 = 300_000;
/// The least of it.
pub const GRACE_MS_MIN: u64 = 1_000;
/// The most of it.
pub const GRACE_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// The least that a rule may leave to the copies of a node, in bytes a second: as little as a node can be told by its own setting.
pub const COPIES_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// The most of it.
pub const COPIES_BYTES_PER_SECOND_MAX: u64 = 16 << 30;
/// The most commands a second of one account that a rule may bound it to, for each leader; the least is 1.
pub const ACCOUNT_PER_SECOND_MAX: u32 = 1_000_000;
/// The most bytes of why a change came about.
pub const WHY_BYTES_MAX: usize = 300;
/// How many forgotten nodes are still known as removed.
pub const GONE_MAX: usize = 16_384;
/// The most nodes that are listed, removed ones that nobody has forgotten yet among them.
pub const LISTED_MAX: usize = 2 * crate::ring::MEMBERS_MAX;

/// What has become of a node, beside what an operator wants of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Life {
    /// It was dead for too long: it is no member of anything until it is taken back.
    #[n(0)]
    pub given_up: bool,
    /// It is never given up.
    #[n(1)]
    pub held: bool,
    /// The dead node whose place it takes when it becomes active.
    #[n(2)]
    pub replaces: Option<NodeId>,
    /// Another node has taken its place: it is removed as soon as it holds nothing.
    #[n(3)]
    pub replaced: bool,
}

/// The way from the placement to another one.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Change {
    /// The placement that is gone to.
    #[n(0)]
    pub target: Placement,
    /// Why, for people.
    #[n(1)]
    pub why: String,
    /// Since when, by the calendar of who proposed it.
    #[n(2)]
    pub since: WallMs,
    /// No further shard begins.
    #[n(3)]
    pub paused: bool,
    /// How many copies had to be made when it began.
    #[n(4)]
    pub copies: u32,
}

/// What an operator, or the node that carries it out, wants of the change under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Turn {
    /// No further shard begins.
    #[n(0)]
    Pause,
    /// It goes on.
    #[n(1)]
    Resume,
    /// The target is dropped, and none is made by itself before nodes or rules change.
    #[n(2)]
    Cancel,
    /// The placement is the target.
    #[n(3)]
    End,
    /// A target may be made again, once, though changes don't begin by themselves.
    #[n(4)]
    Apply,
}

/// The rules by which changes come about.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Rebalance {
    /// How long a node may be dead before it is given up.
    #[n(0)]
    pub grace_ms: u64,
    /// Changes begin by themselves.
    #[n(1)]
    pub automatic: bool,
    /// The last change was cancelled, and nodes and rules are as they were then.
    #[n(2)]
    pub cancelled: bool,
    /// An operator has said that the change which is due shall begin.
    #[n(3)]
    pub applied: bool,
    /// Leads stay even by number, whatever shards cost.
    #[cbor(n(4), default)]
    pub leads_by_number: bool,
    /// What copies may take of each node, each way, in bytes a second; `None`: what each node has set, and always so under versions without
    /// [`Feature::LimitRules`](crate::versions::Feature::LimitRules).
    #[n(5)]
    pub copies_bytes_per_second: Option<u64>,
    /// Commands a second that a leader takes of one account; `None`: what each node has set, and so it is as with
    /// [`Self::copies_bytes_per_second`].
    #[n(6)]
    pub account_per_second: Option<u32>,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self {
            grace_ms: GRACE_MS_DEFAULT,
            automatic: true,
            cancelled: false,
            applied: false,
            leads_by_number: false,
            copies_bytes_per_second: None,
            account_per_second: None,
        }
    }
}

impl Rebalance {
    /// Whether a change that is due may begin now.
    pub fn may_begin(&self) -> bool {
        self.applied || (self.automatic && !self.cancelled)
    }
}
