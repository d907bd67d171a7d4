//! Which of its replicas should lead each shard: bounded like the replicas, from the leaders before.

use std::collections::VecDeque;

use super::board::Board;
use super::share::{Bounds, Group, Taker, bounds};
use super::{Member, Placement, Rules};

/// Who leads what, while it is being chosen.
struct Leaders<'a> {
    board: &'a Board,
    bounds: Vec<Bounds>,
    /// Each shard's leader, once it has one.
    leader: Vec<Option<u32>>,
    leads: Vec<u32>,
}

/// A leader for every shard, as its place among the members.
pub(super) fn choose_leaders(board: &Board, members: &[Member], rules: Rules, current: &Placement) -> Vec<u32> {
    let mut leaders = Leaders::kept(board, members, rules, current);
    leaders.fill();
    leaders.unload_the_full();
    leaders.load_the_empty();
    let chosen = leaders.leader.into_iter();
    chosen.map(|leader| leader.expect("every shard has a replica, so it was given a leader")).collect()
}

impl<'a> Leaders<'a> {
    /// Every shard whose leader still has a replica of it keeps its leader.
    fn kept(board: &'a Board, members: &[Member], rules: Rules, current: &Placement) -> Self {
        // A node can't lead what it doesn't hold.
        let taker =
            |(member, at): (&Member, u32)| Taker { weight: member.weight.get(), most: u64::from(board.load(at)) };
        let total = board.shards().len() as u64;
        let group = Group { takers: members.iter().zip(0..).map(taker).collect(), least: total, most: total };
        let bounds = bounds(total, &[group], rules.slack.get()).remove(0);
        let mut leaders = Self { board, bounds, leader: vec![None; board.sets.len()], leads: vec![0; members.len()] };
        for ((_, was), shard) in current.iter().zip(board.shards()) {
            let place = was.leader.and_then(|node| members.binary_search_by_key(&node, |m| m.node).ok());
            if let Some(member) = place.map(|m| m as u32).filter(|m| board.set(shard).contains(m)) {
                leaders.set(shard, member);
            }
        }
        leaders
    }

    fn set(&mut self, shard: u32, member: u32) {
        if let Some(before) = self.leader[shard as usize].replace(member) {
            self.leads[before as usize] -= 1;
        }
        self.leads[member as usize] += 1;
    }

    fn has_room(&self, member: u32) -> bool {
        self.leads[member as usize] < self.bounds[member as usize].cap
    }

    /// Gives every shard without a leader the first of its replicas that has room, or gets room; else the one that leads
    /// the least above its cap.
    fn fill(&mut self) {
        for shard in self.board.shards() {
            if self.leader[shard as usize].is_some() {
                continue;
            }
            let set = self.board.set(shard);
            if !set.iter().any(|&m| self.has_room(m)) {
                self.shift(set, |leaders, member| leaders.has_room(member));
            }
            let roomy = set.iter().copied().find(|&m| self.has_room(m));
            let overfull = |&m: &u32| i64::from(self.leads[m as usize]) - i64::from(self.bounds[m as usize].cap);
            let member = roomy.or_else(|| set.iter().copied().min_by_key(overfull));
            self.set(shard, member.expect("every shard has a replica"));
        }
    }

    fn unload_the_full(&mut self) {
        for full in self.board.members() {
            while self.leads[full as usize] > self.bounds[full as usize].cap {
                if !self.shift(&[full], |leaders, member| leaders.has_room(member)) {
                    break;
                }
            }
        }
    }

    fn load_the_empty(&mut self) {
        for empty in self.board.members() {
            while self.leads[empty as usize] < self.bounds[empty as usize].floor {
                let rich = |&m: &u32| m != empty && self.leads[m as usize] > self.bounds[m as usize].floor;
                let mut sources: Vec<u32> = self.board.members().filter(rich).collect();
                // Those with the most above their share give first.
                let share = |m: u32| i64::from(self.bounds[m as usize].share);
                sources.sort_by_key(|&m| share(m) - i64::from(self.leads[m as usize]));
                if !self.shift(&sources, |_, member| member == empty) {
                    break;
                }
            }
        }
    }

    /// Moves leads along the shortest chain from one of `sources` to a `goal`; false when there is none.
    fn shift(&mut self, sources: &[u32], goal: impl Fn(&Self, u32) -> bool) -> bool {
        let mut reached: Vec<Option<Option<(u32, u32)>>> = vec![None; self.leads.len()];
        let mut queue = VecDeque::new();
        for &source in sources {
            reached[source as usize] = Some(None);
            queue.push_back(source);
        }
        let mut end = None;
        'search: while let Some(from) = queue.pop_front() {
            for shard in self.board.held(from).filter(|&s| self.leader[s as usize] == Some(from)) {
                for &to in self.board.set(shard) {
                    if reached[to as usize].is_none() {
                        reached[to as usize] = Some(Some((shard, from)));
                        if goal(self, to) {
                            end = Some(to);
                            break 'search;
                        }
                        queue.push_back(to);
                    }
                }
            }
        }
        let Some(mut at) = end else { return false };
        while let Some(Some((shard, from))) = reached[at as usize] {
            self.set(shard, at);
            at = from;
        }
        true
    }
}
