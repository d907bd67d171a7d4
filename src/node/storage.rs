//! Opening the log and the store of a data folder, with distrust.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::Fs;
use crate::ids::{NodeId, ReplicaId};
use crate::store::{self, CheckpointRecord, Queues, StoreHandle, StoreThreads, Verdict};
use crate::wal::{self, Wal};

use super::config::Config;
use super::folder::{RecordError, read_record, write_record};
use super::surroundings::{StoreSizes, Surroundings};

/// Why the node's data can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The folder.
    #[error("the folder of the log: {0}")]
    Folder(#[from] std::io::Error),
    /// What is remembered of a lost log.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The log.
    #[error(transparent)]
    Log(#[from] wal::OpenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::OpenError),
}

/// The node's log and store, and what they said when they were opened.
pub(super) struct Storage {
    /// The log.
    pub wal: Wal,
    /// The store.
    pub store: StoreHandle,
    /// Its threads, to be joined last.
    pub threads: StoreThreads,
    /// Replicas that must not go on, and why.
    pub retired: BTreeMap<ReplicaId, String>,
    /// What is known since the log has lost replicas that it can't name, if it ever has.
    pub lost: Option<Lost>,
}

/// The log has lost replicas, and can't say which: it was gone, or is damaged. Remembered for ever, since what those replicas have
/// promised stays unknown.
#[derive(Debug)]
pub(super) struct Lost {
    folder: Arc<dyn Fs>,
    /// Replicas whose state in the log is whole.
    trusted: Vec<ReplicaId>,
    /// Replicas below this were given out before the loss was seen; `None` until the meta state is known.
    bound: Mutex<Option<ReplicaId>>,
}

#[derive(Default, minicbor::Encode, minicbor::Decode)]
struct Marker {
    #[n(0)]
    bound: Option<ReplicaId>,
}

const MARKER: &str = "log-lost";
const MARKER_MAGIC: &[u8; 8] = b"PLAYHDLL";

/// Whether a replica may have lost what it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayHaveLost {
    /// It has not.
    Nothing,
    /// It may have, and must not go on.
    Something,
    /// It can't be told before the meta state is known.
    NotKnownYet,
}

impl Lost {
    /// Remembers which replica ids were given out when the meta state was first seen after the loss. Blocks.
    pub(super) fn see(&self, next_replica: ReplicaId) -> Result<(), RecordError> {
        let mut bound = self.bound.lock();
        if bound.is_none() {
            write_record(&*self.folder, MARKER, MARKER_MAGIC, &Marker { bound: Some(next_replica) })?;
            *bound = Some(next_replica);
        }
        Ok(())
    }

    /// Whether [`Lost::see`] has still to be told.
    pub(super) fn is_new(&self) -> bool {
        self.bound.lock().is_none()
    }

    pub(super) fn of(&self, replica: ReplicaId) -> MayHaveLost {
        if self.trusted.binary_search(&replica).is_ok() {
            return MayHaveLost::Nothing;
        }
        match *self.bound.lock() {
            None => MayHaveLost::NotKnownYet,
            Some(bound) if replica < bound => MayHaveLost::Something,
            Some(_) => MayHaveLost::Nothing,
        }
    }
}

const MIB: u64 = 1 << 20;

/// The bounds of a log of so many MiB. A segment takes entries of up to a quarter of it: even the smallest must take the largest
/// that any leader makes, for an entry that a replica's log can't take stops that replica (node/23).
fn log_config(log_mib: u64) -> wal::Config {
    let segment_bytes = (log_mib * MIB / 16).clamp(8 * MIB, 64 * MIB);
    let usual = wal::Config::default();
    wal::Config {
        segment_bytes,
        // A segment opens with the small state of all replicas, about 1 KiB each, which may fill half of it.
        replicas_max: usual.replicas_max.min(usize::try_from(segment_bytes / 2048).unwrap_or(usize::MAX)),
        move_bytes_max: usual.move_bytes_max.min(segment_bytes / 4),
        ..usual
    }
}

fn open_log(
    fs: Arc<dyn Fs>,
    node: NodeId,
    config: &Config,
    Surroundings { threads, turns, disk, .. }: &Surroundings,
) -> Result<(Wal, wal::Recovery), StorageError> {
    let memory_bytes_max = usize::try_from(config.memory_log_entries_mib * MIB).unwrap_or(usize::MAX);
    let usual = log_config(config.disk_log_mib);
    let (threads, turns) = (threads.clone(), turns.clone());
    let usual = wal::Config { log_id: node.0, memory_bytes_max, threads, turns, ..usual };
    Ok(Wal::open(fs, disk.log(usual))?)
}

