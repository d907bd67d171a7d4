//! One household: its devices, one after the other in one task, and the writes that they make.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Plan;
use super::gateway::Reporter;
use super::habits::{Ending, Taste, Title, ending, joined_by, play_ms, resumes, seeks_back, stretch, title_type};
use super::insist::Outcome;
use super::ledger::{Ledger, Profile, Running, Unsure};
use super::stats::Stats;
use super::still::Turn;
use crate::client::{Client, Error, is_accepted};
use crate::proto::v1;
use crate::time::{Clock, MonotonicMs};

/// Devices of a household; each belongs to the profile with its number.
pub(super) const DEVICES: usize = 3;

/// What all households share.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) client: Client,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) plan: Plan,
    pub(super) stats: Arc<Stats>,
    pub(super) stop: CancellationToken,
    /// Whether some stand still.
    pub(super) turn: watch::Receiver<Turn>,
    /// Bounds how many of those that stand still are compared at once.
    pub(super) checking: Semaphore,
}

/// A play that is under way.
#[derive(Debug)]
struct Playing {
    view_id: String,
    due: MonotonicMs,
    position_ms: u64,
    left_ms: u64,
    seek_back_ms: Option<u64>,
}

/// A household.
#[derive(Debug)]
pub(super) struct Household {
    /// Its number in the fleet.
    number: usize,
    pub(super) account: String,
    pub(super) ledger: Ledger,
    pub(super) around: Arc<Surroundings>,
    reporter: Reporter,
    rng: StdRng,
    taste: Taste,
    /// What each device plays.
    playing: [Option<Playing>; DEVICES],
    /// Known from the first answer on.
    shard: u32,
    /// By how much the cluster wants reports to be more seldom.
    stretch: f64,
    views_started: u64,
    /// Of which shard it is, and which nodes' replicas have answered since a check began.
    pub(super) served: Mutex<(u32, BTreeSet<String>)>,
    /// When the report that is under way was due, where reports go by the clock.
    pub(super) due: Option<Instant>,
}

impl Household {
    pub(super) fn new(number: usize, around: Arc<Surroundings>, reporter: Reporter) -> Self {
        let seed = around.plan.seed;
        let mut rng = StdRng::seed_from_u64(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let taste = Taste::draw(&mut rng);
        Self {
            number,
            account: format!("{}-{seed:x}-{number}", around.plan.name),
            ledger: Ledger::default(),
            around,
            reporter,
            rng,
            taste,
            playing: [const { None }; DEVICES],
            shard: 0,
            stretch: 1.0,
            views_started: 0,
            due: None,
            served: Mutex::default(),
        }
    }

    /// Plays until the fleet is stopped.
    pub(super) async fn live(mut self) -> Self {
        let stop = self.around.stop.clone();
        // Not all at the same moment.
        let first = self.rng.random_range(0.0..=1.0);
        let mut idle = self.around.plan.interval.mul_f64(first);
        let mut turns = self.around.turn.clone();
        loop {
            let now = self.around.clock.monotonic();
            let due = self.playing.iter().flatten().map(|playing| playing.due).min();
            let wait = due.map_or(idle, |due| Duration::from_millis(due.since(now)));
            let told = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = turns.changed() => true,
                () = tokio::time::sleep(wait), if !wait.is_zero() => false,
                () = tokio::task::yield_now(), if wait.is_zero() => false,
            };
            let stands_still = turns.borrow_and_update().stands_still(self.around.plan.seed, self.number);
            if told && !stands_still {
                continue;
            }
            match self.next_device() {
                Some(device) => self.step(device).await,
                None => self.begin().await,
            }
            // After one more write, made at once: what it acknowledges is as new as can be when the fault comes.
            if stands_still {
                self.stand_still(&mut turns).await;
            }
            let pause = self.rng.random_range(0.5..3.0);
            idle = self.around.plan.interval.mul_f64(pause).max(Duration::from_millis(1));
        }
        self.leave();
        self
    }

    /// Nobody plays on.
    pub(super) fn leave(&self) {
        self.playing.iter().flatten().for_each(|_| self.around.stats.now_playing(false));
    }

    /// A device whose play is over.
    pub(super) fn over(&self) -> Option<usize> {
        self.playing.iter().position(|playing| playing.as_ref().is_some_and(|playing| playing.left_ms == 0))
    }

