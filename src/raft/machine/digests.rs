//! At which entries a replica's state can be compared with another's.
//!
//! Replicas are told of each other's state at different moments, seldom at the same entry. So each remembers its digest at
//! entries whose indexes all of them pass: multiples of a few spans, so that a slow and a fast pair of replicas both have some
//! in common.

use std::collections::VecDeque;

/// The spans, in entries.
const SPANS: [u64; 3] = [64, 1 << 10, 1 << 14];
/// Of each span, how many are remembered.
const KEPT: usize = 2;

/// The digests of one replica's state, each after the entry of an index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Digests {
    last: Option<(u64, u64)>,
    marks: [VecDeque<(u64, u64)>; SPANS.len()],
}

impl Digests {
    /// The state after the entry `index` has this digest. To be told of every entry, in order.
    pub(super) fn applied(&mut self, index: u64, digest: u64) {
        self.last = Some((index, digest));
        for (span, marks) in SPANS.iter().zip(&mut self.marks) {
            if index.is_multiple_of(*span) {
                if marks.len() == KEPT {
                    marks.pop_front();
                }
                marks.push_back((index, digest));
            }
        }
    }

    /// All that is remembered: index and digest, the newest first. At most seven.
    pub(crate) fn all(&self) -> Vec<(u64, u64)> {
        let mut all: Vec<(u64, u64)> = self.marks.iter().flatten().copied().chain(self.last).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_replicas_far_apart_have_an_entry_in_common() {
        let mut ahead = Digests::default();
        let mut behind = Digests::default();
        for index in 1..=40_000 {
            ahead.applied(index, index ^ 7);
            if index <= 38_100 {
                behind.applied(index, index ^ 7);
            }
        }
        assert_eq!(ahead.all().first(), Some(&(40_000, 40_000 ^ 7)));
        assert!(ahead.all().len() <= 7);
        let common = ahead.all().into_iter().find(|mark| behind.all().contains(mark));
        assert_eq!(common, Some((32_768, 32_768 ^ 7)));
    }
}
