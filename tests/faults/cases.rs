//! The faults, one after the other, on one cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use playhead::proto::v1;

use crate::damage::{self, Damage};
use crate::load::Load;
use crate::stage::{Knobs, Stage};
use crate::support::{Cluster, Result, setting};
use crate::table::Row;

const NODES: usize = 3;
const SHARDS: u32 = 8;
/// Small segments, room on the disk for what belongs there, and starts accepted within the time that a fault lasts.
const FLAGS: [&str; 6] = ["--disk-log-mib", "128", "--disk-reserve-mib", "32", "--hints-start-wait-ms", "1000"];
/// How long a fault lasts that is undone: several elections.
const LASTS: Duration = Duration::from_millis(2500);
/// How long the load runs before a fault, and after all is well again.
const BESIDE: Duration = Duration::from_millis(500);
/// How long the cluster may take until it is well again by itself.
const HEAL_MAX_MS: u64 = 90_000;
const HOURS: i64 = 5 * 3600;

/// What is done, to the node that leads most.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Pause,
    /// No frame between the node and the others: what its shards, which it leads, meet; or what theirs meet.
    Partition {
        of_leader: bool,
    },
    OneWay {
        out: bool,
    },
    SlowSync,
    FailingSync,
    FullDisk,
    Power,
    Clock {
        ahead_s: i64,
        all: bool,
    },
    Damage(Damage),
}

const CASES: &[(&str, Fault)] = &[
    ("kill -9", Fault::Kill),
    ("pause past the lease", Fault::Pause),
    ("partition, leader on the small side", Fault::Partition { of_leader: true }),
    ("partition, leader on the large side", Fault::Partition { of_leader: false }),
    ("one-way cut, it isn't heard", Fault::OneWay { out: true }),
    ("one-way cut, it hears nobody", Fault::OneWay { out: false }),
    ("slow fsync, 300 ms more", Fault::SlowSync),
    ("failing fsync", Fault::FailingSync),
    ("full disk", Fault::FullDisk),
    ("power cut of all nodes", Fault::Power),
    ("clock 5 h ahead, one node", Fault::Clock { ahead_s: HOURS, all: false }),
    ("clock 5 h behind, one node", Fault::Clock { ahead_s: -HOURS, all: false }),
    ("clock 5 h ahead and back, all", Fault::Clock { ahead_s: HOURS, all: true }),
    ("flipped bytes: peers", Fault::Damage(Damage::Peers)),
    ("flipped bytes: meta", Fault::Damage(Damage::Meta)),
    ("flipped bytes: identity", Fault::Damage(Damage::Identity)),
    ("flipped bytes: log segment", Fault::Damage(Damage::Segment)),
    ("flipped bytes: live store", Fault::Damage(Damage::Live)),
    ("flipped bytes: archive store", Fault::Damage(Damage::Archive)),
    ("truncated log", Fault::Damage(Damage::TruncatedLog)),
    ("rewound log", Fault::Damage(Damage::RewoundLog)),
    ("log gone", Fault::Damage(Damage::NoLog)),
];

pub(crate) fn names() -> Vec<&'static str> {
    wanted().into_iter().map(|(name, _)| name).collect()
}

/// All, or those whose names begin with what the environment says.
fn wanted() -> Vec<(&'static str, Fault)> {
    let only = std::env::var("PLAYHEAD_FAULTS").unwrap_or_default();
    let begins = |name: &str| only.is_empty() || only.split(',').any(|part| name.starts_with(part));
    CASES.iter().copied().filter(|(name, _)| begins(name)).collect()
}

