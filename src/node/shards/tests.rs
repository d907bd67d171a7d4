//! What becomes of a replica that runs and fails, over a log and a store that lose what was not synced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::ambient::SystemClock;
use crate::fs::LyingFs;
use crate::ids::{AccountId, DeviceId, ProfileId, RequestId, ShardId, TitleId, ViewId};
use crate::node::log_budget::LogBudget;
use crate::raft::{KnownVersion, Load, MemoryNet};
use crate::store::{Fault, MemDisk, MemStore, Queues};
use crate::time::WallMs;
use crate::versions::Spoken;
use crate::view::{AccountCommand, Envelope, Media, OnLimit, StartView, TitleType, ViewKind};
use crate::wal;

const REPLICA: ReplicaId = ReplicaId(5);
const NODE: NodeId = NodeId(1);

/// The machine's clock, that a test puts forward.
#[derive(Debug)]
struct Ahead(SystemClock, AtomicU64);

impl Clock for Ahead {
    fn monotonic(&self) -> MonotonicMs {
        self.0.monotonic().plus(self.1.load(Ordering::Acquire))
    }

    fn wall(&self) -> WallMs {
        self.0.wall().plus(self.1.load(Ordering::Acquire))
    }
}

/// A node with one shard of one replica.
struct Rig {
    shards: Arc<Shards>,
    clock: Arc<Ahead>,
    disk: MemDisk,
    fs: LyingFs,
}

fn group() -> GroupId {
    GroupId::from(ShardId(0))
}

fn wanted() -> Wanted {
    Wanted { run: BTreeMap::from([(REPLICA, group())]), ..Wanted::default() }
}

fn log_config(segment_bytes: u64, replicas_max: usize) -> wal::Config {
    let move_bytes_max = segment_bytes / 16;
    wal::Config { segment_bytes, replicas_max, move_bytes_max, on_fatal: Arc::new(|_| {}), ..wal::Config::default() }
}

impl Rig {
    fn new(fs: LyingFs, disk: MemDisk) -> Self {
        Self::over(fs, disk, log_config(4 << 20, 64))
    }

    fn over(fs: LyingFs, disk: MemDisk, log: wal::Config) -> Self {
        let clock = Arc::new(Ahead(SystemClock::new(), AtomicU64::new(0)));
        let (wal, _) = Wal::open(Arc::new(fs.clone()), log).unwrap();
        let (store, _) = MemStore::open(&disk, clock.clone(), &[]);
        // A store that fails ends nothing here: the replica is to be seen.
        let (store, _) = StoreHandle::spawn(Arc::new(store), Queues::default(), Arc::new(|_| {})).unwrap();
        let net = MemoryNet::default();
        let switchboard = Switchboard::new(net.link(NODE));
        net.connect(NODE, &switchboard);
        let times =
            GroupConfig { heartbeat_ms: 20, election_ms_min: 100, election_ms_max: 200, ..GroupConfig::default() };
        let shards = Arc::new(Shards::new(Parts {
            node: NODE,
            config: Arc::new(times),
            thread: RaftThread::spawn("groups", Duration::from_millis(20)).unwrap(),
            switchboard,
            wal,
            store,
            clock: clock.clone(),
            room: Arc::default(),
            load: Arc::new(Load::new((0, 0), clock.clone(), Default::default())),
            rows_bytes: 16 << 20,
            spoken: Spoken::BUILD,
            known: Arc::new(KnownVersion::new(Spoken::BUILD.newest)),
            started: clock.monotonic(),
            owed: Duration::from_millis(200),
            retired: BTreeMap::new(),
            lost: None,
        }));
        Self { shards, clock, disk, fs }
    }

    async fn open(&self) {
        self.shards.open(&wanted(), &MetaState::default()).await;
    }

    async fn open_first(&self) {
        self.open().await;
        self.shards.initialize_one(group(), REPLICA, BTreeMap::from([(REPLICA, NODE)])).await;
        self.leads().await;
    }

    async fn leads(&self) {
        let leads = async {
            while !self.shards.exactly(group(), REPLICA).is_some_and(|hosted| hosted.leads()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), leads).await.expect("it leads");
    }

