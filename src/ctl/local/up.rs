//! `clusterctl local up`.

use clap::Args;

use super::super::context::Context;
use super::super::exit::Failure;
use super::{Root, bootstrapped, context_of};
use crate::local::{LocalCluster, LocalError, Plan, node_binary};

#[derive(Debug, Args)]
pub(in super::super) struct Options {
    /// How many nodes a new cluster has
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// How many shards a new cluster has, a power of two from 1 to 4096
    #[arg(long, default_value_t = 64, value_parser = super::super::bootstrap::power_of_two)]
    shards: u32,
    #[command(flatten)]
    root: Root,
    /// Further flags for every node of a new cluster, after `--`
    #[arg(last = true)]
    flags: Vec<String>,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let mut cluster = match LocalCluster::open(&options.root.root) {
        Ok(mut cluster) => {
            cluster.start_all().await?;
            cluster
        }
        Err(LocalError::None(root)) => {
            let plan = Plan { nodes: options.nodes.into(), flags: options.flags, ..Plan::new(root, node_binary()?) };
            LocalCluster::start(plan).await?
        }
        Err(e) => return Err(e.into()),
    };
    // From here on a failure leaves the nodes for a look at them; `down` stops them.
    cluster.detach();
    let status = bootstrapped(context, &cluster, options.shards, 0).await?;
    let connection = context_of(context, &cluster).connection.to_string();
    context.answer(&serde_json::json!({ "endpoints": connection, "nodes": cluster.states() }), || {
        format!(
            "{} nodes run: {} of {} shards led, {} of {} replicas follow\n\nexport PLAYHEAD_ENDPOINTS='{connection}'",
            cluster.names().len(),
            status.shards_led,
            status.shards,
            status.replicas_current,
            status.replicas_wanted,
        )
    })
}
