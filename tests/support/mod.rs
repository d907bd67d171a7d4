//! What the tests with real node processes share: a cluster on loopback that is bootstrapped and led, clients of it, and a
//! place for its data that goes when the test ends.
#![allow(dead_code, reason = "every test program uses its own part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

pub mod devices;
pub mod membership;
pub mod process;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use playhead::ambient::{SystemClock, random_u64};
use playhead::client::{AdminClient, Client};
use playhead::local::{LocalCluster, Plan};
use playhead::proto::v1;
use playhead::time::Clock;
use tempfile::TempDir;

pub type Result<T, E = Box<dyn StdError + Send + Sync>> = std::result::Result<T, E>;

/// How long the cluster may take to become what a test waits for.
const SETTLE_MAX: Duration = Duration::from_secs(90);
/// How often a test looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Calm elections: a machine that is busy with other tests is no failure.
pub const CALM: [&str; 6] =
    ["--raft-election-min-ms", "1500", "--raft-election-max-ms", "3000", "--failover-suspect-ms", "1500"];

/// A cluster of real processes, killed when it is dropped.
pub struct Cluster {
    pub local: LocalCluster,
    pub clock: Arc<dyn Clock>,
    pub shards: u32,
    _root: TempDir,
}

/// The node's program: the one that was built with the test, unless the environment names another to compare with.
pub fn binary() -> PathBuf {
    std::env::var_os("PLAYHEAD_TESTED_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_playhead").into(), PathBuf::from)
}

/// A film on a television of this account, under this view id.
pub fn film(account: &str, view: &str) -> v1::StartViewRequest {
    v1::StartViewRequest {
        account_id: account.into(),
        view_id: view.into(),
        profile_id: "p".into(),
        device_id: "tv".into(),
        title_id: "film-1".into(),
        title_type: v1::TitleType::Film.into(),
        duration_ms: Some(6_000_000),
        ..Default::default()
    }
}

/// Such a view's progress: further than the last.
pub fn playing(account: &str, view: &str, sequence: u64) -> v1::ProgressReport {
    v1::ProgressReport {
        account_id: account.into(),
        view_id: view.into(),
        sequence,
        position_ms: Some(i64::try_from(sequence).unwrap_or(0) % 6_000_000),
        state: v1::PlayState::Playing.into(),
        ..Default::default()
    }
}

fn plan(root: PathBuf, binary: PathBuf, nodes: usize, flags: &[&str]) -> Plan {
    Plan { nodes, flags: flags.iter().map(ToString::to_string).collect(), ..Plan::new(root, binary) }
}

impl Cluster {
    /// Starts `nodes` nodes, makes them a cluster of `shards` shards, and waits until each is led and fully replicated.
    pub async fn start(nodes: usize, shards: u32, flags: &[&str]) -> Result<Self> {
        Self::start_build(binary(), nodes, shards, flags).await
    }

    /// The same with this build of the node.
    pub async fn start_build(binary: PathBuf, nodes: usize, shards: u32, flags: &[&str]) -> Result<Self> {
        let root = tempfile::tempdir()?;
        let local = LocalCluster::start(plan(root.path().join("cluster"), binary, nodes, flags)).await?;
        let cluster = Self { local, clock: Arc::new(SystemClock::new()), shards, _root: root };
        let request =
            v1::BootstrapRequest { shards, replication_factor: 0, node_endpoints: cluster.local.link_endpoints() };
        cluster.admin(Duration::from_secs(30))?.bootstrap(request).await?;
        cluster.settled().await?;
        Ok(cluster)
    }

    /// Goes on with the data folders in `cluster` of this folder.
    pub async fn open(root: TempDir, nodes: usize, shards: u32, flags: &[&str]) -> Result<Self> {
        let local = LocalCluster::start_on_data(plan(root.path().join("cluster"), binary(), nodes, flags)).await?;
        let cluster = Self { local, clock: Arc::new(SystemClock::new()), shards, _root: root };
        cluster.settled().await.map_err(|e| format!("{e}\n{}", cluster.logs()))?;
        Ok(cluster)
    }

    /// A client that knows every node.
    pub fn client(&self, deadline: Duration) -> Result<Client> {
        let builder = Client::builder(self.clock.clone(), random_u64());
        Ok(builder.endpoints(self.local.client_endpoints()).deadline(deadline).build()?)
    }

    /// A client that knows one node only.
    pub fn client_of(&self, node: &str, deadline: Duration) -> Result<Client> {
        let endpoints = self.local.endpoints(node).ok_or("the node has no endpoints")?;
        let builder = Client::builder(self.clock.clone(), random_u64());
        let builder = builder.endpoints([format!("http://{}", endpoints.client)]);
        Ok(builder.follow_hints(false).deadline(deadline).build()?)
    }

    pub fn admin(&self, deadline: Duration) -> Result<AdminClient> {
        let builder = Client::builder(self.clock.clone(), random_u64());
        Ok(builder.endpoints(self.local.admin_endpoints()).deadline(deadline).build_admin()?)
    }

    /// A client of one node's operators' services.
    pub fn admin_of(&self, node: &str, deadline: Duration) -> Result<AdminClient> {
        let endpoints = self.local.endpoints(node).ok_or("the node has no endpoints")?;
        let builder = Client::builder(self.clock.clone(), random_u64());
        Ok(builder.endpoints([format!("http://{}", endpoints.admin)]).deadline(deadline).build_admin()?)
    }

    /// Waits until every shard is led and every wanted replica follows.
    pub async fn settled(&self) -> Result<v1::ClusterStatus> {
        self.wait_for("every shard led and every replica current", |status| {
            status.shards == self.shards
                && status.shards_led == status.shards
                && status.replicas_wanted > 0
                && status.replicas_current == status.replicas_wanted
        })
        .await
    }

    /// Waits until every shard is led, whatever its followers do.
    pub async fn led(&self) -> Result<v1::ClusterStatus> {
        self.wait_for("every shard led", |status| status.shards_led == self.shards).await
    }

    async fn wait_for(&self, what: &str, done: impl Fn(&v1::ClusterStatus) -> bool) -> Result<v1::ClusterStatus> {
        let admin = self.admin(Duration::from_secs(5))?;
        let begun = self.clock.monotonic();
        let mut last = None;
        while self.clock.monotonic().since(begun) < SETTLE_MAX.as_millis() as u64 {
            if let Ok(answer) = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await {
                match answer.cluster {
                    Some(status) if done(&status) => return Ok(status),
                    status => last = status,
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(format!("after {} s still not: {what}; last seen {last:?}", SETTLE_MAX.as_secs()).into())
    }

    /// The shards by the node that leads them; those that nobody leads now are left out.
    pub async fn leaders(&self) -> Result<BTreeMap<String, Vec<u32>>> {
        let mut led: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let shards = self.admin(Duration::from_secs(5))?.all_shards().await?;
        for shard in shards.into_iter().filter(|shard| !shard.leader.is_empty()) {
            led.entry(shard.leader).or_default().push(shard.shard);
        }
        Ok(led)
    }

    /// The tail of every node's log, for a failure's message.
    pub fn logs(&self) -> String {
        let tail = |name: &String| {
            let text = std::fs::read_to_string(self.local.log(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            format!("--- {name}\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        self.local.names().iter().map(tail).collect::<Vec<_>>().join("\n")
    }
}

/// A number from the environment, else `otherwise`.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?}: a whole number is accepted")),
        Err(_) => otherwise,
    }
}
