//! What one replica's log looks like to its callers: small state, where each entry stands, and the newest entries in memory.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::format::Loc;
use super::{LogId, Record, ReplicaState};

/// What an entry in memory is counted as beyond its payload.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Entries that are on their way to the disk, one of these for each append.
#[derive(Clone, Copy, Debug)]
struct OnTheWay {
    /// The next index that the writer will place.
    next: u64,
    /// How many it will still place.
    left: u64,
    /// From here on they were truncated meanwhile: another entry may have the index now.
    end: u64,
}

/// Entries of one leader, from `first` on to the next run.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    term: u64,
    leader: u64,
}

/// One replica's log.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) state: ReplicaState,
    /// The index of the first entry, when there is one.
    first: u64,
    /// Where each entry stands, without holes.
    locs: VecDeque<Loc>,
    /// The payloads of the newest entries; entries that are not placed yet are always here.
    memory: VecDeque<Bytes>,
    memory_bytes: usize,
    runs: VecDeque<Run>,
    on_the_way: VecDeque<OnTheWay>,
    /// Bytes of the entries' records.
    entry_bytes: u64,
    /// The oldest segment with an entry that the disk's state needs; kept by the writer.
    pub(super) oldest_segment: Option<u64>,
}

impl Log {
    /// A log as recovery has found it; `entries` follow `state.last_purged`, or begin anywhere when nothing was purged.
    pub(super) fn recovered(state: ReplicaState, entries: impl IntoIterator<Item = (LogId, Loc)>) -> Self {
        let mut log = Self { state, ..Self::default() };
        for (id, loc) in entries {
            if log.locs.is_empty() {
                log.first = id.index;
            }
            log.push_run(id);
            log.locs.push_back(loc);
            log.entry_bytes += loc.record_bytes();
        }
        log
    }

