//! One process of a node: by its child handle while this process lives, by its pid and start time across invocations.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};

/// How often a process or a file is looked at while waiting for it.
pub(super) const POLL: Duration = Duration::from_millis(15);

/// Tells a process from a later one that was given the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The process id.
    pub(super) pid: i32,
    /// When it started, in the kernel's ticks since boot; 0 where the kernel does not say.
    pub(super) started_ticks: u64,
}

impl Identity {
    fn of(pid: i32) -> Option<Self> {
        let pid_known = Pid::from_raw(pid)?;
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            // After the command's name in brackets, which may hold anything: state, ..., start time as the 20th field.
            Ok(stat) => {
                let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
                let started_ticks = fields.get(19)?.parse().ok()?;
                // A killed process is dead when its last thread is: until then it holds its ports and its locks.
                let threads: u32 = fields.get(17)?.parse().ok()?;
                let is_dead = matches!(*fields.first()?, "Z" | "X") && threads <= 1;
                (!is_dead).then_some(Self { pid, started_ticks })
            }
            Err(_) if Path::new("/proc/self/stat").exists() => None,
            Err(_) => test_kill_process(pid_known).is_ok().then_some(Self { pid, started_ticks: 0 }),
        }
    }

    /// Whether this very process runs.
    pub(super) fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) {
        // Between the look and the signal the pid could be given to another process only after being reaped; children are
        // reaped by us alone, others after `is_running` in the worst case within microseconds.
        if let (true, Some(pid)) = (self.is_running(), Pid::from_raw(self.pid)) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// How a node's process has ended that was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// By itself, and well: with exit code 0, as far as can be known of a process that another invocation started.
    Well,
    /// It had been stopped or killed before by whoever has this cluster.
    WasDown,
    /// It had ended by itself before it was asked.
    HadEnded(Option<ExitStatus>),
    /// By itself, but not with exit code 0.
    Badly(ExitStatus),
    /// Not within time: it was killed.
    Killed,
}

impl Stopped {
    /// Nothing is wrong with that.
    pub fn is_well(self) -> bool {
        matches!(self, Self::Well | Self::WasDown)
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => write!(f, "stopped when asked"),
            Self::WasDown => write!(f, "did not run"),
            Self::HadEnded(None) => write!(f, "had ended by itself before"),
            Self::HadEnded(Some(status)) => write!(f, "had ended by itself before: {status}"),
            Self::Badly(status) => write!(f, "ended badly when asked to stop: {status}"),
            Self::Killed => write!(f, "did not stop when asked, and was killed"),
        }
    }
}

/// A running or ended process of a node.
#[derive(Debug)]
pub(super) struct Process {
    identity: Identity,
    /// There when this process started it; then it is reaped here.
    child: Option<Child>,
}

impl Process {
    /// Starts `binary`, with its output appended to `log`, in a process group of its own, so that a ctrl-C in the terminal
    /// reaches only whoever started it.
    pub(super) fn start(binary: &Path, flags: &[String], folder: &Path, log: &Path) -> io::Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(binary);
        command.args(flags).current_dir(folder).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // What the terminal has set for clusterctl is not meant for the nodes.
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PLAYHEAD_")) {
            command.env_remove(name);
        }
        // Whoever supervises clusterctl does not supervise its nodes.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let identity = Identity::of(pid).unwrap_or(Identity { pid, started_ticks: 0 });
        Ok(Self { identity, child: Some(child) })
    }

    /// A process that an earlier invocation started.
    pub(super) fn adopt(identity: Identity) -> Self {
        Self { identity, child: None }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Its process id, while it runs.
    pub(super) fn pid(&mut self) -> Option<i32> {
        self.is_running().then_some(self.identity.pid)
    }

    /// Whether it runs; reaps it if it has ended.
    pub(super) fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => self.identity.is_running(),
        }
    }

    /// Ends it at once, as a power cut would (SIGKILL), and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.gone().await;
    }

    /// Asks it to end (SIGTERM); after `patience` it is killed.
    pub(super) async fn stop(&mut self, patience: Duration) -> Stopped {
        if !self.is_running() {
            return Stopped::HadEnded(self.exit_status());
        }
        self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.gone()).await.is_err() {
            self.kill().await;
            return Stopped::Killed;
        }
        match self.exit_status() {
            Some(status) if !status.success() => Stopped::Badly(status),
            _ => Stopped::Well,
        }
    }

    /// How it has ended, if it has, and this process started it.
    pub(super) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Stops its clock (SIGSTOP) or lets it go on (SIGCONT).
    pub(super) fn pause(&mut self, paused: bool) {
        self.signal(if paused { Signal::STOP } else { Signal::CONT });
    }

    fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            self.identity.signal(signal);
        }
    }

    async fn gone(&mut self) {
        while self.is_running() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills it without waiting for anything but the kernel: for `Drop`.
    pub(super) fn kill_now(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        } else {
            self.identity.signal(Signal::KILL);
        }
    }
}

/// The last lines of a log, at most 4 KiB.
pub(super) fn log_tail(log: &Path) -> String {
    log_tail_since(log, 0)
}

/// How long a log is by now.
pub(super) fn log_bytes(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// The last lines of what a log has got since it had so many bytes, at most 4 KiB.
pub(super) fn log_tail_since(log: &Path, since: u64) -> String {
    const TAIL_BYTES: u64 = 4096;
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES).max(since)))?;
        file.take(TAIL_BYTES).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        Process::start(Path::new("/bin/sleep"), &["600".into()], folder, &folder.join("log")).unwrap()
    }

    #[tokio::test]
    async fn a_killed_process_is_gone_and_its_identity_is_not_running() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = sleeper(folder.path());
        assert!(process.is_running() && process.identity().is_running());
        process.kill().await;
        assert!(!process.is_running() && !process.identity().is_running());
    }

    #[tokio::test]
    async fn a_process_that_is_asked_to_stop_ends_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        // It has no handler: the signal ends it, which a node must not let happen.
        let stopped = sleeper(folder.path()).stop(Duration::from_secs(30)).await;
        assert!(matches!(stopped, Stopped::Badly(_)) && !stopped.is_well(), "{stopped}");
    }

    #[tokio::test]
    async fn an_exit_code_and_an_end_before_the_question_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let shell = |script: &str| {
            let flags = ["-c".to_string(), script.to_string()];
            Process::start(Path::new("/bin/sh"), &flags, folder.path(), &folder.path().join("log")).unwrap()
        };
        let mut dead = shell("exit 101");
        dead.gone().await;
        let told = dead.stop(Duration::from_secs(30)).await;
        assert!(matches!(told, Stopped::HadEnded(Some(_))) && told.to_string().contains("101"), "{told}");
        let ready = folder.path().join("ready");
        for (code, well) in [(0, true), (74, false)] {
            let script = format!("trap 'exit {code}' TERM; touch ready; while :; do sleep 0.01; done");
            let mut process = shell(&script);
            while !ready.exists() {
                tokio::time::sleep(POLL).await;
            }
            let told = process.stop(Duration::from_secs(30)).await;
            assert_eq!(told.is_well(), well, "{told}");
            fs::remove_file(&ready).unwrap();
        }
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_taken_for_ours() {
        let me = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_running());
        assert!(!Identity { started_ticks: me.started_ticks + 1, ..me }.is_running());
    }
}
