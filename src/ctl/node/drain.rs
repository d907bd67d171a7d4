//! `clusterctl node drain`.

use clap::Args;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::plan::{How, change};
use super::node_name;
use crate::client::AdminClient;
use crate::proto::v1;

/// Which node.
#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// The node's name
    #[arg(value_name = "NAME", value_parser = node_name)]
    node: String,
    /// Let it carry its share again
    #[arg(long)]
    undo: bool,
    /// Also where fewer nodes are left than a shard has copies
    #[arg(long, conflicts_with = "undo")]
    force: bool,
    #[command(flatten)]
    how: How,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Options { node, undo, force, how } = options;
    change(context, how, async |admin: AdminClient, validate_only| {
        let request = v1::DrainNodeRequest { node: node.clone(), undo, force, validate_only };
        let plan = admin.drain_node(request).await?.plan;
        let what = match undo {
            true => format!("Node {node} carries its share again"),
            false => format!("Node {node} is emptied, its leads go first"),
        };
        Ok((what, plan))
    })
    .await
}
