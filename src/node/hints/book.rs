//! The hints in memory: the latest of each view, how old they are, and the bounds.

use std::collections::BTreeMap;

use super::format::{self, Record};
use crate::ids::{AccountId, ViewId};
use crate::time::{MonotonicMs, WallMs};
use crate::view::{
    PLAYED_RANGES_MAX, Parked, ParkedStart, ParkedStop, ParkedTold, PlayState, Played, ReportProgress, StopView,
};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Views of the node.
    pub views: usize,
    /// Bytes of the node.
    pub bytes: u64,
    /// Views of one account.
    pub account_views: usize,
    /// How long, in ms.
    pub keep_ms: u64,
}

/// The hints of one view.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Ages as of `base`.
    pub(super) parked: Parked,
    base: MonotonicMs,
    /// Tells one content from the next.
    pub(super) number: u64,
    bytes: u64,
    pub(super) tries: u32,
    pub(super) not_before: MonotonicMs,
}

/// Why a hint is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The node holds as many as it may.
    Node,
    /// The account has as many as one may.
    Account,
    /// A start of a view that was stopped, or by the name of another one.
    Taken,
}

/// What came of a report, stop or start that was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// It is the view's latest.
    pub(super) is_latest: bool,
    /// What has to be written.
    pub(super) body: Vec<u8>,
}

/// How a view was let in, and whether it was before.
pub(super) type Let = (ParkedStart, bool);

/// What a device said.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Report(ReportProgress),
    Stop(StopView, ParkedStop),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Book {
    bounds: Bounds,
    held: BTreeMap<AccountId, BTreeMap<ViewId, Held>>,
    count: usize,
    bytes: u64,
    next: u64,
}

fn aged(parked: &Parked, ms: u64) -> Parked {
    let mut parked = parked.clone();
    parked.start.iter_mut().for_each(|start| start.age_ms = start.age_ms.saturating_add(ms));
    parked.told.iter_mut().for_each(|told| told.age_ms = told.age_ms.saturating_add(ms));
    parked
}

/// How long ago the last of it came, in ms.
fn newest_ms(parked: &Parked) -> u64 {
    parked.start.iter().map(|s| s.age_ms).chain(parked.told.iter().map(|t| t.age_ms)).min().unwrap_or(u64::MAX)
}

