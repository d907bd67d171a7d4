//! The reserve of disk space: while it is touched, what adds data is refused.
//!
//! The reserve is for what was taken already: the log that carries it, the checkpoints that let the log be purged, stops and
//! expiry. A disk that is full to the brim ends the process, and the store doesn't open on it.
//!
//! # Contract
//!
//! Refused is what is proposed *here*, by leaders: a command that a quorum has is applied by everybody. Nothing that was
//! proposed is told as refused.

use std::sync::Arc;
use std::time::Duration;

use crate::raft::RoomLevel;
use crate::store::Space;

use super::core::Inner;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// Room for the log's next segment, and one more. With more free than that a log that had none will have it with its next write.
const SEGMENTS_BYTES: u64 = 128 << 20;

/// What follows from the room that there is. A level is left only when there is an eighth of the reserve more than it takes to
/// come to it, so that it doesn't change with every checkpoint.
fn level(now: RoomLevel, space: Space, log_starves: bool) -> RoomLevel {
    let Space { free_bytes, reserve_bytes } = space;
    let margin = |is_there: bool| if is_there { reserve_bytes / 8 } else { 0 };
    let half = (reserve_bytes / 2).saturating_add(margin(now == RoomLevel::Scarce));
    let all = reserve_bytes.saturating_add(margin(now != RoomLevel::Ample));
    let starves = log_starves && free_bytes <= SEGMENTS_BYTES;
    if starves || (free_bytes <= half && !space.ample()) {
        RoomLevel::Scarce
    } else if !space.ample() || (now != RoomLevel::Ample && free_bytes <= all) {
        RoomLevel::Short
    } else {
        RoomLevel::Ample
    }
}

/// Looks until the node stops.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        // Measured on one of the store's threads.
        match inner.store.space().await {
            Ok(space) => see(&inner, space),
            Err(error) => tracing::error!(%error, "the room on the disk can't be measured"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn see(inner: &Inner, space: Space) {
    let before = inner.room.level();
    let now = level(before, space, inner.wal.stats().starves);
    inner.metrics.disk_free_bytes.set(i64::try_from(space.free_bytes).unwrap_or(i64::MAX));
    inner.metrics.disk_short.set(now as i64);
    if now == before {
        return;
    }
    inner.room.set(now);
    let Space { free_bytes, reserve_bytes } = space;
    match now {
        RoomLevel::Ample => tracing::info!(free_bytes, reserve_bytes, "there is room on the disk again"),
        RoomLevel::Short => {
            tracing::error!(
                free_bytes,
                reserve_bytes,
                "the reserve of disk space is touched: starts and imports are refused"
            );
        }
        RoomLevel::Scarce => {
            tracing::error!(free_bytes, reserve_bytes, "the disk is nearly full: only stops and expiry are taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RoomLevel::{Ample, Scarce, Short};

    fn at(now: RoomLevel, free_bytes: u64) -> RoomLevel {
        level(now, Space { free_bytes, reserve_bytes: 800 }, false)
    }

    #[test]
    fn the_reserve_is_refused_in_two_steps_and_given_free_with_a_margin() {
        assert_eq!([801, 800, 401, 400, 0].map(|free| at(Ample, free)), [Ample, Short, Short, Scarce, Scarce]);
        assert_eq!([901, 900, 500, 400].map(|free| at(Short, free)), [Ample, Short, Short, Scarce]);
        assert_eq!([901, 900, 501, 500].map(|free| at(Scarce, free)), [Ample, Short, Short, Scarce]);
    }

    #[test]
    fn without_a_reserve_only_a_log_without_its_next_segment_refuses() {
        let none = |free_bytes, starves| level(Ample, Space { free_bytes, reserve_bytes: 0 }, starves);
        assert_eq!((none(1, false), none(1 << 20, true), none(1 << 40, true)), (Ample, Scarce, Ample));
    }
}
