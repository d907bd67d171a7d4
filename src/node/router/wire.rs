//! What routers say to each other on the forward lane.

use minicbor::{Decode, Encode};

use crate::ids::{Epoch, GroupId, NodeId, ReplicaId, Revision};
use crate::node::leaders::Lead;
use crate::node::meta::MetaState;
use crate::raft::{AsOf, ReadMode, Role};
use crate::telemetry::trace::TraceId;
use crate::time::{LogicalMs, WallMs};
use crate::view::{Answer, Envelope, Query, Reply};

/// To whom, by which map, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Route {
    /// The epoch of the caller's map.
    #[n(0)]
    pub(super) epoch: Epoch,
    /// The group.
    #[n(1)]
    pub(super) group: GroupId,
    /// The replica that is meant; `None`: any.
    #[n(2)]
    pub(super) replica: Option<ReplicaId>,
    /// What is left of the caller's time, in milliseconds.
    #[n(3)]
    pub(super) timeout_ms: u32,
    /// The id of the call in log lines.
    #[n(4)]
    pub(super) trace: TraceId,
}

/// What holds of all that is in one frame for many shards.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Head {
    /// The epoch of the caller's map.
    #[n(0)]
    pub(super) epoch: Epoch,
    /// What is left of the caller's time, in milliseconds.
    #[n(1)]
    pub(super) timeout_ms: u32,
    /// The id of the call in log lines.
    #[n(2)]
    pub(super) trace: TraceId,
}

/// Commands for one shard's leader, encoded once: as they will stand in its log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Share {
    /// The shard's group.
    #[n(0)]
    pub(super) group: GroupId,
    /// The replica that is meant.
    #[n(1)]
    pub(super) replica: ReplicaId,
    /// How many commands.
    #[n(2)]
    pub(super) count: u32,
    /// Their encodings, as in the body of a log entry.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(super) body: Vec<u8>,
}

