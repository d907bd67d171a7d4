//! `clusterctl node remove`.

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
    /// It is dead for good: what it holds is made anew elsewhere
    #[arg(long)]
    force: bool,
    /// Also where shards have no quorum without it: they are to be recovered
    #[arg(long, requires = "force")]
    quorum_lost: bool,
    #[command(flatten)]
    how: How,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Options { node, force, quorum_lost, how } = options;
    change(context, how, async |admin: AdminClient, validate_only| {
        let request = v1::RemoveNodeRequest { node: node.clone(), force, validate_only, quorum_lost };
        let answer = admin.remove_node(request).await?;
        let what = match answer.replicas {
            0 => format!("Node {node}, which holds nothing, is taken out for good"),
            some => format!("Node {node} is taken out for good, and its {some} replicas are made anew elsewhere"),
        };
        Ok((what, answer.plan))
    })
    .await
}
