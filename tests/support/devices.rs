//! Devices that watch against a cluster and remember what it acknowledged, to hold it to that at the end.
//!
//! Each device has an account of its own, so that its shard takes one write of it at a time and every answer has one right
//! value. It plays one title after the other: start, a row of progress reports, stop. A write that has no answer is *unknown*:
//! the device sends the same one again until it learns what came of it, or gives up at the end; then both ends are right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use playhead::client::{Client, Error, Reported, is_accepted};
use playhead::ids::AccountId;
use playhead::proto::v1;
use playhead::ring::{ShardCount, Token};
use playhead::time::Clock;

/// How much of a title one report moves on, ms. The longest play of 60 reports is less than the 5 s that are believed at
/// once, so that every range that is reported counts.
const STEP_MS: i64 = 80;
/// Every title's length, ms.
const DURATION_MS: i64 = 3_600_000;
/// From here on a stop leaves a resume point, whatever the title type, ms.
const BEGIN_MS: i64 = 600_000;

/// What the cluster acknowledged: when, by shard.
#[derive(Debug, Default)]
pub struct Acks {
    times: Mutex<Vec<(u32, u64)>>,
}

impl Acks {
    fn push(&self, shard: u32, at_ms: u64) {
        self.times.lock().push((shard, at_ms));
    }

    /// Whether the shard had acknowledged writes before `from_ms` and none since.
    pub fn waits(&self, shard: u32, from_ms: u64) -> bool {
        let times = self.times.lock();
        let mut of_shard = times.iter().rev().filter(|(s, _)| *s == shard).map(|(_, at)| *at);
        of_shard.next().is_some_and(|last| last <= from_ms)
    }

    /// The longest time without an acknowledged write on one of `shards`, from `from_ms` until now, of those that had
    /// any: (ms, shards looked at).
    pub fn longest_gap(&self, shards: &[u32], from_ms: u64, until_ms: u64) -> (u64, usize) {
        let times = self.times.lock();
        let mut longest = 0;
        let mut seen = 0;
        for shard in shards {
            let mut of_shard: Vec<u64> = times.iter().filter(|(s, _)| s == shard).map(|(_, at)| *at).collect();
            if of_shard.is_empty() {
                continue;
            }
            seen += 1;
            of_shard.push(until_ms);
            of_shard.sort_unstable();
            // The gap begins with the last acknowledgement before the fault.
            let before = of_shard.partition_point(|at| *at < from_ms);
            let begin = before.saturating_sub(1);
            for pair in of_shard[begin..].windows(2) {
                longest = longest.max(pair[1] - pair[0]);
            }
        }
        (longest, seen)
    }
}

/// An answer that may be worth less than an acknowledgement.
trait Standing {
    fn is_accepted(&self) -> bool;
}

impl Standing for v1::StartViewResponse {
    fn is_accepted(&self) -> bool {
        is_accepted(self.write_info.as_ref())
    }
}

impl Standing for v1::StopViewResponse {
    fn is_accepted(&self) -> bool {
        is_accepted(self.write_info.as_ref())
    }
}

impl Standing for Reported {
    fn is_accepted(&self) -> bool {
        Self::is_accepted(self)
    }
}

/// Counts over all devices.
#[derive(Debug, Default)]
pub struct Counts {
    pub acknowledged: AtomicU64,
    /// Writes that were only accepted: they are sent again until they are acknowledged.
    pub accepted: AtomicU64,
    /// Calls that ended with an outcome nobody knows; most are learned by asking again.
    pub unknown: AtomicU64,
    /// Calls that nobody decided in time.
    pub unavailable: AtomicU64,
}

/// How far the device knows a write to have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    Maybe,
    Yes,
}

/// One title that the device played.
#[derive(Debug)]
struct Watched {
    title: String,
    view: String,
    started: Known,
    /// The greatest sequence that was acknowledged, and that was sent.
    acked: u64,
    sent: u64,
    stopped: Known,
}

