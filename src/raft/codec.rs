//! The bytes of what openraft makes: log ids, votes, memberships, the payloads of log entries.
//!
//! CBOR with stable tags, held by golden bytes in the tests. A log entry's position is kept beside its payload (the log's
//! records have fields for it), so a payload's bytes are the same wherever it stands.
//!
//! ```text
//! log id      [term, index]
//! vote        [term, replica voted for, committed]
//! membership  [[[voter, ..] one or two times], [[replica, node], ..]]
//! payload     [0, []] blank · [1, [stamp, count, body]] normal · [2, [membership]]
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use minicbor::bytes::ByteSlice;
use minicbor::{Decode, Decoder, Encode};

use super::types::{Batch, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership, Vote, log_id};
use crate::ids::NodeId;
use crate::time::Stamp;

/// Why bytes are not what they should be. Deterministic: the same bytes fail on every replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Not the CBOR that is expected here, or a tag of a later version.
    #[error("{what} can't be decoded: {why}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What the decoder says.
        why: String,
    },
    /// There are bytes after the end.
    #[error("{what} is followed by {extra} bytes that don't belong to it")]
    Trailing {
        /// What was read.
        what: &'static str,
        /// Bytes left over.
        extra: usize,
    },
    /// A membership that no group can have.
    #[error("a membership is not sound: {0}")]
    Membership(String),
}

/// Encodes anything of ours; writing to memory can't fail.
pub(crate) fn to_vec<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

/// Appends the encoding of `value` to `out`.
pub(crate) fn encode_into<T: Encode<()>>(value: &T, out: &mut Vec<u8>) {
    minicbor::encode(value, out).expect("writing to a Vec can't fail, and our types encode without conditions");
}

/// Decodes all of `bytes` as one `T`.
pub(crate) fn from_slice<'b, T: Decode<'b, ()>>(what: &'static str, bytes: &'b [u8]) -> Result<T, DecodeError> {
    let mut d = Decoder::new(bytes);
    let value = d.decode().map_err(|e| DecodeError::Malformed { what, why: e.to_string() })?;
    match bytes.len() - d.position() {
        0 => Ok(value),
        extra => Err(DecodeError::Trailing { what, extra }),
    }
}

/// A log id on disk and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct LogIdRepr {
    #[n(0)]
    term: u64,
    #[n(1)]
    index: u64,
}

impl From<LogId> for LogIdRepr {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<LogIdRepr> for LogId {
    fn from(id: LogIdRepr) -> Self {
        log_id(id.term, id.index)
    }
}

/// A vote on disk and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct VoteRepr {
    #[n(0)]
    term: u64,
    #[n(1)]
    voted_for: u64,
    #[n(2)]
    committed: bool,
}

impl From<Vote> for VoteRepr {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, voted_for: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<VoteRepr> for Vote {
    fn from(vote: VoteRepr) -> Self {
        if vote.committed {
            Vote::new_committed(vote.term, vote.voted_for)
        } else {
            Vote::new(vote.term, vote.voted_for)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct MemberRepr {
    #[n(0)]
    replica: u64,
    #[n(1)]
    node: u64,
}

/// A membership on disk and on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct MembershipRepr {
    #[n(0)]
    configs: Vec<Vec<u64>>,
    #[n(1)]
    nodes: Vec<MemberRepr>,
}

impl From<&Membership> for MembershipRepr {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().iter().map(|voters| voters.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(id, m)| MemberRepr { replica: *id, node: m.node.0 }).collect(),
        }
    }
}

impl TryFrom<MembershipRepr> for Membership {
    type Error = DecodeError;

    fn try_from(repr: MembershipRepr) -> Result<Self, DecodeError> {
        let configs: Vec<BTreeSet<u64>> = repr.configs.into_iter().map(|ids| ids.into_iter().collect()).collect();
        let nodes: BTreeMap<u64, Member> =
            repr.nodes.into_iter().map(|m| (m.replica, Member { node: NodeId(m.node) })).collect();
        // The membership of a replica that has seen none is empty, which openraft makes only by default.
        if configs.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|e| DecodeError::Membership(e.to_string()))
    }
}

/// A membership with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct StoredMembershipRepr {
    #[n(0)]
    log_id: Option<LogIdRepr>,
    #[n(1)]
    membership: MembershipRepr,
}

impl From<&StoredMembership> for StoredMembershipRepr {
    fn from(stored: &StoredMembership) -> Self {
        Self { log_id: stored.log_id().map(Into::into), membership: stored.membership().into() }
    }
}

impl TryFrom<StoredMembershipRepr> for StoredMembership {
    type Error = DecodeError;

    fn try_from(repr: StoredMembershipRepr) -> Result<Self, DecodeError> {
        Ok(StoredMembership::new(repr.log_id.map(Into::into), repr.membership.try_into()?))
    }
}

/// What a snapshot or a checkpoint covers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SnapshotMetaRepr {
    #[n(0)]
    last_log_id: Option<LogIdRepr>,
    #[n(1)]
    last_membership: StoredMembershipRepr,
}

impl From<&SnapshotMeta> for SnapshotMetaRepr {
    fn from(meta: &SnapshotMeta) -> Self {
        Self { last_log_id: meta.last_log_id.map(Into::into), last_membership: (&meta.last_membership).into() }
    }
}

