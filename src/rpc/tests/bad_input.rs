//! Bad input on every call: each bad field is named, nothing reaches the backend, nothing panics.

use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::fake::serve;
use crate::proto::v1;
use crate::proto::v1::account_service_client::AccountServiceClient;
use crate::proto::v1::admin_service_client::AdminServiceClient;
use crate::proto::v1::collection_service_client::CollectionServiceClient;
use crate::proto::v1::history_service_client::HistoryServiceClient;
use crate::proto::v1::progress_service_client::ProgressServiceClient;
use crate::rpc::Limits;

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "BAD_FIELD");
    let bad = status.get_details_bad_request().unwrap();
    assert!(bad.field_violations.iter().all(|v| !v.description.is_empty()));
    bad.field_violations.iter().map(|v| v.field.clone()).collect()
}

/// Calls that must each name just these fields.
macro_rules! refuse {
    ($client:expr; $($method:ident($($request:tt)+) => [$($field:literal),* $(,)?];)*) => {$(
        let status = $client.$method($($request)+).await.unwrap_err();
        assert_eq!(fields(&status), [$($field),*] as [&str; _], "{} {status:?}", stringify!($method));
    )*};
}

fn long() -> String {
    "x".repeat(600)
}

fn control() -> String {
    "a\u{1b}[31mb".into()
}

fn strange_read() -> Option<v1::ReadOptions> {
    Some(v1::ReadOptions { mode: 99, ..Default::default() })
}

fn before_1970() -> Option<Timestamp> {
    Some(Timestamp { seconds: -1, nanos: 0 })
}

fn absurd_time() -> Option<Timestamp> {
    Some(Timestamp { seconds: i64::MAX, nanos: i32::MIN })
}

#[tokio::test]
async fn collection_names_every_bad_field() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    refuse! { client;
        start_view(v1::StartViewRequest::default()) => ["account_id", "view_id", "profile_id", "device_id", "title_id"];
        start_view(v1::StartViewRequest {
            account_id: long(),
            view_id: control(),
            request_id: long(),
            profile_id: "\0".into(),
            device_id: long(),
            title_id: long(),
            title_type: 9,
            kind: -1,
            position_ms: Some(-1),
            duration_ms: Some(0),
            credits_position_ms: Some(i64::MAX),
            on_limit: 77,
            end_view_id: String::new(),
        }) => [
            "account_id", "request_id", "view_id", "profile_id", "device_id", "title_id", "title_type", "duration_ms",
            "credits_position_ms", "kind", "position_ms", "on_limit",
        ];
        start_view(v1::StartViewRequest {
            duration_ms: Some(1_000),
            credits_position_ms: Some(1_001),
            on_limit: v1::OnLimit::EndNamed.into(),
            ..good_start()
        }) => ["credits_position_ms", "end_view_id"];
        start_view(v1::StartViewRequest { credits_position_ms: Some(0), ..good_start() }) => ["credits_position_ms"];
        start_view(v1::StartViewRequest { end_view_id: "other".into(), ..good_start() }) => ["end_view_id"];
        report_progress(v1::ReportProgressRequest::default()) => ["report"];
        report_progress(v1::ReportProgressRequest { report: Some(v1::ProgressReport::default()) })
            => ["report.account_id", "report.view_id", "report.sequence"];
        report_progress(v1::ReportProgressRequest { report: Some(v1::ProgressReport {
            position_ms: Some(i64::MIN),
            state: 12,
            played_ranges: vec![
                v1::PlayedRange { start_ms: 5, end_ms: 5 },
                v1::PlayedRange { start_ms: -5, end_ms: i64::MAX },
            ],
            ..good_report()
        })}) => [
            "report.position_ms", "report.state", "report.played_ranges[0].end_ms", "report.played_ranges[1].start_ms",
            "report.played_ranges[1].end_ms",
        ];
        report_progress(v1::ReportProgressRequest { report: Some(v1::ProgressReport {
            played_ranges: vec![v1::PlayedRange { start_ms: 0, end_ms: 1 }; 17],
            ..good_report()
        })}) => ["report.played_ranges"];
        stop_view(v1::StopViewRequest::default()) => ["account_id", "view_id"];
        stop_view(v1::StopViewRequest {
            account_id: "a".into(),
            view_id: "v".into(),
            request_id: control(),
            sequence: Some(0),
            position_ms: Some(-7),
            played_ranges: vec![v1::PlayedRange { start_ms: 9, end_ms: 3 }],
            next: Some(v1::NextTitle { view_id: "v".into(), duration_ms: Some(-1), ..Default::default() }),
            ..Default::default()
        }) => [
            "request_id", "next.view_id", "next.title_id", "next.duration_ms", "sequence", "position_ms",
            "played_ranges[0].end_ms",
        ];
        end_view(v1::EndViewRequest { by_device_id: long(), ..Default::default() })
            => ["account_id", "view_id", "by_device_id"];
        get_view(v1::GetViewRequest { account_id: control(), view_id: long(), read_options: strange_read() })
            => ["account_id", "view_id", "read_options.mode"];
        list_active_views(v1::ListActiveViewsRequest { account_id: String::new(), read_options: strange_read() })
            => ["account_id", "read_options.mode"];
    }
    assert!(served.fake.proposed.lock().is_empty() && served.fake.queried.lock().is_empty());
}

