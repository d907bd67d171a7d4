//! The bytes of the log: segment headers, batch headers, records. Drawn in `docs/storage-format.md`; golden bytes below.
//!
//! All numbers are big-endian. Every checksum starts from a seed that is made of the log's id, the segment's id and the
//! place in the segment, so that what an earlier user of a recycled file has left there never passes.

use bytes::Bytes;

use super::{CheckpointRecord, LogId, Place, ReplicaState};
use crate::ids::ReplicaId;
use crate::versions::Spoken;

/// What batches are aligned to: a sector, so that no write touches one that holds durable bytes.
pub(super) const BLOCK_BYTES: u64 = 512;
/// The fewest bytes of a segment's file.
pub(super) const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The segment header; the rest of its block is not used.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// The header of a batch.
pub(super) const BATCH_HEADER_BYTES: usize = 64;
/// The header of a record.
pub(super) const RECORD_HEADER_BYTES: usize = 48;
/// The format that this program writes.
pub(super) const VERSION: u32 = 1;
// Whoever changes it has to write by the version that the node's cluster has come to, not by the newest.
const _: () = assert!(VERSION == Spoken::BUILD.newest.formats().log);
/// More than the State record of a replica can take.
pub(super) const STATE_BYTES_MAX: usize = 1024;

const SEGMENT_MAGIC: [u8; 8] = *b"PHWALSEG";
const BATCH_MAGIC: [u8; 4] = *b"PHWB";

/// This batch begins with a snapshot of all small state.
pub(super) const FLAG_SNAPSHOT: u32 = 1;
/// This batch was the last before the log was closed in order.
pub(super) const FLAG_CLOSED: u32 = 2;

/// Where a record of an entry stands. Segment 0 stands for "not on the disk yet": ids begin at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loc {
    pub(super) segment: u64,
    pub(super) offset: u32,
    /// Bytes of the body.
    pub(super) len: u32,
}

impl Loc {
    /// Bytes of the whole record on the disk.
    pub(super) fn record_bytes(self) -> u64 {
        record_bytes(self.len as usize) as u64
    }
}

/// Bytes that a record with such a body takes.
pub(super) fn record_bytes(body: usize) -> usize {
    (RECORD_HEADER_BYTES + body).next_multiple_of(8)
}

/// The checksum seed of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(log_id: u64, segment: u64) -> Self {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(b"playhead");
        bytes[8..16].copy_from_slice(&log_id.to_be_bytes());
        bytes[16..].copy_from_slice(&segment.to_be_bytes());
        Self(crc32c::crc32c(&bytes))
    }

    fn checksum(self, offset: u64, bytes: &[u8]) -> u32 {
        // Segments are at most 1 GiB, so no two places share a seed.
        crc32c::crc32c_append(self.0.wrapping_add(offset as u32), bytes)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) version: u32,
    pub(super) segment: u64,
    pub(super) log_id: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[12..16].copy_from_slice(&self.version.to_be_bytes());
        out[16..24].copy_from_slice(&self.segment.to_be_bytes());
        out[24..32].copy_from_slice(&self.log_id.to_be_bytes());
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// `None` when the bytes are no segment header, whole and undamaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES)?;
        if bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 8) != crc32c::crc32c(&bytes[12..]) {
            return None;
        }
        Some(Self { version: u32_at(bytes, 12), segment: u64_at(bytes, 16), log_id: u64_at(bytes, 24) })
    }
}

/// The first bytes of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) segment: u64,
    /// Consecutive over all segments.
    pub(super) sequence: u64,
    /// Bytes of its records.
    pub(super) body_bytes: u32,
    pub(super) records: u32,
    /// Everything before this place was durable when the batch was written.
    pub(super) durable: Place,
    /// No segment before this one was needed any more when the batch was written.
    pub(super) oldest: u64,
    pub(super) flags: u32,
}

