//! The node link: what carries frames between the nodes of one cluster.
//!
//! Each node keeps five *lanes* to every other node, each a bidirectional gRPC stream on a connection of its own, so that
//! none waits for a bigger one: **control** (votes, heartbeats, gossip), **append**, **snapshot**, **forward** (the router's
//! calls) and **pulse** (that the caller lives; sent by a thread that does nothing else). The node that dials sends requests, the dialled one answers on the same stream; so a request and its answer
//! share their fate, and a broken lane answers all that was on it at once. Whatever waits is sent as one message of many
//! frames.
//!
//! # Contract
//!
//! - [`Link::call`] and [`Link::cast`] queue and return; they never block. Frames of a lane arrive in the order in which they were
//!   queued, or the lane breaks. Without a connection they fail at once.
//! - A stream carries frames only after its handshake: both sides know the other's node id and generation, and that both are of
//!   one cluster and speak one wire version, and the cluster's version as far as each knows it. A refusal says why ([`handshake`]). When
//!   the cluster's version is raised, lanes of who doesn't speak it are closed.
//! - Where a lane breaks and nothing listens any more at the other end, [`Link::next_gone`] tells: the process is likely to be gone.
//! - Addresses are hints. They come from handshakes and pulses, are kept on disk, and are never part of a decision:
//!   who answers is told by the handshake.
//!
//! # Invariants
//!
//! - Frames are handed on only under the identity that the handshake gave; a node's older process is refused once a newer
//!   one was heard (node/3 in `docs/invariants.md`).
//! - Every queue is bounded, in frames and in bytes; a full one answers [`LinkError::Overloaded`] and nothing was sent.
//!
//! # Caveats
//!
//! - Nothing is encrypted unless `link.tls` is set; whoever can reach the port and knows the cluster id can speak.
//! - A caller that drops an answer doesn't take its frame back.

mod book;
mod dial;
pub mod handshake;
mod listen;
mod local;
mod pace;
mod serve;
#[cfg(test)]
mod tests;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ids::{Generation, NodeId};
use crate::net::Net;
use crate::raft::{Lane as RaftLane, LinkError};
use crate::telemetry::{LaneLabels, Metrics};

use super::config::TlsFiles;
use super::folder::Charter;

pub use book::{Book, Endpoints, Known};
pub use handshake::{Me, Refused, WIRE_VERSION};
pub(crate) use listen::listen;
pub(crate) use local::switchboard;
pub(crate) use pace::Pace;
pub use serve::service;
pub use transport::{Introduction, ask_to_join, introduce, offer, tell_to_begin, tell_to_join};

use dial::Outgoing;

/// Which of the streams between two nodes a frame takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Votes, heartbeats, pulses.
    Control = 1,
    /// Appended entries.
    Append = 2,
    /// Pieces of snapshots.
    Snapshot = 3,
    /// Forwarded commands and queries.
    Forward = 4,
    /// Frames without content, that the sender lives.
    Pulse = 5,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Control, Self::Append, Self::Snapshot, Self::Forward, Self::Pulse];

    /// As metrics and log lines call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Append => "append",
            Self::Snapshot => "snapshot",
            Self::Forward => "forward",
            Self::Pulse => "pulse",
        }
    }

    pub(super) fn labels(self) -> LaneLabels {
        LaneLabels { lane: self.label() }
    }
}

impl From<RaftLane> for Lane {
    fn from(lane: RaftLane) -> Self {
        match lane {
            RaftLane::Control => Self::Control,
            RaftLane::Append => Self::Append,
            RaftLane::Snapshot => Self::Snapshot,
        }
    }
}

/// Another node's process, as its handshake told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which node.
    pub node: NodeId,
    /// Which of its processes.
    pub generation: Generation,
}

