//! Histories by hand: what is right, what is wrong, and what is told of it.

use super::*;

fn v1_started() -> Vec<Op> {
    vec![write(0, 10, start("v1", "d1"), started())]
}

fn with(mut ops: Vec<Op>, more: impl IntoIterator<Item = Op>) -> Vec<Op> {
    ops.extend(more);
    ops
}

#[test]
fn a_plain_history_is_right() {
    let ops = with(
        v1_started(),
        [
            write(20, 30, progress("v1", 1, 1000), applied()),
            read(40, 50, Mode::Strong, active(&[("v1", "d1", 1, 1000)])),
            write(60, 70, stop("v1", 2000), done()),
            read(80, 90, Mode::Strong, active(&[])),
            read(80, 90, Mode::Strong, Seen::Left { title: name("p/d1"), position_ms: Some(2000) }),
            read(80, 90, Mode::Strong, Seen::Ended(vec![(name("v1"), Some(2000))])),
        ],
    );
    assert_right(&ops);
}

#[test]
fn a_lost_write_is_found_and_told_with_what_matters() {
    let ops = with(
        v1_started(),
        [
            write(20, 30, progress("v1", 1, 1000), applied()),
            read(31, 32, Mode::Strong, active(&[("v1", "d1", 1, 1000)])),
            write(40, 50, progress("v1", 2, 2000), applied()),
            read(60, 70, Mode::Strong, active(&[("v1", "d1", 1, 1000)])),
            write(80, 90, stop("v1", 9000), done()),
        ],
    );
    let story = assert_wrong(&ops);
    let told = story.to_string();
    assert!(told.contains("sequence 2, at 2000 ms -> committed"), "{told}");
    assert!(told.contains("read STRONG -> active: v1 (sequence 1, 1000 ms)"), "{told}");
    assert!(told.contains("v1 on d1 at sequence 2, 2000 ms"), "{told}");
    assert!(!told.contains("31.000"), "a read that doesn't matter is told:\n{told}");
    assert!(!told.contains("stop v1"), "what came later is told:\n{told}");
}

#[test]
fn a_report_that_is_lost_and_overtaken_shows_in_the_played_time() {
    let seen = |watched_ms| {
        let view = SeenView { watched_ms: Some(watched_ms), ..seen_view("v1", "d1", 3, 3000) };
        let reports = (1..=3).map(|n| write(20 * n, 20 * n + 10, progress("v1", n, 1000 * n), applied()));
        with(with(v1_started(), reports), [read(100, 110, Mode::Strong, Seen::Active(vec![view]))])
    };
    assert_right(&seen(300));
    assert_wrong(&seen(200));
}

#[test]
fn a_strong_read_may_miss_what_happens_meanwhile_and_nothing_older() {
    let stale = |from, to| {
        let report = write(20, 50, progress("v1", 1, 1000), applied());
        with(v1_started(), [report, read(from, to, Mode::Strong, active(&[("v1", "d1", 0, 0)]))])
    };
    assert_right(&stale(25, 60));
    assert_wrong(&stale(51, 60));
}

#[test]
fn an_unknown_write_shows_later_or_never_but_not_before_and_not_back_and_forth() {
    let unknown = |seen: &[(u64, u64)]| {
        let reads = seen.iter().map(|(from, sequence)| {
            read(*from, from + 5, Mode::Strong, active(&[("v1", "d1", *sequence, sequence * 1000)]))
        });
        with(with(v1_started(), [write(100, 110, progress("v1", 1, 1000), Outcome::Unknown)]), reads)
    };
    assert_right(&unknown(&[(120, 0), (130, 0)]));
    assert_right(&unknown(&[(120, 0), (500, 1), (600, 1)]));
    assert_wrong(&unknown(&[(80, 1)]));
    assert_wrong(&unknown(&[(120, 1), (130, 0)]));
}

