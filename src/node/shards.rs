//! The replicas that run on this node.
//!
//! # Contract
//!
//! What runs here follows from the meta state: every replica that was given to this node and is not dismissed is opened (made,
//! if neither log nor store know it); one that is dismissed is stopped, its log and store are destroyed, and meta is asked
//! to forget it. Nothing else makes or destroys a replica.
//!
//! # Invariants
//!
//! - No replica is opened until one lease has passed since the process began: a restarted follower has forgotten the lease that it
//!   granted (node/9).
//! - A group is initialized only by the founder that meta names, and only while meta has recorded no membership (node/10).
//! - A replica is destroyed only when meta says that it is dismissed.
//! - A replica that log or store call retired is never opened; it is reported, and replaced by whoever leads its group (node/11).
//! - A replica that has stopped by itself is taken out, reported with its reason and opened again after a while. It is retired
//!   only for what its own data has lost, never for what all replicas of its group may meet alike (node/20, `mend`).
//!
//! # Caveats
//!
//! The meta state that a starting node has may be old: it may name replicas that were destroyed since. The log
//! remembers every id that is used up; those are reported as retired, which changes nothing for one that is dismissed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::planted::{self, Bug};
use crate::raft::{
    Broken, Cause, Group, GroupConfig, GroupParts, KnownVersion, Load, MetaMachine, RaftThread, Role, Room, RowsShare,
    ShardMachine, StartError, Switchboard,
};
use crate::store::StoreHandle;
use crate::time::{Clock, MonotonicMs};
use crate::versions::Spoken;
use crate::view::Settings;
use crate::wal::Wal;

use super::gossip::{ReplicaReport, ReplicaRole};
use super::mend::{Mender, Next, RETRY_MS};
use super::meta::{MetaState, Replicated};
use super::storage::{Lost, MayHaveLost};

mod hosted;
mod recover;

use hosted::Handle;
pub use hosted::{Hosted, MetaGroup, ShardGroup};

/// How long a replica's end is waited for, so that others don't wait for it: what was acknowledged is durable already. One that takes
/// longer is looked after later.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How many replicas are opened or destroyed at once.
const OPENING_MAX: usize = 8;

/// A replica that doesn't run, though it should.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its group.
    pub group: GroupId,
    /// Whether it is retired: never to be opened again.
    pub retired: bool,
    /// Why.
    pub why: String,
    /// When it may be tried again.
    retry: MonotonicMs,
}

impl Failed {
    fn report(&self, replica: ReplicaId) -> ReplicaReport {
        let role = if self.retired { ReplicaRole::Retired } else { ReplicaRole::Failed };
        ReplicaReport { why: Some(self.why.clone()), ..ReplicaReport::silent(self.group, replica, role) }
    }
}

#[derive(Clone, Default)]
struct Table {
    open: BTreeMap<GroupId, Vec<Arc<Hosted>>>,
    failed: BTreeMap<ReplicaId, Failed>,
}

/// The most bytes of a reason that is told to other nodes.
const WHY_BYTES_MAX: usize = 300;

fn shortened(why: &str) -> String {
    let end = (0..=WHY_BYTES_MAX.min(why.len())).rev().find(|end| why.is_char_boundary(*end)).unwrap_or(0);
    why[..end].to_string()
}

/// What replicas are made of.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Sizes and times of groups.
    pub config: Arc<GroupConfig>,
    /// Their thread.
    pub thread: RaftThread,
    /// Where frames go to them.
    pub switchboard: Arc<Switchboard>,
    /// The node's log.
    pub wal: Wal,
    /// The node's store.
    pub store: StoreHandle,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How much room the disk has.
    pub room: Arc<Room>,
    /// How much the node does, and what of it first.
    pub load: Arc<Load>,
    /// Memory for unchanged rows, of all shards together, in bytes.
    pub rows_bytes: u64,
    /// The cluster versions that this node speaks.
    pub spoken: Spoken,
    /// What its folder says of its cluster's.
    pub known: Arc<KnownVersion>,
    /// When the process began.
    pub started: MonotonicMs,
    /// For how long the process before it may have owed leaders that it helps nobody else.
    pub owed: Duration,
    /// Replicas that log or store have lost something of, and why.
    pub retired: BTreeMap<ReplicaId, String>,
    /// What is known since the log has lost replicas that it can't name, if it ever has.
    pub(super) lost: Option<Lost>,
}

