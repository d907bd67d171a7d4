//! What the batches of a log add up to, and whose state damage has touched.
//!
//! Every record carries the number that it has among its replica's records, and every snapshot the number of each
//! replica's last one. So when damage has eaten records, it shows at the next record or snapshot of a replica whether any
//! were its own: until then the replica is *doubted*, after that it is whole or *distrusted*. Who is still doubted when
//! the log ends is distrusted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::format::{
    BATCH_HEADER_BYTES, FLAG_CLOSED, FLAG_SNAPSHOT, Kind, Loc, RECORD_HEADER_BYTES, RecordHeader, SnapshotBegin,
    decode_body, decode_state, record_bytes,
};
use super::index::Log;
use super::scan::{Found, Scan, Scanned, read_segment};
use super::tail::Tail;
use super::{LogId, OpenError, Place, Recovery, ReplicaState, Rot};
use crate::ids::ReplicaId;

/// An entry that recovery knows of. Segment 0: it must be somewhere, but its record hasn't been seen.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    id: LogId,
    loc: Loc,
}

/// A replica as far as the log has been read.
#[derive(Debug, Default)]
struct Replica {
    nth: u32,
    state: ReplicaState,
    first: u64,
    slots: VecDeque<Slot>,
    doubted: bool,
    distrusted: bool,
}

impl Replica {
    /// As a snapshot tells; the records of its entries are still to be seen.
    fn from_snapshot(nth: u32, state: ReplicaState, first: Option<u64>) -> Self {
        let mut replica = Self { nth, ..Self::default() };
        if let (Some(last), Some(first)) = (state.last, first) {
            replica.first = first;
            let count = (last.index + 1).saturating_sub(first);
            replica.slots.resize(usize::try_from(count).unwrap_or(0), Slot::default());
        }
        replica.state = state;
        replica
    }

    fn append(&mut self, id: LogId, loc: Loc) -> bool {
        if self.state.last.is_some_and(|last| last.index + 1 != id.index) {
            return false;
        }
        if self.slots.is_empty() {
            self.first = id.index;
        }
        self.slots.push_back(Slot { id, loc });
        self.state.last = Some(id);
        true
    }

    fn moved(&mut self, id: LogId, loc: Loc) {
        if let Some(slot) = id.index.checked_sub(self.first).and_then(|at| self.slots.get_mut(at as usize)) {
            *slot = Slot { id, loc };
        }
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let purged = self.state.last_purged;
        let last = if last.map(|id| id.index) <= purged.map(|id| id.index) { purged } else { last };
        if self.state.last.map(|id| id.index) <= last.map(|id| id.index) {
            return;
        }
        let keep = last.map_or(0, |id| (id.index + 1).saturating_sub(self.first));
        self.slots.truncate(keep as usize);
        self.state.last = last;
    }

    fn purge(&mut self, upto: LogId) {
        if self.state.last_purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.state.last_purged = Some(upto);
        if self.state.last.is_none_or(|last| last.index <= upto.index) {
            self.state.last = Some(upto);
        }
        let gone = (upto.index + 1).saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        self.first = self.first.max(upto.index + 1);
    }

    /// Whether a record of each entry was found.
    fn is_complete(&self) -> bool {
        self.slots.iter().all(|slot| slot.loc.segment != 0)
    }

    fn into_parts(mut self) -> (Log, Tail) {
        if self.state.committed.map(|id| id.index) > self.state.last.map(|id| id.index) {
            self.state.committed = None;
        }
        let places = self.slots.iter().map(|slot| (slot.id.index, slot.loc.segment));
        let tail = Tail::recovered(self.nth, self.state.clone(), places);
        let mut log = Log::recovered(self.state, self.slots.into_iter().map(|slot| (slot.id, slot.loc)));
        log.oldest_segment = tail.oldest();
        (log, tail)
    }
}

