//! `clusterctl shard move`.

use clap::Args;
use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::node::node_name;
use crate::proto::v1;

/// Which replica, and where it goes.
#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// The shard's number
    shard: u32,
    /// The node that holds the replica
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    from: String,
    /// The node that gets it
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    to: String,
    /// Only say what would be done, or why it is refused
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Moved {
    shard: u32,
    from_node: String,
    to_node: String,
    hands_over: bool,
    /// `null`: nothing was done.
    fresh_replica_id: Option<u64>,
}

impl Moved {
    fn new(request: &v1::MoveReplicaRequest, answer: &v1::MoveReplicaResponse) -> Self {
        Self {
            shard: request.shard,
            from_node: request.from_node.clone(),
            to_node: request.to_node.clone(),
            hands_over: answer.hands_over,
            fresh_replica_id: (answer.replica_id != 0).then_some(answer.replica_id),
        }
    }

    /// What is to be done, without its full stop.
    fn sentence(&self) -> String {
        let Self { shard, from_node, to_node, .. } = self;
        let first = if self.hands_over { ", after it has handed the lead over" } else { "" };
        format!("The replica of shard {shard} on {from_node} moves to {to_node}{first}")
    }

    fn text(&self) -> String {
        match self.fresh_replica_id {
            Some(_) => format!("{}\n\nclusterctl shard show {} shows how far it is", self.sentence(), self.shard),
            None => format!("{}\n\nnothing was done: this was a dry run", self.sentence()),
        }
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Options { shard, from, to, dry_run } = options;
    let request = v1::MoveReplicaRequest { shard, from_node: from, to_node: to, validate_only: true };
    let would = Moved::new(&request, &context.patient_admin().await?.move_replica(request.clone()).await?);
    if dry_run {
        return context.answer(&would, || would.text());
    }
    let context = permission(context, &would.sentence()).await?;
    let request = v1::MoveReplicaRequest { validate_only: false, ..request };
    let done = Moved::new(&request, &context.patient_admin().await?.move_replica(request.clone()).await?);
    context.answer(&done, || done.text())
}
