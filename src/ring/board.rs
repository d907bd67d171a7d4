//! The replicas while they are being placed: who holds what, and which moves keep the zones right.

use std::collections::BTreeSet;

use super::share::{Bounds, Group, Taker, bounds};
use super::{Member, Placement, Ring, Rules, ShardCount};

/// A shard's replica goes from one member to another. Members and shards are meant by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) shard: u32,
    pub(super) from: u32,
    pub(super) to: u32,
}

/// How many of a shard's replicas each zone has, when they are spread as evenly as the zones' sizes allow: first every zone
/// gets the same number or all it has nodes for, then some of those with nodes left get one more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spread {
    /// What each zone gets in any case.
    least: Vec<u32>,
    /// Whether the zone has nodes left for one more.
    more: Vec<bool>,
    /// How many zones get one more.
    extra: u32,
}

impl Spread {
    pub(super) fn of(replicas: u32, sizes: &[u32]) -> Self {
        let fits = |level: u32| sizes.iter().map(|&n| n.min(level)).sum::<u32>();
        let mut level = 0;
        while fits(level + 1) <= replicas && fits(level + 1) > fits(level) {
            level += 1;
        }
        let least: Vec<u32> = sizes.iter().map(|&n| n.min(level)).collect();
        let extra = replicas - fits(level);
        Self { least, more: sizes.iter().map(|&n| extra > 0 && n > level).collect(), extra }
    }

    fn most(&self, zone: usize) -> u32 {
        self.least[zone] + u32::from(self.more[zone])
    }

    /// Whether a replica may go from one zone, that has so many of the shard, to another.
    pub(super) fn lets(&self, (from, gives): (usize, u32), (to, takes): (usize, u32)) -> bool {
        // From one zone to another only an extra replica may go, and only to where it is extra again.
        from == to || (gives > self.least[from] && takes < self.most(to))
    }
}

/// The state of placing.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) replicas: u32,
    spread: Spread,
    zone_of: Vec<usize>,
    zones: usize,
    pub(super) bounds: Vec<Bounds>,
    /// Each shard's place of every member in its order of preference.
    rank: Vec<Vec<u16>>,
    order: Vec<Vec<u32>>,
    /// Who held each shard before, of those that are still members.
    before: Vec<Vec<u32>>,
    /// Who holds each shard.
    pub(super) sets: Vec<Vec<u32>>,
    /// What each member holds.
    held: Vec<BTreeSet<u32>>,
}

impl Board {
    /// A board on which every shard has the replicas that it had and that may stay.
    pub(super) fn new(ring: &Ring, count: ShardCount, rules: Rules, current: &Placement) -> Self {
        let members = ring.members();
        let replicas = rules.replication.get().min(members.len() as u32);
        let zone_of = ring.zone_of().to_vec();
        let zones = ring.zone_sizes().len();
        let spread = Spread::of(replicas, ring.zone_sizes());
        let order: Vec<Vec<u32>> = count.shards().map(|shard| ring.preference_by_member(shard, count)).collect();
        let rank = order.iter().map(|order| inverse(order)).collect();
        let before = current
            .iter()
            .map(|(_, was)| {
                let place = |node| members.binary_search_by_key(&node, |m| m.node).ok().map(|m| m as u32);
                was.nodes.iter().filter_map(|&node| place(node)).collect::<BTreeSet<u32>>().into_iter().collect()
            })
            .collect();
        let bounds = replica_bounds(members, &zone_of, &spread, count, rules);
        let sets = vec![Vec::new(); count.get() as usize];
        let held = vec![BTreeSet::new(); members.len()];
        let mut board = Self { replicas, spread, zone_of, zones, bounds, rank, order, before, sets, held };
        for shard in 0..count.get() {
            for member in board.staying(shard) {
                board.add(shard, member);
            }
        }
        board
    }

    pub(super) fn shards(&self) -> std::ops::Range<u32> {
        0..self.sets.len() as u32
    }

    pub(super) fn members(&self) -> std::ops::Range<u32> {
        0..self.held.len() as u32
    }

    pub(super) fn load(&self, member: u32) -> u32 {
        self.held[member as usize].len() as u32
    }

    pub(super) fn bounds(&self, member: u32) -> Bounds {
        self.bounds[member as usize]
    }

    pub(super) fn has_room(&self, member: u32) -> bool {
        self.load(member) < self.bounds(member).cap
    }

    pub(super) fn set(&self, shard: u32) -> &[u32] {
        &self.sets[shard as usize]
    }

