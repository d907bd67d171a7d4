use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::model::Top;
use super::*;
use crate::time::WallMs;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn node(name: &str, reports: u64) -> v1::NodeStatus {
    v1::NodeStatus {
        node: name.into(),
        intent: v1::NodeIntent::Active.into(),
        liveness: v1::NodeLiveness::Alive.into(),
        generation: 1,
        shards_led: 3,
        replicas: 8,
        replicas_wanted: 8,
        reports_acknowledged: reports,
        commands_acknowledged: reports + 10,
        command_p50_us: 900,
        command_p99_us: 12_345,
        active_views: 1_234,
        log_bytes: 128 << 20,
        ..Default::default()
    }
}

/// Eight shards of three replicas as told at `second`, of which shard s has done `revision(s)` commands.
fn look(second: i64, revision: impl Fn(u32) -> u64) -> Look {
    let cluster = v1::ClusterStatus {
        cluster_id: "c".into(),
        epoch: 3,
        shards: 8,
        shards_led: 8,
        replicas: 24,
        replicas_wanted: 24,
        replicas_current: 24,
        active_views: 3_702,
        meta_leader: "n1".into(),
        meta_term: 2,
        ..Default::default()
    };
    let told = Some(prost_types::Timestamp { seconds: second, nanos: 0 });
    let reports = u64::try_from(second).unwrap_or_default() * 1_000;
    let answer = v1::GetClusterStatusResponse {
        cluster: Some(cluster),
        nodes: NODES.map(|name| v1::NodeStatus { report_time: told, ..node(name, reports) }).to_vec(),
        answered_by: "n2".into(),
        as_of_time: None,
    };
    let shard = |number: u32| {
        let leader = NODES[number as usize % 3];
        let replica = |(at, name): (usize, &str)| v1::ReplicaStatus {
            replica_id: u64::from(number) * 10 + at as u64,
            node: name.into(),
            role: if name == leader { v1::ReplicaRole::Leader } else { v1::ReplicaRole::Follower }.into(),
            voter: true,
            report_time: told,
            ..Default::default()
        };
        let mut placement = vec![leader.to_string()];
        placement.extend(NODES.iter().filter(|name| **name != leader).map(ToString::to_string));
        Shard::from(v1::ShardStatus {
            shard: number,
            leader: leader.into(),
            revision: revision(number),
            active_views: 463,
            replicas: NODES.into_iter().enumerate().map(replica).collect(),
            placement,
            ..Default::default()
        })
    };
    Look { status: Status::from(answer), shards: (0..8).map(shard).collect() }
}

fn drawn(top: &Top, width: u16, height: u16) -> String {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    draw::screen(top, area, &mut buffer, "every 2 s   q quits   p holds");
    draw::text_of(&buffer)
}

/// 100 seconds in, shard 5 four times as hot as the others.
fn busy() -> (Model, Top) {
    let mut model = Model::default();
    model.take(look(100, |_| 5_000), WallMs(100_000));
    let top = model.take(look(102, |shard| 5_000 + if shard == 5 { 800 } else { 200 }), WallMs(102_000));
    (model, top)
}

#[test]
fn rates_are_taken_between_the_times_at_which_counters_were_told() {
    let (mut model, top) = busy();
    assert_eq!((top.reports_per_second, top.commands_per_second), (Some(3_000.0), Some(3_000.0)));
    assert_eq!((top.heat[5].commands_per_second, top.heat[4].commands_per_second), (Some(400.0), Some(100.0)));
    // Nothing new was told since: what was known holds.
    let top = model.take(look(102, |shard| 5_000 + if shard == 5 { 800 } else { 200 }), WallMs(104_000));
    assert_eq!((top.reports_per_second, top.heat[5].commands_per_second), (Some(3_000.0), Some(400.0)));
    // A counter that is behind is another process's: there is no rate.
    let top = model.take(look(103, |_| 10), WallMs(106_000));
    assert_eq!(top.heat[5].commands_per_second, None);
    // A node that has begun anew is missing in the sum, which says so.
    let mut anew = look(104, |_| 20);
    anew.status.nodes[1].reports_acknowledged = 3;
    anew.status.nodes[1].commands_acknowledged = 3;
    let top = model.take(anew, WallMs(107_000));
    assert_eq!((top.reports_per_second, top.rates_partial), (Some(2_000.0), true));
    assert!(drawn(&top, 80, 24).contains("reports/s ≥2,000"));
    // Another node's clock and hearsay are not compared with the first one's.
    let mut other = look(1_000, |_| 6_000);
    other.status.answered_by = "n3".into();
    let top = model.take(other, WallMs(108_000));
    assert_eq!((top.reports_per_second, top.heat[0].commands_per_second), (None, None));
}

#[test]
fn a_silent_node_does_nothing_and_its_shards_are_told_as_such() {
    let (mut model, _) = busy();
    let mut dead = look(104, |_| 6_000);
    dead.status.nodes[2].liveness = "dead";
    dead.status.nodes[2].generation = 2;
    let silent = shard::silent(&dead.status.nodes);
    dead.shards = dead.shards.into_iter().map(|shard| shard.without(&silent)).collect();
    dead.status.shards_led = 6;
    let top = model.take(dead, WallMs(104_000));
    let n3 = &top.nodes[2];
    assert_eq!((n3.well, n3.shards_led, n3.p99_us, n3.reports_per_second), (false, 0, 0, None));
    assert_eq!(top.heat[2].commands_per_second, None);
    assert_eq!(top.moving, ["no leader: shards 2, 5", "8 replicas on n3 with no word of them: shards 0-7"]);
    let happened: Vec<&str> = top.happened.iter().map(|news| news.what.as_str()).collect();
    assert_eq!(happened, ["n3: alive -> dead", "n3 has started again (start 2)", "lead n3 -> nobody: shards 2, 5"]);
    assert!(top.verdict().is_err());
}

#[test]
fn a_screen_of_80_by_24_holds_all_parts() {
    let (_, top) = busy();
    let text = drawn(&top, 80, 24);
    assert_eq!(text, include_str!("tests/busy-80x24.txt").trim_end(), "\n{text}\n");
    assert!(text.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn every_size_is_drawn_without_a_panic_and_within_its_bounds() {
    let (_, mut top) = busy();
    top.happened = (0..60)
        .map(|n| model::Happening { time: "00:00:00".into(), what: format!("{n}: {}", "x".repeat(300)) })
        .collect();
    top.moving = (0..60).map(|n| format!("shard {n}: {}", "y".repeat(300))).collect();
    top.nodes = (0..64)
        .map(|n| model::NodeRow { node: format!("node-{n}-{}", "z".repeat(100)), ..top.nodes[0].clone() })
        .collect();
    top.heat = (0..4_096).map(|shard| model::ShardRow { shard, ..top.heat[0].clone() }).collect();
    for (width, height) in [(0, 0), (1, 1), (20, 5), (40, 10), (80, 24), (119, 30), (120, 40), (200, 60), (500, 200)] {
        let text = drawn(&top, width, height);
        assert!(text.lines().count() <= usize::from(height), "{width}x{height}");
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{width}x{height}\n{text}");
    }
    let text = drawn(&top, 200, 60);
    for part in ["and 39 more: `clusterctl node list`", "HEAT", "HOTTEST", "MOVING", "HAPPENED", "shards a cell"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}
