//! The bytes of frames: who, to whom, what.
//!
//! ```text
//! frame     [group, from replica, to replica, request]
//! request   0 vote · 1 pre-vote · 2 append · 3 transfer of the lead · 4 snapshot begins · 5 piece · 6 ends
//! response  0 REPLICA_GONE · 1 vote · 2 append · 3 transfer · 4 piece taken · 5 snapshot · 6 refused
//! ```

use bytes::Bytes;
use minicbor::bytes::{ByteSlice, ByteVec};
use minicbor::{Decode, Encode};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use crate::ids::{GroupId, ReplicaId};
use crate::raft::codec::{DecodeError, LogIdRepr, PayloadRepr, VoteRepr, from_slice, to_vec};
use crate::raft::types::{Entry, Types, Vote};
use crate::store::Pair;

/// An entry on its way.
#[derive(Debug, Encode, Decode)]
pub(super) struct EntryRepr<'b> {
    #[n(0)]
    id: LogIdRepr,
    #[b(1)]
    payload: PayloadRepr<'b>,
}

/// A key and its value.
#[derive(Debug, Encode, Decode)]
pub(super) struct PairRepr<'b> {
    #[b(0)]
    key: &'b ByteSlice,
    #[b(1)]
    value: &'b ByteSlice,
}

