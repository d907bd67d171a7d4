//! The node: its shards, the meta group, the router.

pub mod config;
pub mod folder;
pub mod link;
pub mod meta;
