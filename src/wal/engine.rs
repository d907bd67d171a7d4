//! The writer: takes everything that is queued, writes it once, syncs once, then says so.
//!
//! [`Engine::step`] is all of it and knows no thread: the thread below calls it in a loop, a simulation by hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::format::{
    BATCH_HEADER_BYTES, Batch, FLAG_CLOSED, FLAG_SNAPSHOT, Kind, Loc, RECORD_HEADER_BYTES, RecordHeader, Seed,
    SnapshotBegin, encode_body, encode_state, record_bytes,
};
use super::front::{Op, Shared};
use super::segments::{NoSegment, Pool, Segment, fatal};
use super::tail::{Tail, frees};
use super::{Config, Done, Fatal, LogId, OpenError, Place, Stopped};
use crate::ids::ReplicaId;

/// Ids in one Forgotten record.
const FORGOTTEN_IN_RECORD: usize = 8192;
/// A batch buffer that has grown beyond this is given back.
const BUFFER_KEPT_BYTES: usize = 16 << 20;

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A batch is durable and its callbacks have been called. There may be more to do.
    Wrote,
    /// There was nothing to do.
    Idle,
    /// The log is closed; nothing will ever be to do again.
    Closed,
}

/// An entry that shall be written again.
#[derive(Clone, Copy, Debug)]
struct Move {
    replica: ReplicaId,
    index: u64,
    loc: Loc,
}

/// What a batch will have done once it is durable.
#[derive(Default)]
struct Outcome {
    dones: Vec<Done>,
    /// Bytes of the operations that are done, as they were counted when queued.
    queued_bytes: usize,
    locs: Vec<Loc>,
    placed: Vec<(ReplicaId, Range<usize>)>,
    moved: Vec<(Move, Loc)>,
    touched: Vec<ReplicaId>,
}

/// The writer.
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) config: Config,
    pub(super) pool: Pool,
    /// The segments in use, oldest first; batches go to the last.
    pub(super) segments: VecDeque<Segment>,
    pub(super) tails: BTreeMap<ReplicaId, Tail>,
    pub(super) forgotten: BTreeSet<ReplicaId>,
    pub(super) distrusted: BTreeSet<ReplicaId>,
    pub(super) strangers_suspect: bool,
    /// Of the next batch.
    pub(super) sequence: u64,
    /// Everything before this is durable.
    pub(super) durable: Place,
    /// The oldest segment that the durable state needs.
    oldest: u64,
    /// Taken from the queue, not all written.
    backlog: VecDeque<Op>,
    committed: BTreeMap<ReplicaId, LogId>,
    moves: VecDeque<Move>,
    /// A segment that holds damaged entries can't be emptied by moving.
    unmovable: Option<u64>,
    /// Something was freed or a segment was begun: see what is needed still.
    reconsider: bool,
    no_room_was_said: bool,
    outcome: Outcome,
    buf: Vec<u8>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("sequence", &self.sequence)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

/// What recovery hands to the writer.
pub(super) struct Recovered {
    pub(super) pool: Pool,
    pub(super) segments: VecDeque<Segment>,
    pub(super) tails: BTreeMap<ReplicaId, Tail>,
    pub(super) forgotten: BTreeSet<ReplicaId>,
    pub(super) distrusted: BTreeSet<ReplicaId>,
    pub(super) strangers_suspect: bool,
    pub(super) sequence: u64,
    pub(super) durable: Place,
}

impl Engine {
    fn new(shared: Arc<Shared>, config: Config, recovered: Recovered) -> Self {
        let Recovered { pool, segments, tails, forgotten, distrusted, strangers_suspect, sequence, durable } =
            recovered;
        Self {
            shared,
            config,
            pool,
            oldest: segments.front().map_or(0, Segment::id),
            segments,
            tails,
            forgotten,
            distrusted,
            strangers_suspect,
            sequence,
            durable,
            backlog: VecDeque::new(),
            committed: BTreeMap::new(),
            moves: VecDeque::new(),
            unmovable: None,
            reconsider: true,
            no_room_was_said: false,
            outcome: Outcome::default(),
            buf: Vec::new(),
        }
    }

