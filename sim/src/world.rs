//! One run: machines, network and players, millisecond by millisecond, first while everything goes wrong, then until all is well.

use std::collections::{BTreeMap, BTreeSet};

use playhead::ids::{GroupId, ReplicaId};
use playhead::node::bootstrap::Wishes;
use playhead::node::router::Call;
use playhead::node::shards::Hosted;
use playhead::planted::{self, Bug};
use playhead::raft::Role;
use playhead::telemetry::trace::TraceId;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::fabric::{Counts, Fabric, address};
use crate::faults::{Effects, Faults, Kind};
use crate::machine::Machine;
use crate::strike::Strike;
use crate::system;
use crate::trace::{Logged, Trace, say};
use crate::watch::{Watch, running};
use crate::work::{INTERVAL_MS, Players, SILENCE_MS};

/// How often everything is looked at, milliseconds.
const LOOK_MS: u64 = 250;
/// How long a new cluster may take until all its shards are led.
const FOUND_MS_MAX: u64 = 30_000;
/// How long it may take until all is well after everything was mended.
const WELL_MS_MAX: u64 = 90_000;
/// How long players may take for what they have begun.
const END_MS_MAX: u64 = 90_000;
/// How long it may take until all replicas have the same state when nobody does anything.
const EQUAL_MS_MAX: u64 = 20_000;
/// Replicas of each shard.
const REPLICATION: usize = 3;

/// What a run is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) seed: u64,
    pub(crate) echo: bool,
    /// Only these faults; none: the seed draws some.
    pub(crate) kinds: Vec<Kind>,
    /// These, too.
    pub(crate) also: Vec<Kind>,
    /// Instead of all that: a node is drained, and one that takes part is killed.
    pub(crate) strike: Option<Strike>,
    pub(crate) bug: Option<Bug>,
    /// Faults that the run claims and never injects.
    pub(crate) held_back: Vec<Kind>,
    /// What of the nodes' logs is kept.
    pub(crate) log: String,
}

/// How a run has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) trace: Trace,
    /// Faults that the run claims and that had no effect.
    pub(crate) without_effect: Vec<Kind>,
    pub(crate) summary: String,
}

/// See the module.
pub(crate) struct World {
    pub(crate) trace: Trace,
    pub(crate) rng: StdRng,
    pub(crate) fabric: Fabric,
    pub(crate) machines: Vec<Machine>,
    pub(crate) players: Players,
    pub(crate) watch: Watch,
    pub(crate) faults: Faults,
    pub(crate) effects: Effects,
    pub(crate) counted: Counts,
    /// Asked for and not seen yet.
    pub(crate) asked_checkpoints: u64,
    /// Those that were seen when they were counted last.
    pub(crate) counted_checkpoints: u64,
    strike: Option<Strike>,
    shards: u32,
    seed: u64,
}

/// Everything of a run, from nothing to the last check.
pub(crate) fn run(wanted: &Wanted) -> anyhow::Result<Ended> {
    system::seed(wanted.seed);
    system::limit_processor_time();
    if let Some(bug) = wanted.bug {
        planted::plant(bug);
    }
    let trace = Trace::echoing(wanted.echo);
    let filter = tracing_subscriber::EnvFilter::new(&wanted.log);
    let logged = tracing_subscriber::registry().with(filter).with(Logged(trace.clone()));
    tracing::subscriber::set_global_default(logged)?;
    let panicked = trace.clone();
    std::panic::set_hook(Box::new(move |what| panicked.violated(panic_told(what))));
    let mut world = World::new(wanted, &trace)?;
    world.play()?;
    let without_effect = world.faults.missing(&world.effects);
    let done = world.players.done();
    let effects: Vec<String> =
        world.faults.kinds.iter().map(|kind| format!("{kind:?} {}", world.effects.of(*kind))).collect();
    let summary = format!(
        "{} nodes, {} shards, {} s; {} committed, {} unknown, {} unavailable, {} degraded reads; {} leads, {} checkpoints, {} digests compared; {}",
        world.machines.len(),
        world.shards,
        system::now() / 1000,
        done.acknowledged,
        done.unknown,
        done.unavailable,
        done.read_stale,
        world.watch.moves,
        world.watch.checkpoints,
        world.watch.compared,
        effects.join(", ")
    );
    say!(trace, "{summary}");
    Ok(Ended { trace, without_effect, summary })
}

/// A panic without the folders of the machine that it was built on.
fn panic_told(what: &std::panic::PanicHookInfo<'_>) -> String {
    let said = what.payload_as_str().unwrap_or("no word").replace('\n', " ");
    let at = what.location().map_or("nowhere", |at| at.file().rsplit("index.crates.io").next().unwrap_or(""));
    let at = at.split_once('/').map_or(at, |(_, file)| if at.starts_with('-') { file } else { at });
    format!("a panic: {said} ({at})")
}

