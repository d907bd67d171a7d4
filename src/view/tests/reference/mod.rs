//! The domain once more, plainly: lists and full scans, seconds in sets, nothing kept that can be counted out anew. Slow and
//! obviously right; the model test holds the real one against it. All its times are whole seconds.

mod handoff;
mod seen;
mod title;

use std::collections::BTreeSet;

use self::handoff::Past;
pub(super) use self::seen::Seen;
use self::title::{Happening, Told, once, tell};
use super::*;
use crate::versions::Feature;

#[derive(Clone, Debug)]
pub(super) struct View {
    id: ViewId,
    profile: ProfileId,
    device: DeviceId,
    media: Media,
    kind: ViewKind,
    state: PlayState,
    sequence: u64,
    position: Option<u64>,
    started: Stamp,
    reported: Stamp,
    paused: Option<LogicalMs>,
    /// Seconds of the title that were really played.
    seconds: BTreeSet<u64>,
    degraded: bool,
    again: bool, // one of its id had ended before
    stretch: Stretch,
}

impl View {
    fn due(&self, s: &Settings) -> LogicalMs {
        let silent = self.reported.logical.plus(self.stretch.interval_ms(s) * s.silence_percent / 100);
        self.paused.map_or(silent, |p| silent.min(p.plus(s.pause_lives_ms)))
    }

    fn holds(&self, s: &Settings, now: LogicalMs) -> bool {
        matches!(self.kind, ViewKind::Full | ViewKind::Live)
            && self.paused.is_none_or(|p| now < p.plus(s.pause_holds_ms))
    }

    fn show(&self, s: &Settings, now: LogicalMs) -> ActiveView {
        ActiveView {
            view: self.id.clone(),
            profile: self.profile.clone(),
            device: self.device.clone(),
            media: self.media.clone(),
            kind: self.kind,
            state: self.state,
            position_ms: self.position,
            sequence: self.sequence,
            started_at: self.started.wall,
            reported_at: self.reported.wall,
            watched_ms: self.seconds.len() as u64 * 1000,
            holds_stream: self.holds(s, now),
            degraded: self.degraded,
        }
    }

    fn play_seconds(&mut self, from: u64, to: u64, most_ms: u64) {
        for second in from / 1000..to / 1000 {
            if self.seconds.contains(&second) {
                continue;
            }
            if self.seconds.len() as u64 * 1000 + 1000 > most_ms {
                return;
            }
            self.seconds.insert(second);
        }
    }

    fn moves(&self) -> bool {
        matches!(self.kind, ViewKind::Full | ViewKind::Offline)
    }
}

#[derive(Clone, Debug)]
struct Request {
    id: RequestId,
    command: AccountCommand,
    stamp: Stamp,
    answer: Answer,
}

#[derive(Clone, Debug)]
pub(super) struct Account {
    id: AccountId,
    policy: Option<StreamPolicy>,
    profiles: BTreeSet<ProfileId>,
    requests: Vec<Request>,
    forgotten: Option<Stamp>,
    /// It has left a trace.
    exists: bool,
    ended: Vec<EndedView>,
    past: Vec<Past>,
    version: ClusterVersion,
    views: Vec<View>,
    happenings: Vec<(ProfileId, TitleId, Happening)>,
    stretch: Stretch,
}

#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) settings: Settings,
    pub(super) logical: LogicalMs,
    pub(super) version: ClusterVersion,
    pub(super) stretch: Stretch,
    pub(super) accounts: Vec<Account>,
}

fn invalid(field: &str) -> Rejection {
    Rejection::Invalid { field: field.into(), accepted: "".into() }
}

type Refused<T> = Result<T, Rejection>;

impl Account {
    fn new(id: &AccountId) -> Self {
        Self {
            id: id.clone(),
            policy: None,
            profiles: BTreeSet::new(),
            requests: Vec::new(),
            forgotten: None,
            exists: false,
            ended: Vec::new(),
            past: Vec::new(),
            version: ClusterVersion::FIRST,
            views: Vec::new(),
            happenings: Vec::new(),
            stretch: Stretch::NONE,
        }
    }