/// The replicas of this node.
pub struct Shards {
    parts: Parts,
    table: ArcSwap<Table>,
    /// Only one change of the table at a time.
    changing: Mutex<()>,
    mender: Mender,
    /// Replicas that were taken out and haven't ended yet: neither opened again nor destroyed, nor their ids marked as used up.
    ending: Mutex<BTreeMap<ReplicaId, JoinHandle<()>>>,
    stop_max: Duration,
    rows: Arc<RowsShare>,
    /// The thread of the groups is told to run nothing new.
    stopping: std::sync::atomic::AtomicBool,
}

/// Why a replica isn't opened.
enum Distrust<'a> {
    /// It must never be.
    Ever(&'a str),
    /// It can't be told before the meta state is known.
    StillUnknown,
}

/// What the meta state asks of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To be run, with their groups.
    pub run: BTreeMap<ReplicaId, GroupId>,
    /// To be destroyed, with their groups.
    pub destroy: BTreeMap<ReplicaId, GroupId>,
    /// Left behind by a recovery: not to be run, nor destroyed yet.
    pub rest: BTreeMap<ReplicaId, GroupId>,
}

impl Wanted {
    /// What the meta state wants of `node`; before there is one, `first_meta`.
    pub fn of(meta: &MetaState, node: NodeId, first_meta: &[ReplicaId]) -> Self {
        let run: BTreeMap<ReplicaId, GroupId> = meta.hosted_by(node).map(|(group, replica)| (replica, group)).collect();
        let destroy: BTreeMap<ReplicaId, GroupId> =
            meta.dismissed_on(node).map(|(group, replica)| (replica, group)).collect();
        let rest = meta.resting_on(node).map(|(group, replica)| (replica, group)).collect();
        let mut wanted = Self { run, destroy, rest };
        // Before the meta state says anything, the data folder does.
        if meta.cluster.is_none() {
            wanted.run.extend(first_meta.iter().map(|replica| (*replica, GroupId::META)));
        }
        wanted
    }
}

impl Shards {
    /// Nothing runs yet.
    pub fn new(parts: Parts) -> Self {
        let mender = Mender::new(parts.config.election_ms_max);
        Self {
            parts,
            table: ArcSwap::default(),
            changing: Mutex::new(()),
            mender,
            ending: Mutex::default(),
            stop_max: STOP_MAX,
            rows: Arc::default(),
            stopping: false.into(),
        }
    }

    /// Where incoming frames go.
    pub fn switchboard(&self) -> &Arc<Switchboard> {
        &self.parts.switchboard
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let _one = self.changing.lock();
        let mut table = (**self.table.load()).clone();
        change(&mut table);
        let replicas = table.open.values().map(Vec::len).sum::<usize>().max(1) as u64;
        self.rows.set(usize::try_from(self.parts.rows_bytes / replicas).unwrap_or(usize::MAX));
        self.table.store(Arc::new(table));
    }

    /// The running replica of a group that can best answer for it: the one that leads, else the newest that has taken part.
    pub fn get(&self, group: GroupId) -> Option<Arc<Hosted>> {
        let table = self.table.load();
        let replicas = table.open.get(&group)?;
        match replicas.as_slice() {
            [one] => Some(one.clone()),
            many => {
                let member = || many.iter().rev().find(|hosted| hosted.has_members());
                many.iter().find(|hosted| hosted.leads()).or_else(member).or(many.last()).cloned()
            }
        }
    }

