//! As much load as the cluster takes, for minutes, and the elections that came of it: none were needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use playhead::client::{Client, Pending, StreamOptions};
use playhead::proto::v1;

use crate::support::{Cluster, Result, process};

/// Streams, messages unanswered on each, reports in a message.
const STREAMS: usize = 16;
const WINDOW: usize = 8;
const BATCH: usize = 100;
/// Views of all streams.
const VIEWS: usize = 9_600;
/// Between two rows.
const ROW: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    good: AtomicU64,
    bad: AtomicU64,
    longest_ms: AtomicU64,
}

pub(crate) async fn run(shards: u32, length: Duration, node_flags: &[&str]) -> Result<()> {
    // Whatever moves a lead on purpose would count as an election.
    let flags: Vec<&str> = node_flags.iter().copied().chain(["--leaders-balance=false"]).collect();
    let cluster = Cluster::start(3, shards, &flags).await?;
    let before = crate::terms(&cluster).await?;
    let tally = Arc::new(Tally::default());
    let nodes = cluster.local.names();
    let mut streams = Vec::new();
    for stream in 0..STREAMS {
        let client = cluster.client_of(&nodes[stream % nodes.len()], Duration::from_secs(20))?;
        streams.push(tokio::spawn(load(client, stream, tally.clone())));
    }
    println!(
        "{:>6} {:>12} {:>8} {:>12} {:>10} {:>10}  load",
        "s", "reports/s", "failed", "longest ms", "suspicions", "elections"
    );
    let (begun, mut last) = (Instant::now(), 0);
    while begun.elapsed() < length {
        let row = Instant::now();
        tokio::time::sleep(ROW.min(length.saturating_sub(begun.elapsed()))).await;
        let good = tally.good.load(Ordering::Relaxed);
        let elections: u64 =
            crate::terms(&cluster).await?.iter().zip(&before).map(|(now, then)| now.saturating_sub(*then)).sum();
        println!(
            "{:>6} {:>12.0} {:>8} {:>12} {:>10} {elections:>10}  {}",
            begun.elapsed().as_secs(),
            (good - last) as f64 / row.elapsed().as_secs_f64(),
            tally.bad.load(Ordering::Relaxed),
            tally.longest_ms.swap(0, Ordering::Relaxed),
            sum_of(&cluster, "playhead_suspicions_total").await?,
            std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
        );
        last = good;
    }
    tally.stop.store(true, Ordering::Relaxed);
    for stream in streams {
        stream.await??;
    }
    cluster.settled().await?;
    let after = crate::terms(&cluster).await?;
    let elections: u64 = after.iter().zip(&before).map(|(now, then)| now.saturating_sub(*then)).sum();
    println!("{elections} elections in {} s on {shards} shards", begun.elapsed().as_secs());
    Ok(())
}

/// A counter of all nodes together, whatever its labels.
async fn sum_of(cluster: &Cluster, name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for node in cluster.local.names() {
        let endpoints = cluster.local.endpoints(&node).ok_or("the node has no endpoints")?;
        sum += process::sum(&process::metrics(&endpoints.metrics).await?, name);
    }
    Ok(sum)
}

async fn load(client: Client, stream: usize, tally: Arc<Tally>) -> Result<()> {
    let views: Vec<(String, String)> =
        (0..VIEWS / STREAMS).map(|n| (format!("account-{stream}-{}", n / 2), format!("view-{stream}-{n}"))).collect();
    for (account, view) in &views {
        let request = v1::StartViewRequest {
            account_id: account.clone(),
            view_id: view.clone(),
            profile_id: "profile1".into(),
            device_id: format!("device-{view}"),
            title_id: format!("title-{view}"),
            duration_ms: Some(7_200_000),
            ..Default::default()
        };
        client.start_view(request).await?;
    }
    let reports = client.progress_stream(StreamOptions { window: WINDOW });
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Instant, Pending)>(WINDOW);
    let reader = {
        let tally = tally.clone();
        tokio::spawn(async move {
            while let Some((begun, pending)) = receiver.recv().await {
                let good = pending.await.unwrap_or_default().iter().filter(|outcome| outcome.is_ok()).count();
                tally.good.fetch_add(good as u64, Ordering::Relaxed);
                tally.bad.fetch_add((BATCH - good) as u64, Ordering::Relaxed);
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tally.longest_ms.fetch_max(took, Ordering::Relaxed);
            }
        })
    };
    let mut sequence = 0;
    while !tally.stop.load(Ordering::Relaxed) {
        for batch in views.chunks(BATCH) {
            sequence += 1;
            let of = |(account, view): &(String, String)| v1::ProgressReport {
                account_id: account.clone(),
                view_id: view.clone(),
                sequence,
                position_ms: i64::try_from(sequence).ok(),
                state: v1::PlayState::Playing.into(),
                ..Default::default()
            };
            let begun = Instant::now();
            let pending = reports.send(batch.iter().map(of).collect()).await?;
            if sender.send((begun, pending)).await.is_err() {
                break;
            }
        }
    }
    drop(sender);
    Ok(reader.await?)
}
