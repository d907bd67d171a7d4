//! What `cargo bench --bench heat` asks of real nodes, of the meta state alone: 100,000 accounts by a Zipf law, counted and averaged each
//! second, with the chance that lies in it. How hot the hottest node comes out, by cost and by requests, on any seed.

use super::heat::{Random, leads, seen};
use super::*;
use crate::ids::AccountId;
use crate::node::rollout::heat::{Balance, Costs, Times};
use crate::plan::balance::{averaged, cost_over};
use crate::ring::Token;

/// As in the bench.
const TIMES: Times = Times { average_ms: 12_000, look_ms: 2_000, rest_ms: 10_000 };
const NODES: usize = 5;
const OF_ZIPF: u32 = 64;
const ACCOUNTS: usize = 100_000;
const EVENT: std::ops::Range<usize> = 200..206;
const EVENT_SHARE: f64 = 0.6;
/// Of a report in the log, about.
const BYTES: u64 = 150;
const SECONDS_A_ROW: usize = 15;

/// How hot the hottest node may be.
const BAR: f64 = 1.15;

/// What is asked of each shard: parts of everything, and its accounts by their parts.
struct Offered {
    accounts: Vec<(usize, f64)>,
    parts: Vec<f64>,
    event: Vec<f64>,
}

impl Offered {
    fn new() -> Self {
        let count = ShardCount::new(OF_ZIPF).unwrap();
        let shard = |rank: usize| {
            count.shard_of(Token::of(&AccountId::new(format!("member-{rank:06}").as_str()).unwrap())).0 as usize
        };
        let part = |rank: usize| ((rank + 1) as f64).powf(-0.99);
        let sum: f64 = (0..ACCOUNTS).map(part).sum();
        let accounts: Vec<(usize, f64)> = (0..ACCOUNTS).map(|rank| (shard(rank), part(rank) / sum)).collect();
        let (mut parts, mut event) = (vec![0.0; OF_ZIPF as usize], vec![0.0; OF_ZIPF as usize]);
        accounts.iter().for_each(|(shard, part)| parts[*shard] += part);
        EVENT.for_each(|rank| event[accounts[rank].0] += EVENT_SHARE / EVENT.len() as f64);
        Self { accounts, parts, event }
    }

    /// Views of each shard after so many requests: accounts that were asked for once at least.
    fn views(&self, requests: f64) -> Vec<u64> {
        let mut views = vec![0.0; OF_ZIPF as usize];
        self.accounts.iter().for_each(|(shard, part)| views[*shard] += 1.0 - (-part * requests).exp());
        views.into_iter().map(|views| views as u64).collect()
    }
}

/// A cluster that is asked for it.
struct Cluster<'a> {
    offered: &'a Offered,
    /// By tens of seconds.
    views: &'a [Vec<u64>],
    rate: f64,
    random: Random,
    meta: MetaState,
    balance: Balance,
    second: usize,
    event: bool,
    by_heat: bool,
    /// What each shard costs, and for how long that was measured.
    heat: Vec<(u64, u64)>,
    /// Since the row began.
    requests: BTreeMap<NodeId, u64>,
    moved: usize,
}

