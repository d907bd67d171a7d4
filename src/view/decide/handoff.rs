//! What a node took in while the shard had no leader: views that it let start, and what devices said last.
//!
//! Everything here may come twice, late, and in pieces from several nodes. What tells that it was done already is in the state: the
//! view's sequence, why it ended, and the window of request ids. So the command itself has no request id.

use std::cmp::Reverse;

use super::history::{Placed, place};
use super::progress::{Told, check_told, media_ms, playable_ms, report};
use super::{Decided, accept, start, stop};
use crate::ids::{AccountId, ViewId};
use crate::time::{LogicalMs, Stamp, WallMs};
use crate::versions::Feature;
use crate::view::account::{ACCOUNT_VIEWS_MAX, Known, Trace};
use crate::view::record::{LiveView, Progress, ViewRanges};
use crate::view::txn::{Bail, TitleRef, Txn};
use crate::view::{
    AccountCommand, Answer, EndReason, Fact, FirstSent, HANDOFF_VIEWS_MAX, HandOff, Handed, PARKED_MS_MAX, Parked,
    ParkedStart, ParkedTold, PlayState, Rejection, Settings, Stopped, ViewKind, rules,
};

/// How much time without a leader is believed, in ms: what is parked longer is not handed off.
const OUTAGE_MS_MAX: u64 = 24 * 3600 * 1000;
/// Whoever has not been heard for so long doesn't play any more, in ms.
const LATE_MS: u64 = 3600 * 1000;

/// Decides [`AccountCommand::HandOff`].
pub(super) fn hand_off(txn: &mut Txn<'_>, account: &AccountId, parked: &HandOff) -> Decided<Vec<Handed>> {
    accept!(check(parked));
    let mark = txn.mark();
    Txn::go_on(txn.account(account))?;
    txn.settle(mark)?;
    // What devices said of views that run comes first: starts may end those.
    let mut order: Vec<usize> = (0..parked.views.len()).collect();
    let began = |at: &usize| parked.views[*at].start.as_ref().map(|start| Reverse(start.age_ms));
    order.sort_by(|a, b| (began(a), &parked.views[*a].view).cmp(&(began(b), &parked.views[*b].view)));
    let mut handed = vec![Handed::Unknown; parked.views.len()];
    let mut begun = Vec::new();
    for at in order {
        match take(txn, account, &parked.views[at], &mut begun) {
            Ok(how) => handed[at] = how,
            // The others are tried all the same, to ask for all that is missing at once.
            Err(Bail::Missing) => {}
            Err(stop) => return Err(stop),
        }
    }
    txn.settle(mark)?;
    if !begun.is_empty() {
        for view in end_newest(txn, account)? {
            let at = parked.views.iter().position(|parked| parked.view == view);
            at.into_iter().for_each(|at| handed[at] = Handed::OverLimit);
        }
    }
    Ok(Ok(handed))
}

fn check(parked: &HandOff) -> Result<(), Rejection> {
    if parked.views.is_empty() || parked.views.len() > HANDOFF_VIEWS_MAX {
        return Err(Rejection::invalid("views", "must be 1 to 16 views"));
    }
    for (at, one) in parked.views.iter().enumerate() {
        if parked.views[..at].iter().any(|other| other.view == one.view) {
            return Err(Rejection::invalid("views", "must be of different views"));
        }
        let ages = one.start.iter().map(|s| s.age_ms).chain(one.told.iter().map(|t| t.age_ms));
        if ages.max().is_none_or(|age| age > PARKED_MS_MAX) {
            return Err(Rejection::invalid("views", "must tell something, and not of more than 30 days ago"));
        }
        if let Some(parked) = &one.start {
            start::check(&parked.start)?;
            start::check_ms(parked.position_ms, 0, "position_ms", "must be at most 30 days")?;
            if parked.start.view != one.view {
                return Err(Rejection::invalid("start.view", "must be the parked view"));
            }
        }
        if let Some(told) = &one.told {
            check_told(told.position_ms, &told.played)?;
            if told.sequence == Some(0) || (told.sequence.is_none() && told.stop.is_none()) {
                return Err(Rejection::invalid("sequence", "must be 1 or more"));
            }
        }
    }
    Ok(())
}

/// The moment that was so long ago. In the shard's time it was not later than this: time without a leader doesn't count.
fn ago(stamp: Stamp, age_ms: u64) -> Stamp {
    let wall = WallMs(stamp.wall.0.saturating_sub(age_ms));
    Stamp { logical: LogicalMs(stamp.logical.0.saturating_sub(age_ms)), wall }
}

