//! The log's tests. Those with a seed print it when they fail: `WAL_SEED=n cargo test --lib wal::` runs that one only,
//! `WAL_SEEDS=n` runs n of them.

mod basics;
mod crash;
mod damage;
mod failing;
mod golden;
mod recycle;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::fs::LyingFs;
use crate::ids::ReplicaId;

/// A log that is small enough to wrap around in a test.
fn small() -> Config {
    Config {
        log_id: 7,
        segment_bytes: 64 << 10,
        batch_bytes_max: 8 << 10,
        queue_bytes_max: 1 << 20,
        memory_bytes_max: 16 << 10,
        replicas_max: 24,
        zeros_ahead_bytes: 3000,
        spares_max: 1,
        segments_min: 2,
        move_bytes_max: 16 << 10,
        on_fatal: Arc::new(|_| {}),
        ..Config::default()
    }
}

fn open(fs: &LyingFs) -> (Wal, Engine, Recovery) {
    Wal::open_stepped(Arc::new(fs.clone()), small()).unwrap()
}

/// Steps until there is nothing to do.
fn drain(engine: &mut Engine) {
    while engine.step().unwrap() == Progress::Wrote {}
}

fn close(wal: &Wal, engine: &mut Engine) {
    wal.close();
    while engine.step().unwrap() != Progress::Closed {}
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, leader: 1, index }
}

fn record(term: u64, index: u64, payload: &[u8]) -> Record {
    Record { id: id(term, index), payload: Bytes::copy_from_slice(payload) }
}

/// Counts how often it was called with `Ok`.
#[derive(Clone, Default)]
struct Acks(Arc<AtomicUsize>);

impl Acks {
    fn done(&self) -> Done {
        let count = Arc::clone(&self.0);
        Box::new(move |result| {
            count.fetch_add(usize::from(result.is_ok()), Ordering::SeqCst);
        })
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn ignore() -> Done {
    Box::new(|_| {})
}

/// All entries of a replica.
fn entries(wal: &Wal, replica: ReplicaId) -> Vec<Record> {
    wal.read_blocking(replica, 0..u64::MAX, usize::MAX).unwrap()
}

/// The seeds of a random test: so many, or as many as are asked for, or the one that is asked for.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    match number("WAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WAL_SEEDS").unwrap_or(count),
    }
}

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);