/// What a node does with what arrives. Nothing here may block.
pub trait Receive: Send + Sync + 'static {
    /// A request; the future gives the answer. Called in the order of arrival.
    fn serve(&self, from: Peer, lane: Lane, frame: Bytes) -> BoxFuture<'static, Bytes>;

    /// Something that is not answered.
    fn cast(&self, from: Peer, lane: Lane, frame: Bytes);

    /// The founding record that this node holds, of a cluster that has begun or not.
    fn founding(&self) -> Option<Charter>;

    /// Keeps an offered founding record if the node holds none, and answers the one that it holds; an error says why not.
    fn offer(&self, founding: Charter) -> BoxFuture<'static, Result<Charter, String>>;

    /// Begins to be one of the cluster, as all founders hold its record, or as it was let into one that has begun and has these nodes;
    /// an error says why not.
    fn found(&self, founding: Charter, members: BTreeMap<NodeId, String>) -> BoxFuture<'static, Result<(), String>>;

    /// Lets in the node that serves other nodes at this address; an error says why not.
    fn join(&self, address: String) -> BoxFuture<'static, Result<(), String>>;
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It was not sent: the other node has done nothing.
    NotSent(LinkError),
    /// The lane broke: the other node may have got it or not.
    Broken(LinkError),
}

impl Lost {
    /// The error itself.
    pub fn into_error(self) -> LinkError {
        match self {
            Self::NotSent(error) | Self::Broken(error) => error,
        }
    }
}

/// How other nodes are dialled.
#[derive(Clone, Debug, Default)]
pub struct Dialling {
    /// The network.
    pub net: Net,
    /// Mutual TLS, when it is switched on.
    pub tls: Option<TlsFiles>,
}

/// Everything that the link is made of.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Who this node is.
    pub me: Arc<Me>,
    /// How other nodes are dialled.
    pub dialling: Dialling,
    /// Frames that may wait on one lane to one node.
    pub queue_frames_max: usize,
    /// For the jitter of reconnects.
    pub seed: u64,
}

/// On which runtimes lanes run.
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// Control and appends: where the groups run, so that no frame of theirs has to wake another thread.
    pub groups: tokio::runtime::Handle,
    /// Pulses that go out.
    pub pulses: tokio::runtime::Handle,
    /// Snapshots and forwards.
    pub others: tokio::runtime::Handle,
}

impl Runtimes {
    /// All on the calling one.
    pub fn current() -> Self {
        let handle = tokio::runtime::Handle::current();
        Self { groups: handle.clone(), pulses: handle.clone(), others: handle }
    }

    /// Where a lane is dialled from and written to.
    fn dialling(&self, lane: Lane) -> &tokio::runtime::Handle {
        match lane {
            Lane::Control | Lane::Append => &self.groups,
            Lane::Snapshot | Lane::Forward => &self.others,
            Lane::Pulse => &self.pulses,
        }
    }

    /// Where a lane is read and answered. Pulses where the listener's connections are read, so that it is known by the same thread
    /// whether there was a chance to hear any.
    fn serving(&self, lane: Lane) -> &tokio::runtime::Handle {
        match lane {
            Lane::Control | Lane::Append | Lane::Pulse => &self.groups,
            Lane::Snapshot | Lane::Forward => &self.others,
        }
    }
}

