//! Pulses: what each node tells the others several times a second.
//!
//! A *pulse* says that the node is there, where it listens, which epoch it has applied, and what it leads. A *report*, once a
//! second, says how each of its replicas is. Both are hearsay for routing, planning and people: nothing's safety rests on
//! them. A pulse is sent only while the thread of the node's groups answers, so that a node that hangs falls silent.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::health::{self, Change, Health, Liveness};
use crate::ids::{Epoch, Generation, GroupId, NodeId, ReplicaId, ShardId};
use crate::time::{Clock, MonotonicMs, WallMs};
use crate::versions::{ClusterVersion, Spoken};

use super::hints::HintsStatus;
use super::leaders::Leaders;
use super::link::{Book, Endpoints, Peer};

/// How often it is looked who has fallen silent, milliseconds.
pub(super) const LOOK_MS: u64 = 20;

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Gossip {
    /// It is there.
    #[n(0)]
    Pulse(#[n(0)] Pulse),
    /// How its replicas are.
    #[n(1)]
    Report(#[n(0)] Report),
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Pulse {
    /// The placement that it has applied.
    #[n(0)]
    pub epoch: Epoch,
    /// Where it listens.
    #[n(1)]
    pub endpoints: Endpoints,
    /// What it leads: group, term, replica. `None`: as it said before.
    #[n(2)]
    pub led: Option<Vec<(GroupId, u64, ReplicaId)>>,
    /// The cluster versions that it speaks; `None`: only the first, as builds of before say.
    #[n(3)]
    pub spoken: Option<Spoken>,
    /// Whether it wants more.
    #[cbor(n(4), default)]
    pub leads: Leads,
}

/// Whether a node wants leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Leads {
    /// It takes its share.
    #[n(0)]
    #[default]
    Takes,
    /// An operator wants it to be without: only where nobody else can lead.
    #[n(1)]
    Held,
    /// It is about to stop: none at all.
    #[n(2)]
    Leaving,
}

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum ReplicaRole {
    /// It leads.
    #[n(0)]
    Leader,
    /// It votes and follows.
    #[n(1)]
    Follower,
    /// It asks for votes.
    #[n(2)]
    Candidate,
    /// It has no vote.
    #[n(3)]
    Learner,
    /// It has stopped by itself.
    #[n(4)]
    Stopped,
    /// It could not be opened, and is tried again.
    #[n(5)]
    Failed,
    /// It is retired: it must not vote again and waits to be replaced.
    #[n(6)]
    Retired,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ReplicaReport {
    /// Its group.
    #[n(0)]
    pub group: GroupId,
    /// Which.
    #[n(1)]
    pub replica: ReplicaId,
    /// Its role.
    #[n(2)]
    pub role: ReplicaRole,
    /// Its term.
    #[n(3)]
    pub term: u64,
    /// The index of its last entry.
    #[n(4)]
    pub last_log: u64,
    /// The index of the last entry in its state.
    #[n(5)]
    pub applied: u64,
    /// The index that its newest checkpoint holds.
    #[n(6)]
    pub checkpointed: u64,
    /// Bytes of log since that checkpoint.
    #[n(7)]
    pub log_bytes: u64,
    /// Commands in its state.
    #[n(8)]
    pub revision: u64,
    /// Whether it votes, by its own log.
    #[n(9)]
    pub voter: bool,
    /// Active views in its state.
    #[n(10)]
    pub active_views: u64,
    /// The number of its newest checkpoint.
    #[cbor(n(11), default)]
    pub checkpoint_generation: u64,
    /// Its state's digest after the last applied entry and after some before it: index and digest, the newest first.
    #[cbor(n(12), default)]
    pub digests: Vec<(u64, u64)>,
    /// Why it doesn't run, if it should.
    #[n(13)]
    pub why: Option<String>,
    /// The cluster version that its state has adopted; `None`: the first, or it is none of a shard.
    #[n(16)]
    pub adopted: Option<ClusterVersion>,
    /// It leads, and no quorum has answered it for so long that it counts as a leader no more.
    #[cbor(n(14), default)]
    pub cut_off: bool,
    /// Replicas of the group that lack what they had acknowledged to it: they are being replaced.
    #[cbor(n(17), default)]
    pub forsworn: Vec<ReplicaId>,
}

impl ReplicaReport {
    /// One that doesn't run.
    pub(super) fn silent(group: GroupId, replica: ReplicaId, role: ReplicaRole) -> Self {
        let (term, last_log, applied, checkpointed, log_bytes, revision, active_views) = (0, 0, 0, 0, 0, 0, 0);
        let (voter, checkpoint_generation, digests, cut_off) = (false, 0, Vec::new(), false);
        Self {
            group,
            replica,
            role,
            term,
            last_log,
            applied,
            checkpointed,
            log_bytes,
            revision,
            voter,
            active_views,
            checkpoint_generation,
            digests,
            why: None,
            adopted: None,
            cut_off,
            forsworn: Vec::new(),
        }
    }
}

/// What a shard costs its leader, as the leader's node tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ShardHeat {
    /// Which shard.
    #[n(0)]
    pub shard: ShardId,
    /// Thousandths of a plain request a second, averaged; see [`crate::plan::balance::Heat`].
    #[n(1)]
    pub cost: u64,
    /// For how long it has been led and measured there, milliseconds.
    #[n(2)]
    pub measured_ms: u64,
}

/// All replicas of a node, and the node in a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Report {
    /// Its replicas.
    #[n(0)]
    pub replicas: Vec<ReplicaReport>,
    /// When its process began, by its own calendar.
    #[n(1)]
    pub started: WallMs,
    /// The version of its program.
    #[n(2)]
    pub version: String,
    /// Bytes of its log on disk.
    #[n(3)]
    pub log_bytes: u64,
    /// Bytes of its store on disk.
    #[n(4)]
    pub store_bytes: u64,
    /// Commands that it has acknowledged since it started.
    #[n(5)]
    pub acknowledged: u64,
    /// Whether its reserve of disk space is touched, so that what adds data is refused.
    #[cbor(n(6), default)]
    pub disk_full: bool,
    /// Half of the commands that came in at it in the last 10 s ended within this time, microseconds.
    #[cbor(n(7), default)]
    pub p50_us: u64,
    /// 99 of 100 of them ended within this time, microseconds.
    #[cbor(n(8), default)]
    pub p99_us: u64,
    /// Of the commands that it has acknowledged, how many were progress reports.
    #[cbor(n(9), default)]
    pub reports: u64,
    /// What it has accepted and not yet handed off.
    #[cbor(n(10), default)]
    pub hints: HintsStatus,
    /// Bytes of snapshots that it has received since it started; `None`: it doesn't tell, as under cluster versions that know no nodes
    /// that come and go.
    #[n(11)]
    pub snapshot_bytes_received: Option<u64>,
    /// Nodes that it hears, so that none is taken for dead whom only another has lost sight of; `None`: it doesn't tell, as above.
    #[n(12)]
    pub hears: Option<Vec<NodeId>>,
    /// What the shards cost that it leads; `None`: it doesn't tell, as under cluster versions that balance by number alone.
    #[n(13)]
    pub heat: Option<Vec<ShardHeat>>,
}

impl Report {
    /// Whether no replica of a shard is left there.
    pub fn holds_no_shard(&self) -> bool {
        self.replicas.iter().all(|replica| replica.group == GroupId::META)
    }
}

/// What was heard of a node.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When its last pulse came.
    pub at: WallMs,
    /// Which of its processes that was.
    pub generation: Generation,
    /// The epoch in it.
    pub epoch: Epoch,
    /// The cluster versions that it speaks.
    pub spoken: Spoken,
    /// Whether it wants leads.
    pub leads: Leads,
    /// Its last report, and when it came.
    pub report: Option<(WallMs, Report)>,
    /// When that was by this process's stopwatch.
    pub reported: MonotonicMs,
}

