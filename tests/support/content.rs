//! A small deterministic history of a few accounts: written into a cluster, and read back with strong reads as JSON.

#![allow(dead_code, reason = "every test program uses its own part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::collections::HashMap;
use std::time::Duration;

use playhead::client::Client;
use playhead::ids::AccountId;
use playhead::proto::v1;
use playhead::ring::{ShardCount, Token};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::support::{Cluster, Result, film};

const ACCOUNTS: usize = 12;
const PATIENCE: Duration = Duration::from_secs(30);
const TITLES: [&str; 5] = ["heat", "ran", "ikiru", "alien", "brazil"];
const PROFILES: [&str; 2] = ["ann", "bob"];

fn account(n: usize) -> String {
    format!("household-{n}")
}

/// Figures under which nothing expires while a test looks.
pub async fn settings(cluster: &Cluster) -> Result<()> {
    let figures: HashMap<String, u64> =
        [("silence_percent".to_string(), 1000), ("policy.max_streams".to_string(), 5)].into();
    let settings = Some(v1::Settings { version: 0, figures });
    cluster.admin(PATIENCE)?.update_settings(v1::UpdateSettingsRequest { settings }).await?;
    Ok(())
}

/// One round of every account: plays come in and are imported, views end in different ways, one stays active.
pub async fn write(cluster: &Cluster, round: usize) -> Result<()> {
    let client = cluster.client(PATIENCE)?;
    for n in 0..ACCOUNTS {
        import(&client, n, round).await?;
        let stopped = start(&client, n, round, "a", TITLES[n % TITLES.len()]).await?;
        report(&client, n, &stopped, 3).await?;
        let stop = v1::StopViewRequest {
            account_id: account(n),
            view_id: stopped.clone(),
            request_id: format!("stop-{stopped}"),
            position_ms: Some(1_500_000 + n as i64),
            ..Default::default()
        };
        client.stop_view(stop.clone()).await?;
        // The same request again is answered as the first time, from what is remembered of it.
        client.stop_view(stop).await?;
        let ended = start(&client, n, round, "b", TITLES[(n + 1) % TITLES.len()]).await?;
        report(&client, n, &ended, 2).await?;
        let end = v1::EndViewRequest {
            account_id: account(n),
            view_id: ended,
            request_id: format!("end-{round}-{n}"),
            by_device_id: "phone".into(),
        };
        client.end_view(end).await?;
        let goes_on = start(&client, n, round, "c", TITLES[(n + 2) % TITLES.len()]).await?;
        report(&client, n, &goes_on, 1 + n as u64 % 4).await?;
        if n % 3 == 0 {
            let policy = Some(v1::StreamPolicy { max_streams: 2 + n as u32 % 4 + round as u32, ..Default::default() });
            let request_id = format!("policy-{round}-{n}");
            client
                .update_stream_policy(v1::UpdateStreamPolicyRequest { account_id: account(n), request_id, policy })
                .await?;
        }
    }
    Ok(())
}

async fn import(client: &Client, n: usize, round: usize) -> Result<()> {
    let play = |k: usize| v1::ImportPlay {
        profile_id: PROFILES[k % 2].into(),
        title_id: format!("old-{}", (n + k) % 7),
        title_type: v1::TitleType::Episode.into(),
        device_id: "tv".into(),
        kind: v1::ViewKind::Full.into(),
        start_time: Some(Timestamp { seconds: 1_700_000_000 + (round * 86_400 * 9 + k * 40_000) as i64, nanos: 0 }),
        elapsed_ms: 600_000 + 1000 * k as i64,
        position_ms: Some(700_000 + k as i64),
        duration_ms: Some(2_700_000),
    };
    let plays = (0..12).map(play).collect();
    let request_id = format!("import-{round}-{n}");
    client.batch_import_history(v1::BatchImportHistoryRequest { account_id: account(n), request_id, plays }).await?;
    Ok(())
}

