//! The end of views: stopped by their device, ended by others, expired.

use super::history::{Placed, place};
use super::progress::{Told, check_told, report};
use super::{Decided, accept, not_active, start};
use crate::ids::{AccountId, DeviceId, ViewId};
use crate::versions::Feature;
use crate::view::account::Trace;
use crate::view::record::LiveView;
use crate::view::txn::{Bail, TitleRef, Txn};
use crate::view::{
    EndReason, EndView, EndedView, Fact, NextView, OnLimit, Outcome, Rejection, StartView, Started, StopView, Stopped,
    ViewEnd, ViewKind, rules,
};

/// Decides [`AccountCommand::StopView`](crate::view::AccountCommand::StopView).
pub(super) fn stop_view(txn: &mut Txn<'_>, account: &AccountId, stop: &StopView) -> Decided<Stopped> {
    accept!(check_told(stop.position_ms, &stop.played));
    if let Some(next) = &stop.next {
        accept!(check_next(stop, next));
    }
    let Some(mut view) = txn.view(account, &stop.view) else {
        let ended = accept!(not_active(txn, account, &stop.view)?);
        return Ok(Err(Rejection::ViewEnded(ended)));
    };
    let mark = txn.mark();
    prefetch_end(txn, &view)?;
    if let Some(next) = &stop.next {
        Txn::go_on(txn.title(&TitleRef::new(account, &view.profile, &next.media.title)))?;
    }
    txn.settle(mark)?;
    let (settings, stamp) = (txn.settings, txn.stamp);
    let held_stream = view.progress.holds_stream(settings, stamp.logical);
    let told = Told {
        sequence: stop.sequence,
        position_ms: stop.position_ms,
        state: None,
        played: &stop.played,
        seeked: false,
    };
    if !stop.failed {
        report(settings, (stamp, txn.stretch), &mut view.progress, &told);
    }
    let (outcome, _) = end_with(txn, &view, EndReason::Stopped, Some(view.device.clone()), stop.failed)?;
    let next = match &stop.next {
        Some(next) => Some(accept!(start_next(txn, account, &view, next, held_stream)?)),
        None => None,
    };
    let position_ms = view.progress.position_ms.map(u64::from);
    Ok(Ok(Stopped { view: view.view, position_ms, outcome, next }))
}

fn check_next(stop: &StopView, next: &NextView) -> Result<(), Rejection> {
    start::check_media(&next.media, "next.media")?;
    start::check_ms(next.position_ms, 0, "next.position_ms", "must be at most 30 days")?;
    if next.view == stop.view {
        return Err(Rejection::invalid("next.view", "must be another id than the stopped view's"));
    }
    Ok(())
}

/// Starts what follows a stopped view, in its stream.
fn start_next(
    txn: &mut Txn<'_>,
    account: &AccountId,
    stopped: &LiveView,
    next: &NextView,
    held_stream: bool,
) -> Decided<Started> {
    if txn.view(account, &next.view).is_some() {
        return Ok(Err(Rejection::ViewIdInUse(next.view.clone())));
    }
    let start = StartView {
        view: next.view.clone(),
        profile: stopped.profile.clone(),
        device: stopped.device.clone(),
        media: next.media.clone(),
        kind: stopped.progress.kind,
        position_ms: next.position_ms,
        on_limit: OnLimit::Reject,
    };
    start::admit(txn, account, &start, held_stream)
}

/// Decides [`AccountCommand::EndView`](crate::view::AccountCommand::EndView).
pub(super) fn end_view(txn: &mut Txn<'_>, account: &AccountId, order: &EndView) -> Decided<ViewId> {
    let Some(view) = txn.view(account, &order.view) else {
        let ended = accept!(not_active(txn, account, &order.view)?);
        return Ok(Err(Rejection::ViewEnded(ended)));
    };
    end(txn, &view, EndReason::EndedByOwner, order.by.clone())?;
    Ok(Ok(view.view))
}

/// Expires a view that is due. Its position is the last reported one.
pub(super) fn expire(txn: &mut Txn<'_>, view: &LiveView) -> Result<(), Bail> {
    let lived = view.progress.paused_since.map(|since| since.plus(txn.settings.pause_lives_ms));
    let paused = lived.is_some_and(|until| until <= txn.stamp.logical);
    end(txn, view, if paused { EndReason::PausedTooLong } else { EndReason::Expired }, None)?;
    Ok(())
}

/// Asks for the rows that the end of a view needs at first; [`Txn::settle`] has to follow.
pub(super) fn prefetch_end(txn: &mut Txn<'_>, view: &LiveView) -> Result<(), Bail> {
    Txn::go_on(txn.account(&view.account))?;
    if view.progress.kind != ViewKind::Preview {
        Txn::go_on(txn.title(&TitleRef::of(view)))?;
    }
    Ok(())
}

/// Ends a view as it was at its last report.
pub(super) fn end(
    txn: &mut Txn<'_>,
    view: &LiveView,
    why: EndReason,
    by: Option<DeviceId>,
) -> Result<(Outcome, EndedView), Bail> {
    end_with(txn, view, why, by, false)
}

pub(super) fn end_with(
    txn: &mut Txn<'_>,
    view: &LiveView,
    why: EndReason,
    by: Option<DeviceId>,
    failed: bool,
) -> Result<(Outcome, EndedView), Bail> {
    let mark = txn.mark();
    prefetch_end(txn, view)?;
    txn.settle(mark)?;
    let (settings, stamp) = (txn.settings, txn.stamp);
    let mut outcome = Outcome::Nothing;
    // A playback that failed says nothing by its end. What it reported before is known already, and stays.
    let counts = !failed || view.progress.has_reported();
    if view.progress.kind != ViewKind::Preview && counts {
        let at = TitleRef::of(view);
        let play = rules::conclude(settings, txn.title(&at)?, view, stamp.logical);
        outcome = play.outcome;
        // A full entry keeps its plays and grows longer; the resume point moves all the same.
        let (Placed::Added | Placed::Unchanged | Placed::Full) = place(txn, &at, &view.device, play, true)?;
    }
    let ended = EndedView {
        view: view.view.clone(),
        why,
        by,
        at: stamp.wall,
        logical: stamp.logical,
        sequence: view.progress.sequence,
    };
    let keeps = txn.version.has(Feature::Hints);
    let row = txn.account(&view.account)?;
    row.view_ended(settings, stamp.logical, ended.clone());
    if keeps {
        row.keep_trace(Trace::of(view));
    }
    let end = ViewEnd { view: view.show(settings, stamp.logical), end: ended.clone() };
    let fact = match why {
        EndReason::Stopped => Fact::Stopped(end),
        EndReason::Expired | EndReason::PausedTooLong => Fact::Expired(end),
        EndReason::Replaced
        | EndReason::EndedForAnother
        | EndReason::EndedByOwner
        | EndReason::StreamTaken
        | EndReason::OverLimit => Fact::Ended(end),
    };
    txn.tell(&view.account, fact);
    txn.remove_view(view);
    Ok((outcome, ended))
}