fn take(txn: &mut Txn<'_>, account: &AccountId, parked: &Parked, begun: &mut Vec<ViewId>) -> Result<Handed, Bail> {
    let mut over = None;
    if let Some(begin) = &parked.start {
        match began(txn, account, begin)? {
            Began::Before => {}
            Began::Refused => return Ok(Handed::Refused),
            Began::Not => match start_late(txn, account, parked, begin)? {
                Some(why) => {
                    begun.push(parked.view.clone());
                    over = why;
                }
                None => return Ok(Handed::Refused),
            },
        }
    }
    let how = match &parked.told {
        Some(told) => tell(txn, account, &parked.view, told)?,
        None => Handed::Taken,
    };
    if let Some(why) = over
        && let Some(view) = txn.view(account, &parked.view)
    {
        let by = (why == EndReason::Replaced).then(|| view.device.clone());
        stop::end(txn, &view, why, by)?;
    }
    Ok(how)
}

/// Whether a parked start is in the state already.
enum Began {
    Before,
    Not,
    Refused,
}

fn began(txn: &mut Txn<'_>, account: &AccountId, parked: &ParkedStart) -> Result<Began, Bail> {
    if let Some(view) = txn.view(account, &parked.start.view) {
        return Ok(if start::is_same(&view, &parked.start) { Began::Before } else { Began::Refused });
    }
    if let Some(id) = &parked.request_id {
        let fingerprint = AccountCommand::StartView(parked.start.clone()).fingerprint();
        let first_sent = FirstSent::AgoMs(parked.age_ms).dated(txn.stamp.logical);
        match txn.account(account)?.request(id, fingerprint, Some(first_sent)) {
            Known::Answered(Answer::Started(_)) => return Ok(Began::Before),
            Known::Reused => return Ok(Began::Refused),
            // It may have been done, and what it did may have ended since: it is not begun twice.
            Known::TooOld(_) if start::has_ended(txn, account, &parked.start.view)? => return Ok(Began::Before),
            // That the limit was reached, or the view had ended, was said of another moment; how views ended is told below.
            Known::Answered(_) | Known::TooOld(_) | Known::New => {}
        }
    }
    let (settings, now) = (txn.settings, txn.stamp.logical);
    let ended = txn.account(account)?.ended(settings, now, &parked.start.view);
    Ok(if ended.is_some_and(|ended| !ended.why.may_come_back()) { Began::Before } else { Began::Not })
}

/// Makes a parked view active, as of when it was let in; `None` where a bound is in the way. The inner one says why it can't
/// run any more.
fn start_late(
    txn: &mut Txn<'_>,
    account: &AccountId,
    parked: &Parked,
    begin: &ParkedStart,
) -> Result<Option<Option<EndReason>>, Bail> {
    let start = &begin.start;
    let at = TitleRef::new(account, &start.profile, &start.media.title);
    let mark = txn.mark();
    Txn::go_on(txn.title(&at))?;
    let views = txn.views(account);
    let event = ago(txn.stamp, begin.age_ms);
    let (later, mut ending): (Vec<_>, Vec<_>) =
        start::replaced(&views, start).into_iter().partition(|(v, _)| began_after(v, event));
    if !later.is_empty() {
        ending.clear();
    }
    for (view, _) in &ending {
        stop::prefetch_end(txn, view)?;
    }
    txn.settle(mark)?;
    let no_profile = start.kind != ViewKind::Preview && txn.account(account)?.profile(&start.profile).is_none();
    if views.len() - ending.len() >= ACCOUNT_VIEWS_MAX || no_profile {
        return Ok(None);
    }
    let (settings, now) = (txn.settings, txn.stamp.logical);
    let former = txn.account(account)?.ended(settings, now, &start.view).map(|ended| ended.sequence);
    for (view, why) in &ending {
        Txn::go_on(stop::end(txn, view, *why, Some(start.device.clone())))?;
    }
    txn.settle(mark)?;
    let before = txn.title_as_if_ended(&at)?;
    let resume = begin.position_ms.or(before.resume().map(|r| r.position_ms));
    let mut view = start::new_view(txn, account, start, former.unwrap_or(0), resume);
    (view.progress.started, view.progress.degraded, view.progress.again) = (event, true, former.is_some());
    // How long there was no leader isn't known, and nobody expires for that: its silence begins now.
    view.progress.reported = Stamp { logical: now, wall: event.wall };
    let ended: Vec<ViewId> = ending.into_iter().map(|(view, _)| view.view).collect();
    let answer = start::started(txn, &view, &before, start::How { ended, ..start::How::default() })?;
    txn.account(account)?.view_started(&view.view);
    txn.tell(account, Fact::Started { view: answer.view.clone(), brought_back: false });
    txn.put_view(view.clone());
    if let Some(id) = &begin.request_id {
        let fingerprint = AccountCommand::StartView(start.clone()).fingerprint();
        let (stamp, answer) = (txn.stamp, Answer::Started(Box::new(answer)));
        txn.account(account)?.remember(settings, stamp, id.clone(), fingerprint, &answer);
    }
    let heard = parked.told.as_ref().map_or(begin.age_ms, |told| told.age_ms.min(begin.age_ms));
    let silent = heard > LATE_MS;
    let over = if !later.is_empty() { Some(EndReason::Replaced) } else { silent.then_some(EndReason::Expired) };
    Ok(Some(over))
}

