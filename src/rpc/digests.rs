//! Whether the replicas of a shard have the same state, by what each tells of its own.

use std::collections::BTreeMap;

use crate::proto::v1::DigestCheck;

/// What came of comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compared {
    /// Whether they agree.
    pub(super) verdict: DigestCheck,
    /// The newest index at which most were compared, or one at which two differ; 0 for none.
    pub(super) index: u64,
    /// How many replicas were compared with another one.
    pub(super) compared: usize,
}

/// Compares what replicas tell: of each, the digests after entries, by index.
pub(super) fn compare(told: &[&[(u64, u64)]]) -> Compared {
    let mut by_index: BTreeMap<u64, Vec<(usize, u64)>> = BTreeMap::new();
    for (replica, marks) in told.iter().enumerate() {
        for (index, digest) in *marks {
            by_index.entry(*index).or_default().push((replica, *digest));
        }
    }
    by_index.retain(|_, digests| digests.len() > 1);
    let mut compared: Vec<usize> = by_index.values().flatten().map(|(replica, _)| *replica).collect();
    compared.sort_unstable();
    compared.dedup();
    let compared = compared.len();
    let differs = |digests: &Vec<(usize, u64)>| digests.iter().any(|(_, digest)| *digest != digests[0].1);
    // The newest that differs: older ones may be of a replica that was replaced since.
    if let Some((index, _)) = by_index.iter().rev().find(|(_, digests)| differs(digests)) {
        return Compared { verdict: DigestCheck::Differ, index: *index, compared };
    }
    match by_index.iter().max_by_key(|(index, digests)| (digests.len(), **index)) {
        Some((index, _)) => Compared { verdict: DigestCheck::Agree, index: *index, compared },
        None => Compared { verdict: DigestCheck::Unspecified, index: 0, compared: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_compared_only_after_the_same_entry() {
        let apart: [&[(u64, u64)]; 3] = [&[(9, 1)], &[(8, 2)], &[]];
        assert_eq!(compare(&apart), Compared { verdict: DigestCheck::Unspecified, index: 0, compared: 0 });
        let some: [&[(u64, u64)]; 3] = [&[(130, 7), (128, 5), (64, 3)], &[(128, 5), (64, 3)], &[(99, 8), (64, 3)]];
        assert_eq!(compare(&some), Compared { verdict: DigestCheck::Agree, index: 64, compared: 3 });
        let two: [&[(u64, u64)]; 3] = [&[(130, 7), (128, 5)], &[(128, 5)], &[(99, 8)]];
        assert_eq!(compare(&two), Compared { verdict: DigestCheck::Agree, index: 128, compared: 2 });
    }

    #[test]
    fn one_different_digest_is_found_whatever_else_agrees() {
        let told: [&[(u64, u64)]; 3] = [&[(130, 7), (128, 5), (64, 3)], &[(130, 7), (128, 5)], &[(128, 6), (64, 3)]];
        assert_eq!(compare(&told), Compared { verdict: DigestCheck::Differ, index: 128, compared: 3 });
    }
}
