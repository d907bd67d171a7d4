//! What holds while a snapshot takes the place of what was there.

use openraft::storage::RaftStateMachine;

use super::*;
use crate::ambient::SystemClock;
use crate::fs::LyingFs;
use crate::ids::GroupId;
use crate::raft::GroupConfig;
use crate::raft::machine::{Replica, SnapshotData};
use crate::raft::tests::{Tally, wal_config};
use crate::raft::types::log_id;
use crate::store::{MemDisk, MemStore};
use crate::wal::{Progress, Wal};

const REPLICA: ReplicaId = ReplicaId(3);

async fn core() -> Arc<Core<Tally>> {
    let (store, _) = MemStore::open(&MemDisk::new(), Arc::new(SystemClock::new()), &[]);
    let store = StoreHandle::inline(Arc::new(store));
    store.create(REPLICA).await.expect("made");
    Core::new(REPLICA, store, Tally::default(), None, 0, &GroupConfig::default()).0
}

fn missing(core: &Core<Tally>) -> Option<Missing<u64>> {
    core.look(|machine, stamp| machine.missing(stamp, &1).expect("a command"))
}

fn header() -> Header {
    let meta = SnapshotMeta { last_log_id: Some(log_id(1, 7)), ..SnapshotMeta::default() };
    Header { meta, stamp: Stamp::default(), machine: vec![0; 16] }
}

#[tokio::test]
async fn rows_that_are_read_while_a_snapshot_is_installed_are_not_taken_in() {
    let core = core().await;
    let before = core.fetch(missing(&core).expect("nothing is resident")).await.expect("read");
    core.begin_install();
    // The store may have the new rows by now, the machine is still the old one.
    let during = core.fetch(missing(&core).expect("nothing is resident")).await.expect("read");
    core.admit(before);
    core.admit(during);
    assert!(missing(&core).is_some());
    let mut waiting = std::pin::pin!(core.installed());
    assert!(futures::poll!(&mut waiting).is_pending());
    core.replace(Tally::default(), header(), 1);
    waiting.await;
    assert!(!core.is_installing());
    core.admit(core.fetch(missing(&core).expect("nothing is resident")).await.expect("read"));
    assert!(missing(&core).is_none());
}

#[tokio::test]
async fn what_was_cut_off_the_log_is_durable_before_a_snapshot_takes_the_place_of_what_was_there() {
    let core = core().await;
    let (wal, mut engine, _) = Wal::open_stepped(Arc::new(LyingFs::new(1)), wal_config()).expect("the log opens");
    let mut replica = Replica::new(GroupId(1), Arc::clone(&core), wal.clone(), 1000);
    let install = core.store.begin_install(REPLICA).await.expect("begun");
    let data = SnapshotData::Received { install: Mutex::new(install), header: header() };
    let cut = wal.truncate_after(REPLICA, None).expect("queued");
    let meta = header().meta;
    let mut installing = std::pin::pin!(replica.install_snapshot(&meta, data));
    for _ in 0..10 {
        assert!(futures::poll!(&mut installing).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(core.store.header(REPLICA).await.expect("read"), None, "the cut is not durable yet");
    let stop = Arc::new(AtomicBool::new(false));
    let stepping = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Acquire) {
                if !matches!(engine.step(), Ok(Progress::Wrote)) {
                    std::thread::yield_now();
                }
            }
        }
    });
    installing.await.expect("installed");
    cut.await.expect("durable");
    stop.store(true, Ordering::Release);
    stepping.join().expect("no panic");
    assert_eq!(core.applied().borrow().log_id, Some(log_id(1, 7)));
}

#[tokio::test]
async fn nothing_of_a_closed_replica_reaches_the_store() {
    let core = core().await;
    let (wal, _engine, _) = Wal::open_stepped(Arc::new(LyingFs::new(1)), wal_config()).expect("the log opens");
    let mut replica = Replica::new(GroupId(1), Arc::clone(&core), wal, 1000);
    let under_way = replica.try_create_snapshot_builder(false).await.expect("there is no other");
    let mut closing = std::pin::pin!(core.close());
    assert!(futures::poll!(&mut closing).is_pending(), "a checkpoint is under way");
    drop(under_way);
    closing.await;
    assert!(replica.try_create_snapshot_builder(false).await.is_none());
    let install = core.store.begin_install(REPLICA).await.expect("begun");
    let data = SnapshotData::Received { install: Mutex::new(install), header: header() };
    assert!(replica.install_snapshot(&header().meta, data).await.is_err());
    assert_eq!(core.store.header(REPLICA).await.expect("read"), None);
}