/// What the log adds up to.
pub(super) struct Replayed {
    pub(super) recovery: Recovery,
    pub(super) logs: BTreeMap<ReplicaId, Log>,
    pub(super) tails: BTreeMap<ReplicaId, Tail>,
    pub(super) forgotten: BTreeSet<ReplicaId>,
    /// Where the log ends.
    pub(super) end: Option<Place>,
    /// The end of each segment.
    pub(super) ends: BTreeMap<u64, u64>,
    /// Of the next batch.
    pub(super) sequence: u64,
}

#[derive(Default)]
struct Replay {
    replicas: BTreeMap<ReplicaId, Replica>,
    forgotten: BTreeSet<ReplicaId>,
    recovery: Recovery,
    ends: BTreeMap<u64, u64>,
    end: Option<Place>,
    sequence: Option<u64>,
}

/// Goes through the batches in order.
pub(super) fn replay(scan: &Scan) -> Result<Replayed, OpenError> {
    let mut replay = Replay::default();
    replay.check_beginning(scan);
    for segment in &scan.segments {
        let bytes = read_segment(&*segment.file, segment.id)?;
        replay.recovery.segments += 1;
        if !segment.header_whole {
            replay.found_rot(Place { segment: segment.id, offset: 0 }, None, "the segment's header is damaged");
        }
        let goes_on = segment.batches.iter().all(|batch| replay.batch(segment, batch, &bytes, scan.durable));
        if segment.cut_short {
            let at = Place { segment: segment.id, offset: bytes.len() as u64 };
            replay.doubt_all(at, "the segment's file is shorter than it was made");
        }
        if !goes_on {
            break;
        }
    }
    replay.check_end(scan);
    Ok(replay.finish())
}

impl Replay {
    fn found_rot(&mut self, at: Place, replica: Option<ReplicaId>, what: impl Into<String>) {
        let rot = Rot { segment: at.segment, offset: at.offset, replica, what: what.into() };
        tracing::error!(segment = rot.segment, offset = rot.offset, replica = ?rot.replica, what = rot.what, "the log is damaged");
        self.recovery.rot.push(rot);
    }

    /// Records of nobody knows whom are gone.
    fn doubt_all(&mut self, at: Place, what: impl Into<String>) {
        self.found_rot(at, None, what);
        for replica in self.replicas.values_mut() {
            replica.doubted = true;
        }
        self.recovery.strangers_suspect = true;
    }

    fn distrust(&mut self, at: Place, replica: ReplicaId, what: impl Into<String>) {
        let state = self.replicas.entry(replica).or_default();
        if !std::mem::replace(&mut state.distrusted, true) {
            state.slots = VecDeque::new();
            self.found_rot(at, Some(replica), what);
        }
    }

    /// The log must begin with the snapshot of its oldest segment.
    fn check_beginning(&mut self, scan: &Scan) {
        let Some(first) = scan.segments.first() else { return };
        let begins = first.batches.first().is_some_and(|batch| batch.header.flags & FLAG_SNAPSHOT != 0);
        if !begins || (scan.oldest != 0 && first.id != scan.oldest) {
            self.doubt_all(Place { segment: first.id, offset: 0 }, "the beginning of the log is missing");
        }
    }

    /// What was durable must not lie behind the end.
    fn check_end(&mut self, scan: &Scan) {
        let end = self.end.unwrap_or_default();
        if scan.end_cut_off {
            self.doubt_all(end, "a segment behind the end of the log is shorter than it was made");
        }
        if end < scan.durable && self.recovery.torn.is_none_or(|torn| torn < scan.durable) {
            self.doubt_all(end, "the log ends before what was durable");
        }
    }

