//! `clusterctl recover`: what is left of a group goes on when most of its voters are gone for good.

mod shards;

use clap::Subcommand;

use super::context::Context;
use super::exit::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// A shard without a quorum goes on with one replica that is left; what only the others had is lost
    Shard(shards::One),
    /// The same for all shards without a leader, each with the replica that has the longest log
    Shards(shards::All),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Shard(options) => shards::one(context, options).await,
        Command::Shards(options) => shards::all(context, options).await,
    }
}
