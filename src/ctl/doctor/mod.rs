//! `clusterctl doctor`: asks every node, finds what is wrong, says what to do.
//!
//! Asking is done here; judging, in `judge`, is a function of what was heard. Nothing is changed.

mod judge;
#[cfg(test)]
mod tests;

use comfy_table::Cell;
use serde::Serialize;

use super::context::Context;
use super::each::{Said, each};
use super::exit::Failure;
use super::node::Node;
use super::output::{bare_table, judged, text, wall};
use super::plan::Leads;
use super::shard::Shard;
use super::status::Status;
use super::text::{plain, wrapped};
use super::upgrade::Versions;
use crate::client::{AdminClient, Error};
use crate::proto::v1;
use crate::time::Clock;
use judge::{Heard, Own, Severity, judge};

/// What is shown of findings beside their first column.
const WIDTH: usize = 70;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    /// What kind of thing it is; stays the same between versions.
    kind: &'static str,
    what: String,
    /// Why it matters.
    why: String,
    /// What to do.
    advice: String,
    /// A command that does it or tells more.
    run: String,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    cluster_id: String,
    nodes: usize,
    nodes_answered: usize,
    shards: usize,
    /// Null: the cluster doesn't tell.
    leads: Option<Leads>,
    findings: Vec<Finding>,
}

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let heard = hear(context).await?;
    let diagnosis = Diagnosis {
        cluster_id: heard.status.cluster_id.clone(),
        nodes: heard.said.len(),
        nodes_answered: heard.said.iter().filter(|said| said.answer.is_ok()).count(),
        shards: heard.shards.len(),
        leads: heard.leads.clone(),
        findings: judge(&heard),
    };
    let verdict = diagnosis.verdict();
    context.show(context.screen(&diagnosis, || diagnosis.text(), verdict)?)
}

/// Asks any node for all, then every node for itself.
async fn hear(context: &Context) -> Result<Heard, Failure> {
    let admin = context.admin()?;
    let status = Status::from(context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?);
    if status.cluster_id.is_empty() {
        return Ok(Heard { status, shards: Vec::new(), said: Vec::new(), versions: None, leads: None });
    }
    let nodes: Vec<Node> = status.nodes.iter().filter(|node| node.intent != "removed").cloned().collect();
    let clock = &context.clock;
    let said: Vec<Said<Own>> = each(context, &nodes, async |admin| own(&**clock, admin).await).await;
    let shards = context.read(admin.all_shards()).await?.into_iter().map(Shard::from).collect();
    // A node of a build that knows no versions says nothing of them.
    let versions = context.read(admin.get_versions(v1::GetVersionsRequest {})).await.ok().map(Versions::from);
    let plan = context.read(admin.get_plan(v1::GetPlanRequest {})).await.ok();
    let leads = plan.and_then(|plan| Some(Leads::new(Some(plan.leads?), true)));
    Ok(Heard { status, shards, said, versions, leads })
}

/// What a node says of itself and of the others.
async fn own(clock: &dyn Clock, admin: AdminClient) -> Result<Own, Error> {
    let sent = clock.wall();
    let answer = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
    let round_trip_ms = clock.wall().since(sent);
    let cluster = answer.cluster.unwrap_or_default();
    let version = answer.nodes.iter().find(|node| node.node == answer.answered_by).map(|node| plain(&node.version));
    let ahead_ms = answer.as_of_time.as_ref().and_then(wall).map(|theirs| {
        let ours = sent.0.saturating_add(round_trip_ms / 2);
        i64::try_from(theirs.0).unwrap_or(i64::MAX).saturating_sub(i64::try_from(ours).unwrap_or(i64::MAX))
    });
    let nodes = answer.nodes.into_iter().map(Node::from).filter(|node| node.intent != "removed");
    Ok(Own {
        answered_by: plain(&answer.answered_by),
        cluster_id: plain(&cluster.cluster_id),
        epoch: cluster.epoch,
        version: version.unwrap_or_default(),
        ahead_ms,
        round_trip_ms,
        sees: nodes.map(|node| (node.node, node.liveness)).collect(),
    })
}

impl Diagnosis {
    fn verdict(&self) -> Result<(), Failure> {
        let of = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        match (of(Severity::Critical), of(Severity::Warning)) {
            (0, 0) => Ok(()),
            (critical, warnings) => {
                let s = if warnings == 1 { "" } else { "s" };
                Err(Failure::Degraded(format!("{critical} critical, {warnings} warning{s}")))
            }
        }
    }

    fn text(&self) -> String {
        let Self { nodes, nodes_answered, shards, leads, findings, .. } = self;
        let mut asked = format!("{nodes_answered} of {nodes} nodes answered; {shards} shards looked at");
        if let Some(leads) = leads {
            asked.push_str(&format!("\n{}", wrapped(&leads.text(), WIDTH).join("\n")));
        }
        if findings.is_empty() {
            return format!("{asked}\n\nnothing is wrong");
        }
        let mut out = asked;
        for finding in findings {
            let mut lines = bare_table();
            let lines_of = |text: &str| Cell::new(wrapped(text, WIDTH).join("\n"));
            let (mark, well) = match finding.severity {
                Severity::Critical => ("CRITICAL", false),
                Severity::Warning => ("warning", false),
            };
            lines.add_row([judged(mark, well), lines_of(&finding.what)]);
            lines.add_row([Cell::new("why"), lines_of(&finding.why)]);
            lines.add_row([Cell::new("do"), lines_of(&finding.advice)]);
            // Whole, to be copied.
            lines.add_row([Cell::new("run"), Cell::new(&finding.run)]);
            out.push_str(&format!("\n\n{}", text(&mut lines)));
        }
        out
    }
}
