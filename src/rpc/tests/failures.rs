//! What callers are told when something goes wrong.

use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::bad_input::good_start;
use super::fake::{active, ended, serve};
use crate::ids::{ShardId, ViewId};
use crate::proto::v1;
use crate::proto::v1::admin_service_client::AdminServiceClient;
use crate::proto::v1::collection_service_client::CollectionServiceClient;
use crate::ring::ShardCount;
use crate::rpc::{Failure, Hint, Limits};
use crate::view::{Answer, EndReason, Rejection};

fn told(status: &Status) -> (Code, String, bool) {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "playhead");
    (status.code(), info.reason, status.get_details_retry_info().is_some())
}

fn detail<M: prost::Message + Default>(status: &Status, name: &str) -> M {
    let all = tonic_types::pb::Status::decode(status.details()).unwrap();
    let any = all.details.iter().find(|any| any.type_url.ends_with(name)).unwrap();
    M::decode(any.value.as_slice()).unwrap()
}

#[tokio::test]
async fn every_failure_has_its_code_its_reason_and_a_wait_where_waiting_helps() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let shard = ShardId(17);
    let table = [
        (Failure::NoLeader { shard, hint: None }, Code::Unavailable, "NO_LEADER", true),
        (Failure::NoMetaLeader, Code::Unavailable, "NO_LEADER", true),
        (Failure::Moving(shard), Code::Unavailable, "SHARD_MOVING", true),
        (Failure::Overloaded, Code::ResourceExhausted, "OVERLOADED", true),
        (Failure::Deadline, Code::DeadlineExceeded, "DEADLINE", false),
        (Failure::Unknown, Code::Unknown, "OUTCOME_UNKNOWN", true),
        (Failure::TooLarge, Code::InvalidArgument, "BAD_FIELD", false),
        (Failure::DiskFull, Code::ResourceExhausted, "DISK_FULL", true),
        (Failure::Raced, Code::Aborted, "READ_RACED", false),
        (Failure::NoCluster, Code::Unavailable, "NO_CLUSTER", true),
        (Failure::Internal("x".into()), Code::Internal, "INTERNAL", false),
    ];
    for (failure, code, reason, waits) in table {
        served.fake.outcomes.lock().push_back(Err(failure.clone()));
        let status = client.start_view(good_start()).await.unwrap_err();
        assert_eq!(told(&status), (code, reason.to_string(), waits), "{failure:?}");
    }
}

#[tokio::test]
async fn a_raise_of_the_version_that_may_have_been_done_is_told_as_unknown() {
    let served = serve(Limits::default()).await;
    let mut admin = AdminServiceClient::new(served.admin.clone());
    served.fake.outcomes.lock().push_back(Err(Failure::Unknown));
    let status = admin.raise_cluster_version(v1::RaiseClusterVersionRequest::default()).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unknown, "OUTCOME_UNKNOWN".to_string(), true));
}

#[tokio::test]
async fn every_rejection_by_the_rules_has_its_code_and_reason() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let view = || ViewId::new("v").unwrap();
    let table = [
        (Rejection::StreamLimit { limit: 2, views: vec![] }, Code::ResourceExhausted, "STREAM_LIMIT"),
        (Rejection::ViewEnded(ended("v", EndReason::EndedByOwner)), Code::FailedPrecondition, "VIEW_ENDED"),
        (Rejection::ViewExpired(ended("v", EndReason::Expired)), Code::NotFound, "VIEW_EXPIRED"),
        (Rejection::ViewUnknown(view()), Code::NotFound, "VIEW_EXPIRED"),
        (Rejection::ViewIdInUse(view()), Code::AlreadyExists, "VIEW_ID_TAKEN"),
        (Rejection::NamedViewUnknown(view()), Code::NotFound, "NAMED_VIEW_UNKNOWN"),
        (Rejection::TooManyViews { max: 9 }, Code::ResourceExhausted, "BOUND_REACHED"),
        (Rejection::TooManyProfiles { max: 9 }, Code::ResourceExhausted, "BOUND_REACHED"),
        (Rejection::RequestTooOld { remembered_since: Default::default() }, Code::OutOfRange, "REQUEST_TOO_OLD"),
        (Rejection::RequestIdReused, Code::Aborted, "REQUEST_ID_REUSED"),
        (Rejection::Invalid { field: "f".into(), accepted: "g".into() }, Code::InvalidArgument, "BAD_FIELD"),
        (Rejection::SettingsOlder { version: 3 }, Code::Aborted, "CONFLICT"),
    ];
    for (rejection, code, reason) in table {
        served.fake.outcomes.lock().push_back(Ok(Answer::Rejected(rejection.clone())));
        let status = client.start_view(good_start()).await.unwrap_err();
        assert_eq!(told(&status), (code, reason.to_string(), false), "{rejection:?}");
        let names_field = status.message().starts_with("end_view_id: ");
        assert_eq!(names_field, reason == "NAMED_VIEW_UNKNOWN", "{status:?}");
    }
}

