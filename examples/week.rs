//! A simulated week of a streaming service: how evenly five nodes are loaded, by `mod N`, by the plain ring, by Playhead's
//! placement, and by Playhead with leads moved by measured heat (`plan::balance`, the real one, every ten seconds).
//!
//! `cargo run --example week` prints a table; `-- --picture docs/week.svg` draws it. No clock, no random numbers but by the
//! seed below: the same every time. What is simulated is told in `docs/balance.md`.

#[path = "../benches/overload/svg.rs"]
#[allow(unreachable_pub, reason = "shared with a program of several modules")]
mod svg;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use playhead::ids::{AccountId, NodeId, ShardId};
use playhead::plan::balance::{Heat, Scene, Shift, Tuning, averaged, look};
use playhead::ring::{Member, Placement, Ring, Rules, ShardCount, Token, place};
use svg::{begin, curve, dots, line, text};

const NODES: usize = 5;
const ACCOUNTS: usize = 100_000;
/// Of the Zipf law that accounts are used by.
const ZIPF_S: f64 = 0.99;
/// Requests a second of the whole service, on the average of a week without the event.
const REQUESTS: f64 = 20_000.0;
/// Bytes of a request and its answer.
const BYTES: f64 = 600.0;
/// A view that runs reports once a minute.
const VIEWS_PER_REQUEST: f64 = 60.0;

const LOOK_S: usize = 10;
const LOOKS: usize = 7 * 24 * 3600 / LOOK_S;
/// Heat is averaged over so long.
const AVERAGE_MS: u64 = 60_000;
/// A shard that moved rests for so long.
const REST_S: usize = 300;
/// A replica is copied for so long before it can lead.
const COPY_S: usize = 120;
/// Looks that are drawn as one point.
const BIN: usize = 90;

/// Saturday evening, from and to; the event comes and goes over a quarter of an hour.
const EVENT_H: (f64, f64) = (5.0 * 24.0 + 19.5, 5.0 * 24.0 + 22.0);
/// Accounts that the event makes hot: venues, bars, sets in public places. Not the largest anyway.
const EVENT_ACCOUNTS: std::ops::Range<usize> = 200..206;
/// What they add, as a part of the average of the whole service.
const EVENT_SHARE: f64 = 0.6;

/// When an account is used: hours of the highest use, its width in hours, and how much there is besides. The part of the
/// accounts that are so.
const HABITS: [(f64, f64, f64, f64); 4] =
    [(21.0, 2.6, 0.18, 0.55), (16.0, 3.0, 0.10, 0.2), (1.0, 2.5, 0.12, 0.1), (12.0, 9.0, 0.6, 0.15)];

#[derive(Parser)]
struct Flags {
    /// Where to draw it.
    #[arg(long)]
    picture: Option<PathBuf>,
}

/// How hot each of a number of things is, by habit and in the event.
#[derive(Clone)]
struct Use {
    by_habit: Vec<[f64; HABITS.len()]>,
    event: Vec<f64>,
}

impl Use {
    fn of(things: usize) -> Self {
        Self { by_habit: vec![[0.0; HABITS.len()]; things], event: vec![0.0; things] }
    }
}

/// A way of choosing who leads an account, and what became of it.
struct Way {
    name: &'static str,
    colour: &'static str,
    /// Max/mean of the nodes' loads at every look.
    peaks: Vec<f64>,
}

impl Way {
    fn new(name: &'static str, colour: &'static str) -> Self {
        Self { name, colour, peaks: Vec::with_capacity(LOOKS) }
    }

    fn note(&mut self, loads: &[f64; NODES]) {
        let sum: f64 = loads.iter().sum();
        self.peaks.push(loads.iter().copied().fold(0.0, f64::max) * NODES as f64 / sum);
    }

    fn mean(&self, looks: std::ops::Range<usize>) -> f64 {
        self.peaks[looks.clone()].iter().sum::<f64>() / looks.len() as f64
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.peaks.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * part) as usize]
    }

    fn above(&self, bound: f64) -> f64 {
        self.peaks.iter().filter(|&&peak| peak > bound).count() as f64 * 100.0 / self.peaks.len() as f64
    }
}

/// The balancer at work.
struct Balancer {
    members: Vec<Member>,
    placement: Placement,
    averages: BTreeMap<ShardId, u64>,
    moved_at: BTreeMap<ShardId, usize>,
    /// Replicas under way: the look at which they are there.
    copies: Vec<usize>,
    acting: bool,
    leads: usize,
    replicas: usize,
    /// How many moves there were up to each look.
    moved: Vec<usize>,
}

