//! Well-formed calls: what reaches the backend, and what comes back.

use std::time::Duration;

use prost_types::Timestamp;

use super::bad_input::{good_play, good_report, good_start};
use super::fake::serve;
use crate::ids::{AccountId, DeviceId, Revision, ViewId};
use crate::proto::v1;
use crate::proto::v1::account_service_client::AccountServiceClient;
use crate::proto::v1::admin_service_client::AdminServiceClient;
use crate::proto::v1::collection_service_client::CollectionServiceClient;
use crate::proto::v1::history_service_client::HistoryServiceClient;
use crate::proto::v1::progress_service_client::ProgressServiceClient;
use crate::raft::{ReadMode, Reading};
use crate::ring::{ShardCount, Token};
use crate::rpc::Limits;
use crate::rpc::wish::{revision_text, told};
use crate::view::{
    AccountCommand, Command, OnLimit, PlayState, Played, Query, Reply, ReportProgress, TitleType, ViewKind, ViewStatus,
};

fn only(proposed: &[crate::view::Envelope]) -> &AccountCommand {
    match &proposed[0].command {
        Command::Account(_, command) => command,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_start_arrives_whole_and_its_answer_comes_back_whole() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let request = v1::StartViewRequest {
        request_id: "r".into(),
        title_type: v1::TitleType::Episode.into(),
        kind: v1::ViewKind::Live.into(),
        position_ms: Some(0),
        duration_ms: Some(10),
        credits_position_ms: Some(9),
        on_limit: v1::OnLimit::EndNamed.into(),
        end_view_id: "other".into(),
        ..good_start()
    };
    let answer = client.start_view(request).await.unwrap().into_inner();
    {
        let proposed = served.fake.proposed.lock();
        assert_eq!(proposed[0].request_id.as_ref().map(AsRef::as_ref), Some("r"));
        let AccountCommand::StartView(start) = only(&proposed) else { panic!() };
        assert_eq!(
            (start.media.title_type, start.kind, start.position_ms),
            (TitleType::Episode, ViewKind::Live, Some(0))
        );
        assert_eq!((start.media.duration_ms, start.media.credits_ms), (Some(10), Some(9)));
        assert_eq!(start.on_limit, OnLimit::EndNamed(ViewId::new("other").unwrap()));
    }
    let started = answer.started.unwrap();
    assert_eq!((started.progress_interval_ms, started.resume_position_ms), (60_000, Some(5_000)));
    assert!(started.brought_back && !started.already_active);
    assert_eq!(started.ended_view_ids, ["old"]);
    let view = started.view.unwrap();
    assert_eq!((view.account_id.as_str(), view.view_id.as_str(), view.state()), ("alice", "v", v1::PlayState::Paused));
    assert_eq!(view.start_time, Some(Timestamp { seconds: 1_700_000_000, nanos: 123_000_000 }));
    let info = answer.write_info.unwrap();
    assert_eq!((info.shard, info.revision.as_str()), (17, "0000abcd-12-5"));
}

#[tokio::test]
async fn a_write_without_a_request_id_gets_one_and_progress_needs_none() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    client.start_view(good_start()).await.unwrap();
    client.start_view(good_start()).await.unwrap();
    client.report_progress(v1::ReportProgressRequest { report: Some(good_report()) }).await.unwrap();
    let proposed = served.fake.proposed.lock();
    assert!(proposed[0].request_id.is_some() && proposed[0].request_id != proposed[1].request_id);
    assert_eq!(proposed[2].request_id, None);
}

