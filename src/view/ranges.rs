//! Sets of stretches of a title: what was really played.

use minicbor::decode::{Decoder, Error};
use minicbor::encode::{Encoder, Write};
use minicbor::{Decode, Encode};

/// At most `N` disjoint stretches `[from, to)` of a title in ms, in order, none touching the next. Where there would be
/// more, the shortest is forgotten: the set never claims more than was added.
#[derive(Clone, Copy)]
pub(super) struct Ranges<const N: usize> {
    list: [(u32, u32); N],
    len: u8,
}

impl<const N: usize> Default for Ranges<N> {
    fn default() -> Self {
        Self { list: [(0, 0); N], len: 0 }
    }
}

impl<const N: usize> PartialEq for Ranges<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<const N: usize> Eq for Ranges<N> {}

impl<const N: usize> std::fmt::Debug for Ranges<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

impl<const N: usize> Ranges<N> {
    pub(super) fn as_slice(&self) -> &[(u32, u32)] {
        &self.list[..usize::from(self.len)]
    }

    /// How much is covered, in ms.
    pub(super) fn total_ms(&self) -> u64 {
        self.as_slice().iter().map(|&(from, to)| u64::from(to - from)).sum()
    }

    /// Adds a stretch. An empty one adds nothing.
    pub(super) fn insert(&mut self, mut from: u32, mut to: u32) {
        if from >= to {
            return;
        }
        let slice = self.as_slice();
        let first = slice.partition_point(|r| r.1 < from);
        let after = slice.partition_point(|r| r.0 <= to);
        if first < after {
            from = from.min(slice[first].0);
            to = to.max(slice[after - 1].1);
        }
        let len = usize::from(self.len);
        let grown = len + 1 - (after - first);
        if grown > N {
            return self.insert_full(first, (from, to));
        }
        self.list.copy_within(after..len, first + 1);
        self.list[first] = (from, to);
        self.len = u8::try_from(grown).expect("N fits");
    }

    /// Inserts a stretch that touches none into a full set: the shortest of all has to go.
    fn insert_full(&mut self, at: usize, new: (u32, u32)) {
        let length = |r: (u32, u32)| r.1 - r.0;
        let shortest = (0..N).min_by_key(|&i| length(self.list[i])).expect("N is not 0");
        if length(self.list[shortest]) >= length(new) {
            return;
        }
        if shortest < at {
            self.list.copy_within(shortest + 1..at, shortest);
            self.list[at - 1] = new;
        } else {
            self.list.copy_within(at..shortest, at + 1);
            self.list[at] = new;
        }
    }

    /// Adds a stretch from its beginning, as far as the set then covers at most `total_ms_max`.
    pub(super) fn insert_within(&mut self, from: u32, to: u32, total_ms_max: u64) {
        let mut left = total_ms_max.saturating_sub(self.total_ms());
        let mut end = from;
        let mut next = self.as_slice().iter().skip_while(|r| r.1 <= from).peekable();
        while end < to {
            match next.peek() {
                Some(&&(covered_from, covered_to)) if covered_from <= end => {
                    end = covered_to.min(to).max(end);
                    next.next();
                }
                gap => {
                    let gap_end = gap.map_or(to, |r| r.0.min(to));
                    let step = u64::from(gap_end - end).min(left);
                    left -= step;
                    end += u32::try_from(step).expect("at most the gap");
                    if end < gap_end {
                        break;
                    }
                }
            }
        }
        self.insert(from, end);
    }

    /// Adds all of another set.
    pub(super) fn extend<const M: usize>(&mut self, other: &Ranges<M>) {
        for &(from, to) in other.as_slice() {
            self.insert(from, to);
        }
    }

    /// Reads stretches that were a set when they were written; `None` when they cannot have been.
    pub(super) fn from_iter(stretches: impl Iterator<Item = (u32, u32)>) -> Option<Self> {
        let mut set = Self::default();
        for (from, to) in stretches {
            let before = set.as_slice().last().map_or(0, |r| r.1);
            if from >= to || from < before || usize::from(set.len) == N {
                return None;
            }
            set.list[usize::from(set.len)] = (from, to);
            set.len += 1;
        }
        Some(set)
    }
}

impl<C, const N: usize> Encode<C> for Ranges<N> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(u64::from(self.len) * 2)?;
        for &(from, to) in self.as_slice() {
            e.u32(from)?.u32(to)?;
        }
        Ok(())
    }
}

impl<'b, C, const N: usize> Decode<'b, C> for Ranges<N> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        let flat: Vec<u32> = d.array_iter()?.collect::<Result<_, _>>()?;
        let pairs = flat.chunks_exact(2).map(|p| (p[0], p[1]));
        Self::from_iter(pairs).ok_or_else(|| Error::message("played ranges are out of order"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(list: &[(u32, u32)]) -> Ranges<4> {
        let mut set = Ranges::default();
        list.iter().for_each(|r| set.insert(r.0, r.1));
        set
    }

    #[test]
    fn stretches_that_touch_are_one() {
        assert_eq!(set(&[(10, 20), (30, 40), (20, 30)]).as_slice(), &[(10, 40)]);
        assert_eq!(set(&[(10, 20), (30, 40), (5, 35)]).as_slice(), &[(5, 40)]);
        assert_eq!(set(&[(10, 20), (7, 7)]).as_slice(), &[(10, 20)]);
    }

    #[test]
    fn a_full_set_forgets_its_shortest() {
        let full = set(&[(0, 10), (20, 22), (30, 40), (50, 60)]);
        let mut more = full;
        more.insert(70, 80);
        assert_eq!(more.as_slice(), &[(0, 10), (30, 40), (50, 60), (70, 80)]);
        more.insert(15, 16);
        assert_eq!(more.as_slice(), &[(0, 10), (30, 40), (50, 60), (70, 80)]);
        more = set(&[(10, 20), (30, 40), (50, 60), (70, 72)]);
        more.insert(0, 5);
        assert_eq!(more.as_slice(), &[(0, 5), (10, 20), (30, 40), (50, 60)]);
    }

    #[test]
    fn more_than_could_be_played_is_not_believed() {
        let mut some = set(&[(10, 20)]);
        some.insert_within(0, 100, 30);
        assert_eq!(some.as_slice(), &[(0, 30)]);
        some.insert_within(50, 60, 30);
        assert_eq!(some.as_slice(), &[(0, 30)]);
    }

    proptest! {
        #[test]
        fn a_set_covers_what_a_bitmap_covers(list in prop::collection::vec((0u32..60, 0u32..60, 0u64..70), 0..6)) {
            let mut set = Ranges::<16>::default();
            let mut bits = [false; 60];
            for (from, to, max) in list {
                set.insert_within(from, to, max);
                for i in from..to {
                    let covered = bits.iter().filter(|b| **b).count() as u64;
                    if !bits[i as usize] && covered >= max { break; }
                    bits[i as usize] = true;
                }
                let mut seen = [false; 60];
                set.as_slice().iter().for_each(|r| (r.0..r.1).for_each(|i| seen[i as usize] = true));
                prop_assert_eq!(seen, bits);
                prop_assert!(set.as_slice().windows(2).all(|w| w[0].1 < w[1].0));
                let bytes = minicbor::to_vec(set).unwrap();
                prop_assert_eq!(minicbor::decode::<Ranges<16>>(&bytes).unwrap(), set);
            }
        }
    }
}
