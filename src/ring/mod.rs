//! Where everything stands: account -> token -> shard, and shard -> the nodes that should hold it.
//!
//! Two questions, kept apart. *Which shard has this account?* is arithmetic on the account's id: its [`Token`] is a stable
//! hash, its shard a prefix of the token ([`ShardCount::shard_of`]), and no node's coming or going changes either. *Which
//! nodes hold this shard?* is the [`Placement`]: each shard's [`Replicas`], which [`place()`] makes from the members of the
//! cluster and from the placement before.
//!
//! The [`Ring`] of virtual nodes gives every shard its order of preference over the nodes. By itself it would spread the
//! load as unevenly as hashing does, so a placement is bounded: each node has a fair share by its weight, and may hold at
//! most a slack above it and lack at most the same slack below it ([`Rules`]).
//!
//! # Contract
//!
//! Everything here is a function of its arguments: the same members (in any order), rules and current placement give the
//! same placement on every machine and in every version of this crate that passes the golden tests. Placements are
//! committed to the meta group's log, so a change of these functions moves no data by itself: the next [`place()`] starts
//! from what is there.
//!
//! # Invariants
//!
//! - An account's shard depends on its id and on the cluster's shard count only.
//! - A shard never has fewer than min(replication, members) replicas, and never two on one node.
//! - A shard's replicas stand in as many zones as its members allow, as evenly as they allow.
//! - A node holds no more than its cap, unless the two above force it: first the cap yields, then balance yields to zones.
//! - What no cap, floor, zone or leaving node forces stays where it is.
//! - The preferred leader is one of the shard's replicas; leaders are bounded in the same way as replicas.
//!
//! # Caveats
//!
//! Where the zones are of very different size, the nodes of the smaller ones hold more than their weight says: spreading a
//! shard over zones comes before balance. [`place()`] costs a second or two at 1,000 nodes x 4,096 shards in a debug build, a
//! tenth of one in a release build; it is for changes of membership, not for requests, which only look a shard up.

mod board;
mod leaders;
mod member;
mod order;
mod place;
mod placement;
#[cfg(test)]
mod properties;
mod room;
mod share;
mod token;

pub use member::{InvalidRule, InvalidZone, Member, Replication, Rules, Slack, Weight, Zone};
pub use order::{Ring, VNODES_PER_WEIGHT};
pub use place::{MEMBERS_MAX, PlaceError, place};
pub use placement::{Placement, Replicas};
pub use room::Room;
pub use token::{InvalidShardCount, ShardCount, Token, shard_of};
