//! A local cluster of node processes on loopback, for demos, tests and benches.
//!
//! **Contract.** [`LocalCluster::start`] runs N processes of the node's binary on free loopback ports, each with its data
//! folder `root/NAME` and its output in `root/NAME.log`, and returns when each has said in `endpoints.json` where it serves.
//! Nodes are killed, stopped and started by name (`n1`, `n2`...). A node that starts again takes the ports that it had, so
//! that endpoints handed out before stay right; if one was taken meanwhile, it takes free ones.
//!
//! **Invariants.** Nothing is signalled but processes that were started here, told by pid *and* start time. A cluster that is
//! dropped kills its processes, unless it was let go by [`LocalCluster::detach`], which leaves `root/cluster.json` for
//! [`LocalCluster::open`] of a later invocation. No wait is a fixed time: each looks for what it waits for.
//!
//! **Caveats.** Unix only. If this process itself dies by SIGKILL, its nodes live on: `cluster.json` is written at every
//! change, so that `clusterctl local down` finds them.

mod process;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::{Identity, POLL, Process, log_bytes, log_tail, log_tail_since};
use state::{Saved, SavedNode, read_json};

pub use process::Stopped;
pub use state::Endpoints;

/// The most nodes of a local cluster.
pub const NODES_MAX: usize = 16;
/// How long a node may take until it serves.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to stop before it is killed, beside its drain: tasks, replicas, the log.
const STOP_BESIDE: Duration = Duration::from_secs(35);
/// The drain of a node whose flags say nothing of it.
const DRAIN: Duration = Duration::from_secs(10);
/// After so many processes those that are gone are forgotten.
const SPAWNED_MAX: usize = 1_024;
/// What a node's log says when a port is taken, in the operating system's words.
const IN_USE: &str = "in use";
/// The file in which a node says where it serves.
const ENDPOINTS_FILE: &str = "endpoints.json";

/// What a local cluster shall be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The folder of everything; made if it is not there.
    pub root: PathBuf,
    /// The node's program; see [`node_binary`].
    pub binary: PathBuf,
    /// How many nodes, 1 to [`NODES_MAX`].
    pub nodes: usize,
    /// Further flags for every node, such as `--raft-heartbeat-ms`, `50`.
    pub flags: Vec<String>,
}

impl Plan {
    /// Three nodes of `binary` under `root`.
    pub fn new(root: impl Into<PathBuf>, binary: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), binary: binary.into(), nodes: 3, flags: Vec::new() }
    }
}