impl TryFrom<SnapshotMetaRepr> for SnapshotMeta {
    type Error = DecodeError;

    fn try_from(repr: SnapshotMetaRepr) -> Result<Self, DecodeError> {
        Ok(Self { last_log_id: repr.last_log_id.map(Into::into), last_membership: repr.last_membership.try_into()? })
    }
}

/// A payload, borrowing its body from where it is read.
#[derive(Debug, Encode, Decode)]
pub(crate) enum PayloadRepr<'b> {
    #[n(0)]
    Blank,
    #[n(1)]
    Normal {
        #[n(0)]
        stamp: Stamp,
        #[n(1)]
        count: u32,
        #[b(2)]
        body: &'b ByteSlice,
    },
    #[n(2)]
    Membership(#[n(0)] MembershipRepr),
}

impl<'b> From<&'b Payload> for PayloadRepr<'b> {
    fn from(payload: &'b Payload) -> Self {
        match payload {
            Payload::Blank => Self::Blank,
            Payload::Normal(batch) => {
                Self::Normal { stamp: batch.stamp, count: batch.count, body: <&ByteSlice>::from(&batch.body[..]) }
            }
            Payload::Membership(membership) => Self::Membership(membership.into()),
        }
    }
}

impl PayloadRepr<'_> {
    /// The payload; its body shares the memory of `owner`, out of which `self` was read.
    pub(crate) fn into_payload(self, owner: &Bytes) -> Result<Payload, DecodeError> {
        Ok(match self {
            Self::Blank => Payload::Blank,
            Self::Normal { stamp, count, body } => {
                Payload::Normal(Batch::new(stamp, count, owner.slice_ref(&body[..])))
            }
            Self::Membership(membership) => Payload::Membership(membership.try_into()?),
        })
    }
}

/// The bytes of a payload, as the log keeps them.
pub(crate) fn encode_payload(payload: &Payload) -> Bytes {
    let capacity = match payload {
        Payload::Normal(batch) => batch.body.len() + 48,
        _ => 64,
    };
    let mut out = Vec::with_capacity(capacity);
    encode_into(&PayloadRepr::from(payload), &mut out);
    out.into()
}

/// The payload that [`encode_payload`] wrote.
pub(crate) fn decode_payload(bytes: &Bytes) -> Result<Payload, DecodeError> {
    from_slice::<PayloadRepr<'_>>("a log entry", bytes)?.into_payload(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ReplicaId;
    use crate::raft::types::members;
    use crate::time::{LogicalMs, WallMs};

    fn membership() -> Membership {
        let nodes = members([(ReplicaId(7), NodeId(1)), (ReplicaId(8), NodeId(2)), (ReplicaId(9), NodeId(3))]);
        Membership::new(vec![BTreeSet::from([7, 8])], nodes).expect("sound")
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_bytes_of_payloads_never_change() {
        let stamp = Stamp { logical: LogicalMs(1000), wall: WallMs(2000) };
        let normal = Payload::Normal(Batch::new(stamp, 2, Bytes::from_static(b"ab")));
        let golden = [
            (Payload::Blank, "820080"),
            (normal, "820183821903e81907d002426162"),
            (Payload::Membership(membership()), "8202818281820708838207018208028209 03"),
        ];
        for (payload, bytes) in golden {
            let written = encode_payload(&payload);
            assert_eq!(hex(&written), bytes.replace(' ', ""), "{payload}");
            assert_eq!(encode_payload(&decode_payload(&written).expect("decodes")), written);
        }
    }

    #[test]
    fn votes_log_ids_and_memberships_come_back_as_they_were() {
        let vote = Vote::new_committed(3, 9);
        assert_eq!(Vote::from(from_slice::<VoteRepr>("", &to_vec(&VoteRepr::from(vote))).expect("decodes")), vote);
        let stored = StoredMembership::new(Some(log_id(2, 5)), membership());
        let bytes = to_vec(&StoredMembershipRepr::from(&stored));
        let back: StoredMembership =
            from_slice::<StoredMembershipRepr>("", &bytes).expect("decodes").try_into().expect("sound");
        assert_eq!(back, stored);
        let none = StoredMembership::default();
        let bytes = to_vec(&StoredMembershipRepr::from(&none));
        let back: StoredMembership =
            from_slice::<StoredMembershipRepr>("", &bytes).expect("decodes").try_into().expect("sound");
        assert_eq!(back, none);
    }

    #[test]
    fn unknown_kinds_cut_and_trailing_bytes_are_refused() {
        assert!(matches!(decode_payload(&Bytes::from_static(b"\x82\x09\x80")), Err(DecodeError::Malformed { .. })));
        assert!(matches!(decode_payload(&Bytes::from_static(b"\x82\x00")), Err(DecodeError::Malformed { .. })));
        assert!(matches!(
            decode_payload(&Bytes::from_static(b"\x82\x00\x80\x00")),
            Err(DecodeError::Trailing { extra: 1, .. })
        ));
        // A voter that is not among the nodes.
        let bytes = Bytes::from_static(b"\x82\x02\x81\x82\x81\x81\x07\x80");
        assert!(matches!(decode_payload(&bytes), Err(DecodeError::Membership(_))));
    }
}
