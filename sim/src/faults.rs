//! What goes wrong: drawn from the seed, undone after a while, and counted by what it did and not by how often it was tried.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use playhead::fs::Fault as DiskFault;
use playhead::ids::GroupId;
use playhead::proto::v1;
use playhead::raft::Role;
use playhead::store::Fault as StoreFault;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::fabric::Weather;
use crate::machine::Still;
use crate::system;
use crate::trace::say;
use crate::watch::running;
use crate::work::STREAMS_MAX;
use crate::world::World;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A process is killed and starts again.
    Kill,
    /// A process is asked to end, hands over its leads, ends and starts again.
    Restart,
    /// A machine loses its power: what was not synced is lost or torn.
    Power,
    /// All machines lose their power at once.
    Blackout,
    /// A process stands still; its stopwatch goes on.
    Pause,
    /// A machine stands still with its stopwatch.
    Suspend,
    /// The network falls in two.
    Cut,
    /// A machine hears and isn't heard, or speaks and doesn't hear.
    OneWay,
    /// Segments are lost and come later.
    Loss,
    /// Segments are late.
    Delay,
    /// A write or a sync fails.
    DiskError,
    /// Writes and syncs take long.
    SlowDisk,
    /// There is no room.
    FullDisk,
    /// A calendar jumps by hours.
    Clock,
    /// A leader hands over.
    Move,
    /// A replica is replaced by a fresh one.
    Replace,
    /// A replica makes a checkpoint and purges its log.
    Checkpoint,
    /// The log of a node is gone.
    LostLog,
    /// A store has lost its replicas.
    LostStore,
    /// The end of a node's log is gone, though it was acknowledged. Never drawn: no promise is left to be checked of a vote that was
    /// lost with it.
    LostTail,
    /// The rules' settings are changed.
    Settings,
    /// A node is drained, and carries its share again later. Never drawn: `--also drain` adds it.
    Drain,
}

impl Kind {
    pub(crate) const ALL: [Self; 20] = [
        Self::Kill,
        Self::Restart,
        Self::Power,
        Self::Blackout,
        Self::Pause,
        Self::Suspend,
        Self::Cut,
        Self::OneWay,
        Self::Loss,
        Self::Delay,
        Self::DiskError,
        Self::SlowDisk,
        Self::FullDisk,
        Self::Clock,
        Self::Move,
        Self::Replace,
        Self::Checkpoint,
        Self::LostLog,
        Self::LostStore,
        Self::Settings,
    ];
}

/// How often each kind has had an effect. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects(Arc<Mutex<BTreeMap<Kind, u64>>>);

impl Effects {
    pub(crate) fn add(&self, kind: Kind, n: u64) {
        *self.0.lock().entry(kind).or_default() += n;
    }

    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.0.lock().get(&kind).copied().unwrap_or(0)
    }
}

/// Something that is to be undone.
#[derive(Debug)]
struct Active {
    kind: Kind,
    /// On which machine, by place.
    at: usize,
    until: u64,
}

/// How often an operator says that a node is to carry its share again.
const UNDO_CALLS_MAX: u32 = 60;

/// What goes wrong in this run.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) kinds: Vec<Kind>,
    /// Claimed all the same, and never injected.
    held_back: Vec<Kind>,
    active: Vec<Active>,
    next: u64,
    turn: usize,
    lost_at: u64,
    settings: u64,
    /// How many replicas stood on the node that is drained, before.
    stood: u64,
}

impl Faults {
    pub(crate) fn new(kinds: Vec<Kind>, held_back: Vec<Kind>) -> Self {
        Self { kinds, held_back, active: Vec::new(), next: 0, turn: 0, lost_at: 0, settings: 1, stood: 0 }
    }

    /// Kinds that have had no effect yet.
    pub(crate) fn missing(&self, effects: &Effects) -> Vec<Kind> {
        self.kinds.iter().copied().filter(|kind| effects.of(*kind) == 0).collect()
    }

    fn is_active(&self, kind: Kind) -> bool {
        self.active.iter().any(|active| active.kind == kind)
    }
}

