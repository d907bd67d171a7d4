//! What holds while a snapshot takes the place of what was there.

use openraft::storage::RaftStateMachine;

use super::*;
use crate::ambient::SystemClock;
use crate::fs::LyingFs;
use crate::ids::GroupId;
use crate::raft::GroupConfig;
use crate::raft::known::KnownVersion;
use crate::raft::machine::{Replica, ShardMachine, SnapshotData, body};
use crate::raft::tests::{POISON, Tally, wal_config};
use crate::raft::types::{Entry, Payload, log_id};
use crate::store::{MemDisk, MemStore};
use crate::versions::{ClusterVersion, Spoken};
use crate::view::{Command, Envelope, Settings};
use crate::wal::{Engine, Progress, Wal};

const REPLICA: ReplicaId = ReplicaId(3);

async fn core() -> Arc<Core<Tally>> {
    core_of(Tally::default()).await
}

async fn core_of<M: Machine>(machine: M) -> Arc<Core<M>> {
    core_with(machine, &GroupConfig::default()).await
}

async fn core_with<M: Machine>(machine: M, config: &GroupConfig) -> Arc<Core<M>> {
    let (store, _) = MemStore::open(&MemDisk::new(), Arc::new(SystemClock::new()), &[]);
    let store = StoreHandle::inline(Arc::new(store));
    store.create(REPLICA).await.expect("made");
    Core::new(REPLICA, store, machine, None, 0, config).0
}

fn missing(core: &Core<Tally>) -> Option<Missing<u64>> {
    core.look(|machine, stamp| machine.missing(stamp, &1).expect("a command"))
}

fn header() -> Header {
    let meta = SnapshotMeta { last_log_id: Some(log_id(1, 7)), ..SnapshotMeta::default() };
    Header { meta, stamp: Stamp::default(), machine: vec![0; 16] }
}

