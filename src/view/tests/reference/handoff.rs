//! What nodes took in while the shard had no leader.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::title::Happening;
use super::{Account, Refused, View, invalid};
use crate::view::tests::*;

/// What is known of a view that has ended: as it was, and where its last play began and ended.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub(super) view: View,
    start: WallMs,
    end: WallMs,
}

impl Past {
    pub(super) fn of(view: &View) -> Self {
        let end = view.started.wall.plus(view.reported.logical.since(view.started.logical));
        Self { view: view.clone(), start: view.started.wall, end }
    }
}

/// A later play of a view that had ended: what became of it, and which play it goes on from.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) view: View,
    pub(super) after: (WallMs, WallMs),
    pub(super) elapsed_ms: u64,
    pub(super) seconds: BTreeSet<u64>,
    pub(super) when: Option<LogicalMs>,
}

fn back(stamp: Stamp, age: u64) -> Stamp {
    Stamp { logical: LogicalMs(stamp.logical.0.saturating_sub(age)), wall: WallMs(stamp.wall.0.saturating_sub(age)) }
}

fn as_report(view: &View, told: &ParkedTold, state: PlayState) -> ReportProgress {
    ReportProgress {
        view: view.id.clone(),
        sequence: told.sequence.unwrap_or(view.sequence + 1),
        position_ms: told.position_ms,
        state,
        played: told.played.clone(),
        seeked: told.seeked,
    }
}

impl Account {
    pub(super) fn hand_off(&mut self, s: &Settings, stamp: Stamp, c: &HandOff) -> Refused<Vec<Handed>> {
        for (at, p) in c.views.iter().enumerate() {
            if c.views[..at].iter().any(|q| q.view == p.view) || (p.start.is_none() && p.told.is_none()) {
                return Err(invalid("views"));
            }
            let numberless = p.told.as_ref().is_some_and(|t| t.sequence.is_none() && t.stop.is_none());
            if numberless || p.told.as_ref().is_some_and(|t| t.sequence == Some(0)) {
                return Err(invalid("sequence"));
            }
        }
        let mut order: Vec<usize> = (0..c.views.len()).collect();
        order.sort_by_key(|at| {
            let p = &c.views[*at];
            (p.start.is_some(), p.start.as_ref().map(|b| Reverse(b.age_ms)), p.view.clone())
        });
        let mut handed = vec![Handed::Unknown; c.views.len()];
        let mut any_begun = false;
        for at in order {
            handed[at] = self.take_parked(s, stamp, &c.views[at], &mut any_begun);
        }
        let limit = usize::from(self.policy.unwrap_or(s.policy).max_streams);
        while any_begun && self.views.iter().filter(|v| v.holds(s, stamp.logical)).count() > limit {
            let degraded = self.views.iter().filter(|v| v.degraded && v.holds(s, stamp.logical));
            let Some(newest) = degraded.max_by_key(|v| (v.started.wall, v.started.logical, v.id.clone())) else {
                break;
            };
            let newest = newest.id.clone();
            self.end(s, stamp, &newest, EndReason::OverLimit, None, false);
            if let Some(at) = c.views.iter().position(|p| p.view == newest) {
                handed[at] = Handed::OverLimit;
            }
        }
        Ok(handed)
    }

