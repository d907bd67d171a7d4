//! What a household knows that the cluster must know: everything acknowledged, and what may have happened beside it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::habits::Title;
use crate::proto::v1;
use crate::time::MonotonicMs;

/// A profile's number in its household.
pub(super) type Profile = usize;

/// What each report and each stop says was really played, milliseconds: a stretch that none before it has said.
pub(super) const PLAYED_MS: u64 = 100;
/// So much is believed of a view however little time has passed by the cluster's clock; more may be or not.
const BELIEVED_MS: u64 = 5_000;
/// Of so many views of a household it is known how they have to stand in its history: as many as one entry holds for certain.
pub(super) const PLAYS_MAX: u64 = 1_000;
/// For so long a write whose outcome is unknown may still come about: the longest pause of a node, and the patience of a call.
const LATE_MS: u64 = 15_000;

/// Where a profile has left a title.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The last acknowledged position, milliseconds.
    pub(super) acked_ms: Option<u64>,
    /// Positions of later writes whose outcome is not known.
    pub(super) maybe_ms: Vec<u64>,
    /// The position of the last write, where that was only accepted: once all is handed off it must be there.
    pub(super) accepted_ms: Option<u64>,
}

impl Place {
    /// A write of this position was acknowledged: what came before it no longer shows.
    pub(super) fn acknowledge(&mut self, ms: u64) {
        self.acked_ms = Some(ms);
        self.accepted_ms = None;
        self.maybe_ms.clear();
    }

    /// A write of this position was accepted: it will show, unless something newer does.
    pub(super) fn accept(&mut self, ms: u64) {
        self.perhaps(ms);
        self.accepted_ms = Some(ms);
    }

    /// A write of this position may have happened.
    pub(super) fn perhaps(&mut self, ms: u64) {
        self.accepted_ms = None;
        if self.maybe_ms.last() != Some(&ms) {
            self.maybe_ms.push(ms);
        }
    }

    /// Whether the cluster may say that the title was left at `found`.
    pub(super) fn admits(&self, found: Option<u64>) -> bool {
        found == self.acked_ms || found.is_some_and(|ms| self.maybe_ms.contains(&ms))
    }

    /// Whether the cluster may give `found` as the resume point of `title`.
    ///
    /// Where the rules look at the time really watched (the last fifth of a title), a resume point may be there or not.
    pub(super) fn admits_resume(&self, title: Title, found: Option<u64>) -> bool {
        let positions = self.acked_ms.into_iter().chain(self.maybe_ms.iter().copied());
        let any_fits = positions.clone().any(|ms| fits(title, ms, found));
        any_fits || (self.acked_ms.is_none() && found.is_none())
    }
}

fn fits(title: Title, left_ms: u64, found: Option<u64>) -> bool {
    let duration_ms = title.duration_ms();
    let resumable_ms = if title.is_episode() { 120_000 } else { (duration_ms * 3 / 100).min(120_000) };
    match found {
        Some(found) => found == left_ms && left_ms >= resumable_ms,
        None => left_ms < resumable_ms || left_ms * 5 >= duration_ms * 4,
    }
}

/// A view that a device has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) view_id: String,
    /// Counts the household's views in the order of their starts.
    pub(super) number: u64,
    pub(super) device: usize,
    pub(super) profile: Profile,
    pub(super) title: Title,
    /// When the last write that was acknowledged had been sent: the cluster has heard of it since.
    pub(super) heard: MonotonicMs,
    /// The last sequence that was acknowledged, or may have been taken.
    pub(super) sequence: u64,
    /// How many of its reports were acknowledged.
    pub(super) acknowledged: u64,
    /// The last acknowledged position, milliseconds; none before the first report.
    pub(super) position_ms: Option<u64>,
    /// The start, a report or the stop of it has an unknown outcome since the last acknowledged one.
    pub(super) uncertain: bool,
    /// A report, the stop or the start of it was only accepted: then it may have more than one play.
    pub(super) accepted: bool,
    /// It was let in while its shard had no leader: the shard may not know it yet, and may end it.
    pub(super) degraded: bool,
}

impl Running {
    /// Whether the view may have expired by `now`, where one that is silent for `silence_ms` expires: four fifths of it are
    /// enough, as shard and device count their time each by itself. Then both answers are right, there or not.
    pub(super) fn may_have_expired(&self, silence_ms: u64, now: MonotonicMs) -> bool {
        now.since(self.heard) >= silence_ms / 5 * 4
    }

    /// The stretch that the next report, or the stop, says was played.
    pub(super) fn next_played(&self) -> v1::PlayedRange {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let start = self.sequence.saturating_mul(PLAYED_MS);
        v1::PlayedRange { start_ms: ms(start), end_ms: ms(start.saturating_add(PLAYED_MS)) }
    }

    /// How much of it the cluster has to count as watched: each acknowledged report says a stretch of its own, so that one
    /// that is lost is missing for ever, whatever comes after it.
    pub(super) fn watched_ms(&self) -> RangeInclusive<u64> {
        let least = if self.accepted { 0 } else { (self.acknowledged * PLAYED_MS).min(BELIEVED_MS) };
        least..=self.sequence * PLAYED_MS
    }

