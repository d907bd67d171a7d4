//! One machine: its disk, its clock, and the process that runs on it, which can be killed, paused and started again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use playhead::net::Net;
use playhead::node::config::{Config, Sources, load};
use playhead::node::{Node, Seeds, Started, Surroundings};
use playhead::raft::GroupConfig;
use playhead::threads::{Pace, Threads, Turns};
use playhead::time::{AwakeOrNotMs, Clock, MonotonicMs, WallMs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;

use crate::disk::{Ending, SimDisk};
use crate::fabric::{Fabric, Machine as Number, address};
use crate::system;
use crate::trace::{self, Trace, say};

/// A machine's clocks.
#[derive(Debug, Default)]
pub(crate) struct MachineClock {
    /// How far its calendar is off, milliseconds.
    pub(crate) off_ms: AtomicI64,
    /// For how long it was suspended, milliseconds.
    pub(crate) suspended_ms: AtomicU64,
}

impl Clock for MachineClock {
    fn monotonic(&self) -> MonotonicMs {
        MonotonicMs(1_000 + system::now() - self.suspended_ms.load(Ordering::Relaxed))
    }

    fn awake_or_not(&self) -> AwakeOrNotMs {
        AwakeOrNotMs(1_000 + system::now())
    }

    fn wall(&self) -> WallMs {
        WallMs(system::wall().saturating_add_signed(self.off_ms.load(Ordering::Relaxed)))
    }

    fn suspended_ms(&self) -> u64 {
        self.suspended_ms.load(Ordering::Relaxed)
    }
}

/// How long a disk takes.
#[derive(Debug)]
pub(crate) struct DiskPace {
    rng: Mutex<StdRng>,
    /// 0 when it is well; else up to so many milliseconds more.
    pub(crate) slow_ms: AtomicU64,
    /// How often it was slow.
    pub(crate) slowed: AtomicU64,
}

impl Pace for DiskPace {
    fn next(&self) -> Duration {
        let mut rng = self.rng.lock();
        let slow = self.slow_ms.load(Ordering::Relaxed);
        let usual = if rng.random_range(0..20) == 0 { rng.random_range(2..15) } else { rng.random_range(0..3) };
        if slow > 0 {
            self.slowed.fetch_add(1, Ordering::Relaxed);
        }
        Duration::from_millis(usual + rng.random_range(0..=slow))
    }
}

/// What a process has come to.
#[derive(Default)]
struct Life {
    node: Mutex<Option<Node>>,
}

struct Process {
    runtime: Runtime,
    life: Arc<Life>,
    ending: Ending,
    /// How far this runtime's clock has come, in virtual time.
    at: u64,
}

/// Why a machine does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Still {
    /// Stopped, and its stopwatch goes on.
    Paused,
    /// With all its clocks but the calendar.
    Suspended,
}

/// See the module.
pub(crate) struct Machine {
    pub(crate) number: Number,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Arc<MachineClock>,
    pub(crate) pace: Arc<DiskPace>,
    fabric: Fabric,
    trace: Trace,
    seed: u64,
    /// The newest cluster version that it speaks, if not the build's.
    version_max: Option<u32>,
    processes: u64,
    process: Option<Process>,
    /// Why it stands still, and until when.
    pub(crate) still: Option<(Still, u64)>,
    /// When its process is started again; `None` while one runs, or none shall.
    pub(crate) starts_at: Option<u64>,
    pub(crate) powered: bool,
    /// When it loses its power.
    pub(crate) dies_at: Option<u64>,
    /// Why the process may end by itself.
    pub(crate) excuse: Option<crate::faults::Kind>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.number)
    }
}

/// Sizes at which everything happens within seconds.
fn groups(number: Number) -> GroupConfig {
    GroupConfig {
        snapshot_lease_ms: 5_000,
        snapshot_piece_bytes: 2 << 10,
        snapshot_piece_ms_max: 2_000,
        snapshot_install_ms_max: 10_000,
        append_entries_max: 16,
        append_ms_max: 1_000,
        checkpoint_log_bytes: 24 << 10,
        checkpoint_ms_max: 6_000,
        log_keep_bytes: 4 << 10,
        whole_log_bytes_max: 2 << 10,
        entry_bytes_max: 32 << 10,
        // On every other machine all is applied as long entries are: apart, and command by command.
        long_entry_bytes: if number.is_multiple_of(2) { 0 } else { GroupConfig::default().long_entry_bytes },
        ..GroupConfig::default()
    }
}

fn config(number: Number, version_max: Option<u32>) -> anyhow::Result<Config> {
    let listen = |port: u16| format!("{}:{port}", address(number));
    let flags = [
        ("data-dir", "data".to_string()),
        ("node-name", format!("n{number}")),
        ("listen-client", listen(7400)),
        ("listen-link", listen(7401)),
        ("listen-admin", listen(7402)),
        ("listen-metrics", listen(7403)),
    ];
    let old = version_max.map(|version| ("compat-version-max", version.to_string()));
    let flags = flags.into_iter().chain(old).map(|(name, value)| (name.to_string(), value)).collect();
    Ok(load(&Sources { flags, ..Sources::default() })?)
}