impl World {
    /// Undoes what is over, and lets the next thing go wrong when it is time.
    pub(crate) fn go_wrong(&mut self) -> anyhow::Result<()> {
        let now = system::now();
        self.count_weather();
        let over: Vec<Active> = self.faults.active.extract_if(.., |active| active.until <= now).collect();
        over.iter().for_each(|active| self.undo(active));
        if now < self.faults.next {
            return Ok(());
        }
        self.faults.next = now + self.rng.random_range(150..1_200);
        // In turn, so that each has its chance, but begun anywhere.
        let missing = self.faults.missing(&self.effects);
        let kinds = if missing.is_empty() || self.rng.random_bool(0.5) { self.faults.kinds.clone() } else { missing };
        let Some(kind) = kinds.get(self.faults.turn % kinds.len().max(1)).copied() else { return Ok(()) };
        self.faults.turn += self.rng.random_range(1..=2);
        if self.faults.is_active(kind) || self.faults.held_back.contains(&kind) {
            return Ok(());
        }
        self.inject(kind)
    }

    /// Undoes everything, at once.
    pub(crate) fn heal(&mut self) {
        say!(self.trace, "all is mended");
        let active = std::mem::take(&mut self.faults.active);
        active.iter().for_each(|active| self.undo(active));
        self.fabric.mend();
        self.fabric.set_weather(Weather::FAIR);
        for machine in &mut self.machines {
            machine.disk.fill(None);
            machine.pace.slow_ms.store(0, Ordering::Relaxed);
            machine.wake();
            machine.dies_at = None;
            machine.power_on();
            if !machine.runs() && machine.starts_at.is_none() {
                machine.starts_at = Some(system::now() + 1);
            }
        }
    }

    fn lasts(&mut self, kind: Kind, at: usize, ms: std::ops::Range<u64>) -> u64 {
        let until = system::now() + self.rng.random_range(ms);
        self.faults.active.push(Active { kind, at, until });
        until
    }

    /// A machine whose process runs and does not stand still.
    fn any_machine(&mut self) -> Option<usize> {
        let live: Vec<usize> = (0..self.machines.len())
            .filter(|at| self.machines[*at].node().is_some() && self.machines[*at].still.is_none())
            .collect();
        live.choose(&mut self.rng).copied()
    }

    fn inject(&mut self, kind: Kind) -> anyhow::Result<()> {
        let Some(at) = self.any_machine() else { return Ok(()) };
        let number = self.machines[at].number;
        match kind {
            Kind::Kill => {
                say!(self.trace, "kill n{number}");
                self.machines[at].kill();
                self.effects.add(kind, 1);
                self.starts_later(at, 20..2_500);
            }
            Kind::Restart => self.restart(at),
            Kind::Power => {
                say!(self.trace, "power off n{number}");
                self.power_off(at);
                self.effects.add(kind, 1);
                self.starts_later(at, 300..4_000);
            }
            Kind::Blackout => {
                say!(self.trace, "blackout");
                for at in 0..self.machines.len() {
                    self.power_off(at);
                    self.starts_later(at, 200..2_000);
                }
                self.effects.add(kind, 1);
                self.lasts(kind, 0, 5_000..9_000);
            }
            Kind::Pause | Kind::Suspend => {
                let until = self.lasts(kind, at, 100..6_000);
                say!(self.trace, "{kind:?} n{number} until {until}");
                let still = if kind == Kind::Pause { Still::Paused } else { Still::Suspended };
                self.machines[at].still = Some((still, until));
            }
            Kind::Cut => self.cut_in_two(),
            Kind::OneWay => self.cut_one_way(at),
            Kind::Loss => {
                let lost_permille = self.rng.random_range(10..150);
                say!(self.trace, "lost: {lost_permille} of 1000");
                self.fabric.set_weather(Weather { lost_permille, ..self.fabric.weather() });
                self.lasts(kind, at, 1_000..6_000);
            }
            Kind::Delay => {
                // The most is more than the groups' heartbeats allow, so that nothing is decided.
                let most = *[60, 120, 250, 400].choose(&mut self.rng).unwrap_or(&60);
                say!(self.trace, "late: up to {most} ms");
                self.fabric.set_weather(Weather { delay_ms: (1, most), ..self.fabric.weather() });
                self.lasts(kind, at, 1_000..6_000);
            }
            Kind::DiskError => self.fail_disk(at),
            Kind::SlowDisk => {
                let most = self.rng.random_range(50..900);
                say!(self.trace, "the disk of n{number} takes up to {most} ms");
                self.machines[at].pace.slow_ms.store(most, Ordering::Relaxed);
                self.lasts(kind, at, 1_000..6_000);
            }
            Kind::FullDisk => {
                let room = self.rng.random_range(0..300 << 10);
                say!(self.trace, "the disk of n{number} has room for {room} bytes");
                self.machines[at].disk.fill(Some(room));
                self.lasts(kind, at, 2_000..6_000);
            }
            Kind::Clock => {
                let off = self.rng.random_range(-20_000_000..20_000_000);
                say!(self.trace, "the calendar of n{number} is off by {off} ms");
                self.machines[at].clock.off_ms.store(off, Ordering::Relaxed);
                self.effects.add(kind, 1);
            }
            Kind::Move => self.move_lead(),
            Kind::Replace => self.replace(),
            Kind::Checkpoint => self.checkpoint(at),
            Kind::LostLog | Kind::LostStore | Kind::LostTail => self.lose(kind, at)?,
            Kind::Settings => self.change_settings(),
            Kind::Drain => self.drain(at),
        }
        Ok(())
    }