#[tokio::test]
async fn progress_and_history_name_every_bad_field() {
    let served = serve(Limits::default()).await;
    let mut progress = ProgressServiceClient::new(served.clients.clone());
    let mut history = HistoryServiceClient::new(served.clients.clone());
    let (account_id, profile_id) = ("a".to_string(), "p".to_string());
    refuse! { progress;
        get_resume_point(v1::GetResumePointRequest { read_options: strange_read(), ..Default::default() })
            => ["account_id", "profile_id", "title_id", "read_options.mode"];
        batch_get_resume_points(v1::BatchGetResumePointsRequest::default()) => ["account_id", "profile_id", "title_ids"];
        batch_get_resume_points(v1::BatchGetResumePointsRequest {
            account_id: account_id.clone(),
            profile_id: profile_id.clone(),
            title_ids: vec!["t".into(); 1_001],
            ..Default::default()
        }) => ["title_ids"];
        batch_get_resume_points(v1::BatchGetResumePointsRequest {
            account_id: account_id.clone(),
            profile_id: profile_id.clone(),
            title_ids: vec!["t".into(), String::new(), control()],
            ..Default::default()
        }) => ["title_ids[1]", "title_ids[2]"];
        list_continue_watching(v1::ListContinueWatchingRequest {
            page_size: -1,
            page_token: "garbage".into(),
            ..Default::default()
        }) => ["page_token", "account_id", "profile_id", "page_size"];
    }
    refuse! { history;
        list_history(v1::ListHistoryRequest {
            page_size: 1_001,
            page_bytes: 5,
            title_id: control(),
            start_time_min: before_1970(),
            start_time_max: absurd_time(),
            read_options: strange_read(),
            ..Default::default()
        }) => [
            "account_id", "profile_id", "title_id", "start_time_min", "start_time_max", "page_size", "page_bytes",
            "read_options.mode",
        ];
        list_history(v1::ListHistoryRequest {
            account_id: account_id.clone(),
            profile_id: profile_id.clone(),
            page_token: "\u{0}\u{1}é".into(),
            start_time_min: Some(Timestamp { seconds: 5, nanos: 0 }),
            start_time_max: Some(Timestamp { seconds: 5, nanos: 0 }),
            ..Default::default()
        }) => ["start_time_max", "page_token"];
        // The token is of the list that was meant; it can't be judged by a list that is none.
        list_history(v1::ListHistoryRequest {
            account_id: account_id.clone(),
            profile_id: "kids".into(),
            title_id: "x".repeat(2_000),
            page_token: "good".into(),
            ..Default::default()
        }) => ["title_id"];
        batch_import_history(v1::BatchImportHistoryRequest::default()) => ["account_id", "plays"];
        batch_import_history(v1::BatchImportHistoryRequest {
            account_id: account_id.clone(),
            plays: vec![v1::ImportPlay::default(); 1_001],
            ..Default::default()
        }) => ["plays"];
        batch_import_history(v1::BatchImportHistoryRequest {
            account_id: account_id.clone(),
            plays: vec![good_play(), v1::ImportPlay {
                title_type: 9,
                kind: 9,
                start_time: absurd_time(),
                // Figures are the state's to judge, each play by itself.
                elapsed_ms: -1,
                position_ms: Some(i64::MAX),
                duration_ms: Some(0),
                ..Default::default()
            }, v1::ImportPlay { start_time: None, ..good_play() }],
            ..Default::default()
        }) => [
            "plays[1].profile_id", "plays[1].title_id", "plays[1].title_type", "plays[1].device_id", "plays[1].kind",
            "plays[1].start_time", "plays[2].start_time",
        ];
    }
    assert!(served.fake.proposed.lock().is_empty() && served.fake.queried.lock().is_empty());
}

