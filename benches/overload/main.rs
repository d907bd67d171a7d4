//! What becomes of a cluster that is asked for more than it can do: goodput, latencies, what is refused, and memory, from half its peak to a
//! hundred times that.
//!
//! `cargo bench --bench overload` prints a table; `-- --picture FILE` draws it, `-- --steps 1,10 --seconds 5` is a part of it.
//!
//! So that two cores can offer a hundred times what a cluster does, the nodes are capped (`limits.node_per_second`), far below what they
//! could: what is measured is how a cluster at its capacity behaves, not where that is. The load is an open loop of callers that never
//! wait for each other and never obey: each request is due by the clock, is sent once to the node that leads its shard, and has a
//! second from when it was due. A latency counts from then. What the shard's state has decided in that second is goodput, also where it
//! says no.
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![allow(unreachable_pub, reason = "a program of several modules")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod load;
mod picture;
mod svg;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use load::{Kind, Load, Measured};
use support::{Cluster, Result, process};

/// Accounts that play, a view each.
const ACCOUNTS: usize = 2_000;
/// Nothing is measured before a load has run so long.
const WARM_UP: Duration = Duration::from_secs(3);

#[derive(Parser)]
struct Flags {
    /// How long each load is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Commands and queries a second that each of the three nodes works on.
    #[arg(long, default_value_t = 50)]
    cap: u32,
    /// Shards.
    #[arg(long, default_value_t = 16)]
    shards: u32,
    /// Loads, as multiples of the peak.
    #[arg(long, value_delimiter = ',', default_value = "0.5,1,2,5,10,100")]
    steps: Vec<f64>,
    /// Where to draw it.
    #[arg(long)]
    picture: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A row.
struct Row {
    times: f64,
    measured: Measured,
    cpu_us: u64,
    memory_mib: u64,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(all(&flags))
}

async fn all(flags: &Flags) -> Result<()> {
    let cap = flags.cap.to_string();
    let mut cluster = Cluster::start(3, flags.shards, &["--limits-node-per-second", &cap]).await?;
    let mut load = Load::new(&cluster, ACCOUNTS).await?;
    println!(
        "three nodes of {cap} commands and queries a second each, {} shards, {ACCOUNTS} accounts; {} s a row after {} s",
        flags.shards,
        flags.seconds,
        WARM_UP.as_secs()
    );
    let nominal = f64::from(flags.cap) * 3.0;
    let mut peak: f64 = 0.0;
    for times in [1.0, 1.5, 2.0] {
        peak = peak.max(row(&mut cluster, &mut load, flags, times, times * nominal).await?.measured.goodput());
    }
    println!(
        "peak: {peak:.0} a second, the most of {nominal:.0}, {:.0} and {:.0} offered",
        1.5 * nominal,
        2.0 * nominal
    );
    println!("{}", header());
    let mut rows = Vec::new();
    for times in &flags.steps {
        let row = row(&mut cluster, &mut load, flags, *times, peak * times).await?;
        println!("{}", line(&row));
        rows.push(row);
    }
    verdict(&rows, peak);
    if let Some(path) = &flags.picture {
        std::fs::write(path, picture::draw(&rows, peak))?;
        println!("drawn: {}", path.display());
    }
    Ok(())
}

async fn row(cluster: &mut Cluster, load: &mut Load, flags: &Flags, times: f64, rate: f64) -> Result<Row> {
    load.run(rate, WARM_UP).await?;
    process::reset_peaks(cluster);
    let before = cpu_us(cluster);
    let measured = load.run(rate, Duration::from_secs(flags.seconds)).await?;
    let (cpu_us, memory_mib) = (cpu_us(cluster) - before, process::peaks(cluster).iter().sum::<u64>() >> 20);
    // What was refused has left nothing behind that the next row would have to do.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(Row { times, measured, cpu_us, memory_mib })
}

/// User and system CPU of all nodes.
fn cpu_us(cluster: &mut Cluster) -> u64 {
    process::pids(cluster).into_iter().map(process::cpu_us).sum()
}

fn header() -> String {
    let kinds: Vec<String> =
        Kind::ALL.iter().map(|kind| format!("| {:<8} sent  good   p50   p99", kind.label())).collect();
    format!(
        "{:>5} {:>7} {:>7} {:>7} {:>7} {:>8} {} | cpu %  MiB",
        "load",
        "offered",
        "sent",
        "goodput",
        "refused",
        "accepted",
        kinds.join(" ")
    )
}

fn line(row: &Row) -> String {
    let measured = &row.measured;
    let seconds = measured.seconds;
    let kind = |kind: &Kind| {
        let of = measured.of(*kind);
        let ms = |quantile| of.latencies.value_at_quantile(quantile) as f64 / 1e3;
        let (sent, good) = (of.sent as f64 / seconds, of.good as f64 / seconds);
        format!("| {sent:>13.0} {good:>5.0} {:>5.0} {:>5.0}", ms(0.5), ms(0.99))
    };
    let kinds: Vec<String> = Kind::ALL.iter().map(kind).collect();
    format!(
        "{:>4}x {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>8.0} {} | {:>5.0} {:>4}",
        row.times,
        measured.offered as f64 / seconds,
        measured.total(|of| of.sent) as f64 / seconds,
        measured.goodput(),
        measured.total(|of| of.refused) as f64 / seconds,
        measured.total(|of| of.accepted) as f64 / seconds,
        kinds.join(" "),
        row.cpu_us as f64 / seconds / 1e4,
        row.memory_mib
    )
}

/// The bars, and what a refusal costs.
fn verdict(rows: &[Row], peak: f64) {
    let cost = |row: &Row| row.cpu_us as f64 / row.measured.seconds;
    let base = rows.iter().filter(|row| row.times <= 1.0).map(cost).fold(0.0, f64::max);
    for row in rows.iter().filter(|row| row.times >= 10.0) {
        let measured = &row.measured;
        let p99 = |kind| measured.of(kind).latencies.value_at_quantile(0.99) as f64 / 1e3;
        let refused = measured.total(|of| of.refused) as f64 / measured.seconds;
        println!(
            "{}x: goodput {:.0} % of the peak (bar: 90), starts {:.0} ms and stops {:.0} ms at p99 (bar: 1000), {:.1} us of the nodes' CPU a refusal, \
             {} MiB in three nodes",
            row.times,
            100.0 * measured.goodput() / peak,
            p99(Kind::Start),
            p99(Kind::Stop),
            (cost(row) - base).max(0.0) / refused.max(1.0),
            row.memory_mib
        );
    }
}
