//! `clusterctl`: one folder a noun, one file a verb; the tree of folders is the tree of commands.
//!
//! **Contract.** What was asked for goes to standard output, as a table for people that fits 80 columns or as JSON (`--output
//! json`, one document per command, one a line with `--watch`); everything else (errors, progress, warnings) goes to standard
//! error. Nothing from outside is shown with characters that a terminal obeys. What changes what others rely on asks first, and
//! where nobody can be asked does nothing without `--yes`; `bootstrap` and `import`, which only add, don't ask. No question to a
//! cluster takes longer than `--timeout`. The exit code tells scripts how it went:
//!
//! | code | means |
//! |---|---|
//! | 0 | done, and all is well |
//! | 1 | it went wrong: refused, contradicted, or a mistake of this program; an import that stopped or had refused rows |
//! | 2 | the command line or a value in it is wrong, or `--yes` is missing; nothing was done |
//! | 3 | the cluster is degraded: shown is what can be, and a change that was not possible for it was not made |
//! | 4 | no node could be reached, or none answered in time; nothing was changed, as far as is known |
//!
//! **Caveats.** It uses only [`crate::client`], and shows what the node says that it asked; what nodes know of each other
//! is as old as their last pulse, and the tables say so where it matters.

mod account;
mod ask;
mod bench;
mod bootstrap;
mod chaos;
mod completion;
mod connect;
mod context;
mod doctor;
mod each;
mod exit;
mod health;
pub mod import;
mod interrupts;
mod live;
mod local;
#[cfg(test)]
mod manual;
mod node;
mod output;
mod plan;
mod policy;
mod raft;
mod recover;
mod ring;
mod settings;
mod shard;
mod status;
mod text;
mod top;
mod upgrade;
mod view;
mod watch;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::time::Clock;

use connect::Connection;
use context::Context;
use exit::Failure;

/// Ask and operate a Playhead cluster, import histories, run local clusters.
#[derive(Debug, Parser)]
#[command(
    name = "clusterctl",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 all is well; 1 it went wrong; 2 wrong usage; 3 the cluster is degraded; 4 unreachable."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Where the cluster is: client endpoints, and after `;admin=` the operators' ones
    #[arg(
        long,
        global = true,
        env = "PLAYHEAD_ENDPOINTS",
        value_name = "HOST:PORT,..;admin=HOST:PORT,..",
        hide_env_values = true,
        default_value = "127.0.0.1:7400;admin=127.0.0.1:7402",
        help_heading = "Global options"
    )]
    endpoints: Connection,
    /// The authority (PEM) that signed the nodes' certificates: clients' endpoints are called over TLS
    #[arg(long, global = true, env = "PLAYHEAD_AUTHORITY", value_name = "FILE", help_heading = "Global options")]
    authority: Option<std::path::PathBuf>,
    /// For people or for programs
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table, help_heading = "Global options")]
    output: Output,
    /// How long a call may take, over all its attempts: `500ms`, `10s`, `2m`
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = connect::duration, help_heading = "Global options")]
    timeout: Duration,
    /// Change what is to be changed without asking
    #[arg(long, short, global = true, help_heading = "Global options")]
    yes: bool,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How the cluster is: shards led, replicas, nodes
    Status(status::Options),
    /// The cluster, live: what nodes and shards do, what has happened, what is moving
    Top(top::Options),
    /// Nodes
    #[command(subcommand)]
    Node(node::Command),
    /// What is being moved as nodes come and go
    #[command(subcommand)]
    Plan(plan::Command),
    /// Shards
    #[command(subcommand)]
    Shard(shard::Command),
    /// The ring that places shards on nodes
    #[command(subcommand)]
    Ring(ring::Command),
    /// Accounts
    #[command(subcommand)]
    Account(account::Command),
    /// Views that run
    #[command(subcommand)]
    View(view::Command),
    /// How many streams an account may have
    #[command(subcommand)]
    Policy(policy::Command),
    /// The figures that every shard works by
    #[command(subcommand)]
    Settings(settings::Command),
    /// The cluster's version, and the end of an upgrade
    #[command(subcommand)]
    Upgrade(upgrade::Command),
    /// Raft groups, for a close look
    #[command(subcommand)]
    Raft(raft::Command),
    /// Go on with what is left when most voters of a group are gone for good
    #[command(subcommand)]
    Recover(recover::Command),
    /// Ask every node, find what is wrong, say what to do
    Doctor,
    /// Whether nodes serve clients, by their own word: 0 all do; 3 some don't; 4 none answers
    Health,
    /// Import viewing histories
    #[command(subcommand)]
    Import(import::Command),
    /// Make a cluster of nodes that have none
    Bootstrap(bootstrap::Options),
    /// Run a cluster of processes on this machine
    #[command(subcommand)]
    Local(local::Command),
    /// Offer reports to a cluster at a rate, whatever it answers, and tell how long they took
    Bench(bench::Options),
    /// Disturb a local cluster while households play, and check that nothing acknowledged is lost
    Chaos(chaos::Options),
    /// A script that completes commands in a shell
    Completion(completion::Options),
}

