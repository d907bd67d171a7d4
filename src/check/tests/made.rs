//! Histories that the real state machine gives: right ones, made by chance.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;
use crate::ids::{AccountId, DeviceId, ProfileId, TitleId, ViewId};
use crate::time::{LogicalMs, Stamp, WallMs};
use crate::view;

const DEVICES: u64 = 6;

/// What may happen in a history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chances {
    /// Of a hundred writes so many have an unknown outcome; half of these take effect.
    pub(super) unknown: u64,
    /// Of a hundred operations so many are reads.
    pub(super) reads: u64,
    /// Operations are under way for up to so many milliseconds before and after their moment.
    pub(super) wide_ms: u64,
    /// Whether answers tell revisions.
    pub(super) revisions: bool,
    /// Of a hundred starts, reports and stops so many are only accepted, and handed off later, most of them.
    pub(super) accepted: u64,
}

pub(super) struct Maker {
    seed: u64,
    drawn: u64,
    chances: Chances,
    account: AccountId,
    now_ms: u64,
    state: view::State,
    /// The states of before, each from its moment on.
    past: Vec<(u64, view::State)>,
    /// The newest sequence that each view's device has used.
    sequences: BTreeMap<u64, u64>,
    views: u64,
    /// What was accepted, each with when.
    parked: BTreeMap<ViewId, view::Parked>,
    pub(super) ops: Vec<Op>,
}

impl Maker {
    pub(super) fn new(seed: u64, chances: Chances) -> Self {
        let state = view::State::new(view::Settings::default());
        let mut maker = Self {
            seed,
            drawn: 0,
            chances,
            account: AccountId::new("a").unwrap(),
            now_ms: 1000,
            past: vec![(0, state.clone())],
            state,
            sequences: BTreeMap::new(),
            views: 0,
            parked: BTreeMap::new(),
            ops: Vec::new(),
        };
        if chances.accepted > 0 {
            maker.commit(&view::Envelope::plain(view::Command::Adopt(crate::versions::Spoken::BUILD.newest)));
        }
        maker
    }

