//! `clusterctl policy`: how many streams an account may have.

mod get;
mod set;

use clap::{Args, Subcommand};

use super::account::Reading;
use super::context::Context;
use super::exit::Failure;
use crate::ids::AccountId;
use crate::view::StreamPolicy;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// How many streams the account may have
    Get(GetOptions),
    /// Set how many streams the account may have; views that run are not ended
    Set(SetOptions),
}

#[derive(Debug, Args)]
pub(super) struct GetOptions {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: AccountId,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct SetOptions {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: AccountId,
    /// The most streams at the same time, 1 to 64
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(StreamPolicy::STREAMS_MAX)))]
    max_streams: u32,
    /// Whether views are refused while the account's shard has no leader; without this option that stays as it is
    #[arg(long, value_name = "true|false")]
    fail_closed: Option<bool>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Get(options) => get::run(context, options).await,
        Command::Set(options) => set::run(context, options).await,
    }
}
