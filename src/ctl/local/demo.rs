//! `clusterctl local demo`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::import::{Expected, Verification, import_file, read_file, verify};
use super::super::interrupts::Interrupts;
use super::super::live::Live;
use super::super::output::{bare_table, clock, judged, number, paint, text};
use super::super::status::Status;
use super::super::{Output, connect, node};
use super::{bootstrapped, context_of, healthy};
use crate::client::AdminClient;
use crate::device::{Fleet, Plan as Playing, Report, Snapshot, Stats, Way};
use crate::formats::netflix;
use crate::ids::AccountId;
use crate::local::{LocalCluster, Plan, node_binary};
use crate::proto::v1;
use crate::time::MonotonicMs;

/// The account that takes the sample.
const ACCOUNT: &str = "sample-household";
/// The history that is imported where none is given.
const SAMPLE: &[u8] = include_bytes!("../../../cluster/sample/ViewingActivity.csv");
/// How often the live status is renewed.
const RENEW: Duration = Duration::from_millis(500);
/// How long a node that somebody killed stays dead.
const DEAD_MS: u64 = 10_000;
/// How often a line is written where there is no terminal.
const LINE_EVERY_MS: u64 = 10_000;

#[derive(Debug, Args)]
pub(in super::super) struct Options {
    /// End after playing for so long; without it, at ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = connect::duration)]
    duration: Option<Duration>,
    /// How many households play
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: u32,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// The folder in which the demo makes its own
    #[arg(long, value_name = "DIR", default_value = ".local")]
    root: PathBuf,
    /// The history to import; the project's own sample if none is given
    #[arg(long, value_name = "FILE")]
    sample: Option<PathBuf>,
}

/// How it went.
#[derive(Debug, Serialize)]
struct Summary {
    status: Status,
    sample: Sample,
    devices: Report,
    played_ms: u64,
    nodes_stopped_by_themselves: bool,
    processes_left: usize,
}

/// What came of the sample.
#[derive(Debug, Serialize)]
struct Sample {
    added: u64,
    verification: Verification,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let root = options.root.join(format!("demo-{}", std::process::id()));
    let outcome = demo(context, &options, &root).await;
    let right = outcome.as_ref().is_ok_and(Summary::is_right);
    if right {
        let _ = std::fs::remove_dir_all(&root);
        let _ = std::fs::remove_dir(&options.root);
    } else if root.exists() {
        context.note(&format!("data and logs are kept in {}", root.display()));
    }
    let summary = outcome?;
    context.answer(&summary, || summary.text())?;
    match right {
        true => Ok(()),
        false => Err(Failure::error("not everything is as it should be")),
    }
}

async fn demo(context: &Context, options: &Options, root: &Path) -> Result<Summary, Failure> {
    let mut interrupts = Interrupts::new()?;
    let say = |text: &str| say(context, text);
    // A cluster that is dropped on the way kills its nodes.
    let (mut cluster, sample) = tokio::select! {
        begun = begin(context, options, root) => begun?,
        () = interrupts.next() => return Err(Failure::error("interrupted while starting")),
    };
    let here = context_of(context, &cluster);
    say(&format!(
        "{} households play; kill -9 a PID and watch: after 10 s it is started again\n",
        number(options.devices.into())
    ));
    let plan = Playing {
        way: Way::Streams { streams: 4, window: 8 },
        ..Playing::new(options.devices as usize, context.seed())
    };
    let begun = here.clock.monotonic();
    let fleet = Fleet::start(here.client()?, here.clock.clone(), plan);
    watch(&here, &mut cluster, &fleet.stats(), options.duration, begun, &mut interrupts).await?;
    let played_ms = here.clock.monotonic().since(begun);
    say("checking everything that was acknowledged, by strong reads through each node ...");
    let (devices, status) = tokio::select! {
        checked = check(&here, fleet) => checked?,
        () = interrupts.next() => return Err(Failure::error("interrupted while checking")),
    };
    say("stopping the nodes ...\n");
    let running = cluster.states().into_iter().filter(|state| state.pid.is_some()).count();
    let stopped = cluster.stop_all().await?;
    let nodes_stopped_by_themselves = stopped.iter().all(|(_, how)| how.is_well()) && running == cluster.names().len();
    let processes_left = cluster.left().len();
    Ok(Summary { status, sample, devices, played_ms, nodes_stopped_by_themselves, processes_left })
}