impl World {
    fn new(wanted: &Wanted, trace: &Trace) -> anyhow::Result<Self> {
        let seed = wanted.seed;
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes: u8 = *[3, 3, 4, 5].choose(&mut rng).unwrap_or(&3);
        let shards = *[2, 4, 4, 8].choose(&mut rng).unwrap_or(&4);
        let drawn = rng.random_range(4..=7);
        let drawn: Vec<Kind> = Kind::ALL.choose_multiple(&mut rng, drawn).copied().collect();
        let mut kinds = if wanted.kinds.is_empty() { drawn } else { wanted.kinds.clone() };
        kinds.extend(&wanted.also);
        if wanted.strike.is_some() {
            kinds = vec![Kind::Kill];
        }
        let drains = wanted.strike.is_some() || kinds.contains(&Kind::Drain);
        // Where each shard has three replicas, a node can be spared of four.
        let nodes = if drains { nodes.max(4) } else { nodes };
        // Who is older knows of no hints and no stretched intervals: that has to go well, too.
        let version_max = rng.random_bool(0.25).then_some(3).filter(|_| !drains);
        say!(trace, "seed {seed}: {nodes} nodes, {shards} shards, {kinds:?}, version at most {version_max:?}");
        let fabric = Fabric::new(rng.random());
        let machines: Vec<Machine> =
            (1..=nodes).map(|n| Machine::new(n, fabric.clone(), trace.clone(), rng.random(), version_max)).collect();
        Ok(Self {
            trace: trace.clone(),
            players: Players::new(nodes, &fabric, trace, rng.random())?,
            rng,
            fabric,
            machines,
            watch: Watch::new(trace),
            faults: Faults::new(kinds, wanted.held_back.clone()),
            effects: Effects::default(),
            counted: Counts::default(),
            asked_checkpoints: 0,
            counted_checkpoints: 0,
            strike: wanted.strike,
            shards,
            seed,
        })
    }

    fn play(&mut self) -> anyhow::Result<()> {
        self.found()?;
        if !self.wait("the cluster was made", FOUND_MS_MAX, |world| world.is_whole())? {
            return Ok(());
        }
        let figures =
            [("interval_ms".to_string(), INTERVAL_MS), ("silence_percent".to_string(), 100 * SILENCE_MS / INTERVAL_MS)];
        self.update_settings(figures.into_iter().collect(), Kind::Settings);
        self.pass(3_000)?;
        self.players.begin(self.faults.kinds.contains(&Kind::Clock));
        self.pass(1_000)?;
        match self.strike {
            Some(strike) => self.strike(strike)?,
            None => self.all_goes_wrong()?,
        }
        if !self.trace.violations().is_empty() {
            return Ok(());
        }
        self.heal();
        if !self.wait("all is well again", WELL_MS_MAX, |world| world.is_whole())? {
            return Ok(());
        }
        self.pass(3_000)?;
        self.players.end();
        let ended = |world: &mut Self| match world.players.has_ended() {
            true => Vec::new(),
            false => vec!["some still wait".to_string()],
        };
        if !self.wait("everybody knows what came of everything", END_MS_MAX, ended)? {
            return Ok(());
        }
        self.wait("all replicas are equal", EQUAL_MS_MAX, |world| world.are_equal())?;
        self.players.check();
        Ok(())
    }