/// What this node has heard of the others.
#[derive(Debug)]
pub struct Ear {
    health: Mutex<Health>,
    /// Nodes that are listened for, and don't count where a majority is asked for: they are given up.
    given_up: RwLock<BTreeSet<NodeId>>,
    heard: RwLock<BTreeMap<NodeId, Heard>>,
    /// Counts changes of liveness.
    changes: watch::Sender<u64>,
}

impl Ear {
    /// Nothing heard yet. A node that sends the frequent pulses is suspect after `suspect_ms` of silence, another after four of the
    /// others; dead after fifty of these, but not within moments.
    pub fn new(pulse_ms: u64, suspect_ms: u64) -> Self {
        let suspect_seldom_after_ms = (4 * pulse_ms).max(300).max(suspect_ms);
        let limits = health::Limits {
            suspect_after_ms: suspect_ms,
            suspect_seldom_after_ms,
            dead_after_ms: (50 * pulse_ms).max(3000).max(2 * suspect_seldom_after_ms),
            tick_ms_max: 2 * LOOK_MS,
        };
        let (health, heard, changes) = (Mutex::new(Health::new(limits)), RwLock::default(), watch::Sender::new(0));
        Self { health, given_up: RwLock::default(), heard, changes }
    }

    fn told(&self, changes: usize) {
        if changes > 0 {
            self.changes.send_modify(|count| *count += changes as u64);
        }
    }

