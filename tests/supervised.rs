//! What a node tells a supervisor, over a real socket as systemd gives one.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};

const HANGS: Duration = Duration::from_secs(60);

fn start(folder: &Path, socket: impl AsRef<OsStr>, flags: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_playhead"));
    let free = "127.0.0.1:0";
    command.arg("--data-dir").arg(folder.join("data")).args(["--listen-client", free, "--listen-link", free]);
    command.args(["--listen-admin", free, "--listen-metrics", free]).args(flags);
    // What is set for tests is no setting of a node.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PLAYHEAD_")) {
        command.env_remove(name);
    }
    command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "900000").env_remove("WATCHDOG_PID");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// The next message that has a line like this; all lines before it go into `seen`.
async fn until(socket: &UnixDatagram, seen: &mut Vec<String>, line: &str) {
    let listening = async {
        let mut buffer = vec![0; 4096];
        loop {
            let length = socket.recv(&mut buffer).await.unwrap();
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            seen.extend(message.lines().map(str::to_string));
            if message.lines().any(|told| told.starts_with(line)) {
                return;
            }
        }
    };
    tokio::time::timeout(HANGS, listening).await.unwrap_or_else(|_| panic!("no {line}; {seen:?}"));
}

#[tokio::test]
async fn a_supervisor_hears_that_the_node_is_ready_lives_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut node = start(folder.path(), &path, &[]);
    let mut seen = Vec::new();
    until(&socket, &mut seen, "READY=1").await;
    assert!(folder.path().join("data/endpoints.json").exists(), "ready before it served");
    assert!(!seen.iter().any(|told| told.starts_with("WATCHDOG") || told.starts_with("STOPPING")), "{seen:?}");
    until(&socket, &mut seen, "WATCHDOG=1").await;
    until(&socket, &mut seen, "WATCHDOG=1").await;
    assert!(seen.iter().any(|told| told == "STATUS=belongs to no cluster yet"), "{seen:?}");
    let pid = Pid::from_raw(i32::try_from(node.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    until(&socket, &mut seen, "STOPPING=1").await;
    // 10 s of drain and 30 s beside it.
    assert!(seen.iter().any(|told| told == "EXTEND_TIMEOUT_USEC=40000000"), "{seen:?}");
    let ended = tokio::time::timeout(HANGS, node.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn a_supervisor_is_heard_at_an_abstract_socket() {
    use std::os::linux::net::SocketAddrExt as _;
    let folder = tempfile::tempdir().unwrap();
    // The folder's own name is nobody else's.
    let name = folder.path().display().to_string();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = UnixDatagram::from_std(socket).unwrap();
    let _node = start(folder.path(), format!("@{name}"), &[]);
    until(&socket, &mut Vec::new(), "READY=1").await;
}

/// Whether a process has a handler for SIGTERM.
fn hears_term(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (15 - 1)) != 0
}

#[tokio::test]
async fn a_supervisor_that_reads_nothing_keeps_no_node_from_starting_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let _socket = UnixDatagram::bind(&path).unwrap();
    let full = UnixDatagram::unbound().unwrap();
    full.connect(&path).unwrap();
    while full.try_send(b"STATUS=full").is_ok() {}
    let mut node = start(folder.path(), &path, &[]);
    let begun = async {
        while !folder.path().join("data/endpoints.json").exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANGS, begun).await.unwrap();
    let pid = Pid::from_raw(i32::try_from(node.id().unwrap()).unwrap()).unwrap();
    let ended = async {
        // Before it hears signals, one would end it at once.
        while !hears_term(node.id().unwrap()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        kill_process(pid, Signal::TERM).unwrap();
        node.wait().await.unwrap()
    };
    assert_eq!(tokio::time::timeout(HANGS, ended).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_wrong_setting_ends_with_the_code_that_is_not_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut node = start(folder.path(), &path, &["--pulse-ms", "never"]);
    let ended = tokio::time::timeout(HANGS, node.wait()).await.unwrap().unwrap();
    let unit = include_str!("../packaging/systemd/playhead@.service");
    let code = format!("RestartPreventExitStatus={}", ended.code().unwrap());
    assert!(unit.lines().any(|line| line == code), "{ended}");
    assert!(socket.try_recv(&mut [0; 64]).is_err(), "it said that it was ready");
}
