//! Starting, reporting, stopping.

use super::*;

#[test]
fn a_view_starts_reports_and_stops_and_leaves_its_resume_point_and_history() {
    let mut shard = Shard::new(Settings::default());
    let started = shard.start(at(0), start("v1", "tv", film("heat")));
    assert_eq!(
        (started.resume_ms, started.watched, started.interval_ms),
        (None, false, Settings::default().told_interval_ms(&view("v1"), 0, Stretch::NONE))
    );
    assert_eq!(started.expires_at, WallMs(WALL + 150_000));
    for minute in 1..=30 {
        let progressed = shard.progress(at(minute * MINUTE), report("v1", minute, minute * MINUTE));
        assert!(progressed.applied);
    }
    assert_eq!(shard.active(at(30 * MINUTE))[0].watched_ms, 30 * MINUTE);
    assert_eq!(shard.title(at(30 * MINUTE), "heat").resume.unwrap().position_ms, 30 * MINUTE);
    assert!(shard.row(at(30 * MINUTE))[0].active);
    assert!(shard.history(at(30 * MINUTE)).is_empty());
    let stopped = shard.stop(at(31 * MINUTE), "v1", 31 * MINUTE);
    assert_eq!((stopped.position_ms, stopped.outcome), (Some(31 * MINUTE), Outcome::Partial));
    assert!(shard.active(at(32 * MINUTE)).is_empty());
    let row = shard.row(at(32 * MINUTE));
    assert_eq!((row.len(), row[0].active, row[0].resume.position_ms), (1, false, 31 * MINUTE));
    let history = shard.history(at(32 * MINUTE));
    assert_eq!((history.len(), history[0].plays.len(), history[0].plays[0].elapsed_ms), (1, 1, 31 * MINUTE));
    let again = shard.start(at(40 * MINUTE), start("v2", "tv", film("heat")));
    assert_eq!((again.resume_ms, again.view.position_ms), (Some(31 * MINUTE), Some(31 * MINUTE)));
    assert_eq!(again.continues, Some(WallMs(WALL)));
    shard.restart();
    assert_eq!(shard.active(at(40 * MINUTE)), vec![again.view]);
}
