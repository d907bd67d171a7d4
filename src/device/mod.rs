//! A simulator of households and their devices, which plays against a cluster and checks the answers.
//!
//! **Contract.** A [`Fleet`] runs households, each a task with its own seeded random numbers, through [`crate::client`] only,
//! by single calls or by progress streams. What the cluster acknowledged is kept in a ledger; while playing, and after it with
//! [`Played::check`], strong reads are compared with it: active views, positions and sequences, resume points, history, which
//! views a start has replaced, who is named when the stream limit is reached. Every difference is a *mismatch*, counted and
//! described. Each report says a stretch of its own was played, so that one which is lost is missing from the watched time
//! whatever comes after it; [`Fleet::stand_still`] keeps newer writes from hiding older ones.
//!
//! **How people watch** is as measured over nine accounts: plays last 1,200 s in the median and 2,900 s at p90 (log-normal),
//! half of them resume something, 3 % seek back, a second device joins in 5 % of the plays and a third in 0.4 %. Titles are
//! drawn by Zipf's law, with slope 1.1 among a household's favourites and 0.58 over the whole catalogue. Time is compressed: between two
//! reports of a device pass [`Plan::interval`] of real time and [`Plan::step`] of the title.
//!
//! A cluster that is pressed tells devices to report more seldom, and they do: the interval grows by as much as the told one has grown
//! ([`Plan::told`]).
//!
//! **By the clock.** With a [`Pace`] the fleet offers reports at a rate, whatever the cluster answers (an open loop): each
//! household has moments of its own, drawn by the seed, at which a report is due, and the latency of a report counts from then.
//! A household still makes one call at a time, which bounds what is under way to one call a household; what waits behind it is
//! late, counts with its whole wait, and is given up once it is later than [`Pace::late_max`]. Starts and stops go between two
//! reports, in the time that they leave. Without a pace a household waits for each answer, and is asked less by a slow cluster.
//!
//! **Outcomes.** A write that was acknowledged must be there for ever. One whose outcome is unknown is asked again under the
//! same request id or sequence until it is known, for a bounded number of times; what stays unknown is counted apart, and both
//! outcomes are right from then on. One that was unavailable has changed nothing. A view of which the cluster has not heard for nearly
//! as long as its settings allow (its device has vanished, or could reach nobody) may have expired: from then on it may run or not.
//!
//! **Caveats.** Accounts and views are named by the seed: two fleets with one seed on one cluster disturb each other, and the
//! second finds what the first has left; [`Plan::name`] tells them apart. A timer wakes up to a millisecond late, which
//! is in the latencies of reports by the clock. Where the rules of the domain look at the time really watched (watched or completed by
//! seeking), compressed time would decide otherwise than real time, so there the check takes either. A household makes one
//! call at a time.

mod check;
mod fleet;
mod gateway;
mod habits;
mod household;
mod insist;
mod ledger;
mod pace;
mod past;
mod stats;
mod still;

pub use fleet::{Fleet, Played, Report};
pub use pace::{Due, Pace, latencies};
pub use stats::{Snapshot, Stats};

use std::time::Duration;

/// How the devices send their reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One call a report.
    Calls,
    /// Over so many streams of a playback gateway, each with a window of unanswered batches.
    Streams {
        /// Streams, 1 to 256.
        streams: usize,
        /// Batches unanswered on each, 1 to 1,024.
        window: usize,
    },
    /// Every other household in the one way, and the others in the other.
    Both {
        /// Streams, 1 to 256.
        streams: usize,
        /// Batches unanswered on each, 1 to 1,024.
        window: usize,
    },
}

/// What a fleet does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Households, 1 to 100,000. Each has up to three devices of which mostly one plays.
    pub households: usize,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// What the accounts' names begin with, 1 to 64 letters, digits and `-`; the seed and a number follow.
    pub name: String,
    /// Real time between two reports of a device; zero: the next as soon as the last is answered.
    pub interval: Duration,
    /// How much of the title passes between two reports.
    pub step: Duration,
    /// How reports are sent.
    pub way: Way,
    /// How often devices are told to report when nothing presses, by the cluster's settings; see [`Plan::TOLD`]. Told more, they report as
    /// much more seldom.
    pub told: Duration,
    /// How long a view may be silent by the cluster's settings, before it expires; see [`Plan::SILENCE`].
    pub silence: Duration,
    /// The part of the plays, 0 to 1, after which the household is checked by strong reads.
    pub check_share: f64,
    /// Offers reports by the clock; none: a household sends the next one an `interval` after the last was answered.
    pub pace: Option<Pace>,
    /// Whether calendars of nodes may jump meanwhile: then what starts later may have begun earlier by the cluster's word.
    pub calendars_jump: bool,
}

impl Plan {
    /// How often devices are told to report by the settings of a new cluster.
    pub const TOLD: Duration = Duration::from_secs(60);
    /// How long a view may be silent by the settings of a new cluster: two and a half intervals of a minute.
    pub const SILENCE: Duration = Duration::from_secs(150);

    /// So many households that report twice a second by single calls, a quarter of the plays checked.
    pub fn new(households: usize, seed: u64) -> Self {
        Self {
            households,
            seed,
            name: "home".into(),
            interval: Duration::from_millis(500),
            step: Duration::from_secs(60),
            way: Way::Calls,
            told: Self::TOLD,
            silence: Self::SILENCE,
            check_share: 0.25,
            pace: None,
            calendars_jump: false,
        }
    }
}

/// Whether a rejection was decided: where there is no room on a disk nothing is, and there may be room soon.
fn is_decided(rejected: &crate::client::Error) -> bool {
    rejected.reason() != Some(crate::proto::v1::ErrorReason::DiskFull)
}
