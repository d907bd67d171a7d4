//! `clusterctl node replace`.

use clap::Args;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::plan::{How, change};
use super::super::text::plain;
use super::node_name;
use crate::client::AdminClient;
use crate::proto::v1;

/// Which node, and by which.
#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// The name of the node that is dead for good
    #[arg(value_name = "NAME", value_parser = node_name)]
    node: String,
    /// Where the node that comes for it serves other nodes
    #[arg(long, value_name = "HOST:PORT")]
    by: String,
    /// The zone of that one; none: that of the dead node
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    /// Its weight, 1 to 100; none: that of the dead node
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    weight: u32,
    #[command(flatten)]
    how: How,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Options { node, by, zone, weight, how } = options;
    change(context, how, async |admin: AdminClient, validate_only| {
        let (node, node_endpoint, zone) = (node.clone(), by.clone(), zone.clone());
        let request = v1::ReplaceNodeRequest { node: node.clone(), node_endpoint, zone, weight, validate_only };
        let answer = admin.replace_node(request).await?;
        let (name, number) = (plain(&answer.node), answer.node_id);
        Ok((format!("Node {name} (number {number}, at {by}) takes the place of {node}, which is removed"), answer.plan))
    })
    .await
}
