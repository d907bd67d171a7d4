//! Leaders that stand still for longer than their lease (SIGSTOP), while another leads and takes writes, and then go on: a STRONG
//! read through such a node sees what was acknowledged meanwhile, whether it was asked before the node went on or at once after; and
//! so does a LEASE read after.
//!
//! `PLAYHEAD_PAUSES=20 cargo test --test paused_leader -- --nocapture` prints a row a round.

mod support;

use std::time::Duration;

use playhead::client::{Client, Error};
use playhead::proto::v1;
use support::devices::Device;
use support::{Cluster, Result, film, setting};

const ACCOUNT: &str = "paused";
/// Patience with the whole of a round's single steps.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_past_its_lease_misses_no_write_in_strong_reads() -> Result<()> {
    let rounds = setting("PLAYHEAD_PAUSES", 4);
    let mut cluster = Cluster::start(3, 8, &[]).await?;
    start(&cluster.client(DEADLINE)?).await?;
    println!("{:>5}  {:<6} {:<6}", "round", "paused", "led");
    for number in 1..=rounds {
        let led = round(&mut cluster, number).await;
        let (paused, new) = led.map_err(|e| format!("round {number}: {e}\n{}", cluster.logs()))?;
        println!("{number:>5}  {paused:<6} {new:<6}");
        cluster.settled().await?;
    }
    Ok(())
}

async fn round(cluster: &mut Cluster, number: u64) -> Result<(String, String)> {
    let old = leader_but(cluster, None).await?;
    let through_old = cluster.client_of(&old, DEADLINE)?;
    // Connected before it stands still.
    sequence(&through_old).await?;
    cluster.local.pause(&old, true)?;
    let new = leader_but(cluster, Some(&old)).await?;
    report(&cluster.client_of(&new, DEADLINE)?, number).await?;
    // This one lies in the old leader's sockets when it goes on, and its lead is still what it knows of itself.
    let early = tokio::spawn({
        let through_old = through_old.clone();
        async move { sequence(&through_old).await }
    });
    tokio::task::yield_now().await;
    cluster.local.pause(&old, false)?;
    let leased = lease_sequence(&through_old).await?;
    let late = sequence(&through_old).await?;
    assert_eq!((early.await??, leased, late), (number, number, number), "round {number}: {old} stood still, {new} led");
    Ok((old, new))
}

async fn start(client: &Client) -> Result<()> {
    client.start_view(film(ACCOUNT, "view")).await?;
    Ok(())
}

async fn report(client: &Client, sequence: u64) -> Result<()> {
    let report = v1::ProgressReport {
        account_id: ACCOUNT.into(),
        view_id: "view".into(),
        sequence,
        position_ms: i64::try_from(sequence * 1_000).ok(),
        state: v1::PlayState::Playing.into(),
        ..Default::default()
    };
    client.report(report).await?;
    Ok(())
}

/// What a strong read says of the view: the sequence of its newest report.
async fn sequence(client: &Client) -> Result<u64, Error> {
    read(client, v1::ReadOptions::strong()).await
}

/// The same by a LEASE read: the old leader's lease has run out while it stood still.
async fn lease_sequence(client: &Client) -> Result<u64, Error> {
    read(client, v1::ReadOptions::lease()).await
}

async fn read(client: &Client, options: v1::ReadOptions) -> Result<u64, Error> {
    let request =
        v1::GetViewRequest { account_id: ACCOUNT.into(), view_id: "view".into(), read_options: Some(options) };
    match client.get_view(request).await?.status {
        Some(v1::get_view_response::Status::Active(view)) => Ok(view.sequence),
        _ => Ok(0),
    }
}

/// Who leads the account's shard, but for a node that stands still: as the others know.
async fn leader_but(cluster: &Cluster, but: Option<&str>) -> Result<String> {
    let shard = Device::new(ACCOUNT.to_string(), cluster.shards).shard;
    let names = cluster.local.names();
    let others: Vec<&String> = names.iter().filter(|name| Some(name.as_str()) != but).collect();
    for attempt in 0..1_000 {
        let admin = cluster.admin_of(others[attempt % others.len()], Duration::from_secs(2))?;
        if let Ok(answer) =
            admin.get_shard(v1::GetShardRequest { of: Some(v1::get_shard_request::Of::Shard(shard)) }).await
        {
            let leader = answer.shard.unwrap_or_default().leader;
            if !leader.is_empty() && Some(leader.as_str()) != but {
                return Ok(leader);
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Err("nobody leads the shard".into())
}
