//! Finding the batches of a log again: which there are, in which order, and from where on damage is only a torn tail.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, Seed, SegmentHeader, VERSION,
};
use super::segments::{FileName, name_of, parse_name};
use super::{OpenError, Place};
use crate::fs::{File, Fs};

/// A batch whose header is whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) offset: u64,
    pub(super) header: BatchHeader,
}

/// A segment file.
pub(super) struct Scanned {
    pub(super) id: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) seed: Seed,
    /// Whether the segment's own header is whole.
    pub(super) header_whole: bool,
    /// Whether the file is shorter than it was made: what it ends in is no torn write.
    pub(super) cut_short: bool,
    pub(super) batches: Vec<Found>,
}

/// What there is in the folder.
pub(super) struct Scan {
    /// The segments of the log that have batches in use, oldest first.
    pub(super) segments: Vec<Scanned>,
    /// Segments that the log doesn't need: freed ones, and ones that were made but never used.
    pub(super) unused: Vec<u64>,
    /// Whether one of those that seem never to have been used, beyond the log's end, is shorter than it was made.
    pub(super) end_cut_off: bool,
    /// Spare files.
    pub(super) spares: Vec<u64>,
    /// Everything before this was durable.
    pub(super) durable: Place,
    /// The log begins with this segment; 0 when no batch says so.
    pub(super) oldest: u64,
    /// Greater than every id that was ever used.
    pub(super) next_id: u64,
}

fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> OpenError {
    let doing = doing.into();
    move |source| OpenError::Io { doing, source }
}

/// Looks through the whole folder.
pub(super) fn scan(fs: &dyn Fs, log_id: u64) -> Result<Scan, OpenError> {
    let mut found = BTreeMap::new();
    let mut spares = Vec::new();
    let mut id_max = 0;
    for name in fs.list().map_err(io("listing its folder"))? {
        match parse_name(&name) {
            FileName::Segment(id) => {
                let (segment, used) = scan_segment(fs, log_id, id)?;
                id_max = id_max.max(used);
                found.insert(id, segment);
            }
            FileName::Spare(id) => {
                let used = spare_id(fs, &name, log_id)?;
                id_max = id_max.max(id).max(used.unwrap_or(0));
                spares.push(id);
            }
            FileName::Other => tracing::warn!(file = name, "a file in the log's folder isn't the log's"),
        }
    }
    let headers = || found.values().flat_map(|segment: &Scanned| &segment.batches).map(|batch| batch.header);
    let durable = headers().map(|header| header.durable).max().unwrap_or_default();
    let oldest = headers().map(|header| header.oldest).max().unwrap_or(0);
    let shortened: Vec<u64> = found.values().filter(|segment| segment.cut_short).map(|segment| segment.id).collect();
    let (segments, unused) = in_use(found, oldest);
    let last_used = segments.last().map_or(0, |segment| segment.id);
    let end_cut_off = shortened.iter().any(|id| *id > last_used);
    Ok(Scan { segments, unused, end_cut_off, spares, durable, oldest, next_id: id_max + 1 })
}

/// Parts the segments whose batches count from the rest.
fn in_use(found: BTreeMap<u64, Scanned>, oldest: u64) -> (Vec<Scanned>, Vec<u64>) {
    let (mut segments, mut unused) = (Vec::new(), Vec::new());
    let mut sequence_after = u64::MAX;
    for (id, mut segment) in found.into_iter().rev() {
        // A torn batch that recovery has cut off may still have its header. Its number was given to the batch that came
        // instead, in the next segment.
        segment.batches.retain(|batch| batch.header.sequence < sequence_after);
        match segment.batches.first() {
            Some(first) if id >= oldest => {
                sequence_after = first.header.sequence;
                segments.push(segment);
            }
            _ => unused.push(id),
        }
    }
    segments.reverse();
    unused.reverse();
    (segments, unused)
}

/// The header of a spare, which says for which segment it was used last.
fn spare_id(fs: &dyn Fs, name: &str, log_id: u64) -> Result<Option<u64>, OpenError> {
    let file = fs.open(name).map_err(io(format!("opening {name}")))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(0, &mut bytes).map_err(io(format!("reading {name}")))?;
    let header = SegmentHeader::decode(&bytes[..read]);
    Ok(header.filter(|header| header.log_id == log_id).map(|header| header.segment))
}

/// The whole of a segment's file.
pub(super) fn read_segment(file: &dyn File, id: u64) -> Result<Vec<u8>, OpenError> {
    let doing = || format!("reading {}", name_of(id));
    let len = file.len().map_err(io(doing()))?;
    let len = usize::try_from(len).map_err(|e| OpenError::Io { doing: doing(), source: std::io::Error::other(e) })?;
    let mut bytes = vec![0; len];
    let read = file.read_at(0, &mut bytes).map_err(io(doing()))?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The segment, and the greatest id that its file was ever used for.
fn scan_segment(fs: &dyn Fs, log_id: u64, id: u64) -> Result<(Scanned, u64), OpenError> {
    let name = name_of(id);
    let file = fs.open(&name).map_err(io(format!("opening {name}")))?;
    let bytes = read_segment(&*file, id)?;
    let header = SegmentHeader::decode(&bytes);
    if let Some(header) = header {
        if header.log_id != log_id {
            return Err(OpenError::Foreign { found: header.log_id, expected: log_id });
        }
        if header.version > VERSION {
            return Err(OpenError::Version { file: name, found: header.version, known: VERSION });
        }
    }
    let seed = Seed::new(log_id, id);
    // With the header of another segment, the file was not needed, and was about to be that one when its new name was lost.
    let is_other = header.is_some_and(|header| header.segment != id);
    let batches = if is_other { Vec::new() } else { find_batches(&bytes, seed) };
    let id_max = header.map_or(id, |header| header.segment.max(id));
    let cut_short = is_cut_short(bytes.len() as u64, &batches);
    Ok((Scanned { id, seed, header_whole: header.is_some(), cut_short, batches, file }, id_max))
}

/// A segment has whole blocks, and room for all that will be written to it, durably before it has its name.
fn is_cut_short(len: u64, batches: &[Found]) -> bool {
    let end = |last: &Found| last.offset + BATCH_HEADER_BYTES as u64 + u64::from(last.header.body_bytes);
    len < SEGMENT_BYTES_MIN || !len.is_multiple_of(BLOCK_BYTES) || batches.last().is_some_and(|last| end(last) > len)
}

/// All places that have a whole batch header. Where there is none, the next block is tried: headers only stand at blocks.
fn find_batches(bytes: &[u8], seed: Seed) -> Vec<Found> {
    let mut batches: Vec<Found> = Vec::new();
    let mut offset = BLOCK_BYTES;
    while let Some(rest) = bytes.get(offset as usize..).filter(|rest| rest.len() >= BATCH_HEADER_BYTES) {
        match BatchHeader::decode(seed, offset, rest) {
            Some(header) => {
                batches.push(Found { offset, header });
                offset += (BATCH_HEADER_BYTES as u64 + u64::from(header.body_bytes)).next_multiple_of(BLOCK_BYTES);
            }
            None => offset += BLOCK_BYTES,
        }
    }
    batches
}