/// Whether a view began after the event, as far as can be known. In the shard's time the event was not before `event.logical`; within
/// what is left the calendars tell, which may be wrong.
fn began_after(view: &LiveView, event: Stamp) -> bool {
    let started = view.progress.started;
    started.logical > event.logical && started.wall > event.wall
}

/// Takes in what a device said last.
fn tell(txn: &mut Txn<'_>, account: &AccountId, view: &ViewId, told: &ParkedTold) -> Result<Handed, Bail> {
    match txn.view(account, view) {
        Some(view) => tell_active(txn, account, view, told),
        None => tell_ended(txn, account, view, told),
    }
}

fn tell_active(txn: &mut Txn<'_>, account: &AccountId, mut view: LiveView, told: &ParkedTold) -> Result<Handed, Bail> {
    let (settings, stamp) = (txn.settings, txn.stamp);
    let event = ago(stamp, told.age_ms);
    let sequence = view.progress.sequence;
    // One that doesn't say is newer than all of this run, and says nothing of a later one.
    let another_run = told.sequence.is_none() && view.progress.again && began_after(&view, event);
    if another_run {
        return Ok(Handed::Older);
    }
    let failed = told.stop.as_ref().is_some_and(|stop| stop.failed);
    let applied = failed || report_late(settings, stamp, event, &mut view.progress, told);
    match &told.stop {
        Some(parked) if told.sequence.is_none_or(|s| s >= sequence) => {
            let by = Some(view.device.clone());
            let (outcome, _) = stop::end_with(txn, &view, EndReason::Stopped, by, failed)?;
            let position_ms = view.progress.position_ms.map(u64::from);
            let answer = Answer::Stopped(Box::new(Stopped { view: view.view, position_ms, outcome, next: None }));
            if let Some(id) = &parked.request_id {
                txn.account(account)?.remember(settings, stamp, id.clone(), parked.fingerprint, &answer);
            }
            Ok(Handed::Taken)
        }
        _ => {
            txn.put_view(view);
            Ok(if applied { Handed::Taken } else { Handed::Older })
        }
    }
}

/// A report as of `event`. Time without a leader counts for how much was played, and so for how long the play took, as far as the calendar
/// knows; for nothing else.
fn report_late(settings: &Settings, stamp: Stamp, event: Stamp, progress: &mut Progress, told: &ParkedTold) -> bool {
    let (started, reported, sequence) = (progress.started, progress.reported, progress.sequence);
    let gave_stream_away = progress.kind.takes_a_stream() && !progress.holds_stream(settings, stamp.logical);
    let keeps_state = told.stop.is_some() || (gave_stream_away && told.state != PlayState::Paused);
    let logical = event.logical.max(reported.logical);
    let before = |wall: WallMs| LogicalMs(logical.0.saturating_sub(event.wall.since(wall).min(OUTAGE_MS_MAX)));
    progress.started.logical = started.logical.min(before(started.wall));
    progress.reported.logical = reported.logical.min(before(reported.wall));
    let told = Told {
        sequence: told.sequence,
        position_ms: told.position_ms,
        state: (!keeps_state).then_some(told.state),
        played: &told.played,
        seeked: told.seeked,
    };
    let stamp = Stamp { logical, wall: event.wall.max(reported.wall) };
    // Whoever accepted it knew of no stretch: what its device was told before is the longest that it may be silent.
    let applied = report(settings, (stamp, progress.stretch), progress, &told);
    if progress.sequence == sequence {
        (progress.started, progress.reported) = (started, reported);
    }
    applied
}

