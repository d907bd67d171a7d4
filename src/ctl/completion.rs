//! `clusterctl completion`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::context::Context;
use super::exit::Failure;
use super::{Cli, Output};

/// Which shell.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "clusterctl", &mut script);
    let script = String::from_utf8(script).map_err(Failure::error)?;
    let answer = serde_json::json!({ "shell": options.shell.to_string(), "script": script });
    match context.output {
        // As it is: it may have tabs.
        Output::Table => context.print(script.trim_end()).map(drop),
        Output::Json => context.answer(&answer, String::new),
    }
}
