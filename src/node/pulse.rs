//! Sending and hearing pulses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::ids::{GroupId, ReplicaId};
use crate::raft::RoomLevel;
use crate::telemetry::Times;
use crate::versions::{Feature, Spoken};

use super::core::Inner;
use super::gossip::{Gossip, Pulse, Report};
use super::heat::Thermometer;
use super::link::{Lane, Peer};

/// Every so many pulses tell all that is led, also when nothing has changed.
const FULL_EVERY: u32 = 10;
/// How often the replicas are reported.
const REPORT: Duration = Duration::from_secs(1);
/// How soon another one is sent, where replicas have come or gone.
const REPORT_AGAIN: Duration = Duration::from_millis(100);
/// And how much later for each replica that it tells of.
const REPORT_PART: Duration = Duration::from_millis(2);
/// From how long on the machine counts as suspended: reading two clocks one after the other is not.
const SUSPENDED_MS: u64 = 50;
/// How long the groups' thread may take to answer before the node falls silent.
const THREAD_ANSWERS: Duration = Duration::from_millis(500);

fn encode(gossip: &Gossip) -> Bytes {
    minicbor::to_vec(gossip).expect("writing to a vector doesn't fail").into()
}

/// Sends the pulses that say what is led here. Who has fallen silent is looked by `failover`.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut every = tokio::time::interval(Duration::from_millis(inner.config.pulse_ms));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut last: Vec<(GroupId, u64, ReplicaId)> = Vec::new();
    let mut count: u32 = 0;
    let mut hangs = false;
    let mut suspended = inner.clock.suspended_ms();
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = inner.pulse_now.notified() => {}
        }
        let now_suspended = inner.clock.suspended_ms();
        if now_suspended.saturating_sub(suspended) > SUSPENDED_MS {
            tracing::warn!(ms = now_suspended - suspended, "the machine was suspended: leases are void");
            inner.shards.all().iter().for_each(|hosted| hosted.void_leases());
        }
        suspended = now_suspended;
        // A node whose groups hang must not look alive.
        let answered = tokio::time::timeout(THREAD_ANSWERS, inner.thread.run(async {})).await;
        if !matches!(answered, Ok(Some(()))) {
            if !hangs {
                tracing::warn!("the groups' thread doesn't answer: no pulse is sent until it does");
            }
            hangs = true;
            continue;
        }
        hangs = false;
        let led = inner.shards.led_with_quorum().into_iter();
        let led: Vec<(GroupId, u64, ReplicaId)> =
            led.map(|(hosted, term)| (hosted.group, term, hosted.replica)).collect();
        inner.leaders.hear(inner.me.node, led.iter().copied());
        let news = led != last || count.is_multiple_of(FULL_EVERY);
        count = count.wrapping_add(1);
        let pulse = Pulse {
            epoch: inner.meta.now.load().epoch,
            endpoints: inner.me.endpoints.clone(),
            led: news.then(|| led.clone()),
            spoken: Some(inner.me.versions.spoken()).filter(|spoken| *spoken != Spoken::FIRST),
            leads: inner.leads(),
        };
        last = led;
        let frame = encode(&Gossip::Pulse(pulse));
        for node in inner.link.peers() {
            if inner.link.cast(node, Lane::Control, frame.clone()).is_ok() {
                inner.metrics.pulses_sent.inc();
            }
        }
    }
}

/// This node's own report, once in every [`REPORT`].
async fn own_report(inner: &Inner, thermometer: &mut Thermometer, times: Times) -> Report {
    let Times { p50_us, p99_us, .. } = times;
    let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
    inner.metrics.command_p50_seconds.set(seconds(p50_us));
    inner.metrics.command_p99_seconds.set(seconds(p99_us));
    let heat = thermometer.look(inner.clock.monotonic(), &inner.shards, &inner.metrics);
    let meta = inner.meta.now.load_full();
    let told = |feature| meta.has(feature);
    let store_bytes = inner.store.usage().await.map_or(0, |usage| usage.live_bytes + usage.archive_bytes);
    let hears = || inner.ear.not_dead().into_iter().take(crate::ring::MEMBERS_MAX).collect();
    Report {
        replicas: inner.shards.reports(),
        started: inner.started,
        version: super::versions::build(),
        log_bytes: inner.wal.stats().log_bytes,
        store_bytes,
        acknowledged: inner.router.acknowledged(),
        disk_full: inner.room.level() != RoomLevel::Ample,
        p50_us,
        p99_us,
        reports: inner.router.reports_acknowledged(),
        hints: inner.hints.status(),
        snapshot_bytes_received: told(Feature::NodeLife).then(|| inner.metrics.snapshot_bytes_received.get()),
        hears: told(Feature::NodeLife).then(hears),
        heat: told(Feature::Heat).then_some(heat),
    }
}

/// Sends reports.
pub(super) async fn report(inner: Arc<Inner>) {
    let mut thermometer = Thermometer::over(inner.config.heat_average_ms);
    let (mut times, mut turned) = (inner.metrics.commands.turn(), inner.clock.monotonic());
    loop {
        // Not one for each of many replicas that come at once, and the larger it is the more seldom.
        let replicas = u32::try_from(inner.shards.ids().len()).unwrap_or(u32::MAX);
        let again = REPORT.min(REPORT_AGAIN + REPORT_PART.saturating_mul(replicas));
        tokio::time::sleep(again).await;
        let _ = tokio::time::timeout(REPORT - again, inner.told_soon.notified()).await;
        let now = inner.clock.monotonic();
        // What is remembered is remembered by the second.
        if now.since(turned) >= u64::try_from(REPORT.as_millis()).unwrap_or(u64::MAX) {
            (times, turned) = (inner.metrics.commands.turn(), now);
        }
        let report = own_report(&inner, &mut thermometer, times).await;
        inner.last_report.store(Arc::new(report.clone()));
        let frame = encode(&Gossip::Report(report));
        for node in inner.link.peers() {
            // Whoever can't be reached gets the next one.
            let _ = inner.link.cast(node, Lane::Control, frame.clone());
        }
    }
}

/// Takes in what another node says.
pub(super) fn hear(inner: &Arc<Inner>, from: Peer, gossip: Gossip) {
    if matches!(gossip, Gossip::Pulse(_)) {
        inner.metrics.pulses_received.inc();
    }
    if let Some(change) = inner.ear.hear(from, gossip, inner.link.book(), &inner.leaders, &*inner.clock) {
        super::failover::tell(inner, change);
    }
}