/// Why something was not done with a local cluster.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The number of nodes is out of range.
    #[error("a local cluster has 1 to {NODES_MAX} nodes, not {0}")]
    Nodes(usize),
    /// The folder has a cluster already.
    #[error("{} has a cluster already: use it, or stop and wipe it first", .0.display())]
    Exists(PathBuf),
    /// The folder has no cluster.
    #[error("{} has no cluster: start one first", .0.display())]
    None(PathBuf),
    /// No node has this name.
    #[error("there is no node {name:?}: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// Data of running nodes is not wiped.
    #[error("{0} runs: stop it first")]
    Running(String),
    /// The node's program is not there.
    #[error("the node's program is not at {}: build it with `cargo build --release --locked`", .0.display())]
    NoBinary(PathBuf),
    /// The node ended before it served.
    #[error("node {name} ended before it served; the end of {}:\n{tail}", log.display())]
    Ended {
        /// The node.
        name: String,
        /// Its log.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// The node did not serve in time.
    #[error("node {name} did not serve within {} s; the end of {}:\n{tail}", READY_MAX.as_secs(), log.display())]
    NotReady {
        /// The node.
        name: String,
        /// Its log.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// The operating system's word about a file or process.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Its process id, while it runs.
    pub pid: Option<i32>,
    /// Where it serves, or served last.
    pub endpoints: Option<Endpoints>,
    /// Its data folder.
    pub data: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

#[derive(Debug, Default)]
struct Node {
    /// Its process, from when it was started until it is stopped or killed here: one that is there and does not run has ended
    /// by itself.
    process: Option<Process>,
    endpoints: Option<Endpoints>,
    /// How long its log was when it was started last.
    log_from: u64,
}

/// A cluster of processes.
#[derive(Debug)]
pub struct LocalCluster {
    root: PathBuf,
    binary: PathBuf,
    flags: Vec<String>,
    nodes: BTreeMap<String, Node>,
    /// The nodes outlive this value.
    detached: bool,
    /// Every process that was ever started or taken over here and may still be there.
    spawned: Vec<Identity>,
    /// Nodes that got other ports, as theirs were taken.
    moved: Vec<String>,
}

impl LocalCluster {
    /// Starts a new cluster and waits until every node serves. It still has to be bootstrapped.
    pub async fn start(plan: Plan) -> Result<Self, LocalError> {
        let mut cluster = Self::planned(plan)?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// As [`Self::start`], on data folders `root/NAME` that are there already: the nodes are started one after the other, so that each
    /// is told where those before it serve, since the addresses that they remember hold no more.
    pub async fn start_on_data(plan: Plan) -> Result<Self, LocalError> {
        let mut cluster = Self::planned(plan)?;
        for name in cluster.names() {
            cluster.start_node(&name).await?;
        }
        Ok(cluster)
    }

    /// Processes that are started from now on run this program with these further flags.
    pub fn change_build(&mut self, binary: &Path, flags: &[String]) -> Result<(), LocalError> {
        if !binary.is_file() {
            return Err(LocalError::NoBinary(binary.to_path_buf()));
        }
        self.binary = binary.canonicalize().map_err(at(binary))?;
        self.flags = flags.to_vec();
        self.save()
    }

    fn planned(plan: Plan) -> Result<Self, LocalError> {
        if !(1..=NODES_MAX).contains(&plan.nodes) {
            return Err(LocalError::Nodes(plan.nodes));
        }
        if !plan.binary.is_file() {
            return Err(LocalError::NoBinary(plan.binary));
        }
        fs::create_dir_all(&plan.root).map_err(at(&plan.root))?;
        let root = plan.root.canonicalize().map_err(at(&plan.root))?;
        if state::load(&root).map_err(at(&root))?.is_some() {
            return Err(LocalError::Exists(root));
        }
        let names = (1..=plan.nodes).map(|n| (format!("n{n}"), Node::default()));
        let binary = plan.binary.canonicalize().map_err(at(&plan.binary))?;
        let (spawned, moved) = (Vec::new(), Vec::new());
        Ok(Self { root, binary, flags: plan.flags, nodes: names.collect(), detached: false, spawned, moved })
    }

    /// Opens the cluster that an earlier invocation left in `root`; its nodes may run or not.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LocalError> {
        let root = root.into();
        let Some(saved) = state::load(&root).map_err(at(&root))? else { return Err(LocalError::None(root)) };
        let root = root.canonicalize().map_err(at(&root))?;
        let spawned = saved.nodes.iter().filter_map(|node| node.process).collect();
        let nodes = saved.nodes.into_iter().map(|node| {
            let process = node.process.map(Process::adopt);
            (node.name, Node { process, endpoints: node.endpoints, log_from: 0 })
        });
        let (binary, flags, nodes) = (saved.binary, saved.flags, nodes.collect());
        Ok(Self { root, binary, flags, nodes, detached: true, spawned, moved: Vec::new() })
    }

    /// Lets the nodes live on when this value goes.
    pub fn detach(&mut self) {
        self.detached = true;
    }

    /// Starts every node that does not run, all at once, and waits until they serve.
    pub async fn start_all(&mut self) -> Result<(), LocalError> {
        let names: Vec<String> = self.names();
        for name in &names {
            if !self.is_running(name)? {
                self.spawn(name, true)?;
            }
        }
        for name in &names {
            self.ready(name).await?;
        }
        Ok(())
    }

    /// Starts a node on its data folder and waits until it serves; nothing if it runs.
    pub async fn start_node(&mut self, name: &str) -> Result<(), LocalError> {
        if !self.is_running(name)? {
            self.spawn(name, true)?;
        }
        self.ready(name).await
    }

    /// Ends a node's process at once (SIGKILL), as a power cut would; nothing if it does not run.
    pub async fn kill(&mut self, name: &str) -> Result<(), LocalError> {
        if let Some(mut process) = self.node(name)?.process.take() {
            process.kill().await;
        }
        self.save()
    }

    /// Ends all at once (SIGKILL): every node is gone before the first is waited for.
    pub async fn kill_all(&mut self) -> Result<(), LocalError> {
        let mut processes: Vec<Process> = self.nodes.values_mut().filter_map(|node| node.process.take()).collect();
        processes.iter_mut().for_each(Process::kill_now);
        for process in &mut processes {
            process.kill().await;
        }
        self.save()
    }

    /// Asks a node to stop and waits for it; returns how it ended.
    pub async fn stop(&mut self, name: &str) -> Result<Stopped, LocalError> {
        let patience = self.patience();
        let stopped = match self.node(name)?.process.take() {
            Some(mut process) => process.stop(patience).await,
            None => Stopped::WasDown,
        };
        self.save()?;
        Ok(stopped)
    }

    /// Asks all nodes to stop, and waits for them; returns how each ended, by name.
    pub async fn stop_all(&mut self) -> Result<Vec<(String, Stopped)>, LocalError> {
        let patience = self.patience();
        let nodes = self.nodes.iter_mut().map(|(name, node)| (name.clone(), node.process.take()));
        let stopping = nodes.map(|(name, process)| async move {
            match process {
                Some(mut process) => (name, process.stop(patience).await),
                None => (name, Stopped::WasDown),
            }
        });
        let stopped = futures::future::join_all(stopping).await;
        self.save()?;
        Ok(stopped)
    }

    /// Stops a node and starts it again; returns how the former process ended.
    pub async fn restart(&mut self, name: &str) -> Result<Stopped, LocalError> {
        let stopped = self.stop(name).await?;
        self.start_node(name).await?;
        Ok(stopped)
    }

    /// The nodes that were neither stopped nor killed here and do not run: how each ended.
    pub fn fallen(&mut self) -> Vec<(String, Stopped)> {
        let down = self.nodes.iter_mut().filter_map(|(name, node)| {
            let process = node.process.as_mut()?;
            (!process.is_running()).then(|| (name.clone(), Stopped::HadEnded(process.exit_status())))
        });
        down.collect()
    }

    /// The processes that still run of all that were ever started or taken over here, by pid and start time.
    pub fn left(&self) -> Vec<i32> {
        self.spawned.iter().filter(|identity| identity.is_running()).map(|identity| identity.pid).collect()
    }

    /// The nodes that got other ports since the last call, as theirs were taken.
    pub fn take_moved(&mut self) -> Vec<String> {
        std::mem::take(&mut self.moved)
    }

    /// How long a node may take to stop by itself.
    fn patience(&self) -> Duration {
        let mut flags = self.flags.iter().skip_while(|flag| *flag != "--shutdown-drain-ms");
        let drain = flags.nth(1).and_then(|value| value.parse().ok()).map_or(DRAIN, Duration::from_millis);
        drain + STOP_BESIDE
    }

    /// Stops a node's clock (SIGSTOP), or lets it go on (SIGCONT).
    pub fn pause(&mut self, name: &str, paused: bool) -> Result<(), LocalError> {
        if let Some(process) = &mut self.node(name)?.process {
            process.pause(paused);
        }
        Ok(())
    }

    /// Adds a node to the processes and starts it; it is no member of the cluster until an operator adds it.
    pub async fn add_node(&mut self) -> Result<String, LocalError> {
        let name = format!("n{}", self.nodes.len() + 1);
        if self.nodes.len() == NODES_MAX {
            return Err(LocalError::Nodes(NODES_MAX + 1));
        }
        self.nodes.insert(name.clone(), Node::default());
        self.start_node(&name).await?;
        Ok(name)
    }

    /// Removes all data and logs of a stopped cluster.
    pub fn wipe(mut self) -> Result<(), LocalError> {
        for name in self.names() {
            if self.is_running(&name)? {
                return Err(LocalError::Running(name));
            }
        }
        for name in self.names() {
            let data = self.data(&name);
            match fs::remove_dir_all(&data) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&data)(e)),
                _ => {}
            }
            let _ = fs::remove_file(self.log(&name));
        }
        state::remove(&self.root).map_err(at(&self.root))?;
        // Only if nothing else was put there.
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }

    /// The names of all nodes, running or not.
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// How each node is, by name.
    pub fn states(&mut self) -> Vec<NodeState> {
        let (mut states, root) = (Vec::new(), self.root.clone());
        for (name, node) in &mut self.nodes {
            let pid = node.process.as_mut().and_then(Process::pid);
            states.push(NodeState {
                name: name.clone(),
                pid,
                endpoints: node.endpoints.clone(),
                data: root.join(name),
                log: log_path(&root, name),
            });
        }
        states
    }

    /// Whether a node's process runs.
    pub fn is_running(&mut self, name: &str) -> Result<bool, LocalError> {
        Ok(self.node(name)?.process.as_mut().is_some_and(Process::is_running))
    }

    /// A node's process id, while it runs.
    pub fn pid(&mut self, name: &str) -> Option<i32> {
        self.nodes.get_mut(name)?.process.as_mut()?.pid()
    }

    /// Where a node serves, or served last.
    pub fn endpoints(&self, name: &str) -> Option<&Endpoints> {
        self.nodes.get(name)?.endpoints.as_ref()
    }

    /// Where all nodes serve clients: `http://host:port`.
    pub fn client_endpoints(&self) -> Vec<String> {
        self.urls(|endpoints| &endpoints.client)
    }

    /// Where all nodes serve operators: `http://host:port`.
    pub fn admin_endpoints(&self) -> Vec<String> {
        self.urls(|endpoints| &endpoints.admin)
    }

    /// Where all nodes serve each other: `host:port`.
    pub fn link_endpoints(&self) -> Vec<String> {
        self.nodes.values().filter_map(|node| node.endpoints.as_ref().map(|e| e.link.clone())).collect()
    }

    /// A node's data folder.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A node's log.
    pub fn log(&self, name: &str) -> PathBuf {
        log_path(&self.root, name)
    }

    /// The folder of everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn urls(&self, which: impl Fn(&Endpoints) -> &String) -> Vec<String> {
        let endpoints = self.nodes.values().filter_map(|node| node.endpoints.as_ref());
        endpoints.map(|endpoints| format!("http://{}", which(endpoints))).collect()
    }

    fn node(&mut self, name: &str) -> Result<&mut Node, LocalError> {
        let known = || self.nodes.keys().cloned().collect::<Vec<_>>().join(", ");
        if !self.nodes.contains_key(name) {
            return Err(LocalError::Unknown { name: name.to_string(), known: known() });
        }
        Ok(self.nodes.entry(name.to_string()).or_default())
    }

    /// Starts a node's process; with `same_ports` on the ports that it had before, if it ever had any.
    fn spawn(&mut self, name: &str, same_ports: bool) -> Result<(), LocalError> {
        let data = self.data(name);
        fs::create_dir_all(&data).map_err(at(&data))?;
        // What an earlier process said is not what this one will say.
        match fs::remove_file(data.join(ENDPOINTS_FILE)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&data)(e)),
            _ => {}
        }
        let before = self.endpoints(name).filter(|_| same_ports);
        let free = "127.0.0.1:0";
        let listen = |which: fn(&Endpoints) -> &String| before.map_or(free, |e| which(e)).to_string();
        let mut flags = vec!["--data-dir".into(), data.display().to_string(), "--node-name".into(), name.to_string()];
        flags.extend(["--listen-client".into(), listen(|e| &e.client)]);
        flags.extend(["--listen-link".into(), listen(|e| &e.link)]);
        flags.extend(["--listen-admin".into(), listen(|e| &e.admin)]);
        flags.extend(["--listen-metrics".into(), before.map_or(free, |e| non_empty(&e.metrics, free)).to_string()]);
        let others = self.nodes.iter().filter(|(other, _)| *other != name);
        let seeds: Vec<&str> = others.filter_map(|(_, node)| Some(node.endpoints.as_ref()?.link.as_str())).collect();
        if !seeds.is_empty() {
            flags.extend(["--seeds".into(), seeds.join(",")]);
        }
        flags.extend(self.flags.iter().cloned());
        let log_from = log_bytes(&self.log(name));
        let process = Process::start(&self.binary, &flags, &self.root, &self.log(name)).map_err(at(&self.binary))?;
        if self.spawned.len() >= SPAWNED_MAX {
            self.spawned.retain(|identity| identity.is_running());
        }
        self.spawned.push(process.identity());
        let node = self.node(name)?;
        (node.process, node.log_from) = (Some(process), log_from);
        self.save()
    }

    /// Waits until a node says where it serves; gives it free ports if it ended because those that it had are taken.
    async fn ready(&mut self, name: &str) -> Result<(), LocalError> {
        let had_ports = self.endpoints(name).is_some();
        let endpoints = match self.wait_for_endpoints(name).await {
            // Whoever ends for another reason is not tried again as if nothing had been.
            Err(LocalError::Ended { ref tail, .. }) if had_ports && tail.contains(IN_USE) => {
                self.moved.push(name.to_string());
                self.spawn(name, false)?;
                self.wait_for_endpoints(name).await?
            }
            endpoints => endpoints?,
        };
        self.node(name)?.endpoints = Some(endpoints);
        self.save()
    }

    async fn wait_for_endpoints(&mut self, name: &str) -> Result<Endpoints, LocalError> {
        let file = self.data(name).join(ENDPOINTS_FILE);
        let log = self.log(name);
        let node = self.node(name)?;
        let since = node.log_from;
        let look = async {
            loop {
                // A file that is half written is looked at again.
                if let Ok(Some(endpoints)) = read_json(&file) {
                    return Some(endpoints);
                }
                if !node.process.as_mut().is_some_and(Process::is_running) {
                    return None;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(READY_MAX, look).await {
            Ok(Some(endpoints)) => Ok(endpoints),
            Ok(None) => Err(LocalError::Ended { name: name.to_string(), tail: log_tail_since(&log, since), log }),
            Err(_) => Err(LocalError::NotReady { name: name.to_string(), tail: log_tail(&log), log }),
        }
    }

    fn save(&self) -> Result<(), LocalError> {
        let nodes = self.nodes.iter().map(|(name, node)| SavedNode {
            name: name.clone(),
            endpoints: node.endpoints.clone(),
            process: node.process.as_ref().map(Process::identity),
        });
        let saved = Saved { binary: self.binary.clone(), flags: self.flags.clone(), nodes: nodes.collect() };
        state::save(&self.root, &saved).map_err(at(&self.root))
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if !self.detached {
            self.nodes.values_mut().filter_map(|node| node.process.as_mut()).for_each(Process::kill_now);
        }
    }
}

/// Where the node's program is: where cargo says for tests and benches, else beside the program that runs.
pub fn node_binary() -> Result<PathBuf, LocalError> {
    if let Some(path) = std::env::var_os("CARGO_BIN_EXE_playhead") {
        return Ok(path.into());
    }
    let program = std::env::current_exe().map_err(at(Path::new("the running program")))?;
    let folder = program.parent().unwrap_or(Path::new("."));
    // Tests and examples live one folder below the programs.
    let folders = [Some(folder), folder.parent()];
    let found = folders.into_iter().flatten().map(|folder| folder.join("playhead")).find(|path| path.is_file());
    found.ok_or_else(|| LocalError::NoBinary(folder.join("playhead")))
}

fn non_empty<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn log_path(root: &Path, name: &str) -> PathBuf {
    root.join(format!("{name}.log"))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LocalError + use<> {
    let path = path.to_path_buf();
    move |source| LocalError::Io { path, source }
}