    /// Exactly this replica, if it runs.
    pub fn exactly(&self, group: GroupId, replica: ReplicaId) -> Option<Arc<Hosted>> {
        let table = self.table.load();
        table.open.get(&group)?.iter().find(|hosted| hosted.replica == replica).cloned()
    }

    /// All that run.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        self.table.load().open.values().flatten().cloned().collect()
    }

    /// The replicas that are open here.
    pub fn ids(&self) -> BTreeSet<ReplicaId> {
        self.table.load().open.values().flatten().map(|hosted| hosted.replica).collect()
    }

    /// All that lead, with their terms.
    pub fn led(&self) -> Vec<(Arc<Hosted>, u64)> {
        let led = |hosted: Arc<Hosted>| match hosted.leadership() {
            (Role::Leader, term, _) => Some((hosted, term)),
            _ => None,
        };
        self.all().into_iter().filter_map(led).collect()
    }

    /// All that lead and have a quorum, with their terms: what this node tells the others that it leads.
    pub fn led_with_quorum(&self) -> Vec<(Arc<Hosted>, u64)> {
        self.led().into_iter().filter(|(hosted, _)| !hosted.has_lost_quorum()).collect()
    }

    /// Those that should run and don't.
    pub fn failed(&self) -> BTreeMap<ReplicaId, Failed> {
        self.table.load().failed.clone()
    }

    /// Every replica, as the other nodes are told.
    pub fn reports(&self) -> Vec<ReplicaReport> {
        let table = self.table.load();
        let failed = table.failed.iter().map(|(replica, failed)| failed.report(*replica));
        table.open.values().flatten().map(|hosted| hosted.report()).chain(failed).collect()
    }

    /// The replicas of one group, as the other nodes are told.
    pub fn reports_of(&self, group: GroupId) -> Vec<ReplicaReport> {
        let table = self.table.load();
        let failed = table.failed.iter().filter(|(_, failed)| failed.group == group);
        let failed = failed.map(|(replica, failed)| failed.report(*replica));
        table.open.get(&group).into_iter().flatten().map(|hosted| hosted.report()).chain(failed).collect()
    }

    /// Opens what is wanted and doesn't run. `meta` gives the founders that initialize their groups.
    pub async fn open(self: &Arc<Self>, wanted: &Wanted, meta: &MetaState) {
        self.wait_for_leases().await;
        self.see_bound(meta).await;
        self.let_go(wanted);
        let table = self.table.load_full();
        let running: BTreeSet<ReplicaId> = table.open.values().flatten().map(|hosted| hosted.replica).collect();
        let now = self.parts.clock.monotonic();
        let waits = |replica: &ReplicaId| {
            table.failed.get(replica).is_some_and(|f| f.retired || f.retry > now) || self.is_ending(*replica)
        };
        let missing = wanted.run.iter().filter(|(replica, _)| !running.contains(replica) && !waits(replica));
        let opening = missing.map(|(replica, group)| self.open_one(*group, *replica));
        // The futures are collected first: opening runs on the groups' thread, a few at a time.
        let opening: Vec<_> = opening.collect();
        futures::stream::iter(opening).buffer_unordered(OPENING_MAX).collect::<Vec<()>>().await;
    }

    /// What doesn't run and is not to be run any more, nor to be destroyed, is nothing to tell of: an older meta state had it.
    fn let_go(&self, wanted: &Wanted) {
        let is_told = |replica: &ReplicaId| wanted.run.contains_key(replica) || wanted.destroy.contains_key(replica);
        let old: Vec<ReplicaId> = self.table.load().failed.keys().filter(|r| !is_told(r)).copied().collect();
        if !old.is_empty() {
            old.iter().for_each(|replica| self.mender.forget(*replica));
            self.change(|table| table.failed.retain(|replica, _| is_told(replica)));
        }
    }

    /// Takes out whatever has stopped by itself or has lost something since it was opened, by its own store or by the word of those
    /// that led it (`forsworn`).
    pub async fn mend(&self, forsworn: &BTreeSet<ReplicaId>) {
        self.see_ends().await;
        let losses = self.parts.store.losses().borrow().clone();
        let broken = self.all().into_iter().filter_map(|hosted| {
            let mut lost = losses.get(&hosted.replica).cloned();
            if forsworn.contains(&hosted.replica) && leaves_a_quorum(&hosted, forsworn) {
                lost = Some("it lacks what it acknowledged to its leader".to_string());
            }
            let lost = lost.map(|why| Broken { cause: Cause::Lost, why });
            let broken = lost.or_else(|| hosted.broken())?;
            Some((hosted, broken))
        });
        let broken: Vec<_> = broken.collect();
        if self.is_stopping() {
            return;
        }
        let taking_out = broken.into_iter().map(|(hosted, Broken { cause, why })| async move {
            let (group, replica) = (hosted.group, hosted.replica);
            self.remove(group, replica);
            self.end(hosted).await;
            self.not_running(group, replica, cause, &why).await;
        });
        futures::future::join_all(taking_out).await;
    }

    fn is_ending(&self, replica: ReplicaId) -> bool {
        self.ending.lock().contains_key(&replica)
    }

    /// Ends a replica. One that takes too long goes on ending, and keeps nobody else waiting.
    async fn end(&self, hosted: Arc<Hosted>) {
        let (group, replica) = (hosted.group, hosted.replica);
        let mut task = tokio::spawn(async move { hosted.stop().await });
        if tokio::time::timeout(self.stop_max, &mut task).await.is_err() {
            let shard = group.shard().map(|shard| shard.0);
            tracing::error!(%group, shard, %replica, "a replica doesn't end: it is not opened again before it has");
            self.ending.lock().insert(replica, task);
        }
    }

    /// Looks after those that took too long to end.
    async fn see_ends(&self) {
        let has_ended = |replica: &ReplicaId| self.ending.lock().get(replica).is_some_and(JoinHandle::is_finished);
        let ended: Vec<ReplicaId> = self.ending.lock().keys().copied().collect();
        for replica in ended.into_iter().filter(has_ended) {
            tracing::warn!(%replica, "a replica that didn't end has ended after all");
            self.ending.lock().remove(&replica);
            if self.table.load().failed.get(&replica).is_some_and(|failed| failed.retired) {
                self.use_up(replica).await;
            }
        }
    }

    fn remove(&self, group: GroupId, replica: ReplicaId) {
        self.change(|table| {
            table.failed.remove(&replica);
            if let Some(replicas) = table.open.get_mut(&group) {
                replicas.retain(|hosted| hosted.replica != replica);
            }
            table.open.retain(|_, replicas| !replicas.is_empty());
        });
    }

    async fn wait_for_leases(&self) {
        let since = self.parts.clock.monotonic().since(self.parts.started);
        let lease_ms = u64::try_from(self.parts.owed.as_millis()).unwrap_or(u64::MAX);
        if since < lease_ms {
            tokio::time::sleep(Duration::from_millis(lease_ms - since)).await;
        }
    }

    async fn open_one(&self, group: GroupId, replica: ReplicaId) {
        let parts = GroupParts {
            group,
            replica,
            node: self.parts.node,
            config: self.parts.config.clone(),
            thread: self.parts.thread.clone(),
            switchboard: self.parts.switchboard.clone(),
            wal: self.parts.wal.clone(),
            store: self.parts.store.clone(),
            clock: self.parts.clock.clone(),
            room: self.parts.room.clone(),
            known: self.parts.known.clone(),
            load: self.parts.load.clone(),
        };
        if self.is_stopping() {
            return;
        }
        match self.distrust(replica) {
            None => {}
            Some(Distrust::Ever(why)) => return self.not_running(group, replica, Cause::Lost, why).await,
            Some(Distrust::StillUnknown) => return self.waits_for_news(group, replica),
        }
        let started = match group {
            GroupId::META => Group::start(parts, MetaMachine::new(Replicated::default())).await.map(Handle::Meta),
            _ => {
                // Not what meta says now: the log is replayed from its beginning, and settings come through it.
                let (rows, newest, known) = (self.rows.clone(), self.parts.spoken.newest, self.parts.known.clone());
                let machine = ShardMachine::sharing(Settings::default(), rows, newest, known);
                Group::start(parts, machine).await.map(Handle::Shard)
            }
        };
        match started {
            Ok(machine) => {
                let hosted = Arc::new(Hosted::new(group, replica, machine));
                if self.is_stopping() {
                    hosted.stop().await;
                    return;
                }
                self.mender.opened(replica, self.parts.clock.monotonic());
                self.change(|table| {
                    table.failed.remove(&replica);
                    table.open.entry(group).or_default().push(hosted.clone());
                });
                // Votes may be given since it was made.
                hosted.let_stand(!self.parts.switchboard.is_held(group));
            }
            Err(error) => self.not_opened(group, replica, error).await,
        }
    }

    /// Why a replica must not be opened: ever, or before more is known.
    fn distrust(&self, replica: ReplicaId) -> Option<Distrust<'_>> {
        if planted::is(Bug::ReplicaIdReused) {
            return None;
        }
        if let Some(why) = self.parts.retired.get(&replica) {
            return Some(Distrust::Ever(why));
        }
        if self.parts.wal.is_forgotten(replica) {
            return Some(Distrust::Ever("its id is used up"));
        }
        match self.parts.lost.as_ref().map(|lost| lost.of(replica)) {
            None | Some(MayHaveLost::Nothing) => None,
            Some(MayHaveLost::Something) => Some(Distrust::Ever("its log is lost")),
            Some(MayHaveLost::NotKnownYet) => Some(Distrust::StillUnknown),
        }
    }

    /// No failure of the replica, and soon over.
    fn waits_for_news(&self, group: GroupId, replica: ReplicaId) {
        let why = "its log may be lost; the other nodes are asked first".to_string();
        tracing::warn!(%group, %replica, why, "a replica is not opened yet");
        let retry = self.parts.clock.monotonic().plus(RETRY_MS);
        self.change(|table| {
            table.failed.insert(replica, Failed { group, retired: false, why, retry });
        });
    }

    /// After a loss: which replica ids had been given out when the meta state was first seen is kept.
    async fn see_bound(self: &Arc<Self>, meta: &MetaState) {
        let is_new = self.parts.lost.as_ref().is_some_and(Lost::is_new);
        if !is_new || meta.cluster.is_none() {
            return;
        }
        let (shards, next) = (self.clone(), meta.next_replica);
        let see = move || shards.parts.lost.as_ref().map(|lost| lost.see(next));
        let kept = self.parts.store.apart().blocking(see).await;
        if let Ok(Some(Err(error))) = kept {
            tracing::error!(%error, "what the log has lost can't be kept on disk");
        }
    }

    /// Never lets a retired replica's id be used again, whatever the next process finds on disk.
    async fn use_up(&self, replica: ReplicaId) {
        if self.parts.wal.is_forgotten(replica) {
            return;
        }
        let forgotten = match self.parts.wal.forget(replica) {
            Ok(durable) => durable.await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = forgotten {
            tracing::error!(%replica, error, "a retired replica's id can't be marked as used up");
        }
    }

    async fn not_opened(&self, group: GroupId, replica: ReplicaId, error: StartError) {
        match error {
            StartError::Retired { why, .. } => self.not_running(group, replica, Cause::Lost, &why).await,
            StartError::Failed { why, cause, .. } => self.not_running(group, replica, cause, &why).await,
            error @ (StartError::Config(_) | StartError::Running(_)) => {
                self.not_running(group, replica, Cause::Other, &error.to_string()).await;
            }
        }
    }

    /// Notes that a replica which should run doesn't, and what becomes of it.
    async fn not_running(&self, group: GroupId, replica: ReplicaId, cause: Cause, why: &str) {
        let shard = group.shard().map(|shard| shard.0);
        let now = self.parts.clock.monotonic();
        let (retired, retry) = match self.mender.failed(replica, cause, now) {
            Next::Retire => (true, now),
            Next::Again(retry) => (false, retry),
        };
        if retired {
            tracing::error!(%group, shard, %replica, why, "a replica is retired; it will be replaced from its quorum");
        } else {
            let again_ms = retry.since(now);
            tracing::error!(%group, shard, %replica, why, again_ms, "a replica doesn't run; it will be tried again");
        }
        let failed = Failed { group, retired, why: shortened(why), retry };
        self.change(|table| {
            table.failed.insert(replica, failed);
        });
        // Nothing of it may come into the log behind that.
        if retired && !self.is_ending(replica) {
            self.use_up(replica).await;
        }
    }

    /// Initializes the groups whose founder is here and which have no membership yet.
    pub async fn initialize(&self, meta: &MetaState) {
        for (group, record) in &meta.groups {
            let recorded = &record.recorded;
            let (Some(founding), None) = (&recorded.founding, &recorded.membership) else { continue };
            let nodes = |replica: &ReplicaId| recorded.replicas.get(replica).map(|allotted| (*replica, allotted.node));
            let voters: BTreeMap<ReplicaId, NodeId> = founding.voters.iter().filter_map(nodes).collect();
            self.initialize_one(*group, founding.founder, voters).await;
        }
    }

    /// Initializes a group, if its founder runs here and its log is empty.
    pub async fn initialize_one(&self, group: GroupId, founder: ReplicaId, voters: BTreeMap<ReplicaId, NodeId>) {
        let Some(hosted) = self.exactly(group, founder) else { return };
        let status = hosted.status();
        if status.last_log.is_some() || !status.members.nodes.is_empty() {
            return;
        }
        let done = hosted.initialize(voters).await;
        if let Err(error) = done {
            tracing::warn!(%group, shard = group.shard().map(|shard| shard.0), %error, "a group can't be initialized yet");
        }
    }

    /// Stops and destroys what meta has dismissed; answers what is gone, to be forgotten by meta.
    pub async fn destroy(&self, wanted: &Wanted) -> Vec<(GroupId, ReplicaId)> {
        let mut gone = Vec::new();
        for (replica, group) in &wanted.destroy {
            if let Some(hosted) = self.exactly(*group, *replica) {
                self.end(hosted).await;
            }
            self.remove(*group, *replica);
            if self.is_ending(*replica) {
                continue;
            }
            self.mender.forget(*replica);
            match crate::raft::destroy(&self.parts.wal, &self.parts.store, *replica).await {
                Ok(()) => gone.push((*group, *replica)),
                Err(why) => tracing::warn!(%group, %replica, why, "a dismissed replica can't be destroyed yet"),
            }
        }
        gone
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Opens nothing from now on.
    pub fn begin_stop(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Stops all replicas.
    pub async fn stop(&self) {
        self.begin_stop();
        let all = self.all();
        let stopping = all.iter().map(|hosted| async move {
            if tokio::time::timeout(STOP_MAX, hosted.stop()).await.is_err() {
                tracing::warn!(group = %hosted.group, replica = %hosted.replica, "a replica doesn't end; the process does");
            }
        });
        futures::stream::iter(stopping.collect::<Vec<_>>()).buffer_unordered(64).collect::<Vec<()>>().await;
        self.change(|table| *table = Table::default());
    }
}

/// Whether the others that vote are enough without those: whatever is said of more than that, nobody is retired for it.
fn leaves_a_quorum(hosted: &Hosted, forsworn: &BTreeSet<ReplicaId>) -> bool {
    let voters = hosted.status().members.voters;
    let decide = |set: &Vec<ReplicaId>| set.iter().filter(|voter| !forsworn.contains(voter)).count() > set.len() / 2;
    let leaves = voters.iter().all(decide);
    if !leaves {
        let (group, replica) = (hosted.group, hosted.replica);
        tracing::error!(%group, %replica, "most of a group are said to lack what they acknowledged: none is retired for it");
    }
    leaves
}

#[cfg(test)]
mod tests;
