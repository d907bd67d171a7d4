//! How much each node should hold: its fair share by weight, and the cap and the floor around it.
//!
//! Shares are found by filling all nodes with water to one level: a node of weight `w` holds `w` times the level, but never
//! more than it can hold, and a zone's nodes together never less or more than the zone has to. In binary fixed point, not
//! floating: the same on every machine, and a share that is a whole number comes out as one.

/// Binary digits after the point.
const FRACTION_BITS: u32 = 40;
/// Less than this is rounding. The level is found to 2^-40, times all weights (at most 1,000 nodes x 100) that is below
/// 2^-23; a share that is no whole number misses one by at least 1 in the sum of the weights, above 2^-17.
const ROUNDING: u128 = 1 << (FRACTION_BITS - 20);

/// A node that is to take a share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taker {
    pub(super) weight: u32,
    /// The most it can hold.
    pub(super) most: u64,
}

/// Takers that together take from `least` to `most`.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) takers: Vec<Taker>,
    pub(super) least: u64,
    pub(super) most: u64,
}

/// What a node may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// At least this, before it takes from others.
    pub(super) floor: u32,
    /// The fair share, rounded up.
    pub(super) share: u32,
    /// At most this, before it gives to others.
    pub(super) cap: u32,
}

/// The bounds of every taker, group by group, when `total` is shared out.
pub(super) fn bounds(total: u64, groups: &[Group], slack_permille: u32) -> Vec<Vec<Bounds>> {
    let level = level(total.into(), |level| groups.iter().map(|g| g.filled(level)).sum());
    groups
        .iter()
        .map(|group| {
            // Where the group's own bounds hold, its water stands at a level of its own.
            let filled = group.filled(level);
            let own = level_of(filled, |level| group.takers.iter().map(|t| t.filled(level)).sum());
            group.takers.iter().map(|t| Bounds::around(t.filled(own), t.most, slack_permille)).collect()
        })
        .collect()
}

impl Taker {
    fn filled(&self, level: u128) -> u128 {
        (u128::from(self.weight) * level).min(u128::from(self.most) << FRACTION_BITS)
    }
}

impl Group {
    fn filled(&self, level: u128) -> u128 {
        let sum: u128 = self.takers.iter().map(|t| t.filled(level)).sum();
        sum.clamp(u128::from(self.least) << FRACTION_BITS, u128::from(self.most) << FRACTION_BITS)
    }
}

impl Bounds {
    fn around(share: u128, most: u64, slack_permille: u32) -> Self {
        let slack = share * u128::from(slack_permille) / 1000;
        let up = |v: u128| (v + (1 << FRACTION_BITS) - 1).saturating_sub(ROUNDING) >> FRACTION_BITS;
        let down = |v: u128| (v + ROUNDING) >> FRACTION_BITS;
        let whole = |v: u128| u32::try_from(v.min(u128::from(most))).expect("no node can hold more than all shards");
        Self {
            floor: whole(down(share).min(up(share - slack.min(share)))),
            share: whole(up(share)),
            cap: whole(up(share).max(down(share + slack))),
        }
    }
}

fn level(total: u128, filled: impl Fn(u128) -> u128) -> u128 {
    level_of(total << FRACTION_BITS, filled)
}

/// The lowest level at which `filled` is at least `wanted`, or the highest level there is.
fn level_of(wanted: u128, filled: impl Fn(u128) -> u128) -> u128 {
    let (mut low, mut high) = (0u128, 1u128 << (FRACTION_BITS + 20));
    while low < high {
        let middle = (low + high) / 2;
        if filled(middle) >= wanted { high = middle } else { low = middle + 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(total: u64, weights: &[u32], most: u64, slack: u32) -> Vec<Bounds> {
        let takers = weights.iter().map(|&weight| Taker { weight, most }).collect();
        bounds(total, &[Group { takers, least: 0, most: total }], slack).remove(0)
    }

    #[test]
    fn a_cap_is_the_greater_of_the_share_rounded_up_and_the_share_with_slack_rounded_down() {
        let b = Bounds { floor: 19, share: 20, cap: 20 };
        assert_eq!(one(192, &[1; 10], 64, 50), vec![b; 10]);
        let b = Bounds { floor: 1062, share: 1118, cap: 1172 };
        assert_eq!(one(12_288, &[1; 11], 4096, 50), vec![b; 11]);
    }

    #[test]
    fn a_share_that_is_a_whole_number_has_no_room_without_slack() {
        let b = Bounds { floor: 48, share: 48, cap: 48 };
        assert_eq!(one(192, &[1; 4], 64, 0), vec![b; 4]);
        assert_eq!(one(192, &[3, 3, 3, 3], 64, 0), vec![b; 4]);
        // 7 parts of 1/7 each: no floating point.
        assert_eq!(one(7, &[1; 7], 64, 0), vec![Bounds { floor: 1, share: 1, cap: 1 }; 7]);
    }

    #[test]
    fn who_can_hold_no_more_leaves_the_rest_to_the_others_by_weight() {
        let shares: Vec<u32> = one(192, &[10, 2, 1, 1], 64, 0).iter().map(|b| b.share).collect();
        assert_eq!(shares, [64, 64, 32, 32]);
    }

    #[test]
    fn a_zone_takes_what_it_must_whatever_its_nodes_weigh() {
        let zone = |nodes| Group { takers: vec![Taker { weight: 1, most: 64 }; nodes], least: 64, most: 64 };
        let b = bounds(192, &[zone(1), zone(2), zone(4)], 0);
        assert_eq!((b[0][0].share, b[1][0].share, b[2][3].share), (64, 32, 16));
    }
}