    /// Begins a fresh segment with a snapshot of what recovery has found. Nothing waits yet, so failures are the caller's.
    pub(super) fn open(shared: Arc<Shared>, config: Config, recovered: Recovered) -> Result<Self, OpenError> {
        let mut engine = Self::new(shared, config, recovered);
        let segment = engine.pool.take()?;
        if engine.segments.is_empty() {
            engine.oldest = segment.id();
        }
        engine.add_segment(segment);
        engine.write_batch(false)?;
        engine.keep_house()?;
        Ok(engine)
    }

    /// Writes one batch of what is queued, makes it durable and calls back. Blocks on the disk. After an error the log has
    /// stopped, `on_fatal` has been called and everybody who waited was told [`Stopped`].
    pub fn step(&mut self) -> Result<Progress, Fatal> {
        let result = self.try_step();
        if let Err(fatal) = &result {
            (self.config.on_fatal)(fatal);
            self.shared.stop();
            let waiting = std::mem::take(&mut self.outcome).dones.into_iter();
            for done in waiting.chain(std::mem::take(&mut self.backlog).into_iter().map(Op::into_done)) {
                done(Err(Stopped));
            }
        }
        result
    }

    fn try_step(&mut self) -> Result<Progress, Fatal> {
        let closing = {
            let mut front = self.shared.front.lock();
            if front.stopped {
                return Ok(Progress::Closed);
            }
            self.backlog.append(&mut front.queue);
            self.committed.append(&mut front.committed);
            front.closing
        };
        let idle = self.backlog.is_empty() && self.moves.is_empty();
        if idle && !closing {
            self.pool.bury()?;
            return Ok(Progress::Idle);
        }
        let last = closing && self.backlog.is_empty();
        self.write_batch(last)?;
        if last {
            self.shared.stop();
            return Ok(Progress::Closed);
        }
        self.keep_house()?;
        Ok(Progress::Wrote)
    }

    /// Writes what fits a batch, syncs, tells the front, then calls back.
    pub(super) fn write_batch(&mut self, last: bool) -> Result<(), Fatal> {
        let mut flags = if last { FLAG_CLOSED | FLAG_SNAPSHOT } else { 0 };
        let first_bytes = self.first_record_bytes();
        let snapshot_bytes = if last { self.snapshot_bytes() } else { 0 };
        if self.room_bytes() < BATCH_HEADER_BYTES + first_bytes + snapshot_bytes {
            self.rotate()?;
            flags |= FLAG_SNAPSHOT;
        } else if self.segments.back().is_some_and(|s| s.end == super::format::BLOCK_BYTES) {
            flags |= FLAG_SNAPSHOT;
        }
        let room = self.room_bytes();
        let current = self.segments.back().expect("there is always a current segment");
        let (file, seed, start) = (Arc::clone(&current.shared), current.seed, current.position());
        let mut buf = std::mem::take(&mut self.buf);
        let mut batch = Batch::new(&mut buf, seed, start.segment, start.offset);
        // What no batch before this one needs is what this one may say: its own operations aren't durable if it is torn.
        let oldest = self.oldest;
        if flags & FLAG_SNAPSHOT != 0 {
            self.push_snapshot(&mut batch);
        }
        self.push_committed(&mut batch, room.saturating_sub(first_bytes));
        // Moves leave room for the first operation; without one, the first move is what there must be room for.
        let kept = if self.backlog.is_empty() { 0 } else { first_bytes };
        self.push_moves(&mut batch, room.saturating_sub(kept));
        let entries = self.push_ops(&mut batch, room);
        let records = batch.records();
        if records > 0 || flags != 0 {
            batch.finish(self.sequence, self.durable, oldest, flags);
            let end = start.offset + buf.len() as u64;
            self.write_ahead(&mut buf, end);
            file.file.write_at(start.offset, &buf).map_err(fatal("write a batch"))?;
            file.file.fdatasync().map_err(fatal("sync a batch"))?;
            self.wrote(end, records, entries);
            self.free_before(oldest)?;
        }
        if buf.capacity() <= BUFFER_KEPT_BYTES {
            self.buf = buf;
        }
        self.tell_front();
        let mut dones = std::mem::take(&mut self.outcome.dones);
        for done in dones.drain(..) {
            done(Ok(()));
        }
        self.outcome.dones = dones;
        Ok(())
    }

