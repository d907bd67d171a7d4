//! What becomes of a title, by going through all that ever happened to it.

use std::collections::BTreeSet;

use super::View;
use super::handoff::Upload;
use crate::view::tests::*;

/// Something that happened to a title.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Ended(View, LogicalMs),
    Imported(ImportPlay),
    Uploaded(Upload),
}

#[derive(Clone, Debug)]
struct Latest {
    logical: Option<LogicalMs>,
    point: ResumePoint,
    start: WallMs,
    title_type: TitleType,
    outcome: Outcome,
    resumable: bool,
}

/// What is known of a title, and its plays.
pub(super) struct Told {
    pub(super) state: TitleState,
    pub(super) plays: Vec<(DeviceId, Play)>,
}

fn judge(s: &Settings, media: &Media, position: u64, watched_ms: u64) -> (Outcome, bool) {
    let short = media.duration_ms.is_some_and(|d| d < s.short_title_ms);
    if let Some(duration) = media.duration_ms {
        let at_end = match media.credits_ms {
            Some(credits) if !short => position >= credits,
            _ => {
                position * 100 >= duration * s.watched_percent
                    || (media.title_type == TitleType::Episode && !short && duration < position + s.episode_left_ms)
            }
        };
        if at_end && watched_ms * 100 >= duration * s.really_watched_percent {
            return (Outcome::Completed, false);
        }
        if at_end {
            return (Outcome::CompletedBySeek, false);
        }
    }
    let from = match (media.title_type, media.duration_ms) {
        (TitleType::Film, Some(d)) => (d * s.resumable_film_permille / 1000).min(s.resumable_ms),
        _ => s.resumable_ms,
    };
    match (short, position < from) {
        (true, _) => (Outcome::Partial, false),
        (false, true) => (Outcome::Sampled, false),
        (false, false) => (Outcome::Partial, true),
    }
}

