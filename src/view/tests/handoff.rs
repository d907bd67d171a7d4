//! What nodes took in while the shard had no leader, handed off.

use super::*;

fn shard(streams: u16) -> Shard {
    shard_of(ClusterVersion(5), streams)
}

fn shard_of(version: ClusterVersion, streams: u16) -> Shard {
    let settings = Settings { policy: StreamPolicy::streams(streams), ..Settings::default() };
    let mut shard = Shard::new(settings);
    shard.apply(at(0), &Envelope::plain(Command::Adopt(version)));
    shard
}

/// The shard's time stood still for as long as it had no leader.
fn after_outage(logical: u64, outage: u64) -> Stamp {
    Stamp { logical: LogicalMs(logical), wall: WallMs(WALL + logical + outage) }
}

fn told(sequence: Option<u64>, position_ms: u64, age_ms: u64) -> ParkedTold {
    ParkedTold {
        sequence,
        position_ms: Some(position_ms),
        state: PlayState::Playing,
        played: Vec::new(),
        seeked: false,
        age_ms,
        stop: None,
    }
}

fn stopped(view_id: &str, position_ms: u64, age_ms: u64) -> ParkedTold {
    let fingerprint = stop(view_id, Some(position_ms)).fingerprint();
    let stop = ParkedStop { failed: false, request_id: Some(request(&format!("stop-{view_id}"))), fingerprint };
    ParkedTold { stop: Some(stop), ..told(None, position_ms, age_ms) }
}

fn of(view_id: &str, told: ParkedTold) -> Parked {
    Parked { view: view(view_id), start: None, told: Some(told) }
}

fn let_in(view_id: &str, on: &str, age_ms: u64) -> Parked {
    let start = start(view_id, on, film(view_id));
    let request_id = Some(request(&format!("start-{view_id}")));
    let start = ParkedStart { start, position_ms: Some(0), request_id, age_ms };
    Parked { view: view(view_id), start: Some(start), told: None }
}

fn hand_off(shard: &mut Shard, stamp: Stamp, views: Vec<Parked>) -> Vec<Handed> {
    match shard.run(stamp, AccountCommand::HandOff(HandOff { views })) {
        Answer::HandedOff(handed) => handed,
        other => panic!("{other:?}"),
    }
}

fn active(shard: &mut Shard, now: Stamp) -> Vec<ActiveView> {
    match shard.ask(now, &Query::ListActiveViews(account("a"))) {
        Reply::ActiveViews(views) => views,
        other => panic!("{other:?}"),
    }
}

fn resume(shard: &mut Shard, now: Stamp, of: &str) -> Option<u64> {
    match shard.ask(now, &Query::GetResumePoints(account("a"), profile("ann"), vec![title(of)])) {
        Reply::ResumePoints(points) => points[0].resume.as_ref().map(|point| point.position_ms),
        other => panic!("{other:?}"),
    }
}

