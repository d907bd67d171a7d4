//! The figures of the rules. They are inputs: they reach a shard only by a command through its own log.

use minicbor::{Decode, Encode};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Rejection, StreamPolicy, Stretch};
use crate::ids::ViewId;

/// The shortest and the longest interval.
pub(super) const INTERVAL_MS: (u64, u64) = (10_000, 120_000);
const MINUTE_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The figures of the rules, and their version. All times in ms.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    /// Grows with each change; an older one is refused.
    #[n(0)]
    pub version: u64,
    /// How often a device reports. Default 60 s; 10 to 120 s.
    #[n(1)]
    pub interval_ms: u64,
    /// Percent of an interval after which a silent view expires. Default 250; 150 to 1000.
    #[n(2)]
    pub silence_percent: u64,
    /// How long an expired view can come back under its id. Default 10 min; at most a day.
    #[n(3)]
    pub comeback_ms: u64,
    /// How long a paused view holds its stream. Default 5 min; at most a day.
    #[n(4)]
    pub pause_holds_ms: u64,
    /// How long a paused view lives. Default 30 min; at most a day.
    #[n(5)]
    pub pause_lives_ms: u64,
    /// How close two plays of the same profile, title and device must be to share a history entry. Default 60 min; at most
    /// a day.
    #[n(6)]
    pub entry_gap_ms: u64,
    /// From where a film is resumable: the lesser of this many thousandths of its runtime and [`Self::resumable_ms`].
    /// Default 30; at most 500.
    #[n(7)]
    pub resumable_film_permille: u64,
    /// From where anything is resumable. Default 120 s; at most 1 h.
    #[n(8)]
    pub resumable_ms: u64,
    /// Titles shorter than this have no resume point. Default 300 s; at most 1 h.
    #[n(9)]
    pub short_title_ms: u64,
    /// From which percentage a title without a credits marker is at its end. Default 90; 80 to 95.
    #[n(10)]
    pub watched_percent: u64,
    /// An episode is at its end, too, with less than this left. Default 3 min; at most 1 h.
    #[n(11)]
    pub episode_left_ms: u64,
    /// The percentage of the runtime that must really have been played. Default 50; 0 to 100.
    #[n(12)]
    pub really_watched_percent: u64,
    /// The fastest playback that is believed, in percent of real time. Default 200; 100 to 1000.
    #[n(13)]
    pub speed_percent_max: u64,
    /// How long the loser of two devices' resume points is kept. Default 24 h; at most 30 days.
    #[n(14)]
    pub alternate_ms: u64,
    /// After how long without activity a title leaves the continue-watching row. Default 16 weeks; 1 day to 10 years.
    #[n(15)]
    pub continue_ms: u64,
    /// How long request ids are remembered. Default 24 h; at most 7 days.
    #[n(16)]
    pub request_ms: u64,
    /// How long it is remembered why a view ended. Default 24 h; at most 7 days.
    #[n(17)]
    pub ended_ms: u64,
    /// What holds for an account that has set no policy. Default 4 streams.
    #[n(18)]
    pub policy: StreamPolicy,
    /// By how much of the interval what each device is told may differ, in percent, so that devices which start together don't
    /// report together for ever. Default 10; at most 50.
    #[n(19)]
    #[cbor(default)]
    pub jitter_percent: u64,
}

/// What a shard works by before the first [`UpdateSettings`](super::Command::UpdateSettings) of its log. **These never change**: a
/// log can be replayed from its beginning, by any later build, and has to give the same state. Better defaults for new clusters
/// have to come as a command.
impl Default for Settings {
    fn default() -> Self {
        Self {
            version: 0,
            interval_ms: MINUTE_MS,
            silence_percent: 250,
            comeback_ms: 10 * MINUTE_MS,
            pause_holds_ms: 5 * MINUTE_MS,
            pause_lives_ms: 30 * MINUTE_MS,
            entry_gap_ms: HOUR_MS,
            resumable_film_permille: 30,
            resumable_ms: 2 * MINUTE_MS,
            short_title_ms: 5 * MINUTE_MS,
            watched_percent: 90,
            episode_left_ms: 3 * MINUTE_MS,
            really_watched_percent: 50,
            speed_percent_max: 200,
            alternate_ms: DAY_MS,
            continue_ms: 16 * 7 * DAY_MS,
            request_ms: DAY_MS,
            ended_ms: DAY_MS,
            policy: StreamPolicy::streams(4),
            jitter_percent: 10,
        }
    }
}

impl Settings {
    /// How long a view may be silent whose device was told under `stretch`, in ms.
    pub fn silence_ms(&self, stretch: Stretch) -> u64 {
        stretch.interval_ms(self) * self.silence_percent / 100
    }

    /// When a view's device is to report next: the interval under `stretch`, and a part more or less that only the view and its sequence decide,
    /// so that every replica says the same.
    pub fn told_interval_ms(&self, view: &ViewId, sequence: u64, stretch: Stretch) -> u64 {
        let spread = xxh3_64_with_seed(view.as_str().as_bytes(), sequence) % (2 * self.jitter_percent + 1);
        let percent = (100 + spread).saturating_sub(self.jitter_percent);
        (stretch.interval_ms(self) * percent / 100).clamp(INTERVAL_MS.0, INTERVAL_MS.1)
    }

    /// Checks every figure; the first bad one is named.
    pub fn check(&self) -> Result<(), Rejection> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }

    /// Every figure that is out of its bounds.
    pub fn faults(&self) -> Vec<Rejection> {
        let bounds: [(&str, u64, u64, u64); 19] = [
            ("interval_ms", self.interval_ms, INTERVAL_MS.0, INTERVAL_MS.1),
            // A device that does as it is told is never silent for too long.
            ("silence_percent", self.silence_percent, 150.max(125 + self.jitter_percent.min(50)), 1000),
            ("comeback_ms", self.comeback_ms, 0, DAY_MS),
            ("pause_holds_ms", self.pause_holds_ms, 0, DAY_MS),
            ("pause_lives_ms", self.pause_lives_ms, self.pause_holds_ms, DAY_MS),
            ("entry_gap_ms", self.entry_gap_ms, 0, DAY_MS),
            ("resumable_film_permille", self.resumable_film_permille, 0, 500),
            ("resumable_ms", self.resumable_ms, 0, HOUR_MS),
            ("short_title_ms", self.short_title_ms, 0, HOUR_MS),
            ("watched_percent", self.watched_percent, 80, 95),
            ("episode_left_ms", self.episode_left_ms, 0, HOUR_MS),
            ("really_watched_percent", self.really_watched_percent, 0, 100),
            ("speed_percent_max", self.speed_percent_max, 100, 1000),
            ("alternate_ms", self.alternate_ms, 0, 30 * DAY_MS),
            ("continue_ms", self.continue_ms, DAY_MS, 3650 * DAY_MS),
            ("request_ms", self.request_ms, 0, 7 * DAY_MS),
            ("ended_ms", self.ended_ms, 0, 7 * DAY_MS),
            ("policy.max_streams", u64::from(self.policy.max_streams), 1, u64::from(StreamPolicy::STREAMS_MAX)),
            ("jitter_percent", self.jitter_percent, 0, 50),
        ];
        let bad = bounds.into_iter().filter(|(_, value, least, most)| !(least..=most).contains(&value));
        bad.map(|(field, value, least, most)| {
            Rejection::invalid(field, &format!("is {value}: {least} to {most} is accepted"))
        })
        .collect()
    }
}