    /// Where the batch reaches blocks that were never written, zeros for some more of them go along: so one batch of many
    /// pays for blocks that are new.
    fn write_ahead(&mut self, buf: &mut Vec<u8>, end: u64) {
        let Some(current) = self.segments.back_mut() else { return };
        if end <= current.written {
            return;
        }
        let target = (end + self.config.zeros_ahead_bytes).min(self.config.segment_bytes).max(end);
        buf.resize(buf.len() + (target - end) as usize, 0);
        current.written = target;
    }

    fn room_bytes(&self) -> usize {
        let end = self.segments.back().map_or(0, |current| current.end);
        self.config.segment_bytes.saturating_sub(end) as usize
    }

    /// Bytes that must fit for this batch to get anywhere.
    fn first_record_bytes(&self) -> usize {
        match self.backlog.front() {
            Some(Op::Append { records, written, .. }) => {
                records.get(*written).map_or(0, |record| record_bytes(record.payload.len()))
            }
            Some(op) => op.bytes(),
            None => self.moves.front().map_or(0, |entry| entry.loc.record_bytes() as usize),
        }
    }

    /// At least as many bytes as a snapshot takes.
    fn snapshot_bytes(&self) -> usize {
        let replicas = (self.tails.len() + self.distrusted.len()) * super::format::STATE_BYTES_MAX;
        let forgotten = self.forgotten.len() * 8 + (self.forgotten.len() / FORGOTTEN_IN_RECORD + 1) * record_bytes(0);
        replicas + forgotten + record_bytes(64)
    }

    fn rotate(&mut self) -> Result<(), Fatal> {
        let segment = match self.pool.take() {
            Ok(segment) => segment,
            Err(NoSegment::NoRoom(source)) => return Err(Fatal { doing: "make room for a new segment", source }),
            Err(NoSegment::Fatal(fatal)) => return Err(fatal),
        };
        self.add_segment(segment);
        Ok(())
    }

    /// From now on batches go here.
    fn add_segment(&mut self, segment: Segment) {
        self.shared.front.lock().segments.insert(segment.id(), (Arc::clone(&segment.shared), segment.end));
        self.segments.push_back(segment);
        self.reconsider = true;
    }

    /// All small state: a log that begins here needs nothing before, but entries.
    fn push_snapshot(&self, batch: &mut Batch<'_>) {
        let begin = SnapshotBegin {
            replicas: (self.tails.len() + self.distrusted.len()) as u64,
            forgotten: self.forgotten.len() as u64,
            strangers_suspect: self.strangers_suspect,
        };
        let (nobody, none) = (ReplicaId(0), LogId::default());
        batch.push(Kind::SnapshotBegin, 0, nobody, none, &encode_body(&begin));
        let forgotten: Vec<ReplicaId> = self.forgotten.iter().copied().collect();
        for ids in forgotten.chunks(FORGOTTEN_IN_RECORD) {
            let body: Vec<u8> = ids.iter().flat_map(|id| id.0.to_be_bytes()).collect();
            batch.push(Kind::Forgotten, 0, nobody, none, &body);
        }
        for (replica, tail) in &self.tails {
            batch.push(Kind::State, tail.nth, *replica, none, &encode_state(&tail.state, tail.first()));
        }
        for replica in &self.distrusted {
            batch.push(Kind::Distrusted, 0, *replica, none, &[]);
        }
    }

