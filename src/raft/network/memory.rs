//! A link within one process, that can be cut, delayed and made to lose: for tests and simulations.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Lane, Link, LinkError, Switchboard};
use crate::ids::NodeId;

type Judge = Arc<dyn Fn(NodeId, NodeId, Lane) -> Fate + Send + Sync>;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, and its answer comes back.
    #[default]
    Arrives,
    /// It is lost: the caller hears nothing until its deadline.
    Lost,
    /// It arrives, but its answer is lost.
    AnswerLost,
    /// It arrives, its answer comes back so much later.
    Slow(Duration),
}

#[derive(Default)]
struct Wires {
    nodes: HashMap<NodeId, Weak<Switchboard>>,
    cut: HashSet<(NodeId, NodeId)>,
    judge: Option<Judge>,
    gate: Option<Arc<Gate>>,
}

/// Where pieces of snapshots and of logs wait until they are let through, and snapshots for a place to be sent from.
#[derive(Debug)]
pub struct Gate {
    open: Semaphore,
    came: AtomicU64,
    places: Arc<Semaphore>,
    asked: AtomicU64,
    broken_off: AtomicU64,
    entries_open: Semaphore,
    entries_came: AtomicU64,
    taken: AtomicU64,
    takes: AtomicBool,
}

/// More places than any test has snapshots.
const PLACES: u32 = 64;

impl Gate {
    fn new() -> Self {
        let places = Arc::new(Semaphore::new(PLACES as usize));
        let (came, asked, broken_off, entries_came, taken) = Default::default();
        let (open, entries_open) = (Semaphore::new(0), Semaphore::new(0));
        Self { open, came, places, asked, broken_off, entries_open, entries_came, taken, takes: true.into() }
    }

    /// Takes all places, until what it gives is dropped. `None`: some are taken.
    pub fn take_places(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_many_owned(PLACES).ok()
    }

    /// How many have asked for a place.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// How many pieces have come here, those included that have gone through.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Acquire)
    }

    /// How often it was told that a snapshot was broken off, by who sent it and by who took it in.
    pub fn broken_off(&self) -> u64 {
        self.broken_off.load(Ordering::Acquire)
    }

    /// How many messages of entries have come here, those included that have gone through.
    pub fn entries_came(&self) -> u64 {
        self.entries_came.load(Ordering::Acquire)
    }

    /// From now on nothing that comes may be taken in.
    pub fn take_nothing(&self) {
        self.takes.store(false, Ordering::Release);
    }

    /// How many bytes of snapshots have asked to be taken in.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// Lets so many pieces more through.
    pub fn let_through(&self, pieces: usize) {
        self.open.add_permits(pieces);
    }

    async fn pass(&self) {
        self.came.fetch_add(1, Ordering::AcqRel);
        if let Ok(permit) = self.open.acquire().await {
            permit.forget();
        }
    }
}

/// All nodes of a cluster within one process.
#[derive(Clone, Default)]
pub struct MemoryNet {
    wires: Arc<Mutex<Wires>>,
}

impl std::fmt::Debug for MemoryNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryNet").field("cut", &self.wires.lock().cut).finish_non_exhaustive()
    }
}

impl MemoryNet {
    /// The link of `node`, for its switchboard.
    pub fn link(&self, node: NodeId) -> Arc<dyn Link> {
        Arc::new(MemoryLink { net: self.clone(), from: node })
    }

    /// Frames to `node` go to this switchboard from now on.
    pub fn connect(&self, node: NodeId, switchboard: &Arc<Switchboard>) {
        self.wires.lock().nodes.insert(node, Arc::downgrade(switchboard));
    }

    /// Nothing goes between `a` and `b` any more, in neither direction, until they are healed.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.wires.lock().cut.extend([(a, b), (b, a)]);
    }

    /// Nothing goes from or to `node` any more.
    pub fn isolate(&self, node: NodeId) {
        let mut wires = self.wires.lock();
        let others: Vec<NodeId> = wires.nodes.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            wires.cut.extend([(node, other), (other, node)]);
        }
    }

    /// Everything goes everywhere again.
    pub fn heal(&self) {
        let mut wires = self.wires.lock();
        wires.cut.clear();
        wires.judge = None;
    }

    /// Asks `judge` about every frame (from, to, lane) that is not cut off.
    pub fn judge(&self, judge: impl Fn(NodeId, NodeId, Lane) -> Fate + Send + Sync + 'static) {
        self.wires.lock().judge = Some(Arc::new(judge));
    }

    /// From now on each piece of a snapshot waits until it is let through, and each message of a log that is copied as long as it has to.
    pub fn gate(&self) -> Arc<Gate> {
        let gate = Arc::new(Gate::new());
        self.wires.lock().gate = Some(Arc::clone(&gate));
        gate
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.wires.lock().cut.contains(&(from, to))
    }
}

struct MemoryLink {
    net: MemoryNet,
    from: NodeId,
}

impl Link for MemoryLink {
    fn snapshot_place(&self) -> BoxFuture<'static, Box<dyn Send>> {
        let gate = self.net.wires.lock().gate.clone();
        Box::pin(async move {
            let Some(gate) = gate else { return Box::new(()) as Box<dyn Send> };
            gate.asked.fetch_add(1, Ordering::AcqRel);
            Box::new(Arc::clone(&gate.places).acquire_owned().await.ok()) as Box<dyn Send>
        })
    }

    fn pace(&self, _: usize) -> BoxFuture<'_, ()> {
        let gate = self.net.wires.lock().gate.clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.pass().await;
            }
        })
    }

    fn pace_entries(&self, _: usize) -> BoxFuture<'_, ()> {
        let gate = self.net.wires.lock().gate.clone();
        Box::pin(async move {
            let Some(gate) = gate else { return };
            gate.entries_came.fetch_add(1, Ordering::AcqRel);
            if let Ok(permit) = gate.entries_open.acquire().await {
                permit.forget();
            }
        })
    }

    fn pace_taken(&self, bytes: usize) -> BoxFuture<'_, ()> {
        let gate = self.net.wires.lock().gate.clone();
        Box::pin(async move {
            let Some(gate) = gate else { return };
            gate.taken.fetch_add(bytes as u64, Ordering::AcqRel);
            if !gate.takes.load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
        })
    }

    fn snapshot_broken_off(&self) {
        if let Some(gate) = &self.net.wires.lock().gate {
            gate.broken_off.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn call(&self, to: NodeId, lane: Lane, frame: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let lost = || Box::pin(std::future::pending());
        let (target, fate) = {
            let wires = self.net.wires.lock();
            if wires.cut.contains(&(self.from, to)) {
                return lost();
            }
            let fate = wires.judge.as_ref().map_or(Fate::Arrives, |judge| judge(self.from, to, lane));
            (wires.nodes.get(&to).and_then(Weak::upgrade), fate)
        };
        let Some(target) = target else {
            let error = LinkError::Unreachable { node: to, why: "no such node".to_string() };
            return Box::pin(std::future::ready(Err(error)));
        };
        if fate == Fate::Lost {
            return lost();
        }
        // Served at once, so that the order is kept; what is slow is the answer.
        let answer = target.serve(frame);
        let (net, from) = (self.net.clone(), self.from);
        Box::pin(async move {
            let answer = answer.await;
            match fate {
                Fate::Slow(delay) => tokio::time::sleep(delay).await,
                Fate::AnswerLost => std::future::pending().await,
                Fate::Arrives | Fate::Lost => {}
            }
            if net.is_cut(to, from) {
                std::future::pending::<()>().await;
            }
            Ok(answer)
        })
    }
}