impl Watched {
    fn position(sequence: u64) -> i64 {
        BEGIN_MS + STEP_MS * i64::try_from(sequence).expect("a test sends few reports")
    }
}

/// One device with its account.
#[derive(Debug)]
pub struct Device {
    pub account: String,
    pub shard: u32,
    titles: Vec<Watched>,
    /// What was wrong already while it ran.
    wrong: Vec<String>,
}

/// What holds for all devices of a run.
#[derive(Clone)]
pub struct Load {
    pub clock: Arc<dyn Clock>,
    pub client: Client,
    pub acks: Arc<Acks>,
    pub counts: Arc<Counts>,
    pub stop: Arc<AtomicBool>,
    /// Between two calls of a device.
    pub pause: Duration,
}

impl Load {
    pub fn new(clock: Arc<dyn Clock>, client: Client, pause: Duration) -> Self {
        Self { clock, client, acks: Arc::default(), counts: Arc::default(), stop: Arc::default(), pause }
    }

    /// Sets `devices` devices to work; join the handles after [`Load::stop`] was set.
    pub fn run(&self, devices: usize, shards: u32) -> Vec<tokio::task::JoinHandle<Device>> {
        let device = |n: usize| {
            let device = Device::new(format!("household-{n}"), shards);
            tokio::spawn(device.run(self.clone(), n))
        };
        (0..devices).map(device).collect()
    }