impl Book {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, held: BTreeMap::new(), count: 0, bytes: 0, next: 0 }
    }

    /// Takes up what was written, by a calendar that says `wall` now.
    pub(super) fn load(&mut self, records: Vec<Record>, wall: WallMs, now: MonotonicMs) {
        for record in records {
            match record {
                Record::Put { account, at, parked } => {
                    let parked = aged(&parked, wall.since(at));
                    let bytes = body(&account, wall, &parked).map_or(0, |body| body.len() as u64);
                    self.put(&account, parked, bytes, now);
                }
                Record::Gone { account, view } => drop(self.remove(&account, &view)),
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, account: &AccountId, view: &ViewId) -> Option<&Held> {
        self.held.get(account)?.get(view)
    }

    /// Everything as it has to be written now.
    pub(super) fn bodies(&self, wall: WallMs, now: MonotonicMs) -> Vec<Vec<u8>> {
        let all = self.held.iter().flat_map(|(account, views)| views.values().map(move |held| (account, held)));
        all.filter_map(|(account, held)| body(account, wall, &aged(&held.parked, now.since(held.base)))).collect()
    }

    /// Notes that a view was let in, and gives how. Said again it is as it was at first, with its age, and is written again: whether it is on the disk
    /// yet is not known here.
    pub(super) fn start(
        &mut self,
        account: &AccountId,
        start: ParkedStart,
        wall: WallMs,
        now: MonotonicMs,
    ) -> Result<(Noted, Let), Full> {
        let view = start.start.view.clone();
        let before = self.get(account, &view).map(|held| aged(&held.parked, now.since(held.base)));
        let (first, told) = before.map_or((None, None), |parked| (parked.start, parked.told));
        let is_another = first.as_ref().is_some_and(|first| first.start != start.start);
        if is_another || told.as_ref().is_some_and(|told| told.stop.is_some()) {
            return Err(Full::Taken);
        }
        let repeated = first.is_some();
        let parked = first.unwrap_or(start);
        let noted = self.change(account, Parked { view, start: Some(parked.clone()), told }, true, wall, now)?;
        Ok((noted, (parked, repeated)))
    }

    /// Notes what a device said.
    pub(super) fn said(
        &mut self,
        account: &AccountId,
        said: &Said,
        wall: WallMs,
        now: MonotonicMs,
    ) -> Result<Noted, Full> {
        let view = match said {
            Said::Report(report) => &report.view,
            Said::Stop(stop, _) => &stop.view,
        };
        let before = self.get(account, view).map(|held| aged(&held.parked, now.since(held.base)));
        let (start, former) = before.map_or((None, None), |parked| (parked.start, parked.told));
        let (told, is_latest) = merged(former, said);
        self.change(account, Parked { view: view.clone(), start, told: Some(told) }, is_latest, wall, now)
    }

    fn change(
        &mut self,
        account: &AccountId,
        parked: Parked,
        is_latest: bool,
        wall: WallMs,
        now: MonotonicMs,
    ) -> Result<Noted, Full> {
        let body = body(account, wall, &parked).ok_or(Full::Account)?;
        let (bytes, known) = (body.len() as u64, self.get(account, &parked.view));
        let before = known.map_or(0, |held| held.bytes);
        if known.is_none() && self.held.get(account).is_some_and(|views| views.len() >= self.bounds.account_views) {
            return Err(Full::Account);
        }
        let more_views = usize::from(known.is_none());
        if self.count + more_views > self.bounds.views || self.bytes + bytes > self.bounds.bytes + before {
            return Err(Full::Node);
        }
        self.put(account, parked, bytes, now);
        Ok(Noted { is_latest, body })
    }

    fn put(&mut self, account: &AccountId, parked: Parked, bytes: u64, now: MonotonicMs) {
        self.remove(account, &parked.view);
        let number = self.next;
        self.next += 1;
        let held = Held { base: now, number, bytes, tries: 0, not_before: MonotonicMs(0), parked };
        self.count += 1;
        self.bytes += held.bytes;
        self.held.entry(account.clone()).or_default().insert(held.parked.view.clone(), held);
    }

    fn remove(&mut self, account: &AccountId, view: &ViewId) -> Option<Held> {
        let views = self.held.get_mut(account)?;
        let gone = views.remove(view)?;
        if views.is_empty() {
            self.held.remove(account);
        }
        self.count -= 1;
        self.bytes -= gone.bytes;
        Some(gone)
    }

    /// Forgets a view's hints, unless others have come since; what has to be written.
    pub(super) fn forget(&mut self, account: &AccountId, view: &ViewId, number: u64) -> Option<Vec<u8>> {
        self.get(account, view).filter(|held| held.number == number)?;
        self.remove(account, view)?;
        format::body(&Record::Gone { account: account.clone(), view: view.clone() })
    }

    /// Waits before a view is tried again.
    pub(super) fn wait(
        &mut self,
        account: &AccountId,
        view: &ViewId,
        number: u64,
        until: impl FnOnce(u32) -> MonotonicMs,
    ) {
        let held = self.held.get_mut(account).and_then(|views| views.get_mut(view));
        if let Some(held) = held.filter(|held| held.number == number) {
            held.tries = held.tries.saturating_add(1);
            held.not_before = until(held.tries);
        }
    }

    /// Waits no longer with the views of these accounts.
    pub(super) fn wake(&mut self, is_meant: impl Fn(&AccountId) -> bool) {
        for (_, views) in self.held.iter_mut().filter(|(account, _)| is_meant(account)) {
            for held in views.values_mut() {
                (held.tries, held.not_before) = (0, MonotonicMs(0));
            }
        }
    }

    /// What is older than is kept.
    pub(super) fn expired(&self, now: MonotonicMs, max: usize) -> Vec<(AccountId, ViewId, u64)> {
        let all = self.held.iter().flat_map(|(account, views)| views.values().map(move |held| (account, held)));
        let old = |held: &Held| newest_ms(&held.parked).saturating_add(now.since(held.base)) > self.bounds.keep_ms;
        let expired = all.filter(|(_, held)| old(held));
        expired.map(|(account, held)| (account.clone(), held.parked.view.clone(), held.number)).take(max).collect()
    }

    /// How long ago the oldest hint came that still waits, in ms.
    pub(super) fn oldest_ms(&self, now: MonotonicMs) -> u64 {
        let all = self.held.values().flat_map(BTreeMap::values);
        all.map(|held| newest_ms(&held.parked).saturating_add(now.since(held.base))).max().unwrap_or(0)
    }

    /// Accounts that have something to hand off now.
    pub(super) fn due(&self, now: MonotonicMs) -> impl Iterator<Item = &AccountId> {
        let due = self.held.iter().filter(move |(_, views)| views.values().any(|held| held.not_before <= now));
        due.map(|(account, _)| account)
    }

    /// The views of an account that are to be handed off now, as of now, with their numbers.
    pub(super) fn of(&self, account: &AccountId, now: MonotonicMs, max: usize) -> Vec<(Parked, u64)> {
        let views = self.held.get(account).into_iter().flat_map(BTreeMap::values);
        let due = views.filter(|held| held.not_before <= now).take(max);
        due.map(|held| (aged(&held.parked, now.since(held.base)), held.number)).collect()
    }
}

fn body(account: &AccountId, at: WallMs, parked: &Parked) -> Option<Vec<u8>> {
    format::body(&Record::Put { account: account.clone(), at, parked: parked.clone() })
}

/// The latest of what a device has said, with what is lost by leaving the earlier away; and whether the new one is the latest.
fn merged(former: Option<ParkedTold>, said: &Said) -> (ParkedTold, bool) {
    let new = told(said);
    let Some(former) = former else { return (new, true) };
    let is_later = match (new.sequence, former.sequence) {
        (None, _) => true,
        // A stop that doesn't say is newer than all.
        (Some(_), None) => false,
        (Some(at), Some(before)) => at > before || (at == before && new.stop.is_some()),
    };
    let played = union(&former.played, &new.played);
    if !is_later {
        // A device says nothing more after its stop, whatever number that has.
        let age_ms = if new.stop.is_some() { new.age_ms } else { former.age_ms };
        let stop = new.stop.or(former.stop);
        return (ParkedTold { played, stop, age_ms, ..former }, false);
    }
    // A player that doesn't know its position says none or 0; only a seek goes back there.
    let says_nothing = match new.position_ms {
        None => true,
        Some(0) => !new.seeked && former.position_ms.is_some(),
        Some(_) => false,
    };
    let position_ms = if says_nothing { former.position_ms } else { new.position_ms };
    (ParkedTold { played, position_ms, seeked: new.seeked || former.seeked, ..new }, true)
}

fn told(said: &Said) -> ParkedTold {
    match said {
        Said::Report(report) => ParkedTold {
            sequence: Some(report.sequence),
            position_ms: report.position_ms,
            state: report.state,
            played: report.played.clone(),
            seeked: report.seeked,
            age_ms: 0,
            stop: None,
        },
        Said::Stop(stop, parked) => ParkedTold {
            sequence: stop.sequence,
            position_ms: stop.position_ms,
            state: PlayState::Playing,
            played: stop.played.clone(),
            seeked: false,
            age_ms: 0,
            stop: Some(parked.clone()),
        },
    }
}

/// Stretches of either, none touching the next; where there would be too many, the shortest are left away.
fn union(a: &[Played], b: &[Played]) -> Vec<Played> {
    let mut all: Vec<Played> = a.iter().chain(b).copied().collect();
    all.sort_unstable();
    let mut union: Vec<Played> = Vec::with_capacity(all.len());
    for range in all {
        match union.last_mut() {
            Some(last) if range.from_ms <= last.to_ms => last.to_ms = last.to_ms.max(range.to_ms),
            _ => union.push(range),
        }
    }
    while union.len() > PLAYED_RANGES_MAX {
        let shortest = (0..union.len()).min_by_key(|at| union[*at].to_ms - union[*at].from_ms).unwrap_or(0);
        union.remove(shortest);
    }
    union
}