impl BatchHeader {
    pub(super) fn encode(&self, seed: Seed, offset: u64, out: &mut [u8]) {
        out[..4].copy_from_slice(&BATCH_MAGIC);
        out[8..16].copy_from_slice(&self.segment.to_be_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        out[24..28].copy_from_slice(&self.body_bytes.to_be_bytes());
        out[28..32].copy_from_slice(&self.records.to_be_bytes());
        out[32..40].copy_from_slice(&self.durable.segment.to_be_bytes());
        out[40..48].copy_from_slice(&self.durable.offset.to_be_bytes());
        out[48..56].copy_from_slice(&self.oldest.to_be_bytes());
        out[56..60].copy_from_slice(&self.flags.to_be_bytes());
        out[60..64].fill(0);
        let crc = seed.checksum(offset, &out[8..BATCH_HEADER_BYTES]);
        out[4..8].copy_from_slice(&crc.to_be_bytes());
    }

    /// `None` when the bytes are no batch header written for this place.
    pub(super) fn decode(seed: Seed, offset: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        if bytes[..4] != BATCH_MAGIC || u32_at(bytes, 4) != seed.checksum(offset, &bytes[8..]) {
            return None;
        }
        Some(Self {
            segment: u64_at(bytes, 8),
            sequence: u64_at(bytes, 16),
            body_bytes: u32_at(bytes, 24),
            records: u32_at(bytes, 28),
            durable: Place { segment: u64_at(bytes, 32), offset: u64_at(bytes, 40) },
            oldest: u64_at(bytes, 48),
            flags: u32_at(bytes, 56),
        })
    }
}

/// What a record says. The tags are on disks: never change or reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The next entry: its id, its payload.
    Entry = 1,
    /// An entry that stood in a segment which is about to be recycled, word for word.
    Moved = 2,
    /// The entries after this id are gone.
    Truncate = 3,
    /// All entries are gone.
    TruncateAll = 4,
    /// The entries up to this id are gone.
    Purge = 5,
    /// A vote: the body.
    Vote = 6,
    /// Committed up to this id.
    Committed = 7,
    /// A checkpoint record: the body.
    Checkpoint = 8,
    /// The replica was destroyed.
    Forget = 9,
    /// Snapshot: here it begins; the body counts what follows.
    SnapshotBegin = 10,
    /// Snapshot: the small state of a replica: the body; `nth` is that of its last record.
    State = 11,
    /// Snapshot: this replica isn't to be trusted.
    Distrusted = 12,
    /// Snapshot: ids that are used up: the body, 8 bytes each.
    Forgotten = 13,
}

impl Kind {
    fn from_tag(tag: u8) -> Option<Self> {
        use Kind::*;
        let all = [
            Entry,
            Moved,
            Truncate,
            TruncateAll,
            Purge,
            Vote,
            Committed,
            Checkpoint,
            Forget,
            SnapshotBegin,
            State,
            Distrusted,
            Forgotten,
        ];
        all.into_iter().find(|kind| *kind as u8 == tag)
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    /// Bytes of the body.
    pub(super) len: u32,
    /// The how manieth record of its replica this is, modulo 2^32: tells of records that damage has eaten.
    pub(super) nth: u32,
    pub(super) replica: ReplicaId,
    pub(super) id: LogId,
    body_crc: u32,
}

impl RecordHeader {
    /// `None` when the bytes are no record header written for this place.
    pub(super) fn decode(seed: Seed, offset: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        if u32_at(bytes, 0) != seed.checksum(offset, &bytes[4..]) {
            return None;
        }
        Some(Self {
            kind: Kind::from_tag(bytes[8])?,
            len: u32_at(bytes, 8) & 0x00ff_ffff,
            nth: u32_at(bytes, 12),
            replica: ReplicaId(u64_at(bytes, 16)),
            id: LogId { index: u64_at(bytes, 24), term: u64_at(bytes, 32), leader: u64_at(bytes, 40) },
            body_crc: u32_at(bytes, 4),
        })
    }

    /// Whether this is the body that was written.
    pub(super) fn fits(&self, body: &[u8]) -> bool {
        body.len() == self.len as usize && crc32c::crc32c(body) == self.body_crc
    }
}

/// A batch that is being put together.
pub(super) struct Batch<'a> {
    buf: &'a mut Vec<u8>,
    seed: Seed,
    segment: u64,
    start: u64,
    records: u32,
}

