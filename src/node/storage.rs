//! Opening the log and the store of a data folder, with distrust.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::fs::DiskFs;
use crate::ids::{Generation, NodeId, ReplicaId};
use crate::store::{self, CheckpointRecord, DiskStore, Queues, StoreHandle, StoreThreads, Verdict};
use crate::time::Clock;
use crate::wal::{self, Wal};

use super::config::Config;

/// Why the node's data can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The folder.
    #[error("the folder of the log: {0}")]
    Folder(#[from] std::io::Error),
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
    /// The log may have lost replicas that it can't name: only those in this list are known to be whole, when it is there.
    pub only_trusted: Option<Vec<ReplicaId>>,
}

const MIB: u64 = 1 << 20;

/// Opens both. Blocks: reads the whole log.
pub(super) fn open(
    folder: &Path,
    node: NodeId,
    generation: Generation,
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<Storage, StorageError> {
    // A node that has run before had a log. Without it nobody knows what its replicas have promised.
    let log_is_lost = generation.0 > 1 && !folder.join("log").exists();
    if log_is_lost {
        tracing::error!("the node has run before and its log is gone: its replicas will be replaced");
    }
    let fs = Arc::new(DiskFs::open(folder.join("log"))?);
    let segment_bytes = (config.disk_log_mib * MIB / 16).clamp(MIB, 64 * MIB);
    let wal_config = wal::Config {
        log_id: node.0,
        segment_bytes,
        memory_bytes_max: usize::try_from(config.memory_log_entries_mib * MIB).unwrap_or(usize::MAX),
        ..wal::Config::default()
    };
    let (wal, recovery) = Wal::open(fs, wal_config)?;
    if let Some(torn) = &recovery.torn {
        tracing::info!(?torn, "the end of the log was torn; no promise was made about it");
    }
    let distrusted = |replica: &ReplicaId| (*replica, "its log is damaged".to_string());
    let mut retired: BTreeMap<ReplicaId, String> = recovery.distrusted.iter().map(distrusted).collect();
    let known = checkpoints(&wal, &recovery.replicas);
    let options = store::Options {
        live_cache_bytes: config.memory_store_cache_mib * MIB / 2,
        archive_cache_bytes: config.memory_store_cache_mib * MIB / 2,
        reserve_bytes: config.disk_reserve_mib * MIB,
        ..store::Options::new(folder.join("store"))
    };
    let opened = DiskStore::open(options, clock, &known)?;
    for (replica, verdict) in opened.verdicts {
        if let Verdict::Retired(why) = verdict {
            retired.insert(replica, why.to_string());
        }
    }
    let (store, threads) = StoreHandle::spawn(Arc::new(opened.store), Queues::default())?;
    let only_trusted = (recovery.strangers_suspect || log_is_lost).then_some(recovery.replicas);
    Ok(Storage { wal, store, threads, retired, only_trusted })
}

/// The newest checkpoint records of the log, as the store compares them.
fn checkpoints(wal: &Wal, replicas: &[ReplicaId]) -> Vec<CheckpointRecord> {
    let record = |replica: &ReplicaId| {
        let checkpoint = wal.replica_state(*replica)?.checkpoint?;
        Some(CheckpointRecord { replica: *replica, generation: checkpoint.generation, checksum: checkpoint.checksum })
    };
    replicas.iter().filter_map(record).collect()
}