    async fn mended(&self) -> Failed {
        let mended = async {
            loop {
                self.shards.mend(&BTreeSet::new()).await;
                if let Some(failed) = self.shards.failed().remove(&REPLICA) {
                    return failed;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), mended).await.expect("it is taken out")
    }

    async fn end(self) -> (LyingFs, MemDisk) {
        self.shards.stop().await;
        let (thread, wal) = (self.shards.parts.thread.clone(), self.shards.parts.wal.clone());
        let end = move || {
            thread.end();
            wal.close();
        };
        tokio::task::spawn_blocking(end).await.unwrap();
        (self.fs, self.disk)
    }
}

#[test]
fn a_reason_is_told_in_bounded_bytes_and_whole_characters() {
    assert_eq!(shortened("short"), "short");
    let long = shortened(&"ä€".repeat(200));
    assert!(long.len() <= WHY_BYTES_MAX && long.len() > WHY_BYTES_MAX - 4, "{}", long.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_meta_state_wanted_is_not_told_of_as_failed_for_ever() {
    let rig = Rig::new(LyingFs::new(1), MemDisk::new());
    rig.shards.parts.wal.forget(REPLICA).unwrap().await.unwrap();
    rig.open().await;
    assert!(rig.shards.failed()[&REPLICA].retired, "its id is used up");
    let destroyed = Wanted { destroy: wanted().run, ..Wanted::default() };
    rig.shards.open(&destroyed, &MetaState::default()).await;
    assert!(rig.shards.failed().contains_key(&REPLICA), "meta has yet to hear of its end");
    rig.shards.open(&Wanted::default(), &MetaState::default()).await;
    assert!(rig.shards.failed().is_empty() && rig.shards.reports().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_rows_are_found_rotten_while_it_runs_is_retired_for_ever() {
    let rig = Rig::new(LyingFs::new(1), MemDisk::new());
    rig.open_first().await;
    rig.disk.rot(REPLICA);
    rig.shards.mend(&BTreeSet::new()).await;
    assert!(rig.shards.failed().is_empty(), "nobody has met it yet");
    // Whoever meets it: here nobody that belongs to the replica.
    let mut losses = rig.shards.parts.store.losses();
    assert!(rig.shards.parts.store.get(REPLICA, vec![vec![1]]).await.is_err());
    losses.changed().await.expect("it is told");
    rig.shards.mend(&BTreeSet::new()).await;
    let failed = rig.shards.failed().remove(&REPLICA).expect("it is taken out at once");
    assert!(failed.retired, "{failed:?}");
    assert!(rig.shards.exactly(group(), REPLICA).is_none());
    assert_eq!(rig.shards.reports_of(group())[0].role, ReplicaRole::Retired);
    rig.clock.1.fetch_add(1_000_000, Ordering::AcqRel);
    rig.open().await;
    assert!(rig.shards.exactly(group(), REPLICA).is_none());
    // The next process finds a store in which everything looks well.
    let (fs, _) = rig.end().await;
    fs.crash();
    let rig = Rig::new(fs, MemDisk::new());
    rig.open().await;
    assert!(rig.shards.failed()[&REPLICA].retired);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_which_another_node_says_that_it_lacks_what_it_acknowledged_is_retired_for_ever() {
    let rig = Rig::new(LyingFs::new(4), MemDisk::new());
    rig.open().await;
    let others = [1, 2].map(|n| (ReplicaId(REPLICA.0 + n), NodeId(NODE.0 + n)));
    let voters = BTreeMap::from_iter([(REPLICA, NODE)].into_iter().chain(others));
    rig.shards.initialize_one(group(), REPLICA, voters).await;
    let knows = || rig.shards.exactly(group(), REPLICA).unwrap().status().members.voters.concat().len() == 3;
    let known = async {
        while !knows() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), known).await.expect("it knows its members");
    rig.shards.mend(&BTreeSet::from([others[0].0])).await;
    assert!(rig.shards.failed().is_empty(), "it was another");
    rig.shards.mend(&BTreeSet::from([others[0].0, REPLICA])).await;
    assert!(rig.shards.failed().is_empty(), "no quorum would be left");
    rig.shards.mend(&BTreeSet::from([REPLICA])).await;
    assert!(rig.shards.failed()[&REPLICA].retired);
    let (fs, disk) = rig.end().await;
    fs.crash();
    let rig = Rig::new(fs, disk);
    rig.open().await;
    assert!(rig.shards.failed()[&REPLICA].retired, "its id is used up");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_by_itself_is_opened_again_after_a_while_with_all_that_it_had() {
    let rig = Rig::new(LyingFs::new(2), MemDisk::new());
    rig.open_first().await;
    let hosted = rig.shards.exactly(group(), REPLICA).unwrap();
    let ended = hosted.shard().unwrap().propose(vec![start(1, 1)], Duration::from_secs(30)).await;
    assert!(matches!(ended[0], crate::raft::Outcome::Committed(_)), "{ended:?}");
    let before = hosted.status();
    rig.disk.fail_next(Fault::Refused);
    assert!(hosted.shard().unwrap().checkpoint_now().await.is_err());
    let failed = rig.mended().await;
    assert!(!failed.retired && failed.why.contains("checkpoint"), "{failed:?}");
    let told = rig.shards.reports_of(group()).remove(0);
    assert!(told.role == ReplicaRole::Failed && told.why.as_ref() == Some(&failed.why), "{told:?}");
    rig.open().await;
    assert!(rig.shards.exactly(group(), REPLICA).is_none(), "not before it may");
    rig.clock.1.fetch_add(RETRY_MS, Ordering::AcqRel);
    rig.open().await;
    assert!(rig.shards.failed().is_empty());
    rig.leads().await;
    let after = rig.shards.exactly(group(), REPLICA).unwrap();
    assert_eq!(after.status().members.voters, before.members.voters);
    assert!(after.status().term > before.term, "no lead without an election");
    assert_eq!(after.shard().unwrap().peek(|state| state.counts().active_views), 1);
    after.shard().unwrap().checkpoint_now().await.expect("the store is well again");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_end_keeps_nobody_waiting_and_is_not_destroyed_before_it_has_ended() {
    let mut rig = Rig::new(LyingFs::new(5), MemDisk::new());
    Arc::get_mut(&mut rig.shards).unwrap().stop_max = Duration::from_millis(50);
    rig.open_first().await;
    rig.disk.rot(REPLICA);
    let mut losses = rig.shards.parts.store.losses();
    assert!(rig.shards.parts.store.get(REPLICA, vec![vec![1]]).await.is_err());
    losses.changed().await.expect("it is told");

    // Nothing on the groups' thread goes on.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (begun, holds) = tokio::sync::oneshot::channel();
    rig.shards.parts.thread.handle().spawn(async move {
        let _ = begun.send(());
        let _ = held.recv();
    });
    holds.await.unwrap();
    let patience = Duration::from_secs(30);
    let none = BTreeSet::new();
    tokio::time::timeout(patience, rig.shards.mend(&none)).await.expect("nobody waits for it");
    assert!(rig.shards.failed()[&REPLICA].retired);
    assert!(!rig.shards.parts.wal.is_forgotten(REPLICA), "it may still write");
    let dismissed = Wanted { destroy: BTreeMap::from([(REPLICA, group())]), ..Wanted::default() };
    assert!(rig.shards.destroy(&dismissed).await.is_empty());

    drop(release);
    let gone = async {
        loop {
            rig.shards.mend(&none).await;
            let gone = rig.shards.destroy(&dismissed).await;
            if !gone.is_empty() {
                return gone;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(tokio::time::timeout(patience, gone).await.expect("it is destroyed"), [(group(), REPLICA)]);
    assert!(rig.shards.parts.wal.is_forgotten(REPLICA));
    rig.end().await;
}

fn start(account: u64, view: u64) -> Envelope {
    let command = StartView {
        view: ViewId::new(format!("view-{view}")).unwrap(),
        profile: ProfileId::new("p").unwrap(),
        device: DeviceId::new("d").unwrap(),
        media: Media {
            title: TitleId::new("t".repeat(500)).unwrap(),
            title_type: TitleType::Film,
            duration_ms: None,
            credits_ms: None,
        },
        kind: ViewKind::Full,
        position_ms: None,
        on_limit: OnLimit::Reject,
    };
    let account = AccountId::new(format!("account-{account}")).unwrap();
    let request = RequestId::new(format!("start-{view}")).unwrap();
    Envelope::request(request, account, AccountCommand::StartView(command))
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_shards_do_not_hold_back_the_log_beyond_its_budget() {
    const SHARDS: u64 = 4;
    const BUDGET: u64 = 1 << 20;
    let rig = Rig::over(LyingFs::new(3), MemDisk::new(), log_config(BUDGET / 16, 16));
    let replica = |shard: u64| ReplicaId(10 + shard);
    let group = |shard: u64| GroupId::from(ShardId(u32::try_from(shard).unwrap()));
    let run = (0..SHARDS).map(|shard| (replica(shard), group(shard))).collect();
    rig.shards.open(&Wanted { run, ..Wanted::default() }, &MetaState::default()).await;
    let mut views = 0;
    let mut write = async |shard: u64, commands: u64| {
        let hosted = rig.shards.exactly(group(shard), replica(shard)).unwrap();
        while !hosted.leads() {
            hosted.stand(Duration::ZERO, Duration::from_millis(100)).await;
        }
        for _ in 0..commands / 20 {
            let batch: Vec<_> = (0..20).map(|n| start(shard, views + n)).collect();
            views += 20;
            let ended = hosted.shard().unwrap().propose(batch, Duration::from_secs(30)).await;
            assert!(ended.iter().all(|outcome| matches!(outcome, crate::raft::Outcome::Committed(_))));
        }
    };
    for shard in 0..SHARDS {
        let voters = BTreeMap::from([(replica(shard), NODE)]);
        rig.shards.initialize_one(group(shard), replica(shard), voters).await;
        // More than is moved out of the way of a segment.
        write(shard, 100).await;
    }
    let wal = &rig.shards.parts.wal;
    let mut budget = LogBudget::new(BUDGET);
    let (mut asked, mut most) = (0, 0);
    for _ in 0..20 {
        write(0, 300).await;
        most = most.max(wal.stats().log_bytes);
        let within = async {
            while wal.stats().log_bytes > BUDGET * 3 / 4 {
                rig.clock.1.fetch_add(1000, Ordering::AcqRel);
                asked += budget.look(wal, &rig.shards, rig.clock.monotonic());
                tokio::time::sleep(Duration::from_millis(10)).await;
                // What is no longer needed is found out with the next write.
                write(0, 20).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), within).await.expect("the log comes back into its budget");
    }
    assert!(asked > 0 && most < 2 * BUDGET, "{asked} were asked, the log had {most} bytes");
    assert!(wal.stats().bytes_written > 3 * BUDGET, "{:?}", wal.stats());
    rig.end().await;
}