/// What is asked of a replica, borrowing from the frame.
#[derive(Debug, Encode, Decode)]
pub(super) enum RequestRepr<'b> {
    #[n(0)]
    Vote(#[n(0)] VoteRequestRepr),
    #[n(1)]
    PreVote(#[n(0)] VoteRequestRepr),
    #[n(2)]
    Append {
        #[n(0)]
        vote: VoteRepr,
        #[n(1)]
        prev: Option<LogIdRepr>,
        #[n(2)]
        commit: Option<LogIdRepr>,
        #[b(3)]
        entries: Vec<EntryRepr<'b>>,
        /// How long a replica that takes it may help nobody else to the lead, ms; `None`: as long as a lease was before leaders
        /// said it.
        #[n(4)]
        lease_ms: Option<u64>,
    },
    #[n(3)]
    TransferLeader {
        #[n(0)]
        from_leader: VoteRepr,
        #[n(1)]
        last: Option<LogIdRepr>,
        /// Who is to lead; every voter is told.
        #[n(2)]
        to: u64,
    },
    #[n(4)]
    SnapshotBegin {
        #[n(0)]
        transfer: u64,
        #[n(1)]
        vote: VoteRepr,
        #[b(2)]
        header: &'b ByteSlice,
    },
    #[n(5)]
    SnapshotPiece {
        #[n(0)]
        transfer: u64,
        /// Counts the pieces of a transfer from 0.
        #[n(1)]
        number: u64,
        #[b(2)]
        images: Vec<PairRepr<'b>>,
        #[b(3)]
        rows: Vec<PairRepr<'b>>,
    },
    #[n(6)]
    SnapshotEnd {
        #[n(0)]
        transfer: u64,
        #[n(1)]
        pieces: u64,
    },
}

#[derive(Debug, Encode, Decode)]
pub(super) struct VoteRequestRepr {
    #[n(0)]
    vote: VoteRepr,
    #[n(1)]
    last: Option<LogIdRepr>,
    #[n(2)]
    leadership_transfer: bool,
}

#[cfg(test)]
impl VoteRequestRepr {
    pub(super) fn bare(vote: VoteRepr) -> Self {
        Self { vote, last: None, leadership_transfer: false }
    }
}

impl From<&VoteRequest<Types>> for VoteRequestRepr {
    fn from(request: &VoteRequest<Types>) -> Self {
        Self {
            vote: request.vote.into(),
            last: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<VoteRequestRepr> for VoteRequest<Types> {
    fn from(request: VoteRequestRepr) -> Self {
        let mut vote = Self::new(request.vote.into(), request.last.map(Into::into));
        vote.leadership_transfer = request.leadership_transfer;
        vote
    }
}

impl<'b> RequestRepr<'b> {
    pub(super) fn append(request: &'b AppendEntriesRequest<Types>, lease_ms: Option<u64>) -> Self {
        let entry = |entry: &'b Entry| EntryRepr { id: entry.log_id.into(), payload: (&entry.payload).into() };
        Self::Append {
            vote: request.vote.into(),
            prev: request.prev_log_id.map(Into::into),
            commit: request.leader_commit.map(Into::into),
            entries: request.entries.iter().map(entry).collect(),
            lease_ms,
        }
    }

    pub(super) fn transfer_leader(request: &TransferLeaderRequest<Types>) -> Self {
        Self::TransferLeader {
            from_leader: (*request.from_leader()).into(),
            last: request.last_log_id().map(|id| (*id).into()),
            to: *request.to_node_id(),
        }
    }

    pub(super) fn pairs(pairs: &'b [Pair]) -> Vec<PairRepr<'b>> {
        pairs.iter().map(|(key, value)| PairRepr { key: key[..].into(), value: value[..].into() }).collect()
    }
}

#[derive(Debug, Encode, Decode)]
struct FrameRepr<'b> {
    #[n(0)]
    group: GroupId,
    #[n(1)]
    from: ReplicaId,
    #[n(2)]
    to: ReplicaId,
    #[b(3)]
    request: RequestRepr<'b>,
}

/// The bytes of a frame.
pub(super) fn encode_frame(group: GroupId, from: ReplicaId, to: ReplicaId, request: RequestRepr<'_>) -> Bytes {
    to_vec(&FrameRepr { group, from, to, request }).into()
}

/// What is asked of a replica.
#[derive(Debug)]
pub(super) enum Request {
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Append { request: AppendEntriesRequest<Types>, lease_ms: Option<u64> },
    TransferLeader(TransferLeaderRequest<Types>),
    Snapshot(SnapshotRequest),
}

/// A part of a snapshot on its way.
#[derive(Debug)]
pub(super) enum SnapshotRequest {
    Begin { transfer: u64, vote: Vote, header: Vec<u8> },
    Piece { transfer: u64, number: u64, images: Vec<Pair>, rows: Vec<Pair> },
    End { transfer: u64, pieces: u64 },
}

/// A frame, decoded.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) group: GroupId,
    pub(super) from: ReplicaId,
    pub(super) to: ReplicaId,
    pub(super) request: Request,
}

/// Decodes a frame; entries share its memory.
pub(super) fn decode_frame(bytes: &Bytes) -> Result<Frame, DecodeError> {
    let FrameRepr { group, from, to, request } = from_slice("a frame", bytes)?;
    let owned = |pairs: Vec<PairRepr<'_>>| pairs.iter().map(|p| (p.key.to_vec(), p.value.to_vec())).collect();
    let request = match request {
        RequestRepr::Vote(request) => Request::Vote(request.into()),
        RequestRepr::PreVote(request) => Request::PreVote(request.into()),
        RequestRepr::Append { vote, prev, commit, entries, lease_ms } => {
            let entry = |entry: EntryRepr<'_>| {
                Ok(Entry { log_id: entry.id.into(), payload: entry.payload.into_payload(bytes)? })
            };
            let request = AppendEntriesRequest {
                vote: vote.into(),
                prev_log_id: prev.map(Into::into),
                leader_commit: commit.map(Into::into),
                entries: entries.into_iter().map(entry).collect::<Result<_, DecodeError>>()?,
            };
            Request::Append { request, lease_ms }
        }
        RequestRepr::TransferLeader { from_leader, last, to } => {
            Request::TransferLeader(TransferLeaderRequest::new(from_leader.into(), to, last.map(Into::into)))
        }
        RequestRepr::SnapshotBegin { transfer, vote, header } => {
            Request::Snapshot(SnapshotRequest::Begin { transfer, vote: vote.into(), header: header.to_vec() })
        }
        RequestRepr::SnapshotPiece { transfer, number, images, rows } => {
            Request::Snapshot(SnapshotRequest::Piece { transfer, number, images: owned(images), rows: owned(rows) })
        }
        RequestRepr::SnapshotEnd { transfer, pieces } => Request::Snapshot(SnapshotRequest::End { transfer, pieces }),
    };
    Ok(Frame { group, from, to, request })
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Response {
    /// The addressee does not live here. It never will again, or not yet.
    #[n(0)]
    Gone,
    #[n(1)]
    Vote {
        #[n(0)]
        vote: VoteRepr,
        #[n(1)]
        granted: bool,
        #[n(2)]
        last: Option<LogIdRepr>,
    },
    #[n(2)]
    Append(#[n(0)] AppendRepr),
    #[n(3)]
    TransferLeader(#[n(0)] TransferRepr),
    #[n(4)]
    PieceTaken,
    #[n(5)]
    Snapshot(#[n(0)] VoteRepr),
    /// It could not be done, for a reason that may go away.
    #[n(6)]
    Refused(#[n(0)] String),
    /// The frame is not a frame of this version.
    #[n(7)]
    Malformed(#[n(0)] ByteVec),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum AppendRepr {
    #[n(0)]
    Success,
    #[n(1)]
    Partial(#[n(0)] Option<LogIdRepr>),
    #[n(2)]
    Conflict,
    #[n(3)]
    HigherVote(#[n(0)] VoteRepr),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum TransferRepr {
    #[n(0)]
    Taken,
    #[n(1)]
    VoteChanged {
        #[n(0)]
        expected: VoteRepr,
        #[n(1)]
        actual: VoteRepr,
    },
    #[n(2)]
    LogNotFlushed {
        #[n(0)]
        expected: Option<LogIdRepr>,
        #[n(1)]
        actual: Option<LogIdRepr>,
    },
}

impl From<VoteResponse<Types>> for Response {
    fn from(response: VoteResponse<Types>) -> Self {
        Self::Vote {
            vote: response.vote.into(),
            granted: response.vote_granted,
            last: response.last_log_id.map(Into::into),
        }
    }
}

impl From<AppendEntriesResponse<Types>> for Response {
    fn from(response: AppendEntriesResponse<Types>) -> Self {
        Self::Append(match response {
            AppendEntriesResponse::Success => AppendRepr::Success,
            AppendEntriesResponse::PartialSuccess(last) => AppendRepr::Partial(last.map(Into::into)),
            AppendEntriesResponse::Conflict => AppendRepr::Conflict,
            AppendEntriesResponse::HigherVote(vote) => AppendRepr::HigherVote(vote.into()),
        })
    }
}

impl From<AppendRepr> for AppendEntriesResponse<Types> {
    fn from(response: AppendRepr) -> Self {
        match response {
            AppendRepr::Success => Self::Success,
            AppendRepr::Partial(last) => Self::PartialSuccess(last.map(Into::into)),
            AppendRepr::Conflict => Self::Conflict,
            AppendRepr::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<TransferLeaderResponse<Types>> for Response {
    fn from(response: TransferLeaderResponse<Types>) -> Self {
        Self::TransferLeader(match response {
            Ok(()) => TransferRepr::Taken,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                TransferRepr::VoteChanged { expected: expected.into(), actual: actual.into() }
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                TransferRepr::LogNotFlushed { expected: expected.map(Into::into), actual: actual.map(Into::into) }
            }
        })
    }
}

impl From<TransferRepr> for TransferLeaderResponse<Types> {
    fn from(response: TransferRepr) -> Self {
        match response {
            TransferRepr::Taken => Ok(()),
            TransferRepr::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() })
            }
            TransferRepr::LogNotFlushed { expected, actual } => Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            }),
        }
    }
}

impl Response {
    pub(super) fn encode(&self) -> Bytes {
        to_vec(self).into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        from_slice("an answer to a frame", bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Batch, Payload, log_id};
    use crate::time::Stamp;

    fn append() -> AppendEntriesRequest<Types> {
        let batch = Batch::new(Stamp::default(), 1, Bytes::from_static(b"body"));
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 7),
            prev_log_id: Some(log_id(2, 9)),
            entries: vec![
                Entry { log_id: log_id(3, 10), payload: Payload::Blank },
                Entry { log_id: log_id(3, 11), payload: Payload::Normal(batch) },
            ],
            leader_commit: None,
        }
    }

    #[test]
    fn frames_come_back_as_they_were_sent() {
        let request = append();
        for told in [None, Some(200)] {
            let bytes = encode_frame(GroupId(5), ReplicaId(7), ReplicaId(8), RequestRepr::append(&request, told));
            let frame = decode_frame(&bytes).expect("decodes");
            assert_eq!((frame.group, frame.from, frame.to), (GroupId(5), ReplicaId(7), ReplicaId(8)));
            let Request::Append { request: got, lease_ms } = frame.request else { panic!("{:?}", frame.request) };
            assert_eq!((format!("{got:?}"), lease_ms), (format!("{request:?}"), told));
            let again = encode_frame(GroupId(5), ReplicaId(7), ReplicaId(8), RequestRepr::append(&got, told));
            assert_eq!(again, bytes);
        }
        let pairs = vec![(b"k".to_vec(), b"v".to_vec())];
        let piece =
            RequestRepr::SnapshotPiece { transfer: 1, number: 2, images: Vec::new(), rows: RequestRepr::pairs(&pairs) };
        let bytes = encode_frame(GroupId(5), ReplicaId(7), ReplicaId(8), piece);
        let frame = decode_frame(&bytes).expect("decodes");
        assert!(matches!(frame.request,
            Request::Snapshot(SnapshotRequest::Piece { rows, number: 2, .. }) if rows == pairs));
    }

    /// Of a cluster in which leaders don't say their lease yet.
    #[test]
    fn an_append_without_a_lease_is_as_it_always_was() {
        let bare = AppendEntriesRequest {
            vote: Vote::new_committed(3, 7),
            prev_log_id: Some(log_id(2, 9)),
            entries: Vec::new(),
            leader_commit: None,
        };
        let bytes = encode_frame(GroupId(5), ReplicaId(7), ReplicaId(8), RequestRepr::append(&bare, None));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "84050708820284830307f582020 9f680".replace(' ', ""));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let request = append();
        let good = encode_frame(GroupId(5), ReplicaId(7), ReplicaId(8), RequestRepr::append(&request, Some(200)));
        for cut in 0..good.len() {
            assert!(decode_frame(&good.slice(..cut)).is_err());
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[cut] ^= 1 << bit;
                let _ = decode_frame(&bad.into());
            }
        }
    }
}
