//! The bytes of the hints' file. `docs/storage-format.md` draws them.

use minicbor::{Decode, Encode};

use crate::ids::{AccountId, ViewId};
use crate::time::WallMs;
use crate::view::Parked;

const FILE_MAGIC: [u8; 8] = *b"PHHINTS1";
const BATCH_MAGIC: [u8; 4] = *b"PHHB";
/// The version of the file.
const VERSION: u32 = 1;
/// Bytes of the file's header.
pub(super) const HEADER_BYTES: usize = 32;
/// Bytes in front of a batch's records.
const BATCH_HEADER_BYTES: usize = 12;
/// The longest record: names of the longest kind, and 16 played ranges, are a quarter of it.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Records that are written with one checksum have at most so many bytes, and one record more.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Batches begin at multiples of this.
const STEP: usize = 4;

/// What happened to the hints of one view.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[allow(clippy::large_enum_variant, reason = "nearly every one is the large variant")]
pub(super) enum Record {
    /// They are this now. Ages are as of `at`, by the node's calendar.
    #[n(0)]
    Put {
        #[n(0)]
        account: AccountId,
        #[n(1)]
        at: WallMs,
        #[n(2)]
        parked: Parked,
    },
    /// They were handed off, or have expired.
    #[n(1)]
    Gone {
        #[n(0)]
        account: AccountId,
        #[n(1)]
        view: ViewId,
    },
}

/// A file's first bytes.
pub(super) fn header(file: u64) -> Vec<u8> {
    let mut bytes = FILE_MAGIC.to_vec();
    bytes.extend([0; 4]);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend(file.to_be_bytes());
    bytes.resize(HEADER_BYTES, 0);
    let crc = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Whether these are the first bytes of that file, in a version that this build reads.
pub(super) fn is_header(bytes: &[u8], file: u64) -> bool {
    bytes.get(..HEADER_BYTES).is_some_and(|found| found == header(file))
}

/// A checksum that holds for one place of one file only.
fn sum(file: u64, offset: u64, bytes: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&file.to_be_bytes());
    place[8..].copy_from_slice(&offset.to_be_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
}

/// Appends a batch of records to `out`, of which the first byte stands at `begin` of the file. It is whole or nothing.
pub(super) fn write(out: &mut Vec<u8>, file: u64, begin: u64, records: &[Vec<u8>]) {
    let body = records.concat();
    let at = out.len();
    let offset = begin + at as u64;
    out.extend(BATCH_MAGIC);
    out.extend([0; 4]);
    out.extend(u32::try_from(body.len()).expect("bodies are bounded").to_be_bytes());
    out.extend(&body);
    let crc = sum(file, offset, &out[at + 8..]);
    out[at + 4..at + 8].copy_from_slice(&crc.to_be_bytes());
    out.resize(out.len().next_multiple_of(STEP), 0);
}

/// A record's bytes; `None` where it would be too long to be read again.
pub(super) fn body(record: &Record) -> Option<Vec<u8>> {
    let body = minicbor::to_vec(record).expect("writing to a Vec cannot fail");
    (body.len() <= RECORD_BYTES_MAX).then_some(body)
}

/// What could be read of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    /// Places where something unreadable stands in front of something readable: damage.
    pub(super) damaged: u64,
    /// Bytes at the end that are no record: a write that was not finished, or damage.
    pub(super) torn_bytes: u64,
}

/// Reads all batches that are whole. Nothing is taken for one that was not written as one, at that place of that file.
pub(super) fn read(file: u64, bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let (mut at, mut skipped_from) = (HEADER_BYTES, None);
    while at < bytes.len() {
        match batch_at(file, bytes, at) {
            Some((body, len)) => {
                found.damaged += u64::from(skipped_from.take().is_some());
                let mut decoder = minicbor::Decoder::new(body);
                while decoder.position() < body.len() {
                    match decoder.decode() {
                        Ok(record) => found.records.push(record),
                        Err(_) => {
                            found.damaged += 1;
                            break;
                        }
                    }
                }
                at += len;
            }
            None => {
                skipped_from.get_or_insert(at);
                at += STEP;
            }
        }
    }
    let written = |from: usize| bytes[from..].iter().rposition(|b| *b != 0).map_or(0, |last| last as u64 + 1);
    found.torn_bytes = skipped_from.map_or(0, written);
    found
}

/// The records of the batch at `at`, if one was written there, and its length with what fills it up.
fn batch_at(file: u64, bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let head = rest.get(..BATCH_HEADER_BYTES)?;
    if head[..4] != BATCH_MAGIC {
        return None;
    }
    let number = |from: usize| u32::from_be_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
    let len = usize::try_from(number(8)).ok().filter(|len| *len <= BATCH_BYTES_MAX + RECORD_BYTES_MAX)?;
    let whole = rest.get(..BATCH_HEADER_BYTES + len)?;
    let is_whole = number(4) == sum(file, at as u64, &whole[8..]);
    is_whole.then(|| (&whole[BATCH_HEADER_BYTES..], whole.len().next_multiple_of(STEP)))
}

/// How many of these records one batch takes: at least one, if there is one.
pub(super) fn batch(records: &[Vec<u8>]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&Vec<u8>| {
        let room = bytes < BATCH_BYTES_MAX;
        bytes += record.len();
        room
    };
    records.iter().take_while(fits).count()
}