    fn undo(&mut self, active: &Active) {
        let machine = &mut self.machines[active.at];
        match active.kind {
            Kind::Pause | Kind::Suspend if machine.still.is_some() => {
                machine.wake();
                self.effects.add(active.kind, 1);
            }
            Kind::Cut | Kind::OneWay => {
                say!(self.trace, "the network is whole");
                self.fabric.mend();
            }
            Kind::Loss => self.fabric.set_weather(Weather { lost_permille: 0, ..self.fabric.weather() }),
            Kind::Delay => {
                self.fabric.set_weather(Weather { delay_ms: Weather::FAIR.delay_ms, ..self.fabric.weather() });
            }
            Kind::SlowDisk => {
                machine.pace.slow_ms.store(0, Ordering::Relaxed);
                self.effects.add(Kind::SlowDisk, machine.pace.slowed.swap(0, Ordering::Relaxed));
            }
            Kind::FullDisk => machine.disk.fill(None),
            Kind::Drain => {
                let number = machine.number;
                let left = self.standing_on(number);
                self.effects.add(Kind::Drain, self.faults.stood.saturating_sub(left));
                self.want_drained(number, false);
            }
            _ => {}
        }
    }

    /// What the network has done since it was looked at last.
    fn count_weather(&mut self) {
        let (now, before) = (self.fabric.counts(), self.counted);
        self.counted = now;
        self.effects
            .add(Kind::Cut, (now.stuck - before.stuck).saturating_sub(now.stuck_one_way - before.stuck_one_way));
        self.effects.add(Kind::OneWay, now.stuck_one_way - before.stuck_one_way);
        self.effects.add(Kind::Loss, now.lost - before.lost);
        self.effects.add(Kind::Delay, now.late - before.late);
        // Of those that were asked for, as many as there really were since.
        let made = (self.watch.checkpoints - self.counted_checkpoints).min(self.asked_checkpoints);
        self.counted_checkpoints = self.watch.checkpoints;
        self.asked_checkpoints -= made;
        self.effects.add(Kind::Checkpoint, made);
        self.effects.add(Kind::FullDisk, self.players.take_full());
    }

    /// As a supervisor's signal does: [`playhead::node::run_until_signal`].
    fn restart(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(node) = machine.node().filter(|_| machine.excuse.is_none()) else { return };
        say!(self.trace, "n{} is asked to end", machine.number);
        machine.excuse = Some(Kind::Restart);
        machine.spawn(async move {
            node.unready();
            node.hand_over(Duration::from_secs(3)).await;
            node.close();
        });
    }

    fn power_off(&mut self, at: usize) {
        let keep = self.rng.random_bool(0.5);
        self.machines[at].power_off(keep);
    }

    fn starts_later(&mut self, at: usize, ms: std::ops::Range<u64>) {
        self.machines[at].starts_at = Some(system::now() + self.rng.random_range(ms));
    }