    /// Makes so many operations, and strong reads of everything at the end.
    pub(super) fn run(mut self, ops: usize) -> Vec<Op> {
        for _ in 0..ops {
            self.now_ms += 2 + self.draw(8);
            if self.draw(100) < self.chances.reads {
                self.read()
            } else {
                self.write()
            }
            if !self.parked.is_empty() && self.draw(12) == 0 {
                self.hand_off();
            }
        }
        self.now_ms += 10_000;
        if self.draw(4) > 0 {
            self.hand_off();
        }
        for what in 0..4 + DEVICES {
            self.now_ms += 100;
            self.read_of(what, Mode::Strong);
        }
        self.ops
    }

    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.drawn += 1;
        xxh3_64_with_seed(&self.drawn.to_le_bytes(), self.seed) % below
    }

    fn stamp(&self) -> Stamp {
        Stamp { logical: LogicalMs(self.now_ms), wall: WallMs(1_700_000_000_000 + self.now_ms) }
    }

    fn title(device: u64) -> Name {
        name(&format!("p/t{device}"))
    }

    /// Notes an operation that took effect now.
    fn note(&mut self, what: What) {
        let (before, after) = (self.draw(self.chances.wide_ms + 1), self.draw(self.chances.wide_ms + 1));
        let (invoked_us, returned_us) = ((self.now_ms - before) * 1000, (self.now_ms + after) * 1000 + 500);
        let client = u32::try_from(self.draw(4)).unwrap();
        self.ops.push(Op { client, invoked_us, returned_us, what });
    }

    fn write(&mut self) {
        let (action, command) = self.action();
        if self.chances.accepted > 0 && self.draw(100) < self.chances.accepted && self.park(&command) {
            return self.note(What::Write(action, Outcome::Accepted));
        }
        if self.draw(100) >= self.chances.unknown {
            let outcome = self.apply(command);
            return self.note(What::Write(action, outcome));
        }
        // It was called before, perhaps long ago, and given up.
        if self.draw(2) == 0 {
            self.apply(command);
        }
        let before = self.draw(1 + 10 * self.chances.wide_ms).min(self.now_ms);
        let invoked_us = (self.now_ms - before) * 1000;
        let what = What::Write(action, Outcome::Unknown);
        self.ops.push(Op { client: 9, invoked_us, returned_us: invoked_us + 100, what });
    }

    /// Keeps what a node accepts, with its moment in place of its age: the latest of each view, and what was played before.
    fn park(&mut self, command: &view::AccountCommand) -> bool {
        use view::AccountCommand as C;
        let told = |sequence, position_ms, played: &[view::Played], stop| view::ParkedTold {
            sequence,
            position_ms,
            state: view::PlayState::Playing,
            played: played.to_vec(),
            seeked: false,
            age_ms: 0,
            stop,
        };
        let stopped = view::ParkedStop { failed: false, request_id: None, fingerprint: command.fingerprint() };
        let (id, start, told) = match command {
            C::StartView(s) => (s.view.clone(), Some(s.clone()), None),
            C::ReportProgress(r) => {
                (r.view.clone(), None, Some(told(Some(r.sequence), r.position_ms, &r.played, None)))
            }
            C::StopView(s) => (s.view.clone(), None, Some(told(s.sequence, s.position_ms, &s.played, Some(stopped)))),
            _ => return false,
        };
        let full = self.parked.len() >= view::HANDOFF_VIEWS_MAX && !self.parked.contains_key(&id);
        let nothing = view::Parked { view: id.clone(), start: None, told: None };
        if full || (start.is_some() && self.parked.contains_key(&id)) {
            return false;
        }
        let (age_ms, parked) = (self.now_ms, self.parked.entry(id).or_insert(nothing));
        if let Some(start) = start {
            let position_ms = start.position_ms;
            parked.start = Some(view::ParkedStart { start, position_ms, request_id: None, age_ms });
        }
        if let Some(told) = told {
            let former = parked.told.take();
            let mut played =
                former.iter().flat_map(|f| f.played.clone()).chain(told.played.clone()).collect::<Vec<_>>();
            played.dedup();
            played.truncate(16);
            let later = former.filter(|former| former.sequence >= told.sequence);
            parked.told = Some(view::ParkedTold { played, ..later.unwrap_or(view::ParkedTold { age_ms, ..told }) });
        }
        true
    }

    fn hand_off(&mut self) {
        let mut views: Vec<view::Parked> = std::mem::take(&mut self.parked).into_values().collect();
        for parked in &mut views {
            parked.start.iter_mut().for_each(|start| start.age_ms = self.now_ms - start.age_ms);
            parked.told.iter_mut().for_each(|told| told.age_ms = self.now_ms - told.age_ms);
        }
        if !views.is_empty() {
            let command = view::AccountCommand::HandOff(view::HandOff { views });
            let answer = self.commit(&view::Envelope::plain(view::Command::Account(self.account.clone(), command)));
            assert!(matches!(answer.0, view::Answer::HandedOff(_)), "{answer:?}");
        }
    }

    fn action(&mut self) -> (Action, view::AccountCommand) {
        let view = self.draw(self.views + 1).max(self.views.saturating_sub(self.draw(6)));
        let id = name(&format!("v{view}"));
        let view_id = ViewId::new(&*id).unwrap();
        match self.draw(20) {
            0..4 => self.start(),
            4 => {
                let order = view::EndView { view: view_id, by: None };
                (Action::End { view: id }, view::AccountCommand::EndView(order))
            }
            5..7 => {
                let sequence = self.next_sequence(view);
                let (position_ms, played) = told(sequence);
                let stop = view::StopView {
                    view: view_id,
                    sequence: Some(sequence),
                    position_ms: Some(position_ms),
                    played,
                    failed: false,
                    next: None,
                };
                let action =
                    Action::Stop { view: id, sequence: Some(sequence), position_ms: Some(position_ms), played_ms: 100 };
                (action, view::AccountCommand::StopView(stop))
            }
            7 => {
                let streams = 1 + u16::try_from(self.draw(4)).unwrap();
                let policy = view::StreamPolicy { max_streams: streams, fail_closed: false };
                (Action::SetLimit { streams }, view::AccountCommand::UpdateStreamPolicy(policy))
            }
            _ => {
                let newest = self.sequences.get(&view).copied().unwrap_or(0);
                // Now and then one comes again, or late.
                let again = newest > 0 && self.draw(6) == 0;
                let sequence = if again { 1 + self.draw(newest) } else { self.next_sequence(view) };
                let (position_ms, played) = told(sequence);
                let report = view::ReportProgress {
                    view: view_id,
                    sequence,
                    position_ms: Some(position_ms),
                    state: view::PlayState::Playing,
                    played,
                    seeked: false,
                };
                let action = Action::Progress { view: id, sequence, position_ms: Some(position_ms), played_ms: 100 };
                (action, view::AccountCommand::ReportProgress(report))
            }
        }
    }

    fn next_sequence(&mut self, view: u64) -> u64 {
        let newest = self.sequences.entry(view).or_default();
        *newest += 1;
        *newest
    }

    fn start(&mut self) -> (Action, view::AccountCommand) {
        // Now and then one that was started before.
        let again = self.views > 0 && self.draw(5) == 0;
        if !again {
            self.views += 1;
        }
        let view = if again { self.views - self.draw(self.views.min(5)) } else { self.views };
        let device = view % DEVICES;
        let (id, position_ms) = (name(&format!("v{view}")), view * 7);
        let named = name(&format!("v{}", self.views - self.draw(self.views.min(5))));
        let (on_limit, shard_on_limit) = match self.draw(3) {
            0 => (OnLimit::Reject, view::OnLimit::Reject),
            1 => (OnLimit::EndOldest, view::OnLimit::EndOldest),
            _ => {
                let shard = view::OnLimit::EndNamed(ViewId::new(&*named).unwrap());
                (OnLimit::EndNamed(named), shard)
            }
        };
        let takes_stream = view % 7 != 0;
        let media = view::Media {
            title: TitleId::new(format!("t{device}")).unwrap(),
            title_type: view::TitleType::Film,
            duration_ms: Some(6_000_000),
            credits_ms: None,
        };
        let start = view::StartView {
            view: ViewId::new(&*id).unwrap(),
            profile: ProfileId::new("p").unwrap(),
            device: DeviceId::new(format!("d{device}")).unwrap(),
            media,
            kind: if takes_stream { view::ViewKind::Full } else { view::ViewKind::Offline },
            position_ms: Some(position_ms),
            on_limit: shard_on_limit,
        };
        let action = Action::Start {
            view: id,
            device: name(&format!("d{device}")),
            title: Self::title(device),
            position_ms: Some(position_ms),
            takes_stream,
            on_limit,
        };
        (action, view::AccountCommand::StartView(start))
    }

    fn apply(&mut self, command: view::AccountCommand) -> Outcome {
        let envelope = view::Envelope::plain(view::Command::Account(self.account.clone(), command));
        let (answer, revision) = self.commit(&envelope);
        let revision = match self.draw(4) {
            _ if !self.chances.revisions => None,
            0 => Some(Revision::By(revision)),
            _ => Some(Revision::Exact(revision)),
        };
        outcome(answer, revision)
    }

    fn commit(&mut self, envelope: &view::Envelope) -> (view::Answer, u64) {
        let stamp = self.stamp();
        while let Some(missing) = self.state.missing(stamp, envelope).unwrap() {
            admit(&mut self.state, missing);
        }
        let applied = self.state.apply(stamp, envelope).unwrap();
        self.past.push((self.now_ms, self.state.clone()));
        (applied.answer, applied.revision.0)
    }

    fn read(&mut self) {
        let what = self.draw(4 + DEVICES);
        let mode = match self.draw(5) {
            0 => Mode::Any,
            1 => Mode::Bounded(5 + self.draw(200)),
            2 if self.chances.revisions => Mode::Session(1 + self.draw(self.state.revision().0 + 1)),
            _ => Mode::Strong,
        };
        self.read_of(what, mode);
    }

    fn read_of(&mut self, what: u64, mode: Mode) {
        let newest = self.past.len() - 1;
        let back = usize::try_from(self.draw(20)).unwrap();
        let stale = newest - back.min(newest);
        // Until when a state of before was the newest one.
        let until_ms = |at: usize| self.past.get(at + 1).map_or(self.now_ms, |(from, _)| *from);
        let at = match mode {
            Mode::Strong | Mode::Lease => newest,
            Mode::Bounded(ms) if until_ms(stale) + ms < self.now_ms => newest,
            Mode::Session(least) if self.past[stale].1.revision().0 < least => newest,
            _ => stale,
        };
        let mode = match mode {
            Mode::Session(least) => Mode::Session(least.min(self.past[at].1.revision().0)),
            other => other,
        };
        let age_ms = self.now_ms - until_ms(at);
        let mut state = self.past[at].1.clone();
        let seen = see(&mut state, &self.account, self.stamp(), what);
        let says_age = self.draw(2) == 0;
        let info = Info {
            by: Some(name("n1")),
            revision: Some(state.revision().0).filter(|_| self.chances.revisions),
            degraded: false,
            age_ms: Some(age_ms).filter(|_| says_age),
        };
        self.note(What::Read { mode, seen, info });
    }
}

