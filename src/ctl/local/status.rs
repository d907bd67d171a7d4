//! `clusterctl local status`.

use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{judged, table, text};
use super::super::status::Status;
use super::{Root, context_of};
use crate::local::{LocalCluster, NodeState};
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Answer {
    nodes: Vec<NodeState>,
    /// What the cluster says of itself, if any node answers.
    cluster: Option<Status>,
}

pub(super) async fn run(context: &Context, root: Root) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(root.root)?;
    let nodes = cluster.states();
    let running = nodes.iter().filter(|node| node.pid.is_some()).count();
    let asked = match running {
        0 => None,
        _ => Some(context_of(context, &cluster).admin()?.get_cluster_status(v1::GetClusterStatusRequest {}).await),
    };
    let (status, failure) = match asked {
        None => (None, Some(Failure::Degraded("no node runs".into()))),
        Some(Ok(answer)) => (Some(Status::from(answer)), None),
        Some(Err(e)) => (None, Some(Failure::from(e))),
    };
    let answer = Answer { nodes, cluster: status };
    context.answer(&answer, || {
        let mut rows = table(["NODE", "PROCESS", "CLIENTS", "ADMIN", "METRICS"]);
        for node in &answer.nodes {
            let process = node.pid.map_or_else(|| "stopped".to_string(), |pid| pid.to_string());
            let at = |which: fn(&crate::local::Endpoints) -> &String| {
                node.endpoints.as_ref().map_or_else(|| "-".to_string(), |e| which(e).clone())
            };
            rows.add_row([
                node.name.clone().into(),
                judged(process, node.pid.is_some()),
                at(|e| &e.client).into(),
                at(|e| &e.admin).into(),
                at(|e| &e.metrics).into(),
            ]);
        }
        match &answer.cluster {
            Some(status) => format!("{}\n\n{}", text(&mut rows), status.summary()),
            None => text(&mut rows),
        }
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    match answer.cluster.map(|status| status.complaints()).unwrap_or_default() {
        none if none.is_empty() => Ok(()),
        complaints => Err(Failure::Degraded(complaints.join("; "))),
    }
}
