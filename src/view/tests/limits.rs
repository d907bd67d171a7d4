//! The stream limit.

use super::*;

fn two_streams() -> Shard {
    let mut shard = Shard::new(Settings { policy: StreamPolicy::streams(2), ..Settings::default() });
    shard.start(at(0), start("v1", "tv1", film("heat")));
    shard.start(at(1000), start("v2", "tv2", film("ran")));
    shard
}

fn ids(views: &[ActiveView]) -> Vec<&str> {
    views.iter().map(|v| v.view.as_str()).collect()
}

#[test]
fn a_start_over_the_limit_is_refused_and_names_the_views_in_the_way_oldest_first() {
    let mut shard = two_streams();
    match shard.reject(at(2000), AccountCommand::StartView(start("v3", "tv3", film("ikiru")))) {
        Rejection::StreamLimit { limit: 2, views } => assert_eq!(ids(&views), ["v1", "v2"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(ids(&shard.active(at(2000))), ["v1", "v2"]);
}

#[test]
fn the_oldest_or_a_named_view_makes_room_and_learns_it_at_its_next_report() {
    let mut shard = two_streams();
    let oldest = StartView { on_limit: OnLimit::EndOldest, ..start("v3", "tv3", film("ikiru")) };
    assert_eq!(shard.start(at(2000), oldest).ended, [view("v1")]);
    let named = StartView { on_limit: OnLimit::EndNamed(view("v3")), ..start("v4", "tv4", film("ikiru")) };
    assert_eq!(shard.start(at(3000), named).ended, [view("v3")]);
    for (ended, by) in [("v1", "tv3"), ("v3", "tv4")] {
        match shard.progress(at(60_000), report(ended, 1, 60_000)).directive {
            Directive::Stop(end) => assert_eq!((end.why, end.by), (EndReason::EndedForAnother, Some(device(by)))),
            other => panic!("{other:?}"),
        }
        let again = AccountCommand::StartView(start(ended, "tv9", film("heat")));
        assert!(matches!(shard.reject(at(60_000), again), Rejection::ViewEnded(_)));
    }
    let unknown = StartView { on_limit: OnLimit::EndNamed(view("v9")), ..start("v5", "tv5", film("ikiru")) };
    let rejection = shard.reject(at(4000), AccountCommand::StartView(unknown));
    assert_eq!(rejection, Rejection::NamedViewUnknown(view("v9")));
    assert_eq!(ids(&shard.active(at(60_000))), ["v2", "v4"]);
}

#[test]
fn a_named_view_that_is_active_and_holds_no_stream_leaves_the_limit_reached() {
    let mut shard = two_streams();
    shard.start(at(2000), StartView { kind: ViewKind::Preview, ..start("v3", "tv3", film("ikiru")) });
    let named = StartView { on_limit: OnLimit::EndNamed(view("v3")), ..start("v4", "tv4", film("ikiru")) };
    match shard.reject(at(3000), AccountCommand::StartView(named)) {
        Rejection::StreamLimit { limit: 2, views } => assert_eq!(ids(&views), ["v1", "v2"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(ids(&shard.active(at(3000))), ["v1", "v2", "v3"]);
}

#[test]
fn a_device_replaces_its_own_view_without_a_conflict() {
    let mut shard = two_streams();
    assert_eq!(shard.start(at(2000), start("v3", "tv1", film("ikiru"))).ended, [view("v1")]);
    let end = shard.progress(at(3000), report("v1", 1, 1000)).directive;
    assert!(matches!(end, Directive::Stop(EndedView { why: EndReason::Replaced, .. })));
}

#[test]
fn the_same_start_again_is_the_same_view_and_another_one_under_its_id_is_refused() {
    let mut shard = two_streams();
    let again = shard.start(at(2000), start("v1", "tv1", film("heat")));
    assert!(again.repeated && again.view.started_at == WallMs(WALL));
    let other = AccountCommand::StartView(start("v1", "tv1", film("ran")));
    assert_eq!(shard.reject(at(2000), other), Rejection::ViewIdInUse(view("v1")));
}

#[test]
fn previews_and_downloads_take_no_stream_and_a_preview_replaces_only_previews() {
    let mut shard = two_streams();
    let kind = |kind, id, on| StartView { kind, ..start(id, on, film("heat")) };
    assert!(shard.start(at(1), kind(ViewKind::Preview, "p1", "tv1")).ended.is_empty());
    assert_eq!(shard.start(at(1), kind(ViewKind::Preview, "p2", "tv1")).ended, [view("p1")]);
    assert!(shard.start(at(1), kind(ViewKind::Offline, "o1", "pad")).ended.is_empty());
    let live = AccountCommand::StartView(kind(ViewKind::Live, "l1", "tv3"));
    assert!(matches!(shard.reject(at(1), live), Rejection::StreamLimit { .. }));
}

#[test]
fn a_lower_limit_ends_nothing_and_the_next_title_keeps_the_stream() {
    let mut shard = two_streams();
    shard.run(at(2000), AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(1)));
    let next = NextView { view: view("v3"), media: film("ikiru"), position_ms: None };
    let stop = StopView {
        view: view("v1"),
        sequence: None,
        position_ms: None,
        played: Vec::new(),
        failed: false,
        next: Some(next),
    };
    match shard.run(at(3000), AccountCommand::StopView(stop)) {
        Answer::Stopped(stopped) => assert_eq!(stopped.next.map(|n| n.view.view), Some(view("v3"))),
        other => panic!("{other:?}"),
    }
    assert_eq!(ids(&shard.active(at(3000))), ["v2", "v3"]);
    for max_streams in [0, 65] {
        let bad = AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(max_streams));
        assert!(matches!(shard.reject(at(3000), bad), Rejection::Invalid { .. }));
    }
}

#[test]
fn an_account_has_at_most_128_active_views_and_64_profiles() {
    let mut shard = Shard::new(Settings::default());
    let offline = |n: usize, who: usize| StartView {
        kind: ViewKind::Offline,
        profile: profile(&format!("p{who}")),
        ..start(&format!("v{n}"), &format!("d{n}"), film("heat"))
    };
    for n in 0..PROFILES_MAX {
        shard.start(at(0), offline(n, n));
    }
    let rejection = shard.reject(at(0), AccountCommand::StartView(offline(900, 900)));
    assert_eq!(rejection, Rejection::TooManyProfiles { max: 64 });
    for n in PROFILES_MAX..ACCOUNT_VIEWS_MAX {
        shard.start(at(0), offline(n, 0));
    }
    let rejection = shard.reject(at(0), AccountCommand::StartView(offline(900, 0)));
    assert_eq!(rejection, Rejection::TooManyViews { max: 128 });
    shard.restart();
    assert_eq!(shard.active(at(0)).len(), 128);
    assert_eq!(shard.tick(at(200_000)), 64);
    assert_eq!(shard.tick(at(200_000)), 64);
    assert_eq!(shard.tick(at(200_000)), 0);
}