fn plays(shard: &mut Shard, now: Stamp, of: &str) -> Vec<Play> {
    let filter = HistoryFilter { title: Some(title(of)), from: None, to: None };
    match shard.ask(now, &Query::ListHistory(account("a"), profile("ann"), filter, page(10))) {
        Reply::History { entries, .. } => entries.into_iter().flat_map(|entry| entry.plays).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_report_of_an_outage_moves_its_view_and_counts_what_was_played_meanwhile() {
    let mut shard = shard(2);
    let began = 100 * MINUTE;
    shard.start(at(began), start("v1", "tv", film("heat")));
    shard.progress(at(began + MINUTE), report("v1", 1, MINUTE));
    // Twenty minutes without a leader; the last report came ten minutes before it is handed off.
    let now = after_outage(began + MINUTE + 1000, 20 * MINUTE);
    assert_eq!(hand_off(&mut shard, now, vec![of("v1", told(Some(12), 11 * MINUTE, 10 * MINUTE))]), [Handed::Taken]);
    let view = active(&mut shard, now).remove(0);
    assert_eq!((view.sequence, view.position_ms, view.watched_ms), (12, Some(11 * MINUTE), 11 * MINUTE));
    assert_eq!(view.reported_at, WallMs(now.wall.0 - 10 * MINUTE));
    assert!(!view.degraded);
}

#[test]
fn a_hint_never_moves_a_position_back() {
    let mut shard = shard(2);
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.progress(at(MINUTE), report("v1", 9, 50 * MINUTE));
    let now = after_outage(2 * MINUTE, 0);
    assert_eq!(hand_off(&mut shard, now, vec![of("v1", told(Some(8), 20 * MINUTE, MINUTE))]), [Handed::Older]);
    assert_eq!(active(&mut shard, now)[0].position_ms, Some(50 * MINUTE));
    // A stop of before the reports that came since.
    let older = ParkedTold { sequence: Some(7), ..stopped("v1", 10 * MINUTE, 5 * MINUTE) };
    assert_eq!(hand_off(&mut shard, now, vec![of("v1", older)]), [Handed::Older]);
    assert_eq!(active(&mut shard, now).len(), 1);
}

#[test]
fn a_stop_that_comes_after_its_view_has_expired_makes_a_further_play_and_moves_the_resume_point() {
    let mut shard = shard(2);
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.progress(at(MINUTE), report("v1", 1, 10 * MINUTE));
    shard.apply(at(10 * MINUTE), &Envelope::plain(Command::Tick));
    assert_eq!(resume(&mut shard, at(10 * MINUTE), "heat"), Some(10 * MINUTE));
    let now = after_outage(11 * MINUTE, 60 * MINUTE);
    let late = of("v1", stopped("v1", 40 * MINUTE, 30 * MINUTE));
    assert_eq!(hand_off(&mut shard, now, vec![late.clone()]), [Handed::Taken]);
    assert_eq!(resume(&mut shard, now, "heat"), Some(40 * MINUTE));
    assert_eq!(plays(&mut shard, now, "heat").len(), 2);
    let digest = plays(&mut shard, now, "heat");
    assert_eq!(hand_off(&mut shard, now, vec![late]), [Handed::Older]);
    assert_eq!(plays(&mut shard, now, "heat"), digest);
}

#[test]
fn further_plays_of_an_ended_view_that_are_the_same_in_all_that_is_told_of_them_are_one() {
    let mut shard = shard(2);
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.progress(at(MINUTE), report("v1", 1, 10 * MINUTE));
    shard.apply(at(10 * MINUTE), &Envelope::plain(Command::Tick));
    // From longer ago than the view itself, by the calendar: they take no time, and the second begins where the first did.
    let now = after_outage(11 * MINUTE, 60 * MINUTE);
    for sequence in [2, 3] {
        let late = of("v1", told(Some(sequence), 40 * MINUTE, 90_000_000));
        assert_eq!(hand_off(&mut shard, now, vec![late.clone()]), [Handed::Taken]);
        assert_eq!(plays(&mut shard, now, "heat").len(), 2);
        assert_eq!(hand_off(&mut shard, now, vec![late]), [Handed::Older]);
    }
}

#[test]
fn what_happened_to_the_title_after_the_hint_wins() {
    let mut shard = shard(2);
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.progress(at(MINUTE), report("v1", 1, 10 * MINUTE));
    shard.apply(at(10 * MINUTE), &Envelope::plain(Command::Tick));
    // Another device has gone on with it since.
    shard.start(at(20 * MINUTE), start("v2", "pad", film("heat")));
    shard.progress(at(21 * MINUTE), report("v2", 1, 70 * MINUTE));
    shard.stop(at(22 * MINUTE), "v2", 70 * MINUTE);
    let late = of("v1", told(Some(2), 30 * MINUTE, 15 * MINUTE));
    assert_eq!(hand_off(&mut shard, at(23 * MINUTE), vec![late]), [Handed::Taken]);
    assert_eq!(resume(&mut shard, at(23 * MINUTE), "heat"), Some(70 * MINUTE));
    assert_eq!(plays(&mut shard, at(23 * MINUTE), "heat").iter().filter(|p| p.view == Some(view("v1"))).count(), 2);
}

#[test]
fn the_newest_degraded_view_ends_first_and_no_other_one_ever_does() {
    let mut shard = shard(2);
    shard.start(at(0), start("own", "tv", film("own")));
    let now = after_outage(MINUTE, 10 * MINUTE);
    let views = vec![let_in("d2", "pad", 60_000), let_in("d1", "phone", 90_000), let_in("d3", "box", 30_000)];
    let expected = [Handed::OverLimit, Handed::Taken, Handed::OverLimit];
    assert_eq!(hand_off(&mut shard, now, views.clone()), expected);
    let left: Vec<_> = active(&mut shard, now).into_iter().map(|v| (v.view, v.degraded)).collect();
    assert_eq!(left, [(view("d1"), true), (view("own"), false)]);
    match shard.progress(now, report("d3", 1, MINUTE)) {
        Progressed { directive: Directive::Stop(ended), .. } => assert_eq!(ended.why, EndReason::OverLimit),
        other => panic!("{other:?}"),
    }
    // Again: nobody comes back, nobody ends.
    assert_eq!(hand_off(&mut shard, now, views), [Handed::Taken; 3]);
    assert_eq!(active(&mut shard, now).len(), 2);
}

#[test]
fn handing_off_twice_changes_nothing_the_second_time() {
    let mut shard = shard(4);
    shard.start(at(0), start("v1", "tv", film("heat")));
    let now = after_outage(MINUTE, 10 * MINUTE);
    let both = Parked { told: Some(stopped("d1", 5 * MINUTE, 1000)), ..let_in("d1", "pad", 6 * MINUTE) };
    let views = vec![of("v1", told(Some(3), 9 * MINUTE, 2000)), both];
    assert_eq!(hand_off(&mut shard, now, views.clone()), [Handed::Taken; 2]);
    let seen = |shard: &mut Shard| (active(shard, now), plays(shard, now, "d1"), resume(shard, now, "d1"));
    let first = seen(&mut shard);
    assert_eq!((first.0.len(), first.1.len(), first.2), (1, 1, Some(5 * MINUTE)));
    for _ in 0..2 {
        hand_off(&mut shard, now, views.clone());
        assert_eq!(seen(&mut shard), first);
    }
    // The callers' own retries are answered as if the shard had taken them itself.
    let envelope = |id: &str, command| Envelope::request(request(id), account("a"), command);
    let stop = envelope("stop-d1", stop("d1", Some(5 * MINUTE)));
    assert!(matches!(shard.apply(now, &stop).answer, Answer::Stopped(_)));
    let start = envelope("start-d1", AccountCommand::StartView(start("d1", "pad", film("d1"))));
    match shard.apply(now, &start).answer {
        Answer::Started(started) => assert!(started.view.degraded),
        other => panic!("{other:?}"),
    }
    assert_eq!(seen(&mut shard), first);
}

#[test]
fn a_start_that_the_shard_has_taken_itself_is_not_started_once_more() {
    let mut shard = shard(4);
    let command = AccountCommand::StartView(start("d1", "pad", film("d1")));
    shard.apply(at(0), &Envelope::request(request("start-d1"), account("a"), command));
    let now = after_outage(1000, MINUTE);
    assert_eq!(hand_off(&mut shard, now, vec![let_in("d1", "pad", MINUTE)]), [Handed::Taken]);
    let views = active(&mut shard, now);
    assert_eq!((views.len(), views[0].degraded), (1, false));
    shard.stop(now, "d1", 0);
    assert_eq!(hand_off(&mut shard, now, vec![let_in("d1", "pad", MINUTE)]), [Handed::Taken]);
    assert_eq!(active(&mut shard, now), []);
}

#[test]
fn a_view_that_fell_silent_or_was_replaced_meanwhile_takes_no_stream() {
    let mut shard = shard(1);
    let now = after_outage(20 * MINUTE, 70 * MINUTE);
    assert_eq!(hand_off(&mut shard, now, vec![let_in("d1", "pad", 61 * MINUTE)]), [Handed::Taken]);
    assert_eq!(active(&mut shard, now), []);
    // The device has started something else since the shard is led again.
    shard.start(now, start("v1", "pad", film("heat")));
    let late = Parked { told: Some(told(Some(4), 30 * MINUTE, 60_000)), ..let_in("d2", "pad", 31 * MINUTE) };
    assert_eq!(hand_off(&mut shard, now, vec![late]), [Handed::Taken]);
    assert_eq!(active(&mut shard, now).iter().map(|v| v.view.clone()).collect::<Vec<_>>(), [view("v1")]);
    assert_eq!(resume(&mut shard, now, "d2"), Some(30 * MINUTE));
}

#[test]
fn nobody_expires_for_the_time_without_a_leader() {
    let mut shard = shard(2);
    let now = after_outage(20 * MINUTE, 10 * MINUTE);
    // Its reports were taken in by another node, which hands them off later.
    assert_eq!(hand_off(&mut shard, now, vec![let_in("d1", "pad", 9 * MINUTE)]), [Handed::Taken]);
    assert_eq!(active(&mut shard, now).len(), 1);
    let late = vec![of("d1", told(Some(8), 8 * MINUTE, 30_000))];
    assert_eq!(hand_off(&mut shard, after_outage(21 * MINUTE, 10 * MINUTE), late), [Handed::Taken]);
    // Silent since the shard is led again, it does.
    let later = after_outage(24 * MINUTE, 10 * MINUTE);
    shard.apply(later, &Envelope::plain(Command::Tick));
    assert_eq!(active(&mut shard, later), []);
}

/// A moment by a calendar that is wrong.
fn off(logical: u64, hours: u64) -> Stamp {
    Stamp { logical: LogicalMs(logical), wall: WallMs(WALL + logical + hours * 60 * MINUTE) }
}

#[test]
fn a_stop_counts_though_the_calendar_of_an_earlier_leader_was_ahead() {
    for ran in [1000, 10 * MINUTE] {
        let mut shard = shard(2);
        shard.start(off(MINUTE, 3), start("v1", "tv", film("heat")));
        let now = after_outage(MINUTE + ran, 2000);
        assert_eq!(hand_off(&mut shard, now, vec![of("v1", stopped("v1", 500, 2000))]), [Handed::Taken], "{ran}");
        assert_eq!(active(&mut shard, now), []);
    }
    // What was said before a view of this id ended and began again is not said of the view that runs.
    let mut shard = shard(2);
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.apply(at(10 * MINUTE), &Envelope::plain(Command::Tick));
    shard.start(at(20 * MINUTE), start("v1", "tv", film("heat")));
    let early = of("v1", stopped("v1", 500, 15 * MINUTE));
    assert_eq!(hand_off(&mut shard, at(21 * MINUTE), vec![early]), [Handed::Older]);
    assert_eq!(active(&mut shard, at(21 * MINUTE)).len(), 1);
}

#[test]
fn a_view_that_was_let_in_replaces_what_its_device_watched_before_whatever_the_calendars_said_then() {
    let mut shard = shard(2);
    shard.start(off(MINUTE, 3), start("v1", "tv", film("heat")));
    let now = after_outage(10 * MINUTE, MINUTE);
    assert_eq!(hand_off(&mut shard, now, vec![let_in("d1", "tv", MINUTE)]), [Handed::Taken]);
    assert_eq!(active(&mut shard, now).iter().map(|v| v.view.clone()).collect::<Vec<_>>(), [view("d1")]);
}

#[test]
fn what_a_view_said_before_it_ended_does_not_stand_before_what_came_after_it_whatever_the_calendars_say() {
    for (version, resumes_at) in [(4, 20 * MINUTE), (5, 30 * MINUTE)] {
        let mut shard = shard_of(ClusterVersion(version), 2);
        shard.start(off(0, 3), start("v1", "tv", film("heat")));
        shard.progress(off(MINUTE, 3), report("v1", 1, 10 * MINUTE));
        // The next leader's calendar is three hours behind.
        shard.start(at(2 * MINUTE), start("v2", "tv", film("heat")));
        let late = of("v1", told(Some(2), 20 * MINUTE, 30_000));
        assert_eq!(hand_off(&mut shard, off(2 * MINUTE + 10_000, 3), vec![late]), [Handed::Taken]);
        shard.progress(at(3 * MINUTE), report("v2", 1, 30 * MINUTE));
        assert_eq!(resume(&mut shard, at(3 * MINUTE), "heat"), Some(resumes_at), "version {version}");
        shard.stop(at(4 * MINUTE), "v2", 30 * MINUTE);
        assert_eq!(resume(&mut shard, at(4 * MINUTE), "heat"), Some(resumes_at), "version {version}");
    }
}

#[test]
fn what_was_said_while_there_was_no_leader_is_later_than_what_was_said_before_though_the_shards_time_stood_still() {
    for version in [4, 5] {
        let mut shard = shard_of(ClusterVersion(version), 2);
        shard.start(at(0), start("v1", "tv", film("heat")));
        shard.progress(at(1000), report("v1", 1, 10 * MINUTE));
        shard.start(at(MINUTE), start("v2", "tv", film("heat")));
        shard.stop(at(100_000), "v2", 30 * MINUTE);
        // A minute without a leader begins 10 s later, and in the middle of it the first view is heard of again.
        let now = after_outage(110_000, MINUTE);
        let late = of("v1", told(Some(2), 40 * MINUTE, 40_000));
        assert_eq!(hand_off(&mut shard, now, vec![late]), [Handed::Taken]);
        assert_eq!(resume(&mut shard, now, "heat"), Some(40 * MINUTE), "version {version}");
    }
}

#[test]
fn a_view_whose_start_is_too_old_to_be_remembered_is_not_begun_twice() {
    let mut shard = shard(2);
    assert_eq!(hand_off(&mut shard, at(MINUTE), vec![let_in("d1", "pad", 0)]), [Handed::Taken]);
    shard.apply(at(10 * MINUTE), &Envelope::plain(Command::Tick));
    for n in 0..80u16 {
        let policy = AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(1 + n % 64));
        let envelope = Envelope::request(request(&format!("p{n}")), account("a"), policy);
        shard.apply(at(11 * MINUTE + u64::from(n)), &envelope);
    }
    let now = at(12 * MINUTE);
    let before = (active(&mut shard, now), plays(&mut shard, now, "d1"));
    hand_off(&mut shard, now, vec![let_in("d1", "pad", 11 * MINUTE)]);
    assert_eq!((active(&mut shard, now), plays(&mut shard, now, "d1")), before);
}

#[test]
fn what_is_parked_of_a_view_that_nobody_knows_is_asked_for_again() {
    let mut shard = shard(1);
    assert_eq!(hand_off(&mut shard, at(0), vec![of("v1", told(Some(1), MINUTE, 0))]), [Handed::Unknown]);
    let later = vec![let_in("v1", "tv", 2000)];
    assert_eq!(hand_off(&mut shard, at(1000), later), [Handed::Taken]);
    assert_eq!(hand_off(&mut shard, at(2000), vec![of("v1", told(Some(1), MINUTE, 1000))]), [Handed::Taken]);
}

#[test]
fn a_degraded_view_stays_one_in_images_and_before_the_third_version_there_is_none() {
    let mut shard = shard(2);
    hand_off(&mut shard, at(MINUTE), vec![let_in("d1", "pad", 1000)]);
    shard.checkpoint();
    shard.restart();
    assert!(active(&mut shard, at(MINUTE))[0].degraded);
    let mut second = Shard::new(Settings::default());
    second.apply(at(0), &Envelope::plain(Command::Adopt(ClusterVersion(2))));
    let early = AccountCommand::HandOff(HandOff { views: vec![let_in("d1", "pad", 0)] });
    assert!(matches!(second.run(at(0), early), Answer::Rejected(Rejection::Invalid { .. })));
}