    /// The device whose report is due first.
    pub(super) fn next_device(&self) -> Option<usize> {
        let due = self.playing.iter().enumerate().filter_map(|(n, playing)| Some((playing.as_ref()?.due, n)));
        due.min().map(|(_, device)| device)
    }

    /// Somebody begins to watch; others may join on other devices.
    pub(super) async fn begin(&mut self) {
        let first = self.rng.random_range(0..DEVICES);
        for nth in 0..=joined_by(&mut self.rng) {
            let device = (first + nth) % DEVICES;
            let title = self.choose(device);
            self.start(device, title).await;
        }
    }

    fn choose(&mut self, profile: Profile) -> Title {
        let nth = self.rng.random_range(0..1_000);
        let begun = if resumes(&mut self.rng) { self.ledger.begun(profile, nth) } else { None };
        begun.unwrap_or_else(|| self.taste.choose(&mut self.rng))
    }

    fn next_view_id(&mut self) -> String {
        self.views_started += 1;
        format!("{}-v{}", self.account, self.views_started)
    }

    /// The number of a view, if this household has given it its id.
    pub(super) fn number_of(&self, view_id: &str) -> Option<u64> {
        let number = view_id.strip_prefix(self.account.as_str())?.strip_prefix("-v")?.parse().ok()?;
        (1..=self.views_started).contains(&number).then_some(number)
    }

    async fn start(&mut self, device: usize, title: Title) {
        let view_id = self.next_view_id();
        let request = v1::StartViewRequest {
            account_id: self.account.clone(),
            view_id: view_id.clone(),
            request_id: self.around.client.request_id(),
            profile_id: profile_id(device),
            device_id: device_id(device),
            title_id: title.id(),
            title_type: title_type(title).into(),
            duration_ms: i64::try_from(title.duration_ms()).ok(),
            ..Default::default()
        };
        let client = self.around.client.clone();
        let sent = self.around.clock.monotonic();
        let outcome = self.insist(|| client.start_view(request.clone())).await;
        match outcome {
            Outcome::Done(answer) if is_accepted(answer.write_info.as_ref()) => {
                self.let_in(view_id, device, title, answer.started.unwrap_or_default(), sent);
            }
            Outcome::Done(answer) => {
                self.wrote(answer.write_info.as_ref());
                self.started(view_id, device, title, answer.started.unwrap_or_default(), sent);
            }
            Outcome::Refused(error) => self.start_refused(&error),
            Outcome::Unresolved => self.may_have_started(view_id, device, title, sent),
            Outcome::Undone => {}
        }
    }

    /// A start of which nobody has learned whether it happened.
    fn may_have_started(&mut self, view_id: String, device: usize, title: Title, sent: MonotonicMs) {
        self.ledger.place(device, title).perhaps(0);
        let (running, now) = (self.running(view_id, device, title, sent), self.around.clock.monotonic());
        self.ledger.is_unsure(running, false, now);
    }

    fn running(&self, view_id: String, device: usize, title: Title, sent: MonotonicMs) -> Running {
        Running {
            number: self.number_of(&view_id).unwrap_or_default(),
            view_id,
            device,
            profile: device,
            title,
            heard: sent,
            sequence: 0,
            acknowledged: 0,
            position_ms: None,
            uncertain: false,
            accepted: false,
            degraded: false,
        }
    }

    /// A start was acknowledged: compares its answer, and goes on playing.
    fn started(&mut self, view_id: String, device: usize, title: Title, started: v1::StartedView, sent: MonotonicMs) {
        let resume_ms = started.resume_position_ms.and_then(|ms| u64::try_from(ms).ok());
        let place = self.ledger.place(device, title);
        if !place.admits_resume(title, resume_ms) {
            let place = place.clone();
            self.mismatch(format!("{} starts {} at {resume_ms:?} ms, not at {place:?}", view_id, title.id()));
        }
        // Whatever the device had running was replaced.
        let former: Vec<Running> =
            self.ledger.running.values().filter(|running| running.device == device).cloned().collect();
        for running in former {
            if !started.ended_view_ids.contains(&running.view_id) && self.surely_runs(&running) {
                self.mismatch(format!("{view_id} has not replaced {} of the same device", running.view_id));
            }
            self.ledger.ended(&running.view_id, None);
        }
        self.play_on(view_id, device, title, resume_ms.unwrap_or(0), sent);
    }