async fn start(client: &Client, n: usize, round: usize, which: &str, title: &str) -> Result<String> {
    let view = format!("view-{round}-{which}");
    let request = v1::StartViewRequest {
        account_id: account(n),
        view_id: view.clone(),
        request_id: format!("start-{view}"),
        profile_id: PROFILES[n % 2].into(),
        device_id: format!("device-{which}"),
        title_id: title.into(),
        title_type: v1::TitleType::Film.into(),
        kind: v1::ViewKind::Full.into(),
        duration_ms: Some(6_000_000),
        ..Default::default()
    };
    client.start_view(request).await?;
    Ok(view)
}

async fn report(client: &Client, n: usize, view: &str, reports: u64) -> Result<()> {
    for sequence in 1..=reports {
        let report = v1::ProgressReport {
            account_id: account(n),
            view_id: view.into(),
            sequence,
            position_ms: Some(900_000 + 60_000 * sequence as i64 + n as i64),
            state: v1::PlayState::Playing.into(),
            seeked: sequence == 1,
            ..Default::default()
        };
        client.report(report).await?;
    }
    Ok(())
}

fn ms(time: Option<&Timestamp>) -> Value {
    time.map_or(Value::Null, |t| json!(t.seconds * 1000 + i64::from(t.nanos) / 1_000_000))
}

/// All that members see, by strong reads: the fields by name, so that later ones don't matter.
pub async fn read(cluster: &Cluster) -> Result<Value> {
    let client = cluster.client(PATIENCE)?;
    let mut accounts = serde_json::Map::new();
    for n in 0..ACCOUNTS {
        accounts.insert(account(n), read_account(&client, &account(n)).await?);
    }
    let settings = cluster.admin(PATIENCE)?.get_settings(v1::GetSettingsRequest {}).await?.settings.unwrap_or_default();
    let figures: serde_json::Map<String, Value> =
        settings.figures.into_iter().map(|(name, value)| (name, json!(value))).collect();
    Ok(json!({ "accounts": accounts, "settings": { "version": settings.version, "figures": figures } }))
}

async fn read_account(client: &Client, id: &str) -> Result<Value> {
    let account_id = id.to_string();
    let read =
        client.get_account(v1::GetAccountRequest { account_id: account_id.clone(), ..Default::default() }).await?;
    let about = read.account.ok_or("no account")?;
    let active = client
        .list_active_views(v1::ListActiveViewsRequest { account_id: account_id.clone(), ..Default::default() })
        .await?;
    let mut views: Vec<Value> = active.views.iter().map(view).collect();
    views.sort_by_key(|view| view["view"].to_string());
    let mut profiles = serde_json::Map::new();
    for profile in &about.profiles {
        let history = history(client, id, &profile.profile_id).await?;
        let resume = resume(client, id, &profile.profile_id, &history).await?;
        let counts = [profile.titles, profile.history_entries, profile.plays];
        let told = json!({ "counts": counts, "history": history, "resume": resume });
        profiles.insert(profile.profile_id.clone(), told);
    }
    Ok(json!({
        "max_streams": about.policy.unwrap_or_default().max_streams,
        "policy_is_own": about.policy_is_own,
        "streams": about.streams,
        "active": views,
        "profiles": profiles,
    }))
}

fn view(view: &v1::View) -> Value {
    json!({
        "view": view.view_id, "profile": view.profile_id, "device": view.device_id, "title": view.title_id,
        "position_ms": view.position_ms, "duration_ms": view.duration_ms, "sequence": view.sequence,
        "watched_ms": view.watched_ms, "holds_stream": view.holds_stream, "state": view.state,
        "start": ms(view.start_time.as_ref()), "reported": ms(view.report_time.as_ref()),
    })
}

async fn history(client: &Client, account: &str, profile: &str) -> Result<Vec<Value>> {
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListHistoryRequest {
            account_id: account.into(),
            profile_id: profile.into(),
            page_token,
            include_plays: true,
            ..Default::default()
        };
        let page = client.list_history(request).await?;
        entries.extend(page.entries.iter().map(entry));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(entries);
        }
    }
}

