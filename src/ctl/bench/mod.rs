//! `clusterctl bench`: reports offered to a cluster at a rate, their latencies live, and a verdict.
//!
//! **Contract.** It is an open loop: the clock alone says when a report is due, with jitter by the seed, however slowly the
//! cluster answers, and a latency counts from when its report was due ([`crate::device::Pace`]). That way a cluster that stands
//! still for a second shows a second of latency in every report of that second, not one slow answer ("coordinated omission").
//! What is under way is bounded by one call a household; a report that is later than `--timeout` is given up, counted as such,
//! and stands in the latencies with the time that it had waited. At the end everything acknowledged is read back by strong
//! reads, and the views are ended. Exit code 0: all that was offered was acknowledged, and nothing contradicted.
//!
//! **Caveats.** Its accounts, named `bench-...` with the seed in it, stay in the cluster with their history. Starts and stops
//! of views, about one of each to twenty reports, are done beside the rate. A timer wakes up to a millisecond late, which is in
//! the latencies. It measures with the processors that it runs on: on the machine of the nodes it takes from them.

mod second;
mod summary;

use std::io::Write as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::interrupts::Interrupts;
use super::live::Live;
use super::output::{clock, number};
use super::status::Status;
use super::{Output, connect, settings};
use crate::device::{Due, Fleet, Pace, Plan, Snapshot, Stats, Way, latencies};
use crate::proto::v1;
use crate::time::MonotonicMs;
use second::Second;
use summary::Summary;

/// The longest time between two reports of one household: views that are silent for much longer expire.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The most households where nobody says how many.
const HOUSEHOLDS_MAX: u32 = 20_000;
/// For how long at the end a complaint may pass by itself: nodes say once a second how they are.
const SETTLES: Duration = Duration::from_secs(5);
/// For how long it must be well then.
const WELL_FOR: Duration = Duration::from_millis(1_200);
/// How often it is looked whether all shards are led.
const LEADS_AGAIN: Duration = Duration::from_millis(100);
/// How often it is shown.
const EVERY_MS: u64 = 1_000;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Reports offered a second by the clock, 1 to 1000000, however slowly they are answered: latencies count from when a
    /// report was due
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// For how long they are offered
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = connect::duration)]
    duration: Duration,
    /// How many households take turns, 1 to 100000; as many as reports a second unless said, at most 20000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    households: Option<u32>,
    /// How reports are sent
    #[arg(long, value_enum, default_value_t = By::Calls)]
    way: By,
    /// Decides when each report is due and what is watched
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// How reports are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum By {
    /// One call a report
    Calls,
    /// Gathered into batches over 8 streams
    Streams,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let households = options.households.unwrap_or(options.rate.min(HOUSEHOLDS_MAX)) as usize;
    let pace = Pace { rate: options.rate, duration: options.duration, late_max: context.timeout };
    if pace.interval(households) > INTERVAL_MAX {
        let (rate, most) = (options.rate, u64::from(options.rate) * INTERVAL_MAX.as_secs());
        return Err(Failure::Usage(format!(
            "--households {households} is too many for --rate {rate}: 1 to {most} are accepted"
        )));
    }
    let seed = options.seed.unwrap_or_else(|| context.seed() % 1_000_000);
    let status = led(context).await?;
    if !status.healthy {
        context.note(&format!("degraded before it begins: {}", status.complaints().join("; ")));
    }
    let plan = Plan {
        way: match options.way {
            By::Calls => Way::Calls,
            By::Streams => Way::Streams { streams: 8, window: 16 },
        },
        // What an earlier run with this seed has left is not ours.
        name: format!("bench-{:x}", context.seed() & 0xffff_ffff),
        silence: settings::silence(&context.again()).await?,
        check_share: 0.0,
        pace: Some(pace),
        ..Plan::new(households, seed)
    };
    Bench { context, options, seed, pace, plan, was_healthy: status.healthy }.run().await
}

/// The cluster's status once every shard has a leader, for which it has all of `--timeout`: leads that move are on their way
/// for moments. While some have none, a bench would measure that they have none.
async fn led(context: &Context) -> Result<Status, Failure> {
    loop {
        let status = status(context).await?;
        let (led, shards) = (status.shards_led, status.shards);
        if led >= shards {
            return Ok(status);
        }
        if context.left() < LEADS_AGAIN * 5 {
            return Err(Failure::Degraded(format!("{led} of {shards} shards have a leader; nothing was offered")));
        }
        tokio::time::sleep(LEADS_AGAIN).await;
    }
}

/// What is still not as it should be after [`SETTLES`]: a lead on its way, or a follower that is a moment behind, is no reason
/// to call a cluster degraded. One that `was_healthy` not, before, isn't waited for.
async fn lasting_complaints(context: &Context, was_healthy: bool) -> Vec<String> {
    let now = tokio::time::Instant::now;
    let until = now() + if was_healthy { SETTLES } else { Duration::ZERO };
    let (mut well_since, mut complained) = (None, false);
    loop {
        let complaints = match status(&context.again()).await {
            Ok(status) => status.complaints(),
            Err(failure) => vec![format!("it does not say how it is: {failure}")],
        };
        // Well at the first look is well; after a complaint it has to be for a while.
        well_since = complaints.is_empty().then(|| well_since.unwrap_or_else(now));
        let stays = well_since.is_some_and(|since| !complained || now() - since >= WELL_FOR);
        complained |= !complaints.is_empty();
        if stays || now() >= until {
            return complaints;
        }
        tokio::time::sleep(LEADS_AGAIN).await;
    }
}

/// One run.
struct Bench<'a> {
    context: &'a Context,
    options: Options,
    seed: u64,
    pace: Pace,
    plan: Plan,
    /// Whether all was as it should be when it began.
    was_healthy: bool,
}

