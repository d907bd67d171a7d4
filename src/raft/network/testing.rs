//! Frames by hand, for tests.

use bytes::Bytes;

use super::wire::{RequestRepr, Response, VoteRequestRepr, encode_frame};
use crate::ids::{GroupId, ReplicaId};
use crate::raft::codec::VoteRepr;

/// A request for a vote.
pub(crate) fn vote_frame(group: GroupId, from: ReplicaId, to: ReplicaId, vote: VoteRepr) -> Bytes {
    encode_frame(group, from, to, RequestRepr::Vote(VoteRequestRepr::bare(vote)))
}

/// Whether an answer says REPLICA_GONE.
pub(crate) fn is_gone(answer: &[u8]) -> bool {
    Response::decode(answer) == Ok(Response::Gone)
}
