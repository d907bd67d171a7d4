//! The ring of virtual nodes, and a shard's order of preference over the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::{NodeId, ShardId};

use super::token::SEED;
use super::{Member, ShardCount, Token};

/// Virtual nodes that a node has on the ring for each unit of its weight.
pub const VNODES_PER_WEIGHT: u32 = 128;

/// One of a node's points on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VNode {
    node: NodeId,
    /// The node's place among the ring's members, in the order of their ids.
    member: u32,
    ordinal: u32,
}

impl Hash for VNode {
    // Written out, so that neither a derive nor the machine's byte order decides where replicas stand.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.node.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.ordinal.to_be_bytes());
        state.write(&bytes);
    }
}

/// XXH3 of the bytes written, seed 0. Takes one `write` a value; both users here do just that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct StableHash;

#[derive(Debug, Default)]
struct StableHasher(u64);

impl BuildHasher for StableHash {
    type Hasher = StableHasher;

    fn build_hasher(&self) -> StableHasher {
        StableHasher::default()
    }
}

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, SEED ^ self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Every member's virtual nodes, in the order of the tokens they stand at.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Sorted by id, so that the order in which members were named never shows.
    members: Vec<Member>,
    /// The number of each member's zone, in the order of the zones' names.
    zone_of: Vec<usize>,
    /// How many members each zone has.
    zone_sizes: Vec<u32>,
    /// Token and place in `members` of each virtual node, clockwise.
    points: Vec<(Token, u32)>,
}

impl Ring {
    /// The ring of these members. Of two entries for one node the first counts.
    pub fn new(members: &[Member]) -> Self {
        let mut members = members.to_vec();
        members.sort_by_key(|m| m.node);
        members.dedup_by_key(|m| m.node);

        let vnodes = (0u32..).zip(&members).flat_map(|(member, m)| {
            let node = m.node;
            (0..m.weight.get() * VNODES_PER_WEIGHT).map(move |ordinal| VNode { node, member, ordinal })
        });
        let mut ring = HashRing::with_hasher(StableHash);
        ring.batch_add(vnodes.collect());
        // The library clones the whole ring on each walk, and counts virtual nodes, not nodes. So one walk round it is taken
        // here, from anywhere, and kept in the order of the tokens.
        let round = ring.get_with_replicas(&ShardPoint(Token(0)), ring.len().saturating_sub(1)).unwrap_or_default();
        let mut points: Vec<(Token, u32)> = round.iter().map(|v| (Token(StableHash.hash_one(v)), v.member)).collect();
        points.sort_by_key(|(token, _)| *token);
        let (zone_of, zone_sizes) = zones(&members);
        Self { members, zone_of, zone_sizes, points }
    }

    /// The members, in the order of their ids.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Every virtual node: where it stands and whose it is, clockwise from token 0.
    pub fn points(&self) -> impl ExactSizeIterator<Item = (Token, NodeId)> + '_ {
        self.points.iter().map(|(token, member)| (*token, self.members[*member as usize].node))
    }

    /// The number of each member's zone.
    pub(super) fn zone_of(&self) -> &[usize] {
        &self.zone_of
    }

    /// How many members each zone has.
    pub(super) fn zone_sizes(&self) -> &[u32] {
        &self.zone_sizes
    }

    /// Every node once, in the order in which the shard prefers them: clockwise from the shard's own point on the ring,
    /// a node of a zone not met yet before nodes of zones met already.
    pub fn preference(&self, shard: ShardId, count: ShardCount) -> Vec<NodeId> {
        self.preference_by_member(shard, count).into_iter().map(|m| self.members[m as usize].node).collect()
    }

    /// [`preference`](Self::preference) as places in [`members`](Self::members).
    pub(super) fn preference_by_member(&self, shard: ShardId, count: ShardCount) -> Vec<u32> {
        self.spread_over_zones(&self.walk(shard, count))
    }

    /// All members in the order in which the clockwise walk from the shard's point first meets them.
    fn walk(&self, shard: ShardId, count: ShardCount) -> Vec<u32> {
        let from = shard_point(shard, count);
        let start = self.points.partition_point(|(token, _)| *token < from);
        let mut met = vec![false; self.members.len()];
        let mut order = Vec::with_capacity(self.members.len());
        // A loop for each part: this is the innermost loop of placing, and a chain of both costs as much as the walk.
        for part in [&self.points[start..], &self.points[..start]] {
            for &(_, member) in part {
                if !met[member as usize] {
                    met[member as usize] = true;
                    order.push(member);
                    if order.len() == self.members.len() {
                        return order;
                    }
                }
            }
        }
        order
    }

    /// `walk` in rounds: each round takes the first not yet taken member of every zone, in the order of the walk.
    fn spread_over_zones(&self, walk: &[u32]) -> Vec<u32> {
        // A round has one member of each zone that is large enough, so where each round begins is known beforehand.
        let rounds = self.zone_sizes.iter().copied().max().unwrap_or(0);
        let width = |round: u32| self.zone_sizes.iter().filter(|&&size| size > round).count();
        let begins = |at: &mut usize, round| Some(std::mem::replace(at, *at + width(round)));
        let mut next: Vec<usize> = (0..rounds).scan(0, begins).collect();
        let mut met = vec![0usize; self.zone_sizes.len()];
        let mut order = vec![0; walk.len()];
        for &member in walk {
            let round = &mut met[self.zone_of[member as usize]];
            order[next[*round]] = member;
            next[*round] += 1;
            *round += 1;
        }
        order
    }
}

/// The number of each member's zone, and how many members each zone has.
pub(super) fn zones(members: &[Member]) -> (Vec<usize>, Vec<u32>) {
    let names: BTreeSet<_> = members.iter().map(|m| &m.zone).collect();
    let numbers: BTreeMap<_, usize> = names.into_iter().zip(0..).collect();
    let zone_of: Vec<usize> = members.iter().map(|m| numbers[&m.zone]).collect();
    let mut sizes = vec![0; numbers.len()];
    for &zone in &zone_of {
        sizes[zone] += 1;
    }
    (zone_of, sizes)
}

/// Where a shard stands on the ring. Hashed, because neighbouring shards' first tokens are near each other when there are
/// many shards and few nodes, and would then fall between the same virtual nodes.
fn shard_point(shard: ShardId, count: ShardCount) -> Token {
    Token(StableHash.hash_one(ShardPoint(count.first_token(shard))))
}

struct ShardPoint(Token);

impl Hash for ShardPoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.to_bytes());
    }
}
