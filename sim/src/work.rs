//! What members do meanwhile: registers, accounts at their limit, and households that check every answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use playhead::check::{
    self, Action, Answer, Bounds, History, Info, Mode, Name, Op, Outcome, Revision, Rules, Seen, What,
};
use playhead::client::{AdminClient, Client, Error};
use playhead::device::{Fleet, Plan, Way};
use playhead::net::Net;
use playhead::proto::v1;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;

use crate::fabric::{Fabric, address};
use crate::machine::MachineClock;
use crate::system;
use crate::trace::{self, Trace, say};

/// The machine on which all clients run; nothing ever happens to it.
pub(crate) const PLAYER: u8 = 100;
/// Registers.
const REGISTERS: usize = 3;
/// How many change each register at once.
const WRITERS: usize = 2;
/// Accounts that start more than they may.
const LIMITED: usize = 2;
/// What an account without a policy may have at first, as the settings' default says.
const STREAMS: u16 = 4;
/// The most that anybody ever sets it to.
pub(crate) const STREAMS_MAX: u32 = 4;
/// How old an answer of a bounded read may be.
const BOUND_MS: u64 = 2_000;
/// How often devices are told to report, by the settings that a run begins with.
pub(crate) const INTERVAL_MS: u64 = 10_000;
/// A view that says nothing for so long expires, by the same.
pub(crate) const SILENCE_MS: u64 = 15_000;

/// What all players share.
struct Shared {
    trace: Trace,
    history: Mutex<History>,
    moments: AtomicU64,
    stop: AtomicBool,
    /// Writes that were acknowledged.
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    unavailable: AtomicU64,
    at_work: AtomicU64,
    /// Starts that were refused for want of room on a disk.
    full: AtomicU64,
    /// Of each register: the revision of a write.
    revisions: Mutex<BTreeMap<String, String>>,
    /// Reads that were degraded.
    read_stale: AtomicU64,
}

impl Shared {
    /// Virtual time in microseconds, different each time that it is asked for.
    fn moment(&self) -> u64 {
        system::now() * 1000 + self.moments.fetch_add(1, Ordering::Relaxed) % 1000
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, account: &str, op: Op) {
        self.history.lock().note(account, op);
    }
}

/// The number in a revision, which callers are not meant to look into.
fn number(revision: &str) -> u64 {
    revision.rsplit('-').next().and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

/// All players. They live in a runtime of their own, on a machine of their own.
pub(crate) struct Players {
    runtime: Runtime,
    shared: Arc<Shared>,
    clients: Vec<Client>,
    pub(crate) admin: AdminClient,
    clock: Arc<MachineClock>,
    fleet: Arc<Mutex<Option<Fleet>>>,
    /// What the end of the households came to.
    ended: Arc<Mutex<Option<bool>>>,
    /// The households' last check, while it is under way: it can't leave this thread.
    ending: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    seed: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) unavailable: u64,
    pub(crate) read_stale: u64,
}