/// Says how far it is, to people.
fn say(context: &Context, text: &str) {
    if context.output == Output::Table {
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}

/// Starts the nodes, makes a cluster of them, imports the sample.
async fn begin(context: &Context, options: &Options, root: &Path) -> Result<(LocalCluster, Sample), Failure> {
    say(context, &format!("starting {} nodes on free ports of 127.0.0.1 ...", options.nodes));
    let plan = Plan { nodes: options.nodes.into(), ..Plan::new(root, node_binary()?) };
    let cluster = LocalCluster::start(plan).await?;
    say(context, "making a cluster of them ...");
    bootstrapped(context, &cluster, 64, 0).await?;
    let sample = import_sample(&context_of(context, &cluster), options.sample.as_deref()).await?;
    let verification = &sample.verification;
    let (added, entries) = (number(sample.added), number(verification.entries as u64));
    let file = options.sample.as_ref().map_or_else(|| "the sample".to_string(), |file| file.display().to_string());
    say(context, &format!("{added} plays of {file} imported: {entries} entries"));
    let right = verification.nodes.iter().map(|node| node.last_positions_right).min().unwrap_or_default();
    let (pairs, nodes) = (verification.pairs, verification.nodes.len());
    say(context, &format!("{right} of {pairs} titles are where they were left, read through each of {nodes} nodes"));
    Ok((cluster, sample))
}

/// Stops playing and reads everything back; then how the cluster is.
async fn check(context: &Context, fleet: Fleet) -> Result<(Report, Status), Failure> {
    let clients: Vec<_> = context.client_of_each()?.into_iter().map(|(_, client)| client).collect();
    let devices = fleet.stop().await.check(&clients).await;
    // A node that somebody has just killed shows here.
    let status = match healthy(context, Duration::from_secs(10)).await {
        Ok(status) => status,
        Err(_) => Status::from(context.admin()?.get_cluster_status(v1::GetClusterStatusRequest {}).await?),
    };
    Ok((devices, status))
}

async fn import_sample(context: &Context, file: Option<&Path>) -> Result<Sample, Failure> {
    let account = AccountId::new(ACCOUNT).map_err(Failure::error)?;
    let export = match file {
        Some(file) => read_file(context, file)?.0,
        None => netflix::read(SAMPLE).map_err(Failure::error)?,
    };
    let summary = import_file(context, &account, &export).await?;
    let verification = verify(&context.client_of_each()?, &account, &Expected::of(&export.plays)).await?;
    Ok(Sample { added: summary.added, verification })
}

/// Shows how it goes until the time is over or somebody interrupts.
async fn watch(
    context: &Context,
    cluster: &mut LocalCluster,
    stats: &Stats,
    duration: Option<Duration>,
    begun: MonotonicMs,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    // One that does not wait long: what it cannot reach is shown as such.
    let admin = context.admin()?.with_deadline(Duration::from_secs(1));
    let mut live = Live::new();
    let mut view = View { last: (0, begun), line_at: begun.plus(LINE_EVERY_MS) };
    let mut dead_since: BTreeMap<String, MonotonicMs> = BTreeMap::new();
    let end = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            () = interrupts.next() => break,
            () = tokio::time::sleep(RENEW) => {}
        }
        revive(context, cluster, &mut dead_since).await?;
        if context.output == Output::Table {
            view.renew(context, cluster, &admin, stats, (begun, duration), &mut live).await?;
        }
    }
    Ok(live.clear()?)
}

/// Starts nodes again that somebody has killed, after a while in which the others can be watched doing without.
async fn revive(
    context: &Context,
    cluster: &mut LocalCluster,
    dead_since: &mut BTreeMap<String, MonotonicMs>,
) -> Result<(), Failure> {
    let now = context.clock.monotonic();
    for state in cluster.states() {
        match state.pid {
            Some(_) => drop(dead_since.remove(&state.name)),
            None if now.since(*dead_since.entry(state.name.clone()).or_insert(now)) >= DEAD_MS => {
                cluster.start_node(&state.name).await?;
            }
            None => {}
        }
    }
    Ok(())
}

/// What was shown last.
struct View {
    /// Reports acknowledged, and when that was.
    last: (u64, MonotonicMs),
    /// When the next line is due where there is no terminal.
    line_at: MonotonicMs,
}

impl View {
    async fn renew(
        &mut self,
        context: &Context,
        cluster: &mut LocalCluster,
        admin: &AdminClient,
        stats: &Stats,
        (begun, duration): (MonotonicMs, Option<Duration>),
        live: &mut Live,
    ) -> Result<(), Failure> {
        let now = context.clock.monotonic();
        if !live.in_terminal() && now < self.line_at {
            return Ok(());
        }
        let status = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await.map(Status::from);
        let counters = stats.snapshot();
        let (reports, at) = self.last;
        let rate = (counters.reports_acknowledged - reports) * 1_000 / now.since(at).max(1);
        self.last = (counters.reports_acknowledged, now);
        let elapsed = clock(i64::try_from(now.since(begun)).unwrap_or(i64::MAX));
        if !live.in_terminal() {
            self.line_at = now.plus(LINE_EVERY_MS);
            let shards = status.as_ref().map_or_else(|_| "?".to_string(), |s| format!("{}/{}", s.shards_led, s.shards));
            let (acked, wrong) = (number(counters.reports_acknowledged), counters.mismatches);
            say(context, &format!("{elapsed}  shards led {shards}  reports {acked} ({rate}/s)  mismatches {wrong}"));
            return Ok(());
        }
        let of = duration
            .map_or_else(String::new, |d| format!(" of {}", clock(i64::try_from(d.as_millis()).unwrap_or(i64::MAX))));
        let mut lines =
            vec![format!("{}  {elapsed}{of}, ctrl-C stops everything", paint("Playhead", 1)), String::new()];
        match status {
            Ok(status) => lines.extend(status_lines(context, cluster, &status)),
            Err(e) => lines.push(format!("no node answers: {e}")),
        }
        lines.push(String::new());
        lines.extend(device_lines(&counters, rate));
        Ok(live.show(&lines)?)
    }
}

