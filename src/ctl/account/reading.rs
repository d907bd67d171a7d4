//! How fresh an answer must be, and how fresh it was.

use std::time::Duration;

use clap::{Args, ValueEnum};
use prost_types::Timestamp;
use serde::Serialize;

use super::super::connect;
use super::super::exit::Failure;
use super::super::output::{ago, rfc3339, span};
use super::super::shard::role;
use super::super::text::plain;
use crate::proto::v1;
use crate::time::WallMs;

/// How fresh an answer must be.
#[derive(Clone, Debug, Args)]
pub(in crate::ctl) struct Reading {
    /// How fresh the answer must be [default: strong, or what the next options ask for]
    #[arg(long = "read", value_name = "MODE", value_enum)]
    freshness: Option<Freshness>,
    /// With --read session, which it stands for: the revision that the answer must have, as a write or a read has told it
    #[arg(long, value_name = "REVISION")]
    min_revision: Option<String>,
    /// With --read bounded, which it stands for: how old the answer may be, e.g. 5s
    #[arg(long, value_name = "TIME", value_parser = connect::duration)]
    max_staleness: Option<Duration>,
    /// When there is no such answer for so long, take what any replica has, and say how old that is
    #[arg(long, value_name = "TIME", value_parser = connect::duration)]
    stale_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Freshness {
    /// With all that was acknowledged before: a quorum is asked.
    Strong,
    /// From the leader, which trusts its lease.
    Lease,
    /// With the write that --min-revision is from, from any replica.
    Session,
    /// At most so old as --max-staleness, from any replica that can prove it.
    Bounded,
    /// From the nearest replica, however old, also without a quorum.
    Any,
}

impl Reading {
    fn freshness(&self) -> Result<Freshness, Failure> {
        let usage = |why: &str| Err(Failure::Usage(why.to_string()));
        match (self.freshness, &self.min_revision, self.max_staleness) {
            (_, Some(_), Some(_)) => usage("--min-revision and --max-staleness are of two modes: give one of them"),
            (None | Some(Freshness::Session), Some(_), None) => Ok(Freshness::Session),
            (Some(_), Some(_), None) => usage("--min-revision is only for --read session"),
            (None | Some(Freshness::Bounded), None, Some(_)) => Ok(Freshness::Bounded),
            (Some(_), None, Some(_)) => usage("--max-staleness is only for --read bounded"),
            (Some(Freshness::Session), None, None) => usage("--min-revision is missing: --read session needs it"),
            (Some(Freshness::Bounded), None, None) => usage("--max-staleness is missing: --read bounded needs it"),
            (given, None, None) => Ok(given.unwrap_or(Freshness::Strong)),
        }
    }

    pub(in crate::ctl) fn options(&self) -> Result<Option<v1::ReadOptions>, Failure> {
        let options = match self.freshness()? {
            Freshness::Strong => v1::ReadOptions::strong(),
            Freshness::Lease => v1::ReadOptions::lease(),
            Freshness::Session => v1::ReadOptions::session(self.min_revision.clone().unwrap_or_default()),
            Freshness::Bounded => v1::ReadOptions::bounded(self.max_staleness.unwrap_or_default()),
            Freshness::Any => v1::ReadOptions::any(),
        };
        Ok(Some(match self.stale_after {
            Some(wait) => options.or_stale_after(wait),
            None => options,
        }))
    }
}

/// Who answered, and as of when.
#[derive(Clone, Debug, Serialize)]
pub(in crate::ctl) struct Source {
    served_by: String,
    role: &'static str,
    shard: u32,
    revision: String,
    #[serde(serialize_with = "rfc3339")]
    as_of_time: Option<Timestamp>,
    /// How old at most when it was asked for; null: nobody can say.
    age_ms: Option<i64>,
    mode: &'static str,
    degraded: bool,
}

impl From<Option<v1::ReadInfo>> for Source {
    fn from(info: Option<v1::ReadInfo>) -> Self {
        let info = info.unwrap_or_default();
        Self {
            role: role(info.role()),
            mode: mode(info.mode()),
            served_by: plain(&info.served_by),
            shard: info.shard,
            revision: plain(&info.revision),
            as_of_time: info.as_of_time,
            age_ms: info.age_ms,
            degraded: info.degraded,
        }
    }
}

fn mode(mode: v1::ReadMode) -> &'static str {
    match mode {
        v1::ReadMode::Unspecified => "unknown",
        v1::ReadMode::Strong => "strong",
        v1::ReadMode::Lease => "lease",
        v1::ReadMode::Session => "session",
        v1::ReadMode::Bounded => "bounded",
        v1::ReadMode::Any => "any",
    }
}

/// A span that isn't cut off but rounded up: it is a bound.
fn at_most(ms: u64) -> String {
    let unit = match ms {
        0..=999 => 1,
        1_000..=119_000 => 1_000,
        119_001..=7_140_000 => 60_000,
        _ => 3_600_000,
    };
    span(ms.div_ceil(unit).saturating_mul(unit))
}