impl Balancer {
    fn new(members: &[Member], placement: &Placement) -> Self {
        Self {
            members: members.to_vec(),
            placement: placement.clone(),
            averages: BTreeMap::new(),
            moved_at: BTreeMap::new(),
            copies: Vec::new(),
            acting: false,
            leads: 0,
            replicas: 0,
            moved: Vec::with_capacity(LOOKS),
        }
    }

    fn look(&mut self, at: usize, requests: &[f64]) {
        for (shard, &requests) in (0..).map(ShardId).zip(requests) {
            let heat = Heat {
                requests_per_s: requests as u64,
                bytes_per_s: (requests * BYTES) as u64,
                active_views: (requests * VIEWS_PER_REQUEST) as u64,
            };
            let average = self.averages.entry(shard).or_insert(heat.cost());
            *average = averaged(*average, heat.cost(), LOOK_S as u64 * 1000, AVERAGE_MS);
        }
        self.copies.retain(|&there| there > at);
        self.moved_at.retain(|_, moved| *moved + REST_S / LOOK_S > at);
        let resting: BTreeSet<ShardId> = self.moved_at.keys().copied().collect();
        let verdict = look(
            &Scene {
                placement: &self.placement,
                members: &self.members,
                rules: Rules::default(),
                heat: &self.averages,
                resting: &resting,
                copying: self.copies.len(),
                acting: self.acting,
            },
            &Tuning::default(),
        );
        for shift in &verdict.shifts {
            let (Shift::Lead { shard, .. } | Shift::Replica { shard, .. }) = *shift;
            self.moved_at.insert(shard, at);
            match shift {
                Shift::Lead { .. } => self.leads += 1,
                Shift::Replica { .. } => {
                    self.replicas += 1;
                    self.copies.push(at + COPY_S / LOOK_S);
                }
            }
        }
        self.moved.push(self.leads + self.replicas);
        (self.placement, self.acting) = (verdict.placement, verdict.acting);
    }
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let count = ShardCount::DEFAULT;
    let members: Vec<Member> = (0..NODES as u64).map(|node| Member::plain(NodeId(node))).collect();
    let (shards, modulo) = population(count)?;
    let ring = Ring::new(&members);
    let first: Vec<usize> = count.shards().map(|shard| ring.preference(shard, count)[0].0 as usize).collect();
    let placed = place(&members, count, Rules::default(), &Placement::empty(count))?;
    let mut balancer = Balancer::new(&members, &placed);
    let mut ways = [
        Way::new("mod N", "#b35806"),
        Way::new("plain ring", "#7b3294"),
        Way::new("placement alone", "#2166ac"),
        Way::new("placement and heat", "#1b7837"),
    ];
    let mut offered = Vec::with_capacity(LOOKS);
    let mut random = 1u64;
    for at in 0..LOOKS {
        let hours = (at * LOOK_S) as f64 / 3600.0;
        let requests: Vec<f64> = at_hour(&shards, hours).into_iter().map(|r| r * noise(&mut random)).collect();
        ways[0].note(&at_hour(&modulo, hours).try_into().expect("one number a node"));
        ways[1].note(&by(&requests, |shard| first[shard]));
        ways[2].note(&by(&requests, |shard| leader(&placed, shard)));
        ways[3].note(&by(&requests, |shard| leader(&balancer.placement, shard)));
        offered.push(requests.iter().sum::<f64>());
        balancer.look(at, &requests);
    }
    print(&ways, &balancer);
    if let Some(path) = flags.picture {
        std::fs::write(path, draw(&ways, &offered, &balancer))?;
    }
    Ok(())
}

/// How hot every shard is, and every node of `mod N`.
fn population(count: ShardCount) -> anyhow::Result<(Use, Use)> {
    let (mut shards, mut modulo) = (Use::of(count.get() as usize), Use::of(NODES));
    let all: f64 = (1..=ACCOUNTS).map(|rank| (rank as f64).powf(-ZIPF_S)).sum();
    for rank in 1..=ACCOUNTS {
        let token = Token::of(&AccountId::new(format!("account-{rank}"))?);
        let requests = (rank as f64).powf(-ZIPF_S) / all * REQUESTS;
        // Bits of the token that neither the shard nor the remainder depend on much.
        let mut at = (token.0 >> 20) as u16 as f64 / f64::from(u16::MAX);
        let habit = HABITS.iter().position(|habit| {
            at -= habit.3;
            at <= 0.0
        });
        let hot =
            if EVENT_ACCOUNTS.contains(&rank) { EVENT_SHARE * REQUESTS / EVENT_ACCOUNTS.len() as f64 } else { 0.0 };
        let places =
            [(&mut shards, count.shard_of(token).0 as usize), (&mut modulo, (token.0 % NODES as u64) as usize)];
        for (of, place) in places {
            of.by_habit[place][habit.unwrap_or(0)] += requests;
            of.event[place] += hot;
        }
    }
    Ok((shards, modulo))
}

