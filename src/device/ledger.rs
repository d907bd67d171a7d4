//! What a household knows that the cluster must know: everything acknowledged, and what may have happened beside it.

use std::collections::BTreeMap;

use super::habits::Title;
use crate::time::MonotonicMs;

/// A profile's number in its household.
pub(super) type Profile = usize;

/// Where a profile has left a title.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The last acknowledged position, milliseconds.
    pub(super) acked_ms: Option<u64>,
    /// Positions of later writes whose outcome is not known.
    pub(super) maybe_ms: Vec<u64>,
}

impl Place {
    /// A write of this position was acknowledged: what came before it no longer shows.
    pub(super) fn acknowledge(&mut self, ms: u64) {
        self.acked_ms = Some(ms);
        self.maybe_ms.clear();
    }

    /// A write of this position may have happened.
    pub(super) fn perhaps(&mut self, ms: u64) {
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
    pub(super) device: usize,
    pub(super) profile: Profile,
    pub(super) title: Title,
    /// When the last write that was acknowledged had been sent: the cluster has heard of it since.
    pub(super) heard: MonotonicMs,
    /// The last acknowledged sequence.
    pub(super) sequence: u64,
    /// The last acknowledged position, milliseconds; none before the first report.
    pub(super) position_ms: Option<u64>,
    /// The start, a report or the stop of it has an unknown outcome since the last acknowledged one.
    pub(super) uncertain: bool,
}

impl Running {
    /// Whether the view may have expired by `now`, where one that is silent for `silence_ms` expires: four fifths of it are
    /// enough, as shard and device count their time each by itself. Then both answers are right, there or not.
    pub(super) fn may_have_expired(&self, silence_ms: u64, now: MonotonicMs) -> bool {
        now.since(self.heard) >= silence_ms / 5 * 4
    }
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
}

impl Ledger {
    /// The place of a profile in a title.
    pub(super) fn place(&mut self, profile: Profile, title: Title) -> &mut Place {
        self.places.entry((profile, title)).or_default()
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

    #[test]
    fn resume_points_follow_the_rules_and_only_the_end_of_a_title_is_left_open() {
        let (film, episode) = (Title(0), Title(1));
        assert!(!film.is_episode() && episode.is_episode());
        let place = |ms| Place { acked_ms: Some(ms), maybe_ms: vec![] };
        let middle = episode.duration_ms() / 2;
        assert!(place(middle).admits_resume(episode, Some(middle)) && !place(middle).admits_resume(episode, None));
        assert!(place(119_000).admits_resume(episode, None) && !place(119_000).admits_resume(episode, Some(119_000)));
        assert!(place(120_000).admits_resume(film, Some(120_000)) && !place(120_000).admits_resume(film, None));
        let end = film.duration_ms() - 1_000;
        assert!(place(end).admits_resume(film, None) && place(end).admits_resume(film, Some(end)));
        assert!(Place::default().admits_resume(film, None) && !Place::default().admits_resume(film, Some(5)));
    }
}
