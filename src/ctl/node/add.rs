//! `clusterctl node add`.

use clap::Args;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::plan::{How, change};
use super::super::text::plain;
use crate::client::AdminClient;
use crate::proto::v1;

/// Which node, and what of it is not as its configuration says.
#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// Where the node serves other nodes: its `link.listen`, as the members reach it
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// Its zone; none: as its configuration says
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    /// Its weight, 1 to 100; none: as its configuration says
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    weight: u32,
    #[command(flatten)]
    how: How,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Options { address, zone, weight, how } = options;
    change(context, how, async |admin: AdminClient, validate_only| {
        let (node_endpoint, zone) = (address.clone(), zone.clone());
        let answer = admin.add_node(v1::AddNodeRequest { node_endpoint, zone, weight, validate_only }).await?;
        let (name, number) = (plain(&answer.node), answer.node_id);
        Ok((format!("Node {name} (number {number}, at {address}) joins the cluster and gets its share"), answer.plan))
    })
    .await
}