/// Requests a second at an hour of the week.
fn at_hour(of: &Use, hours: f64) -> Vec<f64> {
    let weekend = 1.0 + 0.25 * ((hours - (5.0 * 24.0 - 6.0)) / 12.0).clamp(0.0, 1.0);
    let now = HABITS.map(|habit| weekend * diurnal(habit, hours % 24.0));
    let ramp = |since: f64| (since / 0.25).clamp(0.0, 1.0);
    let event = ramp(hours - EVENT_H.0) * ramp(EVENT_H.1 + 0.25 - hours);
    let one = |(by_habit, hot): (&[f64; HABITS.len()], &f64)| {
        by_habit.iter().zip(now).map(|(requests, now)| requests * now).sum::<f64>() + hot * event
    };
    of.by_habit.iter().zip(&of.event).map(one).collect()
}

/// How much of its average a habit is used at an hour of the day.
fn diurnal((peak, width, rest, _): (f64, f64, f64, f64), hour: f64) -> f64 {
    let away = |hour: f64| {
        let far = (hour - peak).abs();
        far.min(24.0 - far)
    };
    let bell = |hour: f64| (-(away(hour) / width).powi(2) / 2.0).exp() + rest;
    let average = (0..96).map(|quarter| bell(f64::from(quarter) / 4.0)).sum::<f64>() / 96.0;
    bell(hour) / average
}

/// Within a tenth up or down.
fn noise(random: &mut u64) -> f64 {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    0.9 + 0.2 * ((*random >> 33) as f64 / f64::from(1u32 << 31))
}

fn leader(placement: &Placement, shard: usize) -> usize {
    let replicas = placement.get(ShardId(shard as u32)).expect("every shard is placed");
    replicas.leader.expect("every placed shard has a leader").0 as usize
}

fn by(requests: &[f64], node: impl Fn(usize) -> usize) -> [f64; NODES] {
    let mut loads = [0.0; NODES];
    requests.iter().enumerate().for_each(|(shard, requests)| loads[node(shard)] += requests);
    loads
}

fn event_looks() -> std::ops::Range<usize> {
    let at = |hours: f64| (hours * 3600.0) as usize / LOOK_S;
    at(EVENT_H.0)..at(EVENT_H.1)
}

fn print(ways: &[Way], balancer: &Balancer) {
    println!("{NODES} nodes, {} shards, {ACCOUNTS} accounts, Zipf {ZIPF_S}: the leads' load, max/mean over nodes", 64);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "by",
        "mean of the week",
        "p99",
        "highest",
        "mean of the event",
        "above 1.15, % of the week",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for way in ways {
        table.add_row([
            way.name.to_string(),
            format!("{:.3}", way.mean(0..LOOKS)),
            format!("{:.3}", way.quantile(0.99)),
            format!("{:.3}", way.quantile(1.0)),
            format!("{:.3}", way.mean(event_looks())),
            format!("{:.2}", way.above(1.15)),
        ]);
    }
    println!("{table}");
    let before = balancer.moved[event_looks().start - 1];
    let first_hour = balancer.moved[3600 / LOOK_S];
    let event = balancer.moved[event_looks().end + 3600 / LOOK_S] - before;
    let above = |peaks: &[f64]| peaks.iter().filter(|&&peak| peak > 1.15).count() * LOOK_S;
    let peaks = &ways[3].peaks;
    println!(
        "by heat: above 1.15 for {} s, {} of them in the first half hour, {} in the event",
        above(peaks),
        above(&peaks[..1800 / LOOK_S]),
        above(&peaks[event_looks()])
    );
    println!(
        "moved: {} leads and {} replicas in the week; {first_hour} of them in the first hour, {event} in the event and the hour after",
        balancer.leads, balancer.replicas
    );
}

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 760.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 820.0;
/// Top and bottom of the three panels.
const BALANCE: (f64, f64) = (80.0, 400.0);
const OFFERED: (f64, f64) = (450.0, 560.0);
const MOVED: (f64, f64) = (610.0, 700.0);
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

fn x(look: f64) -> f64 {
    LEFT + look / LOOKS as f64 * (RIGHT - LEFT)
}