#[test]
fn what_was_unavailable_or_refused_has_changed_nothing() {
    for outcome in [Outcome::Unavailable, Outcome::Refused(Refusal::Other, None)] {
        let then = |sequence| {
            let report = write(20, 30, progress("v1", 1, 1000), outcome.clone());
            let seen = active(&[("v1", "d1", sequence, sequence * 1000)]);
            with(v1_started(), [report, read(40, 50, Mode::Strong, seen)])
        };
        assert_right(&then(0));
        assert_wrong(&then(1));
    }
}

#[test]
fn an_invented_view_and_one_that_comes_back_are_found() {
    assert_wrong(&with(v1_started(), [read(20, 30, Mode::Any, active(&[("v1", "d1", 0, 0), ("v9", "d9", 0, 0)]))]));
    let stopped = write(20, 30, stop("v1", 5000), done());
    assert_wrong(&with(v1_started(), [stopped.clone(), read(40, 50, Mode::Strong, active(&[("v1", "d1", 0, 0)]))]));
    let again = Outcome::Refused(Refusal::NotActive, None);
    assert_right(&with(v1_started(), [stopped.clone(), write(40, 50, start("v1", "d1"), again)]));
    assert_wrong(&with(v1_started(), [stopped, write(40, 50, start("v1", "d1"), started())]));
}

#[test]
fn two_writes_reordered_are_found() {
    let at = |revision| Outcome::Committed(Answer::Progressed { applied: true }, Some(Revision::Exact(revision)));
    let other = |revision| Outcome::Committed(Answer::Progressed { applied: false }, Some(Revision::Exact(revision)));
    // By time alone either order explains two calls at once, each with its answer.
    let both = |first, second| {
        with(v1_started(), [write(20, 50, progress("v1", 1, 1), first), write(20, 50, progress("v1", 2, 2), second)])
    };
    assert_right(&both(at(7), at(8)));
    assert_right(&both(other(8), at(7)));
    assert_wrong(&both(at(8), at(7)));
    // One after the other, and the revisions the other way round.
    let in_turn = [write(20, 30, progress("v1", 1, 1), at(8)), write(40, 50, progress("v1", 2, 2), at(7))];
    assert_wrong(&with(v1_started(), in_turn));
    // A start that is told to have ended what ran, after which that goes on.
    let replaces =
        Outcome::Committed(Answer::Started { ended: vec![name("v1")], repeated: false, degraded: false }, None);
    let on_d1 = write(20, 30, start("v2", "d1"), replaces);
    assert_right(&with(v1_started(), [write(11, 15, progress("v1", 1, 1000), applied()), on_d1.clone()]));
    assert_wrong(&with(v1_started(), [on_d1, write(40, 50, progress("v1", 1, 1000), applied())]));
}

#[test]
fn revisions_say_what_a_stale_read_has_to_show() {
    let at = |n| Outcome::Committed(Answer::Progressed { applied: true }, Some(Revision::Exact(n)));
    let read_at = |mode, revision, sequence: u64| {
        let info = Info { revision: Some(revision), ..Info::default() };
        let seen = active(&[("v1", "d1", sequence, sequence * 1000)]);
        Op { what: What::Read { mode, seen, info }, ..read(100, 110, Mode::Any, active(&[])) }
    };
    let ops = |read: Op| {
        let reports = [write(20, 30, progress("v1", 1, 1000), at(5)), write(40, 50, progress("v1", 2, 2000), at(9))];
        with(with(v1_started(), reports), [read])
    };
    assert_right(&ops(read_at(Mode::Any, 6, 1)));
    assert_right(&ops(read_at(Mode::Session(5), 5, 1)));
    assert_right(&ops(read_at(Mode::Session(9), 12, 2)));
    assert_wrong(&ops(read_at(Mode::Any, 6, 2)));
    assert_wrong(&ops(read_at(Mode::Any, 9, 1)));
    let story = assert_wrong(&ops(read_at(Mode::Session(9), 5, 1)));
    assert!(story.why.contains("had seen revision 9"), "{story}");
}