/// Goes through all that happened to a title.
pub(super) fn tell<'a>(
    s: &Settings,
    title: &TitleId,
    now: LogicalMs,
    all: impl Iterator<Item = &'a Happening>,
) -> Told {
    let mut latest: Option<Latest> = None;
    let mut alternate: Option<Alternate> = None;
    let (mut watched_at, mut play_count) = (None, 0);
    let mut run = BTreeSet::new();
    let mut plays = Vec::new();
    for happening in all {
        let (mut by_view, mut after) = (matches!(happening, Happening::Ended(..)), None);
        let (media, device, mut play, logical, when) = match happening {
            Happening::Ended(v, when) => {
                let play = Play {
                    start: v.started.wall,
                    elapsed_ms: v.reported.logical.0 - v.started.logical.0,
                    position_ms: v.position,
                    duration_ms: v.media.duration_ms,
                    title_type: v.media.title_type,
                    kind: v.kind,
                    outcome: Outcome::Partial,
                    view: Some(v.id.clone()),
                    watched_ms: v.seconds.len() as u64 * 1000,
                };
                if v.moves() {
                    run.extend(v.seconds.iter().copied());
                }
                (v.media.clone(), v.device.clone(), play, Some(v.reported.logical), *when)
            }
            Happening::Uploaded(u) => {
                let play = Play {
                    start: u.after.1,
                    elapsed_ms: u.elapsed_ms,
                    position_ms: u.view.position,
                    duration_ms: u.view.media.duration_ms,
                    title_type: u.view.media.title_type,
                    kind: u.view.kind,
                    outcome: Outcome::Partial,
                    view: Some(u.view.id.clone()),
                    watched_ms: u.seconds.len() as u64 * 1000,
                };
                if u.view.moves() {
                    run.extend(u.seconds.iter().copied());
                }
                (by_view, after) = (true, Some(u.after));
                (u.view.media.clone(), u.view.device.clone(), play, u.when, LogicalMs(0))
            }
            Happening::Imported(p) => {
                let media = Media {
                    title: p.title.clone(),
                    title_type: p.title_type,
                    duration_ms: p.duration_ms,
                    credits_ms: None,
                };
                let play = Play {
                    start: p.start,
                    elapsed_ms: p.elapsed_ms,
                    position_ms: p.position_ms,
                    duration_ms: p.duration_ms,
                    title_type: p.title_type,
                    kind: p.kind,
                    outcome: Outcome::Partial,
                    view: None,
                    watched_ms: p.elapsed_ms.min(p.duration_ms.unwrap_or(u64::MAX)),
                };
                (media, p.device.clone(), play, None, LogicalMs(0))
            }
        };
        let moves = matches!(play.kind, ViewKind::Full | ViewKind::Offline);
        let Some(position) = play.position_ms.filter(|_| moves) else {
            plays.push((device, play));
            continue;
        };
        let really = if by_view { run.len() as u64 * 1000 } else { play.watched_ms };
        let (outcome, resumable) = judge(s, &media, position, really);
        play.outcome = outcome;
        if outcome == Outcome::Completed {
            play_count += 1;
            watched_at = watched_at.max(Some(play.start.plus(play.elapsed_ms)));
            if by_view {
                run.clear();
            }
        }
        let at = play.start.plus(play.elapsed_ms);
        let point = ResumePoint { position_ms: position, duration_ms: play.duration_ms, device: device.clone(), at };
        let mut new = Latest {
            logical,
            point: point.clone(),
            start: play.start,
            title_type: play.title_type,
            outcome,
            resumable,
        };
        let later = match &latest {
            None => true,
            Some(old) if after == Some((old.start, old.point.at)) && old.point.device == device => {
                new.logical = new.logical.map(|n| old.logical.map_or(n, |o| n.max(o)));
                true
            }
            Some(old) => match (new.logical, old.logical) {
                (Some(n), Some(o)) if after.is_none() || o < n => n >= o,
                _ => {
                    let rank = |l: &Latest| {
                        let p = &l.point;
                        (p.at, l.start, p.position_ms, p.duration_ms, l.title_type, l.outcome, p.device.clone())
                    };
                    new.logical = new.logical.max(old.logical.filter(|_| new.logical.is_some()));
                    rank(&new) > rank(old)
                }
            },
        };
        let old_point = latest.as_ref().filter(|l| l.resumable).map(|l| l.point.clone());
        if matches!(happening, Happening::Ended(..)) {
            let until = when.plus(s.alternate_ms);
            let loser = match (&old_point, later) {
                (Some(old), true) if old.device != device => Some(old.clone()),
                (Some(old), true) if !resumable && outcome != Outcome::Completed => Some(old.clone()),
                (Some(old), false) if resumable && old.device != device => Some(point),
                (None, false) if resumable => Some(point),
                _ => None,
            };
            if let Some(point) = loser {
                alternate = Some(Alternate { point, until });
            }
        }
        if later {
            latest = Some(new);
        }
        plays.push((device, play));
    }
    let state = TitleState {
        title: title.clone(),
        title_type: latest.as_ref().map_or(TitleType::Other, |l| l.title_type),
        resume: latest.as_ref().filter(|l| l.resumable).map(|l| l.point.clone()),
        last: latest.as_ref().map(|l| l.point.clone()),
        alternate: alternate.filter(|a| now < a.until),
        watched_at,
        play_count,
    };
    Told { state, plays }
}

/// What was said twice, word for word, was done once, and counts as it did at first.
pub(super) fn once(said: Vec<(DeviceId, Play)>) -> Vec<(DeviceId, Play)> {
    let words = |p: &Play| (p.start, p.elapsed_ms, p.position_ms, p.duration_ms, p.title_type, p.kind);
    let mut plays: Vec<(DeviceId, Play)> = Vec::new();
    for (device, play) in said {
        if !plays.iter().any(|(d, p)| *d == device && words(p) == words(&play) && p.view == play.view) {
            plays.push((device, play));
        }
    }
    plays
}

impl super::Reference {
    /// The newest version that it was told to work by.
    pub(super) fn adopt(&mut self, version: ClusterVersion) -> Answer {
        self.version = self.version.max(version);
        Answer::Adopted(self.version)
    }
}
