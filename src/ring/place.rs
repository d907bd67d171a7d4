//! Bounded-load placement, from the placement before.
//!
//! After Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016): walk the ring, pass by who is
//! full. Where that alone would move more than it must, or come out short, this goes further: it starts from what is there,
//! bounds loads from below as well, so that a new node is given its part, and frees room by chains of moves where no single
//! one helps.

use crate::ids::NodeId;

use super::board::{Board, Move};
use super::leaders::choose_leaders;
use super::{Member, Placement, Replicas, Ring, Rules, ShardCount};

/// Why no placement could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There is no node to place anything on.
    #[error("no node may hold replicas")]
    NoMembers,
    /// There are more nodes than can be placed on.
    #[error("{got} nodes are too many: 1 to {max} are accepted", max = MEMBERS_MAX)]
    TooManyMembers {
        /// How many came.
        got: usize,
    },
    /// A node stands twice among the members.
    #[error("node {node} stands twice among the members")]
    DuplicateMember {
        /// The node.
        node: NodeId,
    },
    /// The current placement is of another number of shards.
    #[error("the current placement has {current} shards, not {count}")]
    OtherShardCount {
        /// Shards of the current placement.
        current: usize,
        /// Shards of the cluster.
        count: ShardCount,
    },
}

/// The most nodes that shards can be placed on.
pub const MEMBERS_MAX: usize = 1000;

/// Places every shard on `members`, starting from `current` ([`Placement::empty`] the first time) and moving only what
/// `rules` force. The order of `members` doesn't matter.
pub fn place(
    members: &[Member],
    count: ShardCount,
    rules: Rules,
    current: &Placement,
) -> Result<Placement, PlaceError> {
    check(members, count, current)?;
    let ring = Ring::new(members);
    let mut board = Board::new(&ring, count, rules, current);
    fill(&mut board);
    unload_the_full(&mut board);
    load_the_empty(&mut board);
    for shard in board.shards() {
        let mut set = std::mem::take(&mut board.sets[shard as usize]);
        set.sort_by_key(|&member| board.rank(shard, member));
        board.sets[shard as usize] = set;
    }
    let leaders = choose_leaders(&board, ring.members(), rules, current);
    let node = |member: u32| ring.members()[member as usize].node;
    let replicas = |(set, leader): (&Vec<u32>, u32)| Replicas {
        nodes: set.iter().map(|&member| node(member)).collect(),
        leader: Some(node(leader)),
    };
    Ok(Placement::of(board.sets.iter().zip(leaders).map(replicas).collect()))
}

fn check(members: &[Member], count: ShardCount, current: &Placement) -> Result<(), PlaceError> {
    if members.is_empty() {
        return Err(PlaceError::NoMembers);
    }
    if members.len() > MEMBERS_MAX {
        return Err(PlaceError::TooManyMembers { got: members.len() });
    }
    if current.shard_count() != count.get() as usize {
        return Err(PlaceError::OtherShardCount { current: current.shard_count(), count });
    }
    let mut nodes: Vec<NodeId> = members.iter().map(|m| m.node).collect();
    nodes.sort_unstable();
    match nodes.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(PlaceError::DuplicateMember { node: pair[0] }),
        None => Ok(()),
    }
}

/// Gives every shard all its replicas.
fn fill(board: &mut Board) {
    for shard in board.shards() {
        while (board.set(shard).len() as u32) < board.replicas {
            let member = roomy(board, shard).unwrap_or_else(|| make_room(board, shard));
            board.add(shard, member);
        }
    }
}

/// The member that the shard prefers of those that may take it and have room.
fn roomy(board: &Board, shard: u32) -> Option<u32> {
    board.order(shard).iter().copied().find(|&m| board.has_room(m) && board.may_add(shard, m))
}

/// A member that may take the shard: one that got room by giving another shard away, else the least overfull. Here the cap
/// yields.
fn make_room(board: &mut Board, shard: u32) -> u32 {
    let takers: Vec<u32> = board.order(shard).iter().copied().filter(|&m| board.may_add(shard, m)).collect();
    if board.shift(&takers, Board::has_room)
        && let Some(member) = roomy(board, shard)
    {
        return member;
    }
    let overfull = |&member: &u32| i64::from(board.load(member)) - i64::from(board.bounds(member).cap);
    let takers = board.order(shard).iter().copied().filter(|&m| board.may_add(shard, m));
    takers.min_by_key(overfull).expect("a shard with fewer replicas than there are members has a zone for one more")
}

/// Moves replicas away from the members above their cap, as long as that is possible.
fn unload_the_full(board: &mut Board) {
    for full in board.members() {
        while board.load(full) > board.bounds(full).cap {
            let moved = match cheapest(board, board.held(full).map(|shard| (shard, full)), |to| board.has_room(to)) {
                Some(m) => {
                    board.apply(m);
                    true
                }
                None => board.shift(&[full], Board::has_room),
            };
            if !moved {
                break;
            }
        }
    }
}

/// Moves replicas to the members below their floor, from members that stay at or above their own.
fn load_the_empty(board: &mut Board) {
    for empty in board.members() {
        while board.load(empty) < board.bounds(empty).floor {
            let rich = |board: &Board, member: u32| board.load(member) > board.bounds(member).floor;
            let holders = board
                .shards()
                .flat_map(|shard| board.set(shard).iter().map(move |&from| (shard, from)))
                .filter(|&(_, from)| rich(board, from));
            let moved = match cheapest(board, holders, |to| to == empty) {
                Some(m) => {
                    board.apply(m);
                    true
                }
                None => {
                    let sources: Vec<u32> = board.members().filter(|&m| m != empty && rich(board, m)).collect();
                    board.shift(&sources, |_, member| member == empty)
                }
            };
            if !moved {
                break;
            }
        }
    }
}

/// The best move of one of `holders` (shard, member) to a member that is `open`: one that copies nothing before one that
/// does, from a member above its share before others, to one below its floor before others; then in the ring's order.
fn cheapest(board: &Board, holders: impl Iterator<Item = (u32, u32)>, open: impl Fn(u32) -> bool) -> Option<Move> {
    let open: Vec<u32> = board.members().filter(|&m| open(m)).collect();
    holders
        .flat_map(|(shard, from)| open.iter().map(move |&to| Move { shard, from, to }))
        .filter(|&m| board.may_move(m))
        .min_by_key(|&m| {
            let poor_giver = board.load(m.from) <= board.bounds(m.from).share;
            let rich_taker = board.load(m.to) >= board.bounds(m.to).floor;
            (board.cost(m), poor_giver, rich_taker, board.rank(m.shard, m.to), m.shard, m.from, m.to)
        })
}
