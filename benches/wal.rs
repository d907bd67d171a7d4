//! How fast the log is: entries a second, latency, CPU, as in DESIGN.md's table.
//!
//! 64 groups, 120-byte entries, 64 queued: each of 64 replicas appends one entry, and its next one when that is durable.
//!
//! ```text
//! cargo bench --bench wal -- [--dir DIR] [--groups 64] [--bytes 120] [--queued 64] [--seconds 5]
//! ```
//!
//! `--dir` is where the log goes: a disk that counts, not memory. The folder is made and removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::{Context, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use playhead::ambient::SystemClock;
use playhead::fs::DiskFs;
use playhead::ids::ReplicaId;
use playhead::time::Clock;
use playhead::wal::{Config, LogId, Record, Wal};

struct Options {
    dir: PathBuf,
    groups: u64,
    bytes: usize,
    queued: u64,
    seconds: u64,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options {
        dir: std::env::temp_dir().join("playhead-bench-wal"),
        groups: 64,
        bytes: 120,
        queued: 64,
        seconds: 5,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--bench" {
            continue;
        }
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--dir" => options.dir = PathBuf::from(value).join("playhead-bench-wal"),
            "--groups" => options.groups = value.parse()?,
            "--bytes" => options.bytes = value.parse()?,
            "--queued" => options.queued = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            _ => bail!("{arg}: accepted are --dir --groups --bytes --queued --seconds"),
        }
    }
    Ok(options)
}

/// CPU time of this process so far, all threads, in microseconds.
fn cpu_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let _ = std::fs::remove_dir_all(&options.dir);
    let fs = Arc::new(DiskFs::open(&options.dir)?);
    let (wal, _) = Wal::open(fs, Config { log_id: 1, ..Config::default() })?;
    // The first rounds go through fresh segments, the later ones through recycled ones, as in a node that runs for long.
    for round in ["fresh segments", "recycled segments", "recycled segments"] {
        run(&wal, &options, round)?;
    }
    wal.close();
    std::fs::remove_dir_all(&options.dir)?;
    Ok(())
}

fn run(wal: &Wal, options: &Options, round: &str) -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let payload = Bytes::from(vec![0x5a; options.bytes]);
    let (sender, receiver) = mpsc::channel();
    let append = |replica: u64| -> anyhow::Result<()> {
        let id = ReplicaId(replica + 1);
        let index = wal.replica_state(id).and_then(|state| state.last).map_or(0, |last| last.index + 1);
        let record = Record { id: LogId { term: 1, leader: 1, index }, payload: payload.clone() };
        let (sender, at) = (sender.clone(), nanos());
        // The receiver goes at the end of the round, while entries are still on their way.
        wal.append(
            id,
            vec![record],
            Box::new(move |result| {
                let _ = sender.send((replica, at, index, result));
            }),
        )?;
        Ok(())
    };
    let (stats, cpu, started) = (wal.stats(), cpu_us(), clock.monotonic());
    for n in 0..options.queued {
        append(n % options.groups)?;
    }
    let mut latency: Histogram<u64> = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut entries = 0u64;
    loop {
        let (replica, at, index, result) = receiver.recv()?;
        result?;
        latency.saturating_record(nanos().saturating_sub(at));
        entries += 1;
        if index % 100_000 == 99_999 {
            drop(wal.purge(ReplicaId(replica + 1), LogId { term: 1, leader: 1, index: index - 1000 })?);
        }
        if entries.is_multiple_of(1024) && clock.monotonic().since(started) >= options.seconds * 1000 {
            break;
        }
        append(replica)?;
    }
    let ms = clock.monotonic().since(started).max(1);
    let (after, cpu) = (wal.stats(), cpu_us() - cpu);
    wal.flush()?.wait()?;
    println!(
        "{round}: {} groups, {} B entries, {} queued: {} entries/s, p50/p99 {:.0}/{:.0} us, {:.2} us CPU an entry, \
         {:.1} entries a sync, {:.0} B a entry on disk, {} segments",
        options.groups,
        options.bytes,
        options.queued,
        entries * 1000 / ms,
        latency.value_at_quantile(0.5) as f64 / 1000.0,
        latency.value_at_quantile(0.99) as f64 / 1000.0,
        cpu as f64 / entries as f64,
        (after.entries - stats.entries) as f64 / (after.syncs - stats.syncs).max(1) as f64,
        (after.bytes_written - stats.bytes_written) as f64 / entries as f64,
        after.segments,
    );
    Ok(())
}

/// A stopwatch that is finer than [`Clock`]'s milliseconds.
fn nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