    /// The committed markers that are not ahead of the entries they speak of.
    fn push_committed(&mut self, batch: &mut Batch<'_>, end: usize) {
        let (tails, forgotten) = (&mut self.tails, &self.forgotten);
        self.committed.retain(|replica, committed| {
            let Some(tail) = tails.get_mut(replica) else { return !forgotten.contains(replica) };
            if tail.state.last.is_none_or(|last| last.index < committed.index) {
                return true;
            }
            if batch.len() + record_bytes(0) > end {
                return true;
            }
            batch.push(Kind::Committed, tail.count(), *replica, *committed, &[]);
            tail.state.committed = Some(*committed);
            false
        });
    }

    /// Entries of the oldest segment that are needed still, some of them or a single large one.
    fn push_moves(&mut self, batch: &mut Batch<'_>, room: usize) {
        let current = self.segments.back().map_or(0, Segment::id);
        let start = batch.len();
        while let Some(entry) = self.moves.front().copied() {
            let bound = if batch.len() == start {
                room
            } else {
                room.min(start.saturating_add(self.config.move_bytes_in_batch))
            };
            if batch.len() + entry.loc.record_bytes() as usize > bound {
                return;
            }
            self.moves.pop_front();
            let Some(tail) = self.tails.get_mut(&entry.replica) else { continue };
            if !tail.needs(entry.index, entry.loc.segment) {
                continue;
            }
            let segment = self.segments.iter().find(|segment| segment.id() == entry.loc.segment);
            let read = segment.and_then(|segment| read_entry(segment, entry));
            let Some((header, body)) = read else {
                tracing::error!(
                    replica = entry.replica.0,
                    index = entry.index,
                    segment = entry.loc.segment,
                    "an entry can't be read back, its segment stays until its replica is retired"
                );
                self.unmovable = Some(entry.loc.segment);
                self.moves.clear();
                return;
            };
            let to = batch.push(Kind::Moved, tail.count(), entry.replica, header.id, &body);
            tail.moved(entry.index, current);
            self.outcome.moved.push((entry, to));
            self.outcome.touched.push(entry.replica);
            self.reconsider = true;
        }
    }

    /// The queued operations, as far as they fit; how many entries that were.
    fn push_ops(&mut self, batch: &mut Batch<'_>, room: usize) -> u64 {
        let start = batch.len();
        let limit = (start + self.config.batch_bytes_max).min(room);
        let current = self.segments.back().map_or(0, Segment::id);
        let mut entries = 0;
        while let Some(op) = self.backlog.front_mut() {
            if let Op::Append { replica, records, written, .. } = op {
                let tail = self.tails.entry(*replica).or_default();
                let first = self.outcome.locs.len();
                for record in &records[*written..] {
                    // The first one may be larger than a batch usually is.
                    let bound = if batch.len() == start { room } else { limit };
                    if batch.len() + record_bytes(record.payload.len()) > bound {
                        break;
                    }
                    let loc = batch.push(Kind::Entry, tail.count(), *replica, record.id, &record.payload);
                    tail.append(record.id, current);
                    self.outcome.locs.push(loc);
                    *written += 1;
                    entries += 1;
                }
                self.outcome.placed.push((*replica, first..self.outcome.locs.len()));
                self.outcome.touched.push(*replica);
                if *written < records.len() {
                    return entries;
                }
            } else if batch.len() + op.bytes() > limit {
                return entries;
            } else {
                push_small(
                    &mut self.tails,
                    &mut self.forgotten,
                    &mut self.distrusted,
                    batch,
                    op,
                    &mut self.outcome.touched,
                );
                self.reconsider |= frees(op);
            }
            let Some(op) = self.backlog.pop_front() else { return entries };
            self.outcome.queued_bytes += op.bytes();
            self.outcome.dones.push(op.into_done());
        }
        entries
    }