pub(crate) async fn run_all() -> Result<Vec<Row>> {
    let stage = Stage::build(&std::env::temp_dir(), NODES)?;
    let mut cluster = Cluster::start_build(stage.program(), NODES, SHARDS, &FLAGS).await?;
    let mut rows: Vec<Row> = Vec::new();
    for round in 1..=setting("PLAYHEAD_FAULT_ROUNDS", 1) {
        for (at, (name, fault)) in wanted().into_iter().enumerate() {
            let began = cluster.clock.monotonic();
            let lost = BTreeSet::new();
            let case = Case { stage: &stage, cluster: &mut cluster, fault, round, number: at, lost };
            let row = match case.run().await {
                Ok(row) => Row { fault: name.into(), times: 1, ..row },
                // The next one may do nevertheless.
                Err(error) => Row { fault: name.into(), times: 1, bad: vec![error.to_string()], ..Row::default() },
            };
            let took_ms = cluster.clock.monotonic().since(began);
            println!("{name}: ran ({took_ms} ms) {} {}", row.note, row.bad.join("; "));
            if !row.bad.is_empty() {
                println!("{}", cluster.logs());
            }
            match rows.get_mut(at) {
                Some(all) => all.add(row),
                None => rows.push(row),
            }
        }
    }
    let stopped = cluster.local.stop_all().await?;
    let badly = stopped.iter().filter(|(_, how)| !how.is_well()).map(|(name, how)| format!("{name} {how}"));
    if let (Some(row), badly) = (rows.last_mut(), badly.collect::<Vec<_>>())
        && !badly.is_empty()
    {
        row.bad.push(format!("at the end: {}", badly.join(", ")));
    }
    Ok(rows)
}

struct Case<'a> {
    stage: &'a Stage,
    cluster: &'a mut Cluster,
    fault: Fault,
    round: u64,
    number: usize,
    /// Replicas that the fault has taken the data of: all is well only when they are replaced. Whoever is asked first may still
    /// know of the process before it only, of which all was well.
    lost: BTreeSet<u64>,
}

