//! `clusterctl account`.

mod show;

use clap::{Args, Subcommand};

use super::context::Context;
use super::exit::Failure;
use crate::ids::AccountId;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// An account: what it may watch, its profiles, what is being watched now
    Show(ShowOptions),
}

#[derive(Debug, Args)]
pub(super) struct ShowOptions {
    /// The account
    #[arg(value_name = "ID")]
    account: AccountId,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Show(options) => show::run(context, options).await,
    }
}