#[tokio::test]
async fn reports_stops_and_ends_arrive_whole() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let played_ranges = vec![v1::PlayedRange { start_ms: 1, end_ms: 2 }];
    let report = v1::ProgressReport {
        position_ms: Some(2),
        state: v1::PlayState::Buffering.into(),
        seeked: true,
        played_ranges: played_ranges.clone(),
        ..good_report()
    };
    client.report_progress(v1::ReportProgressRequest { report: Some(report) }).await.unwrap();
    let stop = v1::StopViewRequest {
        account_id: "alice".into(),
        view_id: "v".into(),
        sequence: Some(4),
        played_ranges,
        failed: true,
        next: Some(v1::NextTitle { view_id: "w".into(), title_id: "t".into(), ..Default::default() }),
        ..Default::default()
    };
    let stopped = client.stop_view(stop).await.unwrap().into_inner();
    assert_eq!(stopped.next.unwrap().view.unwrap().view_id, "w");
    let end = v1::EndViewRequest {
        account_id: "alice".into(),
        view_id: "v".into(),
        by_device_id: "tv".into(),
        ..Default::default()
    };
    assert_eq!(client.end_view(end).await.unwrap().into_inner().view_id, "v");

    let proposed = served.fake.proposed.lock();
    let played = vec![Played { from_ms: 1, to_ms: 2 }];
    let view = ViewId::new("v").unwrap();
    let expected = ReportProgress {
        view,
        sequence: 1,
        position_ms: Some(2),
        state: PlayState::Buffering,
        played: played.clone(),
        seeked: true,
    };
    assert_eq!(*only(&proposed), AccountCommand::ReportProgress(expected));
    let AccountCommand::StopView(stop) = only(&proposed[1..]) else { panic!() };
    assert_eq!((stop.sequence, stop.failed, &stop.played), (Some(4), true, &played));
    let AccountCommand::EndView(end) = only(&proposed[2..]) else { panic!() };
    assert_eq!(end.by, Some(DeviceId::new("tv").unwrap()));
}

#[tokio::test]
async fn an_answer_says_who_gave_it_and_a_stale_one_how_old_it_is() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let shard = ShardCount::DEFAULT.shard_of(Token::of(&AccountId::new("alice").unwrap()));
    let revision = revision_text(served.fake.cluster.lock().unwrap(), shard, Revision(5));
    for (options, mode) in [
        (None, ReadMode::Strong),
        (Some(v1::ReadOptions::strong()), ReadMode::Strong),
        (Some(v1::ReadOptions::lease()), ReadMode::Lease),
        (Some(v1::ReadOptions::bounded(Duration::from_secs(5))), ReadMode::Bounded(5_000)),
        (Some(v1::ReadOptions::session(revision)), ReadMode::Session(Revision(5))),
        (Some(v1::ReadOptions::any()), ReadMode::Any),
    ] {
        let request = v1::ListActiveViewsRequest { account_id: "alice".into(), read_options: options };
        let answer = client.list_active_views(request).await.unwrap().into_inner();
        assert_eq!(answer.views.len(), 2);
        assert_eq!(served.fake.queried.lock().last().unwrap().1, mode.into());
        let info = answer.read_info.unwrap();
        assert_eq!((info.served_by.as_str(), info.role(), info.shard), ("node-1", v1::ReplicaRole::Follower, 17));
        // The state's own time is told of a stale read only.
        let as_of = info.as_of_time.unwrap();
        assert_eq!(as_of.seconds == 1_600_000_000, !mode.needs_leader());
        // Nobody can say how old the others are, and so nobody does.
        assert_eq!(info.age_ms, mode.needs_leader().then_some(0));
        assert_eq!(info.mode(), told(mode));
        // A fresh answer is told to be as new as its question, never as new as its arrival.
        let as_of_ms = as_of.seconds as u64 * 1_000 + as_of.nanos as u64 / 1_000_000;
        let asked = served.fake.queried_at.lock().take().unwrap();
        assert!(as_of_ms <= asked.0, "as of {as_of_ms}, asked at {asked}");
    }
}

#[tokio::test]
async fn an_age_is_told_and_what_is_as_of_then_and_how_long_somebody_waits_for_better() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    *served.fake.age_ms.lock() = Some(2_500);
    let options = v1::ReadOptions::any().or_stale_after(Duration::from_millis(300));
    let request = v1::ListActiveViewsRequest { account_id: "alice".into(), read_options: Some(options) };
    let info = client.list_active_views(request).await.unwrap().into_inner().read_info.unwrap();
    assert_eq!((info.age_ms, info.age_at_most()), (Some(2_500), Some(Duration::from_millis(2_500))));
    let asked = served.fake.queried_at.lock().take().unwrap();
    let as_of = info.as_of_time.unwrap();
    let as_of_ms = as_of.seconds as u64 * 1_000 + as_of.nanos as u64 / 1_000_000;
    assert!(as_of_ms <= asked.0 - 2_500 && as_of_ms > 1_600_000_000_000, "as of {as_of_ms}, asked at {asked}");
    let reading = served.fake.queried.lock().last().unwrap().1;
    assert_eq!(reading, Reading { mode: ReadMode::Any, stale_after: Some(Duration::from_millis(300)) });
}

