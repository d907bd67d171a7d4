//! Many households at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gateway::Reporter;
use super::household::{Household, Surroundings};
use super::pace::Dues;
use super::stats::{Snapshot, Stats};
use super::still::Turn;
use super::{Plan, Way};
use crate::client::Client;
use crate::time::Clock;

/// The most households of a fleet.
const HOUSEHOLDS_MAX: usize = 100_000;
/// Households checked at once.
const CHECKS: usize = 32;
/// How often a household is asked for at the end until it answers.
const CHECK_ATTEMPTS_MAX: usize = 10;

/// Households that play.
#[derive(Debug)]
pub struct Fleet {
    pub(super) around: Arc<Surroundings>,
    pub(super) turns: watch::Sender<Turn>,
    households: JoinSet<Household>,
}

/// Households that have played, and still know what was acknowledged.
#[derive(Debug)]
pub struct Played {
    around: Arc<Surroundings>,
    households: Vec<Household>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Households that played.
    pub households: usize,
    /// Of those, how many could be read completely at the end.
    pub households_checked: usize,
    /// Of those, how many had a start or stop until the end of which nobody learned what came of it: their active views
    /// could not be compared.
    pub households_blind: usize,
    /// All counters.
    #[serde(flatten)]
    pub counters: Snapshot,
}

impl Report {
    /// Something was acknowledged, everything could be read at the end, and nothing was contradicted.
    pub fn is_right(&self) -> bool {
        let counters = &self.counters;
        counters.mismatches == 0 && self.households_checked == self.households && counters.reports_acknowledged > 0
    }
}

/// The ways to the cluster, which the households take in turn.
fn reporters(client: &Client, way: Way) -> Vec<Reporter> {
    let calls = || Reporter::Calls(client.clone());
    let stream = |window| Reporter::stream(client, window);
    match way {
        Way::Calls => vec![calls()],
        Way::Streams { streams, window } => (0..streams.clamp(1, 256)).map(|_| stream(window)).collect(),
        Way::Both { streams, window } => (0..streams.clamp(1, 256)).flat_map(|_| [calls(), stream(window)]).collect(),
    }
}

impl Fleet {
    /// Starts to play; the client's deadline is the patience of the devices.
    pub fn start(client: Client, clock: Arc<dyn Clock>, plan: Plan) -> Self {
        let reporters = reporters(&client, plan.way);
        let count = plan.households.clamp(1, HOUSEHOLDS_MAX);
        let (plan, begun) = (Plan { households: count, ..plan }, Instant::now());
        let (stats, stop) = (Arc::new(Stats::new()), CancellationToken::new());
        let (turns, turn) = watch::channel(Turn::default());
        let checking = Semaphore::new(CHECKS);
        let around = Arc::new(Surroundings { client, clock, plan, stats, stop, turn, checking });
        let mut households = JoinSet::new();
        for number in 0..count {
            let reporter = reporters[number % reporters.len()].clone();
            let household = Household::new(number, around.clone(), reporter);
            match around.plan.pace {
                None => households.spawn(household.live()),
                Some(pace) => {
                    // Other random numbers than those by which the household plays.
                    let rng = StdRng::seed_from_u64(!around.plan.seed ^ number as u64);
                    around.stats.timing.is_busy(true);
                    households.spawn(household.live_by_the_clock(Dues::new(&pace, count, rng), pace, begun))
                }
            };
        }
        Self { around, turns, households }
    }

    /// Plays for so long, and checks everything at the end through this client.
    pub async fn run(client: Client, clock: Arc<dyn Clock>, plan: Plan, duration: Duration) -> Report {
        let fleet = Self::start(client.clone(), clock, plan);
        tokio::time::sleep(duration).await;
        fleet.stop().await.check(&[client]).await
    }

    /// What is counted, readable while it plays.
    pub fn stats(&self) -> Arc<Stats> {
        self.around.stats.clone()
    }

    /// Lets every household end the call that it is in, and stops. Views stay active.
    pub async fn stop(mut self) -> Played {
        self.around.stop.cancel();
        let mut households = Vec::new();
        while let Some(household) = self.households.join_next().await {
            match household {
                Ok(household) => households.push(household),
                Err(e) => self.around.stats.mismatch(format!("a household has ended badly: {e}")),
            }
        }
        Played { around: self.around, households }
    }
}

impl Played {
    /// What is counted.
    pub fn stats(&self) -> Arc<Stats> {
        self.around.stats.clone()
    }

    /// Compares every acknowledged write with strong reads, the households in turn through each of these clients.
    pub async fn check(&mut self, clients: &[Client]) -> Report {
        let checks = self.households.iter_mut().enumerate().map(|(number, household)| async move {
            for attempt in 0..CHECK_ATTEMPTS_MAX {
                let Some(client) = clients.get((number + attempt) % clients.len().max(1)) else { return false };
                match household.check_all(client).await {
                    Ok(_) => return true,
                    Err(_) => household.around.stats.unavailable(),
                }
            }
            household.mismatch("could not be read at the end".into());
            false
        });
        let checked: Vec<bool> = stream::iter(checks).buffer_unordered(CHECKS).collect().await;
        let blind = self.households.iter().filter(|household| household.ledger.views_uncertain());
        Report {
            households_blind: blind.count(),
            households: self.households.len(),
            households_checked: checked.into_iter().filter(|checked| *checked).count(),
            counters: self.around.stats.snapshot(),
        }
    }

    /// By shard, the node whose replica has answered everything in the last check, of all its households; none where there was
    /// more than one. Only shards that have households.
    pub fn served_by(&self) -> BTreeMap<u32, Option<String>> {
        let mut shards: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for household in &self.households {
            let (shard, by) = household.served.lock().clone();
            shards.entry(shard).or_default().extend(by);
        }
        shards.into_iter().map(|(shard, mut by)| (shard, by.pop_first().filter(|_| by.is_empty()))).collect()
    }

    /// Ends every view that is still active: (how many were ended, how many households could not be asked).
    pub async fn end_views(&self, client: &Client) -> (u64, u64) {
        let ends = self.households.iter().map(|household| household.end_views(client));
        let ended: Vec<_> = stream::iter(ends).buffer_unordered(CHECKS).collect().await;
        let failed = ended.iter().filter(|ended| ended.is_err()).count();
        (ended.into_iter().flatten().sum(), failed as u64)
    }
}
