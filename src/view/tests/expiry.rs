//! What time does to views.

use super::*;
use crate::versions::Feature;

fn paused(view_id: &str, sequence: u64, position_ms: u64, state: PlayState) -> AccountCommand {
    match report(view_id, sequence, position_ms) {
        AccountCommand::ReportProgress(report) => AccountCommand::ReportProgress(ReportProgress { state, ..report }),
        other => other,
    }
}

#[test]
fn a_silent_view_expires_by_a_tick_only_and_keeps_its_last_reported_position() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.progress(at(5 * MINUTE), report("v1", 1, 5 * MINUTE));
    let due = 5 * MINUTE + 150_000;
    assert_eq!(shard.state.next_due(LogicalMs(due - 1)), Some(LogicalMs(due)));
    assert_eq!(shard.tick(at(due - 1)), 0);
    assert_eq!(shard.tick(at(due)), 1);
    assert_eq!(shard.state.next_due(LogicalMs(due)), None);
    assert_eq!(shard.title(at(due), "heat").resume.unwrap().position_ms, 5 * MINUTE);
    assert_eq!(shard.history(at(due))[0].end, WallMs(WALL + 5 * MINUTE));
    let late = shard.reject(at(due + 1), report("v1", 2, 9 * MINUTE));
    assert!(matches!(late, Rejection::ViewExpired(EndedView { why: EndReason::Expired, .. })));
}

#[test]
fn a_view_that_is_due_but_not_ticked_yet_lives_on_by_a_report() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.progress(at(10 * MINUTE), report("v1", 1, 1000));
    assert_eq!(shard.tick(at(10 * MINUTE)), 0);
}

#[test]
fn an_expired_view_comes_back_within_ten_minutes_with_its_sequence_if_a_stream_is_free() {
    let mut shard = Shard::new(Settings { policy: StreamPolicy::streams(1), ..Settings::default() });
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.progress(at(0), report("v1", 7, 5 * MINUTE));
    shard.tick(at(150_000));
    shard.start(at(160_000), start("v2", "pad", film("ran")));
    let back = || AccountCommand::StartView(start("v1", "tv", film("heat")));
    assert!(matches!(shard.reject(at(170_000), back()), Rejection::StreamLimit { .. }));
    shard.stop(at(180_000), "v2", 0);
    let started = shard.start(at(190_000), start("v1", "tv", film("heat")));
    assert!(started.brought_back);
    assert_eq!((started.view.sequence, started.view.position_ms), (7, Some(5 * MINUTE)));
    assert!(!shard.progress(at(191_000), report("v1", 7, MINUTE)).applied);
    shard.tick(at(190_000 + 150_000));
    let later = 190_000 + 150_000 + 10 * MINUTE + 1;
    assert!(!shard.start(at(later), start("v1", "tv", film("heat"))).brought_back);
}

#[test]
fn a_paused_view_gives_its_stream_away_after_five_minutes_and_ends_after_thirty() {
    let mut shard = Shard::new(Settings { policy: StreamPolicy::streams(1), ..Settings::default() });
    shard.start(at(0), start("v1", "tv", film("heat")));
    let pause = |shard: &mut Shard, minute: u64| {
        shard.progress(at(minute * MINUTE), paused("v1", minute, 10 * MINUTE, PlayState::Paused));
    };
    (1..=5).for_each(|m| pause(&mut shard, m));
    assert!(shard.active(at(6 * MINUTE - 1))[0].holds_stream);
    assert!(!shard.active(at(6 * MINUTE))[0].holds_stream);
    let other = AccountCommand::StartView(start("v2", "pad", film("ran")));
    assert!(matches!(shard.reject(at(6 * MINUTE - 1), other), Rejection::StreamLimit { .. }));
    // It takes the stream back while it is free.
    pause(&mut shard, 6);
    let on = shard.progress(at(7 * MINUTE), paused("v1", 7, 10 * MINUTE, PlayState::Playing));
    assert_eq!(on.directive, Directive::Continue);
    (8..=37).for_each(|m| pause(&mut shard, m));
    assert_eq!(shard.tick(at(38 * MINUTE - 1)), 0);
    assert_eq!(shard.tick(at(38 * MINUTE)), 1);
    let ended = shard.reject(at(38 * MINUTE), report("v1", 99, 0));
    assert!(matches!(ended, Rejection::ViewExpired(EndedView { why: EndReason::PausedTooLong, .. })));
}