fn entry(entry: &v1::HistoryEntry) -> Value {
    let play = |play: &v1::Play| {
        json!({
            "start": ms(play.start_time.as_ref()), "end": ms(play.end_time.as_ref()), "position_ms": play.position_ms,
            "watched_ms": play.watched_ms, "view": play.view_id, "status": play.status,
        })
    };
    json!({
        "title": entry.title_id, "device": entry.device_id, "status": entry.status,
        "start": ms(entry.start_time.as_ref()), "end": ms(entry.end_time.as_ref()),
        "position_ms": entry.position_ms, "duration_ms": entry.duration_ms, "watched_ms": entry.watched_ms,
        "plays": entry.plays.iter().map(play).collect::<Vec<_>>(),
    })
}

async fn resume(client: &Client, account: &str, profile: &str, history: &[Value]) -> Result<Value> {
    let mut titles: Vec<String> = history.iter().filter_map(|e| e["title"].as_str().map(str::to_string)).collect();
    titles.sort();
    titles.dedup();
    let request = v1::BatchGetResumePointsRequest {
        account_id: account.into(),
        profile_id: profile.into(),
        title_ids: titles,
        ..Default::default()
    };
    let answer = client.batch_get_resume_points(request).await?;
    Ok(json!(answer.resume_points.iter().map(title).collect::<Vec<_>>()))
}

fn title(point: &v1::ResumePoint) -> Value {
    json!({
        "title": point.title_id, "position_ms": point.position_ms, "last_position_ms": point.last_position_ms,
        "watched": point.watched, "play_count": point.play_count,
    })
}

/// An account with a view that was let in while its shard had no leader.
const LET_IN: &str = "let-in";
/// An account whose starts are refused while its shard has no leader.
const CLOSED: &str = "closed";
/// An account with a view whose device was told a longer interval.
const STRETCHED: &str = "stretched";

/// What there is from version 4 on. Nodes are killed, paused, and there again when it is done.
pub async fn write_of_version_4(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.client(PATIENCE)?;
    let policy = Some(v1::StreamPolicy { max_streams: 4, fail_closed: true });
    let (account_id, request_id) = (CLOSED.to_string(), "policy-closed".to_string());
    client.update_stream_policy(v1::UpdateStreamPolicyRequest { account_id, request_id, policy }).await?;
    for account in [LET_IN, CLOSED, STRETCHED] {
        client.start_view(film(account, "own")).await?;
    }
    let_in(cluster).await?;
    stretch(cluster, &client).await
}