    fn told(&self, s: &Settings, now: LogicalMs, who: &ProfileId, title: &TitleId, with_active: bool) -> Told {
        let past = self.happenings.iter().filter(|(p, t, _)| p == who && t == title).map(|(_, _, h)| h.clone());
        let mut all: Vec<Happening> = past.collect();
        if with_active {
            let active = |v: &&View| v.moves() && v.profile == *who && v.media.title == *title;
            let mut views: Vec<View> = self.views.iter().filter(active).cloned().collect();
            views.sort_by_key(|v| (v.reported.logical, v.id.clone()));
            all.extend(views.into_iter().map(|v| Happening::Ended(v, now)));
        }
        tell(s, title, now, all.iter())
    }

    fn titles(&self, who: &ProfileId) -> BTreeSet<TitleId> {
        let past = self.happenings.iter().filter(|(p, ..)| p == who).map(|(_, t, _)| t.clone());
        past.chain(self.views.iter().filter(|v| v.profile == *who && v.moves()).map(|v| v.media.title.clone()))
            .collect()
    }

    fn entries_of(&self, s: &Settings, who: &ProfileId, title: &TitleId) -> Vec<HistoryEntry> {
        let mut plays = once(self.told(s, LogicalMs(0), who, title, false).plays);
        plays.sort();
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (device, play) in plays {
            let end = play.start.plus(play.elapsed_ms);
            match entries.last_mut() {
                Some(entry) if entry.device == device && play.start <= entry.end.plus(s.entry_gap_ms) => {
                    entry.end = entry.end.max(end);
                    entry.plays.push(play);
                }
                _ => {
                    let (title, start) = (title.clone(), play.start);
                    entries.push(HistoryEntry { title, device, start, end, plays: vec![play] });
                }
            }
        }
        entries
    }

    fn history(&self, s: &Settings, who: &ProfileId) -> Vec<HistoryEntry> {
        let mut all: Vec<_> = self.titles(who).iter().flat_map(|title| self.entries_of(s, who, title)).collect();
        all.sort_by_key(|e| (std::cmp::Reverse(e.start), e.title.clone(), e.device.clone()));
        all
    }

    fn end(
        &mut self,
        s: &Settings,
        stamp: Stamp,
        id: &ViewId,
        why: EndReason,
        by: Option<DeviceId>,
        failed: bool,
    ) -> Outcome {
        let at = self.views.iter().position(|v| v.id == *id).unwrap();
        let view = self.views.remove(at);
        self.past.retain(|past| past.view.id != view.id);
        if self.version.has(Feature::Hints) {
            self.past.push(Past::of(&view));
        }
        let mut outcome = Outcome::Nothing;
        if view.kind != ViewKind::Preview && !(failed && view.sequence == 0) {
            let (who, title) = (view.profile.clone(), view.media.title.clone());
            let ended = Happening::Ended(view.clone(), stamp.logical);
            self.happenings.push((who.clone(), title.clone(), ended));
            outcome = self.told(s, stamp.logical, &who, &title, false).plays.last().unwrap().1.outcome;
        }
        self.ended.retain(|e| e.view != view.id && stamp.logical.since(e.logical) <= s.ended_ms);
        let (at, logical, sequence) = (stamp.wall, stamp.logical, view.sequence);
        self.ended.push(EndedView { view: view.id, why, by, at, logical, sequence });
        outcome
    }

    fn ended(&self, s: &Settings, now: LogicalMs, view: &ViewId) -> Option<EndedView> {
        self.ended.iter().find(|e| e.view == *view && now.since(e.logical) <= s.ended_ms).cloned()
    }

    fn inactive(&self, s: &Settings, now: LogicalMs, view: &ViewId) -> Refused<EndedView> {
        match self.ended(s, now, view) {
            None => Err(Rejection::ViewUnknown(view.clone())),
            Some(e) if matches!(e.why, EndReason::Expired | EndReason::PausedTooLong) => Err(Rejection::ViewExpired(e)),
            Some(e) => Ok(e),
        }
    }