#[tokio::test]
async fn accounts_and_admin_name_every_bad_field() {
    let served = serve(Limits::default()).await;
    let mut account = AccountServiceClient::new(served.clients.clone());
    let mut admin = AdminServiceClient::new(served.admin.clone());
    let policy = |max_streams| Some(v1::StreamPolicy { max_streams, fail_closed: false });
    let figures = |name: &str, value| {
        let figures = std::iter::once((name.to_string(), value)).collect();
        v1::UpdateSettingsRequest { settings: Some(v1::Settings { version: 0, figures }) }
    };
    refuse! { account;
        get_stream_policy(v1::GetStreamPolicyRequest { account_id: long(), read_options: strange_read() })
            => ["account_id", "read_options.mode"];
        update_stream_policy(v1::UpdateStreamPolicyRequest::default()) => ["account_id", "policy"];
        update_stream_policy(v1::UpdateStreamPolicyRequest {
            account_id: control(), request_id: long(), policy: policy(0),
        }) => ["account_id", "request_id", "policy.max_streams"];
        update_stream_policy(v1::UpdateStreamPolicyRequest {
            account_id: "a".into(), policy: policy(u32::MAX), ..Default::default()
        }) => ["policy.max_streams"];
        get_account(v1::GetAccountRequest { account_id: String::new(), read_options: strange_read() })
            => ["account_id", "read_options.mode"];
    }
    refuse! { admin;
        bootstrap(v1::BootstrapRequest {
            shards: 3, replication_factor: 2, node_endpoints: vec!["host:1".into(), "host".into(), ":5".into(), "h:0".into()],
        }) => ["shards", "replication_factor", "node_endpoints[1]", "node_endpoints[2]", "node_endpoints[3]"];
        bootstrap(v1::BootstrapRequest { node_endpoints: vec!["host:1".into(); 65], ..Default::default() })
            => ["node_endpoints"];
        list_shards(v1::ListShardsRequest { page_size: -5, page_token: "00".into() }) => ["page_size", "page_token"];
        get_shard(v1::GetShardRequest { of: None }) => ["of"];
        get_shard(v1::GetShardRequest { of: Some(v1::get_shard_request::Of::AccountId(control())) }) => ["account_id"];
        get_raft_state(v1::GetRaftStateRequest { of: None }) => ["of"];
        get_raft_state(v1::GetRaftStateRequest { of: Some(v1::get_raft_state_request::Of::Meta(false)) }) => ["of"];
        transfer_leader(v1::TransferLeaderRequest { shard: 0, to_node: control() }) => ["to_node"];
        replace_replica(v1::ReplaceReplicaRequest { to_node: long(), ..Default::default() })
            => ["to_node", "replica_id"];
        update_settings(v1::UpdateSettingsRequest::default()) => ["settings"];
        update_settings(v1::UpdateSettingsRequest { settings: Some(v1::Settings::default()) }) => ["settings.figures"];
        update_settings(figures("no_such", 1)) => ["settings.figures"];
        update_settings(figures("interval_ms", u64::MAX)) => ["settings.figures[interval_ms]"];
        update_settings(v1::UpdateSettingsRequest {
            settings: Some(v1::Settings {
                version: 0,
                figures: [("interval_ms".to_string(), 1), ("watched_percent".to_string(), 99)].into(),
            }),
        }) => ["settings.figures[interval_ms]", "settings.figures[watched_percent]"];
    }
    let unknown = admin.get_shard(v1::GetShardRequest { of: Some(v1::get_shard_request::Of::Shard(64)) }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    let other = v1::Settings { version: 9, figures: [("interval_ms".to_string(), 20_000)].into() };
    let conflict = admin.update_settings(v1::UpdateSettingsRequest { settings: Some(other) }).await.unwrap_err();
    assert_eq!(conflict.get_details_error_info().unwrap().reason, "CONFLICT");
    assert!(served.fake.proposed.lock().is_empty() && served.fake.queried.lock().is_empty());
}

#[tokio::test]
async fn calls_for_nodes_that_come_and_go_name_every_bad_field() {
    let served = serve(Limits::default()).await;
    let mut admin = AdminServiceClient::new(served.admin.clone());
    let zone = || "a b".to_string();
    refuse! { admin;
        add_node(v1::AddNodeRequest { node_endpoint: "nowhere".into(), zone: zone(), weight: 101, validate_only: true })
            => ["node_endpoint", "zone", "weight"];
        replace_node(v1::ReplaceNodeRequest { zone: zone(), ..Default::default() }) => ["node", "node_endpoint", "zone"];
        drain_node(v1::DrainNodeRequest::default()) => ["node"];
        remove_node(v1::RemoveNodeRequest { node: control(), ..Default::default() }) => ["node"];
        forget_node(v1::ForgetNodeRequest { node: long() }) => ["node"];
        give_up_node(v1::GiveUpNodeRequest::default()) => ["node"];
        update_node(v1::UpdateNodeRequest { zone: Some(zone()), weight: Some(0), ..Default::default() })
            => ["node", "zone", "weight"];
        update_rules(v1::UpdateRulesRequest {
            replication_factor: Some(2),
            slack_permille: Some(1_001),
            grace_ms: Some(999),
            copies_bytes_per_second: Some(65_535),
            ..Default::default()
        }) => ["replication_factor", "slack_permille", "grace_ms", "copies_bytes_per_second"];
        update_rules(v1::UpdateRulesRequest {
            copies_bytes_per_second: Some((16 << 30) + 1),
            account_per_second: Some(1_000_001),
            ..Default::default()
        }) => ["copies_bytes_per_second", "account_per_second"];
        move_replica(v1::MoveReplicaRequest { shard: 0, from_node: long(), ..Default::default() })
            => ["from_node", "to_node"];
        recover_shard(v1::RecoverShardRequest::default()) => ["from_node"];
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_server_lives_on() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    let status =
        client.start_view(v1::StartViewRequest { account_id: "x".repeat(5 << 20), ..Default::default() }).await;
    assert_eq!(status.unwrap_err().code(), Code::OutOfRange);
    client.start_view(good_start()).await.unwrap();
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    use tokio::io::AsyncWriteExt as _;
    let served = serve(Limits::default()).await;
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xFF\xFF\xFF\xFF", b""]
    {
        let mut socket = tokio::net::TcpStream::connect(served.address).await.unwrap();
        // The server may hang up before all is written.
        let _ = socket.write_all(garbage).await;
        let _ = socket.shutdown().await;
    }
    CollectionServiceClient::new(served.clients.clone()).start_view(good_start()).await.unwrap();
}

pub(super) fn good_start() -> v1::StartViewRequest {
    v1::StartViewRequest {
        account_id: "alice".into(),
        view_id: "v".into(),
        profile_id: "kids".into(),
        device_id: "tv".into(),
        title_id: "film".into(),
        ..Default::default()
    }
}

pub(super) fn good_report() -> v1::ProgressReport {
    v1::ProgressReport { account_id: "alice".into(), view_id: "v".into(), sequence: 1, ..Default::default() }
}

pub(super) fn good_play() -> v1::ImportPlay {
    v1::ImportPlay {
        profile_id: "kids".into(),
        title_id: "film".into(),
        device_id: "tv".into(),
        start_time: Some(Timestamp { seconds: 1_600_000_000, nanos: 5_000_000 }),
        elapsed_ms: 60_000,
        position_ms: Some(60_000),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_age_that_is_no_number_is_refused_before_anything_is_done() {
    let served = serve(Limits::default()).await;
    let mut client = CollectionServiceClient::new(served.clients.clone());
    for nonsense in ["", "-1", "+1", "1.5", "x", "1234567890123456", "18446744073709551616"] {
        let mut request = tonic::Request::new(v1::StopViewRequest {
            account_id: "a".into(),
            view_id: "v".into(),
            ..Default::default()
        });
        request.metadata_mut().insert(crate::proto::REQUEST_AGE, nonsense.parse().unwrap());
        let status = client.stop_view(request).await.unwrap_err();
        assert_eq!(fields(&status), [crate::proto::REQUEST_AGE], "{nonsense:?}");
    }
}