#[tokio::test]
async fn a_reached_limit_names_the_views_in_the_way_and_an_ended_view_who_ended_it() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let full = Rejection::StreamLimit { limit: 2, views: vec![active("a"), active("b")] };
    served.fake.outcomes.lock().push_back(Ok(Answer::Rejected(full)));
    let status = client.start_view(good_start()).await.unwrap_err();
    let limit: v1::StreamLimitReached = detail(&status, "playhead.v1.StreamLimitReached");
    let views: Vec<&str> = limit.active_views.iter().map(|v| v.view_id.as_str()).collect();
    assert_eq!((limit.max_streams, views), (2, vec!["a", "b"]));

    let gone = Rejection::ViewEnded(ended("v", EndReason::EndedByOwner));
    served.fake.outcomes.lock().push_back(Ok(Answer::Rejected(gone)));
    let status = client.start_view(good_start()).await.unwrap_err();
    let gone: v1::ViewEnded = detail(&status, "playhead.v1.ViewEnded");
    assert_eq!((gone.reason(), gone.by_device_id.as_str()), (v1::EndReason::EndedByOwner, "phone"));
}

#[tokio::test]
async fn details_fit_into_trailers_however_many_views_are_in_the_way() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let views = vec![active(&"v".repeat(128)); 64];
    served.fake.outcomes.lock().push_back(Ok(Answer::Rejected(Rejection::StreamLimit { limit: 64, views })));
    let status = client.start_view(good_start()).await.unwrap_err();
    assert_eq!(told(&status).1, "STREAM_LIMIT");
    assert!(status.details().len() < 5_000);
}

#[tokio::test]
async fn a_known_leader_is_named_beside_the_error() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let hint = Some(Hint { shard: ShardId(17), leader: "http://127.0.0.1:1".into() });
    served.fake.outcomes.lock().push_back(Err(Failure::NoLeader { shard: ShardId(17), hint }));
    let status = client.start_view(good_start()).await.unwrap_err();
    assert_eq!(status.metadata().get("playhead-leader").unwrap(), "http://127.0.0.1:1");
    assert_eq!(status.metadata().get("playhead-shard").unwrap(), &format!("17/{}", ShardCount::DEFAULT));
}

#[tokio::test]
async fn without_a_cluster_calls_are_refused_and_health_says_so() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let served = serve(Limits::default()).await;
    *served.fake.cluster.lock() = None;
    let status = CollectionServiceClient::new(served.clients.clone()).start_view(good_start()).await.unwrap_err();
    assert_eq!(told(&status).1, "NO_CLUSTER");

    let mut health = HealthClient::new(served.clients.clone());
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    // The first status may be of a moment before the services were named.
    let mut wait = async |wanted: ServingStatus| while watch.message().await.unwrap().unwrap().status() != wanted {};
    wait(ServingStatus::Serving).await;
    served.fake.ready.send_replace(false);
    wait(ServingStatus::NotServing).await;
}

#[tokio::test]
async fn a_node_with_too_much_at_work_says_overloaded() {
    let served = serve(Limits { calls: 0, ..Limits::default() }).await;
    let status = CollectionServiceClient::new(served.clients.clone()).start_view(good_start()).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".into(), true));
}

#[tokio::test]
async fn stopping_ends_streams_and_does_not_wait_for_ever() {
    let served = serve(Limits { grace: Duration::from_millis(100), ..Limits::default() }).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let (_open, messages) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut answers = client.report_progress_stream(stream).await.unwrap().into_inner();
    served.stop.cancel();
    assert!(matches!(answers.message().await, Ok(None) | Err(_)));
    served.done.await.unwrap().unwrap();
}