/// Runs `clusterctl` with these arguments, the program's name first.
pub fn main(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    clock: Arc<dyn Clock>,
    seed: u64,
) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to standard output with 0, mistakes to standard error with 2.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return report(&Failure::error(format!("no threads: {e}"))),
    };
    let outcome = runtime.block_on(run(cli, clock, seed));
    // A call that hangs must not keep the program.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "clusterctl: {}", text::harmless(&failure.to_string()));
    failure.exit_code()
}

async fn run(cli: Cli, clock: Arc<dyn Clock>, seed: u64) -> Result<(), Failure> {
    let context = Context::new(cli.global, clock, seed)?;
    match cli.command {
        Command::Status(options) => status::run(&context, options).await,
        Command::Top(options) => top::run(&context, options).await,
        Command::Node(command) => node::run(&context, command).await,
        Command::Plan(command) => plan::run(&context, command).await,
        Command::Shard(command) => shard::run(&context, command).await,
        Command::Ring(command) => ring::run(&context, command).await,
        Command::Account(command) => account::run(&context, command).await,
        Command::View(command) => view::run(&context, command).await,
        Command::Policy(command) => policy::run(&context, command).await,
        Command::Settings(command) => settings::run(&context, command).await,
        Command::Upgrade(command) => upgrade::run(&context, command).await,
        Command::Raft(command) => raft::run(&context, command).await,
        Command::Recover(command) => recover::run(&context, command).await,
        Command::Doctor => doctor::run(&context).await,
        Command::Health => health::run(&context).await,
        Command::Import(command) => import::run(&context, command).await,
        Command::Bootstrap(options) => bootstrap::run(&context, options).await,
        Command::Local(command) => local::run(&context, command).await,
        Command::Bench(options) => bench::run(&context, options).await,
        Command::Chaos(options) => chaos::run(&context, options).await,
        Command::Completion(options) => completion::run(&context, &options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_typed_is_understood() {
        for arguments in [
            &["clusterctl", "status", "--watch"][..],
            &["clusterctl", "status", "--watch", "500ms", "--count", "3", "--output", "json"],
            &["clusterctl", "node", "list", "--watch=5s"],
            &["clusterctl", "node", "hand-over", "n1", "--for", "30m"],
            &["clusterctl", "node", "restart-safe", "n1"],
            &["clusterctl", "node", "restart-safe", "--all", "--exec", "ssh {host} restart {node}", "--wait", "10m"],
            &["clusterctl", "node", "add", "10.0.0.4:7401", "--zone", "b", "--weight", "2", "--wait"],
            &["clusterctl", "node", "drain", "n4", "--dry-run"],
            &["clusterctl", "node", "remove", "n4", "--force", "--yes"],
            &["clusterctl", "node", "replace", "n1", "--by", "10.0.0.5:7401"],
            &["clusterctl", "node", "give-up", "n1"],
            &["clusterctl", "node", "update", "n1", "--weight", "3", "--hold"],
            &["clusterctl", "node", "forget", "n1"],
            &["clusterctl", "plan", "show", "--watch"],
            &["clusterctl", "plan", "pause", "--wait"],
            &["clusterctl", "shard", "move", "3", "--from", "n1", "--to", "n4", "--dry-run"],
            &["clusterctl", "ring", "rules", "--replication-factor", "5", "--grace", "10m", "--automatic", "no"],
            &["clusterctl", "ring", "rules", "--heat", "off"],
            &["clusterctl", "ring", "rules", "--copies-kib-per-second", "8192", "--dry-run"],
            &["clusterctl", "ring", "rules", "--copies-kib-per-second", "default", "--account-per-second", "500"],
            &["clusterctl", "shard", "list", "--troubled", "--watch"],
            &["clusterctl", "shard", "transfer-leader", "3", "--to", "n2", "--yes"],
            &["clusterctl", "shard", "check", "--all"],
            &["clusterctl", "ring", "plan", "--add", "n4", "--add", "n5:b:2", "--remove", "n1"],
            &["clusterctl", "account", "active", "ann", "--read", "any", "--watch"],
            &["clusterctl", "account", "history", "ann", "--profile", "p", "--title", "t", "--limit", "5000"],
            &["clusterctl", "account", "resume", "ann", "t1", "t2", "--profile", "p"],
            &["clusterctl", "-y", "view", "end", "ann", "v"],
            &["clusterctl", "policy", "set", "ann", "--max-streams", "64"],
            &["clusterctl", "settings", "set", "interval_ms=15000", "policy.max_streams=4"],
            &["clusterctl", "raft", "show", "meta"],
            &["clusterctl", "upgrade", "show"],
            &["clusterctl", "upgrade", "finish", "--to", "2", "--dry-run", "--yes"],
            &["clusterctl", "recover", "shard", "3", "--from", "n1", "--dry-run"],
            &["clusterctl", "recover", "shards", "--all", "--yes"],
            &["clusterctl", "node", "remove", "n4", "--force", "--quorum-lost"],
            &["clusterctl", "doctor"],
            &["clusterctl", "chaos", "--faults", "kill,pause-kill", "--replicas", "5", "--nodes", "5", "--seed", "7"],
            &["clusterctl", "bench", "--rate", "5000", "--for", "30s", "--way", "streams", "--seed", "7"],
            &["clusterctl", "chaos", "--existing", "--rounds", "3", "--every", "2s"],
            &["clusterctl", "health", "--endpoints", "127.0.0.1:7400"],
            &["clusterctl", "completion", "zsh"],
        ] {
            assert!(Cli::try_parse_from(arguments).is_ok(), "{arguments:?}");
        }
    }

    #[test]
    fn wrong_usage_is_told_before_anything_is_done() {
        for arguments in [
            &["clusterctl", "stat"][..],
            &["clusterctl", "status", "--timeout", "soon"],
            &["clusterctl", "status", "--endpoints", "ftp://x"],
            &["clusterctl", "shard", "show", "-3"],
            &["clusterctl", "import", "netflix", "file.csv"],
            &["clusterctl", "account", "show", ""],
            &["clusterctl", "account", "show", "ann", "--read", "sometimes"],
            &["clusterctl", "account", "active", "ann", "--watch", "often"],
            &["clusterctl", "account", "active", "ann", "--count", "3"],
            &["clusterctl", "account", "history", "ann", "--limit", "0"],
            &["clusterctl", "account", "resume", "ann", "a\u{1b}[2J"],
            &["clusterctl", "status", "--watch", "--count", "0"],
            &["clusterctl", "status", "--watch", "--wait"],
            &["clusterctl", "node", "show", ""],
            &["clusterctl", "node", "hand-over", "n1", "--for", "61m"],
            &["clusterctl", "node", "restart-safe"],
            &["clusterctl", "node", "restart-safe", "n1", "--all"],
            &["clusterctl", "node", "restart-safe", "--all", "--exec", "x", "--root", "y"],
            &["clusterctl", "node", "add"],
            &["clusterctl", "node", "drain", "n4", "--undo", "--force"],
            &["clusterctl", "node", "drain", "n4", "--dry-run", "--wait"],
            &["clusterctl", "node", "replace", "n1"],
            &["clusterctl", "node", "update", "n1"],
            &["clusterctl", "node", "update", "n1", "--weight", "0"],
            &["clusterctl", "node", "update", "n1", "--hold", "--release"],
            &["clusterctl", "ring", "rules"],
            &["clusterctl", "ring", "rules", "--automatic", "perhaps"],
            &["clusterctl", "ring", "rules", "--heat", "hot"],
            &["clusterctl", "ring", "rules", "--copies-kib-per-second", "63"],
            &["clusterctl", "ring", "rules", "--copies-kib-per-second", "fast"],
            &["clusterctl", "ring", "rules", "--account-per-second", "0"],
            &["clusterctl", "shard", "move", "3", "--to", "n4"],
            &["clusterctl", "shard", "transfer-leader", "one"],
            &["clusterctl", "shard", "check"],
            &["clusterctl", "recover", "shards"],
            &["clusterctl", "recover", "shard", "--all"],
            &["clusterctl", "node", "remove", "n4", "--quorum-lost"],
            &["clusterctl", "shard", "check", "3", "--all"],
            &["clusterctl", "ring", "plan"],
            &["clusterctl", "ring", "plan", "--add", "n4:zone:0"],
            &["clusterctl", "view", "end", "ann"],
            &["clusterctl", "policy", "set", "ann", "--max-streams", "65"],
            &["clusterctl", "policy", "set", "ann"],
            &["clusterctl", "settings", "set"],
            &["clusterctl", "settings", "set", "interval_ms"],
            &["clusterctl", "raft", "show", "all"],
            &["clusterctl", "upgrade"],
            &["clusterctl", "upgrade", "finish", "--to", "newest"],
            &["clusterctl", "completion", "basic"],
            &["clusterctl", "bench", "--rate", "0"],
            &["clusterctl", "bench", "--rate", "1000001"],
            &["clusterctl", "bench", "--households", "100001"],
            &["clusterctl", "bench", "--way", "pigeons"],
            &["clusterctl", "bench", "--for", "0s"],
            &["clusterctl", "chaos", "--faults", "flood"],
            &["clusterctl", "chaos", "--nodes", "17"],
            &["clusterctl", "chaos", "--shards", "3"],
            &["clusterctl", "chaos", "--replicas", "2"],
            &["clusterctl", "chaos", "--rounds", "0"],
            &["clusterctl", "chaos", "--rounds", "2", "--for", "1m"],
            &["clusterctl", "chaos", "--every", "100ms"],
            &["clusterctl", "chaos", "--households", "0"],
            &["clusterctl", "chaos", "--existing", "--nodes", "3"],
            &["clusterctl", "chaos", "--existing", "--sabotage"],
            &["clusterctl", "chaos", "--seed", "-1"],
            &["clusterctl", "local", "up", "--nodes", "0"],
            &["clusterctl", "local", "up", "--nodes", "99"],
        ] {
            let told = Cli::try_parse_from(arguments).unwrap_err();
            assert_eq!(told.exit_code(), 2, "{arguments:?}");
        }
    }
}