fn status_lines(context: &Context, cluster: &mut LocalCluster, status: &Status) -> Vec<String> {
    let of = |n: u32, of: u32| paint(&format!("{n} of {of}"), if n == of { 32 } else { 31 });
    let mut lines = vec![format!(
        "shards led {}   replicas following {}   epoch {}",
        of(status.shards_led, status.shards),
        of(status.replicas_current, status.replicas_wanted),
        status.epoch
    )];
    let mut nodes = node::table_of(&status.nodes, context.clock.wall());
    let pids = cluster.states();
    let mut rows = text(&mut nodes).lines().map(str::to_string).collect::<Vec<_>>().into_iter();
    lines.push(String::new());
    lines.extend(rows.next().map(|header| format!("{:>8}  {header}", "PID")));
    for (row, node) in rows.zip(&status.nodes) {
        let pid = pids.iter().find(|state| state.name == node.node).and_then(|state| state.pid);
        let pid = pid.map_or_else(|| "stopped".to_string(), |pid| pid.to_string());
        lines.push(format!("{pid:>8}  {row}"));
    }
    lines
}

fn device_lines(counters: &Snapshot, rate: u64) -> Vec<String> {
    let ms = |us: u64| format!("{:.1} ms", us as f64 / 1_000.0);
    let wrong = paint(&number(counters.mismatches), if counters.mismatches == 0 { 32 } else { 31 });
    let mut lines = vec![
        format!(
            "devices playing {}   answered within p50 {}, p99 {}",
            number(counters.playing),
            ms(counters.p50_us),
            ms(counters.p99_us)
        ),
        format!(
            "reports acknowledged {} ({}/s)   unknown {}   unavailable {}",
            number(counters.reports_acknowledged),
            number(rate),
            number(counters.unknown),
            number(counters.unavailable)
        ),
        format!("checks {} ({} strong reads)   mismatches {wrong}", number(counters.checks), number(counters.reads)),
    ];
    lines.extend(counters.described.iter().take(3).map(|what| format!("  {what}")));
    lines
}

impl Summary {
    fn is_right(&self) -> bool {
        self.status.healthy
            && self.sample.verification.is_right()
            && self.devices.is_right()
            && self.nodes_stopped_by_themselves
            && self.processes_left == 0
    }

    fn text(&self) -> String {
        let (status, counters) = (&self.status, &self.devices.counters);
        let mut rows = bare_table();
        let mut row = |what: &str, value: String, well: bool| {
            rows.add_row([what.into(), value.into(), judged(if well { "ok" } else { "WRONG" }, well)]);
        };
        let led = status.shards_led == status.shards;
        row("shards led", format!("{} of {}", status.shards_led, status.shards), led);
        let follow = status.replicas_current == status.replicas_wanted;
        row("replicas following", format!("{} of {}", status.replicas_current, status.replicas_wanted), follow);
        let sample = &self.sample;
        let plays = format!("{} plays in {} entries", number(sample.added), number(sample.verification.entries as u64));
        row("sample imported", plays, sample.verification.is_right());
        let rate = counters.reports_acknowledged * 1_000 / self.played_ms.max(1);
        let acked = format!("{} ({}/s)", number(counters.reports_acknowledged), number(rate));
        row("reports acknowledged", acked, counters.reports_acknowledged > 0);
        row("starts and stops acknowledged", number(counters.writes_acknowledged), true);
        row("accepted only", number(counters.accepted), true);
        let ms = |us: u64| us as f64 / 1_000.0;
        row("report answered, p50 / p99", format!("{:.1} / {:.1} ms", ms(counters.p50_us), ms(counters.p99_us)), true);
        let read =
            format!("{} of {}", number(self.devices.households_checked as u64), number(self.devices.households as u64));
        row("households read back", read, self.devices.households_checked == self.devices.households);
        row("strong reads", number(counters.reads), true);
        row("mismatches", number(counters.mismatches), counters.mismatches == 0);
        let unknown = format!("{}, {} never learned", number(counters.unknown), number(counters.unresolved));
        row("unknown outcomes", unknown, true);
        let stopped = if self.nodes_stopped_by_themselves { "all" } else { "not all" };
        row("nodes stopped when asked", stopped.to_string(), self.nodes_stopped_by_themselves);
        row("processes left", self.processes_left.to_string(), self.processes_left == 0);
        let mut out = text(&mut rows);
        for mismatch in counters.described.iter().chain(&sample.verification.mismatches) {
            out.push_str(&format!("\n  {mismatch}"));
        }
        out
    }
}
