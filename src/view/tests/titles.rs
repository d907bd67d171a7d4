//! Resume points and what counts as watched.

use super::*;

/// Plays a title from `from_ms` to `to_ms` in real time, and stops.
fn play(shard: &mut Shard, now: u64, what: Media, from_ms: u64, to_ms: u64) -> (u64, Stopped) {
    let id = format!("play {now}");
    shard.start(at(now), StartView { position_ms: Some(from_ms), ..start(&id, "tv", what) });
    let (mut position, mut now, mut sequence) = (from_ms, now, 0);
    while position + MINUTE <= to_ms {
        (position, now, sequence) = (position + MINUTE, now + MINUTE, sequence + 1);
        shard.progress(at(now), report(&id, sequence, position));
    }
    now += to_ms - position;
    (now, shard.stop(at(now), &id, to_ms))
}

fn episode(name: &str, minutes: u64) -> Media {
    Media { title_type: TitleType::Episode, duration_ms: Some(minutes * MINUTE), ..film(name) }
}

#[test]
fn a_film_is_watched_at_ninety_percent_and_watching_it_again_counts_again() {
    let mut shard = Shard::new(Settings::default());
    let (now, stopped) = play(&mut shard, 0, film("heat"), 0, 91 * MINUTE);
    assert_eq!((stopped.outcome, stopped.position_ms), (Outcome::Completed, Some(91 * MINUTE)));
    let state = shard.title(at(now), "heat");
    assert_eq!((state.resume, state.play_count, state.watched_at), (None, 1, Some(WallMs(WALL + now))));
    assert_eq!(state.last.unwrap().position_ms, 91 * MINUTE);
    assert_eq!(shard.history(at(now))[0].plays[0].position_ms, Some(91 * MINUTE));
    assert!(shard.row(at(now)).is_empty());
    // The new run has a resume point of its own, and doesn't take "watched" away.
    let (now, stopped) = play(&mut shard, now + 1000, film("heat"), 0, 10 * MINUTE);
    assert_eq!(stopped.outcome, Outcome::Partial);
    let state = shard.title(at(now), "heat");
    assert_eq!((state.resume.map(|r| r.position_ms), state.play_count), (Some(10 * MINUTE), 1));
    let (now, _) = play(&mut shard, now + 1000, film("heat"), 10 * MINUTE, 95 * MINUTE);
    assert_eq!(shard.title(at(now), "heat").play_count, 2);
}

#[test]
fn half_of_it_can_be_watched_in_several_sittings_and_is_counted_once() {
    let mut shard = Shard::new(Settings::default());
    let (now, _) = play(&mut shard, 0, film("heat"), 0, 30 * MINUTE);
    let (now, _) = play(&mut shard, now + 1000, film("heat"), 0, 30 * MINUTE);
    let (now, stopped) = play(&mut shard, now + 1000, film("heat"), 80 * MINUTE, 95 * MINUTE);
    assert_eq!(stopped.outcome, Outcome::CompletedBySeek);
    let state = shard.title(at(now), "heat");
    assert_eq!((state.resume, state.play_count), (None, 0));
    let (_, stopped) = play(&mut shard, now + 1000, film("heat"), 85 * MINUTE, 100 * MINUTE);
    assert_eq!(stopped.outcome, Outcome::Completed);
}

#[test]
fn the_credits_marker_goes_before_the_percentage_and_an_episode_ends_three_minutes_early() {
    let mut shard = Shard::new(Settings::default());
    let marked = Media { credits_ms: Some(80 * MINUTE), ..film("heat") };
    assert_eq!(play(&mut shard, 0, marked, 0, 80 * MINUTE).1.outcome, Outcome::Completed);
    let now = 200 * MINUTE;
    assert_eq!(play(&mut shard, now, episode("e1", 20), 0, 17 * MINUTE).1.outcome, Outcome::Partial);
    assert_eq!(play(&mut shard, 2 * now, episode("e2", 20), 0, 17 * MINUTE + 1).1.outcome, Outcome::Completed);
}