    /// Takes in one of a node's frequent pulses.
    pub fn hear_often(&self, from: Peer, now: MonotonicMs) -> Option<Change> {
        let change = self.health.lock().frequent_pulse(from.node, from.generation, now);
        self.told(change.iter().len());
        change
    }

    /// Takes in that nothing listens any more where the node did.
    pub fn gone(&self, node: NodeId, now: MonotonicMs) -> Option<Change> {
        let change = self.health.lock().gone(node, now);
        self.told(change.iter().len());
        change
    }

    /// Wakes whenever a node's liveness changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The newest process of a node that has pulsed.
    pub fn generation(&self, node: NodeId) -> Option<Generation> {
        self.health.lock().generation(node)
    }

    /// Whether the node is listened for and is silent.
    pub fn is_silent(&self, node: NodeId) -> bool {
        self.liveness(node).is_some_and(|liveness| liveness != Liveness::Alive)
    }

    /// Waits until the node is silent.
    pub async fn until_silent(&self, node: NodeId) {
        let mut changes = self.changes.subscribe();
        while !self.is_silent(node) && changes.changed().await.is_ok() {}
    }

    /// Whether this node hears so few that they and it are no majority of all: nothing can be decided here.
    pub fn is_isolated(&self) -> bool {
        let (health, given_up) = (self.health.lock(), self.given_up.read());
        let (all, alive) = health
            .iter()
            .filter(|(node, _)| !given_up.contains(node))
            .fold((1, 1), |(all, alive), (_, liveness)| (all + 1, alive + usize::from(liveness == Liveness::Alive)));
        2 * alive <= all
    }

    /// Waits until this node [is isolated](Self::is_isolated).
    pub async fn until_isolated(&self) {
        let mut changes = self.changes.subscribe();
        while !self.is_isolated() && changes.changed().await.is_ok() {}
    }

    /// These nodes are in no group any more: no majority needs them.
    pub fn give_up(&self, nodes: BTreeSet<NodeId>) {
        if *self.given_up.read() != nodes {
            *self.given_up.write() = nodes;
        }
    }

    /// Listens for these nodes only.
    pub fn keep(&self, nodes: impl Iterator<Item = NodeId>, now: MonotonicMs) {
        let nodes: std::collections::BTreeSet<NodeId> = nodes.collect();
        let mut health = self.health.lock();
        let gone: Vec<NodeId> = health.iter().map(|(node, _)| node).filter(|node| !nodes.contains(node)).collect();
        gone.into_iter().for_each(|node| health.forget(node));
        nodes.into_iter().for_each(|node| health.watch(node, now));
    }

    /// Takes in what a node says.
    pub fn hear(
        &self,
        from: Peer,
        gossip: Gossip,
        book: &Book,
        leaders: &Leaders,
        clock: &dyn Clock,
    ) -> Option<Change> {
        let wall = clock.wall();
        match gossip {
            Gossip::Pulse(pulse) => {
                book.learn(from.node, from.generation, &pulse.endpoints);
                let mut heard = self.heard.write();
                let Pulse { epoch, leads, spoken, .. } = pulse;
                let (spoken, generation) = (spoken.unwrap_or(Spoken::FIRST), from.generation);
                let (report, reported) = (None, MonotonicMs(0));
                let fresh = Heard { at: wall, generation, epoch, spoken, leads, report, reported };
                let known = heard.entry(from.node).or_insert(fresh);
                if known.generation < generation {
                    // What the process before it said of its replicas is not how they are now.
                    known.report = None;
                }
                known.generation = known.generation.max(generation);
                (known.at, known.epoch, known.spoken, known.leads) = (wall, epoch, spoken, leads);
                drop(heard);
                if let Some(led) = pulse.led {
                    leaders.hear(from.node, led);
                }
                let change = self.health.lock().pulse(from.node, from.generation, clock.monotonic());
                self.told(change.iter().len());
                change
            }
            Gossip::Report(report) => {
                if let Some(known) = self.heard.write().get_mut(&from.node)
                    && known.generation == from.generation
                {
                    (known.report, known.reported) = (Some((wall, report)), clock.monotonic());
                }
                None
            }
        }
    }

    /// The newest epoch that any node which is alive has told.
    pub fn newest_epoch(&self) -> Epoch {
        let alive = self.alive();
        let heard = self.heard.read();
        alive.iter().filter_map(|node| heard.get(node)).map(|heard| heard.epoch).max().unwrap_or_default()
    }