async fn live(surroundings: Surroundings, config: Config, life: Arc<Life>, seed: u64) -> anyhow::Result<()> {
    let Started { node, client, admin } = Node::start_in(surroundings, config).await?;
    let faces = playhead::rpc::faces(node.clone(), seed).await?;
    *life.node.lock() = Some(node.clone());
    node.announce()?;
    faces.serve(client, admin).await?;
    // What is asked to end is stopped here and not by who asks.
    node.stop().await;
    match node.why_halted() {
        Some(why) => anyhow::bail!(why),
        None => Ok(()),
    }
}

impl Machine {
    pub(crate) fn new(number: Number, fabric: Fabric, trace: Trace, seed: u64, version_max: Option<u32>) -> Self {
        let pace = DiskPace {
            rng: Mutex::new(StdRng::seed_from_u64(seed ^ 0xd15c)),
            slow_ms: AtomicU64::new(0),
            slowed: AtomicU64::new(0),
        };
        Self {
            number,
            disk: SimDisk::new(seed),
            clock: Arc::default(),
            pace: Arc::new(pace),
            fabric,
            trace,
            seed,
            version_max,
            processes: 0,
            process: None,
            still: None,
            starts_at: Some(0),
            powered: true,
            dies_at: None,
            excuse: None,
        }
    }

    /// Starts a process.
    pub(crate) fn boot(&mut self) -> anyhow::Result<()> {
        trace::here(self.number);
        self.starts_at = None;
        self.processes += 1;
        say!(self.trace, "process {} starts", self.processes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let (life, ending) = (Arc::new(Life::default()), Ending::default());
        let seed = self.seed.wrapping_mul(31).wrapping_add(self.processes);
        let surroundings = Surroundings {
            clock: self.clock.clone(),
            // The seed for an id is spread over all its bits.
            seeds: Seeds { node: u64::from(self.number) << 32, jitter: seed },
            threads: Threads::Tasks(self.pace.clone()),
            turns: Turns::default(),
            net: Net::Other(self.fabric.port(self.number)),
            disk: Arc::new(self.disk.for_process(ending.clone())),
            groups: groups(self.number),
        };
        let (config, told, its) = (config(self.number, self.version_max)?, ending.clone(), life.clone());
        runtime.spawn(async move {
            let ended = live(surroundings, config, its, seed).await;
            let why = ended.map_or_else(|error| format!("{error:#}"), |()| "it has stopped".to_string());
            told.lock().get_or_insert(why);
        });
        self.process = Some(Process { runtime, life, ending, at: system::now() });
        trace::here(0);
        Ok(())
    }

    /// Lets the process come to the present. Says why it has ended, if it has.
    pub(crate) fn tick(&mut self) -> Option<String> {
        let now = system::now();
        if self.still.is_some() {
            return None;
        }
        let process = self.process.as_mut()?;
        let late = now - process.at;
        process.at = now;
        trace::here(self.number);
        playhead::planted::here(self.number, self.clock.off_ms.load(Ordering::Relaxed));
        process.runtime.block_on(async {
            if late > 1 {
                tokio::time::advance(Duration::from_millis(late - 1)).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
        trace::here(0);
        process.ending.lock().clone()
    }

    /// After it was suspended its runtime goes on where it was.
    pub(crate) fn wake(&mut self) {
        if let (Some((Still::Suspended, _)), Some(process)) = (self.still, &mut self.process) {
            let slept = system::now() - process.at;
            process.at += slept;
            self.clock.suspended_ms.fetch_add(slept, Ordering::Relaxed);
        }
        self.still = None;
    }

    /// Whether a process runs, paused or not.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// The node, once it serves.
    pub(crate) fn node(&self) -> Option<Node> {
        self.process.as_ref()?.life.node.lock().clone()
    }

    /// Runs something beside the node, in its process.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = &self.process {
            process.runtime.spawn(work);
        }
    }

    /// Within its process, for calls that spawn.
    pub(crate) fn enter<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        let process = self.process.as_ref()?;
        let _here = process.runtime.enter();
        Some(call())
    }

    fn end_process(&mut self) {
        trace::here(self.number);
        if let Some(process) = self.process.take() {
            process.life.node.lock().take();
            // Nothing that its tasks still do while they are dropped may reach the disk, or the network.
            drop(process);
        }
        // What was to go wrong is forgotten with the process.
        self.excuse = None;
        self.dies_at = None;
        self.still = None;
        trace::here(0);
    }

    /// Kills the process; its machine goes on, and loses nothing.
    pub(crate) fn kill(&mut self) {
        self.fabric.killed(self.number);
        self.disk.fs.kill();
        self.end_process();
        self.disk.store.crash(true);
    }

    /// Takes the power away: what was not synced is lost, torn, or there.
    pub(crate) fn power_off(&mut self, keep: bool) {
        self.fabric.power_off(self.number);
        self.disk.fs.crash();
        self.end_process();
        self.disk.store.crash(keep);
        self.powered = false;
    }

    pub(crate) fn power_on(&mut self) {
        if !self.powered {
            self.powered = true;
            self.fabric.power_on(self.number);
        }
    }
}