impl Bench<'_> {
    async fn run(self) -> Result<(), Failure> {
        let mut interrupts = Interrupts::new()?;
        let fleet = Fleet::start(self.context.client()?, self.context.clock.clone(), self.plan.clone());
        let households = self.plan.households;
        let begun = self.context.clock.monotonic().plus(ms(self.pace.lead(households)));
        self.say(&format!(
            "{} reports a second by the clock for {}, {} households, seed {}",
            number(self.pace.rate.into()),
            clock(i64::try_from(ms(self.pace.duration)).unwrap_or(i64::MAX)),
            number(households as u64),
            self.seed
        ));
        let mut shown = Shown::new(self.context, begun);
        shown.say(second::HEADER)?;
        let watched = self.watch(&fleet.stats(), &mut shown, &mut interrupts).await;
        shown.clear()?;
        let offered_for = watched?;
        self.say("\nreading back what was acknowledged, by strong reads, and ending the views ...");
        let summary = tokio::select! {
            summary = self.end(fleet, shown, offered_for) => summary?,
            () = interrupts.next() => {
                return Err(Failure::error("interrupted again: nothing was read back, and views are still active"));
            }
        };
        self.context.answer(&summary, || summary.text())?;
        summary.verdict()
    }

    /// Shows how it goes until all reports have been offered and answered, or somebody interrupts.
    /// Returns for how long they were offered.
    async fn watch(
        &self,
        stats: &Stats,
        shown: &mut Shown<'_>,
        interrupts: &mut Interrupts,
    ) -> Result<Duration, Failure> {
        let end = shown.begun.plus(ms(self.pace.duration));
        // A household ends the call that it is in, and asks again what is unknown, for longer than that only in a bad state.
        let patience = end.plus(ms(self.context.timeout) * 2);
        loop {
            let now = self.context.clock.monotonic();
            let next = shown.next();
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(next.since(now))) => {}
                () = interrupts.next() => {
                    shown.clear()?;
                    self.context.note("interrupted: what was acknowledged is read back (again: at once)");
                    let lasted = self.context.clock.monotonic().since(shown.begun);
                    return Ok(self.pace.duration.min(Duration::from_millis(lasted)));
                }
            }
            let now = self.context.clock.monotonic();
            let is_over = now >= end && (stats.due().busy == 0 || now >= patience);
            shown.second(stats, now)?;
            if is_over {
                return Ok(self.pace.duration);
            }
        }
    }

    async fn end(&self, fleet: Fleet, mut shown: Shown<'_>, offered_for: Duration) -> Result<Summary, Failure> {
        let mut played = fleet.stop().await;
        let stats = played.stats();
        // What ended since it was shown last.
        shown.take(&stats);
        let report = played.check(&[self.context.client()?]).await;
        let (views_ended, households_left) = played.end_views(&self.context.client()?).await;
        // What was measured is told all the same.
        let complaints = lasting_complaints(self.context, self.was_healthy).await;
        let due = stats.due();
        Ok(Summary {
            seed: self.seed,
            accounts: format!("{}-{:x}-*", self.plan.name, self.seed),
            rate: self.pace.rate,
            seconds: offered_for.as_secs_f64(),
            way: self.options.way,
            due,
            since_due: (&shown.all).into(),
            histogram: summary::bars(&shown.all),
            devices: report,
            views_ended,
            households_left,
            complaints,
        })
    }

    /// Says how far it is, to people.
    fn say(&self, text: &str) {
        if self.context.output == Output::Table {
            let _ = self.context.print(text);
        }
    }
}

/// What is shown while it runs.
struct Shown<'a> {
    context: &'a Context,
    live: Live,
    /// When the first report is due.
    begun: MonotonicMs,
    /// Rows shown.
    rows: u64,
    /// What was counted when the last row was shown.
    before: (Due, Snapshot),
    /// All latencies until then.
    all: Histogram<u64>,
}

impl<'a> Shown<'a> {
    fn new(context: &'a Context, begun: MonotonicMs) -> Self {
        Self { context, live: Live::new(), begun, rows: 0, before: Default::default(), all: latencies() }
    }

    /// When the next row is due.
    fn next(&self) -> MonotonicMs {
        self.begun.plus((self.rows + 1) * EVERY_MS)
    }

    fn take(&mut self, stats: &Stats) -> Histogram<u64> {
        let latest = stats.take_latencies();
        self.all.add(&latest).expect("both have the same bounds");
        latest
    }

    fn second(&mut self, stats: &Stats, now: MonotonicMs) -> Result<(), Failure> {
        let latest = self.take(stats);
        let counted = (stats.due(), stats.snapshot());
        self.rows = (now.since(self.begun) / EVERY_MS).max(self.rows + 1);
        let at = format!("{}s", self.rows);
        let row = Second::new(at, &self.before, &counted, &latest);
        let all = Second::new("all".into(), &Default::default(), &counted, &self.all);
        self.before = counted;
        if self.context.output != Output::Table {
            return Ok(());
        }
        match self.live.in_terminal() {
            true => {
                Ok(self.live.show(&[row.line(), all.line(), String::new(), "ctrl-C ends it, and checks".into()])?)
            }
            false => self.say(&row.line()),
        }
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        match self.context.output {
            Output::Table => Ok(writeln!(std::io::stdout().lock(), "{text}")?),
            Output::Json => Ok(()),
        }
    }

    fn clear(&mut self) -> Result<(), Failure> {
        Ok(self.live.clear()?)
    }
}

/// How the cluster is.
async fn status(context: &Context) -> Result<Status, Failure> {
    let admin = context.admin()?;
    Ok(Status::from(context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