/// A request of one router to another. Tags are for ever within a wire version.
#[derive(Clone, Debug, PartialEq, Eq, Decode)]
pub(super) enum Ask {
    /// Commands for a shard's leader.
    #[n(0)]
    Propose(#[n(0)] Route, #[n(1)] Vec<Envelope>),
    /// A query.
    #[n(1)]
    Query(#[n(0)] Route, #[n(1)] Query, #[n(2)] u8),
    /// A command for the meta group's leader.
    #[n(2)]
    Meta(#[n(0)] Route, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// Whoever leads shall hand the lead over.
    #[n(3)]
    Transfer(#[n(0)] Route, #[n(1)] ReplicaId),
    /// What the cluster is, for a node that has no meta replica.
    #[n(4)]
    MetaState(#[n(0)] Route),
    /// Commands for the leaders of several shards, all on the node that is asked.
    #[n(5)]
    ProposeAll(#[n(0)] Head, #[n(1)] Vec<Share>),
    /// A query in any of the modes of today. Only sent where the cluster has [`crate::versions::Feature::ReadModes`].
    #[n(8)]
    Read(#[n(0)] Route, #[n(1)] Query, #[n(2)] WireMode),
    /// The read indexes of groups whose leaders are meant to be on the node that is asked. As [`Ask::Read`].
    #[n(9)]
    ReadIndexes(#[n(0)] Head, #[n(1)] bool, #[n(2)] Vec<Leading>),
}

/// The most groups of one [`Ask::ReadIndexes`]: as many as a cluster has shards.
pub(super) const READ_INDEXES_MAX: usize = 4096;

/// Who is meant to lead a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Leading {
    /// The group.
    #[n(0)]
    pub(super) group: GroupId,
    /// The replica.
    #[n(1)]
    pub(super) replica: ReplicaId,
}

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum WireMode {
    #[n(0)]
    Strong,
    #[n(1)]
    Lease,
    #[n(2)]
    Any,
    #[n(3)]
    Session(#[n(0)] Revision),
    #[n(4)]
    Bounded(#[n(0)] u64),
}

impl From<ReadMode> for WireMode {
    fn from(mode: ReadMode) -> Self {
        match mode {
            ReadMode::Strong => Self::Strong,
            ReadMode::Lease => Self::Lease,
            ReadMode::Any => Self::Any,
            ReadMode::Session(revision) => Self::Session(revision),
            ReadMode::Bounded(age_ms_max) => Self::Bounded(age_ms_max),
        }
    }
}

impl From<WireMode> for ReadMode {
    fn from(mode: WireMode) -> Self {
        match mode {
            WireMode::Strong => Self::Strong,
            WireMode::Lease => Self::Lease,
            WireMode::Any => Self::Any,
            WireMode::Session(revision) => Self::Session(revision),
            WireMode::Bounded(age_ms_max) => Self::Bounded(age_ms_max),
        }
    }
}

/// [`Ask::ProposeAll`].
pub(super) fn encode_propose_all(head: &Head, shares: &[Share]) -> Vec<u8> {
    let bytes: usize = shares.iter().map(|share| share.body.len() + 32).sum();
    let mut frame = Vec::with_capacity(bytes + 128);
    minicbor::encode((5_u32, (head, shares)), &mut frame).expect("writing to a vector doesn't fail");
    frame
}

/// [`Ask::Propose`] without owning the commands, so that they need not be copied to be sent.
pub(super) fn encode_propose(route: &Route, envelopes: &[Envelope]) -> Vec<u8> {
    let mut encoder = minicbor::Encoder::new(Vec::with_capacity(256 * envelopes.len().max(1)));
    let mut write = || {
        encoder.array(2)?.u32(0)?.array(2)?.encode(route)?.array(envelopes.len() as u64)?;
        envelopes.iter().try_for_each(|envelope| encoder.encode(envelope).map(|_| ()))
    };
    let written: Result<(), minicbor::encode::Error<std::convert::Infallible>> = write();
    written.expect("writing to a vector doesn't fail");
    encoder.into_writer()
}

/// [`Ask::Query`], for nodes of every version; the modes that they may not know are asked for as the strictest.
pub(super) fn encode_query(route: &Route, query: &Query, mode: ReadMode) -> Vec<u8> {
    encode(1, (route, query, mode_tag(mode)))
}

/// [`Ask::Read`].
pub(super) fn encode_read(route: &Route, query: &Query, mode: ReadMode) -> Vec<u8> {
    encode(8, (route, query, WireMode::from(mode)))
}

/// [`Ask::ReadIndexes`].
pub(super) fn encode_read_indexes(head: &Head, hurry: bool, groups: &[Leading]) -> Vec<u8> {
    encode(9, (head, hurry, groups))
}

/// [`Ask::Meta`].
pub(super) fn encode_meta(route: &Route, command: &[u8]) -> Vec<u8> {
    encode(2, (route, <&minicbor::bytes::ByteSlice>::from(command)))
}

/// [`Ask::Transfer`].
pub(super) fn encode_transfer(route: &Route, to: ReplicaId) -> Vec<u8> {
    encode(3, (route, to))
}

/// [`Ask::MetaState`].
pub(super) fn encode_meta_state(route: &Route) -> Vec<u8> {
    encode(4, (route,))
}

fn encode(tag: u32, fields: impl Encode<()>) -> Vec<u8> {
    minicbor::to_vec((tag, fields)).expect("writing to a vector doesn't fail")
}

fn mode_tag(mode: ReadMode) -> u8 {
    match mode {
        ReadMode::Strong | ReadMode::Session(_) | ReadMode::Bounded(_) => 0,
        ReadMode::Lease => 1,
        ReadMode::Any => 2,
    }
}

/// What is unknown is read as the strictest.
pub(super) fn mode_of(tag: u8) -> ReadMode {
    match tag {
        1 => ReadMode::Lease,
        2 => ReadMode::Any,
        _ => ReadMode::Strong,
    }
}

/// How one forwarded command ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[allow(clippy::large_enum_variant, reason = "nearly every one is the large variant")]
pub(super) enum Ended {
    /// Committed.
    #[n(0)]
    Committed(#[n(0)] Answer, #[n(1)] Revision),
    /// Not proposed: this replica doesn't lead (any more).
    #[n(1)]
    NotLeader,
    /// Not proposed: too much waits.
    #[n(2)]
    Overloaded,
    /// Not proposed: too late.
    #[n(3)]
    DeadlineExceeded,
    /// Not proposed: too large.
    #[n(4)]
    TooLarge(#[n(0)] u64, #[n(1)] u64),
    /// Nobody knows.
    #[n(5)]
    Unknown,
    /// Not proposed: the disk has no room to spare.
    #[n(6)]
    NoRoom,
}

/// From when an answer is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct WireAsOf {
    #[n(0)]
    revision: Revision,
    #[n(1)]
    logical: LogicalMs,
    #[n(2)]
    wall: WallMs,
    #[n(3)]
    replica: ReplicaId,
    #[n(4)]
    role: u8,
    /// Nodes of before don't say.
    #[n(5)]
    #[cbor(default)]
    cut_off: bool,
    /// Only told in answer to [`Ask::Read`].
    #[n(6)]
    age_ms: Option<u64>,
}

impl WireAsOf {
    /// As nodes of before tell it.
    pub(super) fn ageless(self) -> Self {
        Self { age_ms: None, ..self }
    }
}

impl From<&AsOf> for WireAsOf {
    fn from(as_of: &AsOf) -> Self {
        let role = match as_of.role {
            Role::Leader => 0,
            Role::Follower => 1,
            Role::Candidate => 2,
            Role::Learner => 3,
            Role::Stopped => 4,
        };
        let AsOf { revision, logical, wall, replica, cut_off, age_ms, .. } = *as_of;
        Self { revision, logical, wall, replica, role, cut_off, age_ms }
    }
}

impl From<WireAsOf> for AsOf {
    fn from(wire: WireAsOf) -> Self {
        let role = match wire.role {
            0 => Role::Leader,
            1 => Role::Follower,
            2 => Role::Candidate,
            3 => Role::Learner,
            _ => Role::Stopped,
        };
        let WireAsOf { revision, logical, wall, replica, cut_off, age_ms, .. } = wire;
        Self { revision, logical, wall, replica, role, cut_off, age_ms }
    }
}

/// Why a forwarded query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Unanswered {
    /// This replica doesn't lead (any more), or has stopped.
    #[n(0)]
    NotLeader,
    /// Too late.
    #[n(1)]
    DeadlineExceeded,
    /// Too much waits.
    #[n(2)]
    Overloaded,
    /// The store can't answer.
    #[n(3)]
    Failed(#[n(0)] String),
    /// Overtaken by checkpoint after checkpoint.
    #[n(4)]
    Raced,
    /// It hasn't got the revision in time, or can't prove that it is fresh enough. Only in answer to [`Ask::Read`], as the next.
    #[n(5)]
    Older,
    /// The group has never got further than this revision.
    #[n(6)]
    NotReached(#[n(0)] Revision),
}

/// An answer of one router to another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Told {
    /// How each command ended.
    #[n(0)]
    Proposed(#[n(0)] Vec<Ended>),
    /// The query's answer.
    #[n(1)]
    Replied(#[n(0)] Reply, #[n(1)] WireAsOf),
    /// The query has none.
    #[n(2)]
    Unanswered(#[n(0)] Unanswered),
    /// What the meta group answered.
    #[n(3)]
    Meta(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// STALE_ROUTE: the replica that is meant doesn't lead, or isn't here. Nothing was done.
    #[n(4)]
    Stale {
        /// The epoch of the answering node's map.
        #[n(0)]
        epoch: Epoch,
        /// Who leads, as far as it knows.
        #[n(1)]
        lead: Option<Lead>,
    },
    /// A single command of the meta group, or a transfer, ended like this.
    #[n(5)]
    Ended(#[n(0)] Ended),
    /// The lead was handed over, or not.
    #[n(6)]
    Transferred(#[n(0)] Result<(), String>),
    /// The frame makes no sense to this node.
    #[n(7)]
    Malformed(#[n(0)] String),
    /// The meta state, as the answering node has applied it.
    #[n(8)]
    MetaState(#[n(0)] Box<MetaState>),
    /// What became of each shard's share, in their order; and how each command ended of all that were proposed.
    #[n(9)]
    ProposedAll(#[n(0)] Vec<ShareTold>, #[n(1)] Vec<Ended>),
    /// The read index of each group, in their order; none where it isn't led here or no quorum answered.
    #[n(11)]
    ReadIndexes(#[n(0)] Vec<Option<u64>>),
}

/// What became of the commands for one shard among several.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum ShareTold {
    /// It was handed in: how its commands ended comes next in the list of all.
    #[n(0)]
    Proposed,
    /// STALE_ROUTE: the replica that is meant doesn't lead, or isn't here. Nothing was done; who leads, as far as is known.
    #[n(1)]
    Stale(#[n(0)] Option<Lead>),
    /// The commands make no sense to this node; nothing was done.
    #[n(2)]
    Malformed(#[n(0)] String),
}

impl Told {
    pub(super) fn to_bytes(&self) -> bytes::Bytes {
        minicbor::to_vec(self).expect("writing to a vector doesn't fail").into()
    }
}

/// Who served a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// The node.
    pub node: NodeId,
    /// Whether the call had to be forwarded to it.
    pub forwarded: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AccountId;
    use crate::view::Command;

    fn route() -> Route {
        Route {
            epoch: Epoch(3),
            group: GroupId(9),
            replica: Some(ReplicaId(17)),
            timeout_ms: 250,
            trace: TraceId::from_random(1),
        }
    }

    #[test]
    fn what_is_written_by_hand_is_read_by_the_derive() {
        let envelopes = [Envelope::plain(Command::Tick), Envelope::plain(Command::Tick)];
        let read: Ask = minicbor::decode(&encode_propose(&route(), &envelopes)).unwrap();
        assert_eq!(read, Ask::Propose(route(), envelopes.to_vec()));
        let query = Query::GetAccount(AccountId::new("a").unwrap());
        let read: Ask = minicbor::decode(&encode_query(&route(), &query, ReadMode::Any)).unwrap();
        assert_eq!(read, Ask::Query(route(), query, 2));
        let read: Ask = minicbor::decode(&encode_meta(&route(), &[1, 2, 3])).unwrap();
        assert_eq!(read, Ask::Meta(route(), vec![1, 2, 3]));
        let read: Ask = minicbor::decode(&encode_transfer(&route(), ReplicaId(4))).unwrap();
        assert_eq!(read, Ask::Transfer(route(), ReplicaId(4)));
        let read: Ask = minicbor::decode(&encode_meta_state(&route())).unwrap();
        assert_eq!(read, Ask::MetaState(route()));
        let head = Head { epoch: Epoch(3), timeout_ms: 250, trace: TraceId::from_random(1) };
        let share = |n: u64| Share { group: GroupId(n), replica: ReplicaId(n), count: 1, body: vec![7; 9] };
        let shares = vec![share(1), share(2)];
        let read: Ask = minicbor::decode(&encode_propose_all(&head, &shares)).unwrap();
        assert_eq!(read, Ask::ProposeAll(head, shares));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        for bytes in [&[][..], &[0xff], &[0x82, 0x00], &[0x82, 0x18, 0x63, 0x80], &[0x9b; 40]] {
            assert!(minicbor::decode::<Ask>(bytes).is_err());
            assert!(minicbor::decode::<Told>(bytes).is_err());
        }
    }
}
