//! Opening a log: what is there is read, made durable, and continued in a fresh segment.
//!
//! The tail of what was found may be in the kernel's cache only (the process died, the machine lived), so it is written
//! and synced again before anybody builds on it. Torn bytes are not overwritten: the log goes on in the next segment, whose first batch says
//! where this one ends.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::engine::{Engine, Recovered};
use super::format::BLOCK_BYTES;
use super::front::{Front, Shared};
use super::replay::replay;
use super::scan::{Scan, scan};
use super::segments::{NoSegment, Pool, Segment, Spare};
use super::{Config, Fatal, OpenError, Place, Recovery, Stats};
use crate::fs::Fs;

impl From<Fatal> for OpenError {
    fn from(fatal: Fatal) -> Self {
        Self::Io { doing: format!("trying to {}", fatal.doing), source: fatal.source }
    }
}

impl From<NoSegment> for OpenError {
    fn from(no_segment: NoSegment) -> Self {
        match no_segment {
            NoSegment::NoRoom(source) => Self::Io { doing: "making room for a new segment".to_string(), source },
            NoSegment::Fatal(fatal) => fatal.into(),
        }
    }
}

/// Opens the log that is in a folder, or makes one.
pub(super) fn recover(fs: Arc<dyn Fs>, config: Config) -> Result<(Arc<Shared>, Engine, Recovery), OpenError> {
    config.check()?;
    let scan = scan(&*fs, config.log_id)?;
    let replayed = replay(&scan)?;
    let (segments, unused) = take_segments(&scan, replayed.end, &replayed.ends, config.log_id);
    for segment in segments.iter().filter(|segment| segment.id() >= scan.durable.segment) {
        make_durable(segment, scan.durable)
            .map_err(|source| OpenError::Io { doing: "making durable what was found".to_string(), source })?;
    }
    let pool = take_files(fs, &config, &scan, unused)?;
    let stats = Stats { segments_spare: pool.spare_count() as u64, ..Stats::default() };
    let front = Front {
        logs: replayed.logs,
        forgotten: replayed.forgotten.clone(),
        distrusted: replayed.recovery.distrusted.clone(),
        queue: VecDeque::new(),
        queued_bytes: 0,
        committed: BTreeMap::new(),
        memory_bytes: 0,
        segments: segments.iter().map(|s| (s.id(), (Arc::clone(&s.shared), s.end))).collect(),
        closing: false,
        stopped: false,
        stats,
        replicas_max: config.replicas_max,
        forgotten_max: config.forgotten_max(),
    };
    let shared =
        Arc::new(Shared { front: Mutex::new(front), work: Condvar::new(), news: Notify::new(), room: Notify::new() });
    let recovered = Recovered {
        pool,
        segments,
        tails: replayed.tails,
        forgotten: replayed.forgotten,
        distrusted: replayed.recovery.distrusted.clone(),
        strangers_suspect: replayed.recovery.strangers_suspect,
        sequence: replayed.sequence,
        durable: replayed.end.unwrap_or_default(),
    };
    let engine = Engine::open(Arc::clone(&shared), config, recovered)?;
    Ok((shared, engine, replayed.recovery))
}

/// Writes what isn't known durable again, and syncs. To sync alone isn't enough: the process before may have ended because
/// a sync failed, and then the kernel holds as clean what never reached the disk.
fn make_durable(segment: &Segment, durable: Place) -> io::Result<()> {
    let file = &segment.shared.file;
    let start = if segment.id() == durable.segment { durable.offset } else { 0 };
    if start < segment.end {
        let mut bytes = vec![0; (segment.end - start) as usize];
        let read = file.read_at(start, &mut bytes)?;
        file.write_at(start, &bytes[..read])?;
    }
    file.fdatasync()
}

/// The segments that the log continues to use, and the ids of the others.
fn take_segments(
    scan: &Scan,
    end: Option<Place>,
    ends: &BTreeMap<u64, u64>,
    log_id: u64,
) -> (VecDeque<Segment>, Vec<u64>) {
    let mut unused = scan.unused.clone();
    let mut segments = VecDeque::new();
    for scanned in &scan.segments {
        match ends.get(&scanned.id) {
            Some(used) => segments.push_back(Segment::new(log_id, scanned.id, Arc::clone(&scanned.file), *used)),
            // All that was in it was damaged, in what was durable: whoever has lost something is distrusted. It stays as it
            // is, for whoever looks into the damage, until the log no longer reaches back to it.
            None if end.is_some_and(|end| scanned.id < end.segment) => {
                segments.push_back(Segment::new(log_id, scanned.id, Arc::clone(&scanned.file), BLOCK_BYTES));
            }
            None => unused.push(scanned.id),
        }
    }
    (segments, unused)
}

/// Makes spares of the segments that aren't used, and lets go of what is too much.
fn take_files(fs: Arc<dyn Fs>, config: &Config, scan: &Scan, unused: Vec<u64>) -> Result<Pool, OpenError> {
    let mut pool = Pool {
        fs,
        log_id: config.log_id,
        segment_bytes: config.segment_bytes,
        spares_max: config.spares_max,
        spares: scan.spares.iter().map(|id| Spare { id: *id, written: 0 }).collect(),
        next_id: scan.next_id,
        ready: None,
        dying: Vec::new(),
    };
    pool.drop_spares()?;
    for id in unused {
        pool.recycle_unused(id, 0)?;
    }
    Ok(pool)
}
