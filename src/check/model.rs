//! An account, as small as what clients are promised allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::history::{Action, Answer, Name, Names, OnLimit, Op, Outcome, Refusal, Rules, Seen, SeenView, What};

/// Of so many views that may have ended by themselves every combination is tried.
const MAYBE_MAX: usize = 4;

/// What the model goes by beside its state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    pub(super) rules: &'a Rules,
    pub(super) names: &'a Names,
    /// The operation takes effect at this moment at the latest.
    pub(super) until_us: u64,
}

/// A position: what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Nowhere,
    At(u64),
    /// Not followed; equals everything.
    Somewhere,
}

impl Place {
    fn is(self, seen: Option<u64>) -> bool {
        match self {
            Self::Nowhere => seen.is_none(),
            Self::At(ms) => seen == Some(ms),
            Self::Somewhere => true,
        }
    }

    /// A player that doesn't know where it is says 0: then nothing is learned.
    fn learn(self, told: Option<u64>) -> Option<u64> {
        told.filter(|ms| *ms > 0 || matches!(self, Self::Nowhere | Self::At(0)))
    }
}

/// How much of a view was played, while every report's stretch can be told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Played {
    ms: u64,
    /// The sequences whose stretches are in; none: only the least is known.
    by: Option<BTreeSet<u64>>,
    /// Something was handed off: stretches that were only accepted may be in, too.
    more: bool,
    /// A report said nothing of it, so that the cluster had to guess.
    guessed: bool,
}

impl Played {
    fn add(&mut self, sequence: u64, ms: u64, believed_ms: u64) {
        self.guessed |= ms == 0;
        let Some(by) = &mut self.by else { return };
        if by.insert(sequence) {
            self.ms += ms;
        }
        if self.ms > believed_ms {
            (self.ms, self.by) = (believed_ms, None);
        }
    }

