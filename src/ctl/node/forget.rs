//! `clusterctl node forget`.

use clap::Args;
use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::node_name;
use crate::proto::v1;

/// Which node.
#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// The node's name or, where several removed ones had it, its number
    #[arg(value_name = "NAME", value_parser = node_name)]
    node: String,
}

#[derive(Debug, Serialize)]
struct Forgotten {
    node: String,
    node_id: u64,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let node = options.node;
    let context = permission(context, &format!("Node {node}, which was removed, is listed no more")).await?;
    let request = v1::ForgetNodeRequest { node: node.clone() };
    let node_id = context.patient_admin().await?.forget_node(request).await?.node_id;
    let forgotten = Forgotten { node, node_id };
    context.answer(&forgotten, || format!("{} (number {node_id}) is forgotten", forgotten.node))
}
