//! Progress and starts while no shard has a quorum: accepted by the node that is left, kept over its restart, handed off and settled
//! when the others are back.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;

use playhead::client::{Client, Error, Reported, is_accepted};
use playhead::proto::v1;
use support::{Cluster, Result, film};
use tokio::time::Instant;

const FLAGS: &[&str] = &[
    "--raft-election-min-ms",
    "1500",
    "--raft-election-max-ms",
    "3000",
    "--hints-progress-wait-ms",
    "300",
    "--hints-start-wait-ms",
    "600",
];
const PATIENCE: Duration = Duration::from_secs(20);
const SETTLES: Duration = Duration::from_secs(90);

fn on(device: &str, start: v1::StartViewRequest) -> v1::StartViewRequest {
    v1::StartViewRequest { device_id: device.into(), ..start }
}

fn report(account: &str, view: &str, sequence: u64, position_ms: i64) -> v1::ProgressReport {
    let (account_id, view_id) = (account.into(), view.into());
    v1::ProgressReport { account_id, view_id, sequence, position_ms: Some(position_ms), ..Default::default() }
}

async fn policy(client: &Client, account: &str, max_streams: u32, fail_closed: bool) -> Result<()> {
    let policy = Some(v1::StreamPolicy { max_streams, fail_closed });
    let request = v1::UpdateStreamPolicyRequest { account_id: account.into(), policy, ..Default::default() };
    client.update_stream_policy(request).await?;
    Ok(())
}