/// A start and a report that a node takes alone, and hands off when the others are back.
async fn let_in(cluster: &mut Cluster) -> Result<()> {
    let alone = cluster.client_of("n1", PATIENCE)?;
    for other in ["n2", "n3"] {
        cluster.local.kill(other).await?;
    }
    // What is proposed to a leader that has just lost its quorum is done later, as if it had one: first the node has to know it.
    for sequence in 1..100 {
        let report =
            v1::ProgressReport { account_id: LET_IN.into(), view_id: "own".into(), sequence, ..Default::default() };
        if alone.report(report).await.is_ok_and(|told| told.is_accepted()) {
            break;
        }
    }
    let start = v1::StartViewRequest { device_id: "pad".into(), ..film(LET_IN, "degraded") };
    let answer = alone.start_view(start).await?;
    if !answer.started.and_then(|started| started.view).is_some_and(|view| view.degraded) {
        return Err("the view was not let in degraded".into());
    }
    for other in ["n2", "n3"] {
        cluster.local.start_node(other).await?;
    }
    cluster.settled().await?;
    let admin = cluster.admin_of("n1", PATIENCE)?;
    for _ in 0..600 {
        let nodes = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?.nodes;
        if nodes.iter().any(|node| node.node == "n1" && node.hints_waiting == 0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the view is not handed off".into())
}

/// The leader's queue waits for followers that stand still, until the device is told a longer interval.
async fn stretch(cluster: &mut Cluster, client: &Client) -> Result<()> {
    let told = |sequence| v1::ProgressReport {
        account_id: STRETCHED.into(),
        view_id: "own".into(),
        sequence,
        position_ms: Some(1_000),
        ..Default::default()
    };
    let count = ShardCount::new(cluster.shards)?;
    let shard = count.shard_of(Token::of(&AccountId::new(STRETCHED)?)).0;
    for round in 1..60 {
        let led = cluster.leaders().await?;
        let leader = led.into_iter().find(|(_, shards)| shards.contains(&shard)).map(|(node, _)| node);
        let others =
            cluster.local.names().into_iter().filter(|name| leader.as_ref().is_some_and(|leader| leader != name));
        let others: Vec<String> = others.collect();
        for other in &others {
            cluster.local.pause(other, true)?;
        }
        // The same again and again: only the waiting counts.
        let reports = futures::future::join_all((0..8).map(|_| client.report(told(2 * round - 1))));
        let paused = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            others.iter().try_for_each(|other| cluster.local.pause(other, false))
        };
        let (_, resumed) = futures::future::join(reports, paused).await;
        resumed?;
        tokio::time::sleep(Duration::from_millis(2100)).await;
        let answer = client.report(told(2 * round)).await?;
        if answer.progress_interval_ms > INTERVAL_MS_MAX {
            return Ok(());
        }
    }
    Err("no device was told a longer interval".into())
}

/// The longest interval that a device is told where nothing presses: a tenth more than it is on average.
const INTERVAL_MS_MAX: i64 = 66_000;

/// What members see of what there is from version 4 on. The last of it is asked by starts, which change nothing that members
/// see, but the states: so it comes after whatever compares those.
pub async fn read_of_version_4(cluster: &Cluster) -> Result<Value> {
    let client = cluster.client(PATIENCE)?;
    let mut active = serde_json::Map::new();
    for account in [LET_IN, CLOSED, STRETCHED] {
        let request = v1::ListActiveViewsRequest { account_id: account.into(), ..Default::default() };
        let views = client.list_active_views(request).await?.views;
        let mut views: Vec<Value> = views
            .iter()
            .map(|v| json!([v.view_id, v.degraded, v.sequence, v.position_ms, ms(v.start_time.as_ref())]))
            .collect();
        views.sort_by_key(ToString::to_string);
        active.insert(account.into(), json!(views));
    }
    let request = v1::GetStreamPolicyRequest { account_id: CLOSED.into(), ..Default::default() };
    let policy = client.get_stream_policy(request).await?.policy.unwrap_or_default();
    let mut intervals = serde_json::Map::new();
    for account in [CLOSED, STRETCHED] {
        let again = client.start_view(film(account, "own")).await?.started.ok_or("nothing started")?;
        intervals.insert(account.into(), json!([again.already_active, again.progress_interval_ms]));
    }
    Ok(json!({ "active": active, "fail_closed": policy.fail_closed, "intervals": intervals }))
}

/// That all of it is there: a view that was let in, a policy that fails closed, a longer interval.
pub fn assert_of_version_4(told: &Value) {
    let views = |account: &str| told["active"][account].as_array().cloned().unwrap_or_default();
    let degraded: Vec<Value> = views(LET_IN).into_iter().filter(|view| view[1] == true).collect();
    assert!(degraded.len() == 1 && degraded[0][0] == "degraded", "{told}");
    assert_eq!(told["fail_closed"], true, "{told}");
    let interval_ms = |account: &str| told["intervals"][account][1].as_i64().unwrap_or_default();
    assert!(interval_ms(CLOSED) <= INTERVAL_MS_MAX && interval_ms(STRETCHED) > INTERVAL_MS_MAX, "{told}");
}

/// The digests of all states once they stay the same: a stretch goes back by itself, step by step, each time after ten seconds
/// at ease.
pub async fn digests_at_rest(cluster: &Cluster) -> Result<Vec<String>> {
    let mut before = digests(cluster).await?;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(16)).await;
        let now = digests(cluster).await?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
    Err("the states do not come to rest".into())
}

/// The digest of every shard's state, when all its replicas have told the same one.
pub async fn digests(cluster: &Cluster) -> Result<Vec<String>> {
    let admin = cluster.admin(PATIENCE)?;
    for _ in 0..200 {
        let shards = admin.all_shards().await?;
        let one = |shard: &v1::ShardStatus| {
            let first = shard.replicas.first()?.digest.clone();
            let same = !first.is_empty() && shard.replicas.iter().all(|r| r.digest == first && r.lag == 0);
            same.then_some(first)
        };
        if let Some(all) = shards.iter().map(one).collect::<Option<Vec<String>>>() {
            return Ok(all);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err("the replicas' digests do not come to the same".into())
}
