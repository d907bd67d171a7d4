//! The node: one process of a cluster, with its replicas, its link to the others, and the router that takes every call.
//!
//! # What is where
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | what an operator tells the node |
//! | [`folder`] | who the node is: id, generation, charter; the lock |
//! | [`link`] | lanes to the other nodes, and the handshake |
//! | [`meta`] | the replicated state of the cluster itself: pure |
//! | [`shards`], `host`, `mend` | the replicas that run here, as the meta state says; what becomes of those that fail |
//! | `confirm` | no votes before it is known what has become of the cluster |
//! | [`gossip`], `pulse`, [`leaders`] | what the nodes tell each other: who lives, who leads, how replicas are |
//! | `heat` | what the shards cost that are led here |
//! | `reconciler` | carries out the planner's steps for the groups that are led here |
//! | `log_budget`, `reserve` | keep the log within its budget, and some of the disk free |
//! | [`router`] | brings each call to where it can be answered |
//! | [`bootstrap`] | makes a cluster of nodes that have none |
//! | `recover_meta` | a folder's replica of the meta group goes on alone |
//! | [`join`], [`rollout`] | lets nodes into a cluster that runs; brings it, shard by shard, to what its nodes ask for |
//! | `core`, `server`, `signals` | puts it together, starts it and stops it |
//!
//! # Contract
//!
//! [`Node::start`] gives a running node and the two sockets that its faces are served on (by `rpc`, a floor above). Whatever
//! it acknowledges is durable on a quorum. It needs no command after a restart: charter, meta state and peers are on disk.
//!
//! # Invariants
//!
//! See the section *node* of `docs/invariants.md`.
//!
//! # Caveats
//!
//! A link without TLS believes whoever knows the cluster's id.

mod adoption;
mod belonging;
pub mod bootstrap;
mod bound;
pub mod config;
mod confirm;
mod core;
mod failover;
pub mod folder;
pub mod gossip;
mod handover;
mod heat;
pub mod hints;
mod host;
pub mod join;
pub mod leaders;
pub mod link;
mod log_budget;
mod mend;
pub mod meta;
mod pulse;
mod reconciler;
mod recover_meta;
mod reserve;
pub mod rollout;
pub mod router;
mod server;
pub mod shards;
mod signals;
mod storage;
mod stretch;
pub mod supervisor;
pub mod surroundings;
#[cfg(test)]
mod tests;
pub mod versions;

pub use self::core::{Node, Seeds, StartError, Started};
pub use handover::Given;
pub use recover_meta::{MetaLeft, NotRecovered};
pub use signals::run_until_signal;
pub use storage::StorageError;
pub use surroundings::Surroundings;
