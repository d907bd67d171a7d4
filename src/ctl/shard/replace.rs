//! `clusterctl shard replace`.

use clap::Args;
use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::text::{plain, wrapped};
use crate::proto::v1;

/// Which replica, and where its successor shall stand.
#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// The shard's number
    shard: u32,
    /// The replica to be replaced, by its id in `shard show`
    #[arg(long, value_name = "ID")]
    replica: u64,
    /// The node for the fresh replica; none: the same node
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    to: String,
    /// Only say what would be done, or why it is refused
    #[arg(long)]
    dry_run: bool,
}

/// What is done, or would be.
#[derive(Debug, Serialize)]
struct Replacement {
    shard: u32,
    replica_id: u64,
    from_node: String,
    to_node: String,
    hands_over: bool,
    voters: u32,
    voters_alive: u32,
    /// `null`: nothing was done.
    fresh_replica_id: Option<u64>,
}

impl Replacement {
    fn new(request: &v1::ReplaceReplicaRequest, answer: v1::ReplaceReplicaResponse) -> Self {
        Self {
            shard: request.shard,
            replica_id: request.replica_id,
            from_node: plain(&answer.from_node),
            to_node: plain(&answer.node),
            hands_over: answer.hands_over,
            voters: answer.voters,
            voters_alive: answer.voters_alive,
            fresh_replica_id: (answer.replica_id != 0).then_some(answer.replica_id),
        }
    }

    /// What is to be done, without its full stop.
    fn sentence(&self) -> String {
        let Self { shard, replica_id, from_node, to_node, voters, voters_alive, .. } = self;
        let place = if from_node == to_node { format!("on {from_node}") } else { format!("{from_node} to {to_node}") };
        let first = if self.hands_over { "hands the lead over, then " } else { "" };
        format!(
            "Replica {replica_id} of shard {shard} ({place}) is replaced by a fresh one: that is copied to, then gets the vote; \
             {replica_id} {first}goes; {voters_alive} of {voters} voters live"
        )
    }

    fn text(&self) -> String {
        let sentence = wrapped(&self.sentence(), 80).join("\n");
        match self.fresh_replica_id {
            Some(fresh) => {
                format!(
                    "{sentence}\n\nthe fresh one is {fresh}: clusterctl shard show {} shows how far it is",
                    self.shard
                )
            }
            None => format!("{sentence}\n\nnothing was done: this was a dry run"),
        }
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let request = v1::ReplaceReplicaRequest {
        shard: options.shard,
        replica_id: options.replica,
        to_node: options.to,
        validate_only: true,
    };
    let would = Replacement::new(&request, context.patient_admin().await?.replace_replica(request.clone()).await?);
    if options.dry_run {
        return context.answer(&would, || would.text());
    }
    let context = permission(context, &would.sentence()).await?;
    let request = v1::ReplaceReplicaRequest { validate_only: false, ..request };
    let done = Replacement::new(&request, context.patient_admin().await?.replace_replica(request.clone()).await?);
    context.answer(&done, || done.text())
}