impl Case<'_> {
    async fn run(mut self) -> Result<Row> {
        let mut bad = Vec::new();
        self.well(&mut Vec::new()).await?;
        let leaders = self.cluster.leaders().await?;
        let (victim, led) = leaders.iter().max_by_key(|(_, led)| led.len()).ok_or("nobody leads")?;
        let (victim, led) = (victim.clone(), led.clone());
        let shards: Vec<u32> = match self.fault {
            Fault::Power | Fault::Clock { all: true, .. } => (0..SHARDS).collect(),
            Fault::Partition { of_leader: false } => (0..SHARDS).filter(|shard| !led.contains(shard)).collect(),
            _ => led,
        };
        let before = self.replicas_on(&victim).await?;
        let load = Load::new(self.cluster, &format!("case-{}-{}", self.round, self.number))?;
        let tasks = load.run(self.cluster)?;
        tokio::time::sleep(BESIDE).await;

        let from_ms = self.now();
        let mut notes = self.disturb(&victim, &mut bad).await?;
        if matches!(self.fault, Fault::Damage(Damage::NoLog)) {
            self.lost = before.clone();
        }
        let until_ms = self.now();
        self.well(&mut notes).await?;
        let healed_ms = self.now();
        tokio::time::sleep(BESIDE).await;

        let came = load.end(self.cluster, tasks, &shards, (from_ms, until_ms, healed_ms)).await?;
        let after = self.replicas_on(&victim).await?;
        let replaced = before.difference(&after).count();
        if !self.lost.is_empty() && (replaced < self.lost.len() || after.len() != before.len()) {
            bad.push(format!("of {} replicas that lost their log {replaced} were replaced", self.lost.len()));
        }
        if replaced > 0 {
            notes.push(format!("{replaced} replicas replaced"));
        }
        bad.extend(came.stories.iter().cloned());
        if came.gave_up > 0 {
            bad.push(format!("the checker gave up on {} accounts", came.gave_up));
        }
        if came.lost > 0 {
            bad.push(format!("{} acknowledged writes are lost", came.lost));
        }
        if came.accepted_lost > 0 {
            bad.push(format!("{} accepted writes are lost", came.accepted_lost));
        }
        if came.acknowledged == 0 {
            bad.push("nothing was acknowledged: the load did not run".into());
        }
        notes.dedup();
        Ok(Row {
            acknowledged: came.acknowledged,
            lost: came.lost,
            contradictions: came.stories.len() as u64,
            accepted: came.accepted,
            accepted_lost: came.accepted_lost,
            gap_ms: came.gaps_ms.last().copied().unwrap_or(0),
            gap_middle_ms: came.gaps_ms.get(came.gaps_ms.len() / 2).copied().unwrap_or(0),
            stale: came.stale.0,
            stale_asked: came.stale.1,
            healed_ms: healed_ms - until_ms,
            unknown: came.unknown,
            note: notes.join(", "),
            bad,
            ..Row::default()
        })
    }

    /// While the fault lasts. What operators see then is printed where that is asked for.
    async fn lasts(&self) -> Result<()> {
        tokio::time::sleep(LASTS).await;
        if setting("PLAYHEAD_FAULTS_SHOW", 0) == 1 {
            let local = &self.cluster.local;
            let (clients, admins) = (local.client_endpoints().join(","), local.admin_endpoints().join(","));
            let endpoints = format!("{clients};admin={admins}");
            let mut doctor = tokio::process::Command::new(env!("CARGO_BIN_EXE_clusterctl"));
            let told = doctor.args(["doctor", "--endpoints", endpoints.as_str()]).output().await?;
            let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
            println!("doctor ({}) says:\n{out}{err}", told.status);
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.cluster.clock.monotonic().0
    }

    /// The fault from its beginning to where it is undone.
    async fn disturb(&mut self, victim: &str, bad: &mut Vec<String>) -> Result<Vec<String>> {
        let node: usize = victim.trim_start_matches('n').parse()?;
        let data = self.cluster.local.data(victim);
        let mut notes = Vec::new();
        match self.fault {
            Fault::Kill => {
                self.cluster.local.kill(victim).await?;
                self.lasts().await?;
                self.cluster.local.start_node(victim).await?;
            }
            Fault::Pause => {
                self.cluster.local.pause(victim, true)?;
                self.lasts().await?;
                self.cluster.local.pause(victim, false)?;
            }
            Fault::Partition { .. } => self.isolated(node, true, true).await?,
            Fault::OneWay { out } => self.isolated(node, out, !out).await?,
            Fault::SlowSync => self.with(&[node], Knobs { sync_ms: 300, ..Knobs::default() }).await?,
            Fault::FailingSync => {
                const EIO: i64 = 5;
                self.with(&[node], Knobs { sync_errno: EIO, ..Knobs::default() }).await?;
                if self.cluster.local.is_running(victim)? {
                    bad.push("it goes on after a failed sync".into());
                }
            }
            Fault::FullDisk => {
                self.stage.fill(&data, true)?;
                self.lasts().await?;
                self.stage.fill(&data, false)?;
            }
            Fault::Power => self.without_power().await?,
            Fault::Clock { ahead_s, all } => {
                let nodes: Vec<usize> = if all { (1..=NODES).collect() } else { vec![node] };
                self.with(&nodes, Knobs { ahead_s, ..Knobs::default() }).await?;
            }
            Fault::Damage(damage) => self.damaged(victim, damage, &mut notes).await?,
        }
        Ok(notes)
    }

    async fn isolated(&self, node: usize, out: bool, into: bool) -> Result<()> {
        self.stage.isolate(node, out, into, true)?;
        self.lasts().await?;
        self.stage.isolate(node, out, into, false)
    }

    async fn with(&self, nodes: &[usize], knobs: Knobs) -> Result<()> {
        nodes.iter().try_for_each(|node| self.stage.set(*node, knobs))?;
        self.lasts().await?;
        nodes.iter().try_for_each(|node| self.stage.set(*node, Knobs::default()))
    }

    async fn without_power(&mut self) -> Result<()> {
        let names = self.cluster.local.names();
        for name in &names {
            self.stage.cut_power(&self.cluster.local.data(name))?;
        }
        self.cluster.local.kill_all().await?;
        for (n, name) in names.iter().enumerate() {
            self.stage.mount_again(n + 1, &self.cluster.local.data(name))?;
        }
        Ok(self.cluster.local.start_all().await?)
    }

    async fn damaged(&mut self, victim: &str, damage: Damage, notes: &mut Vec<String>) -> Result<()> {
        self.cluster.local.kill(victim).await?;
        let done = damage::inflict(&self.cluster.local.data(victim), damage)?;
        if !done.what.is_empty() {
            notes.push(done.what.clone());
        }
        if let Err(refused) = self.cluster.local.start_node(victim).await {
            // It says what is wrong and does nothing: an operator has to bring back what was there.
            let told = refused.to_string();
            let last = told.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            notes.push(format!("refuses to start until it is restored: {last}"));
            println!("{victim}: {told}");
            self.lasts().await?;
            done.undo()?;
            self.cluster.local.start_node(victim).await?;
        }
        Ok(())
    }

    /// The shard replicas that a node has, by id.
    async fn replicas_on(&self, node: &str) -> Result<BTreeSet<u64>> {
        let shards = self.cluster.admin(Duration::from_secs(10))?.all_shards().await?;
        let replicas = shards.into_iter().flat_map(|shard| shard.replicas);
        Ok(replicas.filter(|replica| replica.node == node).map(|replica| replica.replica_id).collect())
    }

    /// Waits until all is well. Who has ended is started again, as whoever supervises a node does, and nothing else is done.
    async fn well(&mut self, notes: &mut Vec<String>) -> Result<()> {
        let from_ms = self.now();
        let (mut last, mut logs) = (String::new(), Logs::default());
        while self.now() - from_ms < HEAL_MAX_MS {
            for (name, how) in self.cluster.local.fallen() {
                notes.push(format!("{name} {how}").replace("had ended by itself before: ", "ended by itself, "));
                // One that ends again is started again.
                if let Err(error) = self.cluster.local.start_node(&name).await {
                    notes.push(error.to_string());
                    tokio::time::sleep(LASTS).await;
                }
            }
            last = match self.is_well(&mut logs).await {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => why,
                Err(error) => error.to_string(),
            };
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("not well again after {} s: {last}", HEAL_MAX_MS / 1000).into())
    }

    /// What is still wrong.
    async fn is_well(&self, logs: &mut Logs) -> Result<Option<String>> {
        let admin = self.cluster.admin(Duration::from_secs(2))?;
        let status = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
        if let Some(node) = status.nodes.iter().find(|node| node.liveness() != v1::NodeLiveness::Alive) {
            return Ok(Some(format!("{} is {:?}", node.node, node.liveness())));
        }
        let cluster = status.cluster.unwrap_or_default();
        if cluster.shards_led < SHARDS || cluster.replicas_current != cluster.replicas_wanted {
            return Ok(Some(format!("{cluster:?}")));
        }
        let shards: BTreeMap<u32, v1::ShardStatus> =
            admin.all_shards().await?.into_iter().map(|shard| (shard.shard, shard)).collect();
        let is_whole = |shard: &v1::ShardStatus| {
            let voters = shard.replicas.iter().filter(|replica| replica.voter && !replica.leaving).count();
            shard.replicas.len() == NODES && voters == NODES && !shard.leader.is_empty()
        };
        let agree = |shard: &v1::ShardStatus| {
            shard.digest_check() == v1::DigestCheck::Agree && shard.digest_compared == NODES as u32
        };
        if let Some(shard) = shards.values().find(|shard| !is_whole(shard) || !agree(shard)) {
            return Ok(Some(format!("{shard:?}")));
        }
        let mut replicas = shards.values().flat_map(|shard| &shard.replicas).map(|replica| replica.replica_id);
        if let Some(replica) = replicas.find(|replica| self.lost.contains(replica)) {
            return Ok(Some(format!("replica {replica} has lost its log and is not replaced")));
        }
        logs.behind(self.cluster, &shards).await
    }
}