    /// A batch is durable.
    fn wrote(&mut self, end: u64, records: u32, entries: u64) {
        self.sequence += 1;
        let Some(current) = self.segments.back_mut() else { return };
        let bytes = end - current.end;
        current.end = end;
        self.durable = current.position();
        let id = current.id();
        let mut front = self.shared.front.lock();
        if let Some(segment) = front.segments.get_mut(&id) {
            segment.1 = end;
        }
        let stats = &mut front.stats;
        stats.batches += 1;
        stats.syncs += 1;
        stats.bytes_written += bytes;
        stats.records += u64::from(records);
        stats.entries += entries;
        stats.entries_moved += self.outcome.moved.len() as u64;
    }

    /// Gives up the segments that the disk itself now says aren't needed.
    fn free_before(&mut self, oldest: u64) -> Result<(), Fatal> {
        while self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.id() < oldest) {
            let Some(segment) = self.segments.pop_front() else { break };
            self.shared.front.lock().segments.remove(&segment.id());
            self.pool.recycle(segment)?;
        }
        Ok(())
    }

    /// Tells the front where the entries of the batch stand.
    fn tell_front(&mut self) {
        let outcome = &mut self.outcome;
        {
            let mut front = self.shared.front.lock();
            for (replica, range) in outcome.placed.drain(..) {
                if let Some(log) = front.logs.get_mut(&replica) {
                    log.placed(&outcome.locs[range]);
                }
            }
            for (entry, to) in outcome.moved.drain(..) {
                if let Some(log) = front.logs.get_mut(&entry.replica) {
                    log.moved(entry.index, entry.loc, to);
                }
            }
            for replica in outcome.touched.drain(..) {
                if let Some(log) = front.logs.get_mut(&replica) {
                    log.oldest_segment = self.tails.get(&replica).and_then(Tail::oldest);
                }
            }
            front.queued_bytes = front.queued_bytes.saturating_sub(std::mem::take(&mut outcome.queued_bytes));
            front.evict(self.config.memory_bytes_max);
            front.stats.segments_spare = self.pool.spare_count() as u64;
        }
        outcome.locs.clear();
        self.shared.room.notify_waiters();
    }

    /// After the callbacks: the next segment is got ready, and the oldest is emptied where little of it is needed.
    pub(super) fn keep_house(&mut self) -> Result<(), Fatal> {
        if self.segments.back().is_some_and(|current| current.end > self.config.segment_bytes / 2) {
            match self.pool.prepare() {
                Ok(()) if !self.no_room_was_said => {}
                Ok(()) => (self.no_room_was_said, self.shared.front.lock().stats.starves) = (false, false),
                Err(NoSegment::Fatal(fatal)) => return Err(fatal),
                Err(NoSegment::NoRoom(error)) => {
                    if !std::mem::replace(&mut self.no_room_was_said, true) {
                        self.shared.front.lock().stats.starves = true;
                        tracing::error!(%error, "there is no room for the log's next segment: free space, or the node will stop");
                    }
                }
            }
        }
        if std::mem::take(&mut self.reconsider) {
            let current = self.segments.back().map_or(0, Segment::id);
            self.oldest = self.tails.values().filter_map(Tail::oldest).min().unwrap_or(current);
            self.plan_moves(current);
        }
        self.pool.bury()
    }

    /// Plans to empty the oldest needed segment, when there are many and little of that one is needed.
    fn plan_moves(&mut self, current: u64) {
        let oldest = self.oldest;
        let in_use = self.segments.iter().filter(|segment| segment.id() >= oldest).count();
        let pointless = oldest == current || self.unmovable == Some(oldest) || in_use <= self.config.segments_min;
        if pointless || !self.moves.is_empty() {
            return;
        }
        let extents: Vec<_> =
            self.tails.iter().flat_map(|(id, tail)| tail.extents_in(oldest).map(|e| (*id, e))).collect();
        let count: u64 = extents.iter().map(|(_, e)| e.last - e.first + 1).sum();
        if count * RECORD_HEADER_BYTES as u64 > self.config.move_bytes_max {
            return;
        }
        let front = self.shared.front.lock();
        let mut bytes = 0;
        let mut moves = VecDeque::new();
        for (replica, extent) in extents {
            for index in extent.first..=extent.last {
                // An entry that its caller has truncated or purged meanwhile is about to be freed anyway.
                let Some(loc) = front.loc(replica, index).filter(|loc| loc.segment == oldest) else { continue };
                bytes += loc.record_bytes();
                moves.push_back(Move { replica, index, loc });
            }
            if bytes > self.config.move_bytes_max {
                return;
            }
        }
        self.moves = moves;
    }
}