    fn started(&self, s: &Settings, stamp: Stamp, view: &View, before: &TitleState) -> Started {
        let gap = s.entry_gap_ms;
        let near = |e: &&HistoryEntry| {
            e.device == view.device && e.start <= view.started.wall.plus(gap) && view.started.wall <= e.end.plus(gap)
        };
        let entries = self.entries_of(s, &view.profile, &view.media.title);
        Started {
            view: view.show(s, stamp.logical),
            interval_ms: s.told_interval_ms(&view.id, view.sequence, view.stretch),
            expires_at: stamp.wall.plus(view.due(s).since(stamp.logical)),
            resume_ms: before.resume.as_ref().map(|r| r.position_ms),
            watched: before.play_count > 0,
            repeated: false,
            brought_back: false,
            continues: entries.iter().filter(near).map(|e| e.start).min().filter(|_| view.kind != ViewKind::Preview),
            ended: Vec::new(),
        }
    }

    fn start(&mut self, s: &Settings, stamp: Stamp, c: &StartView, keeps: bool) -> Refused<Started> {
        if let Some(v) = self.views.iter().find(|v| v.id == c.view) {
            let same =
                v.profile == c.profile && v.device == c.device && v.media.title == c.media.title && v.kind == c.kind;
            if !same || keeps {
                return Err(Rejection::ViewIdInUse(c.view.clone()));
            }
            let before = self.told(s, stamp.logical, &c.profile, &c.media.title, false).state;
            return Ok(Started { repeated: true, ..self.started(s, stamp, v, &before) });
        }
        let (mut sequence, mut brought_back, mut again) = (0, false, false);
        if let Some(former) = self.ended(s, stamp.logical, &c.view) {
            again = self.version.has(Feature::Hints);
            if !matches!(former.why, EndReason::Expired | EndReason::PausedTooLong) {
                return Err(Rejection::ViewEnded(former));
            }
            sequence = former.sequence;
            brought_back = stamp.logical.since(former.logical) <= s.comeback_ms;
        }
        let mut by_age = self.views.clone();
        by_age.sort_by_key(|v| (v.started.logical, v.id.clone()));
        let replaces = |v: &View| v.device == c.device && (c.kind != ViewKind::Preview || v.kind == ViewKind::Preview);
        let mut ending: Vec<(ViewId, EndReason)> =
            by_age.iter().filter(|v| replaces(v)).map(|v| (v.id.clone(), EndReason::Replaced)).collect();
        if matches!(c.kind, ViewKind::Full | ViewKind::Live) && !keeps {
            let limit = self.policy.unwrap_or(s.policy).max_streams;
            loop {
                let gone = |v: &View| ending.iter().any(|(id, _)| *id == v.id);
                let holders: Vec<&View> = by_age.iter().filter(|v| v.holds(s, stamp.logical) && !gone(v)).collect();
                if holders.len() < usize::from(limit) {
                    break;
                }
                let views = holders.iter().map(|v| v.show(s, stamp.logical)).collect();
                let full = Rejection::StreamLimit { limit, views };
                let victim = match &c.on_limit {
                    OnLimit::Reject => return Err(full),
                    OnLimit::EndOldest => holders[0].id.clone(),
                    OnLimit::EndNamed(named) if holders.iter().any(|v| v.id == *named) => named.clone(),
                    OnLimit::EndNamed(named) if by_age.iter().any(|v| v.id == *named) => return Err(full),
                    OnLimit::EndNamed(named) => return Err(Rejection::NamedViewUnknown(named.clone())),
                };
                ending.push((victim, EndReason::EndedForAnother));
            }
        }
        for (id, why) in &ending {
            self.end(s, stamp, id, *why, Some(c.device.clone()), false);
        }
        if c.kind != ViewKind::Preview {
            self.profiles.insert(c.profile.clone());
        }
        let before = self.told(s, stamp.logical, &c.profile, &c.media.title, true).state;
        let resume = before.resume.as_ref().map(|r| r.position_ms);
        let view = View {
            id: c.view.clone(),
            profile: c.profile.clone(),
            device: c.device.clone(),
            media: c.media.clone(),
            kind: c.kind,
            state: PlayState::Playing,
            sequence,
            position: match c.kind {
                ViewKind::Live => c.position_ms,
                ViewKind::Preview => c.position_ms.or(Some(0)),
                _ => c.position_ms.or(resume).or(Some(0)),
            },
            started: stamp,
            reported: stamp,
            paused: None,
            seconds: BTreeSet::new(),
            degraded: false,
            again,
            stretch: self.stretch,
        };
        let mut started = self.started(s, stamp, &view, &before);
        started.brought_back = brought_back;
        started.ended = ending.into_iter().map(|(id, _)| id).collect();
        self.ended.retain(|e| e.view != c.view);
        self.views.push(view);
        Ok(started)
    }

