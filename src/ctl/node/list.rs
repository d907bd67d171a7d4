//! `clusterctl node list`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{ago, right, table, text};
use super::{Node, table_of};
use crate::proto::v1;

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let answer = context.admin()?.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
    let nodes: Vec<Node> = answer.nodes.into_iter().map(Node::from).collect();
    let now = context.clock.wall();
    context.answer(&nodes, || {
        let mut who = table(["NODE", "INTENT", "ZONE", "WEIGHT", "STARTS", "LAST START", "VERSION"]);
        right(&mut who, &[3, 4]);
        let mut places = table(["NODE", "CLIENTS", "ADMIN", "NODES"]);
        for node in &nodes {
            who.add_row([
                node.node.clone(),
                node.intent.to_string(),
                node.zone.clone(),
                node.weight.to_string(),
                node.generation.to_string(),
                ago(node.start_time.as_ref(), now),
                node.version.clone(),
            ]);
            let bare = |url: &str| url.strip_prefix("http://").unwrap_or(url).to_string();
            let endpoints = [&node.client_endpoint, &node.admin_endpoint, &node.node_endpoint];
            let [clients, admin, others] = endpoints.map(|url| bare(url));
            places.add_row([node.node.clone(), clients, admin, others]);
        }
        let does = text(&mut table_of(&nodes, now));
        format!("{}\n\n{}\n\n{does}", text(&mut who), text(&mut places))
    })
}
