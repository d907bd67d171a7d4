//! `clusterctl local`: a cluster of processes on this machine. `cluster/local.sh` builds the programs and calls it.

mod demo;
mod env;
mod process;
mod status;
mod up;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::connect;
use super::context::Context;
use super::exit::Failure;
use super::status::Status;
use crate::local::LocalCluster;
use crate::proto::v1;
use connect::Connection;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a cluster and leave it running
    Up(up::Options),
    /// Stop its nodes; their data stays
    Down(Root),
    /// Its processes, and how the cluster is
    Status(Root),
    /// End a node at once, as a power cut would (SIGKILL)
    Kill(Named),
    /// Start a node that does not run
    Start(Named),
    /// Stop a node, then start it again
    Restart(Named),
    /// Remove the data of a stopped cluster
    Wipe(Root),
    /// Where it is, as a line for the shell: eval "$(./cluster/local.sh env)"
    Env(Root),
    /// Start a cluster, import the sample, play devices, show it live; stop everything at the end
    Demo(demo::Options),
}

/// Where the cluster's files are.
#[derive(Clone, Debug, Args)]
pub(super) struct Root {
    /// The folder of data, logs and state
    #[arg(long, value_name = "DIR", default_value = ".local/cluster")]
    root: PathBuf,
}

/// One node.
#[derive(Clone, Debug, Args)]
pub(super) struct Named {
    /// The node: n1, n2...
    name: String,
    #[command(flatten)]
    root: Root,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Up(options) => up::run(context, options).await,
        Command::Down(root) => process::down(context, root).await,
        Command::Status(root) => status::run(context, root).await,
        Command::Kill(node) => process::kill(context, node).await,
        Command::Start(node) => process::start(context, node).await,
        Command::Restart(node) => process::restart(context, node).await,
        Command::Wipe(root) => process::wipe(context, root),
        Command::Env(root) => env::run(context, root),
        Command::Demo(options) => demo::run(context, options).await,
    }
}

/// The same context, asking this cluster.
pub(super) fn context_of(context: &Context, cluster: &LocalCluster) -> Context {
    context.at(Connection::new(cluster.client_endpoints(), cluster.admin_endpoints()))
}

/// Makes a cluster of the processes, unless they are one already, with so many replicas of each shard (0: as many as a cluster
/// has by itself), and waits until every shard is led and every replica follows.
pub(super) async fn bootstrapped(
    context: &Context,
    cluster: &LocalCluster,
    shards: u32,
    replicas: u32,
) -> Result<Status, Failure> {
    let here = context_of(context, cluster);
    let admin = here.admin()?;
    let node_endpoints = cluster.link_endpoints();
    let wishes = v1::BootstrapRequest { shards, replication_factor: replicas, node_endpoints };
    match admin.bootstrap(wishes).await {
        // One that was made before with other wishes stays as it is.
        Err(e) if e.reason() == Some(v1::ErrorReason::ClusterState) => {}
        made => drop(made?),
    }
    healthy(&here, Duration::from_secs(60)).await
}

/// Waits until all is well; fails with what is not.
pub(super) async fn healthy(context: &Context, patience: Duration) -> Result<Status, Failure> {
    let admin = context.admin()?;
    let deadline = context.clock.monotonic().plus(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
    loop {
        let status = Status::from(admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?);
        if status.healthy {
            return Ok(status);
        }
        if context.clock.monotonic() >= deadline {
            return Err(Failure::Degraded(status.complaints().join("; ")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
