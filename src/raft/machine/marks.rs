//! How many bytes of log lie between two indexes, about: what decides when to checkpoint and how much log to keep.

use std::collections::VecDeque;

/// Between two marks lie at least so many bytes.
const MARK_BYTES: u64 = 64 << 10;
/// The most marks; the oldest are forgotten beyond it.
const MARKS_MAX: usize = 4096;

/// Counts the bytes of applied entries.
#[derive(Debug, Default)]
pub(super) struct Marks {
    total: u64,
    marks: VecDeque<(u64, u64)>,
}

impl Marks {
    /// The entry at `index`, of `bytes`, was applied.
    pub(super) fn applied(&mut self, index: u64, bytes: usize) {
        self.total += bytes as u64;
        if self.marks.back().is_none_or(|(_, at)| self.total - at >= MARK_BYTES) {
            if self.marks.len() == MARKS_MAX {
                self.marks.pop_front();
            }
            self.marks.push_back((index, self.total));
        }
    }

    /// Bytes since the beginning.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The greatest marked index with at least `keep` bytes behind it. Older marks are forgotten.
    pub(super) fn leaving(&mut self, keep: u64) -> Option<u64> {
        let limit = self.total.checked_sub(keep)?;
        let mut found = None;
        while let Some((index, _)) = self.marks.front().filter(|(_, at)| *at <= limit) {
            found = Some(*index);
            self.marks.pop_front();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_log_leaves_the_bytes_that_are_kept() {
        let mut marks = Marks::default();
        for index in 1..=100 {
            marks.applied(index, 64 << 10);
        }
        assert_eq!(marks.leaving(100 * (64 << 10)), None);
        assert_eq!(marks.leaving(10 * (64 << 10)), Some(90));
        assert_eq!(marks.leaving(10 * (64 << 10)), None);
        assert_eq!(marks.leaving(0), Some(100));
    }
}