    /// A view was let in while its shard has no leader: what the shard makes of it shows later.
    fn let_in(&mut self, view_id: String, device: usize, title: Title, started: v1::StartedView, sent: MonotonicMs) {
        self.around.stats.accepted();
        let now = self.around.clock.monotonic();
        let former = self.ledger.running.values().filter(|running| running.device == device).cloned();
        for running in former.collect::<Vec<_>>() {
            // It is replaced when the start is handed off.
            self.ledger.is_unsure(Running { accepted: true, ..running }, true, now);
        }
        let position = started.view.and_then(|view| view.position_ms).and_then(|ms| u64::try_from(ms).ok());
        let position_ms = position.unwrap_or(0);
        let running = self.running(view_id.clone(), device, title, sent);
        let running = Running { accepted: true, degraded: true, uncertain: true, ..running };
        self.ledger.running.insert(view_id.clone(), running);
        self.ledger.place(device, title).perhaps(position_ms);
        self.ledger.ended.remove(&(device, title));
        self.play(view_id, device, position_ms);
    }

    /// Takes up a view that has just been acknowledged.
    fn play_on(&mut self, view_id: String, device: usize, title: Title, position_ms: u64, sent: MonotonicMs) {
        let running = self.running(view_id.clone(), device, title, sent);
        self.ledger.running.insert(view_id.clone(), running);
        // A view that runs counts as left where it is.
        self.ledger.place(device, title).acknowledge(position_ms);
        self.ledger.ended.remove(&(device, title));
        self.play(view_id, device, position_ms);
    }

    fn play(&mut self, view_id: String, device: usize, position_ms: u64) {
        if self.playing[device].is_none() {
            self.around.stats.now_playing(true);
        }
        self.playing[device] = Some(Playing {
            view_id,
            due: self.around.clock.monotonic(),
            position_ms,
            left_ms: play_ms(&mut self.rng),
            seek_back_ms: seeks_back(&mut self.rng),
        });
    }

    /// A start was refused: right only if the account really watches as much as it may.
    fn start_refused(&mut self, error: &Error) {
        let limit = error.rejection().and_then(|rejection| rejection.stream_limit.as_ref());
        let Some(limit) = limit else {
            self.mismatch(format!("a start was refused: {error}"));
            return;
        };
        self.around.stats.limit_reached();
        let told: Vec<&str> = limit.active_views.iter().map(|view| view.view_id.as_str()).collect();
        let strangers = told.iter().filter(|id| !self.ledger.running.contains_key(**id)).count();
        if (strangers > 0 || told.len() < limit.max_streams as usize) && !self.ledger.views_uncertain() {
            let running: Vec<&String> = self.ledger.running.keys().collect();
            self.mismatch(format!("the limit of {} is reached by {told:?}, but {running:?} run", limit.max_streams));
        }
    }

    /// One report of a device, or the end of its play.
    pub(super) async fn step(&mut self, device: usize) {
        let Some(mut playing) = self.playing[device].take() else { return };
        let Some(running) = self.ledger.running.get(&playing.view_id).cloned() else {
            self.around.stats.now_playing(false);
            return;
        };
        if playing.left_ms == 0 {
            self.around.stats.now_playing(false);
            self.finish(device, running, playing.position_ms).await;
            return;
        }
        let step_ms = u64::try_from(self.around.plan.step.as_millis()).unwrap_or(u64::MAX);
        let mut seeked = false;
        let paused = self.rng.random_bool(0.05);
        if let (true, Some(back_ms)) = (running.sequence > 2, playing.seek_back_ms) {
            (seeked, playing.seek_back_ms) = (true, None);
            playing.position_ms = playing.position_ms.saturating_sub(back_ms);
        } else if !paused {
            let moved_ms = step_ms.min(playing.left_ms);
            playing.position_ms = (playing.position_ms + moved_ms).min(running.title.duration_ms());
            playing.left_ms -= moved_ms;
            if playing.position_ms == running.title.duration_ms() {
                playing.left_ms = 0;
            }
        }
        let state = if paused { v1::PlayState::Paused } else { v1::PlayState::Playing };
        let goes_on = self.report(&running, playing.position_ms, seeked, state).await;
        let jitter = self.rng.random_range(0.9..1.1);
        let interval_ms = (self.around.plan.interval.as_millis() as f64 * jitter * self.stretch) as u64;
        playing.due = self.around.clock.monotonic().plus(interval_ms);
        match goes_on {
            true => self.playing[device] = Some(playing),
            false => self.around.stats.now_playing(false),
        }
    }

