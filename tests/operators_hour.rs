//! An operator's first hour with `clusterctl`, from nothing to a cluster that was imported into, watched, broken, mended,
//! restarted under load, and asked what a fourth node would take over.
//!
//! The transcript is `docs/operators-hour.md`. With `PLAYHEAD_WRITE_MANUAL` set the test writes it; otherwise it holds the document to
//! what was done: the same words, the same commands in the same order, the same exit codes. The answers differ from run to run, and
//! what matters of them is asserted here.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/killed.rs"]
mod killed;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use killed::KilledAtEnd;
use tokio::process::{Child, Command};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operators-hour.md");
const HEAD: &str = "\
# An operator's first hour

<!-- Written by `PLAYHEAD_WRITE_MANUAL=1 cargo test --test operators_hour`, which does all of this; edit the words there. -->

What follows was done by a test, on an unoptimised build, on two cores; the answers are what the programs said. `clusterctl local` runs the
nodes here, as `./cluster/local.sh` does for you. On machines of their own everything but that is the same.
";
/// What takes so long hangs.
const HANGS: Duration = Duration::from_secs(180);
/// For how long a question is repeated until the answer is as it should be: nodes hear of each other in moments.
const SETTLES: Duration = Duration::from_secs(90);

/// What a command gave: all that it said, in the order of a terminal.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
}

/// An hour in a folder of its own.
struct Hour {
    _nodes: KilledAtEnd,
    folder: tempfile::TempDir,
    /// Where the programs are, and where the cluster is once it is known.
    path: String,
    endpoints: String,
    transcript: String,
}

impl Hour {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let link = |from: PathBuf, to: &str| std::os::unix::fs::symlink(from, folder.path().join(to)).unwrap();
        link(env!("CARGO_BIN_EXE_clusterctl").into(), "clusterctl");
        link(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster"), "cluster");
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
        let _nodes = KilledAtEnd(folder.path().join(".local/cluster"));
        Self { _nodes, folder, path, endpoints: String::new(), transcript: HEAD.to_string() }
    }

    fn say(&mut self, words: &str) {
        let _ = write!(self.transcript, "\n{words}\n");
    }

    fn bash(&self, command: &str) -> Command {
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec 2>&1\n{command}")])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        bash.env("PATH", &self.path).env("COLUMNS", "80").env_remove("NO_COLOR");
        if !self.endpoints.is_empty() {
            bash.env("PLAYHEAD_ENDPOINTS", &self.endpoints);
        }
        bash
    }

    async fn end(&self, command: &str) -> Ended {
        let output = tokio::time::timeout(HANGS, self.bash(command).output()).await;
        let output = output.unwrap_or_else(|_| panic!("`{command}` hangs\n{}", self.transcript)).unwrap();
        Ended { code: output.status.code().unwrap(), out: String::from_utf8(output.stdout).unwrap() }
    }

    /// Runs it once, and writes that down; it has to end with `code`.
    async fn step(&mut self, command: &str, code: i32) -> Ended {
        let ended = self.end(command).await;
        assert_eq!(ended.code, code, "`{command}`\n{}", ended.out);
        self.write(command, &ended);
        ended
    }

    /// Asks until the answer comes with `code`, and writes that down.
    async fn asks(&mut self, question: &str, code: i32) -> Ended {
        let ended = self.until(question, |ended| ended.code == code).await;
        self.write(question, &ended);
        ended
    }