/// What a report of that sequence tells.
fn told(sequence: u64) -> (u64, Vec<view::Played>) {
    (sequence * 1000, vec![view::Played { from_ms: sequence * 100, to_ms: sequence * 100 + 100 }])
}

fn admit(state: &mut view::State, missing: view::Missing) {
    for key in missing.keys {
        assert!(state.admit(missing.fence, key, None));
    }
}

fn names(views: impl IntoIterator<Item = ViewId>) -> Vec<Name> {
    views.into_iter().map(|view| name(view.as_str())).collect()
}

fn outcome(answer: view::Answer, revision: Option<Revision>) -> Outcome {
    use view::Rejection;
    let not_active = Outcome::Refused(Refusal::NotActive, revision);
    match answer {
        view::Answer::Started(s) => {
            let (ended, repeated, degraded) = (names(s.ended), s.repeated, s.view.degraded);
            Outcome::Committed(Answer::Started { ended, repeated, degraded }, revision)
        }
        view::Answer::Progressed(p) if p.directive != view::Directive::Continue => not_active,
        view::Answer::Progressed(p) => Outcome::Committed(Answer::Progressed { applied: p.applied }, revision),
        view::Answer::Stopped(_) | view::Answer::Ended(_) | view::Answer::PolicyUpdated(_) => {
            Outcome::Committed(Answer::Done, revision)
        }
        view::Answer::Rejected(Rejection::StreamLimit { views, .. }) => {
            Outcome::Refused(Refusal::StreamLimit(names(views.into_iter().map(|v| v.view))), revision)
        }
        view::Answer::Rejected(Rejection::ViewEnded(_) | Rejection::ViewExpired(_) | Rejection::ViewUnknown(_)) => {
            not_active
        }
        view::Answer::Rejected(Rejection::ViewIdInUse(_)) => Outcome::Refused(Refusal::IdInUse, revision),
        view::Answer::Rejected(Rejection::NamedViewUnknown(_)) => Outcome::Refused(Refusal::NamedUnknown, revision),
        other => panic!("{other:?}"),
    }
}