impl Cluster<'_> {
    /// About as many as are due.
    fn chance(&mut self, mean: f64) -> u64 {
        let unit = |random: &mut Random| (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let bell: f64 = (0..12).map(|_| unit(&mut self.random)).sum::<f64>() - 6.0;
        (mean + mean.sqrt() * bell).round().max(0.0) as u64
    }

    fn second(&mut self) {
        self.second += 1;
        let views = &self.views[(self.second / 10).min(self.views.len() - 1)];
        let led = leads(&self.meta);
        for shard in 0..OF_ZIPF as usize {
            let part = self.offered.parts[shard] + if self.event { self.offered.event[shard] } else { 0.0 };
            let requests = self.chance(self.rate * part);
            *self.requests.entry(led[&ShardId(shard as u32)]).or_default() += requests;
            let cost = cost_over(requests, requests * BYTES, views[shard], 1_000);
            let (old, measured_ms) = self.heat[shard];
            self.heat[shard] =
                (averaged(old, cost, 1_000, measured_ms.min(TIMES.average_ms)), measured_ms.saturating_add(1_000));
        }
        if self.by_heat {
            self.look();
        }
    }

    fn look(&mut self) {
        let known = self.heat.iter().all(|(_, measured_ms)| *measured_ms >= TIMES.measured_ms());
        let costs: Costs = (0..).map(ShardId).zip(self.heat.iter().map(|(cost, _)| cost + 250)).collect();
        let seen = Seen { costs: known.then(|| costs.clone()), ..seen(&self.meta, &costs) };
        let now = MonotonicMs(1_000 * self.second as u64);
        let Some(moves) = self.balance.look(&self.meta, &seen, now) else { return };
        done(&mut self.meta, moves.command.clone());
        self.balance.moved(&moves, now);
        self.moved += moves.leads.len();
        // Who leads since now has measured nothing.
        moves.leads.iter().for_each(|(shard, ..)| self.heat[shard.0 as usize] = (0, 0));
    }

    fn seconds(&mut self, seconds: usize) {
        (0..seconds).for_each(|_| self.second());
    }

    /// Until no lead has moved for a while, as the bench waits.
    fn balanced(&mut self) {
        self.seconds(12);
        let mut quiet = 0;
        for _ in 0..28 {
            let moved = self.moved;
            self.second();
            quiet = if self.moved == moved { quiet + 1 } else { 0 };
            if quiet == 9 {
                return;
            }
        }
    }

    /// The hottest node's part by cost and by requests, of a row in which no lead moves.
    fn row(&mut self) -> (f64, f64) {
        for _ in 0..4 {
            let moved = self.moved;
            self.requests.clear();
            self.seconds(SECONDS_A_ROW);
            if self.moved == moved {
                break;
            }
        }
        let mut costs: BTreeMap<NodeId, u64> = BTreeMap::new();
        let leads = leads(&self.meta);
        leads.iter().for_each(|(shard, lead)| *costs.entry(*lead).or_default() += self.heat[shard.0 as usize].0);
        let peak = |loads: &BTreeMap<NodeId, u64>| {
            let (most, sum) = (*loads.values().max().unwrap(), loads.values().sum::<u64>());
            most as f64 * NODES as f64 / sum as f64
        };
        (peak(&costs), peak(&self.requests))
    }
}

/// Of a node that has led the meta group since before anything was asked.
fn led_for_long() -> Balance {
    let mut balance = Balance::new(TIMES);
    assert_eq!(balance.look(&MetaState::default(), &Seen::default(), MonotonicMs(0)), None);
    balance
}

#[test]
fn leads_hold_the_bar_by_cost_and_by_requests_in_an_event_and_after_it_on_any_seed() {
    let offered = Offered::new();
    for rate in [2_000.0, 1_000.0] {
        let views: Vec<Vec<u64>> = (0..24).map(|tens| offered.views(rate * 10.0 * f64::from(tens))).collect();
        for seed in 0..20 {
            let mut random = Random(seed);
            let nodes: Vec<u64> = (0..NODES).map(|_| random.next()).collect();
            let mut cluster = Cluster {
                offered: &offered,
                views: &views,
                rate,
                random,
                meta: founded_of(&nodes, OF_ZIPF, 5),
                balance: led_for_long(),
                second: 0,
                event: false,
                by_heat: false,
                heat: vec![(0, 0); OF_ZIPF as usize],
                requests: BTreeMap::new(),
                moved: 0,
            };
            cluster.seconds(30);
            cluster.event = true;
            cluster.seconds(12);
            let by_number = cluster.row();
            cluster.by_heat = true;
            cluster.balanced();
            let event = cluster.row();
            cluster.event = false;
            cluster.balanced();
            let after = cluster.row();
            let told =
                format!("seed {seed} at {rate}: {by_number:.3?} {event:.3?} {after:.3?}, {} moved", cluster.moved);
            println!("{told}");
            assert!([event.0, event.1, after.0, after.1].into_iter().all(|peak| peak <= BAR), "{told}");
        }
    }
}
