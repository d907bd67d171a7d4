//! Single calls.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::fake::{Reply, Script, builder, hasty, nobody, patient, serve, stream_limit, told, void};
use crate::client::Error;
use crate::proto::v1;
use crate::proto::v1::ErrorReason as R;

fn start() -> v1::StartViewRequest {
    v1::StartViewRequest { account_id: "alice".into(), view_id: "v".into(), ..Default::default() }
}

fn get() -> v1::GetViewRequest {
    v1::GetViewRequest { account_id: "alice".into(), view_id: "v".into(), ..Default::default() }
}

fn no_leader() -> Reply {
    Reply::Fail(told(Code::Unavailable, R::NoLeader, Some(Duration::from_millis(1))))
}

fn unknown() -> Reply {
    Reply::Fail(told(Code::Unknown, R::OutcomeUnknown, Some(Duration::from_millis(1))))
}

#[tokio::test]
async fn a_write_is_tried_again_under_one_request_id_until_it_is_answered() {
    let script = Script::replies([no_leader(), unknown(), Reply::Fail(Status::unavailable("proxy")), Reply::Ok]);
    let (endpoint, _guard) = serve(&script).await;
    patient(&[&endpoint]).start_view(start()).await.unwrap();
    let seen = script.seen();
    assert_eq!(seen.len(), 4);
    assert!(!seen[0].is_empty() && seen.iter().all(|id| *id == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn what_is_refused_for_load_is_tried_again_by_a_fifth_of_the_calls_and_a_reserve_and_no_more() {
    let refused = told(Code::ResourceExhausted, R::Overloaded, Some(Duration::from_millis(1)));
    let script = Script::replies([Reply::Fail(refused)]);
    let (endpoint, _guard) = serve(&script).await;
    let client = patient(&[&endpoint]).with_deadline(Duration::from_millis(200));
    let mut last = None;
    for _ in 0..500 {
        last = client.start_view(start()).await.err();
        if script.seen().len() > 10_000 {
            break;
        }
    }
    assert!(matches!(last, Some(Error::Unavailable { reason: R::Overloaded, .. })), "{last:?}");
    let seen = script.seen().len();
    assert!((500..=500 + 100 + 100).contains(&seen), "{seen} requests of 500 calls");
}

#[tokio::test]
async fn a_callers_own_request_id_is_kept_and_two_calls_never_share_a_made_one() {
    let script = Script::default();
    let (endpoint, _guard) = serve(&script).await;
    let client = patient(&[&endpoint]);
    client.start_view(v1::StartViewRequest { request_id: "mine".into(), ..start() }).await.unwrap();
    client.start_view(start()).await.unwrap();
    client.start_view(start()).await.unwrap();
    let seen = script.seen();
    assert_eq!(seen[0], "mine");
    assert_ne!(seen[1], seen[2]);
}

#[tokio::test]
async fn a_rejection_ends_the_call_at_once_with_all_its_details() {
    let mut details = ErrorDetails::with_error_info("BAD_FIELD", "playhead", std::collections::HashMap::new());
    details.add_bad_request_violation("account_id", "must not be empty");
    details.add_bad_request_violation("position_ms", "is -1");
    let script = Script::replies([
        Reply::Fail(Status::with_error_details(Code::InvalidArgument, "two", details)),
        Reply::Fail(stream_limit("kitchen")),
    ]);
    let (endpoint, _guard) = serve(&script).await;
    let client = patient(&[&endpoint]);
    let error = client.start_view(start()).await.unwrap_err();
    assert_eq!(error.reason(), Some(R::BadField));
    let fields: Vec<String> = error.rejection().unwrap().violations.iter().map(|v| v.field.clone()).collect();
    assert_eq!(fields, ["account_id", "position_ms"]);
    let error = client.start_view(start()).await.unwrap_err();
    let limit = error.rejection().unwrap().stream_limit.clone().unwrap();
    assert_eq!(limit.active_views[0].view_id, "kitchen");
    assert_eq!(script.seen().len(), 2);
}

#[tokio::test]
async fn what_nobody_decided_in_time_is_unavailable_when_nothing_can_have_happened() {
    let script = Script::replies([no_leader()]);
    let (endpoint, _guard) = serve(&script).await;
    let client = hasty(&[&endpoint]);
    assert!(matches!(client.start_view(start()).await, Err(Error::Unavailable { .. })));
    assert!(matches!(client.get_view(get()).await, Err(Error::Unavailable { reason: R::NoLeader, .. })));
    assert!(script.seen().len() > 2);
}

#[tokio::test]
async fn a_write_that_may_have_happened_is_unknown_and_a_read_is_not() {
    let script = Script::replies([Reply::Hang]);
    let (endpoint, _guard) = serve(&script).await;
    let client = hasty(&[&endpoint]);
    assert!(matches!(client.start_view(start()).await, Err(Error::Unknown { .. })));
    assert!(matches!(client.get_view(get()).await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn a_later_refusal_does_not_make_an_unknown_outcome_known() {
    let script = Script::replies([unknown(), no_leader()]);
    let (endpoint, _guard) = serve(&script).await;
    assert!(matches!(hasty(&[&endpoint]).start_view(start()).await, Err(Error::Unknown { .. })));
}

#[tokio::test]
async fn an_answered_report_tells_whether_it_may_have_been_taken_before() {
    for (first, repeated) in [(unknown(), true), (no_leader(), false)] {
        let script = Script::replies([first, Reply::Ok]);
        let (endpoint, _guard) = serve(&script).await;
        let report =
            v1::ProgressReport { account_id: "alice".into(), view_id: "v".into(), sequence: 1, ..Default::default() };
        assert_eq!(patient(&[&endpoint]).report(report).await.unwrap().repeated, repeated);
    }
}

#[tokio::test]
async fn nobody_listening_means_that_nothing_happened() {
    let endpoint = nobody().await;
    let outcome = hasty(&[&endpoint]).start_view(start()).await;
    assert!(matches!(outcome, Err(Error::Unavailable { reason: R::Unspecified, .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_write_whose_time_ran_out_before_there_was_a_connection_did_not_happen() {
    let builder = || builder(&["http://127.0.0.1:1"]).net(void()).deadline(Duration::from_millis(40));
    let outcome = builder().build().unwrap().start_view(start()).await;
    assert!(matches!(outcome, Err(Error::Unavailable { reason: R::Unspecified, .. })), "{outcome:?}");
    let outcome = builder().build_admin().unwrap().transfer_leader(v1::TransferLeaderRequest::default()).await;
    assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
}

#[tokio::test]
async fn only_asking_what_a_change_would_do_is_never_unknown() {
    // Hangs up on everybody whose request has come whole.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut wire, _)) = listener.accept().await {
            let mut come = Vec::new();
            while !come.windows(10).any(|some| some == b"from-there") && wire.read_buf(&mut come).await.unwrap_or(0) > 0
            {
            }
        }
    });
    for (only_asked, deadline) in [(true, Duration::from_millis(300)), (false, Duration::from_secs(60))] {
        let admin = builder(&[&at]).deadline(deadline).build_admin().unwrap();
        let from_node = "from-there".to_string();
        let request = v1::MoveReplicaRequest { from_node, validate_only: only_asked, ..Default::default() };
        let outcome = admin.move_replica(request).await;
        assert_eq!(matches!(outcome, Err(Error::Unavailable { .. })), only_asked, "{outcome:?}");
        assert_eq!(matches!(outcome, Err(Error::Unknown { .. })), !only_asked, "{outcome:?}");
    }
}

#[tokio::test]
async fn another_endpoint_is_asked_when_one_does_not_answer() {
    let script = Script::default();
    let (endpoint, _guard) = serve(&script).await;
    let client = patient(&[&nobody().await, &nobody().await, &endpoint]);
    for _ in 0..5 {
        client.get_view(get()).await.unwrap();
    }
    assert_eq!(script.seen().len(), 5);
}

#[tokio::test]
async fn a_node_that_has_just_started_and_knows_no_cluster_is_left_for_another() {
    let starting = Script::replies([Reply::Fail(told(Code::Unavailable, R::NoCluster, None))]);
    let well = Script::default();
    let ((starting_at, _a), (well_at, _b)) = (serve(&starting).await, serve(&well).await);
    patient(&[&starting_at, &well_at]).start_view(start()).await.unwrap();
    assert_eq!(starting.seen(), well.seen());
}

#[tokio::test]
async fn a_node_that_hangs_costs_one_attempt_not_the_call() {
    let (stuck, well) = (Script::replies([Reply::Hang]), Script::default());
    let ((stuck_at, _a), (well_at, _b)) = (serve(&stuck).await, serve(&well).await);
    let client = builder(&[&stuck_at, &well_at])
        .deadline(Duration::from_secs(60))
        .attempt(Duration::from_millis(50))
        .build()
        .unwrap();
    client.start_view(start()).await.unwrap();
    assert_eq!(stuck.seen(), well.seen());
}

#[tokio::test]
async fn the_next_call_goes_to_the_leader_that_an_answer_named() {
    let leader = Script::default();
    let (leader_at, _a) = serve(&leader).await;
    let follower = Script::replies([Reply::Hint(leader_at)]);
    let (follower_at, _b) = serve(&follower).await;
    let client = patient(&[&follower_at]);
    for _ in 0..4 {
        client.get_view(get()).await.unwrap();
    }
    assert_eq!((follower.seen().len(), leader.seen().len()), (1, 3));
}

#[tokio::test]
async fn a_deadline_that_a_wait_would_outlast_ends_the_call_without_waiting() {
    let hour = Duration::from_secs(3_600);
    let script = Script::replies([Reply::Fail(told(Code::ResourceExhausted, R::Overloaded, Some(hour)))]);
    let (endpoint, _guard) = serve(&script).await;
    let error = patient(&[&endpoint]).start_view(start()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { attempts: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn every_fault_of_a_description_is_named() {
    let error = builder(&["http://", "ftp://a:1", "nonsense"]).build().unwrap_err();
    assert_eq!(error.faults.len(), 3, "{error}");
    assert!(builder(&[]).build().is_err());
}

#[tokio::test]
async fn an_attempt_after_one_that_may_have_been_done_says_how_old_its_request_is() {
    let script = Script::replies([no_leader(), unknown(), no_leader(), Reply::Ok]);
    let (endpoint, _guard) = serve(&script).await;
    patient(&[&endpoint]).start_view(start()).await.unwrap();
    let ages = script.ages();
    assert!(matches!(ages[..], [None, None, Some(a), Some(b)] if a <= b), "{ages:?}");
}

#[tokio::test]
async fn a_request_repeated_after_an_unknown_end_is_as_old_as_its_first_attempt_and_its_end_stays_unknown() {
    let script = Script::replies([Reply::Hang]);
    let (endpoint, _guard) = serve(&script).await;
    let client = hasty(&[&endpoint]);
    let mine = || v1::StartViewRequest { request_id: "mine".into(), ..start() };
    assert!(matches!(client.start_view(mine()).await, Err(Error::Unknown { .. })));
    let before = script.ages().len();
    let told = told(Code::OutOfRange, R::RequestTooOld, None);
    script.then([Reply::Fail(told)]);
    let again = client.with_deadline(Duration::from_secs(5)).start_view(mine()).await;
    assert!(matches!(again, Err(Error::Unknown { .. })), "it may have been done: {again:?}");
    assert!(script.ages()[before].is_some_and(|age| age > 0), "{:?}", script.ages());
}

#[tokio::test]
async fn a_request_whose_call_was_dropped_is_as_old_as_its_first_attempt_when_it_is_repeated() {
    let script = Script::replies([Reply::Hang]);
    let (endpoint, _guard) = serve(&script).await;
    let client = patient(&[&endpoint]);
    let mine = || v1::StartViewRequest { request_id: "mine".into(), ..start() };
    let dropped = tokio::time::timeout(Duration::from_millis(50), client.start_view(mine())).await;
    assert!(dropped.is_err(), "{dropped:?}");
    let before = script.ages().len();
    script.then([Reply::Ok]);
    client.start_view(mine()).await.unwrap();
    assert!(script.ages()[before].is_some_and(|age| age > 0), "{:?}", script.ages());
}

#[tokio::test]
async fn a_request_of_a_client_before_a_restart_is_as_old_as_its_caller_says() {
    let script = Script::default();
    let (endpoint, _guard) = serve(&script).await;
    let client = patient(&[&endpoint]).repeating(Duration::from_secs(3600));
    client.start_view(v1::StartViewRequest { request_id: "mine".into(), ..start() }).await.unwrap();
    client.start_view(start()).await.unwrap();
    let ages = script.ages();
    assert!(matches!(ages[..], [Some(age), None] if age >= 3_600_000), "{ages:?}");
}
