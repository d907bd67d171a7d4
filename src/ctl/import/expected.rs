//! What a file alone says that a cluster must answer, worked out in the plainest way.
//!
//! It shares no code with the cluster's rules on purpose: it is what they are checked against.

use std::collections::{BTreeMap, BTreeSet};

use crate::formats::netflix::{Kind, LatestBookmark, Play};

/// Plays of one profile, title and device that are no more than this apart are one entry.
const ENTRY_GAP_MS: u64 = 60 * 60_000;
/// Where nobody knows how long a title is, it can be resumed from here on.
const RESUMABLE_MS_MIN: u64 = 120_000;

/// A profile and a title.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Whose.
    pub profile: String,
    /// Of what.
    pub title: String,
}

/// One play as history shows it; two plays of one profile that are equal in all of this are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlayKey {
    /// Of what.
    pub title: String,
    /// On what.
    pub device: String,
    /// When it began, milliseconds since 1970.
    pub start_ms: u64,
    /// When it ended, milliseconds since 1970.
    pub end_ms: u64,
    /// Where it was left, milliseconds.
    pub position_ms: Option<u64>,
}

/// When each play of one profile, title and device began and ended, milliseconds since 1970.
type Spans = Vec<(u64, u64)>;

/// What must be in the cluster after the import of a file into an account that had nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// All real plays, by profile.
    pub plays: BTreeMap<String, BTreeSet<PlayKey>>,
    /// How many entries of history each profile has.
    pub entries: BTreeMap<String, usize>,
    /// The pairs of which exactly one play has a latest bookmark, and that bookmark, milliseconds: where they were left.
    pub left_at: BTreeMap<Pair, u64>,
    /// All pairs that were really played.
    pub pairs: BTreeSet<Pair>,
}

impl Expected {
    /// From a file's plays.
    pub fn of(plays: &[Play]) -> Self {
        let mut expected = Self::default();
        let mut by_entry: BTreeMap<(&str, &str, &str), Spans> = BTreeMap::new();
        let mut latest: BTreeMap<Pair, Vec<u64>> = BTreeMap::new();
        for play in plays.iter().filter(|play| play.kind == Kind::Title) {
            let (profile, title) = (play.profile.as_str(), play.title.as_str());
            let key = PlayKey {
                title: title.into(),
                device: play.device.to_string(),
                start_ms: play.start.0,
                end_ms: play.end().0,
                position_ms: play.bookmark_ms,
            };
            if !expected.plays.entry(profile.into()).or_default().insert(key) {
                continue;
            }
            let span = (play.start.0, play.end().0);
            by_entry.entry((profile, title, play.device.as_str())).or_default().push(span);
            let pair = Pair { profile: profile.into(), title: title.into() };
            if let LatestBookmark::At(ms) = play.latest_bookmark {
                latest.entry(pair.clone()).or_default().push(ms);
            }
            expected.pairs.insert(pair);
        }
        for ((profile, ..), spans) in by_entry {
            *expected.entries.entry(profile.into()).or_default() += entries(spans);
        }
        let single = latest.into_iter().filter_map(|(pair, at)| Some((pair, *at.first().filter(|_| at.len() == 1)?)));
        expected.left_at = single.collect();
        expected
    }

    /// How many real plays there are.
    pub fn plays_total(&self) -> usize {
        self.plays.values().map(BTreeSet::len).sum()
    }

    /// How many entries of history there are.
    pub fn entries_total(&self) -> usize {
        self.entries.values().sum()
    }

    /// The resume point that the rules give for a title left at `ms` whose length nobody knows.
    pub fn resume_point(ms: u64) -> Option<u64> {
        (ms >= RESUMABLE_MS_MIN).then_some(ms)
    }
}

/// How many entries the plays of one profile, title and device make.
fn entries(mut spans: Spans) -> usize {
    spans.sort_unstable();
    let mut count = 0;
    let mut open_until = None;
    for (start, end) in spans {
        open_until = match open_until {
            Some(until) if start <= until + ENTRY_GAP_MS => Some(end.max(until)),
            _ => {
                count += 1;
                Some(end)
            }
        };
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::netflix;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn plays_an_hour_apart_are_one_entry_and_more_are_two() {
        assert_eq!(entries(vec![]), 0);
        assert_eq!(entries(vec![(2 * HOUR, 2 * HOUR), (0, HOUR)]), 1);
        assert_eq!(entries(vec![(2 * HOUR + 1, 3 * HOUR), (0, HOUR)]), 2);
        // A long play covers a short one.
        assert_eq!(entries(vec![(0, 3 * HOUR), (HOUR, HOUR), (4 * HOUR, 5 * HOUR)]), 1);
    }

    #[test]
    fn the_sample_expects_what_it_was_made_with() {
        let export = netflix::read(&include_bytes!("../../../cluster/sample/ViewingActivity.csv")[..]).unwrap();
        assert_eq!(export.refused, []);
        let expected = Expected::of(&export.plays);
        // One row of the sample stands in it twice.
        let real = export.plays.iter().filter(|play| play.kind == Kind::Title).count();
        assert_eq!((real, expected.plays_total()), (308, 307));
        assert_eq!((expected.pairs.len(), expected.left_at.len()), (140, 140));
        assert!(expected.entries_total() < 307);
    }

    /// The figures are those that the publisher's file is known to have; see the README of the project's data.
    #[test]
    fn the_real_history_expects_what_is_known_of_it() {
        let Some(path) = std::env::var_os("PLAYHEAD_REAL_HISTORY") else { return };
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let export = netflix::read(file).unwrap();
        let expected = Expected::of(&export.plays);
        assert_eq!((export.plays.len(), export.refused.len()), (9_992, 0));
        assert_eq!((expected.plays_total(), expected.entries_total()), (8_147, 5_752));
        assert_eq!((expected.pairs.len(), expected.left_at.len()), (3_690, 3_689));
    }
}