    /// The index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.locs.len() as u64
    }

    /// The index that an append must begin with; `None` when any will do.
    pub(super) fn expected(&self) -> Option<u64> {
        self.state.last.map(|last| last.index + 1)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn entry_bytes(&self) -> u64 {
        self.entry_bytes
    }

    fn push_run(&mut self, id: LogId) {
        if self.runs.back().is_none_or(|run| (run.term, run.leader) != (id.term, id.leader)) {
            self.runs.push_back(Run { first: id.index, term: id.term, leader: id.leader });
        }
    }

    /// Adds entries that follow; the caller has checked that they do.
    pub(super) fn append(&mut self, records: &[Record]) {
        let Some(first) = records.first() else { return };
        if self.locs.is_empty() {
            self.first = first.id.index;
        }
        self.on_the_way.push_back(OnTheWay {
            next: first.id.index,
            left: records.len() as u64,
            end: first.id.index + records.len() as u64,
        });
        for record in records {
            let loc = Loc { segment: 0, offset: 0, len: record.payload.len() as u32 };
            self.push_run(record.id);
            self.entry_bytes += loc.record_bytes();
            self.locs.push_back(loc);
            self.memory_bytes += record.payload.len() + ENTRY_OVERHEAD_BYTES;
            self.memory.push_back(record.payload.clone());
            self.state.last = Some(record.id);
        }
    }

    /// The writer has placed the next `locs` of this replica's entries.
    pub(super) fn placed(&mut self, mut locs: &[Loc]) {
        while !locs.is_empty() {
            let Some(front) = self.on_the_way.front_mut() else { return };
            let n = front.left.min(locs.len() as u64);
            let (now, later) = locs.split_at(n as usize);
            for (index, loc) in (front.next..).zip(now) {
                if index < front.end && index >= self.first {
                    self.locs[(index - self.first) as usize] = *loc;
                }
            }
            front.next += n;
            front.left -= n;
            if front.left == 0 {
                self.on_the_way.pop_front();
            }
            locs = later;
        }
    }

    /// The writer has written an entry again, elsewhere.
    pub(super) fn moved(&mut self, index: u64, from: Loc, to: Loc) {
        if let Some(loc) = index.checked_sub(self.first).and_then(|at| self.locs.get_mut(at as usize))
            && *loc == from
        {
            *loc = to;
        }
    }

    /// Drops the entries after `last`.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let purged = self.state.last_purged;
        // What is purged can't be truncated: then the log ends where it was purged.
        let last = if last.map(|id| id.index) <= purged.map(|id| id.index) { purged } else { last };
        if self.state.last.map(|id| id.index) <= last.map(|id| id.index) {
            return;
        }
        let end = last.map_or(self.first, |id| (id.index + 1).max(self.first));
        while self.end() > end {
            self.pop_back();
        }
        while self.runs.back().is_some_and(|run| run.first >= end) {
            self.runs.pop_back();
        }
        for way in &mut self.on_the_way {
            way.end = way.end.min(end);
        }
        self.state.last = last;
    }

    fn pop_back(&mut self) {
        if let Some(loc) = self.locs.pop_back() {
            self.entry_bytes -= loc.record_bytes();
        }
        if let Some(payload) = self.memory.pop_back() {
            self.memory_bytes -= payload.len() + ENTRY_OVERHEAD_BYTES;
        }
    }

    /// Drops the entries up to `upto`; beyond the last one, the log is empty and goes on after `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.state.last_purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.state.last_purged = Some(upto);
        if self.state.last.is_none_or(|last| last.index <= upto.index) {
            self.state.last = Some(upto);
        }
        while !self.locs.is_empty() && self.first <= upto.index {
            if self.memory.len() == self.locs.len() {
                self.pop_memory_front();
            }
            if let Some(loc) = self.locs.pop_front() {
                self.entry_bytes -= loc.record_bytes();
            }
            self.first += 1;
        }
        self.first = self.first.max(upto.index + 1);
        while self.runs.len() > 1 && self.runs[1].first <= self.first {
            self.runs.pop_front();
        }
        if self.locs.is_empty() {
            self.runs.clear();
        } else if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(self.first);
        }
    }

    fn pop_memory_front(&mut self) {
        if let Some(payload) = self.memory.pop_front() {
            self.memory_bytes -= payload.len() + ENTRY_OVERHEAD_BYTES;
        }
    }

    /// Lets the older half of what is in memory go, as far as it is on the disk; how many bytes that gave.
    pub(super) fn evict_half(&mut self) -> usize {
        let before = self.memory_bytes;
        while self.memory_bytes > before / 2 {
            let at = self.locs.len() - self.memory.len();
            match self.locs.get(at) {
                Some(loc) if loc.segment != 0 => self.pop_memory_front(),
                _ => break,
            }
        }
        before - self.memory_bytes
    }

    /// The id of an entry, or of the last purged one.
    pub(super) fn log_id(&self, index: u64) -> Option<LogId> {
        if let Some(purged) = self.state.last_purged
            && purged.index == index
        {
            return Some(purged);
        }
        if index < self.first || index >= self.end() {
            return None;
        }
        let at = self.runs.partition_point(|run| run.first <= index);
        let run = self.runs.get(at.checked_sub(1)?)?;
        Some(LogId { term: run.term, leader: run.leader, index })
    }

    /// The part of `range` that there is, cut where the payloads would go beyond `bytes_max`, but not before the first.
    pub(super) fn clamp(&self, range: Range<u64>, bytes_max: usize) -> Range<u64> {
        let start = range.start.max(self.first);
        let mut end = range.end.min(self.end()).max(start);
        let mut bytes = 0usize;
        for index in start..end {
            bytes = bytes.saturating_add(self.locs[(index - self.first) as usize].len as usize);
            if bytes > bytes_max && index > start {
                end = index;
                break;
            }
        }
        start..end
    }

    /// The payload of an entry that is in memory.
    pub(super) fn cached(&self, index: u64) -> Option<&Bytes> {
        let memory_first = self.end() - self.memory.len() as u64;
        self.memory.get(usize::try_from(index.checked_sub(memory_first)?).ok()?)
    }

    /// Where an entry stands.
    pub(super) fn loc(&self, index: u64) -> Option<Loc> {
        self.locs.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }
}
