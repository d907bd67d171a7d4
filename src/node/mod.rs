//! The node: its shards, the meta group, the router.

pub mod config;
pub mod folder;
pub mod gossip;
pub mod leaders;
pub mod link;
pub mod meta;
pub mod router;
pub mod shards;