    fn take_report(
        s: &Settings,
        (stamp, stretch): (Stamp, Stretch),
        v: &mut View,
        r: &ReportProgress,
        is_stop: bool,
    ) -> bool {
        let most = |since: LogicalMs| stamp.logical.since(since) * s.speed_percent_max / 100 + 5000;
        for range in &r.played {
            v.play_seconds(range.from_ms, range.to_ms, most(v.started.logical));
        }
        let unknown_zero = r.position_ms == Some(0) && !r.seeked && v.position.is_some_and(|p| p > 0);
        if r.sequence <= v.sequence {
            let known_place = unknown_zero || r.position_ms.is_none() || r.position_ms == v.position;
            return r.sequence == v.sequence && known_place && (is_stop || r.state == v.state);
        }
        if let Some(new) = r.position_ms.filter(|_| !unknown_zero) {
            let old = v.position.unwrap_or(new);
            let plausible = new > old && new - old <= most(v.reported.logical);
            if plausible && r.played.is_empty() && !r.seeked && v.state != PlayState::Paused {
                v.play_seconds(old, new, most(v.started.logical));
            }
            v.position = Some(new);
        }
        v.sequence = r.sequence;
        if !is_stop {
            v.state = r.state;
            v.paused = if r.state == PlayState::Paused { v.paused.or(Some(stamp.logical)) } else { None };
        }
        v.reported = stamp;
        v.stretch = stretch;
        true
    }

    fn report(&mut self, s: &Settings, stamp: Stamp, r: &ReportProgress) -> Refused<Answer> {
        if r.sequence == 0 {
            return Err(invalid("sequence"));
        }
        let answer = |applied, told: Option<(u64, Stretch)>, expires_at, directive| {
            let interval_ms = told.map_or(s.interval_ms, |(n, stretch)| s.told_interval_ms(&r.view, n, stretch));
            Answer::Progressed(Progressed { applied, interval_ms, expires_at, directive })
        };
        let Some(at) = self.views.iter().position(|v| v.id == r.view) else {
            let ended = self.inactive(s, stamp.logical, &r.view)?;
            return Ok(answer(false, None, stamp.wall, Directive::Stop(ended)));
        };
        let limit = usize::from(self.policy.unwrap_or(s.policy).max_streams);
        let others = self.views.iter().filter(|v| v.id != r.view && v.holds(s, stamp.logical)).count();
        let v = &mut self.views[at];
        let gave_away = matches!(v.kind, ViewKind::Full | ViewKind::Live) && !v.holds(s, stamp.logical);
        let wants = gave_away && r.state != PlayState::Paused && r.sequence > v.sequence;
        let applied = Self::take_report(s, (stamp, self.stretch), v, r, false);
        let sequence = Some((v.sequence, v.stretch));
        if wants && others >= limit {
            self.end(s, stamp, &r.view, EndReason::StreamTaken, None, false);
            let ended = self.ended.last().cloned().unwrap();
            return Ok(answer(applied, sequence, stamp.wall, Directive::Stop(ended)));
        }
        Ok(answer(applied, sequence, stamp.wall.plus(v.due(s).since(stamp.logical)), Directive::Continue))
    }

