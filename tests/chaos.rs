//! `clusterctl chaos` with real nodes: a run that is right, one that has to be found wrong, one without faults, and interrupts.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use playhead::local::LocalCluster;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Calm elections on machines that are busy with other tests.
const CALM: &[&str] =
    &["--", "--raft-election-min-ms", "1500", "--raft-election-max-ms", "3000", "--failover-suspect-ms", "1500"];
/// A program that runs for so long hangs.
const HANGS: Duration = Duration::from_secs(240);
/// How often a test looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The folder of a run; whatever still runs in it is killed when the test ends, however it ends.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The cluster of a run of its own, once it is there.
    fn cluster(&self) -> Option<PathBuf> {
        let folders = std::fs::read_dir(self.path()).ok()?.flatten().map(|entry| entry.path());
        folders.into_iter().find(|folder| folder.join("cluster.json").is_file())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for root in [Some(self.path().to_path_buf()), self.cluster()].into_iter().flatten() {
            let kill = async move {
                if let Ok(mut cluster) = LocalCluster::open(root) {
                    let _ = cluster.kill_all().await;
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = std::thread::spawn(move || runtime.block_on(kill)).join();
        }
    }
}

fn clusterctl(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterctl"));
    let (own, flags) = arguments.split_at(arguments.iter().position(|a| *a == "--").unwrap_or(arguments.len()));
    command.args(own).arg("--root").arg(folder.path()).args(["--output", "json", "--timeout", "60s"]).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("PLAYHEAD_ENDPOINTS");
    command
}

async fn ended(child: Child) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        tokio::time::timeout(HANGS, child.wait_with_output()).await.expect("it hangs").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("it was not killed"), text(stdout), text(stderr))
}

async fn run(folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    ended(clusterctl(folder, arguments).spawn().unwrap()).await
}

fn chaos<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["chaos", "--shards", "8", "--households", "60"], arguments, CALM].concat()
}

/// The letter by which the kernel says how a process is.
fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn pids(root: &Path) -> Vec<i32> {
    let Ok(mut cluster) = LocalCluster::open(root) else { return Vec::new() };
    cluster.states().into_iter().filter_map(|state| state.pid).collect()
}

