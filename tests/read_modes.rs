//! How fresh answers are, of a cluster of processes: through every node, with two of three nodes dead, and through nodes that stood still.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::time::Duration;

use playhead::client::{Client, Error};
use playhead::proto::v1::{self, ErrorReason, ReadMode, ReadOptions};
use support::devices::Device;
use support::{Cluster, Result, film};
use tokio::time::Instant;

const ACCOUNT: &str = "ann";
/// Patience with the whole of single steps.
const PATIENCE: Duration = Duration::from_secs(60);
/// So calm that a busy machine elects nobody for nothing.
const FLAGS: &[&str] = &["--raft-election-min-ms", "1000", "--raft-election-max-ms", "2000"];

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.local.names().iter().map(ToString::to_string).collect()
}

async fn start(client: &Client) -> Result<()> {
    client.start_view(film(ACCOUNT, "view")).await?;
    Ok(())
}

/// Reports; the revision that the write answers with.
async fn report(client: &Client, sequence: u64) -> Result<String> {
    let request = v1::ReportProgressRequest {
        report: Some(v1::ProgressReport {
            account_id: ACCOUNT.into(),
            view_id: "view".into(),
            sequence,
            position_ms: i64::try_from(sequence * 1_000).ok(),
            state: v1::PlayState::Playing.into(),
            ..Default::default()
        }),
    };
    Ok(client.report_progress(request).await?.write_info.unwrap().revision)
}

/// The sequence of the view's newest report, and what the answer says of itself.
async fn read(client: &Client, options: ReadOptions) -> Result<(u64, v1::ReadInfo), Error> {
    let (account_id, view_id) = (ACCOUNT.to_string(), "view".to_string());
    let request = v1::GetViewRequest { account_id, view_id, read_options: Some(options) };
    let answer = client.get_view(request).await?;
    let sequence = match answer.status {
        Some(v1::get_view_response::Status::Active(view)) => view.sequence,
        _ => 0,
    };
    Ok((sequence, answer.read_info.unwrap()))
}