#[test]
fn a_bounded_read_is_not_staler_than_asked_and_no_answer_is_older_than_it_says() {
    let ops = |mode, age_ms, sequence: u64| {
        let info = Info { age_ms, ..Info::default() };
        let what = What::Read { mode, seen: active(&[("v1", "d1", sequence, sequence * 1000)]), info };
        let read = Op { what, ..read(3000, 3010, Mode::Any, active(&[])) };
        with(v1_started(), [write(1000, 1010, progress("v1", 1, 1000), applied()), read])
    };
    assert_right(&ops(Mode::Any, None, 0));
    assert_right(&ops(Mode::Bounded(2500), None, 0));
    assert_wrong(&ops(Mode::Bounded(1000), None, 0));
    assert_right(&ops(Mode::Bounded(1000), None, 1));
    assert_right(&ops(Mode::Any, Some(2500), 0));
    assert_wrong(&ops(Mode::Any, Some(1000), 0));
}

#[test]
fn the_limit_is_kept_by_views_that_are_not_degraded() {
    let two = |second: Outcome| {
        let limit = write(0, 5, Action::SetLimit { streams: 1 }, done());
        vec![limit, write(6, 10, start("v1", "d1"), started()), write(20, 30, start("v2", "d2"), second)]
    };
    assert_right(&two(Outcome::Refused(Refusal::StreamLimit(vec![name("v1")]), None)));
    assert_wrong(&two(started()));
    assert_right(&two(Outcome::Committed(Answer::Started { ended: vec![], repeated: false, degraded: true }, None)));
    let five: Vec<SeenView> = (0..5).map(|n| seen_view(&format!("v{n}"), &format!("d{n}"), 0, 0)).collect();
    let story = assert_wrong(&[read(0, 1, Mode::Any, Seen::Active(five))]);
    assert!(story.why.contains("never above 4"), "{story}");
}

#[test]
fn a_view_ends_by_itself_only_after_its_silence() {
    let gone_at = |ms| with(v1_started(), [read(ms, ms + 10, Mode::Strong, active(&[]))]);
    assert_wrong(&gone_at(60_000));
    assert_right(&gone_at(121_000));
}

#[test]
fn what_was_accepted_may_come_about_or_not_and_is_counted_apart() {
    let mut history = History::new(Rules::default());
    for (n, shows) in [(1, true), (2, false)] {
        let account = format!("a{n}");
        history.note(&*account, write(0, 10, start("v1", "d1"), started()));
        history.note(&*account, write(20, 30, progress("v1", 1, 1000), Outcome::Accepted));
        let seen = if shows { ("v1", "d1", 1, 1000) } else { ("v1", "d1", 0, 0) };
        history.note(&*account, read(40, 50, Mode::Strong, active(&[seen])));
    }
    let report = check(&history, &Bounds::default());
    assert!(report.is_right(), "{report}");
    assert_eq!((report.counts.accepted, report.counts.committed, report.counts.strong), (2, 2, 2));
}

#[test]
fn views_stand_in_the_order_of_their_starts_unless_something_was_handed_off_of_one() {
    let turned_round = |report: Outcome| {
        let ops = [
            write(0, 10, start("v1", "d1"), started()),
            write(20, 30, start("v2", "d2"), started()),
            write(40, 50, progress("v1", 1, 1000), report.clone()),
            write(60, 70, progress("v2", 1, 1000), report),
            read(80, 90, Mode::Strong, active(&[("v2", "d2", 1, 1000), ("v1", "d1", 1, 1000)])),
        ];
        ops.to_vec()
    };
    assert_wrong(&turned_round(applied()));
    assert_right(&turned_round(Outcome::Accepted));
}