/// Waits until a node stands still; the pids of all.
async fn until_one_stands_still(find: impl Fn() -> Option<PathBuf>) -> Vec<i32> {
    let look = async {
        loop {
            let pids = find().map(|root| pids(&root)).unwrap_or_default();
            if pids.iter().any(|pid| state(*pid) == Some('T')) {
                return pids;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(HANGS, look).await.expect("no node ever stands still")
}

fn interrupt(child: &Child) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).unwrap())).expect("it runs");
    kill_process(pid, Signal::INT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_one_after_the_other_lose_nothing_and_leave_nothing() {
    let folder = Folder::new();
    let faults = ["--rounds", "4", "--every", "2s", "--seed", "42", "--faults", "kill,pause,restart,move"];
    let (code, out, err) = run(&folder, &chaos(&faults)).await;
    assert_eq!(code, 0, "{out}{err}");
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&verdict["right"], &verdict["seed"]), (&true.into(), &42.into()));
    assert_eq!((&verdict["devices"]["mismatches"], &verdict["processes_left"]), (&0.into(), &0.into()), "{out}");
    let rows = verdict["rows"].as_array().unwrap();
    let mut kinds: Vec<&str> = rows.iter().filter_map(|row| row["fault"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["kill", "move", "pause", "restart"]);
    assert!(rows.iter().all(|row| row["healthy_after_ms"].is_u64()), "{out}");
    assert!(verdict["facts_at_end"].as_u64() > Some(60), "{out}");
    // Whoever stood still around a fault was compared, and every replica of every shard has led while all was read back.
    let count = |row: &Value, name: &str| row[name].as_u64().unwrap();
    assert!(
        rows.iter().all(|row| count(row, "stood_still") > 0 && count(row, "compared") >= count(row, "stood_still"))
    );
    assert!(rows.iter().all(|row| count(row, "facts") > count(row, "compared")), "{out}");
    let read_under = verdict["read_under"].as_object().unwrap();
    assert!(!read_under.is_empty() && read_under.values().all(|by| by.as_array().unwrap().len() == 3), "{out}");
    assert_eq!(std::fs::read_dir(folder.path()).map(Iterator::count).unwrap_or_default(), 0, "data is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_lost_everything_is_found_out() {
    let folder = Folder::new();
    let (code, out, err) =
        run(&folder, &chaos(&["--rounds", "1", "--every", "1s", "--faults", "restart", "--sabotage"])).await;
    assert_eq!(code, 1, "{out}{err}");
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(verdict["right"], false);
    assert!(verdict["devices"]["mismatches"].as_u64() > Some(60), "{out}");
    let described = verdict["devices"]["described"].as_array().unwrap();
    assert!(described.iter().any(|what| what.as_str().unwrap().contains("was left at None")), "{out}");
    // Everything could be read, and the cluster is healthy: it is the lost writes alone that are wrong.
    assert_eq!(
        (&verdict["devices"]["households_checked"], &verdict["complaints"]),
        (&60.into(), &Value::Array(vec![]))
    );
    let seed = verdict["seed"].to_string();
    assert!(err.contains(&format!("--seed {seed}")) && err.contains("data and logs are kept in"), "{err}");
    assert!(folder.cluster().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_by_itself_is_started_again_and_the_verdict_is_wrong_for_it() {
    let folder = Folder::new();
    let child = clusterctl(&folder, &chaos(&["--rounds", "1", "--every", "1s", "--faults", "pause"])).spawn().unwrap();
    let pids = until_one_stands_still(|| folder.cluster()).await;
    let runs = pids.iter().copied().find(|pid| state(*pid) != Some('T')).unwrap();
    kill_process(Pid::from_raw(runs).unwrap(), Signal::KILL).unwrap();
    let (code, out, err) = ended(child).await;
    assert_eq!(code, 1, "{out}{err}");
    let verdict: Value = serde_json::from_str(&out).unwrap();
    let row = &verdict["rows"][0];
    assert!(row["trouble"] == true && row["remarks"].to_string().contains("had ended by itself"), "{out}");
    // Nothing is lost by it.
    assert_eq!(
        (&verdict["devices"]["mismatches"], &verdict["complaints"]),
        (&0.into(), &Value::Array(vec![])),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_ends_at_once_and_leaves_no_process_behind() {
    let folder = Folder::new();
    let child = clusterctl(&folder, &chaos(&["--every", "1s", "--faults", "pause"])).spawn().unwrap();
    let pids = until_one_stands_still(|| folder.cluster()).await;
    assert_eq!(pids.len(), 3);
    interrupt(&child);
    // The second is another one only once the first was taken.
    tokio::time::sleep(Duration::from_millis(100)).await;
    interrupt(&child);
    let (code, _, err) = ended(child).await;
    assert_eq!(code, 1, "{err}");
    assert!(pids.iter().all(|pid| matches!(state(*pid), None | Some('Z'))), "{pids:?} are left: {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_there_before_runs_on_and_no_fault_is_no_proof() {
    let folder = Folder::new();
    let up = [&["local", "up", "--shards", "4"], CALM].concat();
    let (code, _, err) = run(&folder, &up).await;
    assert_eq!(code, 0, "{err}");
    let before = pids(folder.path());

    let short = ["chaos", "--existing", "--for", "300ms", "--households", "20"];
    let (code, out, _) = run(&folder, &short).await;
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &verdict["devices"]["mismatches"]),
        (1, &0.into()),
        "nothing was done, so nothing is shown: {out}"
    );

    // Interrupted while a node stands still, it lets it go on, and checks.
    let child = ["chaos", "--existing", "--households", "20", "--faults", "pause", "--every", "1s"];
    let child = clusterctl(&folder, &child).spawn().unwrap();
    until_one_stands_still(|| Some(folder.path().to_path_buf())).await;
    interrupt(&child);
    let (_, out, err) = ended(child).await;
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&verdict["devices"]["mismatches"], verdict["read_through"].as_u64()),
        (&0.into(), Some(3)),
        "{out}{err}"
    );
    assert_eq!(pids(folder.path()), before, "it was started and stopped by others");
    assert!(before.iter().all(|pid| matches!(state(*pid), Some('S' | 'R' | 'D'))), "a node stands still");
    assert_eq!(run(&folder, &["local", "down"]).await.0, 0);
}