    pub(super) fn held(&self, member: u32) -> impl Iterator<Item = u32> + '_ {
        self.held[member as usize].iter().copied()
    }

    pub(super) fn rank(&self, shard: u32, member: u32) -> u16 {
        self.rank[shard as usize][member as usize]
    }

    /// Members in the shard's order of preference.
    pub(super) fn order(&self, shard: u32) -> &[u32] {
        &self.order[shard as usize]
    }

    /// What a move costs: 1 where data has to be copied that would not be without it, -1 where it is saved.
    pub(super) fn cost(&self, m: Move) -> i8 {
        let had = |member| i8::from(self.before[m.shard as usize].contains(&member));
        had(m.from) - had(m.to)
    }

    /// Whether the shard's set may take the member: it isn't in it, and the zones stay right.
    pub(super) fn may_add(&self, shard: u32, member: u32) -> bool {
        let set = self.set(shard);
        if set.contains(&member) {
            return false;
        }
        let zone = self.zone_of[member as usize];
        let here = self.in_zone(set, zone);
        here < self.spread.least[zone] || (here < self.spread.most(zone) && self.extras(set) < self.spread.extra)
    }

    /// Whether the full set of a shard may change one member for another.
    pub(super) fn may_move(&self, m: Move) -> bool {
        let set = self.set(m.shard);
        if set.contains(&m.to) {
            return false;
        }
        let (from, to) = (self.zone_of[m.from as usize], self.zone_of[m.to as usize]);
        self.spread.lets((from, self.in_zone(set, from)), (to, self.in_zone(set, to)))
    }

    pub(super) fn add(&mut self, shard: u32, member: u32) {
        self.sets[shard as usize].push(member);
        self.held[member as usize].insert(shard);
    }

    pub(super) fn apply(&mut self, m: Move) {
        let set = &mut self.sets[m.shard as usize];
        let at = set.iter().position(|&member| member == m.from).expect("a move begins at a holder of the shard");
        set[at] = m.to;
        self.held[m.from as usize].remove(&m.shard);
        self.held[m.to as usize].insert(m.shard);
    }

    /// Carries out a chain of moves that begins at one of `sources` and ends at a member that is a `goal`: each member on
    /// the way takes one replica and gives another. False when there is none.
    pub(super) fn shift(&mut self, sources: &[u32], goal: impl Fn(&Self, u32) -> bool) -> bool {
        // The cheapest chain may lead through a shard twice, and then doesn't work; the shortest can't.
        let cheapest = self.chain(sources, true, &goal);
        self.apply_chain(&cheapest) || {
            let shortest = self.chain(sources, false, &goal);
            self.apply_chain(&shortest)
        }
    }

    /// The shortest chain; where `thrifty`, the one that copies the least. Empty when there is none.
    fn chain(&self, sources: &[u32], thrifty: bool, goal: impl Fn(&Self, u32) -> bool) -> Vec<Move> {
        let mut search = Search::from(sources, self.held.len());
        let mut layer = sources.to_vec();
        while !layer.is_empty() {
            let mut next = Vec::new();
            // What costs nothing leads to the same layer, which grows while it is walked.
            let mut at = 0;
            while let Some(&from) = layer.get(at) {
                let mut reached = Vec::new();
                if let Some(end) = search.spread(self, from, |m| !thrifty || self.cost(m) <= 0, &goal, &mut reached) {
                    return search.trace(end);
                }
                if thrifty {
                    layer.append(&mut reached)
                } else {
                    next.append(&mut reached)
                }
                at += 1;
            }
            for from in layer.into_iter().filter(|_| thrifty) {
                if let Some(end) = search.spread(self, from, |_| true, &goal, &mut next) {
                    return search.trace(end);
                }
            }
            layer = next;
        }
        Vec::new()
    }

    /// Carries out a chain from its end; false when a move on the way had become impossible.
    fn apply_chain(&mut self, chain: &[Move]) -> bool {
        for &m in chain.iter().rev() {
            if !self.set(m.shard).contains(&m.from) || !self.may_move(m) {
                return false;
            }
            self.apply(m);
        }
        !chain.is_empty()
    }

    /// Which of those who held the shard may stay: as many as the zones allow, the least preferred go.
    fn staying(&self, shard: u32) -> Vec<u32> {
        let mut set = self.before[shard as usize].clone();
        set.sort_by_key(|&member| self.rank(shard, member));
        loop {
            let crowded = |zone: usize| self.in_zone(&set, zone) > self.spread.most(zone);
            let extra = |zone: usize| self.in_zone(&set, zone) > self.spread.least[zone];
            let too_many = (0..self.zones).any(crowded);
            let too_extra = self.extras(&set) > self.spread.extra;
            let goes = |member: &u32| {
                let zone = self.zone_of[*member as usize];
                if too_many { crowded(zone) } else { too_extra && extra(zone) }
            };
            match set.iter().rposition(goes) {
                Some(at) => drop(set.remove(at)),
                None => return set,
            }
        }
    }

    fn in_zone(&self, set: &[u32], zone: usize) -> u32 {
        set.iter().filter(|&&member| self.zone_of[member as usize] == zone).count() as u32
    }

    /// How many replicas stand in zones beyond what each zone gets in any case.
    fn extras(&self, set: &[u32]) -> u32 {
        let mut extras = 0;
        for (at, &member) in set.iter().enumerate() {
            let zone = self.zone_of[member as usize];
            extras += u32::from(self.in_zone(&set[..=at], zone) > self.spread.least[zone]);
        }
        extras
    }
}

