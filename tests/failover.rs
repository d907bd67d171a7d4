//! Leaders that die or stand still while no replica's own election timer could help within the test's patience: others lead because
//! connections were reset, or because pulses ceased.

mod support;

use std::time::Duration;

use playhead::client::Client;
use playhead::proto::v1;
use support::devices::Device;
use support::{Cluster, Result};

const SHARDS: u32 = 8;
const DEADLINE: Duration = Duration::from_secs(60);
/// The first timer could fire after the lease of openraft and the shortest election time: 90 s.
const NO_TIMERS: [&str; 4] = ["--raft-election-min-ms", "30000", "--raft-election-max-ms", "60000"];
/// How often it is looked who leads; together less than 60 s.
const LOOKS: usize = 500;
const LOOK: Duration = Duration::from_millis(100);

async fn cluster(suspect_ms: &str) -> Result<Cluster> {
    Cluster::start(3, SHARDS, &[NO_TIMERS.as_slice(), &["--failover-suspect-ms", suspect_ms]].concat()).await
}

/// The node that leads most, and what it leads.
async fn busiest(cluster: &Cluster) -> Result<(String, Vec<u32>)> {
    let leaders = cluster.leaders().await?;
    Ok(leaders.into_iter().max_by_key(|(_, shards)| shards.len()).ok_or("nobody leads")?)
}

/// Waits until the others lead everything.
async fn led_without(cluster: &Cluster, gone: &str) -> Result<()> {
    let other = cluster.local.names().into_iter().find(|name| name != gone).ok_or("no other node")?;
    let admin = cluster.admin_of(&other, Duration::from_secs(5))?;
    for _ in 0..LOOKS {
        let shards = admin.all_shards().await?;
        if shards.iter().all(|shard| !shard.leader.is_empty() && shard.leader != gone) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(format!("what {gone} led has no other leader\n{}", cluster.logs()).into())
}

fn account_of(shard: u32) -> String {
    let accounts = (0..).map(|n| Device::new(format!("account-{n}"), SHARDS));
    accounts.filter(|device| device.shard == shard).map(|device| device.account).next().unwrap_or_default()
}

async fn start(client: &Client, account: &str, view: &str) -> Result<()> {
    let request = v1::StartViewRequest {
        account_id: account.into(),
        view_id: view.into(),
        profile_id: "p".into(),
        device_id: view.into(),
        title_id: "title".into(),
        ..Default::default()
    };
    client.start_view(request).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_led_is_led_by_others_because_its_connections_are_reset() -> Result<()> {
    // Its silence would be noticed after a minute.
    let mut cluster = cluster("60000").await?;
    let (victim, led) = busiest(&cluster).await?;
    cluster.local.kill(&victim).await?;
    led_without(&cluster, &victim).await?;
    start(&cluster.client(DEADLINE)?, &account_of(led[0]), "view").await?;
    cluster.local.start_node(&victim).await?;
    cluster.settled().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_paused_node_led_is_led_by_others_and_it_answers_no_lease_read_out_of_the_past() -> Result<()> {
    let mut cluster = cluster("1500").await?;
    let (paused, led) = busiest(&cluster).await?;
    let account = account_of(led[0]);
    let through_it = cluster.client_of(&paused, DEADLINE)?;
    start(&through_it, &account, "before").await?;
    assert_eq!(streams(&through_it, &account).await?, 1);
    cluster.local.pause(&paused, true)?;
    led_without(&cluster, &paused).await?;
    start(&cluster.client(DEADLINE)?, &account, "meanwhile").await?;
    // The first lies in its sockets when it goes on, and that it leads is still what it knows of itself.
    let early = tokio::spawn({
        let (through_it, account) = (through_it.clone(), account.clone());
        async move { streams(&through_it, &account).await }
    });
    tokio::task::yield_now().await;
    cluster.local.pause(&paused, false)?;
    assert_eq!((early.await??, streams(&through_it, &account).await?), (2, 2));
    cluster.settled().await?;
    Ok(())
}

/// How many views the account has, by a LEASE read.
async fn streams(client: &Client, account: &str) -> Result<usize> {
    let request =
        v1::ListActiveViewsRequest { account_id: account.into(), read_options: Some(v1::ReadOptions::lease()) };
    Ok(client.list_active_views(request).await?.views.len())
}