#[tokio::test]
async fn an_unknown_view_is_told_as_expired() {
    let served = serve(Limits::default()).await;
    served.fake.replies.lock().push_back(Ok(Reply::View(ViewStatus::Unknown)));
    let request = v1::GetViewRequest { account_id: "a".into(), view_id: "v".into(), read_options: None };
    let status = CollectionServiceClient::new(served.clients.clone()).get_view(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    let told: tonic_types::pb::Status = prost::Message::decode(status.details()).unwrap();
    let info = told.details.iter().find(|detail| detail.type_url.ends_with("/playhead.v1.ReadInfo")).unwrap();
    let info: v1::ReadInfo = prost::Message::decode(&info.value[..]).unwrap();
    assert_eq!((info.served_by.as_str(), info.mode()), ("node-1", v1::ReadMode::Strong), "also that there is nothing");
}

#[tokio::test]
async fn resume_points_come_in_the_order_asked() {
    let served = serve(Limits::default()).await;
    let mut client = ProgressServiceClient::new(served.clients.clone());
    let request = v1::BatchGetResumePointsRequest {
        account_id: "a".into(),
        profile_id: "p".into(),
        title_ids: vec!["z".into(), "y".into(), "z".into()],
        read_options: None,
    };
    let answer = client.batch_get_resume_points(request).await.unwrap().into_inner();
    let titles: Vec<&str> = answer.resume_points.iter().map(|p| p.title_id.as_str()).collect();
    assert_eq!(titles, ["z", "y", "z"]);
    assert_eq!((answer.resume_points[0].position_ms, answer.resume_points[0].last_position_ms), (Some(42), Some(43)));
}

#[tokio::test]
async fn pages_of_history_go_on_where_they_ended_and_only_for_the_same_list() {
    let served = serve(Limits::default()).await;
    let mut client = HistoryServiceClient::new(served.clients.clone());
    let request = v1::ListHistoryRequest {
        account_id: "a".into(),
        profile_id: "p".into(),
        include_plays: true,
        start_time_min: Some(Timestamp { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let answer = client.list_history(request.clone()).await.unwrap().into_inner();
    let entry = &answer.entries[0];
    // Where the play that ended last left it, though another began later.
    assert_eq!((entry.position_ms, entry.play_count, entry.plays.len(), entry.watched_ms), (Some(77), 2, 2, 9_000));
    assert_eq!(entry.title_type(), v1::TitleType::Episode);

    let page_token = answer.next_page_token;
    let next = v1::ListHistoryRequest { page_token: page_token.clone(), page_size: 7, ..request.clone() };
    client.list_history(next).await.unwrap();
    {
        let queried = served.fake.queried.lock();
        let Query::ListHistory(_, _, _, page) = &queried[1].0 else { panic!() };
        assert_eq!((page.after.as_deref(), page.items_max, page.bytes_max), (Some(&b"place"[..]), 7, Some(1 << 20)));
    }
    for other in [
        v1::ListHistoryRequest { account_id: "b".into(), ..request.clone() },
        v1::ListHistoryRequest { profile_id: "q".into(), ..request.clone() },
        v1::ListHistoryRequest { title_id: "t".into(), ..request.clone() },
        v1::ListHistoryRequest { start_time_min: None, ..request.clone() },
    ] {
        let refused = client.list_history(v1::ListHistoryRequest { page_token: page_token.clone(), ..other }).await;
        assert!(refused.unwrap_err().message().contains("another list"));
    }
    let row = v1::ListContinueWatchingRequest {
        account_id: "a".into(),
        profile_id: "p".into(),
        page_token,
        ..Default::default()
    };
    assert!(ProgressServiceClient::new(served.clients.clone()).list_continue_watching(row).await.is_err());
}

#[tokio::test]
async fn an_import_is_counted() {
    let served = serve(Limits::default()).await;
    let request =
        v1::BatchImportHistoryRequest { account_id: "a".into(), plays: vec![good_play(); 3], ..Default::default() };
    let answer = HistoryServiceClient::new(served.clients.clone()).batch_import_history(request).await.unwrap();
    assert_eq!((answer.get_ref().added, answer.get_ref().results.len()), (3, 3));
    let proposed = served.fake.proposed.lock();
    let AccountCommand::ImportHistory(import) = only(&proposed) else { panic!() };
    assert_eq!((import.plays[0].start.0, import.plays[0].elapsed_ms), (1_600_000_000_005, 60_000));
}

#[tokio::test]
async fn a_play_with_figures_out_of_range_leaves_the_others_of_its_request_alone() {
    let served = serve(Limits::default()).await;
    let odd = |elapsed_ms, position_ms, duration_ms| v1::ImportPlay {
        elapsed_ms,
        position_ms: Some(position_ms),
        duration_ms: Some(duration_ms),
        ..good_play()
    };
    let plays = vec![good_play(), odd(-1, 0, 1), odd(0, i64::MAX, 1), odd(0, 0, i64::MIN), odd(0, 0, 0), good_play()];
    let request = v1::BatchImportHistoryRequest { account_id: "a".into(), plays, ..Default::default() };
    HistoryServiceClient::new(served.clients.clone()).batch_import_history(request).await.unwrap();
    let proposed = served.fake.proposed.lock();
    let AccountCommand::ImportHistory(import) = only(&proposed) else { panic!() };
    let beyond = crate::view::MEDIA_MS_MAX + 1;
    let figures: Vec<_> = import.plays.iter().map(|p| (p.elapsed_ms, p.position_ms, p.duration_ms)).collect();
    assert_eq!(
        figures[1..5],
        [(beyond, Some(0), Some(1)), (0, Some(beyond), Some(1)), (0, Some(0), Some(beyond)), (0, Some(0), Some(0)),]
    );
    assert_eq!((figures[0], figures[5]), ((60_000, Some(60_000), None), (60_000, Some(60_000), None)));
}

#[tokio::test]
async fn accounts_policies_and_settings_come_and_go() {
    let served = serve(Limits::default()).await;
    let mut account = AccountServiceClient::new(served.clients.clone());
    let policy = Some(v1::StreamPolicy { max_streams: 2, fail_closed: false });
    let update = v1::UpdateStreamPolicyRequest { account_id: "a".into(), policy, ..Default::default() };
    assert_eq!(account.update_stream_policy(update).await.unwrap().into_inner().policy, policy);
    let get = v1::GetAccountRequest { account_id: "a".into(), read_options: None };
    assert_eq!(account.get_account(get).await.unwrap().into_inner().account.unwrap().active_views, 2);

    let mut admin = AdminServiceClient::new(served.admin.clone());
    let read = admin.get_settings(v1::GetSettingsRequest {}).await.unwrap().into_inner().settings.unwrap();
    assert_eq!((read.version, read.figures["interval_ms"], read.figures.len()), (0, 60_000, 20));
    let figures = [("interval_ms".to_string(), 10_000), ("policy.max_streams".to_string(), 2)].into();
    let update = v1::UpdateSettingsRequest { settings: Some(v1::Settings { version: 0, figures }) };
    admin.update_settings(update).await.unwrap();
    let settings = served.fake.settings.lock().clone();
    assert_eq!((settings.version, settings.interval_ms, settings.policy.max_streams), (1, 10_000, 2));
}

#[tokio::test]
async fn shards_come_page_by_page() {
    let served = serve(Limits::default()).await;
    let mut admin = AdminServiceClient::new(served.admin.clone());
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = admin.list_shards(v1::ListShardsRequest { page_size: 30, page_token }).await.unwrap().into_inner();
        seen.extend(page.shards.iter().map(|s| s.shard));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..64).collect::<Vec<u32>>());
}

#[tokio::test]
async fn reflection_names_the_services_and_every_answer_carries_the_callers_id() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let served = serve(Limits::default()).await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(served.clients.clone());
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    assert!(list.service.iter().any(|s| s.name == "playhead.v1.CollectionService"));

    let mut request = tonic::Request::new(good_start());
    request.metadata_mut().insert("x-request-id", "abc".parse().unwrap());
    let answer = CollectionServiceClient::new(served.clients.clone()).start_view(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "abc");
}
