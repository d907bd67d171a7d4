//! The first figures of Playhead as a whole: three node processes and the load on one machine, everything durable by quorum
//! fsync, default settings.
//!
//! `cargo bench --bench figures` prints one table; `cargo bench --bench figures -- --seconds 3 --only streams` a part of it.
//! Machines are noisy: compare server CPU per operation, and rates only within one run.
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use playhead::client::{Client, ProgressStream, StreamOptions};
use playhead::proto::v1;
use support::{Cluster, Result};

/// Nothing is measured before the load has run so long.
const WARM_UP: Duration = Duration::from_secs(2);
/// Views that are started for the loads.
const VIEWS: usize = 20_000;
/// Views of one account.
const VIEWS_AN_ACCOUNT: usize = 2;

#[derive(Parser)]
struct Flags {
    /// How long each load is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only the rows whose name has this in it.
    #[arg(long)]
    only: Option<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(all(&flags))
}

async fn all(flags: &Flags) -> Result<()> {
    let wanted = |name: &str| flags.only.as_deref().is_none_or(|only| name.contains(only));
    let seconds = Duration::from_secs(flags.seconds);
    println!("three nodes and the load on {} cores, {} s a row after {} s", cores(), flags.seconds, WARM_UP.as_secs());
    println!(
        "{:<44} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}",
        "load", "a second", "p50 ms", "p99 ms", "srv us", "syncs/s", "log MB/s", "failed"
    );
    let mut cluster = Cluster::start(3, 64, &[]).await?;
    if wanted("idle") {
        idle(&mut cluster, seconds).await?;
    }
    let before = memory(&mut cluster);
    let views = start_views(&cluster, VIEWS).await?;
    let after = memory(&mut cluster);
    for (name, streams, window, batch) in [
        ("progress, 16 streams x 8 messages x 100", 16, 8, 100),
        ("progress, 16 streams x 1 message x 100", 16, 1, 100),
    ] {
        if wanted(name) {
            let loads = streams_of(&cluster, &views, streams, window, batch)?;
            measure(&mut cluster, name, seconds, loads).await?;
        }
    }
    for (name, clients) in [("report a call, 64 clients, 64 shards", 64), ("report a call, 1 client, 64 shards", 1)] {
        if wanted(name) {
            let loads = calls_of(&cluster, &views, clients)?;
            measure(&mut cluster, name, seconds, loads).await?;
        }
    }
    let name = "strong read of a resume point, 64 clients";
    if wanted(name) {
        let loads = reads_of(&cluster, &views, 64)?;
        measure(&mut cluster, name, seconds, loads).await?;
    }
    println!(
        "memory: {} B of anonymous memory per active view and node ({} views; threads and caches included)",
        after.saturating_sub(before) / (VIEWS as u64 * 3),
        VIEWS
    );
    println!("disk: {:.1} MB in three data folders", disk(&cluster)? as f64 / 1e6);
    drop(cluster);
    let name = "report a call, 64 clients, 8 shards";
    if wanted(name) {
        let mut cluster = Cluster::start(3, 8, &[]).await?;
        let views = start_views(&cluster, VIEWS).await?;
        let loads = calls_of(&cluster, &views, 64)?;
        measure(&mut cluster, name, seconds, loads).await?;
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A view that the loads report on: each by one task at a time.
#[derive(Clone)]
struct Playing {
    account: String,
    view: String,
    title: String,
    sequence: Arc<AtomicU64>,
}

impl Playing {
    fn next(&self) -> v1::ProgressReport {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        v1::ProgressReport {
            account_id: self.account.clone(),
            view_id: self.view.clone(),
            sequence,
            position_ms: Some(i64::try_from(sequence).unwrap_or(0) % 7_000_000),
            state: v1::PlayState::Playing.into(),
            ..Default::default()
        }
    }
}

async fn start_views(cluster: &Cluster, count: usize) -> Result<Vec<Playing>> {
    let client = cluster.client(Duration::from_secs(20))?;
    let playing = |n: usize| Playing {
        account: format!("account-{:08}", n / VIEWS_AN_ACCOUNT),
        view: format!("v{n:07}"),
        title: format!("title-{n:010}"),
        sequence: Arc::default(),
    };
    let views: Vec<Playing> = (0..count).map(playing).collect();
    let next = Arc::new(AtomicU64::new(0));
    let starters = (0..64).map(|_| {
        let (client, views, next) = (client.clone(), views.clone(), next.clone());
        tokio::spawn(async move {
            while let Some(view) = views.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                let request = v1::StartViewRequest {
                    account_id: view.account.clone(),
                    view_id: view.view.clone(),
                    profile_id: "profile1".into(),
                    device_id: format!("device-{}", view.view),
                    title_id: view.title.clone(),
                    title_type: v1::TitleType::Film.into(),
                    duration_ms: Some(7_200_000),
                    ..Default::default()
                };
                client.start_view(request).await?;
            }
            Ok::<_, playhead::client::Error>(())
        })
    });
    for starter in starters.collect::<Vec<_>>() {
        starter.await??;
    }
    Ok(views)
}

/// What the tasks of a load share.
#[derive(Default)]
struct Tally {
    counting: AtomicBool,
    stop: AtomicBool,
    done: AtomicU64,
    failed: AtomicU64,
}

type LoadTask = Box<dyn FnOnce(Arc<Tally>) -> tokio::task::JoinHandle<Histogram<u64>> + Send>;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("up to ten minutes in us, to three digits")
}

