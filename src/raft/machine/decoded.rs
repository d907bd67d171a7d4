//! Commands of entries that are appended and not yet applied, decoded.
//!
//! Only spares decoding them twice: on the leader its callers have them decoded, on a follower they are decoded to see
//! which rows to fetch. What doesn't fit is decoded again when it is applied.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::raft::types::LogId;

/// Commands that were handed in together and stand in one entry: all of a call's, or a part of them.
pub(crate) struct Piece<C> {
    call: Arc<Vec<C>>,
    part: Range<usize>,
}

impl<C> Piece<C> {
    /// All commands of a call.
    pub(crate) fn all(call: Arc<Vec<C>>) -> Self {
        let part = 0..call.len();
        Self { call, part }
    }

    /// Some of them.
    pub(crate) fn part(call: &Arc<Vec<C>>, part: Range<usize>) -> Self {
        Self { call: Arc::clone(call), part }
    }
}

impl<C> Clone for Piece<C> {
    fn clone(&self) -> Self {
        Self::part(&self.call, self.part.clone())
    }
}

impl<C> Deref for Piece<C> {
    type Target = [C];

    fn deref(&self) -> &[C] {
        &self.call[self.part.clone()]
    }
}

/// The commands of one entry, as the pieces in which they were proposed.
pub(crate) type Pieces<C> = Vec<Piece<C>>;

/// Decoded commands by the place of their entry.
pub(super) struct Decoded<C> {
    entries: BTreeMap<u64, (u64, usize, Pieces<C>)>,
    bytes: usize,
    bytes_max: usize,
}

impl<C> Decoded<C> {
    /// Holds commands whose encodings have at most `bytes_max` bytes together.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Whether commands of `bytes` more would be held.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= self.bytes_max
    }

    /// Holds the commands of the entry at `id`, if they fit.
    pub(super) fn put(&mut self, id: LogId, bytes: usize, pieces: Pieces<C>) {
        self.forget(id.index);
        if self.has_room(bytes) {
            self.bytes += bytes;
            self.entries.insert(id.index, (id.leader_id.term, bytes, pieces));
        }
    }

    /// The commands of the entry at `id`, if they are held; those of entries before it are forgotten.
    pub(super) fn take(&mut self, id: LogId) -> Option<Pieces<C>> {
        while let Some((index, _)) = self.entries.first_key_value().filter(|(index, _)| **index < id.index) {
            self.forget(*index);
        }
        let (term, bytes, pieces) = self.entries.remove(&id.index)?;
        self.bytes -= bytes;
        // Another leader's entry may have stood here.
        (term == id.leader_id.term).then_some(pieces)
    }

    /// Forgets everything from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        while let Some((last, _)) = self.entries.last_key_value().filter(|(last, _)| **last >= index) {
            self.forget(*last);
        }
    }

    fn forget(&mut self, index: u64) {
        if let Some((_, bytes, _)) = self.entries.remove(&index) {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;

    #[test]
    fn commands_are_given_only_for_the_entry_that_they_stand_in() {
        let mut decoded = Decoded::new(10);
        let piece = |n: u8| vec![Piece::all(Arc::new(vec![n]))];
        decoded.put(log_id(1, 1), 4, piece(1));
        decoded.put(log_id(1, 2), 4, piece(2));
        decoded.put(log_id(1, 3), 4, piece(3));
        assert!(decoded.take(log_id(1, 3)).is_none(), "beyond the bound");
        decoded.put(log_id(1, 5), 4, piece(5));
        assert!(decoded.take(log_id(2, 5)).is_none(), "another term's");
        decoded.put(log_id(2, 6), 4, piece(6));
        decoded.put(log_id(2, 7), 4, piece(7));
        decoded.truncate(7);
        assert!(decoded.take(log_id(2, 6)).is_some());
        assert!(decoded.has_room(10));
    }
}
