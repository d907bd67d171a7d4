//! Against a stand-in for the node: a shell script that says where it "serves" and then sleeps.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// Serves on the ports it is told, or on port 11 where it may choose; `fail_on_ports` makes it refuse ports it is told.
fn stand_in(folder: &Path, fail_on_ports: bool) -> PathBuf {
    let path = folder.join("stand-in");
    let script = format!(
        r#"#!/bin/sh
while [ $# -gt 1 ]; do case "$1" in --data-dir) dir="$2";; --listen-client) at="$2";; esac; shift 2; done
case "$at" in *:0) at=127.0.0.1:11;; *) {fail} && {{ echo "Address already in use"; exit 1; }};; esac
echo "{{\"client\":\"$at\",\"link\":\"127.0.0.1:12\",\"admin\":\"127.0.0.1:13\"}}" > "$dir/endpoints.json"
exec sleep 600
"#,
        fail = if fail_on_ports { "true" } else { "false" }
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn cluster(folder: &Path) -> LocalCluster {
    LocalCluster::start(Plan::new(folder.join("root"), stand_in(folder, false))).await.unwrap()
}

/// A process that has ended but is not reaped has an empty command line.
fn runs(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test]
async fn nodes_start_are_killed_and_start_again_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster(folder.path()).await;
    assert_eq!(cluster.names(), ["n1", "n2", "n3"]);
    assert_eq!(cluster.client_endpoints(), vec!["http://127.0.0.1:11"; 3]);
    let before = cluster.pid("n2").unwrap();
    cluster.kill("n2").await.unwrap();
    assert!(!runs(before) && !cluster.is_running("n2").unwrap());
    assert_eq!(cluster.endpoints("n2").unwrap().client, "127.0.0.1:11", "endpoints are kept for the next start");
    cluster.start_node("n2").await.unwrap();
    assert_ne!(cluster.pid("n2"), Some(before));
    assert!(cluster.restart("n9").await.unwrap_err().to_string().contains("n1, n2, n3"));
}

#[tokio::test]
async fn a_dropped_cluster_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster(folder.path()).await;
    let pids: Vec<i32> = cluster.states().into_iter().filter_map(|s| s.pid).collect();
    assert_eq!(pids.len(), 3);
    drop(cluster);
    assert!(pids.into_iter().all(|pid| !runs(pid)));
}

#[tokio::test]
async fn a_detached_cluster_is_found_stopped_and_wiped_by_the_next_invocation() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let mut first = cluster(folder.path()).await;
    first.detach();
    let mut next = LocalCluster::open(&root).unwrap();
    assert_eq!(next.pid("n1"), first.pid("n1"));
    assert!(matches!(
        LocalCluster::start(Plan::new(&root, stand_in(folder.path(), false))).await,
        Err(LocalError::Exists(_))
    ));
    assert!(matches!(LocalCluster::open(&root).unwrap().wipe(), Err(LocalError::Running(_))));
    // A child of this test must be reaped by its own handle for the other to see it gone.
    let reap = async {
        while (first.is_running("n1").unwrap(), first.is_running("n2").unwrap(), first.is_running("n3").unwrap())
            != (false, false, false)
        {
            tokio::time::sleep(POLL).await;
        }
    };
    let (stopped, ()) = tokio::join!(next.stop_all(), reap);
    assert_eq!(stopped.unwrap().len(), 3);
    assert!(next.left().is_empty());
    next.wipe().unwrap();
    assert!(!root.exists());
    assert!(matches!(LocalCluster::open(&root), Err(LocalError::None(_))));
}

#[tokio::test]
async fn a_node_whose_ports_were_taken_gets_free_ones() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::new(folder.path().join("root"), stand_in(folder.path(), true));
    let mut cluster = LocalCluster::start(Plan { nodes: 1, ..plan }).await.unwrap();
    cluster.restart("n1").await.unwrap();
    assert!(cluster.is_running("n1").unwrap());
    assert_eq!((cluster.take_moved(), cluster.take_moved()), (vec!["n1".to_string()], vec![]));
    assert!(fs::read_to_string(cluster.log("n1")).unwrap().contains("already in use"));
}

#[tokio::test]
async fn a_node_that_ends_before_it_serves_is_an_error_with_the_end_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("broken");
    fs::write(&script, "#!/bin/sh\necho the disk is on fire\nexit 3\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let told = LocalCluster::start(Plan::new(folder.path().join("root"), script)).await.unwrap_err().to_string();
    assert!(told.contains("ended before it served") && told.contains("the disk is on fire"), "{told}");
}

#[tokio::test]
async fn a_node_that_ends_by_itself_is_told_of_and_not_tried_again_on_other_ports() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster(folder.path()).await;
    cluster.kill("n1").await.unwrap();
    assert_eq!(cluster.fallen(), [], "it was killed by us");
    let pid = rustix::process::Pid::from_raw(cluster.pid("n2").unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while cluster.fallen().is_empty() {
        tokio::time::sleep(POLL).await;
    }
    let fallen = cluster.fallen();
    assert!(matches!(&fallen[..], [(name, Stopped::HadEnded(Some(_)))] if name == "n2"), "{fallen:?}");
    assert_eq!(cluster.left(), [cluster.pid("n3").unwrap()]);
    fs::write(folder.path().join("stand-in"), "#!/bin/sh\necho the log is torn\nexit 3\n").unwrap();
    let told = cluster.start_node("n2").await.unwrap_err().to_string();
    assert!(told.contains("the log is torn"), "{told}");
    let log = fs::read_to_string(cluster.log("n2")).unwrap();
    assert_eq!(log.matches("the log is torn").count(), 1, "started once only");
}

#[tokio::test]
async fn numbers_and_programs_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::new(folder.path().join("root"), folder.path().join("nothing"));
    assert!(matches!(LocalCluster::start(plan.clone()).await, Err(LocalError::NoBinary(_))));
    assert!(matches!(LocalCluster::start(Plan { nodes: 0, ..plan }).await, Err(LocalError::Nodes(0))));
    assert!(!folder.path().join("root").exists());
}