#[test]
fn a_view_whose_stream_was_taken_in_a_long_pause_is_told_to_stop() {
    let mut shard = Shard::new(Settings { policy: StreamPolicy::streams(1), ..Settings::default() });
    shard.start(at(0), start("v1", "tv", film("heat")));
    (1..=6).for_each(|m| {
        shard.progress(at(m * MINUTE), paused("v1", m, 10 * MINUTE, PlayState::Paused));
    });
    shard.start(at(7 * MINUTE), start("v2", "pad", film("ran")));
    let told = shard.progress(at(7 * MINUTE), paused("v1", 7, 11 * MINUTE, PlayState::Playing));
    assert!(matches!(told.directive, Directive::Stop(EndedView { why: EndReason::StreamTaken, .. })));
    assert_eq!(shard.title(at(7 * MINUTE), "heat").resume.unwrap().position_ms, 11 * MINUTE);
    assert_eq!(shard.active(at(7 * MINUTE)).len(), 1);
}

#[test]
fn new_settings_hold_from_the_next_command_on_and_older_ones_are_refused() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), start("v1", "tv", film("heat")));
    assert_eq!(shard.state.next_due(LogicalMs(0)), Some(LogicalMs(150_000)));
    let quicker = Settings { version: 2, interval_ms: 10_000, ..Settings::default() };
    let update = |s: &Settings| Envelope::plain(Command::UpdateSettings(s.clone()));
    assert_eq!(shard.apply(at(0), &update(&quicker)).answer, Answer::SettingsUpdated);
    assert_eq!(shard.state.next_due(LogicalMs(0)), Some(LogicalMs(25_000)));
    let older = shard.apply(at(0), &update(&Settings { version: 1, ..quicker.clone() })).answer;
    assert_eq!(older, Answer::Rejected(Rejection::SettingsOlder { version: 2 }));
    let bad = Settings { version: 3, interval_ms: 9_999, ..quicker };
    match shard.apply(at(0), &update(&bad)).answer {
        Answer::Rejected(Rejection::Invalid { field, .. }) => assert_eq!(&*field, "interval_ms"),
        other => panic!("{other:?}"),
    }
    assert_eq!(shard.state.settings().version, 2);
}

fn stretched(by: u8) -> Envelope {
    Envelope::plain(Command::Stretch(Stretch(by)))
}

/// A shard that has come to the version which knows of stretched intervals.
fn pressed() -> Shard {
    let mut shard = Shard::new(Settings { jitter_percent: 0, ..Settings::default() });
    shard.apply(at(0), &Envelope::plain(Command::Adopt(Feature::Stretch.since())));
    shard
}

#[test]
fn a_view_whose_device_was_told_a_longer_interval_expires_as_much_later_also_when_the_shard_is_at_ease_again() {
    let mut shard = pressed();
    assert_eq!(shard.apply(at(0), &stretched(14)).answer, Answer::Stretched(Stretch(14)));
    let started = shard.start(at(0), start("v1", "tv", film("heat")));
    shard.start(at(0), start("v2", "pad", film("ran")));
    assert_eq!(started.interval_ms, 112_500);
    let told = shard.progress(at(1_000), report("v1", 1, 1_000));
    assert_eq!((told.interval_ms, told.expires_at), (112_500, WallMs(WALL + 1_000 + 281_250)));
    shard.apply(at(2_000), &stretched(0));
    // The one that has reported since was told the usual one again.
    assert_eq!(shard.progress(at(2_000), report("v2", 1, 1_000)).interval_ms, 60_000);
    assert_eq!(shard.tick(at(2_000 + 149_999)), 0);
    assert_eq!(shard.tick(at(2_000 + 150_000)), 1);
    assert_eq!(shard.tick(at(1_000 + 281_249)), 0, "a device that does as it was told is never expired");
    assert_eq!(shard.tick(at(1_000 + 281_250)), 1);
}

#[test]
fn a_stretch_outlasts_a_checkpoint_and_a_shard_of_an_earlier_version_knows_none() {
    let mut shard = pressed();
    shard.apply(at(0), &stretched(8));
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.checkpoint();
    shard.restart();
    assert_eq!(shard.state.stretch(), Stretch(8));
    assert_eq!(shard.tick(at(150_000)), 0);
    assert_eq!(shard.tick(at(225_000)), 1);
    assert!(matches!(shard.apply(at(225_000), &stretched(177)).answer, Answer::Rejected(Rejection::Invalid { .. })));
    let mut before = Shard::new(Settings::default());
    assert!(!before.state.permits(&stretched(8)));
    assert!(matches!(before.apply(at(0), &stretched(8)).answer, Answer::Rejected(Rejection::Invalid { .. })));
    assert_eq!(before.state.stretch(), Stretch::NONE);
}
