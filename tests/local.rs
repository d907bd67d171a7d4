//! `clusterctl local` and the demo, as `cluster/local.sh` runs them: real nodes, one invocation after the other.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/killed.rs"]
mod killed;

use std::path::Path;

use killed::KilledAtEnd;
use serde_json::Value;
use tokio::process::Command;

/// The folder of a cluster; its nodes are killed when the test ends, however it ends.
struct Folder(KilledAtEnd, #[allow(dead_code, reason = "removes the folder")] tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        Self(KilledAtEnd(parent.path().join("cluster")), parent)
    }
}

async fn local(root: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterctl"));
    command.arg("local").args(arguments).arg("--root").arg(root);
    command.args(["--output", "json", "--timeout", "60s"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn pids(out: &str) -> Vec<Option<u64>> {
    let answer: Value = serde_json::from_str(out).unwrap();
    answer["nodes"].as_array().unwrap().iter().map(|node| node["pid"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_started_killed_in_part_stopped_started_again_and_wiped() {
    let folder = Folder::new();
    let root = folder.0.0.as_path();
    let (code, out, err) = local(root, &["up", "--shards", "4"]).await;
    assert_eq!(code, 0, "{err}");
    let before = pids(&out);
    assert!(before.len() == 3 && before.iter().all(Option::is_some));

    let (code, out, _) = local(root, &["kill", "n2"]).await;
    assert_eq!((code, pids(&out)), (0, vec![before[0], None, before[2]]));
    let (code, _, err) = local(root, &["wipe"]).await;
    assert!(code == 1 && err.contains("n1 runs: stop it first"), "{err}");
    let (code, out, err) = local(root, &["start", "n2"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(pids(&out)[1].is_some() && pids(&out)[1] != before[1]);
    let (code, _, err) = local(root, &["restart", "n9"]).await;
    assert!(code == 2 && err.contains("n1, n2, n3"), "{err}");

    let (code, out, err) = local(root, &["down"]).await;
    assert_eq!((code, pids(&out)), (0, vec![None; 3]), "{err}");
    let (code, ..) = local(root, &["status"]).await;
    assert_eq!(code, 3, "a cluster that is stopped is degraded");
    let (code, out, err) = local(root, &["up"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(pids(&out).len(), 3);
    assert_eq!(local(root, &["down"]).await.0, 0);
    assert_eq!(local(root, &["wipe"]).await.0, 0);
    assert!(!root.exists());
    let (code, _, err) = local(root, &["status"]).await;
    assert!(code == 1 && err.contains("has no cluster"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_ends_by_itself_with_everything_right_and_leaves_nothing() {
    let folder = Folder::new();
    let (code, out, err) = local(&folder.0.0, &["demo", "--for", "3s", "--devices", "20"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&summary["status"]["shards_led"], &summary["status"]["replicas_current"]), (&64.into(), &192.into()));
    assert_eq!((&summary["devices"]["mismatches"], &summary["processes_left"]), (&0.into(), &0.into()));
    assert!(summary["devices"]["reports_acknowledged"].as_u64() > Some(0));
    assert!(!folder.0.0.exists());
}