/// Until the node's own replica has the policy: one that hears of a commit a moment later decides by the one before. Another node's may
/// have answered in its place.
async fn heard(client: &Client, node: &str, account: &str) -> Result<()> {
    let begun = Instant::now();
    let request = v1::GetStreamPolicyRequest { account_id: account.into(), read_options: Some(v1::ReadOptions::any()) };
    loop {
        let told = client.get_stream_policy(request.clone()).await?;
        let is_its_own = told.read_info.is_some_and(|info| info.served_by == node);
        if is_its_own && told.policy.is_some_and(|policy| policy.fail_closed) {
            return Ok(());
        }
        if begun.elapsed() > SETTLES {
            return Err(format!("the policy of {account} does not arrive").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What comes of a report once the node takes it itself. Before that it may be on its way to a leader that was there a moment ago:
/// the same again is safe.
async fn accepted(client: &Client, report: v1::ProgressReport) -> Result<Reported> {
    let begun = Instant::now();
    loop {
        match client.report(report.clone()).await {
            Ok(told) if told.is_accepted() => return Ok(told),
            other if begun.elapsed() > SETTLES => return Err(format!("{other:?}").into()),
            _ => {}
        }
    }
}

/// The view that the account's policy refuses. A start that was proposed to a leader that had just lost its quorum may be done later.
async fn refused(client: &Client, account: &str) -> Result<String> {
    let begun = Instant::now();
    for n in 0.. {
        let view = format!("refused-{n}");
        match client.start_view(film(account, &view)).await {
            Err(Error::Unavailable { .. } | Error::Rejected(_)) => return Ok(view),
            Err(Error::Unknown { .. }) if begun.elapsed() < SETTLES => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
    Err("endless".into())
}

async fn active(client: &Client, account: &str) -> Result<Vec<(String, bool)>> {
    let request = v1::ListActiveViewsRequest { account_id: account.into(), read_options: None };
    let views = client.list_active_views(request).await?.views;
    Ok(views.into_iter().map(|view| (view.view_id, view.degraded)).collect())
}

async fn status_of(client: &Client, account: &str, view: &str) -> Result<v1::get_view_response::Status> {
    let request = v1::GetViewRequest { account_id: account.into(), view_id: view.into(), read_options: None };
    Ok(client.get_view(request).await?.status.ok_or("no status")?)
}

/// Waits until `node` says that so many views wait there.
async fn waiting(cluster: &Cluster, node: &str, count: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let admin = cluster.admin_of(node, Duration::from_secs(5))?;
        let told = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await;
        let found =
            told.as_ref().ok().and_then(|told| told.nodes.iter().find(|n| n.node == node)).map(|n| n.hints_waiting);
        if found == Some(count) {
            return Ok(());
        }
        if begun.elapsed() > SETTLES {
            return Err(format!("{found:?} views wait at {node}, not {count}\n{}", cluster.logs()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_without_a_quorum_survives_the_nodes_restart_and_is_settled_afterwards() -> Result<()> {
    let mut cluster = Cluster::start(3, 4, FLAGS).await?;
    let client = cluster.client(PATIENCE)?;
    for (account, view) in [("watches", "v1"), ("stops", "v1"), ("full", "own"), ("free", "own")] {
        client.start_view(film(account, view)).await?;
        assert!(!client.report(report(account, view, 1, 10_000)).await?.is_accepted());
    }
    policy(&client, "full", 2, false).await?;
    policy(&client, "closed", 4, true).await?;

    let alone = cluster.client_of("n1", PATIENCE)?;
    heard(&alone, "n1", "closed").await?;
    cluster.local.kill("n2").await?;
    cluster.local.kill("n3").await?;
    for account in ["full", "free"] {
        accepted(&alone, report(account, "own", 2, 20_000)).await?;
    }
    let accepted = accepted(&alone, report("watches", "v1", 2, 900_000)).await?;
    assert_eq!((accepted.applied, accepted.directive()), (true, v1::Directive::Continue));
    // Of an older one nothing counts but what was played.
    let older = alone.report(report("watches", "v1", 1, 10_000)).await?;
    assert!(older.is_accepted() && !older.applied);
    let stop = v1::StopViewRequest {
        account_id: "stops".into(),
        view_id: "v1".into(),
        request_id: "stop-1".into(),
        position_ms: Some(1_200_000),
        ..Default::default()
    };
    assert!(is_accepted(alone.stop_view(stop.clone()).await?.write_info.as_ref()));
    let let_in = async |account: &str, view: &str, device: &str| -> Result<v1::StartedView> {
        let request = v1::StartViewRequest { request_id: format!("start-{view}"), ..on(device, film(account, view)) };
        let answer = alone.start_view(request).await?;
        assert!(is_accepted(answer.write_info.as_ref()), "{account} {view}");
        answer.started.ok_or_else(|| "nothing started".into())
    };
    for (account, view, device) in [("full", "d1", "pad"), ("full", "d2", "phone"), ("free", "d3", "pad")] {
        let started = let_in(account, view, device).await?;
        assert!(started.view.unwrap().degraded && !started.already_active);
    }
    assert!(let_in("full", "d1", "pad").await?.already_active, "the same request again is the same view");
    let refused = refused(&cluster.client_of("n1", Duration::from_secs(3))?, "closed").await?;

    waiting(&cluster, "n1", 7).await?;
    cluster.local.kill("n1").await?;
    cluster.local.start_all().await?;
    cluster.settled().await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
    waiting(&cluster, "n1", 0).await?;

    let client = cluster.client(PATIENCE)?;
    match status_of(&client, "watches", "v1").await? {
        v1::get_view_response::Status::Active(view) => {
            assert_eq!((view.sequence, view.position_ms, view.degraded), (2, Some(900_000), false));
        }
        ended => panic!("{ended:?}"),
    }
    match status_of(&client, "stops", "v1").await? {
        v1::get_view_response::Status::Ended(ended) => assert_eq!(ended.reason(), v1::EndReason::Stopped),
        active => panic!("{active:?}"),
    }
    assert!(client.stop_view(stop).await.is_ok(), "the same stop again is answered as the first");
    let mut full = active(&client, "full").await?;
    full.sort();
    assert_eq!(full, [("d1".to_string(), true), ("own".to_string(), false)]);
    let told = client.report(report("full", "d2", 1, 5_000)).await?;
    assert_eq!(told.directive(), v1::Directive::Stop);
    assert_eq!(told.ended.as_ref().unwrap().reason(), v1::EndReason::OverLimit);
    let mut free = active(&client, "free").await?;
    free.sort();
    assert_eq!(free, [("d3".to_string(), true), ("own".to_string(), false)]);
    // A retry finds the view that the shard has taken over.
    let again = v1::StartViewRequest { request_id: "start-d3".into(), ..on("pad", film("free", "d3")) };
    let again = client.start_view(again).await?;
    assert!(!is_accepted(again.write_info.as_ref()) && again.started.unwrap().view.unwrap().degraded);
    assert!(active(&client, "closed").await?.iter().all(|(view, _)| *view != refused));
    Ok(())
}