impl Players {
    pub(crate) fn new(nodes: u8, fabric: &Fabric, trace: &Trace, seed: u64) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let clock = Arc::new(MachineClock::default());
        let net = || Net::Other(fabric.port(PLAYER));
        let here = runtime.enter();
        let endpoints = |port: u16, first: u8| {
            (0..nodes).map(move |n| format!("http://{}:{port}", address((first + n) % nodes + 1)))
        };
        let client = |first: u8| {
            Client::builder(clock.clone(), seed ^ u64::from(first))
                .net(net())
                .endpoints(endpoints(7400, first))
                .deadline(Duration::from_secs(4))
                .attempt(Duration::from_millis(1_500))
                .follow_hints(first.is_multiple_of(2))
                .build()
        };
        let clients = (0..nodes).map(client).collect::<Result<Vec<_>, _>>()?;
        let admin = Client::builder(clock.clone(), seed ^ 0xad).net(net()).endpoints(endpoints(7402, 0));
        let admin = admin.deadline(Duration::from_secs(3)).build_admin()?;
        drop(here);
        let shared = Shared {
            trace: trace.clone(),
            history: Mutex::new(History::new(Rules { limit: STREAMS, ..Rules::default() })),
            moments: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            unavailable: AtomicU64::new(0),
            at_work: AtomicU64::new(0),
            full: AtomicU64::new(0),
            revisions: Mutex::default(),
            read_stale: AtomicU64::new(0),
        };
        Ok(Self {
            runtime,
            shared: Arc::new(shared),
            clients,
            admin,
            clock,
            fleet: Arc::default(),
            ended: Arc::default(),
            ending: RefCell::new(None),
            seed,
        })
    }

    /// Lets a millisecond pass.
    pub(crate) fn tick(&self) {
        trace::here(PLAYER);
        let mut ending = self.ending.borrow_mut();
        let over = self.runtime.block_on(async {
            let mut passed = std::pin::pin!(tokio::time::sleep(Duration::from_millis(1)));
            let Some(end) = ending.as_mut() else {
                passed.await;
                return false;
            };
            tokio::select! {
                biased;
                () = end => {
                    passed.await;
                    true
                }
                () = &mut passed => false,
            }
        });
        if over {
            *ending = None;
        }
        trace::here(0);
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// Everybody begins.
    pub(crate) fn begin(&self, calendars_jump: bool) {
        let here = self.runtime.enter();
        let mut number = 0;
        let mut player = |kind: &str, account: usize, play: Play| {
            number += 1;
            let client = self.clients[number % self.clients.len()].clone();
            let rng = StdRng::seed_from_u64(self.seed.wrapping_mul(77) ^ number as u64);
            let one = Player { account: format!("{kind}-{account}"), number, client, rng, shared: self.shared.clone() };
            self.shared.at_work.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(one.play(play));
        };
        for account in 0..REGISTERS {
            (0..WRITERS).for_each(|_| player("register", account, Play::Write));
            player("register", account, Play::Read);
        }
        for account in 0..LIMITED {
            (0..3).for_each(|_| player("limited", account, Play::Start));
            player("limited", account, Play::Count);
        }
        let plan = Plan {
            interval: Duration::from_millis(400),
            way: Way::Both { streams: 1, window: 4 },
            told: Duration::from_millis(INTERVAL_MS),
            silence: Duration::from_millis(SILENCE_MS),
            calendars_jump,
            ..Plan::new(4, self.seed)
        };
        *self.fleet.lock() = Some(Fleet::start(self.clients[0].clone(), self.clock.clone(), plan));
        drop(here);
    }

    /// Tells everybody to end what is under way; see [`Self::has_ended`].
    pub(crate) fn end(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Some(fleet) = self.fleet.lock().take() else { return };
        let (clients, ended, trace) = (self.clients.clone(), self.ended.clone(), self.shared.trace.clone());
        *self.ending.borrow_mut() = Some(Box::pin(async move {
            let report = fleet.stop().await.check(&clients).await;
            for what in &report.counters.described {
                trace.violated(format!("a household: {what}"));
                let account = what.split(':').next().unwrap_or_default();
                tell_all_of(&clients[0], account, &trace).await;
            }
            let counters = &report.counters;
            say!(
                trace,
                "households: {} of {} checked, {} reports, {} facts, {} unknown, {} mismatches",
                report.households_checked,
                report.households,
                counters.reports_acknowledged,
                counters.facts,
                counters.unknown,
                counters.mismatches
            );
            *ended.lock() = Some(report.is_right());
        }));
    }

    /// Whether everybody has come to an end.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.at_work.load(Ordering::Relaxed) == 0 && self.ended.lock().is_some()
    }

    pub(crate) fn done(&self) -> Done {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let shared = &self.shared;
        Done {
            acknowledged: get(&shared.acknowledged),
            unknown: get(&shared.unknown),
            unavailable: get(&shared.unavailable),
            read_stale: get(&shared.read_stale),
        }
    }

    /// How often somebody was refused for want of room on a disk, since this was asked last.
    pub(crate) fn take_full(&self) -> u64 {
        self.shared.full.swap(0, Ordering::Relaxed)
    }

    /// Looks for an order of everything that was done to each register.
    pub(crate) fn check(&self) {
        let report = check::check(&self.shared.history.lock(), &Bounds::default());
        say!(self.shared.trace, "history: {}", report.counts);
        for story in &report.wrong {
            self.shared.trace.violated(format!("not linearizable: {story}"));
        }
        for account in &report.gave_up {
            say!(self.shared.trace, "the history of {account} was too much to be searched");
        }
        if *self.ended.lock() == Some(false) {
            self.shared.trace.violated("a household was contradicted or could not be read at the end".to_string());
        }
    }
}