impl Source {
    /// Of a list of which this is the next page: as old as its oldest page.
    pub(super) fn and(self, next: Option<v1::ReadInfo>) -> Self {
        let next = Self::from(next);
        let age_ms = self.age_ms.zip(next.age_ms).map(|(a, b)| a.max(b));
        let (mode, as_of_time) =
            if self.degraded && !next.degraded { (self.mode, self.as_of_time) } else { (next.mode, next.as_of_time) };
        Self { age_ms, mode, as_of_time, degraded: self.degraded || next.degraded, ..next }
    }

    /// For people, as the last line.
    pub(in crate::ctl) fn text(&self, now: WallMs) -> String {
        let Self { served_by, role, shard, mode, .. } = self;
        let from = format!("read from {served_by}, {role} of shard {shard}");
        let last = || ago(self.as_of_time.as_ref(), now);
        let old = if self.degraded { "; this may be old" } else { "" };
        match (*mode, self.age_ms.and_then(|ms| u64::try_from(ms).ok())) {
            // Confirmed while it was asked.
            ("strong" | "lease", _) => format!("{from}, as of {}", last()),
            (_, Some(ms)) => format!("{from},\nas of at most {} ago ({mode}){old}", at_most(ms)),
            (_, None) => format!("{from}:\nnobody can say as of when ({mode}); its last change was made {}", last()),
        }
    }

    /// How the cluster is by it.
    pub(in crate::ctl) fn verdict(&self) -> Result<(), Failure> {
        if !self.degraded {
            return Ok(());
        }
        let Self { shard, served_by, .. } = self;
        let age = match self.age_ms.and_then(|ms| u64::try_from(ms).ok()) {
            Some(ms) => format!("is at most {} old", at_most(ms)),
            None => "may be of any age".to_string(),
        };
        Err(Failure::Degraded(format!("shard {shard} could not be asked for what is new; what {served_by} has {age}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(mode: v1::ReadMode, age_ms: Option<i64>, degraded: bool) -> v1::ReadInfo {
        let (served_by, as_of_time) = ("n1".to_string(), Some(Timestamp { seconds: 1_000, nanos: 0 }));
        v1::ReadInfo { served_by, as_of_time, age_ms, degraded, mode: mode.into(), ..Default::default() }
    }

    #[test]
    fn a_stale_answer_says_how_old_it_is_or_that_nobody_can_say() {
        let text = |mode, age, degraded| Source::from(Some(info(mode, age, degraded))).text(WallMs(1_000_000));
        assert!(text(v1::ReadMode::Strong, Some(0), false).ends_with("as of now"));
        assert!(text(v1::ReadMode::Bounded, Some(1_234), false).ends_with("as of at most 2 s ago (bounded)"));
        let spans = [1, 999, 1_000, 1_001, 119_001, 7_140_001].map(at_most);
        assert_eq!(spans, ["1 ms", "999 ms", "1 s", "2 s", "2 min", "2 h 0 min"]);
        assert!(text(v1::ReadMode::Any, None, true).contains("nobody can say as of when"));
        assert!(text(v1::ReadMode::Any, Some(90_000), true).ends_with("ago (any); this may be old"));
    }

    #[test]
    fn a_list_of_many_pages_is_as_old_as_the_oldest_of_them() {
        let pages = [Some(500), Some(90_000), Some(700)].map(|age| info(v1::ReadMode::Any, age, age == Some(90_000)));
        let [first, second, third] = pages;
        let all = Source::from(Some(first)).and(Some(second)).and(Some(third.clone()));
        assert_eq!((all.age_ms, all.degraded), (Some(90_000), true));
        assert_eq!(all.and(Some(info(v1::ReadMode::Any, None, true))).age_ms, None);
    }

    #[test]
    fn a_bound_or_a_revision_names_its_mode_and_fits_no_other() {
        let reading = |freshness, min_revision: Option<&str>, ms: Option<u64>| Reading {
            freshness,
            min_revision: min_revision.map(str::to_string),
            max_staleness: ms.map(Duration::from_millis),
            stale_after: None,
        };
        let mode = |reading: Reading| reading.options().ok().flatten().map(|options| options.mode());
        assert_eq!(mode(reading(None, None, None)), Some(v1::ReadMode::Strong));
        assert_eq!(mode(reading(None, Some("1-1-1"), None)), Some(v1::ReadMode::Session));
        assert_eq!(mode(reading(None, None, Some(5))), Some(v1::ReadMode::Bounded));
        assert_eq!(mode(reading(Some(Freshness::Any), None, None)), Some(v1::ReadMode::Any));
        for (freshness, revision, ms) in [
            (Some(Freshness::Session), None, None),
            (Some(Freshness::Bounded), None, None),
            (Some(Freshness::Strong), Some("1-1-1"), None),
            (Some(Freshness::Any), None, Some(5)),
            (None, Some("1-1-1"), Some(5)),
        ] {
            assert_eq!(mode(reading(freshness, revision, ms)), None);
        }
    }
}