    /// Sends one report; returns whether the device goes on.
    async fn report(&mut self, running: &Running, position_ms: u64, seeked: bool, state: v1::PlayState) -> bool {
        let sequence = running.sequence + 1;
        let report = v1::ProgressReport {
            account_id: self.account.clone(),
            view_id: running.view_id.clone(),
            sequence,
            position_ms: i64::try_from(position_ms).ok(),
            state: state.into(),
            seeked,
            played_ranges: vec![running.next_played()],
        };
        let (sent, began) = (self.around.clock.monotonic(), Instant::now());
        let reporter = self.reporter.clone();
        let mut tries = 0;
        let outcome = self
            .insist(|| {
                tries += 1;
                reporter.report(report.clone())
            })
            .await;
        if let Some(due) = self.due.take() {
            self.around.stats.timing.answered(matches!(outcome, Outcome::Done(_)), due);
        }
        let expired = matches!(&outcome, Outcome::Refused(error) if self.has_expired(running, error));
        // A position of 0 without a seek says nothing.
        let says_something = position_ms > 0 || seeked;
        let Some(kept) = self.ledger.running.get_mut(&running.view_id) else { return false };
        match outcome {
            Outcome::Done(result) if result.is_accepted() => {
                (kept.sequence, kept.uncertain, kept.accepted) = (sequence, true, true);
                if says_something {
                    self.ledger.place(running.profile, running.title).accept(position_ms);
                }
                self.around.stats.accepted();
                true
            }
            // The shard may not have heard of it yet, or has ended it.
            Outcome::Refused(_) if running.degraded => {
                self.may_come_yet(&running.view_id);
                false
            }
            Outcome::Done(result) if running.degraded && result.directive() == v1::Directive::Stop => {
                self.may_come_yet(&running.view_id);
                false
            }
            Outcome::Done(result) if result.directive() == v1::Directive::Continue => {
                (kept.heard, kept.sequence, kept.uncertain) = (sent, sequence, false);
                kept.acknowledged += 1;
                if says_something {
                    kept.position_ms = Some(position_ms);
                    self.ledger.place(running.profile, running.title).acknowledge(position_ms);
                }
                let now = self.around.clock.monotonic();
                self.around.stats.report_acknowledged(self.shard, began.elapsed(), now);
                self.stretch = stretch(result.progress_interval_ms, self.around.plan.told);
                // Only where an earlier attempt may have been the one that did it may `applied` be false: this device alone
                // counts this view's sequence up.
                if !result.applied && tries == 1 && !result.repeated {
                    self.mismatch(format!("report {sequence} of {} is acknowledged, and not applied", running.view_id));
                }
                true
            }
            Outcome::Done(result) => {
                self.mismatch(format!("{} was told to stop: {:?}", running.view_id, result.ended));
                self.lost(&running.view_id);
                false
            }
            // An attempt that nobody answered may have come while the view lived.
            Outcome::Refused(_) if expired => {
                (kept.sequence, kept.uncertain) = (sequence, true);
                self.ledger.ended(&running.view_id, None);
                self.ledger.place(running.profile, running.title).perhaps(position_ms);
                false
            }
            Outcome::Refused(error) => {
                self.mismatch(format!("report {sequence} of {} was refused: {error}", running.view_id));
                self.lost(&running.view_id);
                false
            }
            Outcome::Unresolved => {
                (kept.sequence, kept.uncertain) = (sequence, true);
                self.ledger.place(running.profile, running.title).perhaps(position_ms);
                true
            }
            Outcome::Undone => true,
        }
    }