    fn is(&self, seen: Option<u64>) -> bool {
        let Some(seen) = seen.filter(|_| !self.guessed) else { return true };
        if self.by.is_some() && !self.more { seen == self.ms } else { seen >= self.ms }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct View {
    id: u32,
    device: u32,
    title: u32,
    sequence: u64,
    place: Place,
    played: Played,
    takes_stream: bool,
    degraded: bool,
    /// When the call was made by which the cluster heard of it last.
    heard_us: u64,
}

impl View {
    fn may_be_gone(&self, around: &Around<'_>) -> bool {
        self.degraded || around.until_us >= self.heard_us.saturating_add(around.rules.silence_us)
    }

    fn is(&self, names: &Names, seen: &SeenView) -> bool {
        names.number(&seen.view) == self.id
            && names.number(&seen.device) == self.device
            && seen.sequence == self.sequence
            && self.place.is(seen.position_ms)
            && self.played.is(seen.watched_ms)
            && seen.degraded == self.degraded
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ended {
    title: u32,
    sequence: u64,
    place: Place,
    comes_back: ComesBack,
}

/// Whether a start brings an ended view back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ComesBack {
    /// It was ended.
    No,
    /// It ended by itself.
    Yes,
    /// It was degraded, and ended by itself or for others.
    Perhaps,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    limit: u16,
    /// In the order of their starts.
    views: Vec<View>,
    ended: BTreeMap<u32, Ended>,
    left: BTreeMap<u32, Place>,
}

/// What the model answers to a write.
enum Told {
    Started { ended: BTreeSet<u32>, repeated: bool },
    Progressed(Option<bool>),
    Done,
    Refused(Why),
}

enum Why {
    Limit(BTreeSet<u32>),
    NotActive,
    IdInUse,
    NamedUnknown,
}

impl State {
    pub(super) fn new(rules: &Rules) -> Self {
        Self { limit: rules.limit, views: Vec::new(), ended: BTreeMap::new(), left: BTreeMap::new() }
    }

    /// The states in which the account can be after the operation, if it gave the answer that it gave. None: it can't have.
    pub(super) fn after(&self, around: &Around<'_>, op: &Op) -> Vec<Self> {
        let mut states = match &op.what {
            What::Read { seen, .. } => self.after_read(around, seen),
            What::Write(action, outcome) => self.after_write(around, op, action, outcome),
        };
        states.dedup();
        states
    }

    fn after_write(&self, around: &Around<'_>, op: &Op, action: &Action, outcome: &Outcome) -> Vec<Self> {
        if matches!(outcome, Outcome::Refused(Refusal::Other, _)) {
            return vec![self.clone()];
        }
        let mut states = Vec::new();
        let accepted = matches!(outcome, Outcome::Accepted);
        let hint = accepted || (around.rules.hints && matches!(outcome, Outcome::Unknown));
        let started_degraded = matches!(outcome, Outcome::Committed(Answer::Started { degraded: true, .. }, _));
        // A degraded view counts against others or not; what it was admitted by is not the shard's to say.
        let counts = if self.views.iter().any(|view| view.degraded) { &[true, false][..] } else { &[true] };
        // Of a call that was accepted in the end an attempt before may have been committed.
        let degrees: &[bool] = match hint && matches!(action, Action::Start { .. }) {
            true => &[false, true],
            false => &[started_degraded],
        };
        let oldest = match outcome {
            Outcome::Committed(Answer::Started { ended, .. }, _) if counts.len() > 1 => {
                ended.iter().map(|view| around.names.number(view)).collect()
            }
            _ => BTreeSet::new(),
        };
        let bases = self.variants(around, |view| concerns(around.names, action, view));
        for base in bases.into_iter().flat_map(|base| base.decided(around.names, action)) {
            for (count_degraded, degraded) in counts.iter().flat_map(|c| degrees.iter().map(move |d| (*c, *d))) {
                let mut after = base.clone();
                let how = How { at_us: op.invoked_us, degraded, count_degraded, accepted, oldest: &oldest };
                for told in after.does(around, action, &how) {
                    if matches(around.names, &told, outcome) && !states.contains(&after) {
                        states.push(after.clone());
                    }
                }
            }
            if hint {
                let late = base.late(around.names, action).into_iter().filter(|late| !states.contains(late));
                states.extend(late.collect::<Vec<_>>());
            }
        }
        states
    }

    /// What it may be if the write is handed off when its view has ended, or can't run any more: the view's play goes on, and its
    /// title was left there, unless something later has happened to that.
    fn late(&self, names: &Names, action: &Action) -> Vec<Self> {
        let mut state = self.clone();
        let (id, sequence, told, stops) = match action {
            Action::Start { view, title, position_ms, .. } => {
                let (id, title) = (names.number(view), names.number(title));
                if self.ended.contains_key(&id) || self.views.iter().any(|view| view.id == id) {
                    return Vec::new();
                }
                let place = position_ms.map_or(Place::Somewhere, Place::At);
                state.ended.insert(id, Ended { title, sequence: 0, place, comes_back: ComesBack::Perhaps });
                (id, Some(0), None, false)
            }
            Action::Progress { view, sequence, position_ms, .. } => {
                (names.number(view), Some(*sequence), *position_ms, false)
            }
            Action::Stop { view, sequence, position_ms, .. } => (names.number(view), *sequence, *position_ms, true),
            Action::End { .. } | Action::SetLimit { .. } => return Vec::new(),
        };
        if let Some(view) = state.views.iter_mut().find(|view| view.id == id && stops) {
            // Its device has said something newer since: it goes on.
            let older = sequence.is_some_and(|sequence| sequence < view.sequence);
            view.played.more |= older;
            return Vec::from_iter(older.then_some(state));
        }
        let Some(ended) = state.ended.get_mut(&id) else { return Vec::new() };
        if !matches!(action, Action::Start { .. }) {
            let sequence = sequence.unwrap_or(ended.sequence + 1);
            if sequence <= ended.sequence {
                return Vec::new();
            }
            ended.sequence = sequence;
            if stops {
                ended.comes_back = ComesBack::No;
            }
            if let Some(ms) = ended.place.learn(told) {
                ended.place = Place::At(ms);
            }
        }
        let (title, place) = (ended.title, ended.place);
        let mut newest = state.clone();
        newest.left.insert(title, place);
        vec![state, newest]
    }

    /// This, and what it is if views have ended by themselves before.
    fn variants(&self, around: &Around<'_>, concerned: impl Fn(&View) -> bool) -> Vec<Self> {
        let maybe = self.views.iter().filter(|view| view.may_be_gone(around) && concerned(view));
        let maybe: Vec<u32> = maybe.map(|view| view.id).take(MAYBE_MAX).collect();
        let without = |set: u32| {
            let mut state = self.clone();
            for (_, id) in maybe.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0) {
                state.end(*id, true);
            }
            state
        };
        (0..1 << maybe.len()).map(without).collect()
    }

    /// The same, where it may be either way once with each, whether the view that is to start comes back.
    fn decided(self, names: &Names, action: &Action) -> Vec<Self> {
        let Action::Start { view, .. } = action else { return vec![self] };
        let id = names.number(view);
        if self.ended.get(&id).is_none_or(|ended| ended.comes_back != ComesBack::Perhaps) {
            return vec![self];
        }
        let with = |comes_back| {
            let mut state = self.clone();
            state.ended.entry(id).and_modify(|ended| ended.comes_back = comes_back);
            state
        };
        vec![with(ComesBack::Yes), with(ComesBack::No)]
    }

    fn end(&mut self, id: u32, by_itself: bool) {
        if let Some(at) = self.views.iter().position(|view| view.id == id) {
            let view = self.views.remove(at);
            let View { title, sequence, place, .. } = view;
            let comes_back = match (by_itself, view.degraded) {
                (false, _) => ComesBack::No,
                (true, false) => ComesBack::Yes,
                (true, true) => ComesBack::Perhaps,
            };
            self.ended.insert(id, Ended { title, sequence, place, comes_back });
        }
    }

    /// Carries out a write; all that the cluster may say to it.
    fn does(&mut self, around: &Around<'_>, action: &Action, how: &How<'_>) -> Vec<Told> {
        let number = |name: &Name| around.names.number(name);
        match action {
            Action::Start { .. } => self.start(around.names, action, how),
            Action::Progress { view, sequence, position_ms, played_ms } => {
                let told = Report { sequence: Some(*sequence), position_ms: *position_ms, played_ms: *played_ms };
                match self.report(around.rules, number(view), &told, how) {
                    Some(applied) => vec![Told::Progressed(applied)],
                    None => vec![Told::Refused(Why::NotActive)],
                }
            }
            Action::Stop { view, sequence, position_ms, played_ms } => {
                let told = Report { sequence: *sequence, position_ms: *position_ms, played_ms: *played_ms };
                if self.report(around.rules, number(view), &told, how).is_none() {
                    return vec![Told::Refused(Why::NotActive)];
                }
                self.end(number(view), false);
                vec![Told::Done]
            }
            Action::End { view } => {
                if !self.views.iter().any(|active| active.id == number(view)) {
                    return vec![Told::Refused(Why::NotActive)];
                }
                self.end(number(view), false);
                vec![Told::Done]
            }
            Action::SetLimit { streams } => {
                self.limit = *streams;
                vec![Told::Done]
            }
        }
    }

    fn report(&mut self, rules: &Rules, view: u32, told: &Report, how: &How<'_>) -> Option<Option<bool>> {
        let view = self.views.iter_mut().find(|active| active.id == view)?;
        let sequence = told.sequence.unwrap_or(view.sequence + 1);
        // What was accepted is handed off together, in part, or not at all.
        match how.accepted {
            true => view.played.more = true,
            false => view.played.add(sequence, told.played_ms, rules.believed_ms),
        }
        let position = view.place.learn(told.position_ms);
        if sequence <= view.sequence {
            let same = sequence == view.sequence && (position.is_none() || view.place.is(position));
            return Some(if view.place == Place::Somewhere { None } else { Some(same) });
        }
        view.sequence = sequence;
        view.heard_us = how.at_us;
        if let Some(ms) = position {
            view.place = Place::At(ms);
        }
        if view.place != Place::Nowhere {
            self.left.insert(view.title, view.place);
        }
        Some(Some(true))
    }

    fn start(&mut self, names: &Names, action: &Action, how: &How<'_>) -> Vec<Told> {
        let Action::Start { view, device, title, position_ms, takes_stream, on_limit } = action else {
            return Vec::new();
        };
        let (id, device, title) = (names.number(view), names.number(device), names.number(title));
        if let Some(active) = self.views.iter().find(|active| active.id == id) {
            let same = (active.device, active.title) == (device, title);
            let repeated = Told::Started { ended: BTreeSet::new(), repeated: true };
            return vec![if same { repeated } else { Told::Refused(Why::IdInUse) }];
        }
        let before = self.ended.get(&id).map(|ended| (ended.sequence, ended.comes_back));
        if before.is_some_and(|(_, comes_back)| comes_back == ComesBack::No) {
            return vec![Told::Refused(Why::NotActive)];
        }
        let mut ending: BTreeSet<u32> = self.views.iter().filter(|v| v.device == device).map(|v| v.id).collect();
        if *takes_stream
            && !how.degraded
            && let Err(why) = self.make_room(names, on_limit, how, &mut ending)
        {
            return vec![Told::Refused(why)];
        }
        ending.iter().for_each(|view| self.end(*view, false));
        self.ended.remove(&id);
        let place = match (position_ms, before) {
            (Some(ms), None) => Place::At(*ms),
            // Of a view that comes back the cluster knows more than is followed here.
            _ => Place::Somewhere,
        };
        let played = Played { ms: 0, by: Some(BTreeSet::new()), more: false, guessed: before.is_some() };
        let sequence = before.map_or(0, |(sequence, _)| sequence);
        let (takes_stream, degraded, heard_us) = (*takes_stream, how.degraded, how.at_us);
        self.left.insert(title, place);
        self.views.push(View { id, device, title, sequence, place, played, takes_stream, degraded, heard_us });
        vec![Told::Started { ended: ending, repeated: false }]
    }

    /// Finds what has to end until there is a stream free.
    fn make_room(
        &self,
        names: &Names,
        on_limit: &OnLimit,
        how: &How<'_>,
        ending: &mut BTreeSet<u32>,
    ) -> Result<(), Why> {
        let counts = |view: &&View| view.takes_stream && (how.count_degraded || !view.degraded);
        let holders = self.views.iter().filter(counts).map(|view| view.id);
        let mut holders: Vec<u32> = holders.filter(|view| !ending.contains(view)).collect();
        while holders.len() >= usize::from(self.limit) {
            let at = match on_limit {
                OnLimit::Reject => None,
                OnLimit::EndOldest => holders.iter().position(|view| how.oldest.contains(view)).or(Some(0)),
                OnLimit::EndNamed(named) => {
                    let named = names.number(named);
                    let at = holders.iter().position(|view| *view == named);
                    // One that is active and holds no stream makes no room either.
                    if at.is_none() && !self.views.iter().any(|view| view.id == named) {
                        return Err(Why::NamedUnknown);
                    }
                    at
                }
            };
            let Some(at) = at else { return Err(Why::Limit(holders.into_iter().collect())) };
            ending.insert(holders.remove(at));
        }
        Ok(())
    }

    fn after_read(&self, around: &Around<'_>, seen: &Seen) -> Vec<Self> {
        let names = around.names;
        match seen {
            Seen::Active(seen) => {
                let seen_ids: BTreeSet<u32> = seen.iter().map(|view| names.number(&view.view)).collect();
                let mut state = self.clone();
                let gone = self.views.iter().filter(|v| !seen_ids.contains(&v.id) && v.may_be_gone(around));
                gone.for_each(|view| state.end(view.id, true));
                let fits = state.views.len() == seen.len()
                    && state.views.iter().all(|view| {
                        seen.iter().any(|seen| names.number(&seen.view) == view.id && view.is(names, seen))
                    })
                    && seen.is_sorted_by(|a, b| {
                        // Who started in the same millisecond stands in the order of the ids, not of the commits; who was let in while
                        // there was no leader in that of its own time; and what was handed off of a view dates its start anew.
                        let place = |id: &Name| state.views.iter().position(|view| view.id == names.number(id));
                        let own_time = |seen: &SeenView| {
                            let told = place(&seen.view).is_some_and(|at| state.views[at].played.more);
                            seen.degraded || told
                        };
                        place(&a.view) < place(&b.view) || a.view < b.view || own_time(a) || own_time(b)
                    });
                Vec::from_iter(fits.then_some(state))
            }
            Seen::View(id, seen) => {
                let id = names.number(id);
                let fits = |state: &Self| match (state.views.iter().find(|view| view.id == id), seen) {
                    (Some(view), Some(seen)) => view.is(names, seen),
                    (None, None) => true,
                    _ => false,
                };
                self.variants(around, |view| view.id == id).into_iter().filter(fits).collect()
            }
            Seen::Left { title, position_ms } => {
                let place = self.left.get(&names.number(title)).copied().unwrap_or(Place::Nowhere);
                Vec::from_iter(place.is(*position_ms).then(|| self.clone()))
            }
            Seen::Ended(seen) => Vec::from_iter(self.history_is(names, seen).then(|| self.clone())),
            Seen::Limit(limit) => Vec::from_iter((self.limit == *limit).then(|| self.clone())),
        }
    }

    fn history_is(&self, names: &Names, seen: &[(Name, Option<u64>)]) -> bool {
        let seen: BTreeMap<u32, Option<u64>> = seen.iter().map(|(view, at)| (names.number(view), *at)).collect();
        let known = |view: &u32| match (self.ended.get(view), self.views.iter().find(|active| active.id == *view)) {
            (Some(ended), _) => Some(ended.place),
            // A view that runs counts as if it had ended.
            (None, active) => active.map(|active| active.place),
        };
        let has_all = self.ended.keys().all(|view| seen.contains_key(view));
        has_all && seen.iter().all(|(view, at)| known(view).is_some_and(|place| place.is(*at)))
    }

    /// For people.
    pub(super) fn describe(&self, names: &Names) -> String {
        let mut text = String::new();
        let place = |place: Place| match place {
            Place::Nowhere => "nowhere".to_string(),
            Place::At(ms) => format!("{ms} ms"),
            Place::Somewhere => "somewhere".to_string(),
        };
        for view in &self.views {
            let (id, device) = (names.name(view.id), names.name(view.device));
            let _ = write!(text, "{id} on {device} at sequence {}, {}", view.sequence, place(view.place));
            let least = if view.played.by.is_some() && !view.played.more { "" } else { "at least " };
            if !view.played.guessed {
                let _ = write!(text, ", {least}{} ms played", view.played.ms);
            }
            text.push_str(if view.degraded { ", degraded; " } else { "; " });
        }
        if self.views.is_empty() {
            text.push_str("no view is active; ");
        }
        let _ = write!(text, "{} have ended; limit {}; ", self.ended.len(), self.limit);
        let left = self.left.iter().take(8).map(|(title, at)| format!("{} left at {}", names.name(*title), place(*at)));
        text.push_str(&left.collect::<Vec<_>>().join(", "));
        text
    }
}

/// What is told by a report or a stop.
struct Report {
    sequence: Option<u64>,
    position_ms: Option<u64>,
    played_ms: u64,
}

/// How a write is carried out.
struct How<'a> {
    at_us: u64,
    degraded: bool,
    count_degraded: bool,
    /// It was accepted, and is handed off.
    accepted: bool,
    /// Which views were the oldest: degraded ones are as old as they say, not as their commit is.
    oldest: &'a BTreeSet<u32>,
}

/// Whether what becomes of a write depends on whether this view is still there.
fn concerns(names: &Names, action: &Action, view: &View) -> bool {
    match action {
        Action::Start { view: id, takes_stream, .. } => {
            (*takes_stream && view.takes_stream) || names.number(id) == view.id
        }
        Action::Progress { view: id, .. } | Action::Stop { view: id, .. } | Action::End { view: id } => {
            names.number(id) == view.id
        }
        Action::SetLimit { .. } => false,
    }
}

/// Whether the cluster's answer may be this one.
fn matches(names: &Names, told: &Told, outcome: &Outcome) -> bool {
    let numbers = |views: &[Name]| views.iter().map(|view| names.number(view)).collect::<BTreeSet<u32>>();
    match (outcome, told) {
        (Outcome::Unknown | Outcome::Accepted, _) => true,
        (Outcome::Committed(answer, _), told) => match (answer, told) {
            (Answer::Started { ended, repeated, .. }, Told::Started { ended: e, repeated: r }) => {
                repeated == r && numbers(ended) == *e
            }
            (Answer::Progressed { applied }, Told::Progressed(a)) => a.is_none_or(|a| a == *applied),
            (Answer::Done, Told::Done) => true,
            _ => false,
        },
        (Outcome::Refused(why, _), Told::Refused(told)) => match (why, told) {
            (Refusal::StreamLimit(views), Why::Limit(holders)) => numbers(views) == *holders,
            (Refusal::NotActive, Why::NotActive)
            | (Refusal::IdInUse, Why::IdInUse)
            | (Refusal::NamedUnknown, Why::NamedUnknown) => true,
            _ => false,
        },
        _ => false,
    }
}
