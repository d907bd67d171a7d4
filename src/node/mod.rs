//! The node: its shards, the meta group, the router.

pub mod bootstrap;
pub mod config;
mod core;
pub mod folder;
pub mod gossip;
mod host;
pub mod leaders;
pub mod link;
pub mod meta;
mod pulse;
mod reconciler;
pub mod router;
mod server;
pub mod shards;
mod signals;
mod storage;

pub use self::core::{Node, Seeds, StartError, Started};
pub use signals::run_until_signal;
pub use storage::StorageError;