    /// Has the devices stop, and compares all that they were told by strong reads: how many facts were compared, and what is lost
    /// or contradicted.
    pub async fn end(&self, running: Vec<tokio::task::JoinHandle<Device>>) -> super::Result<(u64, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut played: Vec<Device> = Vec::new();
        for device in running {
            played.push(device.await?);
        }
        let (mut compared, mut wrong) = (0, Vec::new());
        for device in &played {
            let (facts, contradictions) = device.check(&self.client).await?;
            compared += facts;
            wrong.extend(contradictions);
        }
        Ok((compared, wrong))
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Device {
    pub fn new(account: String, shards: u32) -> Self {
        let id = AccountId::new(account.clone()).expect("the test's names are right");
        let shards = ShardCount::new(shards).expect("the test's shard count is right");
        let shard = shards.shard_of(Token::of(&id)).0;
        Self { account, shard, titles: Vec::new(), wrong: Vec::new() }
    }

    async fn run(mut self, load: Load, number: usize) -> Self {
        for title in 0.. {
            if load.stopping() || !self.wrong.is_empty() {
                break;
            }
            // Different lengths, so that starts and stops of many devices never come all at once.
            let reports = 20 + (number * 7 + title * 13) % 40;
            self.watch(&load, title, reports as u64).await;
        }
        self
    }

    async fn watch(&mut self, load: &Load, number: usize, reports: u64) {
        let watched = Watched {
            title: format!("title-{number}"),
            view: format!("view-{number}"),
            started: Known::No,
            acked: 0,
            sent: 0,
            stopped: Known::No,
        };
        self.titles.push(watched);
        if !self.start(load).await {
            return;
        }
        for sequence in 1..=reports {
            if load.stopping() {
                return;
            }
            if !self.report(load, sequence).await {
                return;
            }
            tokio::time::sleep(load.pause).await;
        }
        self.stop(load).await;
    }

    fn now(&mut self) -> &mut Watched {
        self.titles.last_mut().expect("a title was begun")
    }

    async fn start(&mut self, load: &Load) -> bool {
        let (title, view) = (self.now().title.clone(), self.now().view.clone());
        let request = v1::StartViewRequest {
            account_id: self.account.clone(),
            request_id: format!("start-{view}"),
            view_id: view,
            profile_id: "p".into(),
            device_id: "tv".into(),
            title_id: title,
            title_type: v1::TitleType::Film.into(),
            position_ms: Some(BEGIN_MS),
            duration_ms: Some(DURATION_MS),
            ..Default::default()
        };
        let answer = self.until_known(load, |client| {
            let request = request.clone();
            async move { client.start_view(request).await }
        });
        match answer.await {
            Known3::Done(..) => self.now().started = Known::Yes,
            Known3::GaveUp => self.now().started = Known::Maybe,
            Known3::Refused(e) => self.wrong.push(format!("start refused: {e}")),
        }
        self.now().started == Known::Yes
    }

    async fn report(&mut self, load: &Load, sequence: u64) -> bool {
        let report = v1::ProgressReport {
            account_id: self.account.clone(),
            view_id: self.now().view.clone(),
            sequence,
            position_ms: Some(Watched::position(sequence)),
            state: v1::PlayState::Playing.into(),
            // Each report tells its own range: one that is lost in the middle leaves a hole.
            played_ranges: vec![v1::PlayedRange {
                start_ms: Watched::position(sequence - 1),
                end_ms: Watched::position(sequence),
            }],
            ..Default::default()
        };
        self.now().sent = sequence;
        let answer = self.until_known(load, |client| {
            let report = report.clone();
            async move { client.report(report).await }
        });
        match answer.await {
            Known3::Done(result, repeated) => {
                if !result.applied && !repeated && !result.repeated {
                    self.wrong.push(format!("report {sequence} is acknowledged and not applied: {result:?}"));
                    return false;
                }
                if result.directive() != v1::Directive::Continue {
                    self.wrong.push(format!("told to stop at sequence {sequence}: {result:?}"));
                    return false;
                }
                self.now().acked = sequence;
                true
            }
            Known3::GaveUp => false,
            Known3::Refused(e) => {
                self.wrong.push(format!("report {sequence} refused: {e}"));
                false
            }
        }
    }

    async fn stop(&mut self, load: &Load) {
        let request = v1::StopViewRequest {
            account_id: self.account.clone(),
            request_id: format!("stop-{}", self.now().view),
            view_id: self.now().view.clone(),
            ..Default::default()
        };
        let answer = self.until_known(load, |client| {
            let request = request.clone();
            async move { client.stop_view(request).await }
        });
        match answer.await {
            Known3::Done(..) => self.now().stopped = Known::Yes,
            Known3::GaveUp => self.now().stopped = Known::Maybe,
            Known3::Refused(e) => self.wrong.push(format!("stop refused: {e}")),
        }
    }

    /// Sends the same write until it is acknowledged, the load stops, or the cluster refuses it for good.
    async fn until_known<T, F>(&self, load: &Load, send: impl Fn(Client) -> F) -> Known3<T>
    where
        T: Standing,
        F: Future<Output = Result<T, Error>>,
    {
        let mut maybe = false;
        loop {
            match send(load.client.clone()).await {
                Ok(answer) if answer.is_accepted() => {
                    maybe = true;
                    load.counts.accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(load.pause).await;
                }
                Ok(answer) => {
                    load.acks.push(self.shard, load.clock.monotonic().0);
                    load.counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                    return Known3::Done(answer, maybe);
                }
                Err(e @ Error::Rejected(_)) => return Known3::Refused(e.to_string()),
                Err(Error::Unknown { .. }) => {
                    maybe = true;
                    load.counts.unknown.fetch_add(1, Ordering::Relaxed);
                }
                Err(Error::Unavailable { .. }) => {
                    load.counts.unavailable.fetch_add(1, Ordering::Relaxed);
                }
            }
            if load.stopping() {
                // Not known to be done; whether it may be depends on nothing that the device can see after several tries.
                return Known3::GaveUp;
            }
        }
    }

    /// Holds the cluster to what it acknowledged, by strong reads: what was lost or contradicted, and how many facts were
    /// compared.
    pub async fn check(&self, client: &Client) -> Result<(u64, Vec<String>), Error> {
        let mut wrong = self.wrong.clone();
        let mut compared = 0;
        for watched in &self.titles {
            if watched.started == Known::No {
                continue;
            }
            let point = client
                .get_resume_point(v1::GetResumePointRequest {
                    account_id: self.account.clone(),
                    profile_id: "p".into(),
                    title_id: watched.title.clone(),
                    ..Default::default()
                })
                .await?
                .resume_point
                .unwrap_or_default();
            let active = self.active(client, &watched.view).await?;
            compared += 2;
            let mut found: Vec<String> = watched.contradictions(&point, active.as_ref()).collect();
            if watched.stopped != Known::No {
                let entry = self.entry(client, &watched.title).await?;
                compared += 1;
                found.extend(watched.contradiction_of(entry.as_ref(), &watched.view));
            }
            wrong.extend(found.into_iter().map(|what| {
                format!("account {} view {}: {what} ({watched:?}, {point:?}, {active:?})", self.account, watched.view)
            }));
        }
        Ok((compared, wrong))
    }

    /// The newest history entry of a title, with its plays.
    async fn entry(&self, client: &Client, title: &str) -> Result<Option<v1::HistoryEntry>, Error> {
        let request = v1::ListHistoryRequest {
            account_id: self.account.clone(),
            profile_id: "p".into(),
            title_id: title.into(),
            include_plays: true,
            ..Default::default()
        };
        Ok(client.list_history(request).await?.entries.into_iter().next())
    }

    async fn active(&self, client: &Client, view: &str) -> Result<Option<v1::View>, Error> {
        let request =
            v1::GetViewRequest { account_id: self.account.clone(), view_id: view.into(), ..Default::default() };
        match client.get_view(request).await {
            Ok(answer) => match answer.status {
                Some(v1::get_view_response::Status::Active(view)) => Ok(Some(view)),
                _ => Ok(None),
            },
            Err(e) if e.reason() == Some(v1::ErrorReason::ViewExpired) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Watched {
    /// What the history says of a view that was stopped, or may have been: one play that has every acknowledged report in it.
    fn contradiction_of(&self, entry: Option<&v1::HistoryEntry>, view: &str) -> Option<String> {
        let Some(entry) = entry else {
            return (self.stopped == Known::Yes)
                .then(|| "its stop was acknowledged and it is not in the history".into());
        };
        let [play] = &entry.plays[..] else { return Some(format!("{} plays, not one: {entry:?}", entry.plays.len())) };
        let ms = |sequence: u64| Self::position(sequence) - BEGIN_MS;
        let watched = ms(self.acked)..=ms(self.sent);
        if play.view_id != view || entry.play_count != 1 {
            return Some(format!("another play is in the history: {entry:?}"));
        }
        (!watched.contains(&play.watched_ms) || entry.watched_ms != play.watched_ms)
            .then(|| format!("{} ms were watched, not {watched:?}: a report is lost", play.watched_ms))
    }

    fn contradictions(&self, point: &v1::ResumePoint, active: Option<&v1::View>) -> impl Iterator<Item = String> {
        let mut wrong = Vec::new();
        let range = Self::position(self.acked)..=Self::position(self.sent);
        if self.started == Known::Yes {
            match point.last_position_ms {
                Some(at) if range.contains(&at) => {}
                other => wrong.push(format!("last position {other:?} is not in {range:?}")),
            }
        }
        match (self.stopped, active) {
            (Known::Yes, Some(_)) => wrong.push("its stop was acknowledged and it runs".to_string()),
            (Known::No, None) if self.started == Known::Yes => {
                wrong.push("its start was acknowledged, nobody stopped it, and it does not run".to_string());
            }
            (_, Some(view)) if !(self.acked..=self.sent).contains(&view.sequence) => {
                wrong.push(format!("sequence {} is not in {}..={}", view.sequence, self.acked, self.sent));
            }
            _ => {}
        }
        wrong.into_iter()
    }
}

/// How a write ended for its device.
enum Known3<T> {
    /// Acknowledged; and whether an attempt before may have been done.
    Done(T, bool),
    GaveUp,
    Refused(String),
}