/// Writes the log on a thread, until told to stop.
fn stepped(mut engine: Engine) -> (Arc<AtomicBool>, std::thread::JoinHandle<()>) {
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
    (stop, stepping)
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
    let (wal, engine, _) = Wal::open_stepped(Arc::new(LyingFs::new(1)), wal_config()).expect("the log opens");
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
    let (stop, stepping) = stepped(engine);
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

const SECOND: ClusterVersion = ClusterVersion(2);

/// A shard on a node whose folder says the first version, and what that node knows.
fn shard() -> (ShardMachine, Arc<KnownVersion>) {
    let known = Arc::new(KnownVersion::new(ClusterVersion::FIRST));
    let newest = Spoken::BUILD.newest;
    (ShardMachine::sharing(Settings::default(), Arc::default(), newest, Arc::clone(&known)), known)
}

fn adopt(machine: &mut ShardMachine) {
    let adopt = Envelope::plain(Command::Adopt(SECOND));
    machine.apply(Stamp::default(), &adopt).expect("applied");
}

#[tokio::test]
async fn a_shard_that_has_adopted_a_version_makes_no_checkpoint_before_the_folder_says_that_version() {
    let (mut machine, known) = shard();
    adopt(&mut machine);
    assert_eq!((known.heard(), known.kept()), (SECOND, ClusterVersion::FIRST), "the node is told");
    let core = core_of(machine).await;
    let (wal, _engine, _) = Wal::open_stepped(Arc::new(LyingFs::new(1)), wal_config()).expect("the log opens");
    let mut replica = Replica::new(GroupId(1), Arc::clone(&core), wal, 1000);
    assert!(replica.try_create_snapshot_builder(false).await.is_none());
    assert!(!core.is_checkpointing());
    known.keep(SECOND);
    assert!(replica.try_create_snapshot_builder(false).await.is_some());
}

#[tokio::test]
async fn no_snapshot_takes_the_place_of_what_was_there_before_the_folder_says_its_version() {
    let (mut sender, _) = shard();
    adopt(&mut sender);
    let machine = ShardMachine::changes(&sender.freeze().expect("nothing is frozen")).header;
    let (machine_here, known) = shard();
    let core = core_of(machine_here).await;
    let (wal, engine, _) = Wal::open_stepped(Arc::new(LyingFs::new(1)), wal_config()).expect("the log opens");
    let (stop, stepping) = stepped(engine);
    let mut replica = Replica::new(GroupId(1), Arc::clone(&core), wal, 1000);
    let install = core.store.begin_install(REPLICA).await.expect("begun");
    let header = Header { machine, ..header() };
    let meta = header.meta.clone();
    let data = SnapshotData::Received { install: Mutex::new(install), header };
    let mut news = known.news();
    {
        let mut installing = std::pin::pin!(replica.install_snapshot(&meta, data));
        tokio::select! {
            installed = &mut installing => panic!("it was not to be written: {installed:?}"),
            _ = news.wait_for(|version| *version == SECOND) => {}
        }
        assert_eq!(core.store.header(REPLICA).await.expect("read"), None);
        known.keep(SECOND);
        installing.await.expect("installed");
    }
    assert!(core.store.header(REPLICA).await.expect("read").is_some());
    stop.store(true, Ordering::Release);
    stepping.join().expect("no panic");
}

/// Every entry is a long one there.
async fn apart() -> Arc<Core<Tally>> {
    core_with(Tally::default(), &GroupConfig { long_entry_bytes: 0, ..GroupConfig::default() }).await
}

/// An entry with these commands.
fn entry(index: u64, commands: &[u64]) -> Entry {
    let count = u32::try_from(commands.len()).expect("few");
    let batch = Batch::new(Stamp::default(), count, body::encode_commands::<Tally>(commands).into());
    Entry { log_id: log_id(1, index), payload: Payload::Normal(batch) }
}

#[tokio::test]
async fn a_long_entry_leaves_the_thread_to_others_and_comes_to_the_same_as_short_ones() {
    let commands: Vec<u64> = (0..1000).collect();
    let long = entry(1, &commands);
    let (apart, here) = (apart().await, core().await);
    let mut answers = Vec::new();
    for (index, some) in (1..).zip(commands.chunks(100)) {
        let applied = here.apply(entry(index, some)).await.expect("applied");
        answers.extend(applied.take::<(u64, u64)>().expect("answers"));
    }
    // Who holds up what applies it holds up nothing else: were it applied here, this would never go on.
    let ((held, is_held), (let_go, may_go)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let looked_at = Arc::clone(&apart);
    let looking = std::thread::spawn(move || {
        let _inner = looked_at.inner.read();
        held.send(()).expect("somebody waits");
        let _ = may_go.recv();
    });
    is_held.recv().expect("it looks");
    let mut applying = std::pin::pin!(apart.apply(long));
    for _ in 0..10 {
        assert!(futures::poll!(&mut applying).is_pending());
        tokio::task::yield_now().await;
    }
    drop(let_go);
    assert_eq!(applying.await.expect("applied").take::<(u64, u64)>(), Some(answers));
    looking.join().expect("no panic");
    let applied = |core: &Core<Tally>| core.look(|machine, _| machine.applied.clone());
    assert_eq!(applied(&apart), applied(&here));
    assert_eq!(apart.applied().borrow().log_id, Some(log_id(1, 1)));
}

#[tokio::test]
async fn a_long_entry_that_cannot_be_applied_stops_the_replica() {
    let core = apart().await;
    let mut commands: Vec<u64> = (0..100).collect();
    commands.push(POISON);
    assert!(matches!(core.apply(entry(1, &commands)).await, Err(ApplyError::Stop(Stop(why))) if why == "poison"));
    let mut cut = entry(2, &commands);
    let Payload::Normal(batch) = &mut cut.payload else { panic!("commands") };
    batch.count -= 1;
    assert!(matches!(core.apply(cut).await, Err(ApplyError::Stop(_))));
    assert_eq!(core.applied().borrow().log_id, None);
    assert_eq!(core.broken().map(|broken| broken.cause), Some(Cause::Other));
}