fn seen_one(view: view::ActiveView) -> SeenView {
    SeenView {
        view: name(view.view.as_str()),
        device: name(view.device.as_str()),
        sequence: view.sequence,
        position_ms: view.position_ms,
        watched_ms: Some(view.watched_ms),
        holds_stream: view.holds_stream,
        degraded: view.degraded,
    }
}

fn see(state: &mut view::State, account: &AccountId, now: Stamp, what: u64) -> Seen {
    let profile = ProfileId::new("p").unwrap();
    let device = what.saturating_sub(4);
    let title = TitleId::new(format!("t{device}")).unwrap();
    let newest = ViewId::new("v3").unwrap();
    let page = view::Page { items_max: 1000, bytes_max: None, after: None };
    let query = match what {
        0 => view::Query::ListActiveViews(account.clone()),
        1 => view::Query::GetView(account.clone(), newest),
        2 => view::Query::GetStreamPolicy(account.clone()),
        3 => view::Query::ListHistory(account.clone(), profile, view::HistoryFilter::default(), page),
        _ => view::Query::GetResumePoints(account.clone(), profile, vec![title]),
    };
    let nothing = view::Scanned { complete: true, ..view::Scanned::default() };
    let mut lookup = state.query(&query, now);
    let reply = loop {
        lookup = match lookup {
            view::Lookup::Ready(reply) => break reply,
            view::Lookup::Stop(stop) => panic!("{stop}"),
            view::Lookup::Missing(missing) => {
                admit(state, missing);
                state.query(&query, now)
            }
            view::Lookup::Scan(scan) => match state.query_scanned(&query, now, &scan, &nothing) {
                view::Lookup::Missing(missing) => {
                    admit(state, missing);
                    state.query(&query, now)
                }
                other => other,
            },
        }
    };
    match reply {
        view::Reply::ActiveViews(views) => Seen::Active(views.into_iter().map(seen_one).collect()),
        view::Reply::View(view::ViewStatus::Active(view)) => Seen::View(name("v3"), Some(seen_one(view))),
        view::Reply::View(_) => Seen::View(name("v3"), None),
        view::Reply::StreamPolicy(policy) => Seen::Limit(policy.max_streams),
        view::Reply::ResumePoints(points) => {
            let position_ms = points[0].last.as_ref().map(|last| last.position_ms);
            Seen::Left { title: Maker::title(device), position_ms }
        }
        view::Reply::History { entries, .. } => {
            // What was handed off late is a further play of its view.
            let mut plays: Vec<view::Play> = entries.into_iter().flat_map(|entry| entry.plays).collect();
            plays.sort_by_key(|play| (play.start, play.end()));
            let views = plays.into_iter().filter_map(|p| Some((name(p.view?.as_str()), p.position_ms)));
            Seen::Ended(views.collect())
        }
        other => panic!("{other:?}"),
    }
}