    fn take_parked(&mut self, s: &Settings, stamp: Stamp, p: &Parked, any_begun: &mut bool) -> Handed {
        let mut over = None;
        if let Some(b) = &p.start {
            let c = &b.start;
            let active = self.views.iter().find(|v| v.id == c.view);
            let same = |v: &View| {
                (&v.profile, &v.device, &v.media.title, v.kind) == (&c.profile, &c.device, &c.media.title, c.kind)
            };
            let asked = AccountCommand::StartView(c.clone());
            let known = self.requests.iter().find(|r| Some(&r.id) == b.request_id.as_ref());
            let ended = self.ended(s, stamp.logical, &c.view);
            let FirstSent::At(first) = FirstSent::AgoMs(b.age_ms).dated(stamp.logical) else { unreachable!() };
            let too_old = b.request_id.is_some() && self.forgotten.is_some_and(|until| first <= until.logical);
            let gone = ended.as_ref().is_some_and(|e| !matches!(e.why, EndReason::Expired | EndReason::PausedTooLong));
            match (active, known) {
                (Some(v), _) if !same(v) => return Handed::Refused,
                (Some(_), _) => {}
                (None, Some(r)) if r.command != asked => return Handed::Refused,
                (None, Some(r)) if matches!(r.answer, Answer::Started(_)) => {}
                (None, None) if too_old && ended.is_some() => {}
                _ if gone => {}
                _ => {
                    over = self.begin_parked(s, stamp, p, b, ended.map(|e| e.sequence));
                    *any_begun = true;
                }
            }
        }
        let handed = match &p.told {
            None => Handed::Taken,
            Some(told) => match self.views.iter().any(|v| v.id == p.view) {
                true => self.told_active(s, stamp, p, told),
                false => self.told_ended(s, stamp, p, told),
            },
        };
        if let (Some(why), Some(v)) = (over, self.views.iter().find(|v| v.id == p.view)) {
            let by = (why == EndReason::Replaced).then(|| v.device.clone());
            self.end(s, stamp, &p.view, why, by, false);
        }
        handed
    }

    /// Says why the view can't go on.
    fn begin_parked(
        &mut self,
        s: &Settings,
        stamp: Stamp,
        p: &Parked,
        b: &ParkedStart,
        former: Option<u64>,
    ) -> Option<EndReason> {
        let (c, event) = (&b.start, back(stamp, b.age_ms));
        let own = |v: &&View| v.device == c.device && (c.kind != ViewKind::Preview || v.kind == ViewKind::Preview);
        let replaced_by_later =
            self.views.iter().filter(own).any(|v| v.started.wall > event.wall && v.started.logical > event.logical);
        let mut ending: Vec<View> = self.views.iter().filter(own).filter(|_| !replaced_by_later).cloned().collect();
        ending.sort_by_key(|v| (v.started.logical, v.id.clone()));
        if c.kind != ViewKind::Preview {
            self.profiles.insert(c.profile.clone());
        }
        for view in &ending {
            self.end(s, stamp, &view.id, EndReason::Replaced, Some(c.device.clone()), false);
        }
        let before = self.told(s, stamp.logical, &c.profile, &c.media.title, true).state;
        let position = b.position_ms.or(before.resume.as_ref().map(|r| r.position_ms));
        let view = View {
            id: c.view.clone(),
            profile: c.profile.clone(),
            device: c.device.clone(),
            media: c.media.clone(),
            kind: c.kind,
            state: PlayState::Playing,
            sequence: former.unwrap_or(0),
            position: match c.kind {
                ViewKind::Live => c.position_ms,
                ViewKind::Preview => c.position_ms.or(Some(0)),
                _ => c.position_ms.or(position).or(Some(0)),
            },
            started: event,
            reported: Stamp { logical: stamp.logical, wall: event.wall },
            paused: None,
            seconds: BTreeSet::new(),
            degraded: true,
            again: former.is_some(),
            stretch: self.stretch,
        };
        let ended = ending.into_iter().map(|v| v.id).collect();
        let answer = Answer::Started(Started { ended, ..self.started(s, stamp, &view, &before) }.into());
        self.ended.retain(|e| e.view != c.view);
        self.views.push(view);
        if let Some(id) = &b.request_id {
            self.remember(s, stamp, id, &AccountCommand::StartView(c.clone()), &answer);
        }
        let heard = p.told.iter().map(|t| t.age_ms).chain([b.age_ms]).min().unwrap();
        match replaced_by_later {
            true => Some(EndReason::Replaced),
            false => (heard > 60 * MINUTE).then_some(EndReason::Expired),
        }
    }