    /// How it stands in the history once it has ended; `stopped_ms`: its stop was acknowledged, with this position.
    pub(super) fn play(&self, stopped_ms: Option<u64>) -> Play {
        let stop = u64::from(stopped_ms.is_some());
        let watched =
            Running { acknowledged: self.acknowledged + stop, sequence: self.sequence + stop, ..self.clone() };
        // Of a stop at 0 the cluster keeps what it knew before.
        let position_ms = match stopped_ms {
            Some(ms) => (ms > 0).then_some(ms),
            None => self.position_ms.filter(|_| !self.uncertain && !self.accepted),
        };
        let (profile, title, device) = (self.profile, self.title, self.device);
        let position_ms = position_ms.filter(|_| !self.accepted);
        Play { profile, title, device, position_ms, watched_ms: watched.watched_ms(), accepted: self.accepted }
    }
}

/// A view that has ended, as it has to stand in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Play {
    pub(super) profile: Profile,
    pub(super) title: Title,
    pub(super) device: usize,
    /// None: not known.
    pub(super) position_ms: Option<u64>,
    pub(super) watched_ms: RangeInclusive<u64>,
    /// As [`Running::accepted`].
    pub(super) accepted: bool,
}

/// A view whose start or stop has an outcome that nobody has learned.
#[derive(Clone, Debug)]
pub(super) struct Unsure {
    pub(super) running: Running,
    /// It did start: it runs, or is in the history.
    pub(super) began: bool,
    /// Since when the active views cannot be told because of it; none once a read has explained them.
    pub(super) open_since: Option<MonotonicMs>,
}

/// A household's ledger.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Where each profile has left each title.
    pub(super) places: BTreeMap<(Profile, Title), Place>,
    /// Views that run, or that nobody has stopped, by id.
    pub(super) running: BTreeMap<String, Running>,
    /// Titles whose plays have ended and are in the history: with which device the last one was played.
    pub(super) ended: BTreeMap<(Profile, Title), usize>,
    /// The views that have ended, by number, up to [`PLAYS_MAX`].
    pub(super) plays: BTreeMap<u64, Play>,
    /// The views that may have run, by number.
    pub(super) unsure: BTreeMap<u64, Unsure>,
}

impl Ledger {
    /// The place of a profile in a title.
    pub(super) fn place(&mut self, profile: Profile, title: Title) -> &mut Place {
        self.places.entry((profile, title)).or_default()
    }

    /// A view has ended, and is in the history; `stopped_ms` as for [`Running::play`].
    pub(super) fn ended(&mut self, view_id: &str, stopped_ms: Option<u64>) {
        let Some(running) = self.running.remove(view_id) else { return };
        if running.position_ms.is_some() {
            self.ended.insert((running.profile, running.title), running.device);
        }
        self.played(running.number, running.play(stopped_ms));
    }

    fn played(&mut self, number: u64, play: Play) {
        if number <= PLAYS_MAX {
            self.plays.insert(number, play);
        }
    }

    /// The start of this view, or its stop where it `began`, may have happened.
    pub(super) fn is_unsure(&mut self, running: Running, began: bool, now: MonotonicMs) {
        self.running.remove(&running.view_id);
        self.unsure.insert(running.number, Unsure { running, began, open_since: Some(now) });
    }

    /// A write stayed unknown, so that the active views cannot be told.
    pub(super) fn views_uncertain(&self) -> bool {
        self.unsure.values().any(|unsure| unsure.open_since.is_some())
    }

    /// Whether a strong read at `now` tells what has become of every unknown write: none can come about later.
    pub(super) fn is_explained_by(&self, now: MonotonicMs) -> bool {
        self.unsure.values().filter_map(|unsure| unsure.open_since).all(|since| now.since(since) >= LATE_MS)
    }

    /// Takes up from a strong read which views are active: id, sequence and position.
    pub(super) fn explain(&mut self, active: &BTreeMap<String, (u64, Option<u64>)>) {
        let open: Vec<u64> = self.unsure.iter().filter(|(_, u)| u.open_since.is_some()).map(|(n, _)| *n).collect();
        for number in open {
            let Some(mut unsure) = self.unsure.remove(&number) else { continue };
            let device = unsure.running.device;
            // Where it started, it has replaced what the device had.
            let others = self.running.values().filter(|r| r.device == device && !active.contains_key(&r.view_id));
            let replaced: Vec<String> = others.map(|r| r.view_id.clone()).collect();
            replaced.iter().for_each(|view_id| self.ended(view_id, None));
            let handed_off_later = unsure.running.accepted && active.contains_key(&unsure.running.view_id);
            if handed_off_later {
                self.unsure.insert(number, unsure);
            } else if let Some((sequence, position_ms)) = active.get(&unsure.running.view_id) {
                let mut running = unsure.running;
                (running.sequence, running.position_ms, running.uncertain) = (*sequence, *position_ms, false);
                self.running.insert(running.view_id.clone(), running);
            } else if unsure.began {
                let mut play = unsure.running.play(None);
                // The unknown stop says a position and a stretch of its own.
                play.position_ms = None;
                play.watched_ms = *play.watched_ms.start()..=play.watched_ms.end() + PLAYED_MS;
                self.played(number, play);
            } else {
                unsure.open_since = None;
                self.unsure.insert(number, unsure);
            }
        }
    }