struct Shared {
    config: LinkConfig,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    lanes: RwLock<BTreeMap<NodeId, Lanes>>,
    runtimes: Runtimes,
    gone: Arc<Gone>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Nodes at whose addresses nothing listens any more.
#[derive(Default)]
struct Gone {
    nodes: Mutex<BTreeSet<NodeId>>,
    news: Notify,
}

impl Gone {
    fn tell(&self, node: NodeId) {
        self.nodes.lock().insert(node);
        self.news.notify_one();
    }
}

/// The lanes to one node.
struct Lanes {
    queues: [Arc<dial::Queue>; 5],
    stop: CancellationToken,
}

/// The handle to all lanes. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// A link without lanes yet.
    pub fn new(config: LinkConfig, book: Arc<Book>, metrics: Arc<Metrics>, runtimes: Runtimes) -> Self {
        let shared = Shared {
            config,
            book,
            metrics,
            lanes: RwLock::default(),
            runtimes,
            gone: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Who this node is.
    pub fn me(&self) -> &Arc<Me> {
        &self.shared.config.me
    }

    /// What this node counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// On which runtimes lanes run.
    pub fn runtimes(&self) -> &Runtimes {
        &self.shared.runtimes
    }

    /// Where the other nodes are.
    pub fn book(&self) -> &Arc<Book> {
        &self.shared.book
    }

    /// Keeps lanes to exactly these nodes (never to this one).
    pub fn keep(&self, nodes: &BTreeSet<NodeId>) {
        let mut lanes = self.shared.lanes.write();
        let gone: Vec<NodeId> = lanes.keys().filter(|node| !nodes.contains(node)).copied().collect();
        for node in gone {
            if let Some(lanes) = lanes.remove(&node) {
                lanes.stop.cancel();
            }
        }
        for node in nodes {
            if *node != self.shared.config.me.node && !lanes.contains_key(node) && !self.shared.stop.is_cancelled() {
                lanes.insert(*node, self.open(*node));
            }
        }
    }

    fn open(&self, node: NodeId) -> Lanes {
        let stop = self.shared.stop.child_token();
        let queues = Lane::ALL.map(|lane| {
            let (queue, receiver) = dial::queue(self.shared.config.queue_frames_max);
            let dialer = dial::Dialer {
                config: self.shared.config.clone(),
                book: self.shared.book.clone(),
                metrics: self.shared.metrics.clone(),
                node,
                lane,
                queue: queue.clone(),
                gone: self.shared.gone.clone(),
            };
            let stop = stop.clone();
            let runtime = self.shared.runtimes.dialling(lane);
            self.shared.tasks.spawn_on(async move { dialer.run(receiver, stop).await }, runtime);
            queue
        });
        Lanes { queues, stop }
    }

    /// Waits until nothing listens any more where some nodes did, as a lane to them broke or could not be opened. For one caller.
    pub async fn next_gone(&self) -> BTreeSet<NodeId> {
        loop {
            let gone = std::mem::take(&mut *self.shared.gone.nodes.lock());
            if !gone.is_empty() {
                return gone;
            }
            self.shared.gone.news.notified().await;
        }
    }

    /// The nodes that lanes are kept to.
    pub fn peers(&self) -> Vec<NodeId> {
        self.shared.lanes.read().keys().copied().collect()
    }

    /// Whether the lane to `node` is connected.
    pub fn is_up(&self, node: NodeId, lane: Lane) -> bool {
        self.queue(node, lane).is_some_and(|queue| queue.is_up())
    }

    fn queue(&self, node: NodeId, lane: Lane) -> Option<Arc<dial::Queue>> {
        self.shared.lanes.read().get(&node).map(|lanes| lanes.queues[lane as usize - 1].clone())
    }

    /// Sends a request; the future gives the answer, or what was lost.
    pub fn call(&self, to: NodeId, lane: Lane, frame: Bytes) -> BoxFuture<'static, Result<Bytes, Lost>> {
        self.call_keeping(0, to, lane, frame)
    }

    /// The same, unless only so many eighths of the lane's queue are free, which are kept for what is more important.
    pub fn call_keeping(
        &self,
        eighths: usize,
        to: NodeId,
        lane: Lane,
        frame: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, Lost>> {
        let Some(queue) = self.queue(to, lane) else {
            let why = "it is not a node of this cluster".to_string();
            return futures::future::ready(Err(Lost::NotSent(LinkError::Unreachable { node: to, why }))).boxed();
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        if let Err(error) = queue.push(to, eighths, Outgoing { frame, answer: Some(sender) }) {
            self.refused(lane, &error);
            return futures::future::ready(Err(Lost::NotSent(error))).boxed();
        }
        async move {
            let broken = |why: String| Lost::Broken(LinkError::Unreachable { node: to, why });
            let answered = receiver.await.map_err(|_| broken("the lane broke".to_string()))?;
            answered.map_err(|why| broken(why.to_string()))
        }
        .boxed()
    }

    /// Sends something that is not answered.
    pub fn cast(&self, to: NodeId, lane: Lane, frame: Bytes) -> Result<(), LinkError> {
        let Some(queue) = self.queue(to, lane) else {
            return Err(LinkError::Unreachable { node: to, why: "it is not a node of this cluster".to_string() });
        };
        queue.push(to, 0, Outgoing { frame, answer: None }).inspect_err(|error| self.refused(lane, error))
    }

    fn refused(&self, lane: Lane, error: &LinkError) {
        if matches!(error, LinkError::Overloaded { .. }) {
            self.shared.metrics.link_refused_full.get_or_create(&lane.labels()).inc();
        }
    }

    /// Closes all lanes and waits for their tasks.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}
