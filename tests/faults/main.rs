//! Real faults on real processes, under load: what was acknowledged is read back, the history of all calls is checked, and the
//! cluster has to be healthy again by itself.
//!
//! ```text
//! scripts/faults                                  every fault once, with a table
//! PLAYHEAD_FAULT_ROUNDS=5 scripts/faults          every fault five times
//! PLAYHEAD_FAULTS=kill,power scripts/faults       those whose names begin so
//! ```
//!
//! It needs root, for namespaces and mounts; where it can't run it says `skipped`, which `PLAYHEAD_REQUIRE_FAULTS=1` makes a failure.
//! Everything happens in namespaces of its own, which end with it. `docs/failure-modes.md` says what each fault looks like.
#![allow(clippy::unwrap_used, reason = "a test")]

mod accepted;
mod cases;
mod damage;
mod load;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::io::Read;
use std::process::{Command, Stdio};

/// Set in the process that has namespaces of its own.
const INSIDE: &str = "FAULTS_INSIDE";
/// The programs that are needed, each with what shows that it is there.
const NEEDED: [(&str, &str); 6] = [
    ("unshare", "--version"),
    ("ip", "-V"),
    ("mkfs.ext4", "-V"),
    ("mount", "--version"),
    ("cc", "--version"),
    ("bash", "--version"),
];

fn can_not_run() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    let is_there = |(program, flag): &(&str, &str)| Command::new(program).arg(flag).output().is_ok();
    if let Some((program, _)) = NEEDED.iter().find(|needed| !is_there(needed)) {
        return Some(format!("there is no {program}"));
    }
    let own = Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]).output();
    match own {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no namespaces: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("no namespaces: {error}")),
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_any_fault_and_the_cluster_heals_by_itself() {
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    if let Some(reason) = can_not_run() {
        cases::names().into_iter().for_each(|fault| println!("{fault}: skipped ({reason})"));
        assert_ne!(support::setting("PLAYHEAD_REQUIRE_FAULTS", 0), 1, "cannot run here: {reason}");
        return;
    }
    // Disks and data lie in here: when the namespaces are gone, nothing is mounted in it any more.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
    let mut inside = Command::new("unshare")
        .args(own)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .env("TMPDIR", folder.path())
        // Held open until here: when this process is killed, the one inside sees it close, and takes all with it.
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let held = inside.stdin.take();
    let status = inside.wait().unwrap();
    drop(held);
    assert!(status.success(), "{status}");
}

/// The suite itself, in namespaces of its own: does nothing unless it is started by the test above.
#[test]
fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rows = runtime.block_on(cases::run_all()).unwrap_or_else(|e| panic!("{e}"));
    println!("\n{}", table::print(&rows));
    let bad: Vec<String> =
        rows.iter().flat_map(|row| row.bad.iter().map(|what| format!("{}: {what}", row.fault))).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
