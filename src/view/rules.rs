//! How a play counts: sampled, resumable, watched. The figures and their sources stand in `docs/` and [`Settings`].

use super::account::Trace;
use super::record::{LiveView, ViewRanges};
use super::title::{Last, TitleRow};
use super::{Alternate, ImportPlay, Outcome, Play, Settings, TitleType};
use crate::ids::DeviceId;
use crate::time::LogicalMs;

/// What the rules look at.
struct Facts {
    title_type: TitleType,
    position_ms: u64,
    duration_ms: Option<u64>,
    credits_ms: Option<u64>,
    really_watched_ms: u64,
}

/// How a play counts, and whether its position is a resume point.
fn judge(settings: &Settings, facts: &Facts) -> (Outcome, bool) {
    let Facts { position_ms, duration_ms, .. } = *facts;
    if at_end(settings, facts) {
        let needed = duration_ms.unwrap_or(u64::MAX).saturating_mul(settings.really_watched_percent);
        let enough = facts.really_watched_ms.saturating_mul(100) >= needed;
        return (if enough { Outcome::Completed } else { Outcome::CompletedBySeek }, false);
    }
    if duration_ms.is_some_and(|d| d < settings.short_title_ms) {
        return (Outcome::Partial, false);
    }
    if position_ms < resumable_from_ms(settings, facts) {
        return (Outcome::Sampled, false);
    }
    (Outcome::Partial, true)
}

/// From where a title can be resumed.
fn resumable_from_ms(settings: &Settings, facts: &Facts) -> u64 {
    match (facts.title_type, facts.duration_ms) {
        (TitleType::Film, Some(duration)) => {
            settings.resumable_ms.min(duration.saturating_mul(settings.resumable_film_permille) / 1000)
        }
        _ => settings.resumable_ms,
    }
}

/// Whether a position is at the end of its title. Never without a known runtime.
fn at_end(settings: &Settings, facts: &Facts) -> bool {
    let Some(duration) = facts.duration_ms else { return false };
    let position = facts.position_ms;
    let long = duration >= settings.short_title_ms;
    if let Some(credits) = facts.credits_ms.filter(|_| long) {
        return position >= credits;
    }
    let by_share = position.saturating_mul(100) >= duration.saturating_mul(settings.watched_percent);
    let by_rest = facts.title_type == TitleType::Episode && long && position + settings.episode_left_ms > duration;
    by_share || by_rest
}

/// The play that a view makes if it ends at its last report, and what becomes of the title by it. `now` is when the loser of
/// two devices' resume points begins to be kept.
pub(super) fn conclude(settings: &Settings, row: &mut TitleRow, view: &LiveView, now: LogicalMs) -> Play {
    let progress = &view.progress;
    let mut play = Play {
        start: progress.started.wall,
        elapsed_ms: progress.elapsed_ms(),
        position_ms: progress.position_ms.map(u64::from),
        duration_ms: view.media.duration_ms,
        title_type: view.media.title_type,
        kind: progress.kind,
        outcome: Outcome::Partial,
        view: Some(view.view.clone()),
        watched_ms: progress.played.total_ms(),
    };
    if !progress.kind.moves_resume_points() {
        return play;
    }
    let mut run = row.run;
    run.extend(&progress.played);
    let Some(position_ms) = play.position_ms else {
        row.run = run;
        return play;
    };
    let facts = Facts {
        title_type: play.title_type,
        position_ms,
        duration_ms: play.duration_ms,
        credits_ms: view.media.credits_ms,
        really_watched_ms: run.total_ms(),
    };
    let (outcome, resumable) = judge(settings, &facts);
    play.outcome = outcome;
    if outcome == Outcome::Completed {
        row.run = Default::default();
        row.play_count = row.play_count.saturating_add(1);
        row.watched_at = row.watched_at.max(Some(play.end()));
    } else {
        row.run = run;
    }
    let last = Last { logical: Some(progress.reported.logical), ..last(&play, &view.device, position_ms, resumable) };
    let (before, point) = (row.resume(), last.point());
    let until = now.plus(settings.alternate_ms);
    if row.play_ended(last) {
        let lost = before.filter(|b| b.device != point.device || (!resumable && outcome != Outcome::Completed));
        row.alternate = lost.map(|point| Alternate { point, until }).or(row.alternate.take());
    } else if resumable && before.is_none_or(|b| b.device != point.device) {
        row.alternate = Some(Alternate { point, until });
    }
    if row.alternate.as_ref().is_some_and(|a| a.until <= now) {
        row.alternate = None;
    }
    play
}

