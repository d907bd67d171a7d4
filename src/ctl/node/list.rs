//! `clusterctl node list`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{right, text};
use super::{Node, table_of};
use crate::proto::v1;

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let answer = context.admin()?.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
    let nodes: Vec<Node> = answer.nodes.into_iter().map(Node::from).collect();
    let now = context.clock.wall();
    context.answer(&nodes, || {
        let mut what = table_of(&nodes, now, false);
        right(&mut what, &[2, 3, 4]);
        format!("{}\n\n{}", text(&mut table_of(&nodes, now, true)), text(&mut what))
    })
}
