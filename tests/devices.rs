//! The simulator of devices against a cluster of one process: it finds nothing where nothing is wrong, and finds what is.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/solo.rs"]
mod solo;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use playhead::ambient::SystemClock;
use playhead::client::Client;
use playhead::device::{Fleet, Plan, Report, Way};
use playhead::time::{Clock, MonotonicMs, WallMs};

fn plan(seed: u64) -> Plan {
    Plan { interval: Duration::ZERO, check_share: 1.0, ..Plan::new(20, seed) }
}

/// Plays until so many reports are acknowledged.
async fn play(serving: &solo::Serving, plan: Plan, reports: u64) -> Report {
    play_by(serving.client(), serving, plan, reports).await
}

async fn play_by(client: Client, serving: &solo::Serving, plan: Plan, reports: u64) -> Report {
    let fleet = Fleet::start(client, serving.clock.clone(), plan);
    let stats = fleet.stats();
    while stats.snapshot().reports_acknowledged < reports {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fleet.stop().await.check(&[serving.client()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_right_is_found_right_over_single_calls() {
    let serving = solo::serve().await;
    let report = play(&serving, plan(1), 5_000).await;
    assert!(report.is_right(), "{report:#?}");
    let counters = &report.counters;
    assert!(counters.checks > 20 && counters.reads > 100 && counters.writes_acknowledged > 100, "{counters:?}");
    assert_eq!((counters.unknown, counters.unavailable), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_right_is_found_right_over_streams() {
    let serving = solo::serve().await;
    let report = play(&serving, Plan { way: Way::Streams { streams: 2, window: 4 }, ..plan(2) }, 5_000).await;
    assert!(report.is_right(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_are_unknown_at_first_are_learned_and_contradict_nothing() {
    let serving = solo::serve().await;
    let solo = serving.solo.clone();
    let disturb = tokio::spawn(async move {
        loop {
            solo.hide_next.store(2, Ordering::Relaxed);
            solo.refuse_next.store(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    // Devices with little patience see outcomes that a client with more would have learned by itself.
    let hasty = serving.client().with_deadline(Duration::from_millis(20));
    let report = play_by(hasty, &serving, plan(3), 500).await;
    disturb.abort();
    assert!(report.is_right(), "{report:#?}");
    assert!(report.counters.unknown > 0, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_moves_a_resume_point_by_a_millisecond_is_found_out() {
    let serving = solo::serve().await;
    serving.solo.lie.store(true, Ordering::Relaxed);
    let report = play(&serving, plan(4), 500).await;
    assert!(report.counters.mismatches > 0 && !report.is_right());
    assert!(report.counters.described.iter().any(|what| what.contains("was left at")), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_acknowledges_a_report_and_does_not_apply_it_is_found_out() {
    let serving = solo::serve().await;
    serving.solo.unapply.store(true, Ordering::Relaxed);
    let report = play(&serving, plan(6), 200).await;
    assert!(report.counters.described.iter().any(|what| what.contains("and not applied")), "{report:#?}");
}

/// Waits until so many reports more are acknowledged.
async fn reports(fleet: &Fleet, more: u64) {
    let until = fleet.stats().snapshot().reports_acknowledged + more;
    while fleet.stats().snapshot().reports_acknowledged < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_lost_is_found_out_though_later_ones_have_overtaken_it() {
    let serving = solo::serve().await;
    // Nobody looks while they play.
    let plan = Plan { check_share: 0.0, interval: Duration::from_millis(5), ..plan(8) };
    let fleet = Fleet::start(serving.client(), serving.clock.clone(), plan);
    reports(&fleet, 200).await;
    serving.solo.lose_next.store(3, Ordering::Relaxed);
    reports(&fleet, 1_000).await;
    let report = fleet.stop().await.check(&[serving.client()]).await;
    let described = &report.counters.described;
    assert!(!described.is_empty() && described.iter().all(|what| what.contains("was watched for")), "{report:#?}");
    assert!(report.counters.mismatches <= 3, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn households_that_stand_still_send_nothing_until_they_are_compared_and_see_what_was_lost_last() {
    let serving = solo::serve().await;
    let plan = Plan { interval: Duration::from_millis(5), ..plan(9) };
    let fleet = Fleet::start(serving.client(), serving.clock.clone(), plan);
    reports(&fleet, 500).await;
    let patience = Duration::from_secs(60);
    let still = fleet.stand_still(patience).await;
    let (compared, facts) = fleet.compare_still(patience).await;
    assert!(still > 0 && compared == still && facts > still, "{still} stand still, {compared} compared: {facts} facts");
    assert_eq!(fleet.stats().snapshot().mismatches, 0);
    fleet.go_on();
    reports(&fleet, 500).await;
    // The last write of many is lost, and nothing overtakes it.
    serving.solo.lose_next.store(20, Ordering::Relaxed);
    fleet.stand_still(patience).await;
    serving.solo.lose_next.store(0, Ordering::Relaxed);
    fleet.compare_still(patience).await;
    let found = fleet.stats().snapshot();
    assert!(found.described.iter().any(|what| what.contains("is at (sequence, position)")), "{found:#?}");
}

/// A clock that a test puts forward.
#[derive(Debug)]
struct Hasty {
    real: SystemClock,
    ahead_ms: AtomicU64,
}

impl Clock for Hasty {
    fn monotonic(&self) -> MonotonicMs {
        self.real.monotonic().plus(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn wall(&self) -> WallMs {
        self.real.wall().plus(self.ahead_ms.load(Ordering::Relaxed))
    }
}

/// Plays while the clock is put forward, by more than a view may be silent, again and again, and once more before the end.
async fn play_through_silences(plan: Plan) -> Report {
    let clock = Arc::new(Hasty { real: SystemClock::new(), ahead_ms: AtomicU64::new(0) });
    let serving = solo::serve_by(clock.clone()).await;
    let fleet = Fleet::start(serving.client(), clock.clone(), plan);
    let stats = fleet.stats();
    for reports in [1_000, 2_000, 3_000] {
        while stats.snapshot().reports_acknowledged < reports {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        clock.ahead_ms.fetch_add(151_000, Ordering::Relaxed);
    }
    let mut played = fleet.stop().await;
    clock.ahead_ms.fetch_add(151_000, Ordering::Relaxed);
    played.check(&[serving.client()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_devices_that_fell_silent_may_expire_when_their_time_has_come_and_no_earlier() {
    let report = play_through_silences(plan(5)).await;
    assert!(report.is_right(), "{report:#?}");
    // A cluster in which they expire much earlier than its settings say is found out.
    let report = play_through_silences(Plan { silence: Duration::from_secs(10_000), ..plan(5) }).await;
    // Whichever is met first: the list is bounded.
    let found_out = |what: &String| what.contains("plays, and is not active") || what.contains("VIEW_EXPIRED");
    assert!(report.counters.described.iter().any(found_out), "{report:#?}");
}
