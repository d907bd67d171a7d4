//! Reading entries: what is in memory at once, the rest from the segments.
//!
//! A plan is made under the lock and holds all that it needs: the payloads that are in memory, and the files of the
//! segments, which aren't recycled while it lives. So what it reads is of one moment, whatever happens meanwhile.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::check_entry;
use super::format::{Loc, Seed};
use super::front::{Front, SegmentFile};
use super::{LogId, ReadError, Record};
use crate::ids::ReplicaId;

/// At most so many bytes are read at a time, unless one entry is larger.
const CHUNK_BYTES: u64 = 256 << 10;
/// Others' records between two entries are read along when they are at most so many bytes.
const GAP_BYTES: u64 = 16 << 10;

/// An entry on the disk.
struct OnDisk {
    id: LogId,
    loc: Loc,
    segment: Arc<SegmentFile>,
}

/// Entries to be read.
pub(super) struct Plan {
    replica: ReplicaId,
    log_id: u64,
    disk: Vec<OnDisk>,
    /// They follow those on the disk: memory holds the newest.
    memory: Vec<Record>,
}

/// Plans to read what there is of a range.
pub(super) fn plan(
    front: &mut Front,
    log_id: u64,
    replica: ReplicaId,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Plan, ReadError> {
    if front.distrusted.contains(&replica) {
        return Err(ReadError::Distrusted { replica });
    }
    if front.forgotten.contains(&replica) {
        return Err(ReadError::Unknown { replica });
    }
    let mut plan = Plan { replica, log_id, disk: Vec::new(), memory: Vec::new() };
    let Some(log) = front.logs.get(&replica) else { return Ok(plan) };
    for index in log.clamp(range, bytes_max) {
        let (Some(id), Some(loc)) = (log.log_id(index), log.loc(index)) else { break };
        if let Some(payload) = log.cached(index) {
            plan.memory.push(Record { id, payload: payload.clone() });
        } else if let Some((segment, _)) = front.segments.get(&loc.segment) {
            plan.disk.push(OnDisk { id, loc, segment: Arc::clone(segment) });
        } else {
            let message = "it is not in use".to_string();
            return Err(ReadError::Io { segment: loc.segment, message });
        }
    }
    front.stats.disk_reads += plan.disk.len() as u64;
    Ok(plan)
}

impl Plan {
    pub(super) fn is_in_memory(&self) -> bool {
        self.disk.is_empty()
    }

    /// Reads. Blocks on the disk unless all is in memory.
    pub(super) fn run(self) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::with_capacity(self.disk.len() + self.memory.len());
        let mut rest = &self.disk[..];
        while let Some(first) = rest.first() {
            let count = chunk_len(rest);
            let (chunk, later) = rest.split_at(count);
            self.read_chunk(first, chunk, &mut records)?;
            rest = later;
        }
        records.extend(self.memory);
        Ok(records)
    }

    fn read_chunk(&self, first: &OnDisk, chunk: &[OnDisk], records: &mut Vec<Record>) -> Result<(), ReadError> {
        let segment = first.loc.segment;
        let start = u64::from(first.loc.offset);
        let end = chunk.last().map_or(start, |last| end_of(last.loc));
        let mut bytes = vec![0; (end - start) as usize];
        let read = first.segment.file.read_at(start, &mut bytes);
        let read = read.map_err(|e| ReadError::Io { segment, message: e.to_string() })?;
        bytes.truncate(read);
        let seed = Seed::new(self.log_id, segment);
        for entry in chunk {
            let at = (u64::from(entry.loc.offset) - start) as usize;
            let found = bytes.get(at..).and_then(|b| check_entry(seed, entry.loc, self.replica, entry.id.index, b));
            let Some((header, body)) = found.filter(|(header, _)| header.id == entry.id) else {
                let offset = u64::from(entry.loc.offset);
                return Err(ReadError::Rot { replica: self.replica, index: entry.id.index, segment, offset });
            };
            records.push(Record { id: header.id, payload: Bytes::copy_from_slice(body) });
        }
        Ok(())
    }
}

fn end_of(loc: Loc) -> u64 {
    u64::from(loc.offset) + loc.record_bytes()
}

/// How many of the next entries are read in one go.
fn chunk_len(entries: &[OnDisk]) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let near = |pair: &[OnDisk]| {
        let (before, next) = (pair[0].loc, pair[1].loc);
        next.segment == before.segment
            && u64::from(next.offset) >= end_of(before)
            && u64::from(next.offset) - end_of(before) <= GAP_BYTES
            && end_of(next) - u64::from(first.loc.offset) <= CHUNK_BYTES
    };
    1 + entries.windows(2).take_while(|pair| near(pair)).count()
}
