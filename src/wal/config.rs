//! The bounds of a log.

use std::fmt;
use std::sync::Arc;

use super::format::{BLOCK_BYTES, RECORD_HEADER_BYTES, SEGMENT_BYTES_MIN, STATE_BYTES_MAX};
use super::{OpenError, PAYLOAD_BYTES_MAX};
use crate::threads::{Threads, Turns};

/// What is done when a write or sync has failed. It must not return to normal business: the process has to end.
pub type OnFatal = Arc<dyn Fn(&Fatal) + Send + Sync>;

/// A write or sync that failed. What is on the disk isn't known any more.
#[derive(Debug, thiserror::Error)]
#[error("the log can't {doing}: {source}")]
pub struct Fatal {
    /// What failed.
    pub doing: &'static str,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// The bounds of a log.
#[derive(Clone)]
pub struct Config {
    /// The log's name: what belongs to another log is refused. Chosen when the folder is made (the node's id does), never
    /// changed.
    pub log_id: u64,
    /// Bytes of a segment: 64 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// About how many bytes are written at a time; a single record may be larger.
    pub batch_bytes_max: usize,
    /// From how many queued bytes on [`super::Wal::room`] waits. Appends are refused only at four times as much.
    pub queue_bytes_max: usize,
    /// About how many bytes of entries are held in memory.
    pub memory_bytes_max: usize,
    /// The most replicas.
    pub replicas_max: usize,
    /// In a file that is used for the first time, so many bytes of zeros are written ahead of the log at a time: at most
    /// 16 MiB.
    pub zeros_ahead_bytes: u64,
    /// Segments that are kept to be used again.
    pub spares_max: usize,
    /// Only when more segments than this are in use are entries moved to free the oldest.
    pub segments_min: usize,
    /// The oldest segment is freed by moving what is still needed of it when that is at most so many bytes.
    pub move_bytes_max: u64,
    /// At most about so many bytes of a batch are entries that move, so that callers don't wait for them; a larger one moves alone.
    pub move_bytes_in_batch: usize,
    /// Who writes, and who reads from segments.
    pub threads: Threads,
    /// How long the writer's turns are, where it is a thread.
    pub turns: Turns,
    /// What is done after a failed write or sync.
    pub on_fatal: OnFatal,
}

impl Config {
    /// Refuses bounds that the log can't work within.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let refuse = |field, value, accepted| Err(OpenError::Config { field, value, accepted });
        if !(SEGMENT_BYTES_MIN..=1 << 30).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(BLOCK_BYTES)
        {
            return refuse("segment_bytes", self.segment_bytes, "64 KiB to 1 GiB in whole blocks of 512 bytes");
        }
        let snapshot_max = self.replicas_max as u64 * STATE_BYTES_MAX as u64;
        if self.replicas_max == 0 || snapshot_max > self.segment_bytes / 2 {
            return refuse("replicas_max", self.replicas_max as u64, "1 to half as many as a segment has KiB");
        }
        if self.move_bytes_max > self.segment_bytes / 4 {
            return refuse("move_bytes_max", self.move_bytes_max, "at most a quarter of segment_bytes");
        }
        if self.batch_bytes_max < 4096 || self.batch_bytes_max > 1 << 28 {
            return refuse("batch_bytes_max", self.batch_bytes_max as u64, "4 KiB to 256 MiB");
        }
        if self.queue_bytes_max < 4096 || self.queue_bytes_max > 1 << 32 {
            return refuse("queue_bytes_max", self.queue_bytes_max as u64, "4 KiB to 4 GiB");
        }
        if self.zeros_ahead_bytes > 16 << 20 {
            return refuse("zeros_ahead_bytes", self.zeros_ahead_bytes, "at most 16 MiB");
        }
        if self.segments_min < 2 {
            return refuse("segments_min", self.segments_min as u64, "at least 2");
        }
        Ok(())
    }

    /// The most bytes of a payload here: a record must fit a segment beside the snapshot that the segment opens with.
    pub(super) fn payload_bytes_max(&self) -> usize {
        PAYLOAD_BYTES_MAX.min((self.segment_bytes / 4) as usize - RECORD_HEADER_BYTES)
    }

    /// The most ids of destroyed replicas that can be remembered: an eighth of a segment.
    pub(super) fn forgotten_max(&self) -> usize {
        (self.segment_bytes / 64) as usize
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_id: 0,
            segment_bytes: 64 << 20,
            batch_bytes_max: 4 << 20,
            queue_bytes_max: 32 << 20,
            memory_bytes_max: 64 << 20,
            replicas_max: 8192,
            zeros_ahead_bytes: 1 << 20,
            spares_max: 2,
            segments_min: 4,
            move_bytes_max: 8 << 20,
            move_bytes_in_batch: 256 << 10,
            threads: Threads::Own,
            turns: Turns::default(),
            on_fatal: Arc::new(|fatal| {
                tracing::error!(error = %fatal, source = ?fatal.source, "the log has failed, the process ends");
                std::process::abort();
            }),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("log_id", &self.log_id)
            .field("segment_bytes", &self.segment_bytes)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("memory_bytes_max", &self.memory_bytes_max)
            .field("replicas_max", &self.replicas_max)
            .field("zeros_ahead_bytes", &self.zeros_ahead_bytes)
            .field("spares_max", &self.spares_max)
            .field("segments_min", &self.segments_min)
            .field("move_bytes_max", &self.move_bytes_max)
            .field("move_bytes_in_batch", &self.move_bytes_in_batch)
            .field("threads", &self.threads)
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}