    /// Lets time pass; answers whose liveness changed.
    pub fn tick(&self, now: MonotonicMs) -> Vec<Change> {
        let changes = self.health.lock().tick(now);
        self.told(changes.len());
        changes
    }

    /// What is thought of a node; `None` when it is not listened for.
    pub fn liveness(&self, node: NodeId) -> Option<Liveness> {
        self.health.lock().of(node)
    }

    /// All nodes that are listened for and alive.
    pub fn alive(&self) -> Vec<NodeId> {
        self.health.lock().iter().filter(|(_, liveness)| *liveness == Liveness::Alive).map(|(node, _)| node).collect()
    }

    /// The nodes that are heard, or were a moment ago.
    pub fn not_dead(&self) -> Vec<NodeId> {
        self.health.lock().iter().filter(|(_, liveness)| *liveness != Liveness::Dead).map(|(node, _)| node).collect()
    }

    /// Looks at the last reports of all nodes.
    pub fn reports(&self, mut look: impl FnMut(NodeId, &Report)) {
        for (node, heard) in self.heard.read().iter() {
            if let Some((_, report)) = &heard.report {
                look(*node, report);
            }
        }
    }

    /// What was heard of a node.
    pub fn heard(&self, node: NodeId) -> Option<Heard> {
        self.heard.read().get(&node).cloned()
    }

    /// Whether a node wants leads, as it said last.
    pub fn leads(&self, node: NodeId) -> Leads {
        self.heard.read().get(&node).map(|heard| heard.leads).unwrap_or_default()
    }

    /// What each node that has reported says of a group's replicas.
    pub fn replicas_of(&self, group: GroupId) -> Vec<(NodeId, WallMs, ReplicaReport)> {
        let heard = self.heard.read();
        let reports = heard.iter().filter_map(|(node, heard)| heard.report.as_ref().map(|(at, r)| (*node, *at, r)));
        let of_group = reports.flat_map(|(node, at, report)| {
            let replicas = report.replicas.iter().filter(|replica| replica.group == group);
            replicas.map(move |replica| (node, at, replica.clone()))
        });
        of_group.collect()
    }

    /// What each node says that the shards cost which it leads, and when it said so, if it does.
    pub fn heat(&self) -> BTreeMap<NodeId, (MonotonicMs, Vec<ShardHeat>)> {
        let heard = self.heard.read();
        let told = heard.iter().filter_map(|(node, heard)| {
            let (_, report) = heard.report.as_ref()?;
            Some((*node, (heard.reported, report.heat.clone()?)))
        });
        told.collect()
    }

    /// Replicas that lack what they had acknowledged, by the word of whoever led them.
    pub fn forsworn(&self) -> BTreeSet<ReplicaId> {
        let heard = self.heard.read();
        let reports = heard.values().filter_map(|heard| heard.report.as_ref()).flat_map(|(_, report)| &report.replicas);
        reports.flat_map(|replica| &replica.forsworn).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::SystemClock;

    const OTHER: NodeId = NodeId(7);

    #[test]
    fn what_an_earlier_process_said_of_its_replicas_is_forgotten() {
        let book = Book::open(std::sync::Arc::new(crate::fs::LyingFs::new(1))).unwrap();
        let (ear, leaders, clock) = (Ear::new(100, 150), Leaders::default(), SystemClock::new());
        let hear = |generation, gossip| {
            let from = Peer { node: OTHER, generation: Generation(generation) };
            ear.hear(from, gossip, &book, &leaders, &clock);
        };
        let pulse = |leads| Pulse { epoch: Epoch(1), endpoints: Endpoints::default(), led: None, spoken: None, leads };
        let replica = ReplicaReport::silent(GroupId(3), ReplicaId(9), ReplicaRole::Follower);
        let report = || Gossip::Report(Report { replicas: vec![replica.clone()], ..Report::default() });
        let told = || ear.replicas_of(GroupId(3)).len();
        hear(1, Gossip::Pulse(pulse(Leads::Leaving)));
        hear(1, report());
        assert_eq!((told(), ear.leads(OTHER)), (1, Leads::Leaving));
        hear(2, Gossip::Pulse(pulse(Leads::Takes)));
        assert_eq!((told(), ear.leads(OTHER)), (0, Leads::Takes));
        // One that was still on its way.
        hear(1, report());
        assert_eq!(told(), 0);
        hear(2, report());
        assert_eq!(told(), 1);
    }
}