fn streams_of(
    cluster: &Cluster,
    views: &[Playing],
    streams: usize,
    window: usize,
    batch: usize,
) -> Result<Vec<LoadTask>> {
    let mut loads: Vec<LoadTask> = Vec::new();
    for stream in 0..streams {
        // A gateway talks to one node; the streams are spread over all.
        let nodes = cluster.local.names();
        let client = cluster.client_of(&nodes[stream % nodes.len()], Duration::from_secs(20))?;
        let mine: Vec<Playing> = views.iter().skip(stream).step_by(streams).cloned().collect();
        loads.push(Box::new(move |tally| tokio::spawn(stream_load(client, mine, window, batch, tally))));
    }
    Ok(loads)
}

async fn stream_load(
    client: Client,
    views: Vec<Playing>,
    window: usize,
    batch: usize,
    tally: Arc<Tally>,
) -> Histogram<u64> {
    let stream: ProgressStream = client.progress_stream(StreamOptions { window });
    let mut latencies = histogram();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(window);
    let reader = {
        let tally = tally.clone();
        tokio::spawn(async move {
            while let Some((begun, pending)) = receiver.recv().await {
                let (begun, pending): (Instant, playhead::client::Pending) = (begun, pending);
                let outcomes = pending.await.unwrap_or_default();
                if tally.counting.load(Ordering::Relaxed) {
                    let good = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
                    tally.done.fetch_add(good as u64, Ordering::Relaxed);
                    tally.failed.fetch_add((batch - good) as u64, Ordering::Relaxed);
                    latencies.saturating_record(begun.elapsed().as_micros() as u64);
                }
            }
            latencies
        })
    };
    let mut turn = views.iter().cycle();
    while !tally.stop.load(Ordering::Relaxed) {
        let reports: Vec<_> = turn.by_ref().take(batch).map(Playing::next).collect();
        let begun = Instant::now();
        match stream.send(reports).await {
            Ok(pending) => drop(sender.send((begun, pending)).await),
            Err(_) => drop(tally.failed.fetch_add(batch as u64, Ordering::Relaxed)),
        }
    }
    drop(sender);
    reader.await.unwrap_or_else(|_| histogram())
}

fn calls_of(cluster: &Cluster, views: &[Playing], clients: usize) -> Result<Vec<LoadTask>> {
    tasks_of(cluster, views, clients, |client, view| async move {
        client.report_progress(v1::ReportProgressRequest { report: Some(view.next()) }).await.is_ok()
    })
}

fn reads_of(cluster: &Cluster, views: &[Playing], clients: usize) -> Result<Vec<LoadTask>> {
    tasks_of(cluster, views, clients, |client, view| async move {
        let request = v1::GetResumePointRequest {
            account_id: view.account,
            profile_id: "profile1".into(),
            title_id: view.title,
            ..Default::default()
        };
        client.get_resume_point(request).await.is_ok()
    })
}

fn tasks_of<F>(
    cluster: &Cluster,
    views: &[Playing],
    clients: usize,
    call: impl Fn(Client, Playing) -> F + Clone + Send + 'static,
) -> Result<Vec<LoadTask>>
where
    F: Future<Output = bool> + Send + 'static,
{
    let client = cluster.client(Duration::from_secs(20))?;
    let mut loads: Vec<LoadTask> = Vec::new();
    for n in 0..clients {
        let mine: Vec<Playing> = views.iter().skip(n).step_by(clients).cloned().collect();
        let (client, call) = (client.clone(), call.clone());
        loads.push(Box::new(move |tally| {
            tokio::spawn(async move {
                let mut latencies = histogram();
                for view in mine.iter().cycle() {
                    if tally.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let begun = Instant::now();
                    let good = call(client.clone(), view.clone()).await;
                    if tally.counting.load(Ordering::Relaxed) {
                        (if good { &tally.done } else { &tally.failed }).fetch_add(1, Ordering::Relaxed);
                        latencies.saturating_record(begun.elapsed().as_micros() as u64);
                    }
                }
                latencies
            })
        }));
    }
    Ok(loads)
}

