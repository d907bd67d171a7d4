//! One write-ahead log for all groups of a node.

mod config;
mod engine;
mod format;
mod front;
mod handle;
mod index;
mod read;
mod recover;
mod replay;
mod scan;
mod segments;
mod tail;
#[cfg(test)]
mod tests;
mod types;

pub use config::{Config, Fatal, OnFatal};
pub use engine::{Engine, Progress};
pub use handle::{OpenError, Wal};
pub use types::{
    CheckpointRecord, Done, Durable, LogId, PAYLOAD_BYTES_MAX, Pinned, ReadError, Record, Recovery, ReplicaState, Rot,
    Stats, Stopped, TornTail, VOTE_BYTES_MAX, WriteError,
};