#[test]
fn what_is_only_sampled_stays_in_the_history_and_out_of_the_rows() {
    let mut shard = Shard::new(Settings::default());
    let short_film = Media { duration_ms: Some(50 * MINUTE), ..film("f50") };
    assert_eq!(play(&mut shard, 0, short_film.clone(), 0, 89_000).1.outcome, Outcome::Sampled);
    assert_eq!(play(&mut shard, MINUTE * 10, short_film, 0, 90_000).1.outcome, Outcome::Partial);
    assert_eq!(play(&mut shard, MINUTE * 20, film("heat"), 0, 119_000).1.outcome, Outcome::Sampled);
    assert_eq!(play(&mut shard, MINUTE * 30, episode("e1", 20), 0, 119_000).1.outcome, Outcome::Sampled);
    let now = at(40 * MINUTE);
    let row: Vec<_> = shard.row(now).into_iter().map(|i| i.title).collect();
    assert_eq!(row, [title("f50")]);
    assert_eq!(shard.history(now).len(), 3);
    assert_eq!(shard.title(now, "heat").last.unwrap().position_ms, 119_000);
}

#[test]
fn short_titles_have_no_resume_point_and_unknown_runtimes_are_never_watched() {
    let mut shard = Shard::new(Settings::default());
    let (now, stopped) = play(&mut shard, 0, episode("tiny", 4), 0, 3 * MINUTE);
    assert_eq!((stopped.outcome, shard.title(at(now), "tiny").resume), (Outcome::Partial, None));
    let (now, stopped) = play(&mut shard, now + 1, episode("tiny", 4), 0, 220_000);
    assert_eq!(stopped.outcome, Outcome::Completed);
    let unknown = Media { duration_ms: None, ..film("free") };
    let (now, stopped) = play(&mut shard, now + 1, unknown, 0, 300 * MINUTE);
    assert_eq!(stopped.outcome, Outcome::Partial);
    assert_eq!(shard.title(at(now), "free").resume.unwrap().position_ms, 300 * MINUTE);
}

#[test]
fn a_zero_without_a_seek_is_ignored_and_a_failed_stop_undoes_no_report() {
    let mut shard = Shard::new(Settings::default());
    let (now, _) = play(&mut shard, 0, film("heat"), 0, 20 * MINUTE);
    let before = shard.history(at(now));
    shard.start(at(now), start("v1", "tv", film("heat")));
    shard.progress(at(now + MINUTE), report("v1", 1, 0));
    assert_eq!(shard.active(at(now))[0].position_ms, Some(20 * MINUTE));
    let failed = |view_id: &str| {
        AccountCommand::StopView(StopView {
            view: view(view_id),
            sequence: None,
            position_ms: Some(1000),
            played: Vec::new(),
            failed: true,
            next: None,
        })
    };
    let stopped = |answer| match answer {
        Answer::Stopped(stopped) => (stopped.outcome, stopped.position_ms),
        other => panic!("{other:?}"),
    };
    // Nothing was reported that counts yet: nothing is changed.
    shard.start(at(now + MINUTE), start("v2", "phone", film("heat")));
    assert_eq!(stopped(shard.run(at(now + MINUTE), failed("v2"))).0, Outcome::Nothing);
    assert_eq!(shard.history(at(now)), before);
    shard.progress(at(now + MINUTE), report("v1", 2, 50 * MINUTE));
    let acknowledged = shard.title(at(now + MINUTE), "heat").resume.map(|r| r.position_ms);
    assert_eq!(acknowledged, Some(50 * MINUTE));
    assert_eq!(stopped(shard.run(at(now + MINUTE), failed("v1"))), (Outcome::Partial, Some(50 * MINUTE)));
    assert_eq!(shard.title(at(now + MINUTE), "heat").resume.map(|r| r.position_ms), acknowledged);
}

#[test]
fn an_older_sequence_moves_nothing_but_its_played_ranges_count() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), start("v1", "tv", film("heat")));
    let with = |sequence, position_ms, from_ms, to_ms| {
        AccountCommand::ReportProgress(ReportProgress {
            view: view("v1"),
            sequence,
            position_ms: Some(position_ms),
            state: PlayState::Playing,
            played: vec![Played { from_ms, to_ms }],
            seeked: false,
        })
    };
    shard.progress(at(2 * MINUTE), with(2, 2 * MINUTE, MINUTE, 2 * MINUTE));
    let old = shard.progress(at(2 * MINUTE), with(1, MINUTE, 0, MINUTE));
    assert!(!old.applied);
    let seen = shard.active(at(2 * MINUTE)).remove(0);
    assert_eq!((seen.position_ms, seen.sequence, seen.watched_ms), (Some(2 * MINUTE), 2, 2 * MINUTE));
    // Nobody plays an hour in two minutes: twice the elapsed time and a little is believed.
    shard.progress(at(2 * MINUTE), with(3, 90 * MINUTE, 20 * MINUTE, 80 * MINUTE));
    assert_eq!(shard.active(at(2 * MINUTE))[0].watched_ms, 4 * MINUTE + 5000);
}

