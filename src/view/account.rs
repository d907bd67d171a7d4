//! The account row: policy, profiles, the window of request ids, and why views ended.

use minicbor::{Decode, Encode};

use super::record::LiveView;
use super::{Answer, EndedView, FirstSent, Media, ProfileSummary, Settings, StreamPolicy, ViewKind};
use crate::ids::{DeviceId, ProfileId, RequestId, ViewId};
use crate::planted::{self, Bug};
use crate::time::{LogicalMs, Stamp, WallMs};

/// The most request ids that an account remembers.
pub const REQUESTS_MAX: usize = 64;
/// Refusals are forgotten when all remembered answers would be longer than this: those that name views can be long.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The most ended views that an account remembers.
pub const ENDED_VIEWS_MAX: usize = 64;
/// The most profiles of an account.
pub const PROFILES_MAX: usize = 64;
/// The most active views of an account, of all kinds.
pub const ACCOUNT_VIEWS_MAX: usize = 128;

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct AccountRow {
    #[n(0)]
    pub(super) policy: Option<StreamPolicy>,
    /// By name.
    #[n(1)]
    pub(super) profiles: Vec<ProfileSummary>,
    /// By time.
    #[n(2)]
    requests: Vec<Request>,
    /// By time.
    #[n(4)]
    ended: Vec<EndedView>,
    /// What was applied until then may have been forgotten.
    #[n(5)]
    forgotten_until: Option<Stamp>,
    /// Of ended views, from cluster version 4 on.
    #[cbor(n(6), skip_if = "Vec::is_empty")]
    traces: Vec<Trace>,
}

/// What of an ended view is needed to take in what it said before it ended, and what comes late.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Trace {
    #[n(0)]
    pub(super) view: ViewId,
    #[n(1)]
    pub(super) profile: ProfileId,
    #[n(2)]
    pub(super) device: DeviceId,
    #[n(3)]
    pub(super) media: Media,
    #[n(4)]
    pub(super) kind: ViewKind,
    /// When its last play began ...
    #[n(5)]
    pub(super) start: WallMs,
    /// ... and ended.
    #[n(6)]
    pub(super) end: WallMs,
    #[n(7)]
    pub(super) position_ms: Option<u64>,
}

impl Trace {
    pub(super) fn of(view: &LiveView) -> Self {
        let progress = &view.progress;
        Self {
            view: view.view.clone(),
            profile: view.profile.clone(),
            device: view.device.clone(),
            media: view.media.clone(),
            kind: progress.kind,
            start: progress.started.wall,
            end: progress.started.wall.plus(progress.elapsed_ms()),
            position_ms: progress.position_ms.map(u64::from),
        }
    }
}

/// A request that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Request {
    #[n(0)]
    id: RequestId,
    /// Of the command.
    #[n(1)]
    fingerprint: u64,
    #[n(2)]
    at: Stamp,
    #[n(3)]
    rejected: bool,
    #[cbor(n(4), with = "minicbor::bytes")]
    answer: Vec<u8>,
}

/// What is known of a request id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it is new.
    New,
    /// It was applied and answered like this.
    Answered(Answer),
    /// It was applied for another command.
    Reused,
    /// It may have been applied and forgotten since.
    TooOld(WallMs),
}

impl AccountRow {
    /// What is known of a request.
    pub(super) fn request(&self, id: &RequestId, fingerprint: u64, first_sent: Option<FirstSent>) -> Known {
        if let Some(known) = self.requests.iter().find(|r| r.id == *id) {
            return match minicbor::decode(&known.answer) {
                Ok(answer) if known.fingerprint == fingerprint => Known::Answered(answer),
                _ => Known::Reused,
            };
        }
        match (self.forgotten_until, first_sent) {
            (Some(until), Some(first)) if first.latest() <= until.logical => Known::TooOld(until.wall),
            _ => Known::New,
        }
    }

    /// Remembers a request's answer. Rejections changed nothing, so that running one again does no harm: they are forgotten
    /// first, and don't count as forgotten.
    pub(super) fn remember(
        &mut self,
        settings: &Settings,
        stamp: Stamp,
        id: RequestId,
        fingerprint: u64,
        answer: &Answer,
    ) {
        self.forget_requests(settings, stamp.logical);
        while self.requests.len() >= REQUESTS_MAX {
            let at = self.requests.iter().position(|r| r.rejected).unwrap_or(0);
            self.forget(at);
        }
        let rejected = matches!(answer, Answer::Rejected(_));
        let answer = minicbor::to_vec(answer).expect("writing to a Vec cannot fail");
        while self.requests.iter().map(|r| r.answer.len()).sum::<usize>() + answer.len() > ANSWER_BYTES_MAX {
            let Some(at) = self.requests.iter().position(|r| r.rejected) else { break };
            self.forget(at);
        }
        self.requests.push(Request { id, fingerprint, at: stamp, rejected, answer });
    }

    fn forget_requests(&mut self, settings: &Settings, now: LogicalMs) {
        while self.requests.first().is_some_and(|r| now.since(r.at.logical) > settings.request_ms) {
            self.forget(0);
        }
    }

