//! `clusterctl node list`.

use super::super::context::{Context, Screen};
use super::super::exit::Failure;
use super::super::output::{ago, right, table, text};
use super::super::watch;
use super::{Node, table_of};
use crate::proto::v1;
use crate::time::WallMs;

pub(super) async fn run(context: &Context, repeat: &watch::Repeat) -> Result<(), Failure> {
    watch::run(context, repeat, look).await
}

async fn look(context: &Context) -> Result<Screen, Failure> {
    let admin = context.admin()?;
    let answer = context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?;
    let nodes: Vec<Node> = answer.nodes.into_iter().map(Node::from).collect();
    let missed = |node: &&Node| node.intent != "removed" && node.liveness != "alive";
    let missed: Vec<&str> = nodes.iter().filter(missed).map(|node| node.node.as_str()).collect();
    let verdict = match missed[..] {
        [] => Ok(()),
        _ => Err(Failure::Degraded(format!("not alive: {}", missed.join(", ")))),
    };
    context.screen(&nodes, || tables(&nodes, context.clock.wall()), verdict)
}

/// Who they are, where they are, what they do.
fn tables(nodes: &[Node], now: WallMs) -> String {
    let mut who = table(["NODE", "INTENT", "ZONE", "WEIGHT", "STARTS", "LAST START", "VERSION"]);
    right(&mut who, &[3, 4]);
    let mut places = table(["NODE", "CLIENTS", "ADMIN", "NODES"]);
    for node in nodes {
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
    let does = text(&mut table_of(nodes, now));
    format!("{}\n\n{}\n\n{does}", text(&mut who), text(&mut places))
}