/// Of a view that has ended: a further play.
fn tell_ended(txn: &mut Txn<'_>, account: &AccountId, view: &ViewId, told: &ParkedTold) -> Result<Handed, Bail> {
    let (settings, stamp) = (txn.settings, txn.stamp);
    let row = txn.account(account)?;
    let Some(ended) = row.ended(settings, stamp.logical, view).cloned() else { return Ok(Handed::Unknown) };
    let is_known = match told.sequence {
        Some(sequence) => sequence <= ended.sequence,
        None => ended.why == EndReason::Stopped,
    };
    if is_known {
        return Ok(Handed::Older);
    }
    let Some(trace) = row.trace(view).cloned() else { return Ok(Handed::Refused) };
    let failed = told.stop.as_ref().is_some_and(|stop| stop.failed);
    if trace.kind != ViewKind::Preview && !failed {
        let at = TitleRef::new(account, &trace.profile, &trace.media.title);
        let event = ago(stamp, told.age_ms);
        let when = txn.version.has(Feature::HandedOffInOrder).then(|| earliest(txn, account, &trace, event));
        let elapsed_ms = event.wall.since(trace.end).min(OUTAGE_MS_MAX);
        let (position_ms, played) = played_since(settings, trace.position_ms, elapsed_ms, told);
        let play = rules::handed_off(settings, txn.title(&at)?, &trace, (elapsed_ms, position_ms), &played, when);
        let (start, end) = (play.start, play.end());
        let (Placed::Added | Placed::Unchanged | Placed::Full) = place(txn, &at, &trace.device, play, true)?;
        if let Some(trace) = txn.account(account)?.trace(view) {
            (trace.start, trace.end, trace.position_ms) = (start, end, position_ms);
        }
    }
    let device = trace.device;
    if let Some(ended) = txn.account(account)?.ended_mut(view) {
        ended.sequence = told.sequence.unwrap_or(ended.sequence.saturating_add(1));
        if told.stop.is_some() {
            (ended.why, ended.by) = (EndReason::Stopped, Some(device));
        }
    }
    Ok(Handed::Taken)
}

/// The earliest that something told of an ended view can have been, by the shard's time. That is `event`'s, as time without a leader is
/// not in it; and after what views of the title have said since, where the calendar has it later.
fn earliest(txn: &mut Txn<'_>, account: &AccountId, trace: &Trace, event: Stamp) -> LogicalMs {
    let views = txn.views(account);
    let same = views.iter().filter(|v| v.profile == trace.profile && v.media.title == trace.media.title);
    let said = same.map(|view| view.progress.reported).filter(|r| r.logical >= event.logical && r.wall < event.wall);
    said.map(|reported| reported.logical.plus(1)).fold(event.logical, LogicalMs::max)
}

/// Where a view got to within `elapsed_ms`, and what of that it really played.
fn played_since(
    settings: &Settings,
    before_ms: Option<u64>,
    elapsed_ms: u64,
    told: &ParkedTold,
) -> (Option<u64>, ViewRanges) {
    let playable = playable_ms(settings, elapsed_ms);
    let mut played = ViewRanges::default();
    for range in &told.played {
        played.insert_within(media_ms(range.from_ms), media_ms(range.to_ms), playable);
    }
    let no_position = |ms: u64| ms == 0 && !told.seeked && before_ms.is_some_and(|before| before > 0);
    let Some(new) = told.position_ms.filter(|ms| !no_position(*ms)) else { return (before_ms, played) };
    let old = before_ms.unwrap_or(new);
    if told.played.is_empty() && !told.seeked && new > old && new - old <= playable {
        played.insert_within(media_ms(old), media_ms(new), playable);
    }
    (Some(new), played)
}

/// Ends views that were let in while there was no leader, the newest first, until the account watches no more than it may.
fn end_newest(txn: &mut Txn<'_>, account: &AccountId) -> Result<Vec<ViewId>, Bail> {
    let (settings, now) = (txn.settings, txn.stamp.logical);
    let limit = usize::from(txn.account(account)?.policy(settings).max_streams);
    let mut ended = Vec::new();
    loop {
        let views = txn.views(account);
        let holders: Vec<&LiveView> = views.iter().filter(|v| v.progress.holds_stream(settings, now)).collect();
        let degraded = holders.iter().filter(|v| v.progress.degraded);
        let newest = degraded.max_by(|a, b| {
            let began = |v: &LiveView| (v.progress.started.wall, v.progress.started.logical);
            (began(a), &a.view).cmp(&(began(b), &b.view))
        });
        match newest {
            Some(newest) if holders.len() > limit => {
                stop::end(txn, newest, EndReason::OverLimit, None)?;
                ended.push(newest.view.clone());
            }
            _ => return Ok(ended),
        }
    }
}