async fn measure(cluster: &mut Cluster, name: &str, seconds: Duration, loads: Vec<LoadTask>) -> Result<()> {
    let tally = Arc::new(Tally::default());
    let running: Vec<_> = loads.into_iter().map(|load| load(tally.clone())).collect();
    tokio::time::sleep(WARM_UP).await;
    let (cpu, log, begun) = (cpu_us(cluster), logged(cluster).await, Instant::now());
    tally.counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(seconds).await;
    tally.counting.store(false, Ordering::Relaxed);
    let took = begun.elapsed().as_secs_f64();
    let (cpu, logged) = (cpu_us(cluster) - cpu, logged(cluster).await);
    let (syncs, bytes) = (logged.0 - log.0, logged.1 - log.1);
    tally.stop.store(true, Ordering::Relaxed);
    let mut latencies = histogram();
    for load in running {
        latencies.add(load.await?)?;
    }
    let done = tally.done.load(Ordering::Relaxed);
    println!(
        "{name:<44} {:>9.0} {:>8.2} {:>8.2} {:>8.2} {:>9.0} {:>9.1} {:>9}",
        done as f64 / took,
        latencies.value_at_quantile(0.5) as f64 / 1e3,
        latencies.value_at_quantile(0.99) as f64 / 1e3,
        cpu as f64 / done.max(1) as f64,
        syncs / took,
        bytes / took / 1e6,
        tally.failed.load(Ordering::Relaxed)
    );
    Ok(())
}

async fn idle(cluster: &mut Cluster, seconds: Duration) -> Result<()> {
    tokio::time::sleep(WARM_UP).await;
    let (cpu, begun) = (cpu_us(cluster), Instant::now());
    tokio::time::sleep(seconds).await;
    let share = (cpu_us(cluster) - cpu) as f64 / begun.elapsed().as_micros() as f64;
    println!("{:<44} {:.1} % of one core, all three nodes", "idle, 64 shards", share * 100.0);
    Ok(())
}

fn pids(cluster: &mut Cluster) -> Vec<i32> {
    cluster.local.names().iter().filter_map(|name| cluster.local.pid(name)).collect()
}

/// User and system CPU of all nodes, us.
fn cpu_us(cluster: &mut Cluster) -> u64 {
    let of = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may have blanks; the 12th and 13th fields behind it are user and system ticks.
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        fields.get(11).zip(fields.get(12)).map_or(0, |(user, system)| user + system)
    };
    // Linux shows ticks of 10 ms to user space, whatever the kernel counts in.
    pids(cluster).into_iter().map(of).sum::<u64>() * 10_000
}

/// Anonymous memory of all nodes, bytes.
fn memory(cluster: &mut Cluster) -> u64 {
    let of = |pid: i32| number_in(&format!("/proc/{pid}/status"), "RssAnon:") * 1024;
    pids(cluster).into_iter().map(of).sum()
}

fn number_in(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A metric of all nodes together.
async fn sum_of(cluster: &Cluster, name: &str) -> f64 {
    let mut sum = 0.0;
    for node in cluster.local.names() {
        if let Some(endpoints) = cluster.local.endpoints(&node) {
            sum += metric(&endpoints.metrics, name).await.unwrap_or(f64::NAN);
        }
    }
    sum
}

/// fdatasyncs of all nodes' logs, and the bytes appended to them.
async fn logged(cluster: &Cluster) -> (f64, f64) {
    (sum_of(cluster, "playhead_log_flushes").await, sum_of(cluster, "playhead_log_appended_bytes").await)
}

async fn metric(address: &str, name: &str) -> Result<f64> {
    let text = support::process::metrics(address).await?;
    let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name)).ok_or("no such metric")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

fn disk(cluster: &Cluster) -> Result<u64> {
    let mut sum = 0;
    let mut folders: Vec<_> = cluster.local.names().iter().map(|name| cluster.local.data(name)).collect();
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder)? {
            let item = item?;
            let about = item.metadata()?;
            if about.is_dir() {
                folders.push(item.path());
            } else {
                use std::os::unix::fs::MetadataExt as _;
                sum += about.blocks() * 512;
            }
        }
    }
    Ok(sum)
}