/// A search for a chain: who was reached, and by which move.
struct Search {
    by: Vec<Option<Move>>,
    unreached: BTreeSet<u32>,
}

impl Search {
    fn from(sources: &[u32], members: usize) -> Self {
        let sources: BTreeSet<u32> = sources.iter().copied().collect();
        let unreached = (0..members as u32).filter(|member| !sources.contains(member)).collect();
        Self { by: vec![None; members], unreached }
    }

    /// Reaches all that one `allowed` move from `from` reaches, and notes them in `to`; stops at the first `goal`.
    fn spread(
        &mut self,
        board: &Board,
        from: u32,
        allowed: impl Fn(Move) -> bool,
        goal: impl Fn(&Board, u32) -> bool,
        reached: &mut Vec<u32>,
    ) -> Option<u32> {
        for shard in board.held(from) {
            let moves = self.unreached.iter().map(|&to| Move { shard, from, to });
            for m in moves.filter(|&m| allowed(m) && board.may_move(m)).collect::<Vec<_>>() {
                self.by[m.to as usize] = Some(m);
                self.unreached.remove(&m.to);
                reached.push(m.to);
                if goal(board, m.to) {
                    return Some(m.to);
                }
            }
        }
        None
    }

    /// The moves that led to `end`, in order.
    fn trace(&self, end: u32) -> Vec<Move> {
        let mut chain = Vec::new();
        let mut at = end;
        while let Some(m) = self.by[at as usize] {
            chain.push(m);
            at = m.from;
        }
        chain.reverse();
        chain
    }
}

pub(super) fn replica_bounds(
    members: &[Member],
    zone_of: &[usize],
    spread: &Spread,
    count: ShardCount,
    rules: Rules,
) -> Vec<Bounds> {
    let shards = u64::from(count.get());
    let mut groups: Vec<Group> = (0..spread.least.len())
        .map(|zone| Group {
            takers: Vec::new(),
            least: shards * u64::from(spread.least[zone]),
            most: shards * u64::from(spread.most(zone)),
        })
        .collect();
    for (member, &zone) in members.iter().zip(zone_of) {
        groups[zone].takers.push(Taker { weight: member.weight.get(), most: shards });
    }
    let total = shards * u64::from(rules.replication.get().min(members.len() as u32));
    let mut by_zone: Vec<_> = bounds(total, &groups, rules.slack.get()).into_iter().map(Vec::into_iter).collect();
    zone_of.iter().map(|&zone| by_zone[zone].next().expect("a bound for every member of the zone")).collect()
}

fn inverse(order: &[u32]) -> Vec<u16> {
    let mut rank = vec![u16::MAX; order.len()];
    for (at, &member) in order.iter().enumerate() {
        rank[member as usize] = u16::try_from(at).unwrap_or(u16::MAX);
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_spread_as_evenly_as_the_zones_sizes_allow() {
        let spread = |k, sizes: &[u32]| {
            let s = Spread::of(k, sizes);
            (s.least, s.extra)
        };
        assert_eq!(spread(3, &[4, 4, 4]), (vec![1, 1, 1], 0));
        assert_eq!(spread(3, &[5, 2]), (vec![1, 1], 1));
        assert_eq!(spread(3, &[2, 2, 2, 2, 2]), (vec![0; 5], 3));
        assert_eq!(spread(5, &[1, 1, 9]), (vec![1, 1, 3], 0));
        assert_eq!(spread(5, &[3, 3, 3]), (vec![1, 1, 1], 2));
        assert_eq!(spread(4, &[9]), (vec![4], 0));
    }
}