    fn told_active(&mut self, s: &Settings, stamp: Stamp, p: &Parked, told: &ParkedTold) -> Handed {
        let event = back(stamp, told.age_ms);
        let at = self.views.iter().position(|v| v.id == p.view).unwrap();
        let was = self.views[at].clone();
        let began_later = was.started.wall > event.wall && was.started.logical > event.logical;
        if told.sequence.is_none() && was.again && began_later {
            return Handed::Older;
        }
        let failed = told.stop.as_ref().is_some_and(|stop| stop.failed);
        let mut applied = true;
        if !failed {
            let logical = event.logical.max(was.reported.logical);
            let wall = event.wall.max(was.reported.wall);
            let so_long_ago =
                |then: WallMs| LogicalMs(logical.0.saturating_sub(event.wall.since(then).min(24 * 60 * MINUTE)));
            let v = &mut self.views[at];
            v.started.logical = was.started.logical.min(so_long_ago(was.started.wall));
            v.reported.logical = was.reported.logical.min(so_long_ago(was.reported.wall));
            let stream = matches!(v.kind, ViewKind::Full | ViewKind::Live);
            let asleep = stream && !was.holds(s, stamp.logical) && told.state != PlayState::Paused;
            let keeps = told.stop.is_some() || asleep;
            let r = as_report(v, told, if keeps { was.state } else { told.state });
            applied = Self::take_report(s, (Stamp { logical, wall }, v.stretch), v, &r, keeps);
            if v.sequence == was.sequence {
                (v.started, v.reported) = (was.started, was.reported);
            }
        }
        match &told.stop {
            Some(stop) if told.sequence.is_none_or(|n| n >= was.sequence) => {
                let position_ms = self.views[at].position;
                let outcome = self.end(s, stamp, &p.view, EndReason::Stopped, Some(was.device), failed);
                let stopped = Stopped { view: p.view.clone(), position_ms, outcome, next: None };
                if let Some(id) = &stop.request_id {
                    let command = crate::view::tests::stop(p.view.as_str(), told.position_ms);
                    self.remember(s, stamp, id, &command, &Answer::Stopped(stopped.into()));
                }
                Handed::Taken
            }
            _ if applied => Handed::Taken,
            _ => Handed::Older,
        }
    }

    fn told_ended(&mut self, s: &Settings, stamp: Stamp, p: &Parked, told: &ParkedTold) -> Handed {
        let Some(ended) = self.ended(s, stamp.logical, &p.view) else { return Handed::Unknown };
        let known = match told.sequence {
            Some(n) => n <= ended.sequence,
            None => ended.why == EndReason::Stopped,
        };
        if known {
            return Handed::Older;
        }
        let Some(at) = self.past.iter().position(|past| past.view.id == p.view) else { return Handed::Refused };
        let past = self.past[at].clone();
        let failed = told.stop.as_ref().is_some_and(|stop| stop.failed);
        if past.view.kind != ViewKind::Preview && !failed {
            let event = back(stamp, told.age_ms);
            let (who, title) = (&past.view.profile, &past.view.media.title);
            let others = self.views.iter().filter(|v| v.profile == *who && v.media.title == *title).map(|v| v.reported);
            let since = others.filter(|r| r.logical >= event.logical && r.wall < event.wall).map(|r| r.logical.0 + 1);
            let earliest = LogicalMs(since.max().unwrap_or(0).max(event.logical.0));
            let when = (self.version >= ClusterVersion(5)).then_some(earliest);
            let elapsed_ms = event.wall.since(past.end).min(24 * 60 * MINUTE);
            let zero = LogicalMs(0);
            let mut view = past.view.clone();
            (view.started.logical, view.reported.logical, view.state) = (zero, zero, PlayState::Playing);
            (view.sequence, view.seconds) = (0, BTreeSet::new());
            let mut r = as_report(&view, told, PlayState::Playing);
            r.sequence = 1;
            let after_all = (Stamp { logical: LogicalMs(elapsed_ms), wall: stamp.wall }, view.stretch);
            Self::take_report(s, after_all, &mut view, &r, true);
            let (who, title) = (view.profile.clone(), view.media.title.clone());
            let (after, seconds) = ((past.start, past.end), view.seconds.clone());
            self.past[at].view.position = view.position;
            (self.past[at].start, self.past[at].end) = (past.end, past.end.plus(elapsed_ms));
            self.happenings.push((who, title, Happening::Uploaded(Upload { view, after, elapsed_ms, seconds, when })));
        }
        let e = self.ended.iter_mut().find(|e| e.view == p.view).unwrap();
        e.sequence = told.sequence.unwrap_or(e.sequence + 1);
        if told.stop.is_some() {
            (e.why, e.by) = (EndReason::Stopped, Some(past.view.device));
        }
        Handed::Taken
    }
}
