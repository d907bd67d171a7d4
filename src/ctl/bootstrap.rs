//! `clusterctl bootstrap`.

use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use crate::client::AdminClient;
use crate::proto::v1;

/// What the new cluster shall be.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where the first nodes serve each other, the asked one included; none: the asked node's own list
    #[arg(value_name = "HOST:PORT")]
    nodes: Vec<String>,
    /// Number of shards for the cluster's whole life, a power of two from 1 to 4096
    #[arg(long, default_value_t = 64, value_parser = power_of_two)]
    shards: u32,
    /// Voting copies of each shard: 1, 3 or 5; 0: 3, or 1 with fewer than three nodes
    #[arg(long, default_value_t = 0)]
    replicas: u32,
}

pub(super) fn power_of_two(text: &str) -> Result<u32, String> {
    let shards = text.parse::<u32>().ok().filter(|n| n.is_power_of_two() && *n <= 4096);
    shards.ok_or_else(|| "a power of two from 1 to 4096 is accepted".to_string())
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Made {
    cluster_id: String,
    shards: u32,
    replication_factor: u32,
    nodes: Vec<String>,
    created: bool,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let answer = bootstrap(&context.admin()?, options.shards, options.replicas, options.nodes).await?;
    let made = Made {
        cluster_id: answer.cluster_id,
        shards: answer.shards,
        replication_factor: answer.replication_factor,
        nodes: answer.nodes,
        created: answer.created,
    };
    context.answer(&made, || {
        let did = if made.created { "made" } else { "was there already" };
        let (id, shards, copies) = (&made.cluster_id, made.shards, made.replication_factor);
        format!("cluster {id} {did}: {shards} shards, {copies} replicas each, nodes {}", made.nodes.join(", "))
    })
}

/// Makes a cluster of these nodes.
pub(super) async fn bootstrap(
    admin: &AdminClient,
    shards: u32,
    replication_factor: u32,
    node_endpoints: Vec<String>,
) -> Result<v1::BootstrapResponse, Failure> {
    Ok(admin.bootstrap(v1::BootstrapRequest { shards, replication_factor, node_endpoints }).await?)
}