/// What a play says about where its title was left.
fn last(play: &Play, device: &DeviceId, position_ms: u64, resumable: bool) -> Last {
    Last {
        end: play.end(),
        start: play.start,
        logical: None,
        device: device.clone(),
        position_ms,
        duration_ms: play.duration_ms,
        title_type: play.title_type,
        outcome: play.outcome,
        resumable,
    }
}

/// The play that an import tells of. It counts by itself alone, so that the order of an import makes no difference.
pub(super) fn imported(settings: &Settings, import: &ImportPlay) -> (Play, Option<Last>) {
    let mut play = Play {
        start: import.start,
        elapsed_ms: import.elapsed_ms,
        position_ms: import.position_ms,
        duration_ms: import.duration_ms,
        title_type: import.title_type,
        kind: import.kind,
        outcome: Outcome::Partial,
        view: None,
        watched_ms: import.duration_ms.map_or(import.elapsed_ms, |d| d.min(import.elapsed_ms)),
    };
    let Some(position_ms) = import.position_ms.filter(|_| import.kind.moves_resume_points()) else {
        return (play, None);
    };
    let facts = Facts {
        title_type: import.title_type,
        position_ms,
        duration_ms: import.duration_ms,
        credits_ms: None,
        really_watched_ms: play.watched_ms,
    };
    let (outcome, resumable) = judge(settings, &facts);
    play.outcome = outcome;
    let last = last(&play, &import.device, position_ms, resumable);
    (play, Some(last))
}

/// An imported play is in the history: it may be the latest, and may have watched the title.
pub(super) fn take_in(row: &mut TitleRow, play: &Play, last: Option<Last>) {
    if play.outcome == Outcome::Completed {
        row.play_count = row.play_count.saturating_add(1);
        row.watched_at = row.watched_at.max(Some(play.end()));
    }
    if let Some(last) = last {
        row.play_ended(last);
    }
}

/// The further play of a view that has ended: from where it was known to have been at `trace.end`, up to `position_ms`. It applies where
/// nothing else has happened to the title since; otherwise the later event wins. By the shard's time it was at `when`, or later as time
/// without a leader is not in that: what is older than `when` came before it, all else is compared by the calendar.
pub(super) fn handed_off(
    settings: &Settings,
    row: &mut TitleRow,
    trace: &Trace,
    (elapsed_ms, position_ms): (u64, Option<u64>),
    played: &ViewRanges,
    when: Option<LogicalMs>,
) -> Play {
    let mut play = Play {
        start: trace.end,
        elapsed_ms,
        position_ms,
        duration_ms: trace.media.duration_ms,
        title_type: trace.media.title_type,
        kind: trace.kind,
        outcome: Outcome::Partial,
        view: Some(trace.view.clone()),
        watched_ms: played.total_ms(),
    };
    if !trace.kind.moves_resume_points() {
        return play;
    }
    row.run.extend(played);
    let Some(position_ms) = play.position_ms else { return play };
    let facts = Facts {
        title_type: play.title_type,
        position_ms,
        duration_ms: play.duration_ms,
        credits_ms: trace.media.credits_ms,
        really_watched_ms: row.run.total_ms(),
    };
    let (outcome, resumable) = judge(settings, &facts);
    play.outcome = outcome;
    if outcome == Outcome::Completed {
        row.run = Default::default();
        row.play_count = row.play_count.saturating_add(1);
        row.watched_at = row.watched_at.max(Some(play.end()));
    }
    let last = last(&play, &trace.device, position_ms, resumable);
    let known = |l: &Last| (l.start, l.end) == (trace.start, trace.end) && l.device == trace.device;
    let before = |l: &Last| l.logical < when && l.logical.is_some();
    let comes_last = row.last.as_ref().is_none_or(|l| known(l) || before(l) || last.is_later_than(l));
    if comes_last {
        let others = row.last.as_ref().and_then(|l| l.logical);
        row.last = Some(Last { logical: when.max(others.filter(|_| when.is_some())), ..last });
    }
    play
}
