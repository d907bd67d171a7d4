//! Households that watch while things are broken, and write down every call for the checker.
//!
//! Each account has two devices that start, report and stop at the same time, and a reader by strong reads. One reader a node asks it
//! for stale answers. Writes are not repeated by their callers: whatever has no answer in time stays unknown, and the checker has to
//! explain it. What was only *accepted* is no acknowledgement: it is noted apart, and has to be found once all is well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use playhead::check::{
    Action, Answer, History, Info, Mode, Name, OnLimit, Op, Outcome, Refusal, Revision, Rules, Seen, SeenView, What,
};
use playhead::client::{Client, Error, is_accepted};
use playhead::proto::v1;
use playhead::time::Clock;
use tokio::task::JoinHandle;

use crate::accepted::{Accepted, Found};
use crate::support::devices::Device;
use crate::support::{Cluster, Result};

const ACCOUNTS: usize = 12;
const DEVICES: usize = 2;
/// What each report says was played: a stretch of its own.
const PLAYED_MS: i64 = 100;
/// The most reports of a view: as many as are believed at once, so that each shows.
const REPORTS_MAX: u64 = 40;
const PAUSE: Duration = Duration::from_millis(50);
/// Patience with a write.
const PATIENCE: Duration = Duration::from_millis(1500);
/// After so long another node is asked.
const ATTEMPT: Duration = Duration::from_millis(500);
/// Patience with a stale read.
const STALE_PATIENCE: Duration = Duration::from_millis(500);
/// How old a bounded read may be.
const BOUND: Duration = Duration::from_secs(2);
/// When a stale read takes what there is.
const STALE_AFTER: Duration = Duration::from_millis(200);
const PROFILE: &str = "p";
/// Who was only accepted has time: the checker has to find out which of these writes came about.
const AFTER_ACCEPTED: Duration = Duration::from_millis(300);
/// After so long what was accepted and is not found counts as lost. Several nodes may have taken something of one view; who has not
/// taken its start tries again after seconds.
const HANDED_OFF: Duration = Duration::from_secs(40);

/// What the clients of one case share.
pub(crate) struct Load {
    clock: Arc<dyn Clock>,
    client: Client,
    name: String,
    shards: u32,
    stop: AtomicBool,
    history: Mutex<History>,
    /// When writes of a shard were acknowledged.
    acks: Mutex<BTreeMap<u32, Vec<u64>>>,
    /// How many reports of a view were acknowledged, its stop among them.
    told: Mutex<BTreeMap<(String, String), u64>>,
    /// What was only accepted.
    hinted: Mutex<Accepted>,
    /// When a stale read was asked, and whether it was answered.
    stale: Mutex<Vec<(u64, bool)>>,
    numbers: AtomicU64,
}

/// What came of a load.
pub(crate) struct Came {
    pub(crate) acknowledged: u64,
    pub(crate) lost: u64,
    pub(crate) unknown: u64,
    pub(crate) accepted: u64,
    pub(crate) accepted_lost: u64,
    pub(crate) stories: Vec<String>,
    pub(crate) gave_up: usize,
    pub(crate) gaps_ms: Vec<u64>,
    pub(crate) stale: (u64, u64),
}

fn number(revision: &str) -> Option<u64> {
    u64::from_str_radix(revision.rsplit('-').next()?, 16).ok()
}

fn by(info: Option<&v1::WriteInfo>) -> Option<Revision> {
    number(&info?.revision).map(Revision::By)
}

fn name(text: &str) -> Name {
    Name::from(text)
}

fn ms(ms: Option<i64>) -> Option<u64> {
    ms.and_then(|ms| u64::try_from(ms).ok())
}

fn seen(view: &v1::View) -> SeenView {
    SeenView {
        view: name(&view.view_id),
        device: name(&view.device_id),
        sequence: view.sequence,
        position_ms: ms(view.position_ms),
        watched_ms: u64::try_from(view.watched_ms).ok(),
        holds_stream: view.holds_stream,
        degraded: view.degraded,
    }
}

/// Where a device is when it has made so many reports.
fn position(sequence: u64) -> i64 {
    600_000 + 100 * i64::try_from(sequence).unwrap_or(0)
}

fn played(sequence: u64) -> Vec<v1::PlayedRange> {
    let start_ms = PLAYED_MS * i64::try_from(sequence).unwrap_or(0);
    vec![v1::PlayedRange { start_ms, end_ms: start_ms + PLAYED_MS }]
}

