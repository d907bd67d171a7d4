//! `clusterctl plan show`.

use serde::Serialize;

use super::super::context::{Context, Screen};
use super::super::exit::Failure;
use super::super::output::span;
use super::super::text::{plain, wrapped};
use super::super::watch;
use super::{Leads, Plan};
use crate::proto::v1;

/// The change, and the rules that it follows.
#[derive(Debug, Serialize)]
struct Shown {
    plan: Plan,
    replication_factor: u32,
    slack_permille: u32,
    grace_ms: u64,
    automatic: bool,
    heat: bool,
    leads: Leads,
    answered_by: String,
}

impl Shown {
    fn new(answer: v1::GetPlanResponse) -> Self {
        let rules = answer.rules.unwrap_or_default();
        Self {
            plan: Plan::from(answer.plan.unwrap_or_default()),
            replication_factor: rules.replication_factor,
            slack_permille: rules.slack_permille,
            grace_ms: rules.grace_ms,
            automatic: rules.automatic,
            heat: rules.heat,
            leads: Leads::new(answer.leads, rules.heat),
            answered_by: plain(&answer.answered_by),
        }
    }

    fn text(&self) -> String {
        let begin = if self.automatic { "changes begin by themselves" } else { "changes wait for `plan apply`" };
        let (grace, copies) = (span(self.grace_ms), self.replication_factor);
        let rules = format!("{copies} copies of each shard; {begin}; dead nodes are given up after {grace}");
        let (rules, leads) = (wrapped(&rules, 80).join("\n"), wrapped(&self.leads.text(), 80).join("\n"));
        format!("{}\n\n{rules}\n{leads}", self.plan.text().trim_end())
    }
}

pub(super) async fn run(context: &Context, repeat: &watch::Repeat) -> Result<(), Failure> {
    watch::run(context, repeat, look).await
}

async fn look(context: &Context) -> Result<Screen, Failure> {
    let shown = Shown::new(context.read(context.admin()?.get_plan(v1::GetPlanRequest {})).await?);
    context.screen(&shown, || shown.text(), Ok(()))
}