#[test]
fn of_two_devices_the_latest_activity_wins_and_the_loser_is_kept_a_day() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), StartView { position_ms: Some(45 * MINUTE), ..start("v1", "tv", film("heat")) });
    shard.start(at(1), StartView { position_ms: Some(20 * MINUTE), ..start("v2", "pad", film("heat")) });
    shard.progress(at(MINUTE), report("v1", 1, 46 * MINUTE));
    shard.stop(at(2 * MINUTE), "v2", 21 * MINUTE);
    // The first view expires later, but its last report was earlier.
    shard.tick(at(MINUTE + 150_000));
    let state = shard.title(at(4 * MINUTE), "heat");
    assert_eq!(state.resume.unwrap().position_ms, 21 * MINUTE);
    assert_eq!(state.alternate.map(|a| a.point.position_ms), Some(46 * MINUTE));
    let day = 24 * 60 * MINUTE;
    assert_eq!(shard.title(at(4 * MINUTE + day), "heat").alternate, None);
}

#[test]
fn a_title_leaves_the_row_after_sixteen_weeks_and_keeps_its_resume_point() {
    let mut shard = Shard::new(Settings::default());
    play(&mut shard, 0, film("heat"), 0, 20 * MINUTE);
    let weeks = 16 * 7 * 24 * 60 * MINUTE;
    assert_eq!(shard.row(at(20 * MINUTE + weeks)).len(), 1);
    assert_eq!(shard.row(at(20 * MINUTE + weeks + 1)).len(), 0);
    assert!(shard.title(at(20 * MINUTE + weeks + 1), "heat").resume.is_some());
}

#[test]
fn previews_leave_no_trace_and_live_broadcasts_only_history() {
    let mut shard = Shard::new(Settings::default());
    let kind = |kind, id| StartView { kind, ..start(id, "tv", film("heat")) };
    shard.start(at(0), kind(ViewKind::Preview, "p"));
    shard.progress(at(MINUTE), report("p", 1, MINUTE));
    assert_eq!(shard.stop(at(10 * MINUTE), "p", 10 * MINUTE).outcome, Outcome::Nothing);
    assert!(shard.history(at(0)).is_empty());
    assert_eq!(shard.title(at(0), "heat").last, None);
    shard.start(at(20 * MINUTE), kind(ViewKind::Live, "l"));
    shard.stop(at(60 * MINUTE), "l", 40 * MINUTE);
    assert_eq!(shard.history(at(0)).len(), 1);
    assert_eq!(shard.title(at(0), "heat").last, None);
}

#[test]
fn the_newest_report_again_is_told_as_applied_and_another_under_its_number_is_not() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), start("v1", "tv", film("heat")));
    let first = shard.progress(at(MINUTE), report("v1", 1, MINUTE));
    let again = shard.progress(at(MINUTE + 5), report("v1", 1, MINUTE));
    let other = shard.progress(at(MINUTE + 5), report("v1", 1, 2 * MINUTE));
    assert_eq!((first.applied, again.applied, other.applied), (true, true, false));
    shard.progress(at(2 * MINUTE), report("v1", 2, 2 * MINUTE));
    assert!(!shard.progress(at(2 * MINUTE), report("v1", 1, MINUTE)).applied);
}

#[test]
fn devices_are_told_intervals_of_their_own_within_a_tenth_and_always_the_same() {
    let settings = Settings::default();
    let told: BTreeSet<u64> =
        (0..200).map(|n| settings.told_interval_ms(&view(&format!("v{n}")), 1, Stretch::NONE)).collect();
    assert!(told.len() > 15 && told.iter().all(|ms| (54_000..=66_000).contains(ms)), "{told:?}");
    assert_eq!(
        settings.told_interval_ms(&view("v1"), 1, Stretch::NONE),
        settings.told_interval_ms(&view("v1"), 1, Stretch::NONE)
    );
    let shortest = Settings { interval_ms: 10_000, jitter_percent: 50, ..Settings::default() };
    assert!((0..200).all(|n| (10_000..=15_000).contains(&shortest.told_interval_ms(&view("v"), n, Stretch::NONE))));
    let none = Settings { jitter_percent: 0, ..Settings::default() };
    assert_eq!(none.told_interval_ms(&view("v1"), 7, Stretch::NONE), 60_000);
}