    /// Whether something of a view was only accepted.
    pub(super) fn was_accepted(&self, number: u64) -> bool {
        self.plays.get(&number).is_some_and(|play| play.accepted)
            || self.unsure.get(&number).is_some_and(|unsure| unsure.running.accepted)
            || self.running.values().any(|running| running.number == number && running.accepted)
    }

    /// Something that this profile has begun and could go on with.
    pub(super) fn begun(&self, profile: Profile, nth: usize) -> Option<Title> {
        let fits = |(key, place): (&(Profile, Title), &Place)| {
            let (of, title) = *key;
            let left_ms = place.acked_ms?;
            (of == profile && left_ms >= 120_000 && left_ms * 5 < title.duration_ms() * 4).then_some(title)
        };
        let begun: Vec<Title> = self.places.iter().filter_map(fits).collect();
        begun.get(nth % begun.len().max(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_admitted_until_something_later_is_acknowledged() {
        let mut place = Place::default();
        assert!(place.admits(None) && !place.admits(Some(1)));
        place.acknowledge(100);
        place.perhaps(200);
        assert!(place.admits(Some(100)) && place.admits(Some(200)) && !place.admits(None) && !place.admits(Some(150)));
        place.acknowledge(300);
        assert!(place.admits(Some(300)) && !place.admits(Some(100)) && !place.admits(Some(200)));
    }

    fn running(number: u64, device: usize) -> Running {
        Running {
            view_id: format!("v{number}"),
            number,
            device,
            profile: device,
            title: Title(number as u32),
            heard: MonotonicMs(0),
            sequence: 0,
            acknowledged: 0,
            position_ms: None,
            uncertain: false,
            accepted: false,
            degraded: false,
        }
    }

    #[test]
    fn a_report_that_is_lost_is_missing_from_the_watched_time_whatever_comes_after_it() {
        let mut view = running(1, 0);
        (view.sequence, view.acknowledged) = (7, 7);
        assert_eq!((view.watched_ms(), view.next_played().start_ms), (700..=700, 700));
        // One of them may have happened or not.
        view.acknowledged = 6;
        assert_eq!(view.watched_ms(), 600..=700);
        assert_eq!(view.play(Some(9)).watched_ms, 700..=800, "a stop says a stretch as well");
        (view.sequence, view.acknowledged) = (90, 90);
        assert_eq!(view.watched_ms(), 5_000..=9_000, "as much as is believed at once, at least");
    }

    #[test]
    fn unknown_starts_and_stops_blind_a_household_only_until_a_late_enough_read() {
        let mut ledger = Ledger::default();
        for view in [running(1, 0), running(2, 1), running(5, 2)] {
            ledger.running.insert(view.view_id.clone(), view);
        }
        ledger.is_unsure(running(2, 1), true, MonotonicMs(1_000));
        ledger.is_unsure(running(3, 0), false, MonotonicMs(2_000));
        ledger.is_unsure(running(4, 2), false, MonotonicMs(2_000));
        assert!(ledger.views_uncertain() && !ledger.is_explained_by(MonotonicMs(16_999)));
        assert!(ledger.is_explained_by(MonotonicMs(17_000)));
        // The third has started and replaced the first, the stop of the second was done, the fourth has not started.
        ledger.explain(&BTreeMap::from([("v3".to_string(), (4, Some(9))), ("v5".to_string(), (0, None))]));
        assert!(!ledger.views_uncertain());
        assert_eq!(ledger.running.keys().collect::<Vec<_>>(), ["v3", "v5"]);
        assert_eq!((ledger.running["v3"].sequence, ledger.running["v3"].position_ms), (4, Some(9)));
        assert_eq!(ledger.plays.keys().collect::<Vec<_>>(), [&1, &2]);
        assert!(ledger.unsure.contains_key(&4), "it may be in the history all the same");
    }

    #[test]
    fn resume_points_follow_the_rules_and_only_the_end_of_a_title_is_left_open() {
        let (film, episode) = (Title(0), Title(1));
        assert!(!film.is_episode() && episode.is_episode());
        let place = |ms| Place { acked_ms: Some(ms), ..Place::default() };
        let middle = episode.duration_ms() / 2;
        assert!(place(middle).admits_resume(episode, Some(middle)) && !place(middle).admits_resume(episode, None));
        assert!(place(119_000).admits_resume(episode, None) && !place(119_000).admits_resume(episode, Some(119_000)));
        assert!(place(120_000).admits_resume(film, Some(120_000)) && !place(120_000).admits_resume(film, None));
        let end = film.duration_ms() - 1_000;
        assert!(place(end).admits_resume(film, None) && place(end).admits_resume(film, Some(end)));
        assert!(Place::default().admits_resume(film, None) && !Place::default().admits_resume(film, Some(5)));
    }
}