    fn stop(&mut self, s: &Settings, stamp: Stamp, c: &StopView) -> Refused<Stopped> {
        if c.next.as_ref().is_some_and(|n| n.view == c.view) {
            return Err(invalid("next.view"));
        }
        let Some(at) = self.views.iter().position(|v| v.id == c.view) else {
            return Err(Rejection::ViewEnded(self.inactive(s, stamp.logical, &c.view)?));
        };
        let v = &mut self.views[at];
        let held = v.holds(s, stamp.logical);
        let as_report = ReportProgress {
            view: c.view.clone(),
            sequence: c.sequence.unwrap_or(v.sequence + 1),
            position_ms: c.position_ms,
            state: v.state,
            played: c.played.clone(),
            seeked: false,
        };
        if !c.failed {
            Self::take_report(s, (stamp, self.stretch), v, &as_report, true);
        }
        let v = v.clone();
        let outcome = self.end(s, stamp, &c.view, EndReason::Stopped, Some(v.device.clone()), c.failed);
        let next = match &c.next {
            None => None,
            Some(next) => {
                let start = StartView {
                    view: next.view.clone(),
                    profile: v.profile.clone(),
                    device: v.device.clone(),
                    media: next.media.clone(),
                    kind: v.kind,
                    position_ms: next.position_ms,
                    on_limit: OnLimit::Reject,
                };
                if self.views.iter().any(|v| v.id == next.view) {
                    return Err(Rejection::ViewIdInUse(next.view.clone()));
                }
                Some(self.start(s, stamp, &start, held)?)
            }
        };
        Ok(Stopped { view: c.view.clone(), position_ms: v.position, outcome, next })
    }

    fn import(&mut self, stamp: Stamp, c: &ImportHistory) -> Imported {
        let mut results = Vec::new();
        for play in &c.plays {
            let is = |h: &Happening| matches!(h, Happening::Imported(known) if known == play);
            results.push(if play.start.plus(play.elapsed_ms) > stamp.wall.plus(5 * MINUTE) {
                ImportResult::InFuture
            } else if play.kind == ViewKind::Preview {
                ImportResult::Preview
            } else if self.happenings.iter().any(|(_, _, h)| is(h)) {
                ImportResult::Unchanged
            } else {
                self.profiles.insert(play.profile.clone());
                self.happenings.push((play.profile.clone(), play.title.clone(), Happening::Imported(play.clone())));
                ImportResult::Added
            });
        }
        Imported { results }
    }

    fn run(&mut self, s: &Settings, stamp: Stamp, command: &AccountCommand) -> Answer {
        let answer = self.run_command(s, stamp, command);
        self.exists |= self.policy.is_some() || !self.profiles.is_empty() || !self.ended.is_empty();
        answer
    }

    fn run_command(&mut self, s: &Settings, stamp: Stamp, command: &AccountCommand) -> Answer {
        let before = self.clone();
        let answer = match command {
            AccountCommand::StartView(c) => self.start(s, stamp, c, false).map(|s| Answer::Started(s.into())),
            AccountCommand::ReportProgress(c) => self.report(s, stamp, c),
            AccountCommand::StopView(c) => self.stop(s, stamp, c).map(|s| Answer::Stopped(s.into())),
            AccountCommand::EndView(c) => match self.views.iter().any(|v| v.id == c.view) {
                true => {
                    self.end(s, stamp, &c.view, EndReason::EndedByOwner, c.by.clone(), false);
                    Ok(Answer::Ended(c.view.clone()))
                }
                false => self.inactive(s, stamp.logical, &c.view).and_then(|e| Err(Rejection::ViewEnded(e))),
            },
            AccountCommand::HandOff(c) => self.hand_off(s, stamp, c).map(Answer::HandedOff),
            AccountCommand::ImportHistory(c) => Ok(Answer::Imported(self.import(stamp, c))),
            AccountCommand::UpdateStreamPolicy(policy) => {
                self.policy = Some(*policy);
                Ok(Answer::PolicyUpdated(*policy))
            }
        };
        answer.unwrap_or_else(|rejection| {
            *self = before;
            Answer::Rejected(rejection)
        })
    }

