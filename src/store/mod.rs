//! Checkpoints of shards on disk: the [`Store`] trait, sled behind it, and one in memory that can crash.
//!
//! A replica's state lives in memory and in the log. What the log may forget is here: per replica one *header*, the packed
//! *images* of its active views, and *rows* (everything else, point-addressed). The store takes bytes and gives bytes; of a
//! key it knows only that keys are ordered as bytes are.
//!
//! # Contract
//!
//! - **Only a checkpoint changes a replica**, and a checkpoint is all or nothing: header, images and rows of one
//!   generation. When [`Store::checkpoint`] has answered `Ok`, a power cut does not undo it. A checkpoint without an answer
//!   may be there after a crash or not, never in part.
//! - The caller then writes a checkpoint record ([`CheckpointRecord`]) to its log, and only then purges the log. At the
//!   next start it hands the newest records in, and gets a [`Verdict`] for each replica. **A retired replica never comes
//!   back under its id**: it may have acknowledged what its disk has lost.
//! - Rows move from the live database to the archive between checkpoints ([`Store::cool`]). No reader can tell: look-ups and
//!   scans merge both, tombstones included. Headers and images never move.
//! - A scan and an exported snapshot are of one checkpoint generation, and say of which.
//!
//! # Threads
//!
//! Everything here blocks. No runtime thread may call it; [`StoreHandle`] is the front for async code.
//!
//! # Caveats
//!
//! - A store that has failed ([`WriteError::Failed`]) answers nothing any more; [`StoreHandle`] has the process ended.
//! - What the store has applied but not yet synced is visible to readers (as the next generation). Nobody may call it
//!   durable before `checkpoint` answers.
//! - Rot is found where it lies: the newest checkpoint (header, images, the rows that it changed) when the store is opened,
//!   rows in the archive when they are read ([`ReadError::Corrupt`]). Either way the replica is retired.

mod disk;
mod error;
mod handle;
mod mem;
mod rules;
#[cfg(test)]
mod suite;
mod types;

pub use disk::{DiskStore, OpenError, Opened, Options, rewrite};
pub use error::{ExportError, OnFatal, ReadError, Retirement, WriteError};
pub use handle::{ExportHandle, InstallHandle, Losses, Queues, StoreHandle, StoreThreads};
pub use mem::{Fault, MemDisk, MemStore};
pub use types::{
    Checkpoint, CheckpointRecord, Checkpointed, Chunk, CoolBudget, Cooled, Haste, Header, Key, Limits, Pair,
    ReplicaUsage, Scan, Space, Usage, Value, Verdict,
};

use std::sync::Arc;

use crate::ids::ReplicaId;

