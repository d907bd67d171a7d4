//! Every example of a shell in the README and in `docs/` is run: against a cluster of three processes, each document from its
//! beginning to its end. What can't be run here is named below, with the test that runs it or the reason why nothing does.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use playhead::proto::v1;
use support::{CALM, Cluster, Result};
use tokio::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// An example that runs for so long hangs.
const HANGS: Duration = Duration::from_secs(120);

/// Examples that begin so are not run here, and why: mostly because a test of its own runs them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("./scripts/", "this is the test"),
    ("./cluster/local.sh", "tests/local.rs runs what the script calls"),
    ("scripts/faults", "tests/faults runs all of them"),
    ("scripts/sim", "scripts/test runs it: a workspace of its own"),
    ("PLAYHEAD_FAULT", "tests/faults runs all of them"),
    ("grpcurl ", "tests/readme.rs makes the same calls by reflection"),
    ("clusterctl chaos", "tests/chaos.rs runs it, with clusters of its own"),
    ("clusterctl bootstrap", "tests/clusterctl.rs: the cluster is there already"),
    ("clusterctl node restart-safe", "tests/restart_safe.rs"),
    ("install -m", "needs a machine that systemd runs"),
    ("systemctl ", "needs a machine that systemd runs"),
    ("podman ", "needs podman and a registry"),
    ("kill -TERM", "tests/cluster_forms.rs and others: a person's machine"),
];

/// What stands in an example for what a person would put there, or would be asked.
const INSTEAD: &[(&str, &str)] = &[
    ("target/release/clusterctl", "clusterctl"),
    ("hand-over n2 --for 30m", "hand-over n2 --for 1s --yes"),
    ("bench --rate 5000", "bench --rate 50 --for 2s"),
    ("status --watch", "status --watch 1s --count 2"),
    ("clusterctl top", "clusterctl top --count 1 --every 500ms"),
    ("transfer-leader 17 --to n2", "transfer-leader 3 --to n2 --yes"),
    (
        "--replica ID",
        "--replica $(clusterctl shard show 3 -o json | sed -n 's/.*\"replica_id\": \\([0-9]*\\),/\\1/p' | head -1)",
    ),
];

/// An example: a command, joined over its lines.
#[derive(Debug, PartialEq, Eq)]
struct Example {
    document: String,
    command: String,
}

fn documents() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let mut documents: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    documents.retain(|path| path.extension().is_some_and(|end| end == "md"));
    documents.sort();
    documents.insert(0, Path::new(ROOT).join("README.md"));
    documents
}

/// The commands in a document's blocks of shell: lines that end in a backslash, or within quotes, go on.
fn examples(path: &Path) -> Vec<Example> {
    let text = std::fs::read_to_string(path).unwrap();
    let document = path.strip_prefix(ROOT).unwrap().display().to_string();
    let mut examples = Vec::new();
    for block in text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        let mut command = String::new();
        for line in block.lines() {
            // A comment may have an apostrophe.
            let line = line.split(" #").next().unwrap_or_default();
            command.push_str(line.strip_suffix('\\').unwrap_or(line));
            if line.ends_with('\\') || command.matches('\'').count() % 2 == 1 {
                continue;
            }
            let whole = std::mem::take(&mut command);
            let bare = whole.trim();
            if !bare.is_empty() && !bare.starts_with('#') {
                examples.push(Example { document: document.clone(), command: bare.to_string() });
            }
        }
        assert!(command.is_empty(), "{document}: a block ends within a command: {command}");
    }
    examples
}

/// As it is run here; `None`: it isn't.
fn run_here(command: &str) -> Option<String> {
    if ELSEWHERE.iter().any(|(begin, _)| command.starts_with(begin)) {
        return None;
    }
    let replaced = INSTEAD.iter().fold(command.to_string(), |command, (from, to)| command.replace(from, to));
    Some(replaced)
}

/// How an example ended.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Well,
    Degraded,
}

/// A folder with `clusterctl` in it, and where the cluster is.
struct Shell {
    path: String,
    endpoints: String,
    folder: tempfile::TempDir,
}

impl Shell {
    fn of(cluster: &Cluster) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_clusterctl"), folder.path().join("clusterctl"))?;
        // Not in the checkout: its `.local` may hold somebody's cluster.
        std::os::unix::fs::symlink(Path::new(ROOT).join("cluster"), folder.path().join("cluster"))?;
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
        let list = |endpoints: Vec<String>| endpoints.join(",");
        let local = &cluster.local;
        let endpoints = format!("{};admin={}", list(local.client_endpoints()), list(local.admin_endpoints()));
        Ok(Self { path, endpoints, folder })
    }

    /// Runs it until the cluster is not degraded: leads move now and then on a busy machine.
    async fn run(&self, command: &str) -> Result<()> {
        let trying = async {
            while self.run_once(command).await? == Told::Degraded {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(())
        };
        tokio::time::timeout(HANGS, trying).await.map_err(|_| format!("`{command}`: the cluster stays degraded"))?
    }

    async fn run_once(&self, command: &str) -> Result<Told> {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", command])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        bash.env("PATH", &self.path).env("PLAYHEAD_ENDPOINTS", &self.endpoints);
        let output = tokio::time::timeout(HANGS, bash.output()).await.map_err(|_| format!("`{command}` hangs"))??;
        if output.status.success() {
            return Ok(Told::Well);
        }
        if output.status.code() == Some(3) {
            return Ok(Told::Degraded);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Err(format!("`{command}` ends with {}\n{out}{err}", output.status).into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_documents_does_what_it_says() -> Result<()> {
    let cluster = Cluster::start(3, 8, &CALM).await?;
    let shell = Shell::of(&cluster)?;
    for account in ["ann", "bob"] {
        let request = v1::StartViewRequest {
            profile_id: "kids".into(),
            title_id: "film-17".into(),
            ..support::film(account, "tv-1")
        };
        cluster.client(Duration::from_secs(20))?.start_view(request).await?;
    }
    let mut wrong = Vec::new();
    for document in documents() {
        cluster.settled().await?;
        for example in examples(&document) {
            let Some(command) = run_here(&example.command) else { continue };
            if let Err(e) = shell.run(&command).await {
                wrong.push(format!("{}: {e}", example.document));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    Ok(())
}

#[test]
fn what_is_not_run_here_and_what_is_replaced_still_stands_in_a_document() {
    let all: Vec<Example> = documents().iter().flat_map(|document| examples(document)).collect();
    assert!(all.len() > 20, "only {} examples were found", all.len());
    let elsewhere =
        ELSEWHERE.iter().map(|(begin, _)| begin).filter(|begin| !all.iter().any(|e| e.command.starts_with(**begin)));
    let instead = INSTEAD.iter().map(|(from, _)| from).filter(|from| !all.iter().any(|e| e.command.contains(**from)));
    let stale: Vec<&&str> = elsewhere.chain(instead).collect();
    assert!(stale.is_empty(), "no example has {stale:?}");
}

#[test]
fn every_metric_that_a_document_names_is_one() {
    let known: BTreeSet<String> =
        playhead::telemetry::Metrics::new().table().iter().map(|metric| metric.name.clone()).collect();
    let mut wrong = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let is_metric = word.starts_with("playhead_") && word.len() > "playhead_".len();
            let base =
                ["_total", "_bucket", "_sum", "_count"].iter().fold(word, |w, end| w.strip_suffix(end).unwrap_or(w));
            if is_metric && !known.contains(word) && !known.contains(base) {
                wrong.push(format!("{}: there is no metric {word}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
