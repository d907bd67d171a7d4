//! Waiting until a change is over.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::Output;
use super::super::context::Context;
use super::super::exit::Failure;
use super::Plan;
use crate::proto::v1;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);
/// So often in a row it must be over: what a command has asked for begins a moment later.
const LOOKS: u32 = 4;

/// Waits until nothing is left of the change, nodes that join carry their share, and those that drain are empty.
pub(super) async fn until_over(context: &Context) -> Result<Plan, Failure> {
    let bar = bar(context);
    let ended = tokio::select! {
        ended = looking(context, &bar) => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Err(Failure::error("no longer waited for: the change goes on by itself"))
        }
    };
    bar.finish_and_clear();
    ended
}

async fn looking(context: &Context, bar: &ProgressBar) -> Result<Plan, Failure> {
    let (mut over, mut seen) = (0, context.again());
    loop {
        tokio::time::sleep(LOOK).await;
        match look(&context.one_of_many()).await {
            Ok((plan, settled)) => {
                seen = context.again();
                over = if settled && plan.is_over() { over + 1 } else { 0 };
                bar.set_length(u64::from(plan.copies_total.max(plan.copies_done)));
                bar.set_position(u64::from(plan.copies_done));
                bar.set_message(plan.waits.first().cloned().unwrap_or_else(|| plan.line()));
                if over >= LOOKS {
                    return Ok(plan);
                }
            }
            // Nodes come and go meanwhile: only when none answers for long it is given up.
            Err(failure) if seen.left() <= Duration::from_millis(1) => return Err(failure),
            Err(_) => over = 0,
        }
    }
}

async fn look(context: &Context) -> Result<(Plan, bool), Failure> {
    let admin = context.admin()?;
    let plan = context.read(admin.get_plan(v1::GetPlanRequest {})).await?.plan;
    let status = context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?;
    let moves = |node: &v1::NodeStatus| match node.intent() {
        v1::NodeIntent::Joining => true,
        v1::NodeIntent::Draining => node.replicas > 0,
        _ => node.replicas != node.replicas_wanted && node.liveness() == v1::NodeLiveness::Alive,
    };
    Ok((Plan::from(plan.unwrap_or_default()), !status.nodes.iter().any(moves)))
}

fn bar(context: &Context) -> ProgressBar {
    let bar = match context.output {
        Output::Table => ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()),
        Output::Json => ProgressBar::hidden(),
    };
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
