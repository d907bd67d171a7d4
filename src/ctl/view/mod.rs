//! `clusterctl view`.

mod end;

use clap::{Args, Subcommand};

use super::context::Context;
use super::exit::Failure;
use crate::ids::{AccountId, ViewId};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// End a view: its device is told to stop, its stream is free
    End(EndOptions),
}

#[derive(Debug, Args)]
pub(super) struct EndOptions {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: AccountId,
    /// The view, as `account active` names it
    #[arg(value_name = "VIEW")]
    view: ViewId,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::End(options) => end::run(context, options).await,
    }
}
