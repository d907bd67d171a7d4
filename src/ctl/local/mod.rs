//! `clusterctl local`.
use super::context::Context;
use super::exit::Failure;
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// x
    Up {
        /// n
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
        nodes: u8,
    },
}
pub(super) async fn run(_: &Context, _: Command) -> Result<(), Failure> {
    Ok(())
}