    /// Injects faults for a while.
    fn all_goes_wrong(&mut self) -> anyhow::Result<()> {
        let ends = system::now() + self.rng.random_range(15_000..25_000);
        let at_most = ends + 30_000;
        // Each fault that the run claims has to have had an effect, if that can be had at all.
        while system::now() < ends || (system::now() < at_most && !self.faults.missing(&self.effects).is_empty()) {
            self.go_wrong()?;
            self.step()?;
            if !self.trace.violations().is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Lets a millisecond pass.
    pub(crate) fn step(&mut self) -> anyhow::Result<()> {
        let now = system::now() + 1;
        system::set_now(now);
        self.fabric.tick(now);
        for at in 0..self.machines.len() {
            if self.machines[at].dies_at.is_some_and(|dies| dies <= now) {
                self.dies(at);
            }
            let machine = &mut self.machines[at];
            if machine.starts_at.is_some_and(|starts| starts <= now) {
                machine.power_on();
                machine.boot()?;
            }
            if let Some(why) = machine.tick() {
                self.has_ended(at, &why);
            }
        }
        self.players.tick();
        if now.is_multiple_of(LOOK_MS) {
            let all = running(&self.machines);
            self.watch.look(&all);
        }
        if now.is_multiple_of(1_000) {
            let counts = self.fabric.counts();
            say!(self.trace, "{} segments, digest {:016x}", counts.segments, counts.digest);
        }
        Ok(())
    }

    /// A process has ended by itself: it is started again, and there had better been a reason.
    fn has_ended(&mut self, at: usize, why: &str) {
        let machine = &mut self.machines[at];
        say!(self.trace, "n{} ends: {why}", machine.number);
        let for_room = machine.disk.is_full() && why.contains("no room");
        match machine.excuse.filter(|_| !for_room).or(for_room.then_some(Kind::FullDisk)) {
            Some(kind) => self.effects.add(kind, 1),
            None => self.trace.violated(format!("n{} has ended by itself: {why}", machine.number)),
        }
        let cut = self.rng.random_bool(0.5);
        if cut {
            machine.power_off(self.rng.random_bool(0.5));
        } else {
            machine.kill();
        }
        machine.starts_at = Some(system::now() + self.rng.random_range(200..1_500));
    }

    fn pass(&mut self, ms: u64) -> anyhow::Result<()> {
        (0..ms).try_for_each(|_| self.step())
    }

    /// Waits until nothing is missing; whether that came about in time, and nothing was violated on the way.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        ms_max: u64,
        missing: impl Fn(&mut Self) -> Vec<String>,
    ) -> anyhow::Result<bool> {
        let began = system::now();
        loop {
            self.pass(LOOK_MS)?;
            if !self.trace.violations().is_empty() {
                return Ok(false);
            }
            let missing = missing(self);
            if missing.is_empty() {
                say!(self.trace, "{what}, after {} ms", system::now() - began);
                return Ok(true);
            }
            if system::now() - began > ms_max {
                self.trace.violated(format!("{ms_max} ms and not so: {what}: {}", missing.join("; ")));
                return Ok(false);
            }
        }
    }

    fn found(&mut self) -> anyhow::Result<()> {
        let silent =
            |world: &mut Self| world.machines.iter().filter(|m| m.node().is_none()).map(|m| format!("{m:?}")).collect();
        if !self.wait("all nodes serve", FOUND_MS_MAX, silent)? {
            return Ok(());
        }
        let addresses = self.machines.iter().map(|machine| format!("{}:7401", address(machine.number))).collect();
        let replication = u32::try_from(REPLICATION)?;
        let wishes = Wishes { shards: self.shards, replication, addresses, random: (self.seed, 1) };
        let node = self.machines[0].node().ok_or_else(|| anyhow::anyhow!("a node that served has ended"))?;
        let trace = self.trace.clone();
        self.machines[0].spawn(async move {
            let call = Call { trace: TraceId::from_random(1), deadline: node.clock().monotonic().plus(20_000) };
            let made = node.bootstrap(wishes, &call).await;
            say!(trace, "founded: {:?}", made.map(|made| made.created).map_err(|error| error.to_string()));
        });
        Ok(())
    }

    /// What is missing until every group has a leader with a quorum, and all its replicas.
    pub(crate) fn is_whole(&mut self) -> Vec<String> {
        let mut missing = Vec::new();
        for machine in self.machines.iter().filter(|m| m.node().is_none() || m.still.is_some()) {
            missing.push(format!("n{} does not serve", machine.number));
        }
        let all = running(&self.machines);
        let runs: BTreeSet<ReplicaId> = all.iter().map(|(_, _, hosted, _)| hosted.replica).collect();
        for group in (0..=self.shards).map(|group| GroupId(u64::from(group))) {
            let mut of_group = all.iter().filter(|(_, _, hosted, _)| hosted.group == group);
            // Within its process: what was answered when is told by the clock of that.
            let has_lost_quorum = |machine: u8, hosted: &Hosted| {
                self.machines[usize::from(machine) - 1].enter(|| hosted.has_lost_quorum()).unwrap_or(true)
            };
            let leads = of_group
                .find(|(machine, _, hosted, status)| status.role == Role::Leader && !has_lost_quorum(*machine, hosted));
            let Some((_, _, _, status)) = leads else {
                missing.push(format!("group {group} has no leader"));
                continue;
            };
            let [voters] = status.members.voters.as_slice() else {
                missing.push(format!("the members of group {group} are being changed"));
                continue;
            };
            let enough = voters.len() >= REPLICATION.min(self.machines.len());
            if !enough || !voters.iter().all(|voter| runs.contains(voter)) {
                missing.push(format!("group {group} has voters {voters:?}, not all of which run"));
            }
            let lags = status.progress.iter().find(|(_, progress)| progress.lag > 50);
            if let Some((replica, progress)) = lags {
                missing.push(format!("replica {replica} of group {group} is {} entries behind", progress.lag));
            }
        }
        for machine in &self.machines {
            let failed = machine.node().map(|node| node.shards().failed()).unwrap_or_default();
            missing.extend(failed.into_iter().map(|(replica, failed)| format!("replica {replica}: {}", failed.why)));
        }
        missing
    }

    /// Which replicas differ.
    fn are_equal(&mut self) -> Vec<String> {
        type State = (u64, u64, Option<(u64, u64)>);
        let mut groups: BTreeMap<GroupId, BTreeSet<State>> = BTreeMap::new();
        for (_, _, hosted, status) in running(&self.machines) {
            let state = (status.applied.unwrap_or(0), status.revision.0, status.digests.first().copied());
            groups.entry(hosted.group).or_default().insert(state);
        }
        groups
            .into_iter()
            .filter(|(_, states)| states.len() > 1)
            .map(|(g, states)| format!("group {g}: {states:?}"))
            .collect()
    }
}