impl Load {
    pub(crate) fn new(cluster: &Cluster, name: &str) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            clock: cluster.clock.clone(),
            client: Client::builder(cluster.clock.clone(), playhead::ambient::random_u64())
                .endpoints(cluster.local.client_endpoints())
                .attempt(ATTEMPT)
                .deadline(PATIENCE)
                .build()?,
            name: name.to_string(),
            shards: cluster.shards,
            stop: AtomicBool::new(false),
            history: Mutex::new(History::new(Rules { hints: true, ..Rules::default() })),
            acks: Mutex::default(),
            told: Mutex::default(),
            hinted: Mutex::default(),
            stale: Mutex::default(),
            numbers: AtomicU64::new(0),
        }))
    }

    /// Sets everybody to work.
    pub(crate) fn run(self: &Arc<Self>, cluster: &Cluster) -> Result<Vec<JoinHandle<()>>> {
        let mut tasks = Vec::new();
        for account in self.accounts() {
            for device in 0..DEVICES {
                tasks.push(tokio::spawn(self.clone().play(account.clone(), device)));
            }
            tasks.push(tokio::spawn(self.clone().read(account)));
        }
        for node in cluster.local.names() {
            tasks.push(tokio::spawn(self.clone().read_stale(cluster.client_of(&node, STALE_PATIENCE)?)));
        }
        Ok(tasks)
    }

    fn accounts(&self) -> Vec<String> {
        (0..ACCOUNTS).map(|n| format!("{}-{n}", self.name)).collect()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn now_us(&self) -> u64 {
        self.clock.monotonic().0 * 1000
    }

    fn note(&self, account: &str, invoked_us: u64, what: What) {
        // The clock tells whole milliseconds: the answer came before the next one.
        let op = Op { client: 0, invoked_us, returned_us: self.now_us() + 999, what };
        self.history.lock().note(account, op);
    }

    fn acknowledged(&self, account: &str, view: &str, reports: u64) {
        let shard = Device::new(account.to_string(), self.shards).shard;
        self.acks.lock().entry(shard).or_default().push(self.clock.monotonic().0);
        *self.told.lock().entry((account.to_string(), view.to_string())).or_default() += reports;
    }

    async fn play(self: Arc<Self>, account: String, device: usize) {
        while !self.stopping() {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            let view = format!("v{number}");
            if self.start(&account, &view, device).await {
                let reports = 5 + number * 7 % (REPORTS_MAX - 6);
                self.report_and_stop(&account, &view, reports).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn start(&self, account: &str, view: &str, device: usize) -> bool {
        let (device, title) = (format!("d{device}"), format!("t{device}"));
        let request = v1::StartViewRequest {
            account_id: account.into(),
            view_id: view.into(),
            profile_id: PROFILE.into(),
            device_id: device.clone(),
            title_id: title.clone(),
            duration_ms: Some(6_000_000),
            position_ms: Some(position(0)),
            ..Default::default()
        };
        let action = Action::Start {
            view: name(view),
            device: name(&device),
            title: name(&title),
            position_ms: ms(Some(position(0))),
            takes_stream: true,
            on_limit: OnLimit::Reject,
        };
        let began = self.now_us();
        let (outcome, runs) = match self.client.start_view(request).await {
            Ok(answer) if is_accepted(answer.write_info.as_ref()) => {
                self.hinted.lock().start(account, view);
                (Outcome::Accepted, true)
            }
            Ok(answer) => {
                self.acknowledged(account, view, 0);
                let started = answer.started.unwrap_or_default();
                let ended = started.ended_view_ids.iter().map(|view| name(view)).collect();
                let degraded = started.view.is_some_and(|view| view.degraded);
                let told = Answer::Started { ended, repeated: started.already_active, degraded };
                (Outcome::Committed(told, by(answer.write_info.as_ref())), true)
            }
            Err(error) => {
                let outcome = failed(&error);
                let runs = matches!(outcome, Outcome::Unknown);
                (outcome, runs)
            }
        };
        self.note(account, began, What::Write(action, outcome));
        runs
    }

    async fn report_and_stop(&self, account: &str, view: &str, reports: u64) {
        for sequence in 1..=reports {
            if self.stopping() || !self.report(account, view, sequence).await {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let sequence = reports + 1;
        let request = v1::StopViewRequest {
            account_id: account.into(),
            view_id: view.into(),
            sequence: Some(sequence),
            position_ms: Some(position(sequence)),
            played_ranges: played(sequence),
            ..Default::default()
        };
        let action = Action::Stop {
            view: name(view),
            sequence: Some(sequence),
            position_ms: ms(Some(position(sequence))),
            played_ms: PLAYED_MS.unsigned_abs(),
        };
        let began = self.now_us();
        let outcome = match self.client.stop_view(request).await {
            Ok(answer) if is_accepted(answer.write_info.as_ref()) => {
                self.hinted.lock().stop(account, view, sequence);
                Outcome::Accepted
            }
            Ok(answer) => {
                self.acknowledged(account, view, 1);
                Outcome::Committed(Answer::Done, by(answer.write_info.as_ref()))
            }
            Err(error) => failed(&error),
        };
        self.note(account, began, What::Write(action, outcome));
    }

    /// Whether the view goes on.
    async fn report(&self, account: &str, view: &str, sequence: u64) -> bool {
        let report = v1::ProgressReport {
            account_id: account.into(),
            view_id: view.into(),
            sequence,
            position_ms: Some(position(sequence)),
            state: v1::PlayState::Playing.into(),
            played_ranges: played(sequence),
            ..Default::default()
        };
        let action = Action::Progress {
            view: name(view),
            sequence,
            position_ms: ms(Some(position(sequence))),
            played_ms: PLAYED_MS.unsigned_abs(),
        };
        let began = self.now_us();
        let (outcome, goes_on) =
            match self.client.report_progress(v1::ReportProgressRequest { report: Some(report) }).await {
                Ok(answer) if is_accepted(answer.write_info.as_ref()) => {
                    self.hinted.lock().report(account, view, sequence);
                    tokio::time::sleep(AFTER_ACCEPTED).await;
                    (Outcome::Accepted, true)
                }
                Ok(answer) => {
                    let revision = by(answer.write_info.as_ref());
                    let result = answer.result.unwrap_or_default();
                    if result.directive() == v1::Directive::Stop {
                        (Outcome::Refused(Refusal::NotActive, revision), false)
                    } else {
                        self.acknowledged(account, view, 1);
                        (Outcome::Committed(Answer::Progressed { applied: result.applied }, revision), true)
                    }
                }
                Err(error) => {
                    let outcome = failed(&error);
                    let goes_on = !matches!(outcome, Outcome::Refused(..));
                    (outcome, goes_on)
                }
            };
        self.note(account, began, What::Write(action, outcome));
        goes_on
    }

    async fn read(self: Arc<Self>, account: String) {
        for turn in 0u64.. {
            if self.stopping() {
                return;
            }
            let strong = Some(v1::ReadOptions::strong());
            // What is not answered in time says nothing.
            if turn % 3 == 2 {
                let _ = self.read_left(&self.client, &account, 0, Mode::Strong, strong).await;
            } else {
                let _ = self.read_active(&self.client, &account, Mode::Strong, strong).await;
            }
            tokio::time::sleep(PAUSE * 3).await;
        }
    }

    /// Asks one node for what it has, in each mode that does without a quorum.
    async fn read_stale(self: Arc<Self>, client: Client) {
        let accounts = self.accounts();
        let mut newest: BTreeMap<String, String> = BTreeMap::new();
        for turn in 0.. {
            if self.stopping() {
                return;
            }
            let account = &accounts[turn % accounts.len()];
            let (mode, options) = match (turn / accounts.len() % 3, newest.get(account)) {
                (0, Some(revision)) => {
                    let least = number(revision).unwrap_or(0);
                    (Mode::Session(least), v1::ReadOptions::session(revision.clone()))
                }
                (1, _) => (Mode::Bounded(BOUND.as_millis() as u64), v1::ReadOptions::bounded(BOUND)),
                _ => (Mode::Any, v1::ReadOptions::any()),
            };
            let asked = self.clock.monotonic().0;
            let options = options.or_stale_after(STALE_AFTER);
            let answer = self.list_active(&client, account, mode, Some(options)).await;
            self.stale.lock().push((asked, answer.is_ok()));
            if let Ok(v1::ListActiveViewsResponse { read_info: Some(info), .. }) = answer
                && !info.degraded
            {
                newest.insert(account.clone(), info.revision);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn list_active(
        &self,
        client: &Client,
        account: &str,
        mode: Mode,
        read_options: Option<v1::ReadOptions>,
    ) -> Result<v1::ListActiveViewsResponse, Error> {
        let began = self.now_us();
        let request = v1::ListActiveViewsRequest { account_id: account.into(), read_options };
        let answer = client.list_active_views(request).await?;
        let (seen, info) = (Seen::Active(answer.views.iter().map(seen).collect()), answer.read_info.as_ref());
        // One that could not be had as asked says so.
        let fell_back = info.is_some_and(|info| info.mode() == v1::ReadMode::Any);
        let mode = if fell_back { Mode::Any } else { mode };
        self.note(account, began, What::Read { mode, seen, info: self::info(info) });
        Ok(answer)
    }

    async fn read_active(
        &self,
        client: &Client,
        account: &str,
        mode: Mode,
        read_options: Option<v1::ReadOptions>,
    ) -> Result<Vec<v1::View>, Error> {
        Ok(self.list_active(client, account, mode, read_options).await?.views)
    }

    async fn read_left(
        &self,
        client: &Client,
        account: &str,
        device: usize,
        mode: Mode,
        read_options: Option<v1::ReadOptions>,
    ) -> Result<(), Error> {
        let title = format!("t{device}");
        let began = self.now_us();
        let request = v1::GetResumePointRequest {
            account_id: account.into(),
            profile_id: PROFILE.into(),
            title_id: title.clone(),
            read_options,
        };
        let answer = client.get_resume_point(request).await?;
        let position_ms = ms(answer.resume_point.unwrap_or_default().last_position_ms);
        let (seen, info) = (Seen::Left { title: name(&title), position_ms }, info(answer.read_info.as_ref()));
        self.note(account, began, What::Read { mode, seen, info });
        Ok(())
    }

    /// All plays of an account, the first in front, with what the answer says of itself.
    async fn list_plays(client: &Client, account: &str) -> Result<(Vec<v1::Play>, Option<v1::ReadInfo>), Error> {
        let (mut plays, mut page_token, mut of) = (Vec::new(), String::new(), None);
        loop {
            let request = v1::ListHistoryRequest {
                account_id: account.into(),
                profile_id: PROFILE.into(),
                page_size: 1000,
                page_token,
                include_plays: true,
                ..Default::default()
            };
            let page = client.list_history(request).await?;
            plays.extend(page.entries.into_iter().flat_map(|entry| entry.plays));
            of = page.read_info.or(of);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let at = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
        plays.sort_by_key(|play: &v1::Play| (at(play.start_time), at(play.end_time), play.position_ms));
        Ok((plays, of))
    }

    /// The same, noted.
    async fn read_history(&self, client: &Client, account: &str) -> Result<Vec<v1::Play>, Error> {
        let began = self.now_us();
        let (plays, of) = Self::list_plays(client, account).await?;
        // What is handed off late is a further play of its view, and the last one counts.
        let views = plays.iter().map(|play| (name(&play.view_id), ms(play.position_ms))).collect();
        self.note(account, began, What::Read { mode: Mode::Strong, seen: Seen::Ended(views), info: info(of.as_ref()) });
        Ok(plays)
    }

    /// Has everybody stop, reads everything back through every node, and judges it. `from_ms` to `until_ms` is the fault,
    /// `shards` are those that it concerns, and all was well again at `healed_ms`.
    pub(crate) async fn end(
        &self,
        cluster: &Cluster,
        tasks: Vec<JoinHandle<()>>,
        shards: &[u32],
        (from_ms, until_ms, healed_ms): (u64, u64, u64),
    ) -> Result<Came> {
        self.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await?;
        }
        let accepted_lost = self.not_handed_off(cluster).await?;
        let mut lost = 0;
        for (n, node) in cluster.local.names().iter().enumerate() {
            let client = cluster.client_of(node, Duration::from_secs(20))?;
            let accounts = self.accounts();
            let missing = accounts.iter().map(async |account| {
                self.read_back(&client, account).await.map_err(|e| format!("{account} through {node}: {e}"))
            });
            let missing: u64 = futures::future::try_join_all(missing).await?.into_iter().sum();
            if n == 0 {
                lost = missing;
            }
        }
        let history = std::mem::take(&mut *self.history.lock());
        let bounds = playhead::check::Bounds { steps_max: 600_000, ..Default::default() };
        let report = playhead::check::check(&history, &bounds);
        let (gaps_ms, stale) = (self.gaps(shards, from_ms, healed_ms), self.stale.lock());
        let meanwhile = stale.iter().filter(|(asked, _)| (from_ms..until_ms).contains(asked));
        let answered = meanwhile.clone().filter(|(_, answered)| *answered).count() as u64;
        Ok(Came {
            acknowledged: self.acks.lock().values().map(|acks| acks.len() as u64).sum(),
            lost,
            unknown: report.counts.unknown,
            accepted: report.counts.accepted,
            accepted_lost,
            stories: report.wrong.iter().map(ToString::to_string).collect(),
            gave_up: report.gave_up.len(),
            gaps_ms,
            stale: (answered, meanwhile.count() as u64),
        })
    }

    /// Reads all of an account; how many acknowledged reports are missing from it.
    async fn read_back(&self, client: &Client, account: &str) -> Result<u64, Error> {
        let active = self.read_active(client, account, Mode::Strong, Some(v1::ReadOptions::strong())).await?;
        for device in 0..DEVICES {
            self.read_left(client, account, device, Mode::Strong, Some(v1::ReadOptions::strong())).await?;
        }
        let plays = self.read_history(client, account).await?;
        let found = found(&plays, &active);
        let told = self.told.lock();
        let of_account = told.iter().filter(|((of, _), _)| of == account);
        let missing = of_account.map(|((_, view), reports)| {
            let watched_ms = found.get(view).map(|found| found.watched_ms);
            // A view without a trace: its start is lost, too.
            let least = u64::from(watched_ms.is_none());
            reports.saturating_sub(watched_ms.unwrap_or(0).unsigned_abs() / PLAYED_MS.unsigned_abs()).max(least)
        });
        Ok(missing.sum())
    }

    /// Waits until all that was accepted is found; how much never is.
    async fn not_handed_off(&self, cluster: &Cluster) -> Result<u64> {
        let client = cluster.client(Duration::from_secs(20))?;
        let from_ms = self.clock.monotonic().0;
        loop {
            let mut missing = 0;
            for account in self.accounts().iter().filter(|account| self.hinted.lock().has(account)) {
                let request = v1::ListActiveViewsRequest { account_id: account.clone(), read_options: None };
                let active = client.list_active_views(request).await?.views;
                let found = found(&Self::list_plays(&client, account).await?.0, &active);
                let told = self.told.lock();
                let is_known = |view: &str| told.contains_key(&(account.clone(), view.to_string()));
                missing += self.hinted.lock().missing(account, &found, position, is_known);
            }
            if missing == 0 || self.clock.monotonic().0 - from_ms > HANDED_OFF.as_millis() as u64 {
                return Ok(missing);
            }
            tokio::time::sleep(PAUSE * 4).await;
        }
    }

    /// For each of the shards, the longest time without an acknowledged write from the fault on until all was well.
    fn gaps(&self, shards: &[u32], from_ms: u64, healed_ms: u64) -> Vec<u64> {
        let acks = self.acks.lock();
        let of_shard = shards.iter().filter_map(|shard| acks.get(shard));
        let mut gaps: Vec<u64> = of_shard
            .map(|times| {
                let mut times: Vec<u64> = times.clone();
                times.sort_unstable();
                let first = times.partition_point(|at| *at < from_ms).saturating_sub(1);
                let last = times.partition_point(|at| *at <= healed_ms);
                let ends = times.get(last).copied().unwrap_or(healed_ms);
                let inside = times[first..last].iter().copied().chain([ends]).collect::<Vec<_>>();
                inside.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(healed_ms - from_ms)
            })
            .collect();
        gaps.sort_unstable();
        gaps
    }
}

/// What there is of every view.
fn found(plays: &[v1::Play], active: &[v1::View]) -> BTreeMap<String, Found> {
    let mut views: BTreeMap<String, Found> = BTreeMap::new();
    for play in plays {
        let found = views.entry(play.view_id.clone()).or_default();
        found.position_ms = found.position_ms.max(play.position_ms);
        found.watched_ms += play.watched_ms;
    }
    for view in active {
        let found = views.entry(view.view_id.clone()).or_default();
        found.position_ms = found.position_ms.max(view.position_ms);
        found.watched_ms = found.watched_ms.max(view.watched_ms);
        found.runs = true;
    }
    views
}

fn info(info: Option<&v1::ReadInfo>) -> Info {
    let Some(info) = info else { return Info::default() };
    Info {
        by: Some(name(&info.served_by)),
        revision: number(&info.revision),
        degraded: info.degraded,
        age_ms: ms(info.age_ms),
    }
}

/// What a write came to that was not acknowledged.
fn failed(error: &Error) -> Outcome {
    use v1::ErrorReason as R;
    let rejection = match error {
        Error::Unknown { .. } => return Outcome::Unknown,
        Error::Unavailable { .. } => return Outcome::Unavailable,
        Error::Rejected(rejection) => rejection,
    };
    let why = match rejection.reason {
        R::StreamLimit => {
            let views = rejection.stream_limit.iter().flat_map(|limit| &limit.active_views);
            Refusal::StreamLimit(views.map(|view| name(&view.view_id)).collect())
        }
        R::ViewEnded | R::ViewExpired => Refusal::NotActive,
        _ => return Outcome::Unavailable,
    };
    Outcome::Refused(why, None)
}