    async fn until(&self, question: &str, is_so: impl Fn(&Ended) -> bool) -> Ended {
        let asking = async {
            loop {
                let ended = self.end(question).await;
                if is_so(&ended) {
                    return ended;
                }
                eprintln!("`{question}` ends with {}\n{}", ended.code, ended.out);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let ended = tokio::time::timeout(SETTLES, asking).await;
        ended.unwrap_or_else(|_| panic!("`{question}` is not answered as it should be\n{}", self.transcript))
    }

    fn write(&mut self, command: &str, ended: &Ended) {
        let folder = self.folder.path().display().to_string();
        let told = ended.out.replace(&format!("{folder}/"), "").replace(&folder, ".");
        let lines: Vec<&str> = told.lines().map(str::trim_end).collect();
        let _ = write!(self.transcript, "\n```console\n$ {command}\n");
        for line in lines {
            let _ = writeln!(self.transcript, "{line}");
        }
        if ended.code != 0 {
            let _ = writeln!(self.transcript, "(exit code {})", ended.code);
        }
        self.transcript.push_str("```\n");
    }

    fn background(&self, command: &str) -> Child {
        let mut bash = self.bash(&format!("exec {command}"));
        bash.stdout(Stdio::piped()).spawn().unwrap()
    }
}

/// Interrupts a command in the background, as ctrl-C does, and gives what it said.
async fn interrupted(child: Child, command: &str) -> Ended {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = tokio::time::timeout(HANGS, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("`{command}` does not end")).unwrap();
    Ended { code: output.status.code().unwrap(), out: String::from_utf8(output.stdout).unwrap() }
}

/// What of a document doesn't differ from run to run: the words, the commands, the exit codes.
fn skeleton(document: &str) -> String {
    let mut bones = Vec::new();
    let mut in_answer = false;
    for line in document.lines() {
        let fence = line.starts_with("```");
        in_answer ^= fence;
        if !in_answer || fence || line.starts_with("$ ") || line.starts_with("(exit code ") {
            bones.push(line);
        }
    }
    bones.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_first_hour() {
    let mut hour = Hour::new();
    hour.say("## A cluster of three nodes");
    hour.say("Elections are calmer than by default, because this build is slow and the machine is busy.");
    let calm = "--raft-election-min-ms 1500 --raft-election-max-ms 3000 --failover-suspect-ms 1500";
    hour.step(&format!("clusterctl local up --shards 16 --timeout 60s -- {calm}"), 0).await;
    let env = hour.step("clusterctl local env", 0).await;
    hour.endpoints = env.out.split('\'').nth(1).unwrap().to_string();
    hour.say("`eval \"$(clusterctl local env)\"` lets everything that follows find it.");
    let status = hour.asks("clusterctl status", 0).await;
    assert!(status.out.contains("16 of 16") && status.out.contains("48 of 48"), "{}", status.out);

    imports(&mut hour).await;
    watches(&mut hour).await;
    loses_a_node(&mut hour).await;
    restarts(&mut hour).await;
    changes(&mut hour).await;

    hour.say("## The end");
    hour.step("clusterctl local down", 0).await;

    if std::env::var_os("PLAYHEAD_WRITE_MANUAL").is_some() {
        std::fs::write(DOCUMENT, &hour.transcript).unwrap();
    }
    let written = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    let (done, is) = (skeleton(&hour.transcript), skeleton(&written));
    let differs = done.lines().zip(is.lines()).find(|(done, is)| done != is);
    let again = "PLAYHEAD_WRITE_MANUAL=1 cargo test --test operators_hour";
    assert!(done == is, "docs/operators-hour.md is not what was done ({differs:?}): write it anew with `{again}`");
}

async fn imports(hour: &mut Hour) {
    hour.say("## A history comes in");
    hour.say("The sample is in the repository; `--verify` reads everything back through each node, and imports it once more.");
    let import = "clusterctl import netflix cluster/sample/ViewingActivity.csv --account ann --verify --timeout 30s";
    hour.step(import, 0).await;
    hour.step("clusterctl account show ann", 0).await;
    let history = hour.step("clusterctl account history ann --profile Ines --limit 5", 0).await;
    assert!(history.out.lines().count() >= 6, "{}", history.out);
}

async fn watches(hour: &mut Hour) {
    hour.say("## Watching it work");
    let bench = "clusterctl bench --rate 100 --households 50 --for 10m";
    hour.say(&format!("In another terminal runs `{bench}`, which plays as devices do."));
    let load = hour.background(bench);
    let top = "clusterctl top --count 1";
    let is_busy = |ended: &Ended| {
        let seen: serde_json::Value = serde_json::from_str(&ended.out).unwrap_or_default();
        seen["reports_per_second"].as_f64().unwrap_or_default() > 20.0
    };
    hour.until(&format!("{top} -o json"), is_busy).await;
    let seen = hour.asks(top, 0).await;
    assert!(seen.out.contains("HEAT") && seen.out.contains("HOTTEST") && seen.out.contains("n3"), "{}", seen.out);
    interrupted(load, bench).await;
}

async fn loses_a_node(hour: &mut Hour) {
    hour.say("## A node is lost");
    hour.step("clusterctl local kill n2", 0).await;
    hour.say(
        "Exit code 3 says that the cluster is degraded. Two replicas of three are a quorum, so members notice nothing.",
    );
    let status = hour.asks("clusterctl status", 3).await;
    assert!(status.out.contains("not alive: n2"), "{}", status.out);
    hour.until("clusterctl status -o json", |ended| ended.out.contains("\"liveness\": \"dead\"")).await;
    let doctor = hour.asks("clusterctl doctor", 3).await;
    assert!(doctor.out.contains("n2 is dead"), "{}", doctor.out);
    hour.step("clusterctl account resume ann --profile Ines \"Salt, Smoke, and the Sea\"", 0).await;
    hour.say("It comes back, opens what it has on disk, and catches up.");
    hour.step("clusterctl local start n2", 0).await;
    hour.step("clusterctl status --wait --timeout 60s", 0).await;
    hour.asks("clusterctl doctor", 0).await;
}

async fn restarts(hour: &mut Hour) {
    hour.say("## Every node is restarted, and nobody notices");
    let bench = "clusterctl bench --rate 100 --households 50 --for 10m";
    hour.say(&format!("`{bench}` plays in another terminal again."));
    let load = hour.background(bench);
    hour.step("clusterctl node restart-safe --all --root .local/cluster --yes", 0).await;
    hour.say("Leads go back to where the placement prefers them, one by one; then nothing is wrong.");
    hour.asks("clusterctl doctor", 0).await;
    hour.say("And what the devices say of it, interrupted after that: no call failed, no outcome was unknown.");
    let ended = interrupted(load, bench).await;
    hour.write(bench, &ended);
    assert_eq!(ended.code, 0, "{}", ended.out);
}

async fn changes(hour: &mut Hour) {
    hour.say("## Changing what an account may");
    hour.step("clusterctl policy set ann --max-streams 2 --yes", 0).await;
    let policy = hour.step("clusterctl policy get ann", 0).await;
    assert!(policy.out.contains('2'), "{}", policy.out);
    hour.say("## What a fourth node would take over");
    let plan = hour.step("clusterctl ring plan --add n4:zone-b", 0).await;
    assert!(plan.out.contains("n4"), "{}", plan.out);
    hour.say("## Are all replicas of one mind?");
    hour.step("clusterctl shard check --all --timeout 30s", 0).await;
}