/// Tells the trace what the cluster has of an account, for whoever has to find out what went wrong.
async fn tell_all_of(client: &Client, account: &str, trace: &Trace) {
    let request = v1::ListActiveViewsRequest { account_id: account.to_string(), read_options: None };
    say!(trace, "of {account}: {:?}", client.list_active_views(request).await.map(|answer| answer.views));
    for profile_id in ["parent", "partner", "kids"].map(str::to_string) {
        let account_id = account.to_string();
        let request = v1::ListHistoryRequest {
            account_id,
            profile_id,
            page_size: 100,
            include_plays: true,
            ..Default::default()
        };
        say!(trace, "of {account}: {:?}", client.list_history(request).await.map(|answer| answer.entries));
    }
}

/// What a player does over and over.
#[derive(Clone, Copy, Debug)]
enum Play {
    /// Changes a register.
    Write,
    /// Reads a register.
    Read,
    /// Starts views, also more than are allowed.
    Start,
    /// Counts the views that run.
    Count,
}

struct Player {
    account: String,
    number: usize,
    client: Client,
    rng: StdRng,
    shared: Arc<Shared>,
}

impl Player {
    async fn play(mut self, play: Play) {
        let mut round = 0;
        while !self.shared.stops() {
            round += 1;
            let wait = self.rng.random_range(20..600);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            match play {
                Play::Write => self.write(round).await,
                Play::Read => self.read().await,
                Play::Start => self.start(round).await,
                Play::Count => self.count().await,
            }
        }
        // Each register is read once more when all is well.
        if matches!(play, Play::Read) {
            self.read_as(Mode::Strong, None).await;
        }
        self.shared.at_work.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells the trace, counts, and says whether it happened: `None` when nobody knows.
    fn came_of<T>(&self, what: &str, answer: &Result<T, Error>) -> Option<bool> {
        let (account, number, shared) = (&self.account, self.number, &self.shared);
        match answer {
            Ok(_) => {
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                say!(shared.trace, "{account} {number} {what}: committed");
                Some(true)
            }
            Err(Error::Unknown { last, .. }) => {
                shared.unknown.fetch_add(1, Ordering::Relaxed);
                say!(shared.trace, "{account} {number} {what}: unknown, {last}");
                None
            }
            Err(Error::Unavailable { last, reason, .. }) => {
                shared.full.fetch_add(u64::from(*reason == v1::ErrorReason::DiskFull), Ordering::Relaxed);
                shared.unavailable.fetch_add(1, Ordering::Relaxed);
                say!(shared.trace, "{account} {number} {what}: unavailable, {last}");
                Some(false)
            }
            Err(Error::Rejected(rejection)) => {
                let full = rejection.reason == v1::ErrorReason::DiskFull;
                shared.full.fetch_add(u64::from(full), Ordering::Relaxed);
                say!(shared.trace, "{account} {number} {what}: rejected, {:?}", rejection.reason);
                Some(false)
            }
        }
    }

    fn note(&self, invoked_us: u64, what: What) {
        let client = u32::try_from(self.number).unwrap_or(0);
        self.shared.note(&self.account, Op { client, invoked_us, returned_us: self.shared.moment(), what });
    }

    async fn write(&mut self, round: u64) {
        let value: u16 = self.rng.random_range(1..=64);
        let policy = Some(v1::StreamPolicy { max_streams: value.into(), ..Default::default() });
        let request_id = format!("{}-{round}", self.number);
        let request = v1::UpdateStreamPolicyRequest { account_id: self.account.clone(), request_id, policy };
        let began = self.shared.moment();
        let mut answer = self.client.update_stream_policy(request.clone()).await;
        // Whoever does not know asks again, under the same id.
        for _ in 0..3 {
            if !matches!(answer, Err(Error::Unknown { .. })) {
                break;
            }
            let again = self.client.update_stream_policy(request.clone()).await;
            // That one attempt was not taken says nothing about those before it.
            if again.is_ok() {
                answer = again;
            }
        }
        let revision = answer.as_ref().ok().and_then(|answer| answer.write_info.as_ref()).map(|w| w.revision.clone());
        let outcome = match self.came_of(&format!("sets {value}"), &answer) {
            Some(true) => {
                let by = revision.as_ref().map(|revision| Revision::By(number(revision)));
                self.shared.revisions.lock().extend(revision.map(|revision| (self.account.clone(), revision)));
                Outcome::Committed(Answer::Done, by)
            }
            Some(false) => Outcome::Unavailable,
            None => Outcome::Unknown,
        };
        self.note(began, What::Write(Action::SetLimit { streams: value }, outcome));
    }

    /// Reads in a mode that is drawn.
    async fn read(&mut self) {
        let revision = self.shared.revisions.lock().get(&self.account).cloned();
        let (mode, options) = match (self.rng.random_range(0..10), revision) {
            (0..4, _) => (Mode::Strong, None),
            (4..6, _) => (Mode::Lease, Some(v1::ReadOptions::lease())),
            (6, Some(revision)) => (Mode::Session(number(&revision)), Some(v1::ReadOptions::session(revision))),
            (7, _) => (Mode::Bounded(BOUND_MS), Some(v1::ReadOptions::bounded(Duration::from_millis(BOUND_MS)))),
            _ => (Mode::Any, Some(v1::ReadOptions::any())),
        };
        let falls_back = mode != Mode::Any && self.rng.random_bool(0.3);
        let options = match (options, falls_back) {
            (options, true) => Some(options.unwrap_or_default().or_stale_after(Duration::from_millis(300))),
            (options, false) => options,
        };
        self.read_as(mode, options).await;
    }

    async fn read_as(&self, mode: Mode, read_options: Option<v1::ReadOptions>) {
        let request = v1::GetStreamPolicyRequest { account_id: self.account.clone(), read_options };
        let began = self.shared.moment();
        match self.client.get_stream_policy(request).await {
            Ok(answer) => {
                let value = answer.policy.map_or(0, |policy| policy.max_streams);
                let told = answer.read_info.unwrap_or_default();
                let mode = if told.mode() == v1::ReadMode::Any { Mode::Any } else { mode };
                let age = told.age_ms;
                say!(self.shared.trace, "{} {} reads {value}, {mode:?}, {age:?}", self.account, self.number);
                self.shared.read_stale.fetch_add(u64::from(told.degraded), Ordering::Relaxed);
                let seen = Seen::Limit(u16::try_from(value).unwrap_or(0));
                let info = Info {
                    by: Some(Name::from(told.served_by.as_str())),
                    revision: Some(number(&told.revision)),
                    degraded: told.degraded,
                    age_ms: age.and_then(|ms| u64::try_from(ms).ok()),
                };
                self.note(began, What::Read { mode, seen, info });
            }
            Err(error) => say!(self.shared.trace, "{} {} reads nothing: {error}", self.account, self.number),
        }
    }

    async fn start(&mut self, round: u64) {
        let view_id = format!("view-{}-{round}", self.number);
        let request = v1::StartViewRequest {
            account_id: self.account.clone(),
            view_id: view_id.clone(),
            profile_id: "all".to_string(),
            device_id: format!("device-{}-{}", self.number, round % 2),
            title_id: format!("title-{}", round % 3),
            duration_ms: Some(3_600_000),
            ..Default::default()
        };
        let started = self.client.start_view(request).await;
        if self.came_of("starts", &started) != Some(true) {
            return;
        }
        for sequence in 1..self.rng.random_range(2..6) {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(50..400))).await;
            let report = v1::ProgressReport {
                account_id: self.account.clone(),
                view_id: view_id.clone(),
                sequence,
                position_ms: Some(i64::try_from(sequence * 60_000).unwrap_or(0)),
                ..Default::default()
            };
            let reported = self.client.report(report).await;
            self.came_of("reports", &reported);
        }
        // A third of them is never stopped, and expires.
        if !self.rng.random_bool(0.3) {
            let request = v1::StopViewRequest { account_id: self.account.clone(), view_id, ..Default::default() };
            let stopped = self.client.stop_view(request).await;
            self.came_of("stops", &stopped);
        }
    }

    async fn count(&mut self) {
        let request = v1::ListActiveViewsRequest { account_id: self.account.clone(), read_options: None };
        match self.client.list_active_views(request).await {
            // One that was let in while nobody could decide counts for nothing here.
            Ok(answer) if answer.views.iter().filter(|view| !view.degraded).count() > STREAMS_MAX as usize => {
                let views: Vec<_> = answer.views.iter().map(|view| view.view_id.as_str()).collect();
                self.shared.trace.violated(format!("{} watches {views:?} at once", self.account));
            }
            Ok(answer) => {
                say!(self.shared.trace, "{} watches {} at {}", self.account, answer.views.len(), system::now())
            }
            Err(error) => say!(self.shared.trace, "{} counts nothing: {error}", self.account),
        }
    }
}