fn draw(ways: &[Way], offered: &[f64], balancer: &Balancer) -> String {
    let mut svg = begin(WIDTH, HEIGHT);
    text(
        &mut svg,
        (LEFT, 28.0),
        "start",
        17,
        "A week on five nodes: how much more the busiest node does than the mean",
    );
    let about =
        "simulated: 64 shards, 100,000 accounts by Zipf 0.99, live event on Saturday evening; means of 15 minutes";
    text(&mut svg, (LEFT, 48.0), "start", 12, about);
    let most = ways.iter().map(|way| binned(&way.peaks).fold(0.0, f64::max)).fold(0.0, f64::max);
    let top = (most * 5.0).ceil() / 5.0;
    let y = |peak: f64| BALANCE.1 - (peak - 1.0) / (top - 1.0) * (BALANCE.1 - BALANCE.0);
    panel(&mut svg, BALANCE, "load of the busiest node / mean of the nodes");
    for tick in 0..=((top - 1.0) * 5.0).round() as usize {
        let value = 1.0 + tick as f64 / 5.0;
        ruled(&mut svg, y(value), &format!("{value:.1}"));
    }
    line(&mut svg, (LEFT, y(1.15)), (RIGHT, y(1.15)), "#cc0000", 1.0);
    text(&mut svg, (RIGHT + 8.0, y(1.15) + 4.0), "start", 12, "1.15");
    for way in ways {
        let points = binned(&way.peaks).enumerate().map(|(bin, peak)| (x((bin * BIN) as f64), y(peak)));
        curve(&mut svg, points, way.colour);
    }
    for (nth, way) in ways.iter().enumerate() {
        let at = BALANCE.0 + 10.0 + 34.0 * nth as f64;
        line(&mut svg, (RIGHT + 12.0, at - 4.0), (RIGHT + 32.0, at - 4.0), way.colour, 2.0);
        text(&mut svg, (RIGHT + 38.0, at), "start", 12, way.name);
        text(&mut svg, (RIGHT + 38.0, at + 14.0), "start", 11, &format!("mean {:.2}", way.mean(0..LOOKS)));
    }
    lower(&mut svg, OFFERED, "offered, thousand requests a second", offered, 1000.0, "#000000");
    let moved: Vec<f64> = balancer.moved.iter().map(|&moved| moved as f64).collect();
    lower(&mut svg, MOVED, "leads and replicas moved by heat, so far", &moved, 1.0, "#1b7837");
    for (day, name) in DAYS.iter().enumerate() {
        let middle = x((day as f64 + 0.5) * LOOKS as f64 / 7.0);
        text(&mut svg, (middle, MOVED.1 + 22.0), "middle", 12, name);
    }
    text(&mut svg, ((LEFT + RIGHT) / 2.0, HEIGHT - 12.0), "middle", 12, "time, days from midnight to midnight");
    svg.push_str("</svg>\n");
    svg
}

fn binned(values: &[f64]) -> impl Iterator<Item = f64> + '_ {
    values.chunks(BIN).map(|bin| bin.iter().sum::<f64>() / bin.len() as f64)
}

fn ruled(svg: &mut String, at: f64, label: &str) {
    line(svg, (LEFT, at), (RIGHT, at), "#dddddd", 1.0);
    text(svg, (LEFT - 8.0, at + 4.0), "end", 12, label);
}

/// A panel with the days, and when the event was.
fn panel(svg: &mut String, (top, bottom): (f64, f64), what: &str) {
    text(svg, (LEFT, top - 10.0), "start", 13, what);
    line(svg, (LEFT, bottom), (RIGHT, bottom), "#000000", 1.0);
    line(svg, (LEFT, top), (LEFT, bottom), "#000000", 1.0);
    for day in 1..=7 {
        let at = x(f64::from(day) * LOOKS as f64 / 7.0);
        line(svg, (at, top), (at, bottom), "#eeeeee", 1.0);
    }
    let event = event_looks();
    for edge in [event.start, event.end] {
        dots(svg, vec![(x(edge as f64), top), (x(edge as f64), bottom)], "#888888");
    }
    text(svg, (x(event.start as f64) - 4.0, top + 10.0), "end", 11, "event");
}

fn lower(svg: &mut String, place: (f64, f64), what: &str, values: &[f64], unit: f64, colour: &str) {
    panel(svg, place, what);
    let most = values.iter().copied().fold(0.0, f64::max) / unit;
    let tick = [5.0, 10.0, 20.0, 50.0, 100.0].into_iter().find(|tick| most <= tick * 3.5).unwrap_or(most);
    let top = (most / tick).ceil() * tick;
    let y = |value: f64| place.1 - value / top * (place.1 - place.0);
    for nth in 0..=(top / tick) as usize {
        let value = nth as f64 * tick;
        ruled(svg, y(value), &format!("{value:.0}"));
    }
    let points = binned(values).enumerate().map(|(bin, value)| (x((bin * BIN) as f64), y(value / unit)));
    curve(svg, points, colour);
}
