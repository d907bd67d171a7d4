//! The intervals of devices follow how near this node's leaders are to their capacity.
//!
//! A shard whose queue goes slowly has its devices report more seldom, up to the longest interval: that takes from its load what can be
//! spared, before anything has to be refused. It is told through the shard's own log, since views expire by the interval that their
//! devices were told. It grows within seconds, and goes back slowly, as the devices themselves hear of it only at their next report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::GroupId;
use crate::raft::Pressure;
use crate::time::MonotonicMs;
use crate::versions::Feature;
use crate::view::{Command, Envelope, Settings, Stretch};

use super::core::Inner;
use super::shards::ShardGroup;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(2);
/// A queue in which is waited so long is near its capacity: a quarter of what makes it refuse.
const NEAR_MS: u64 = 50;
/// One in which is waited no longer is at ease.
const AT_EASE_MS: u64 = 15;
/// By how much intervals grow at each look, in sixteenths.
const UP: u8 = 4;
/// How long a shard has to be at ease before its intervals go back by a sixteenth.
const DOWN_MS: u64 = 10_000;
/// How long telling a shard may keep the caller.
const TELLING_MAX: Duration = Duration::from_millis(500);

/// The stretch that a shard should have; `at_ease_ms`: for how long nothing has pressed, since it was last changed.
fn next(settings: &Settings, now: Stretch, pressure: Pressure, at_ease_ms: u64) -> Stretch {
    if pressure.standing || pressure.delay_ms >= NEAR_MS {
        return Stretch(now.0.saturating_add(UP)).min(Stretch::most_of(settings)).max(now);
    }
    match at_ease_ms >= DOWN_MS {
        true => Stretch(now.0.saturating_sub(1)),
        false => now,
    }
}

/// Looks after the shards that are led here.
pub(super) async fn run(inner: Arc<Inner>) {
    // Since when each that is stretched is at ease.
    let mut at_ease: BTreeMap<GroupId, MonotonicMs> = BTreeMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let led = inner.shards.led();
        at_ease.retain(|group, _| led.iter().any(|(hosted, _)| hosted.group == *group));
        let (mut worst, mut delay_ms) = (Stretch::NONE, 0);
        for (hosted, _) in &led {
            let Some(group) = hosted.shard() else { continue };
            let pressure = group.pressure();
            let stretch = look(&inner, group, pressure, &mut at_ease).await;
            (worst, delay_ms) = (worst.max(stretch), delay_ms.max(pressure.delay_ms));
        }
        inner.metrics.queue_delay_seconds.set(delay_ms as f64 / 1e3);
        inner.metrics.interval_stretch_percent.set(100 + i64::from(worst.0) * 100 / 16);
    }
}

/// Looks after one, and says how its intervals are stretched.
async fn look(
    inner: &Inner,
    group: &ShardGroup,
    pressure: Pressure,
    at_ease: &mut BTreeMap<GroupId, MonotonicMs>,
) -> Stretch {
    let now = inner.clock.monotonic();
    let (knows, settings, before) =
        group.peek(|state| (state.version().has(Feature::Stretch), state.settings().clone(), state.stretch()));
    if !knows {
        return Stretch::NONE;
    }
    if pressure.standing || pressure.delay_ms > AT_EASE_MS {
        at_ease.insert(group.group(), now);
    }
    let at_ease_ms = now.since(*at_ease.entry(group.group()).or_insert(now));
    let wanted = next(&settings, before, pressure, at_ease_ms);
    if wanted == before {
        return before;
    }
    if wanted < before {
        at_ease.insert(group.group(), now);
    }
    tracing::debug!(shard = group.group().shard().map(|s| s.0), %wanted, delay_ms = pressure.delay_ms, "intervals");
    // Whether it came to be is seen the next time.
    let _ = group.propose(vec![Envelope::plain(Command::Stretch(wanted))], TELLING_MAX).await;
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_grow_at_once_up_to_the_longest_and_go_back_step_by_step() {
        let settings = Settings::default();
        let pressed = |delay_ms, standing| Pressure { delay_ms, standing };
        let next = |now, pressure, at_ease_ms| next(&settings, Stretch(now), pressure, at_ease_ms).0;
        assert_eq!(next(0, pressed(49, false), 0), 0);
        assert_eq!([next(0, pressed(50, false), 0), next(4, pressed(0, true), 0)], [4, 8]);
        assert_eq!([next(12, pressed(90, true), 0), next(14, pressed(90, true), 0)], [14, 14], "the longest interval");
        assert_eq!(next(20, pressed(90, true), 0), 20, "settings have changed: it is no longer than before");
        assert_eq!([next(14, pressed(5, false), 9_999), next(14, pressed(5, false), 10_000)], [14, 13]);
        assert_eq!(next(0, pressed(0, false), 60_000), 0);
    }
}
