//! What the writer knows of one replica: the state that the disk has, as of the last record it has put into a batch.

use std::collections::VecDeque;

use super::front::Op;
use super::{CheckpointRecord, LogId, ReplicaState};

/// Consecutive entries that stand in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) segment: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail {
    /// How many records this replica has had, modulo 2^32.
    pub(super) nth: u32,
    pub(super) state: ReplicaState,
    /// Where its entries stand, by index.
    extents: VecDeque<Extent>,
}

impl Tail {
    /// As recovery has found it.
    pub(super) fn recovered(nth: u32, state: ReplicaState, entries: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut tail = Self { nth, state, extents: VecDeque::new() };
        for (index, segment) in entries {
            tail.extend(index, segment);
        }
        tail
    }

    /// The number of the next record.
    pub(super) fn count(&mut self) -> u32 {
        self.nth = self.nth.wrapping_add(1);
        self.nth
    }

    fn extend(&mut self, index: u64, segment: u64) {
        match self.extents.back_mut() {
            Some(extent) if extent.segment == segment && extent.last + 1 == index => extent.last = index,
            _ => self.extents.push_back(Extent { segment, first: index, last: index }),
        }
    }

    pub(super) fn append(&mut self, id: LogId, segment: u64) {
        self.extend(id.index, segment);
        self.state.last = Some(id);
    }

    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let purged = self.state.last_purged;
        let last = if last.map(|id| id.index) <= purged.map(|id| id.index) { purged } else { last };
        if self.state.last.map(|id| id.index) <= last.map(|id| id.index) {
            return;
        }
        self.state.last = last;
        let end = last.map_or(0, |id| id.index + 1);
        while let Some(extent) = self.extents.back_mut() {
            if extent.first >= end {
                self.extents.pop_back();
            } else {
                extent.last = extent.last.min(end - 1);
                break;
            }
        }
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        if self.state.last_purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.state.last_purged = Some(upto);
        if self.state.last.is_none_or(|last| last.index <= upto.index) {
            self.state.last = Some(upto);
        }
        while let Some(extent) = self.extents.front_mut() {
            if extent.last <= upto.index {
                self.extents.pop_front();
            } else {
                extent.first = extent.first.max(upto.index + 1);
                break;
            }
        }
    }

    pub(super) fn checkpoint(&mut self, record: CheckpointRecord) {
        self.state.checkpoint = Some(record);
    }

    /// The index of the first entry.
    pub(super) fn first(&self) -> Option<u64> {
        self.extents.front().map(|e| e.first)
    }

    /// Whether this entry is needed, and stands in this segment.
    pub(super) fn needs(&self, index: u64, segment: u64) -> bool {
        self.extents.iter().any(|e| e.segment == segment && (e.first..=e.last).contains(&index))
    }

    /// The parts of this log that stand in a segment.
    pub(super) fn extents_in(&self, segment: u64) -> impl Iterator<Item = Extent> {
        self.extents.iter().copied().filter(move |e| e.segment == segment)
    }

    /// The oldest segment with a needed entry.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.extents.iter().map(|e| e.segment).min()
    }

    /// An entry stands in another segment now.
    pub(super) fn moved(&mut self, index: u64, to: u64) {
        let Some(at) = self.extents.iter().position(|e| (e.first..=e.last).contains(&index)) else { return };
        let old = self.extents[at];
        let before = at.checked_sub(1).and_then(|before| self.extents.get_mut(before));
        if old.first == index
            && let Some(before) = before
            && before.segment == to
            && before.last + 1 == index
        {
            // The usual case: entries move in order, and the extent before is where the last one went.
            before.last = index;
            if old.first == old.last {
                self.extents.remove(at);
            } else {
                self.extents[at].first += 1;
            }
            return;
        }
        let mut parts = Vec::with_capacity(3);
        if old.first < index {
            parts.push(Extent { last: index - 1, ..old });
        }
        parts.push(Extent { segment: to, first: index, last: index });
        if index < old.last {
            parts.push(Extent { first: index + 1, ..old });
        }
        self.extents.remove(at);
        for part in parts.into_iter().rev() {
            self.extents.insert(at, part);
        }
    }
}

/// The replica of an operation that frees entries.
pub(super) fn frees(op: &Op) -> bool {
    matches!(op, Op::Truncate { .. } | Op::Purge { .. } | Op::Forget { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 1, leader: 1, index }
    }

    #[test]
    fn a_tail_knows_its_oldest_segment_through_truncation_purge_and_moves() {
        let mut tail = Tail::default();
        for index in 0..10 {
            tail.append(id(index), 1 + index / 4);
        }
        assert_eq!(tail.oldest(), Some(1));
        tail.truncate_after(Some(id(8)));
        tail.append(id(9), 4);
        assert!(tail.needs(9, 4) && !tail.needs(9, 3));
        for index in 0..4 {
            tail.moved(index, 4);
        }
        assert_eq!(tail.extents_in(4).count(), 2);
        assert_eq!(tail.oldest(), Some(2));
        tail.purge(id(6));
        assert_eq!(tail.oldest(), Some(2));
        tail.purge(id(7));
        assert_eq!(tail.oldest(), Some(3));
        tail.purge(id(20));
        assert_eq!((tail.oldest(), tail.state.last), (None, Some(id(20))));
    }
}