    /// Takes in a batch; `false` when the log ends before it.
    fn batch(&mut self, segment: &Scanned, batch: &Found, bytes: &[u8], durable: Place) -> bool {
        let at = Place { segment: segment.id, offset: batch.offset };
        if self.sequence.is_some_and(|expected| expected != batch.header.sequence) {
            let from = self.end.unwrap_or(at);
            self.doubt_all(from, format!("batches before number {} are missing", batch.header.sequence));
        }
        let start = batch.offset + BATCH_HEADER_BYTES as u64;
        let records = parse(segment, start, batch, bytes);
        if at >= durable && !records.is_whole(batch) {
            self.recovery.torn = Some(at);
            tracing::warn!(segment = at.segment, offset = at.offset, "the log ends in a torn write, which is cut off");
            return false;
        }
        self.recovery.batches += 1;
        self.recovery.records += records.good.len() as u64;
        for (offset, header, loc) in &records.good {
            let body_at = *offset as usize + RECORD_HEADER_BYTES;
            let position = Place { offset: *offset, ..at };
            match bytes.get(body_at..body_at + header.len as usize) {
                Some(body) if header.fits(body) => self.record(position, header, *loc, body),
                _ => self.damaged_body(position, header),
            }
        }
        if let Some(offset) = records.damaged_at {
            self.doubt_all(Place { offset, ..at }, "records are damaged");
        }
        let end = (start + u64::from(batch.header.body_bytes)).next_multiple_of(super::format::BLOCK_BYTES);
        self.ends.insert(segment.id, end);
        self.end = Some(Place { offset: end, ..at });
        self.sequence = Some(batch.header.sequence + 1);
        self.recovery.closed = batch.header.flags & FLAG_CLOSED != 0;
        true
    }

    /// The header says whose record it was, its body is gone.
    fn damaged_body(&mut self, at: Place, header: &RecordHeader) {
        match header.kind {
            Kind::SnapshotBegin | Kind::Forgotten => self.doubt_all(at, "a snapshot is damaged"),
            _ => {
                self.distrust(at, header.replica, format!("the body of a record of kind {:?} is damaged", header.kind))
            }
        }
    }

    fn record(&mut self, at: Place, header: &RecordHeader, loc: Loc, body: &[u8]) {
        match header.kind {
            Kind::SnapshotBegin => match decode_body::<SnapshotBegin>(body) {
                // It names all there are, so whoever is unknown after it never was.
                Some(begin) => self.recovery.strangers_suspect = begin.strangers_suspect,
                None => self.doubt_all(at, "the beginning of a snapshot can't be read"),
            },
            Kind::Forgotten => {
                for id in body.chunks_exact(8) {
                    let id = u64::from_be_bytes(id.try_into().expect("chunks are of eight bytes"));
                    self.forget(ReplicaId(id));
                }
            }
            Kind::Forget => self.forget(header.replica),
            _ if self.forgotten.contains(&header.replica) => {}
            Kind::Distrusted => self.distrust(at, header.replica, "it was distrusted before"),
            Kind::State => match decode_state(body) {
                Some((state, first)) => self.state(at, header, state, first),
                None => self.distrust(at, header.replica, "its state in a snapshot can't be read"),
            },
            _ => self.change(at, header, loc, body),
        }
    }

    fn forget(&mut self, replica: ReplicaId) {
        self.replicas.remove(&replica);
        self.forgotten.insert(replica);
    }

    /// The state of a replica in a snapshot: begins it, or proves that nothing of it was lost.
    fn state(&mut self, at: Place, header: &RecordHeader, state: ReplicaState, first: Option<u64>) {
        let known = self.replicas.get_mut(&header.replica);
        match known {
            Some(replica) if replica.distrusted => {}
            Some(replica) if replica.nth == header.nth => {
                replica.doubted = false;
                replica.state = state;
            }
            Some(_) if first.is_some() => {
                self.distrust(at, header.replica, "records are missing before a snapshot");
            }
            // Nothing was lost that would still be needed, or this is where the log begins.
            _ => {
                self.replicas.insert(header.replica, Replica::from_snapshot(header.nth, state, first));
            }
        }
    }