impl<'a> Batch<'a> {
    /// A batch that will stand at `start` of `segment`; `buf` is used again and again.
    pub(super) fn new(buf: &'a mut Vec<u8>, seed: Seed, segment: u64, start: u64) -> Self {
        debug_assert_eq!(start % BLOCK_BYTES, 0);
        buf.clear();
        buf.resize(BATCH_HEADER_BYTES, 0);
        Self { buf, seed, segment, start, records: 0 }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    pub(super) fn records(&self) -> u32 {
        self.records
    }

    /// Adds a record and says where it will stand.
    pub(super) fn push(&mut self, kind: Kind, nth: u32, replica: ReplicaId, id: LogId, body: &[u8]) -> Loc {
        let at = self.buf.len();
        let offset = self.start + at as u64;
        debug_assert!(body.len() < 1 << 24, "bounded where records come in");
        let mut head = [0; RECORD_HEADER_BYTES];
        head[4..8].copy_from_slice(&crc32c::crc32c(body).to_be_bytes());
        head[8..12].copy_from_slice(&(u32::from(kind as u8) << 24 | body.len() as u32).to_be_bytes());
        head[12..16].copy_from_slice(&nth.to_be_bytes());
        head[16..24].copy_from_slice(&replica.0.to_be_bytes());
        head[24..32].copy_from_slice(&id.index.to_be_bytes());
        head[32..40].copy_from_slice(&id.term.to_be_bytes());
        head[40..48].copy_from_slice(&id.leader.to_be_bytes());
        let crc = self.seed.checksum(offset, &head[4..]);
        head[..4].copy_from_slice(&crc.to_be_bytes());
        self.buf.extend_from_slice(&head);
        self.buf.extend_from_slice(body);
        self.buf.resize(self.buf.len().next_multiple_of(8), 0);
        self.records += 1;
        Loc { segment: self.segment, offset: offset as u32, len: body.len() as u32 }
    }

    /// Fills in the header and pads to whole blocks.
    pub(super) fn finish(self, sequence: u64, durable: Place, oldest: u64, flags: u32) {
        let header = BatchHeader {
            segment: self.segment,
            sequence,
            body_bytes: (self.buf.len() - BATCH_HEADER_BYTES) as u32,
            records: self.records,
            durable,
            oldest,
            flags,
        };
        header.encode(self.seed, self.start, &mut self.buf[..BATCH_HEADER_BYTES]);
        self.buf.resize(self.buf.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    }
}

/// The body of a State record.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
struct SavedState {
    #[n(0)]
    last_purged: Option<LogId>,
    #[n(1)]
    last: Option<LogId>,
    #[cbor(n(2), with = "minicbor::bytes")]
    vote: Option<Vec<u8>>,
    #[n(3)]
    committed: Option<LogId>,
    #[n(4)]
    checkpoint: Option<CheckpointRecord>,
    /// The index of the first entry that is there.
    #[n(5)]
    first: Option<u64>,
}

/// The body of a SnapshotBegin record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) struct SnapshotBegin {
    /// State and Distrusted records that follow.
    #[n(0)]
    pub(super) replicas: u64,
    /// Ids in the Forgotten records that follow.
    #[n(1)]
    pub(super) forgotten: u64,
    /// Damage may have eaten all that there was of some replica.
    #[n(2)]
    pub(super) strangers_suspect: bool,
}

/// Encodes the body of a record into memory, which can't fail.
pub(super) fn encode_body<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into a Vec can't fail")
}

/// `None` when the body is none of this kind.
pub(super) fn decode_body<'b, T: minicbor::Decode<'b, ()>>(body: &'b [u8]) -> Option<T> {
    minicbor::decode(body).ok()
}

/// A State record's body: the small state, and the index of the first entry when there is one.
pub(super) fn encode_state(state: &ReplicaState, first: Option<u64>) -> Vec<u8> {
    encode_body(&SavedState {
        last_purged: state.last_purged,
        last: state.last,
        vote: state.vote.as_ref().map(|vote| vote.to_vec()),
        committed: state.committed,
        checkpoint: state.checkpoint,
        first,
    })
}

/// See [`encode_state`].
pub(super) fn decode_state(body: &[u8]) -> Option<(ReplicaState, Option<u64>)> {
    let saved: SavedState = decode_body(body)?;
    let state = ReplicaState {
        last_purged: saved.last_purged,
        last: saved.last,
        vote: saved.vote.map(Bytes::from),
        committed: saved.committed,
        checkpoint: saved.checkpoint,
    };
    Some((state, saved.first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_back_only_at_their_own_place() {
        let seed = Seed::new(7, 3);
        let header = BatchHeader { segment: 3, sequence: 9, body_bytes: 5, records: 1, ..BatchHeader::default() };
        let mut bytes = [0; BATCH_HEADER_BYTES];
        header.encode(seed, 512, &mut bytes);
        assert_eq!(BatchHeader::decode(seed, 512, &bytes), Some(header));
        assert_eq!(BatchHeader::decode(seed, 1024, &bytes), None);
        assert_eq!(BatchHeader::decode(Seed::new(7, 4), 512, &bytes), None);
        assert_eq!(BatchHeader::decode(Seed::new(8, 3), 512, &bytes), None);
        assert_eq!(BatchHeader::decode(seed, 512, &bytes[..63]), None);
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(BatchHeader::decode(seed, 512, &bytes), None, "flipped at {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn the_largest_state_fits_its_bound() {
        let big = LogId { term: u64::MAX, leader: u64::MAX, index: u64::MAX };
        let state = ReplicaState {
            last_purged: Some(big),
            last: Some(big),
            vote: Some(vec![0xff; super::super::VOTE_BYTES_MAX].into()),
            committed: Some(big),
            checkpoint: Some(CheckpointRecord { generation: u64::MAX, applied: Some(big), checksum: u64::MAX }),
        };
        let body = encode_state(&state, Some(u64::MAX));
        assert!(record_bytes(body.len()) <= STATE_BYTES_MAX);
        assert_eq!(decode_state(&body), Some((state, Some(u64::MAX))));
        assert_eq!(decode_state(&body[1..]), None);
    }
}