    /// A play is over: the device stops it, goes on with the next title, or vanishes.
    async fn finish(&mut self, device: usize, running: Running, position_ms: u64) {
        let how = ending(&mut self.rng, running.title);
        if how == Ending::Vanish {
            return;
        }
        let next = (how == Ending::Next).then(|| (self.next_view_id(), running.title.next()));
        let wire_next = next.as_ref().map(|(view_id, title)| v1::NextTitle {
            view_id: view_id.clone(),
            title_id: title.id(),
            title_type: title_type(*title).into(),
            duration_ms: i64::try_from(title.duration_ms()).ok(),
            ..Default::default()
        });
        let request = v1::StopViewRequest {
            account_id: self.account.clone(),
            view_id: running.view_id.clone(),
            request_id: self.around.client.request_id(),
            sequence: None,
            position_ms: i64::try_from(position_ms).ok(),
            played_ranges: vec![running.next_played()],
            next: wire_next,
            ..Default::default()
        };
        let client = self.around.client.clone();
        let sent = self.around.clock.monotonic();
        match self.insist(|| client.stop_view(request.clone())).await {
            Outcome::Done(answer) if is_accepted(answer.write_info.as_ref()) => {
                self.around.stats.accepted();
                let place = self.ledger.place(running.profile, running.title);
                if position_ms > 0 {
                    place.accept(position_ms)
                } else {
                    place.perhaps(position_ms)
                }
                let now = self.around.clock.monotonic();
                self.ledger.is_unsure(Running { accepted: true, ..running }, true, now);
            }
            Outcome::Refused(_) if running.degraded => {
                self.may_come_yet(&running.view_id);
            }
            Outcome::Done(answer) => {
                self.wrote(answer.write_info.as_ref());
                self.ledger.place(running.profile, running.title).acknowledge(position_ms);
                self.ledger.ended(&running.view_id, Some(position_ms));
                if let (Some((view_id, title)), Some(started)) = (next, answer.next) {
                    self.started(view_id, device, title, started, sent);
                }
            }
            Outcome::Refused(error) if self.has_expired(&running, &error) => self.ledger.ended(&running.view_id, None),
            Outcome::Refused(error) => {
                self.mismatch(format!("the stop of {} was refused: {error}", running.view_id));
                self.lost(&running.view_id);
            }
            Outcome::Unresolved => {
                self.ledger.place(running.profile, running.title).perhaps(position_ms);
                if let Some((view_id, title)) = next {
                    self.may_have_started(view_id, device, title, sent);
                }
                self.ledger.is_unsure(running, true, self.around.clock.monotonic());
            }
            // Nothing was changed: its device starts another one some time, which replaces it.
            Outcome::Undone => {}
        }
        if self.rng.random_bool(self.around.plan.check_share.clamp(0.0, 1.0)) {
            self.check_while_playing().await;
        }
    }

    /// Whether a view runs for certain.
    pub(super) fn surely_runs(&self, running: &Running) -> bool {
        !self.ledger.views_uncertain() && !running.uncertain && !self.may_have_expired(running)
    }

    fn may_have_expired(&self, running: &Running) -> bool {
        let silence_ms = u64::try_from(self.around.plan.silence.as_millis()).unwrap_or(u64::MAX);
        running.may_have_expired(silence_ms, self.around.clock.monotonic())
    }

    /// Whether a refusal says that the view has expired, and it may have.
    fn has_expired(&self, running: &Running, error: &Error) -> bool {
        error.reason() == Some(v1::ErrorReason::ViewExpired) && self.may_have_expired(running)
    }

    /// A view of which nothing more can be said; a mismatch has told of it.
    fn lost(&mut self, view_id: &str) {
        if let Some(running) = self.ledger.running.remove(view_id) {
            let unsure = Unsure { running, began: false, open_since: None };
            self.ledger.unsure.insert(unsure.running.number, unsure);
        }
    }

    /// A view that was let in without its shard, and that the shard doesn't know or no longer: its start may be handed off yet.
    fn may_come_yet(&mut self, view_id: &str) {
        let now = self.around.clock.monotonic();
        if let Some(running) = self.ledger.running.get(view_id).cloned() {
            self.ledger.is_unsure(Running { accepted: true, ..running }, false, now);
        }
    }

    fn wrote(&mut self, info: Option<&v1::WriteInfo>) {
        self.shard = info.map_or(self.shard, |info| info.shard);
        let now = self.around.clock.monotonic();
        self.around.stats.write_acknowledged(self.shard, now);
    }

    pub(super) fn mismatch(&self, what: String) {
        self.around.stats.mismatch(format!("{}: {what}", self.account));
    }
}

/// The id of a profile of a household.
pub(super) fn profile_id(profile: Profile) -> String {
    ["parent", "partner", "kids"][profile % DEVICES].to_string()
}

/// The id of a device of a household.
pub(super) fn device_id(device: usize) -> String {
    ["tv", "phone", "tablet"][device % DEVICES].to_string()
}
