//! `clusterctl shard replace`.

use clap::Args;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
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
    /// Do it; without this it is only said what would be done
    #[arg(long)]
    yes: bool,
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
    fn text(&self) -> String {
        let Self { shard, replica_id, from_node, to_node, voters, voters_alive, .. } = self;
        let place = if from_node == to_node { format!("on {from_node}") } else { format!("{from_node} to {to_node}") };
        let first = if self.hands_over { "hands the lead over, then " } else { "" };
        let votes = format!("{voters_alive} of {voters} voters live");
        match self.fresh_replica_id {
            Some(fresh) => format!(
                "replica {replica_id} of shard {shard} ({place}) is being replaced by {fresh}: {fresh} is copied to, then gets \
                 the vote; {replica_id} {first}goes; {votes}\nclusterctl shard show {shard} shows how far it is"
            ),
            None => format!(
                "replica {replica_id} of shard {shard} ({place}) would be replaced by a fresh one: that is copied to, then gets \
                 the vote; {replica_id} {first}goes; {votes}\nnothing was done; add --yes to do it"
            ),
        }
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let request = v1::ReplaceReplicaRequest {
        shard: options.shard,
        replica_id: options.replica,
        to_node: options.to,
        validate_only: !options.yes,
    };
    let answer = context.admin()?.replace_replica(request).await?;
    let replacement = Replacement {
        shard: options.shard,
        replica_id: options.replica,
        from_node: answer.from_node,
        to_node: answer.node,
        hands_over: answer.hands_over,
        voters: answer.voters,
        voters_alive: answer.voters_alive,
        fresh_replica_id: (answer.replica_id != 0).then_some(answer.replica_id),
    };
    context.answer(&replacement, || replacement.text())
}