/// Checkpointed state of replicas. See the module's documentation for what every implementation promises.
///
/// Every call names a replica; one that was never made, or was dropped, is `UnknownReplica`, and one that was retired
/// answers `Retired` to everything but [`Store::drop_replica`].
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Makes an empty replica, without a header. It is durable with its first checkpoint (or installed snapshot). Making one
    /// that is there already is an error: replica ids are used once.
    fn create(&self, replica: ReplicaId) -> Result<(), WriteError>;

    /// All replicas that are here, retired ones included, in the order of their ids.
    fn replicas(&self) -> Vec<ReplicaId>;

    /// The newest checkpoint's header; `None` when there has been no checkpoint yet.
    fn header(&self, replica: ReplicaId) -> Result<Option<Header>, ReadError>;

    /// Images in key order, beginning after `after`, about `bytes_max` bytes of them and at least one. Go on with the last
    /// key of the chunk while [`Chunk::more`]. All of one generation as long as no checkpoint comes between: this is for
    /// restoring a replica that does not run yet.
    fn images(&self, replica: ReplicaId, after: Option<&[u8]>, bytes_max: usize) -> Result<Chunk, ReadError>;

    /// The values of `keys` among the rows, in the order asked for; `None` for a row that is not there. At most
    /// [`Limits::KEYS_A_GET`] keys.
    fn get(&self, replica: ReplicaId, keys: &[Key]) -> Result<Vec<Option<Value>>, ReadError>;

    /// Rows with `from <= key < to` in key order (`to` empty: to the end), at most `limit` of them and about
    /// [`Limits::SCAN_BYTES`]. All of one moment.
    fn scan(&self, replica: ReplicaId, from: &[u8], to: &[u8], limit: usize) -> Result<Scan, ReadError>;

    /// Takes in one checkpoint of each of several replicas, which share one flush and one sync. Answers in the order given,
    /// when they are durable. A replica that occurs twice is refused the second time. Where one is being read ([`Store::export`]) it
    /// goes by its haste.
    fn checkpoint(
        &self,
        checkpoints: Vec<(ReplicaId, Arc<Checkpoint>, Haste)>,
    ) -> Vec<Result<Checkpointed, WriteError>>;

    /// Moves rows that the last checkpoint has changed to the archive, where all others are. They leave the live database
    /// with the replica's next checkpoint, which moves what is left first: calling this between checkpoints keeps them
    /// short. It remembers where it left off.
    fn cool(&self, replica: ReplicaId, budget: CoolBudget) -> Result<Cooled, WriteError>;

    /// Begins to replace all of a replica by a snapshot (or to make the replica by it: it need not be here). Readers go on
    /// seeing the old content until [`Install::finish`].
    fn begin_install(&self, replica: ReplicaId) -> Result<Box<dyn Install>, WriteError>;

    /// Begins to read all of one checkpoint, by one reader at a time. Until the reader is dropped, [`Haste::Patient`] checkpoints of
    /// this replica answer [`WriteError::Busy`], and their caller tries again, however long that takes; so whoever can't do without
    /// one for longer, for what the log or the memory hold meanwhile, asks with [`Haste::Urgent`]. That goes ahead at once, as any
    /// does when the reader has asked for nothing in `lease_ms`, and the reader's next call answers [`ExportError::LeaseLost`]. The
    /// next reader begins after a checkpoint that was held off, or that follows an urgent one within a second.
    fn export(&self, replica: ReplicaId, lease_ms: u64) -> Result<Box<dyn Export>, ExportError>;

    /// Removes a replica, at once for readers. Dropping one that is not here does nothing.
    fn drop_replica(&self, replica: ReplicaId) -> Result<(), WriteError>;

    /// How much is held. Costs a few calls to the file system.
    fn usage(&self) -> Result<Usage, ReadError>;

    /// How much room is left. When it is not [`Space::ample`] the owner refuses new writes, so that there is room for
    /// checkpoints of what it has taken already.
    fn space(&self) -> Result<Space, ReadError>;

    /// What was done since the store was opened, by name: for metrics.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}

/// A snapshot on its way in. Dropping it without [`Install::finish`] leaves the replica as it was.
pub trait Install: Send {
    /// Takes in some images, each key once, and some rows, whose keys ascend over all calls (as [`Export`] gives them).
    /// Memory is bounded by what the caller hands in at once.
    fn put(&mut self, images: Vec<Pair>, rows: Vec<Pair>) -> Result<(), WriteError>;

    /// Makes what was put the replica's content, under this generation and header, durably. The generation is this
    /// replica's own count and greater than that of its last checkpoint, whatever the snapshot's was where it came from:
    /// otherwise a crash before the checkpoint record is written would look like a store that went back.
    fn finish(self: Box<Self>, generation: u64, header: Vec<u8>) -> Result<Checkpointed, WriteError>;
}

/// A reader of all of one checkpoint.
pub trait Export: Send {
    /// The header of the checkpoint that is read.
    fn header(&self) -> &Header;

    /// The next images, then the next rows, about `bytes_max` bytes and at least one pair, in key order; `None` at the end,
    /// where asking again and again keeps the checkpoint in its place as long as it can be kept.
    fn next(&mut self, bytes_max: usize) -> Result<Option<Exported>, ExportError>;
}

/// A piece of an exported checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exported {
    /// Packed active views.
    Images(Vec<Pair>),
    /// Rows.
    Rows(Vec<Pair>),
}
