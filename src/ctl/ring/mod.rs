//! `clusterctl ring`.

mod draw;
mod moves;
mod plan;
mod rules;
mod show;

use clap::{Args, Subcommand};

use super::context::Context;
use super::exit::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The ring, drawn, with each node's share
    Show(ShowOptions),
    /// What would move if nodes came or went; nothing is changed
    Plan(plan::Options),
    /// Change how replicas are placed and rebuilt, and limits of all nodes; `plan show` tells the rules
    Rules(rules::Options),
}

#[derive(Debug, Args)]
pub(super) struct ShowOptions {
    /// Also every point of the ring (with --output json)
    #[arg(long)]
    points: bool,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Show(options) => show::run(context, options).await,
        Command::Plan(options) => plan::run(context, options).await,
        Command::Rules(options) => rules::run(context, options).await,
    }
}
