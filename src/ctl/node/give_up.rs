//! `clusterctl node give-up`.

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
    /// The name of the dead node
    #[arg(value_name = "NAME", value_parser = node_name)]
    node: String,
    #[command(flatten)]
    how: How,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Options { node, how } = options;
    change(context, how, async |admin: AdminClient, validate_only| {
        let plan = admin.give_up_node(v1::GiveUpNodeRequest { node: node.clone(), validate_only }).await?.plan;
        let what = format!("Node {node} is given up before its grace is over, its replicas are made anew elsewhere");
        Ok((what, plan))
    })
    .await
}