    /// One of a replica's counted records.
    fn change(&mut self, at: Place, header: &RecordHeader, loc: Loc, body: &[u8]) {
        let replica = self.replicas.entry(header.replica).or_default();
        if replica.distrusted {
            return;
        }
        if header.nth != replica.nth.wrapping_add(1) {
            let what = format!("record {} follows record {}", header.nth, replica.nth);
            return self.distrust(at, header.replica, what);
        }
        replica.nth = header.nth;
        replica.doubted = false;
        let state = &mut replica.state;
        let understood = match header.kind {
            Kind::Entry => replica.append(header.id, loc),
            Kind::Moved => {
                replica.moved(header.id, loc);
                true
            }
            Kind::Truncate => {
                replica.truncate_after(Some(header.id));
                true
            }
            Kind::TruncateAll => {
                replica.truncate_after(None);
                true
            }
            Kind::Purge => {
                replica.purge(header.id);
                true
            }
            Kind::Vote => {
                state.vote = Some(bytes::Bytes::copy_from_slice(body));
                true
            }
            Kind::Committed => {
                state.committed = Some(header.id);
                true
            }
            Kind::Checkpoint => {
                state.checkpoint = decode_body(body);
                state.checkpoint.is_some()
            }
            Kind::Forget | Kind::SnapshotBegin | Kind::State | Kind::Distrusted | Kind::Forgotten => true,
        };
        if !understood {
            self.distrust(
                at,
                header.replica,
                format!("a record of kind {:?} contradicts what stands before it", header.kind),
            );
        }
    }

    fn finish(mut self) -> Replayed {
        let end = self.end.unwrap_or_default();
        let lost: Vec<ReplicaId> = self
            .replicas
            .iter()
            .filter(|(_, r)| !r.distrusted && (r.doubted || !r.is_complete()))
            .map(|(id, _)| *id)
            .collect();
        for replica in lost {
            self.distrust(end, replica, "nothing shows that all its records were found");
        }
        let (mut logs, mut tails) = (BTreeMap::new(), BTreeMap::new());
        for (id, replica) in self.replicas {
            if replica.distrusted {
                self.recovery.distrusted.insert(id);
                continue;
            }
            let (log, tail) = replica.into_parts();
            self.recovery.replicas.push(id);
            logs.insert(id, log);
            tails.insert(id, tail);
        }
        self.recovery.end = end;
        Replayed {
            recovery: self.recovery,
            logs,
            tails,
            forgotten: self.forgotten,
            end: self.end,
            ends: self.ends,
            sequence: self.sequence.unwrap_or(1),
        }
    }
}

/// The records of a batch, as far as their headers are whole.
struct Parsed {
    /// Offset, header, place; the body may be damaged.
    good: Vec<(u64, RecordHeader, Loc)>,
    /// Whether all bodies are what was written.
    bodies_whole: bool,
    /// Where the first header stands that can't be read: nothing can be told of what follows.
    damaged_at: Option<u64>,
}

impl Parsed {
    fn is_whole(&self, batch: &Found) -> bool {
        self.damaged_at.is_none() && self.bodies_whole && self.good.len() == batch.header.records as usize
    }
}

fn parse(segment: &Scanned, start: u64, batch: &Found, bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed { good: Vec::new(), bodies_whole: true, damaged_at: None };
    let end = start + u64::from(batch.header.body_bytes);
    let mut offset = start;
    while offset < end {
        let rest = bytes.get(offset as usize..).unwrap_or(&[]);
        let header = RecordHeader::decode(segment.seed, offset, rest);
        let Some(header) = header.filter(|h| offset + record_bytes(h.len as usize) as u64 <= end) else {
            parsed.damaged_at = Some(offset);
            return parsed;
        };
        let body = rest.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.len as usize);
        parsed.bodies_whole &= body.is_some_and(|body| header.fits(body));
        parsed.good.push((offset, header, Loc { segment: segment.id, offset: offset as u32, len: header.len }));
        offset += record_bytes(header.len as usize) as u64;
    }
    parsed
}
