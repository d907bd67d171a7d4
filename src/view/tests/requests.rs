//! Exactly once.

use super::*;

fn once(id: &str, issued: u64, command: AccountCommand) -> Envelope {
    Envelope {
        first_sent: Some(FirstSent::At(LogicalMs(issued))),
        ..Envelope::request(request(id), account("a"), command)
    }
}

#[test]
fn a_retry_gets_the_answer_of_the_first_and_changes_nothing() {
    let mut shard = Shard::new(Settings::default());
    let start = once("r1", 0, AccountCommand::StartView(start("v1", "tv", film("heat"))));
    let first = shard.apply(at(0), &start);
    shard.stop(at(MINUTE), "v1", MINUTE);
    shard.restart();
    let retry = shard.apply(at(2 * MINUTE), &start);
    assert_eq!(retry.answer, first.answer);
    assert!(retry.events.is_empty() && shard.active(at(0)).is_empty());
}

#[test]
fn a_request_id_for_another_command_is_refused() {
    let mut shard = Shard::new(Settings::default());
    shard.apply(at(0), &once("r1", 0, AccountCommand::StartView(start("v1", "tv", film("heat")))));
    let other = shard.apply(at(0), &once("r1", 0, AccountCommand::StartView(start("v2", "tv", film("heat")))));
    assert_eq!(other.answer, Answer::Rejected(Rejection::RequestIdReused));
}

#[test]
fn a_request_older_than_what_is_remembered_is_refused_but_a_start_that_still_runs_is_found() {
    let mut shard = Shard::new(Settings::default());
    let run = once("r0", 0, AccountCommand::StartView(start("v1", "tv", film("heat"))));
    shard.apply(at(0), &run);
    let policy = |n: u16| AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(1 + n % 64));
    for n in 0..65 {
        shard.apply(at(1000 + u64::from(n)), &once(&format!("p{n}"), 1000 + u64::from(n), policy(n)));
    }
    let lost = shard.apply(at(2000), &once("p0", 1000, policy(0))).answer;
    assert_eq!(lost, Answer::Rejected(Rejection::RequestTooOld { remembered_since: WallMs(WALL + 1000) }));
    assert!(matches!(shard.apply(at(2000), &run).answer, Answer::Started(started) if started.repeated));
    assert!(matches!(shard.apply(at(2000), &once("p1", 1001, policy(1))).answer, Answer::PolicyUpdated(_)));
}

#[test]
fn a_hundred_starts_at_a_limit_of_two_and_their_retries_give_two_views_and_ninety_eight_refusals() {
    let mut shard = Shard::new(Settings { policy: StreamPolicy::streams(2), ..Settings::default() });
    let command = |n: u64| {
        let start = start(&format!("v{n}"), &format!("tv{n}"), film("heat"));
        once(&format!("r{n}"), n, AccountCommand::StartView(start))
    };
    for _ in 0..3 {
        for n in 0..100 {
            match shard.apply(at(1000 + n), &command(n)).answer {
                Answer::Started(_) => assert!(n < 2),
                Answer::Rejected(Rejection::StreamLimit { views, .. }) => {
                    let named: Vec<_> = views.iter().map(|v| v.view.as_str()).collect();
                    assert_eq!(named, ["v0", "v1"]);
                }
                other => panic!("{other:?}"),
            }
        }
        shard.restart();
    }
}

#[test]
fn a_missing_row_stops_the_command_and_changes_nothing() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.checkpoint();
    shard.state.evict(0);
    let envelope = Envelope::plain(Command::Account(account("a"), stop("v1", None)));
    let digest = shard.state.digest();
    let Err(Stop::NotResident(missing)) = shard.state.apply(at(1), &envelope) else { panic!("it was resident") };
    assert!(missing.keys.iter().any(|k| k.class() == Some(RowClass::Title)));
    assert_eq!((shard.state.digest(), shard.active(at(1)).len()), (digest, 1));
}

#[test]
fn what_was_read_before_a_checkpoint_ended_is_not_taken_in() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), start("v1", "tv", film("heat")));
    let fence = shard.state.fence();
    shard.checkpoint();
    shard.state.evict(0);
    let key = shard.store.keys().next().unwrap().clone();
    assert!(!shard.state.admit(fence, RowKey::from_bytes(&key), None));
}

#[test]
fn an_age_is_dated_back_from_the_leaders_time_and_undated_it_counts_as_very_old() {
    let transit = FirstSent::TRANSIT_MS_MAX;
    let dated = FirstSent::AgoMs(5).dated(LogicalMs(transit + 12));
    assert_eq!(dated, FirstSent::At(LogicalMs(7)));
    assert_eq!(dated.dated(LogicalMs(u64::MAX)), dated);
    assert_eq!(FirstSent::AgoMs(u64::MAX).dated(LogicalMs(9)), FirstSent::At(LogicalMs(0)));
    let mut shard = Shard::new(Settings::default());
    for n in 0..66 {
        let command = AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(1 + n % 64));
        shard.apply(at(u64::from(n)), &once(&format!("p{n}"), u64::from(n), command));
    }
    let command = AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(1));
    let undated = Envelope { first_sent: Some(FirstSent::AgoMs(0)), ..once("p0", 0, command.clone()) };
    let refused = shard.apply(at(100), &undated).answer;
    assert!(matches!(refused, Answer::Rejected(Rejection::RequestTooOld { .. })), "{refused:?}");
    let first = Envelope { first_sent: None, ..once("new", 0, command) };
    assert!(
        matches!(shard.apply(at(100), &first).answer, Answer::PolicyUpdated(_)),
        "a first attempt is never too old"
    );
}

#[test]
fn a_refused_request_of_an_account_that_is_not_there_leaves_no_trace() {
    let mut shard = Shard::new(Settings::default());
    let end = AccountCommand::EndView(EndView { view: view("v1"), by: None });
    for (n, command) in [stop("v1", None), end].into_iter().enumerate() {
        let refused = shard.apply(at(0), &once(&format!("r{n}"), 0, command)).answer;
        assert_eq!(refused, Answer::Rejected(Rejection::ViewUnknown(view("v1"))));
    }
    assert_eq!((shard.state.counts().accounts, shard.state.dirty_bytes()), (0, 0));
    shard.start(at(0), start("v1", "tv", film("heat")));
    let late = once("r9", 0, stop("v2", None));
    let refused = shard.apply(at(0), &late).answer;
    shard.start(at(1), start("v2", "phone", film("heat")));
    assert_eq!(shard.apply(at(2), &late).answer, refused, "an account that is there remembers what it has refused");
}

#[test]
fn an_import_that_may_have_been_forgotten_is_done_again_and_adds_nothing() {
    let mut shard = Shard::new(Settings::default());
    let plays = vec![imports::past(0, 10, 1)];
    let import = once("i0", 0, AccountCommand::ImportHistory(ImportHistory { plays }));
    let results = |answer| match answer {
        Answer::Imported(imported) => imported.results,
        other => panic!("{other:?}"),
    };
    assert_eq!(results(shard.apply(at(0), &import).answer), [ImportResult::Added]);
    for n in 0..65 {
        let policy = AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(1 + n % 64));
        shard.apply(at(1000 + u64::from(n)), &once(&format!("p{n}"), 1000 + u64::from(n), policy));
    }
    assert_eq!(results(shard.apply(at(2000), &import).answer), [ImportResult::Unchanged]);
}
