//! Placing at full size: how long it takes, what a join and a leave move beside the least that they must, how even it is, and how long it
//! takes to find leads that are even by what shards cost.
//!
//! `cargo run --example placement`, or with `--release`: 1,000 nodes, 4,096 shards, 3 replicas.
#![allow(clippy::disallowed_methods, reason = "it reads the clock, to tell how long it takes")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use playhead::ids::{NodeId, ShardId};
use playhead::plan::balance::{Scene, hottest_permille, leads_by_heat};
use playhead::plan::rollout::{Summary, moves};
use playhead::ring::{Member, Placement, Rules, ShardCount, Slack, place};

const NODES: u64 = 999;

fn main() -> anyhow::Result<()> {
    let count = ShardCount::new(ShardCount::MAX)?;
    println!("{count} shards, 3 replicas. Moved: replicas copied, beside the least that any way must copy.\n");
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "slack",
        "change",
        "place",
        "moves",
        "copies",
        "of least",
        "leads moved",
        "replicas a node",
        "leads a node",
        "max/mean",
        "best by integers",
    ]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for slack in [50, 0] {
        let rules = Rules { slack: Slack::new(slack)?, ..Rules::default() };
        let mut now = Placement::empty(count);
        let steps = [
            ("first", (0..NODES).collect::<Vec<u64>>()),
            ("join", (0..=NODES).collect()),
            ("leave", (0..=NODES).filter(|&node| node != 500).collect()),
        ];
        for (change, nodes) in steps {
            let members: Vec<Member> = nodes.iter().map(|&node| Member::plain(NodeId(node))).collect();
            let begun = Instant::now();
            let target = place(&members, count, rules, &now)?;
            let placed = begun.elapsed();
            let begun = Instant::now();
            let differing = moves(&now, &target, &BTreeSet::new()).len();
            let found = begun.elapsed();
            let summary = Summary::of(&now, &target, |_| 1);
            assert_eq!(summary.shards, differing, "a summary is of all moves");
            let name = format!("{change}: {} nodes", nodes.len());
            table.add_row(row(slack, name, (placed, found), &summary, &target, &nodes));
            now = target;
        }
    }
    println!("{table}");
    by_cost(count)
}

/// How long the leads of a target take that are even by what shards cost, which is by a Zipf law over shards: uneven as few are.
fn by_cost(count: ShardCount) -> anyhow::Result<()> {
    let members: Vec<Member> = (0..=NODES).map(|node| Member::plain(NodeId(node))).collect();
    let rules = Rules::default();
    let target = place(&members, count, rules, &Placement::empty(count))?;
    println!("\nleads by what shards cost, {} nodes; the hottest node beside the mean", members.len());
    for (name, flat) in [("uneven", 500), ("very uneven", 50), ("as uneven as can be", 0)] {
        // In an order that has nothing to do with where shards stand.
        let cost = |shard: ShardId| 1_000_000_000 / (1 + flat + u64::from(shard.0.reverse_bits() >> 20));
        let heat: BTreeMap<ShardId, u64> = count.shards().map(|shard| (shard, cost(shard))).collect();
        let resting = BTreeSet::new();
        let scene = |placement| Scene {
            placement,
            members: &members,
            rules,
            heat: &heat,
            resting: &resting,
            copying: 0,
            acting: false,
        };
        let hottest = |placement| hottest_permille(&scene(placement)) as f64 / 1e3;
        let begun = Instant::now();
        let after = leads_by_heat(&target, &target, &members, rules, &heat);
        let took_ms = begun.elapsed().as_secs_f64() * 1e3;
        let moved =
            target.iter().filter(|(shard, r)| after.get(*shard).is_some_and(|to| to.leader != r.leader)).count();
        let (before, after) = (hottest(&target), hottest(&after));
        println!("  {name:<20} {before:>6.2} -> {after:>6.2}, {moved:>5} leads moved, {took_ms:>8.0} ms");
    }
    Ok(())
}

fn row(
    slack: u32,
    change: String,
    (placed, found): (Duration, Duration),
    summary: &Summary,
    target: &Placement,
    nodes: &[u64],
) -> Vec<String> {
    let (mut held, mut led) = (vec![0u64; nodes.len()], vec![0u64; nodes.len()]);
    let at = |node: NodeId| nodes.binary_search(&node.0).expect("replicas stand on members only");
    for (_, replicas) in target.iter() {
        replicas.nodes.iter().for_each(|&node| held[at(node)] += 1);
        replicas.leader.into_iter().for_each(|node| led[at(node)] += 1);
    }
    let (least, most) = extremes(&held);
    let mean = held.iter().sum::<u64>() as f64 / nodes.len() as f64;
    let (leads_least, leads_most) = extremes(&led);
    vec![
        format!("{} %", f64::from(slack) / 10.0),
        change,
        format!("{:.0} ms", placed.as_secs_f64() * 1e3),
        format!("{:.1} ms", found.as_secs_f64() * 1e3),
        summary.copies.to_string(),
        format!("{:.3}x", summary.bytes as f64 / summary.bytes_least.max(1) as f64),
        summary.leaders.to_string(),
        format!("{least} to {most}"),
        format!("{leads_least} to {leads_most}"),
        format!("{:.3}", most as f64 / mean),
        format!("{:.3}", mean.ceil() / mean),
    ]
}

fn extremes(of: &[u64]) -> (u64, u64) {
    (of.iter().copied().min().unwrap_or(0), of.iter().copied().max().unwrap_or(0))
}
