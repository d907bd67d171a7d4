//! `clusterctl import`: takes viewing histories into a cluster, and can prove that it did.
//!
//! [`plays`] sends what a format has understood; the cluster knows a play again, so that a second import adds nothing.
//! [`Expected`] says, from the file alone, what a cluster must answer after it; [`verify()`] asks the cluster, through each
//! node, and compares. `clusterctl import netflix`, the demo and the tests are built on these three.

mod expected;
mod netflix;
mod send;
mod verify;

use clap::Subcommand;

use super::context::Context;
use super::exit::Failure;

pub use expected::{Expected, Pair, PlayKey};
pub(super) use netflix::{import_file, read_file};
pub use send::{Refusal, Stopped, Summary, plays};
pub use verify::{NodeCheck, Verification, verify};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The viewing activity that Netflix exports: ViewingActivity.csv
    Netflix(netflix::Options),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Netflix(options) => netflix::run(context, options).await,
    }
}