    fn cut_in_two(&mut self) {
        let sides: Vec<bool> = self.machines.iter().map(|_| self.rng.random_bool(0.5)).collect();
        say!(self.trace, "cut in two: {sides:?}");
        for (a, one) in sides.iter().enumerate() {
            for (b, _) in sides.iter().enumerate().filter(|(_, other)| *other != one) {
                self.fabric.cut(self.machines[a].number, self.machines[b].number);
            }
        }
        self.lasts(Kind::Cut, 0, 500..7_000);
    }

    fn cut_one_way(&mut self, at: usize) {
        let (number, deaf) = (self.machines[at].number, self.rng.random_bool(0.5));
        say!(self.trace, "n{number} {}", if deaf { "hears nobody" } else { "is heard by nobody" });
        for other in self.machines.iter().map(|machine| machine.number).filter(|other| *other != number) {
            let (from, to) = if deaf { (other, number) } else { (number, other) };
            self.fabric.cut(from, to);
        }
        self.lasts(Kind::OneWay, at, 500..7_000);
    }

    fn fail_disk(&mut self, at: usize) {
        let nth = self.rng.random_range(1..6);
        let way = self.rng.random_range(0..4);
        let machine = &mut self.machines[at];
        say!(self.trace, "the disk of n{} will fail: {way} {nth}", machine.number);
        machine.excuse = Some(Kind::DiskError);
        match way {
            0 => machine.disk.fs.fail(DiskFault::Write(nth)),
            1 | 2 => machine.disk.fs.fail(DiskFault::Sync(nth)),
            _ => machine.disk.store.fail_next(if nth % 2 == 0 { StoreFault::Unsynced } else { StoreFault::Refused }),
        }
    }

    fn move_lead(&mut self) {
        let all = running(&self.machines);
        let leads: Vec<_> = all.iter().filter(|(_, _, _, status)| status.role == Role::Leader).collect();
        let Some((machine, _, hosted, status)) = leads.choose(&mut self.rng) else { return };
        let others: Vec<_> =
            status.members.voters.iter().flatten().copied().filter(|voter| *voter != hosted.replica).collect();
        let Some(to) = others.choose(&mut self.rng).copied() else { return };
        let by_election = self.rng.random_bool(0.3);
        say!(self.trace, "the lead of group {} moves to replica {to}", hosted.group);
        let effects = self.effects.clone();
        if by_election {
            let follower =
                all.iter().find(|(_, _, other, _)| other.replica == to).map(|(at, _, other, _)| (*at, other.clone()));
            let Some((at, other)) = follower else { return };
            self.machines[usize::from(at) - 1].spawn(async move {
                let leads = other.stand(Duration::ZERO, Duration::from_millis(800)).await;
                effects.add(Kind::Move, u64::from(leads));
            });
            return;
        }
        let hosted = hosted.clone();
        self.machines[usize::from(*machine) - 1].spawn(async move {
            let moved = hosted.transfer_leader(to, Duration::from_secs(3)).await;
            effects.add(Kind::Move, u64::from(moved.is_ok()));
        });
    }

    fn replace(&mut self) {
        let all = running(&self.machines);
        let shards: Vec<_> = all.iter().filter(|(_, _, hosted, _)| hosted.group != GroupId::META).collect();
        let Some((_, _, hosted, _)) = shards.choose(&mut self.rng) else { return };
        let shard = u32::try_from(hosted.group.0.saturating_sub(1)).unwrap_or(0);
        let request = v1::ReplaceReplicaRequest { shard, replica_id: hosted.replica.0, ..Default::default() };
        let (admin, trace, effects) = (self.players.admin.clone(), self.trace.clone(), self.effects.clone());
        self.players.spawn(async move {
            let answer = admin.replace_replica(request.clone()).await;
            effects.add(Kind::Replace, u64::from(answer.is_ok()));
            let told = answer.map(|a| a.replica_id).map_err(|e| e.to_string());
            say!(trace, "replica {} of shard {shard} is replaced: {told:?}", request.replica_id);
        });
    }

    fn drain(&mut self, at: usize) {
        let number = self.machines[at].number;
        self.faults.stood = self.standing_on(number);
        self.lasts(Kind::Drain, at, 4_000..12_000);
        self.want_drained(number, true);
    }

