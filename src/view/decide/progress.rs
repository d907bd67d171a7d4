//! Reports of progress: what one does to its view, and the cases that need more than the view.

use super::{Decided, accept, not_active, stop};
use crate::ids::{AccountId, ViewId};
use crate::time::Stamp;
use crate::view::record::{LiveView, Progress};
use crate::view::txn::Txn;
use crate::view::{
    Answer, Directive, EndReason, MEDIA_MS_MAX, PLAYED_RANGES_MAX, PlayState, Played, Progressed, Rejection,
    ReportProgress, Settings, Stretch,
};

/// How much more than elapsed time times speed is believed, in ms: reports travel at different speeds.
const SLACK_MS: u64 = 5_000;

/// What is told by a report or a stop.
pub(in crate::view) struct Told<'a> {
    /// `None`: newer than all.
    pub(in crate::view) sequence: Option<u64>,
    pub(in crate::view) position_ms: Option<u64>,
    /// `None`: as before.
    pub(in crate::view) state: Option<PlayState>,
    pub(in crate::view) played: &'a [Played],
    pub(in crate::view) seeked: bool,
}

impl<'a> From<&'a ReportProgress> for Told<'a> {
    fn from(report: &'a ReportProgress) -> Self {
        Self {
            sequence: Some(report.sequence),
            position_ms: report.position_ms,
            state: Some(report.state),
            played: &report.played,
            seeked: report.seeked,
        }
    }
}

/// Checks what a report tells.
pub(in crate::view) fn check_report(report: &ReportProgress) -> Result<(), Rejection> {
    if report.sequence == 0 {
        return Err(Rejection::invalid("sequence", "must be 1 or more"));
    }
    check_told(report.position_ms, &report.played)
}

/// Checks the times that a report or a stop tells.
pub(super) fn check_told(position_ms: Option<u64>, played: &[Played]) -> Result<(), Rejection> {
    if position_ms.is_some_and(|ms| ms > MEDIA_MS_MAX) {
        return Err(Rejection::invalid("position_ms", "must be at most 30 days"));
    }
    if played.len() > PLAYED_RANGES_MAX {
        return Err(Rejection::invalid("played", "must be at most 16 ranges"));
    }
    if played.iter().any(|r| r.from_ms >= r.to_ms || r.to_ms > MEDIA_MS_MAX) {
        return Err(Rejection::invalid("played", "each range must end after it begins, and within 30 days"));
    }
    Ok(())
}

/// What was really played in `elapsed_ms`, at most.
pub(super) fn playable_ms(settings: &Settings, elapsed_ms: u64) -> u64 {
    elapsed_ms.saturating_mul(settings.speed_percent_max) / 100 + SLACK_MS
}

pub(super) fn media_ms(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX - 1)
}

/// Takes a report, already checked, into its view's progress. Says whether what it tells is in the state: it is the newest, now
/// or since before.
pub(in crate::view) fn report(
    settings: &Settings,
    (stamp, stretch): (Stamp, Stretch),
    progress: &mut Progress,
    told: &Told<'_>,
) -> bool {
    let newest = told.sequence.is_none_or(|s| s > progress.sequence);
    let playable = playable_ms(settings, stamp.logical.since(progress.started.logical));
    for range in told.played {
        progress.played.insert_within(media_ms(range.from_ms), media_ms(range.to_ms), playable);
    }
    // A player that doesn't know its position says 0; only a seek goes back there.
    let no_position = |ms: u64| ms == 0 && !told.seeked && progress.position_ms.is_some_and(|p| p > 0);
    let position = told.position_ms.filter(|ms| !no_position(*ms)).map(media_ms);
    if !newest {
        // The newest one again, whose answer was lost on its way: it is in the state.
        let same_place = position.is_none() || position == progress.position_ms;
        let same_state = told.state.is_none_or(|state| state == progress.state);
        return told.sequence == Some(progress.sequence) && same_place && same_state;
    }
    if let Some(new) = position {
        let old = progress.position_ms.unwrap_or(new);
        let possible = playable_ms(settings, stamp.logical.since(progress.reported.logical));
        let unbroken = told.played.is_empty() && !told.seeked && progress.state != PlayState::Paused;
        if unbroken && new > old && u64::from(new - old) <= possible {
            progress.played.insert_within(old, new, playable);
        }
        progress.position_ms = Some(new);
    }
    progress.sequence = told.sequence.unwrap_or(progress.sequence.saturating_add(1));
    if let Some(state) = told.state {
        progress.paused_since = match state {
            PlayState::Paused => progress.paused_since.or(Some(stamp.logical)),
            PlayState::Playing | PlayState::Buffering => None,
        };
        progress.state = state;
    }
    progress.reported = stamp;
    progress.stretch = stretch;
    true
}

/// Whether a report wants a stream back that its view gave away in a long pause.
pub(in crate::view) fn wants_stream_back(
    settings: &Settings,
    stamp: Stamp,
    progress: &Progress,
    report: &ReportProgress,
) -> bool {
    progress.kind.takes_a_stream()
        && progress.paused_since.is_some()
        && report.state != PlayState::Paused
        && report.sequence > progress.sequence
        && !progress.holds_stream(settings, stamp.logical)
}

/// The answer to a report after which the view goes on.
pub(in crate::view) fn goes_on(
    settings: &Settings,
    stamp: Stamp,
    view: &ViewId,
    progress: &Progress,
    applied: bool,
) -> Progressed {
    Progressed {
        applied,
        interval_ms: settings.told_interval_ms(view, progress.sequence, progress.stretch),
        expires_at: stamp.wall.plus(progress.due(settings).since(stamp.logical)),
        directive: Directive::Continue,
    }
}

/// Decides [`AccountCommand::ReportProgress`](crate::view::AccountCommand::ReportProgress) where the view alone isn't enough
/// or isn't there. (Where it is, [`State::apply`](crate::view::State::apply) writes it in place.)
pub(super) fn report_progress(txn: &mut Txn<'_>, account: &AccountId, told: &ReportProgress) -> Decided<Answer> {
    accept!(check_report(told));
    let Some(mut view) = txn.view(account, &told.view) else {
        let ended = accept!(not_active(txn, account, &told.view)?);
        return Ok(Ok(Answer::Progressed(Progressed {
            applied: false,
            interval_ms: txn.settings.interval_ms,
            expires_at: txn.stamp.wall,
            directive: Directive::Stop(ended),
        })));
    };
    let (settings, stamp) = (txn.settings, txn.stamp);
    let wants_stream = wants_stream_back(settings, stamp, &view.progress, told);
    let has_room = !wants_stream || has_room(txn, account, &view)?;
    let applied = report(settings, (stamp, txn.stretch), &mut view.progress, &Told::from(told));
    let mut answer = goes_on(settings, stamp, &view.view, &view.progress, applied);
    if has_room {
        txn.put_view(view);
    } else {
        let (_, ended) = stop::end(txn, &view, EndReason::StreamTaken, None)?;
        answer.expires_at = stamp.wall;
        answer.directive = Directive::Stop(ended);
    }
    Ok(Ok(Answer::Progressed(answer)))
}

/// Whether a stream is free for a view that holds none.
fn has_room(txn: &mut Txn<'_>, account: &AccountId, view: &LiveView) -> Result<bool, super::Bail> {
    let (settings, now) = (txn.settings, txn.stamp.logical);
    let limit = usize::from(txn.account(account)?.policy(settings).max_streams);
    let others = txn.views(account);
    let holders = others.iter().filter(|v| v.view != view.view && v.progress.holds_stream(settings, now));
    Ok(holders.count() < limit)
}
