//! The node's process: makes the clock, the seeds and the configuration, runs the node and its faces, and stops gracefully.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Arg, ArgAction, Command};
use playhead::ambient::{SystemClock, random_u64};
use playhead::node::config::{Config, FIELDS, LogFormat, Sources, load};
use playhead::node::supervisor::Supervisor;
use playhead::node::{MetaLeft, Node, Seeds, Started};
use playhead::rpc::faces;
use playhead::telemetry;

/// docs/decisions/0006-mimalloc.md
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn command() -> Command {
    let file = Arg::new("config").long("config").env("PLAYHEAD_CONFIG").help("A TOML file with settings");
    let dump = Arg::new("dump-config").long("dump-config").action(ArgAction::SetTrue);
    let base = Command::new("playhead")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A node of a playhead cluster. Every setting can stand in the file, in PLAYHEAD_... or in a flag.")
        .arg(file)
        .arg(dump.help("Print the settings that came out of defaults, file, environment and flags, and end"));
    let recover = Arg::new("recover-meta").long("recover-meta").action(ArgAction::SetTrue);
    let yes = Arg::new("yes").long("yes").action(ArgAction::SetTrue).requires("recover-meta");
    let base =
        base.arg(recover.help(
            "Say what this stopped node has left of the meta group, and with --yes have it go on alone; and end",
        ))
        .arg(yes.help("With --recover-meta: do it. Most voters of the meta group must be gone for good"));
    FIELDS.iter().fold(base, |command, field| {
        let default = if field.default.is_empty() { "empty" } else { field.default };
        let help = format!("{} [{}] [default: {default}]", field.doc, field.accepted);
        command.arg(
            Arg::new(field.name)
                .long(field.flag().leak() as &str)
                .value_name("VALUE")
                .allow_hyphen_values(true)
                .help(help),
        )
    })
}

/// What the process is started for.
enum Task {
    /// To be a node.
    Serve,
    /// To have the meta group go on with what is left here, if the operator says so.
    RecoverMeta { yes: bool },
}

fn configuration() -> anyhow::Result<Option<(Config, Task)>> {
    let matches = command().get_matches();
    let flags: BTreeMap<String, String> = FIELDS
        .iter()
        .filter_map(|field| Some((field.flag(), matches.get_one::<String>(field.name)?.clone())))
        .collect();
    let file = matches.get_one::<String>("config").map(PathBuf::from);
    let config = load(&Sources { file, environment: std::env::vars_os().collect(), flags })?;
    if matches.get_flag("dump-config") {
        print!("{}", config.dump());
        return Ok(None);
    }
    let task = match matches.get_flag("recover-meta") {
        true => Task::RecoverMeta { yes: matches.get_flag("yes") },
        false => Task::Serve,
    };
    Ok(Some((config, task)))
}

fn main() -> ExitCode {
    let (config, task) = match configuration() {
        Ok(Some(config)) => config,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("playhead: {error}");
            return ExitCode::from(2);
        }
    };
    if let Task::RecoverMeta { yes } = task {
        return match recover_meta(&config, yes) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("playhead: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the node ends");
            if error.is::<Removed>() { ExitCode::from(REMOVED) } else { ExitCode::FAILURE }
        }
    }
}

fn recover_meta(config: &Config, yes: bool) -> anyhow::Result<()> {
    let seeds = Seeds { node: random_u64(), jitter: random_u64() };
    let left = MetaLeft::open(config, Arc::new(SystemClock::new()), seeds)?;
    let (term, index) = left.end;
    println!("cluster {}, node {}", left.cluster, left.node);
    println!("replica {} of the meta group: its log ends with entry {index} of term {term}", left.replica);
    println!();
    println!("It can go on alone when most voters of the meta group are gone for good. Of all");
    println!("folders that are left take the one whose log ends last: the higher term, then");
    println!("the higher entry, and only that one: two would be two clusters. What the others");
    println!("had acknowledged without it is lost: changes of nodes, placement, rules,");
    println!("settings and versions. A shard whose replicas had all moved since is not found");
    println!("again. Wipe the folder of every other node that voted before it is started: two");
    println!("of them would be the old meta group, and the shards with them the old cluster.");
    if let Some((name, address)) = left.others.iter().find(|(_, address)| is_taken(address)).cloned() {
        left.close();
        anyhow::bail!("{name} runs at {address}: stop all nodes first. If it has a majority nothing is lost");
    }
    if yes {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(left.go_on_alone())?;
        println!();
        println!("done: start this node. Then, for each node that is gone:");
        println!("clusterctl node remove NAME --force --quorum-lost; at last");
        println!("clusterctl recover shards --all");
    } else {
        println!();
        println!("nothing was done: add --yes");
    }
    left.close();
    Ok(())
}

/// Whether something listens there.
fn is_taken(address: &str) -> bool {
    use std::net::ToSocketAddrs as _;
    let reached = |at| std::net::TcpStream::connect_timeout(&at, std::time::Duration::from_secs(1)).is_ok();
    address.to_socket_addrs().is_ok_and(|mut found| found.any(reached))
}

/// The exit code of a node that was removed from its cluster: starting it again as it is helps nothing.
const REMOVED: u8 = 78;

/// The node was removed from its cluster.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Removed(String);

fn run(mut config: Config) -> anyhow::Result<()> {
    telemetry::init(config.log_format == LogFormat::Json, &config.log_filter)?;
    telemetry::install_panic_hook();
    // The groups and the log have threads of their own, which everybody waits for: they get a core's worth of room.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = cores.saturating_sub(1).max(1);
    config.snapshots_bytes_per_second = config.snapshots_rate(cores);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(workers).enable_all().thread_name("grpc").build()?;
    let served = runtime.block_on(serve(config));
    // Whatever still hangs has had its time.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    served
}

/// Whoever has started the process and set `NOTIFY_SOCKET`, as systemd does.
fn supervisor() -> Supervisor {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => Supervisor::at(socket, sd_notify::watchdog_enabled()),
        None => Supervisor::none(),
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock::new());
    let seeds = Seeds { node: random_u64(), jitter: random_u64() };
    let supervisor = supervisor();
    let Started { node, client, admin } = supervisor.starting(Node::start(config, clock, seeds)).await?;
    // All that can be wrong with them shows before anybody is told that the node serves, and they serve from then on by themselves.
    let faces = faces(node.clone(), random_u64()).await?;
    let faces = tokio::spawn(faces.serve(client, admin));
    let faces = async { anyhow::Ok(faces.await??) };
    node.announce().context("endpoints.json")?;
    supervisor.ready(&node).await;
    playhead::node::run_until_signal(&node, &supervisor, faces).await?;
    match node.why_halted() {
        None => Ok(()),
        Some(why) if node.was_removed() => Err(Removed(why).into()),
        Some(why) => Err(anyhow::anyhow!(why)),
    }
}