    fn standing_on(&self, number: u8) -> u64 {
        let standing = || {
            let meta = self.meta()?;
            Some(meta.standing_on(meta.node_named(&format!("n{number}"))?))
        };
        standing().unwrap_or(0) as u64
    }

    /// An operator drains a node, or wants that no more; that he says until it is so.
    pub(crate) fn want_drained(&self, number: u8, drained: bool) {
        let (admin, trace) = (self.players.admin.clone(), self.trace.clone());
        self.players.spawn(async move {
            for _ in 0..UNDO_CALLS_MAX {
                let request = v1::DrainNodeRequest { node: format!("n{number}"), undo: !drained, ..Default::default() };
                let answer = admin.drain_node(request).await.map(|a| a.intent()).map_err(|e| e.to_string());
                say!(trace, "n{number} is wanted drained, {drained}: {answer:?}");
                if answer.is_ok() || drained {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    fn checkpoint(&mut self, at: usize) {
        let Some(node) = self.machines[at].node() else { return };
        let all = node.shards().all();
        let count = self.rng.random_range(1..=3);
        for hosted in all.choose_multiple(&mut self.rng, count) {
            say!(self.trace, "replica {} makes a checkpoint", hosted.replica);
            self.machines[at].enter(|| hosted.trim_log());
            self.asked_checkpoints += 1;
        }
        // Half-way through is when it matters.
        if self.rng.random_bool(0.4) {
            self.machines[at].dies_at = Some(system::now() + self.rng.random_range(1..60));
        }
    }

    /// A machine that was to lose its power does.
    pub(crate) fn dies(&mut self, at: usize) {
        say!(self.trace, "power off n{}, as it makes checkpoints", self.machines[at].number);
        self.power_off(at);
        self.starts_later(at, 100..2_000);
    }

    /// Only while every group has all its replicas: what a majority has lost nobody can give back.
    fn lose(&mut self, kind: Kind, at: usize) -> anyhow::Result<()> {
        let now = system::now();
        if now < self.faults.lost_at + 3_000 || !self.is_whole().is_empty() {
            return Ok(());
        }
        self.faults.lost_at = now;
        let Some(node) = self.machines[at].node() else { return Ok(()) };
        let replicas: Vec<_> = node.shards().all().iter().map(|hosted| hosted.replica).collect();
        drop(node);
        say!(self.trace, "{kind:?} of n{}: {replicas:?}", self.machines[at].number);
        self.machines[at].kill();
        if kind == Kind::LostTail {
            let bytes = self.rng.random_range(100..20_000);
            let cut = self.machines[at].disk.lose_tail(bytes)?;
            say!(self.trace, "{cut} bytes at the end of its log");
            self.effects.add(kind, u64::from(cut > 0));
            self.starts_later(at, 50..2_000);
            return Ok(());
        }
        let store_too = kind == Kind::LostStore || self.rng.random_bool(0.5);
        if store_too {
            let rots = self.rng.random_bool(0.3);
            let store = &self.machines[at].disk.store;
            replicas.iter().for_each(|replica| if rots { store.rot(*replica) } else { store.lose(*replica) });
        }
        if kind == Kind::LostLog {
            self.machines[at].disk.lose_log()?;
            self.watch.lost(replicas);
        }
        self.effects.add(kind, 1);
        self.starts_later(at, 50..2_000);
        Ok(())
    }

    pub(crate) fn change_settings(&mut self) {
        self.faults.settings += 1;
        let streams = u64::from(self.rng.random_range(1..=STREAMS_MAX));
        let figures = [("policy.max_streams".to_string(), streams)].into_iter().collect();
        self.update_settings(figures, Kind::Settings);
    }

    pub(crate) fn update_settings(&mut self, figures: std::collections::HashMap<String, u64>, kind: Kind) {
        let settings = Some(v1::Settings { version: 0, figures });
        let (admin, trace, effects) = (self.players.admin.clone(), self.trace.clone(), self.effects.clone());
        self.players.spawn(async move {
            let request = v1::UpdateSettingsRequest { settings };
            let answer = admin.update_settings(request).await;
            effects.add(kind, u64::from(answer.is_ok()));
            let told = answer.map(|a| a.settings.map_or(0, |s| s.version)).map_err(|e| e.to_string());
            say!(trace, "settings: version {told:?}");
        });
    }
}
