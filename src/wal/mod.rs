//! One write-ahead log for all groups of a node.

mod config;
mod handle;
mod types;

pub use config::{Config, Fatal, OnFatal};
pub use handle::{OpenError, Wal};
pub use types::{
    CheckpointRecord, Done, Durable, LogId, PAYLOAD_BYTES_MAX, Pinned, ReadError, Record, Recovery, ReplicaState, Rot,
    Stats, Stopped, TornTail, VOTE_BYTES_MAX, WriteError,
};
