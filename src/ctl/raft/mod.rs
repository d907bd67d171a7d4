//! `clusterctl raft`.

mod show;

use std::str::FromStr;

use clap::{Args, Subcommand};

use super::context::Context;
use super::exit::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// A group's terms, logs and members, as each of its replicas sees them
    Show(ShowOptions),
}

#[derive(Debug, Args)]
pub(super) struct ShowOptions {
    /// The shard's number, or `meta` for the group of nodes and placement
    #[arg(value_name = "SHARD|meta")]
    of: Which,
}

/// A group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Shard(u32),
    Meta,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "meta" => Ok(Self::Meta),
            _ => text.parse().map(Self::Shard).map_err(|_| "a shard's number, or meta, is accepted".to_string()),
        }
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Show(options) => show::run(context, options).await,
    }
}