/// How far the groups' logs reached when all was looked at first: every replica has to get there. One whose log was put back says
/// that all is well before anybody has found it out.
#[derive(Default)]
struct Logs {
    shards: Option<BTreeMap<u32, u64>>,
    meta: Option<u64>,
}

impl Logs {
    /// Who is behind that.
    async fn behind(&mut self, cluster: &Cluster, shards: &BTreeMap<u32, v1::ShardStatus>) -> Result<Option<String>> {
        let reached = || shards.iter().map(|(shard, status)| (*shard, status.applied_index)).collect();
        let wanted = self.shards.get_or_insert_with(reached);
        let lags = |shard: &&v1::ShardStatus| {
            let wanted = wanted.get(&shard.shard).copied().unwrap_or_default();
            shard.replicas.iter().any(|replica| replica.applied_index < wanted)
        };
        if let Some(shard) = shards.values().find(lags) {
            return Ok(Some(format!("a replica is behind: {shard:?}")));
        }
        let mut meta = Vec::new();
        for node in cluster.local.names() {
            let of = v1::GetRaftStateRequest { of: Some(v1::get_raft_state_request::Of::Meta(true)) };
            let told = cluster.admin_of(&node, Duration::from_secs(2))?.get_raft_state(of).await?;
            meta.push(told.state.and_then(|state| state.last_log_index).unwrap_or_default());
        }
        let wanted = *self.meta.get_or_insert(meta.iter().copied().max().unwrap_or_default());
        Ok(meta
            .iter()
            .any(|last| *last < wanted)
            .then(|| format!("the meta group's logs end at {meta:?}, not at {wanted}")))
    }
}