    fn forget(&mut self, at: usize) {
        let gone = self.requests.remove(at);
        if !gone.rejected {
            // By time, but not the newest one always: rejected ones go first.
            let later = self.forgotten_until.is_none_or(|until| until.logical < gone.at.logical);
            self.forgotten_until = if later { Some(gone.at) } else { self.forgotten_until };
        }
    }

    /// Why a view ended, where that is still known at `now`.
    pub(super) fn ended(&self, settings: &Settings, now: LogicalMs, view: &ViewId) -> Option<&EndedView> {
        self.ended.iter().rev().find(|e| e.view == *view && now.since(e.logical) <= settings.ended_ms)
    }

    /// Remembers why a view ended.
    pub(super) fn view_ended(&mut self, settings: &Settings, now: LogicalMs, ended: EndedView) {
        self.ended.retain(|e| e.view != ended.view && now.since(e.logical) <= settings.ended_ms);
        if self.ended.len() >= ENDED_VIEWS_MAX {
            self.ended.remove(0);
        }
        self.ended.push(ended);
        self.forget_traces();
    }

    /// What more is remembered of a view that ended.
    pub(super) fn trace(&mut self, view: &ViewId) -> Option<&mut Trace> {
        self.traces.iter_mut().find(|t| t.view == *view)
    }

    /// Remembers it, for as long as why the view ended.
    pub(super) fn keep_trace(&mut self, trace: Trace) {
        self.traces.retain(|t| t.view != trace.view);
        self.traces.push(trace);
        self.forget_traces();
    }

    fn forget_traces(&mut self) {
        self.traces.retain(|t| self.ended.iter().any(|e| e.view == t.view));
    }

    /// The end of a view, to be changed by what comes late.
    pub(super) fn ended_mut(&mut self, view: &ViewId) -> Option<&mut EndedView> {
        self.ended.iter_mut().rev().find(|e| e.view == *view)
    }

    /// Forgets that a view ended: it is active again.
    pub(super) fn view_started(&mut self, view: &ViewId) {
        self.ended.retain(|e| e.view != *view);
        self.forget_traces();
    }

    /// A profile, made where there is room for a new one.
    pub(super) fn profile(&mut self, profile: &ProfileId) -> Option<&mut ProfileSummary> {
        let at = match self.profiles.binary_search_by(|p| p.profile.cmp(profile)) {
            Ok(at) => at,
            Err(_) if self.profiles.len() >= PROFILES_MAX => return None,
            Err(at) => {
                let new = ProfileSummary { profile: profile.clone(), titles: 0, entries: 0, plays: 0 };
                self.profiles.insert(at, new);
                at
            }
        };
        self.profiles.get_mut(at)
    }

    /// What holds for the account.
    pub(super) fn policy(&self, settings: &Settings) -> StreamPolicy {
        let told = planted::told_streams().filter(|_| planted::is(Bug::SettingsOutsideTheLog));
        self.policy
            .unwrap_or(told.map_or(settings.policy, |max_streams| StreamPolicy { max_streams, ..settings.policy }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Rejection;

    fn id(n: usize) -> RequestId {
        RequestId::new(format!("r{n}")).unwrap()
    }

    fn stamp(n: u64) -> Stamp {
        Stamp { logical: LogicalMs(n), wall: WallMs(1_000_000 + n) }
    }

    fn at(n: u64) -> Option<FirstSent> {
        Some(FirstSent::At(stamp(n).logical))
    }

    #[test]
    fn rejections_are_forgotten_first_and_only_accepted_requests_raise_the_horizon() {
        let (mut row, settings) = (AccountRow::default(), Settings::default());
        let (good, bad) = (Answer::SettingsUpdated, Answer::Rejected(Rejection::RequestIdReused));
        row.remember(&settings, stamp(0), id(0), 7, &good);
        for n in 1..100 {
            row.remember(&settings, stamp(n as u64), id(n), 7, &bad);
        }
        assert_eq!(row.request(&id(0), 7, at(0)), Known::Answered(good.clone()));
        assert_eq!(row.request(&id(0), 8, None), Known::Reused);
        assert_eq!(row.request(&id(1), 7, at(1)), Known::New);
        assert_eq!(row.request(&id(99), 7, None), Known::Answered(bad));
        for n in 100..164 {
            row.remember(&settings, stamp(n as u64), id(n), 7, &good);
        }
        assert_eq!(row.request(&id(0), 7, at(0)), Known::TooOld(stamp(0).wall));
        assert_eq!(row.request(&id(1000), 7, at(1)), Known::New);
    }

    #[test]
    fn requests_are_forgotten_after_a_day_of_logical_time() {
        let (mut row, settings) = (AccountRow::default(), Settings::default());
        row.remember(&settings, stamp(0), id(0), 7, &Answer::SettingsUpdated);
        row.remember(&settings, stamp(settings.request_ms + 1), id(1), 7, &Answer::SettingsUpdated);
        assert_eq!(row.request(&id(0), 7, at(0)), Known::TooOld(stamp(0).wall));
        assert_eq!(row.request(&id(0), 7, at(1)), Known::New);
    }
}