#[test]
fn what_was_accepted_is_handed_off_to_a_view_that_has_ended_or_replaces_nothing_that_came_later() {
    let replaces = |ended: &[&str]| {
        let ended = ended.iter().map(|view| name(view)).collect();
        Outcome::Committed(Answer::Started { ended, repeated: false, degraded: false }, None)
    };
    let history = |seen: &[(&str, u64)]| Seen::Ended(seen.iter().map(|(view, at)| (name(view), Some(*at))).collect());
    // Its device goes on elsewhere before the hint is handed off.
    let ended = |sequence, at| {
        let report = write(20, 30, progress("v1", 3, 3000), Outcome::Accepted);
        let other = write(40, 50, start("v2", "d1"), replaces(&["v1"]));
        let before = write(11, 12, progress("v1", sequence, 1000), applied());
        with(v1_started(), [before, report, other, read(60, 70, Mode::Strong, history(&[("v1", at)]))])
    };
    assert_right(&ended(1, 3000));
    assert_right(&ended(1, 1000));
    assert_wrong(&ended(1, 2000));
    assert_wrong(&ended(4, 3000));
    // The same of a start: what came later stays.
    let let_in = [
        write(20, 30, start("v2", "d1"), Outcome::Accepted),
        write(31, 35, progress("v2", 2, 2000), Outcome::Accepted),
        write(40, 50, start("v3", "d1"), replaces(&["v1"])),
        read(60, 70, Mode::Strong, active(&[("v3", "d1", 0, 0)])),
    ];
    let ops = with(v1_started(), let_in);
    assert_right(&with(ops.clone(), [read(80, 90, Mode::Strong, history(&[("v1", 0)]))]));
    assert_right(&with(ops.clone(), [read(80, 90, Mode::Strong, history(&[("v1", 0), ("v2", 2000)]))]));
    assert_wrong(&with(ops, [read(80, 90, Mode::Strong, history(&[("v1", 0), ("v2", 2500)]))]));
}

#[test]
fn a_view_that_was_let_in_says_that_it_is_degraded() {
    let ops = |outcome: Outcome, degraded| {
        let seen = SeenView { degraded, ..seen_view("v1", "d1", 0, 0) };
        [write(0, 10, start("v1", "d1"), outcome), read(20, 30, Mode::Strong, Seen::Active(vec![seen]))]
    };
    assert_right(&ops(started(), false));
    assert_wrong(&ops(started(), true));
    assert_right(&ops(Outcome::Accepted, true));
    // An attempt before the one that was accepted may have been committed.
    assert_right(&ops(Outcome::Accepted, false));
}

#[test]
fn a_long_outage_is_decided_whatever_of_it_was_handed_off_when() {
    let mut ops = with(v1_started(), [write(0, 10, start("v2", "d2"), started())]);
    for n in 1..=30 {
        for view in ["v1", "v2"] {
            ops.push(write(20 * n, 20 * n + 10, progress(view, n, 1000 * n), Outcome::Accepted));
        }
    }
    let seen = |first, second| active(&[("v1", "d1", first, 1000 * first), ("v2", "d2", second, 1000 * second)]);
    for (at, first, second) in [(2000, 0, 30), (2100, 16, 30), (2200, 30, 30)] {
        ops.push(read(at, at + 10, Mode::Strong, seen(first, second)));
    }
    assert_right(&ops);
    ops.push(read(2300, 2310, Mode::Strong, seen(29, 30)));
    assert_wrong(&ops);
}

#[test]
fn where_a_bound_is_met_it_says_that_it_gave_up() {
    let unknown = (1..=24).map(|n| write(20, 30, progress("v1", n, n * 1000), Outcome::Unknown));
    let never = read(40, 50, Mode::Strong, active(&[("v1", "d1", 3, 1)]));
    let ops = with(with(v1_started(), unknown), [never]);
    let bounds = Bounds { steps_max: 1000, ..Bounds::default() };
    let verdict = check_account(&Rules::default(), &name("a"), &ops, &bounds);
    assert!(matches!(verdict, Verdict::GaveUp { .. }), "{verdict:?}");
    let mut history = History::new(Rules::default());
    ops.into_iter().for_each(|op| history.note("a", op));
    let report = check(&history, &bounds);
    assert!(!report.is_right() && report.to_string().contains("GAVE UP on 1 accounts"), "{report}");
}
