//! One write-ahead log for all groups of a node: Raft entries, votes, committed markers, checkpoint records.
//!
//! A node has many groups and one disk, and a disk is paid by the sync. So all groups write to one log: one writer takes
//! everything that is queued, writes it once, syncs once, then calls back. Segments are preallocated files that are used
//! again; the format is drawn in `docs/storage-format.md`.
//!
//! ```text
//! callers -> [handle] -> [front]: logs in memory + queue -> [engine] -> segments        opening: [scan] -> [replay]
//!                           ^ readable at once                 | durable: places, callbacks         -> [recover]
//!                           +----------------------------------+
//! ```
//!
//! **Contract.** All is keyed by `ReplicaId`; the log interprets no entry.
//! - Entries are readable when [`Wal::append`] returns; they are durable when its callback says `Ok`. Votes, truncations,
//!   purges and checkpoint records are durable when their [`Durable`] is ready. Committed markers are hints.
//! - The operations of all replicas take effect on the disk in the order in which they were called. What a restart finds is
//!   the state after some prefix of them, and that prefix includes everything that was acknowledged.
//! - A failed write or sync is never retried: [`Config::on_fatal`] ends the process, nobody is told `Ok`.
//! - Damage is never passed over. At or after the place that is known durable it is a torn tail and is cut off; before it,
//!   it is rot, and [`Recovery`] names the replicas that can't be trusted any more. The others go on.
//! - Calls don't block on the disk, but for [`Wal::open`], [`Wal::close`], [`Wal::read_blocking`] and [`Durable::wait`].
//!   Queued bytes, bytes in memory, replicas and sizes are bounded ([`Config`]).
//! - A destroyed replica's id is refused for ever ([`Wal::forget`]).
//!
//! **How segments come free.** Each segment opens with a snapshot of all small state, so an old one is held only by
//! entries. The oldest goes when no replica needs an entry of it; when little of it is needed, that is written again
//! further on; when much is, [`Wal::pinning`] names who holds it, to be checkpointed and purged.
//!
//! **Invariants**: `wal/1` to `wal/11` in `docs/invariants.md`.
//!
//! **Caveats.**
//! - The last batch before a crash is known durable only by its callers: rot in it looks like a torn tail. A log that was
//!   closed in order has no such batch.
//! - Rot in a record's header loses the rest of its batch, and whoever isn't heard of again afterwards is distrusted with
//!   it: a batch doesn't list its replicas.
//! - Each opening begins a fresh segment; a node that restarts in a loop moves its few entries along.
//! - The lock that callers and the writer share is held while a read is planned: reads should be bounded.

mod config;
mod engine;
mod format;
mod front;
mod handle;
mod index;
mod read;
mod recover;
mod replay;
mod run;
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
    CheckpointRecord, Done, Durable, LogId, PAYLOAD_BYTES_MAX, Pinned, Place, ReadError, Record, Recovery,
    ReplicaState, Rot, Stats, Stopped, VOTE_BYTES_MAX, WriteError,
};
