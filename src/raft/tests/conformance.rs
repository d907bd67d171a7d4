//! openraft's own suite for log storages and state machines, over our log and store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::{Tally, no_failure, wal_config};
use crate::ambient::SystemClock;
use crate::fs::LyingFs;
use crate::ids::{GroupId, ReplicaId};
use crate::raft::GroupConfig;
use crate::raft::log_store::LogStore;
use crate::raft::machine::{Core, Replica};
use crate::raft::types::Types;
use crate::store::{MemDisk, MemStore, Queues, StoreHandle, StoreThreads};
use crate::wal::Wal;

#[derive(Default)]
struct Builder {
    built: AtomicU64,
}

impl StoreBuilder<Types, LogStore, Replica<Tally>, (Wal, StoreThreads)> for Builder {
    async fn build(&self) -> Result<((Wal, StoreThreads), LogStore, Replica<Tally>), StorageError<Types>> {
        let number = self.built.fetch_add(1, Ordering::Relaxed);
        let replica = ReplicaId(number + 1);
        let (wal, _) = Wal::open(Arc::new(LyingFs::new(number)), wal_config()).expect("the log opens");
        let (store, _) = MemStore::open(&MemDisk::new(), Arc::new(SystemClock::new()), &[]);
        let (store, threads) = StoreHandle::spawn(Arc::new(store), Queues::default(), no_failure()).expect("threads");
        store.create(replica).await.expect("made");
        let config = GroupConfig::default();
        let (core, _) = Core::new(replica, store, Tally::default(), None, 0, &config);
        // Small reads, so that what needs several of them is seen.
        let log = LogStore::new(wal.clone(), replica, 8, Arc::<Core<Tally>>::clone(&core));
        let state = Replica::new(GroupId(1), core, wal.clone(), 1000);
        Ok(((wal, threads), log, state))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_suite_of_storages_passes() {
    Suite::test_all(Builder::default()).await.expect("the suite passes");
}