/// Opens the log of a node that is not to run, and says whose part of it can be trusted. Blocks: reads the whole log.
pub(super) fn open_log_alone(
    folder: Arc<dyn Fs>,
    node: NodeId,
    config: &Config,
    surroundings: &Surroundings,
) -> Result<(Wal, Vec<ReplicaId>), StorageError> {
    let (wal, recovery) = open_log(folder.folder("log")?, node, config, surroundings)?;
    let trusted = recovery.replicas.into_iter().filter(|replica| !recovery.distrusted.contains(replica)).collect();
    Ok((wal, trusted))
}

/// Opens both. Blocks: reads the whole log.
pub(super) fn open(
    folder: Arc<dyn Fs>,
    node: NodeId,
    is_member: bool,
    config: &Config,
    surroundings: &Surroundings,
) -> Result<Storage, StorageError> {
    let Surroundings { clock, threads, disk, .. } = surroundings;
    let fs = folder.folder("log")?;
    // A node becomes a member while its log is open. Without it nobody knows what its replicas have promised.
    if is_member && fs.list()?.is_empty() {
        tracing::error!("the log of this node is gone: its replicas will be replaced");
        write_record(&*folder, MARKER, MARKER_MAGIC, &Marker::default())?;
    }
    let (wal, recovery) = open_log(fs, node, config, surroundings)?;
    if let Some(torn) = &recovery.torn {
        tracing::info!(?torn, "the end of the log was torn; no promise was made about it");
    }
    let distrusted = |replica: &ReplicaId| (*replica, "its log is damaged".to_string());
    let mut retired: BTreeMap<ReplicaId, String> = recovery.distrusted.iter().map(distrusted).collect();
    let known = checkpoints(&wal, &recovery.replicas);
    let sizes = StoreSizes {
        cache_bytes: config.memory_store_cache_mib * MIB / 2,
        reserve_bytes: config.disk_reserve_mib * MIB,
    };
    let (store, verdicts) = disk.store(sizes, clock.clone(), &known)?;
    for (replica, verdict) in verdicts {
        match verdict {
            Verdict::Retired(why) => drop(retired.insert(replica, why.to_string())),
            Verdict::Unclear(what) => {
                tracing::error!(%replica, what, "a replica can't be made sense of: it isn't served, and not given up");
            }
            Verdict::Sound { .. } => {}
        }
    }
    let (store, ending) = StoreHandle::start(store, Queues::default(), disk.on_store_failed(), threads.clone())?;
    if recovery.strangers_suspect {
        tracing::error!("the log of this node is damaged and may have lost replicas: they will be replaced");
        write_record(&*folder, MARKER, MARKER_MAGIC, &Marker::default())?;
    }
    let found: Option<Marker> = read_record(&*folder, MARKER, MARKER_MAGIC)?;
    let lost = found.map(|found| Lost { folder, trusted: recovery.replicas, bound: Mutex::new(found.bound) });
    Ok(Storage { wal, store, threads: ending, retired, lost })
}

/// The newest checkpoint records of the log, as the store compares them.
fn checkpoints(wal: &Wal, replicas: &[ReplicaId]) -> Vec<CheckpointRecord> {
    let record = |replica: &ReplicaId| {
        let checkpoint = wal.replica_state(*replica)?.checkpoint?;
        Some(CheckpointRecord { replica: *replica, generation: checkpoint.generation, checksum: checkpoint.checksum })
    };
    replicas.iter().filter_map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_log_takes_the_largest_entry() {
        let field = super::super::config::FIELDS.iter().find(|field| field.name == "disk.log_mib").unwrap();
        let least: u64 = field.accepted.split(' ').find_map(|word| word.parse().ok()).unwrap();
        let config = log_config(least);
        let segment_bytes = config.segment_bytes;
        let (wal, _, _) = Wal::open_stepped(Arc::new(crate::fs::LyingFs::new(1)), config).unwrap();
        let groups = crate::raft::GroupConfig::default();
        assert!(wal.payload_bytes_max() >= groups.entry_bytes_max + (64 << 10), "{}", wal.payload_bytes_max());
        assert!(segment_bytes * 16 <= least * MIB, "a budget has room for more than a few segments");
    }
}