/// Asks until the answer is as wanted.
async fn until(
    what: &str,
    client: &Client,
    options: ReadOptions,
    wanted: impl Fn(&v1::ReadInfo) -> bool,
) -> v1::ReadInfo {
    let begun = Instant::now();
    let mut last = None;
    while begun.elapsed() < PATIENCE {
        match read(client, options.clone()).await {
            Ok((_, info)) if wanted(&info) => return info,
            other => last = Some(other),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}; last {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_in_every_mode_and_without_a_quorum_what_is_old_says_so() -> Result<()> {
    let mut cluster = Cluster::start(3, 8, FLAGS).await?;
    let names = names(&cluster);
    let writer = cluster.client(PATIENCE)?;
    start(&writer).await?;
    let each: Vec<Client> = names.iter().map(|name| cluster.client_of(name, PATIENCE)).collect::<Result<_>>()?;
    let mut revision = String::new();
    for sequence in 1..=20 {
        revision = report(&writer, sequence).await?;
        for client in &each {
            for options in [ReadOptions::session(&revision), ReadOptions::strong()] {
                let (seen, info) = read(client, options.clone()).await?;
                assert_eq!(seen, sequence, "{options:?}: {info:?}");
            }
        }
    }
    for (name, client) in names.iter().zip(&each) {
        let bounded = ReadOptions::bounded(Duration::from_secs(10));
        let is_own = |info: &v1::ReadInfo| info.served_by == *name && !info.degraded && info.age_ms.is_some();
        let info = until("its own replica answers", client, bounded, is_own).await;
        assert!(info.age_ms <= Some(10_000) && info.mode() == ReadMode::Bounded, "{info:?}");
        until("its own replica answers", client, ReadOptions::any(), is_own).await;
        assert_eq!(read(client, ReadOptions::lease()).await?.0, 20);
    }
    wrong_revisions(&each[0], &revision).await?;

    let last = names[0].clone();
    for name in &names[1..] {
        cluster.local.kill(name).await?;
    }
    let killed = Instant::now();
    without_a_quorum(&each[0], &revision, killed).await?;
    let endpoints = cluster.local.endpoints(&last).unwrap();
    let shown = program::run(&endpoints.client, &["account", "active", ACCOUNT, "--stale-after", "300ms"]).await;
    assert_eq!(shown.code, 3, "{}{}", shown.out, shown.err);
    assert!(shown.out.contains("film-1") && shown.out.contains("as of at most"), "{}", shown.out);
    assert!(shown.err.contains("old"), "{}", shown.err);
    Ok(())
}

/// A revision of elsewhere is refused as what it is, and one that never was isn't answered by something old.
async fn wrong_revisions(client: &Client, revision: &str) -> Result<()> {
    let parts: Vec<&str> = revision.split('-').collect();
    let other_shard = format!("{}-{:x}-1", parts[0], u64::from_str_radix(parts[1], 16)? ^ 1);
    for wrong in [format!("00000001-{}-1", parts[1]), other_shard, "yesterday".to_string()] {
        let refused = read(client, ReadOptions::session(&wrong)).await.unwrap_err();
        assert_eq!(refused.reason(), Some(ErrorReason::BadField), "{wrong}: {refused}");
    }
    let never = format!("{}-{}-ffffffff", parts[0], parts[1]);
    let options = ReadOptions::session(never).or_stale_after(Duration::from_secs(30));
    let refused = read(client, options).await.unwrap_err();
    assert_eq!(refused.reason(), Some(ErrorReason::RevisionNotReached), "{refused}");
    Ok(())
}

async fn without_a_quorum(client: &Client, revision: &str, killed: Instant) -> Result<()> {
    let day = Duration::from_secs(86_400);
    let strong = ReadOptions::strong().or_stale_after(Duration::from_millis(300));
    for options in [ReadOptions::any(), ReadOptions::bounded(day), strong] {
        let info = until("degraded, with an age", client, options.clone(), |info| info.degraded).await;
        let since = i64::try_from(killed.elapsed().as_millis())?;
        // Its last proof is from before the others died, or from their last moments.
        assert!(info.age_ms.is_some_and(|age| age + 500 >= since.min(4_000)), "{options:?} {since}: {info:?}");
    }
    let (seen, info) = read(client, ReadOptions::strong().or_stale_after(Duration::from_millis(300))).await?;
    assert_eq!((seen, info.mode(), info.degraded), (20, ReadMode::Any, true), "{info:?}");
    assert_eq!(read(client, ReadOptions::session(revision)).await?.0, 20, "it has this revision");
    let hasty = client.with_deadline(Duration::from_secs(2));
    for options in [ReadOptions::strong(), ReadOptions::lease(), ReadOptions::bounded(Duration::from_secs(1))] {
        let refused = read(&hasty, options.clone()).await;
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{options:?}: {refused:?}");
    }
    Ok(())
}

/// The bound of the reads through nodes that stood still.
const BOUND: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_never_says_that_it_is_younger_than_it_is() -> Result<()> {
    let mut cluster = Cluster::start(3, 8, FLAGS).await?;
    start(&cluster.client(PATIENCE)?).await?;
    for (round, leads) in [true, false, true, false].into_iter().enumerate() {
        let number = round as u64 + 1;
        let leader = leader_but(&cluster, None).await?;
        let still = if leads { leader } else { names(&cluster).into_iter().find(|name| *name != leader).unwrap() };
        through(&mut cluster, &still, number).await.map_err(|e| format!("round {number}: {e}\n{}", cluster.logs()))?;
        cluster.settled().await?;
    }
    Ok(())
}

async fn through(cluster: &mut Cluster, still: &str, number: u64) -> Result<()> {
    let through = cluster.client_of(still, PATIENCE)?;
    // Connected, and with a young proof, before it stands still.
    until("it knows how old it is", &through, ReadOptions::any(), |info| info.age_ms.is_some_and(|age| age < 1_500))
        .await;
    cluster.local.pause(still, true)?;
    let new = leader_but(cluster, Some(still)).await?;
    report(&cluster.client_of(&new, PATIENCE)?, number).await?;
    let acknowledged = Instant::now();
    // The time that it stands still is what this is about.
    tokio::time::sleep(BOUND).await;
    // These lie in its sockets when it goes on, with the frames of its leader.
    let early = tokio::spawn(held(through.clone(), acknowledged, number));
    tokio::task::yield_now().await;
    cluster.local.pause(still, false)?;
    for _ in 0..20 {
        held(through.clone(), acknowledged, number).await?;
    }
    early.await??;
    Ok(())
}

/// What a bounded read and the age of any read promise.
async fn held(client: Client, acknowledged: Instant, number: u64) -> Result<()> {
    for options in [ReadOptions::bounded(BOUND), ReadOptions::any(), ReadOptions::strong()] {
        let (owed_ms, mode) = (acknowledged.elapsed(), options.mode());
        let (seen, info) = read(&client, options).await?;
        let claims = info.age_at_most().is_some_and(|age| age < owed_ms);
        let promised = claims || mode == ReadMode::Strong || (mode == ReadMode::Bounded && BOUND < owed_ms);
        if promised && seen < number {
            return Err(format!(
                "{mode:?}: report {number} was acknowledged {owed_ms:?} before, {seen} is told: {info:?}"
            )
            .into());
        }
    }
    Ok(())
}

/// Who leads the account's shard, but for a node that stands still: as the others know.
async fn leader_but(cluster: &Cluster, but: Option<&str>) -> Result<String> {
    let shard = Device::new(ACCOUNT.to_string(), cluster.shards).shard;
    let names = names(cluster);
    let others: Vec<&String> = names.iter().filter(|name| Some(name.as_str()) != but).collect();
    for attempt in 0..1_000 {
        let admin = cluster.admin_of(others[attempt % others.len()], Duration::from_secs(2))?;
        let request = v1::GetShardRequest { of: Some(v1::get_shard_request::Of::Shard(shard)) };
        if let Ok(answer) = admin.get_shard(request).await {
            let leader = answer.shard.unwrap_or_default().leader;
            if !leader.is_empty() && Some(leader.as_str()) != but {
                return Ok(leader);
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Err("nobody leads the shard".into())
}