/// Adds an operation that is one small record, or none.
fn push_small(
    tails: &mut BTreeMap<ReplicaId, Tail>,
    forgotten: &mut BTreeSet<ReplicaId>,
    distrusted: &mut BTreeSet<ReplicaId>,
    batch: &mut Batch<'_>,
    op: &Op,
    touched: &mut Vec<ReplicaId>,
) {
    let none = LogId::default();
    let mut push = |replica: ReplicaId, kind: Kind, id: LogId, body: &[u8]| {
        let tail = tails.entry(replica).or_default();
        batch.push(kind, tail.count(), replica, id, body);
        touched.push(replica);
        match kind {
            Kind::Truncate => tail.truncate_after(Some(id)),
            Kind::TruncateAll => tail.truncate_after(None),
            Kind::Purge => tail.purge(id),
            _ => {}
        }
    };
    match op {
        Op::Append { .. } | Op::Flush { .. } => {}
        Op::Truncate { replica, last: Some(last), .. } => push(*replica, Kind::Truncate, *last, &[]),
        Op::Truncate { replica, last: None, .. } => push(*replica, Kind::TruncateAll, none, &[]),
        Op::Purge { replica, upto, .. } => push(*replica, Kind::Purge, *upto, &[]),
        Op::Vote { replica, vote, .. } => {
            push(*replica, Kind::Vote, none, vote);
            tails.entry(*replica).or_default().state.vote = Some(vote.clone());
        }
        Op::Checkpoint { replica, record, .. } => {
            push(*replica, Kind::Checkpoint, none, &encode_body(record));
            tails.entry(*replica).or_default().checkpoint(*record);
        }
        Op::Forget { replica, .. } => {
            push(*replica, Kind::Forget, none, &[]);
            tails.remove(replica);
            distrusted.remove(replica);
            forgotten.insert(*replica);
        }
    }
}

/// Reads an entry back from its segment; `None` when it isn't what was written.
fn read_entry(segment: &Segment, entry: Move) -> Option<(RecordHeader, Vec<u8>)> {
    let mut bytes = vec![0; RECORD_HEADER_BYTES + entry.loc.len as usize];
    let read = segment.shared.file.read_at(u64::from(entry.loc.offset), &mut bytes).ok()?;
    bytes.truncate(read);
    let (header, body) = check_entry(segment.seed, entry.loc, entry.replica, entry.index, &bytes)?;
    Some((header, body.to_vec()))
}

/// The header and body of an entry's record when the bytes are what was written for it there.
pub(super) fn check_entry(
    seed: Seed,
    loc: Loc,
    replica: ReplicaId,
    index: u64,
    bytes: &[u8],
) -> Option<(RecordHeader, &[u8])> {
    let header = RecordHeader::decode(seed, u64::from(loc.offset), bytes)?;
    let body = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + loc.len as usize)?;
    let right =
        matches!(header.kind, Kind::Entry | Kind::Moved) && header.replica == replica && header.id.index == index;
    (right && header.fits(body)).then_some((header, body))
}