    fn run_once(&mut self, s: &Settings, stamp: Stamp, envelope: &Envelope, command: &AccountCommand) -> Answer {
        let idempotent = matches!(command, AccountCommand::ReportProgress(_) | AccountCommand::HandOff(_));
        let id = envelope.request_id.as_ref().filter(|_| !idempotent);
        let Some(id) = id else { return self.run(s, stamp, command) };
        if let Some(known) = self.requests.iter().find(|r| r.id == *id) {
            return match known.command == *command {
                true => known.answer.clone(),
                false => Answer::Rejected(Rejection::RequestIdReused),
            };
        }
        if let (Some(forgotten), Some(FirstSent::At(first_sent))) = (self.forgotten, envelope.first_sent)
            && first_sent <= forgotten.logical
        {
            let repeated = match command {
                AccountCommand::StartView(c) => self.views.iter().any(|v| {
                    let known = (&v.id, &v.profile, &v.device, &v.media.title, v.kind);
                    known == (&c.view, &c.profile, &c.device, &c.media.title, c.kind)
                }),
                _ => false,
            };
            if repeated {
                return self.run(s, stamp, command);
            }
            if !matches!(command, AccountCommand::ImportHistory(_)) {
                return Answer::Rejected(Rejection::RequestTooOld { remembered_since: forgotten.wall });
            }
        }
        let answer = self.run(s, stamp, command);
        let traceless = match &answer {
            Answer::Rejected(refused) => !self.exists || matches!(refused, Rejection::Invalid { .. }),
            _ => false,
        };
        if traceless {
            return answer;
        }
        self.remember(s, stamp, id, command, &answer);
        answer
    }

    fn remember(&mut self, s: &Settings, stamp: Stamp, id: &RequestId, command: &AccountCommand, answer: &Answer) {
        self.exists = true;
        while self.requests.first().is_some_and(|r| stamp.logical.since(r.stamp.logical) > s.request_ms) {
            let gone = self.requests.remove(0);
            if !matches!(gone.answer, Answer::Rejected(_)) {
                let later = self.forgotten.is_none_or(|until| until.logical < gone.stamp.logical);
                self.forgotten = if later { Some(gone.stamp) } else { self.forgotten };
            }
        }
        let (id, command) = (id.clone(), command.clone());
        self.requests.push(Request { id, command, stamp, answer: answer.clone() });
    }
}

impl Reference {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            logical: LogicalMs(0),
            version: ClusterVersion::FIRST,
            stretch: Stretch::NONE,
            accounts: Vec::new(),
        }
    }

    fn account(&mut self, id: &AccountId) -> &mut Account {
        if let Some(at) = self.accounts.iter().position(|a| a.id == *id) {
            return &mut self.accounts[at];
        }
        self.accounts.push(Account::new(id));
        self.accounts.last_mut().unwrap()
    }

    pub(super) fn apply(&mut self, stamp: Stamp, envelope: &Envelope) -> Answer {
        self.logical = self.logical.max(stamp.logical);
        let stamp = Stamp { logical: self.logical, ..stamp };
        let s = self.settings.clone();
        match &envelope.command {
            Command::Tick => self.tick(stamp),
            Command::Adopt(version) => self.adopt(*version),
            Command::Stretch(_) if !self.version.has(Feature::Stretch) => Answer::Rejected(invalid("command")),
            Command::Stretch(stretch) if stretch.0 > 176 => Answer::Rejected(invalid("stretch")),
            Command::Stretch(stretch) => {
                self.stretch = *stretch;
                Answer::Stretched(*stretch)
            }
            Command::UpdateSettings(new) if new.version <= s.version => {
                Answer::Rejected(Rejection::SettingsOlder { version: s.version })
            }
            Command::UpdateSettings(new) => {
                self.settings = new.clone();
                Answer::SettingsUpdated
            }
            Command::Account(..) if envelope.command.needs() > self.version => Answer::Rejected(invalid("command")),
            Command::Account(id, command) => {
                let (version, stretch) = (self.version, self.stretch);
                let account = self.account(id);
                (account.version, account.stretch) = (version, stretch);
                account.run_once(&s, stamp, envelope, command)
            }
        }
    }

    fn tick(&mut self, stamp: Stamp) -> Answer {
        let s = self.settings.clone();
        let mut expired = 0;
        let version = self.version;
        for account in &mut self.accounts {
            account.version = version;
            let mut due: Vec<View> = account.views.iter().filter(|v| v.due(&s) <= stamp.logical).cloned().collect();
            due.sort_by_key(|v| (v.due(&s), v.id.clone()));
            for view in due {
                let paused = view.paused.is_some_and(|p| p.plus(s.pause_lives_ms) <= stamp.logical);
                let why = if paused { EndReason::PausedTooLong } else { EndReason::Expired };
                account.end(&s, stamp, &view.id, why, None, false);
                expired += 1;
            }
        }
        Answer::Ticked(Ticked { expired })
    }
}
