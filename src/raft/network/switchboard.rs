//! One node's table of live replicas: what an incoming frame has to pass.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use super::Link;
use super::wire::{Request, Response, decode_frame};
use crate::ids::{GroupId, ReplicaId};
use crate::plan::Recovery;
use crate::planted::{self, Bug};

/// Frames that wait for one replica; more are refused, and sent again.
const INBOUND_MAX: usize = 1024;

/// What one replica has to do, in the order of arrival.
pub(crate) enum Inbound {
    /// To answer a frame.
    Frame(Framed),
    /// To stand for election, if it may; the answer is whether it does.
    Stand(oneshot::Sender<bool>),
}

/// A frame's request, and where its answer goes.
pub(crate) struct Framed {
    pub(super) from: ReplicaId,
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Response>,
}

struct Port {
    group: GroupId,
    inbound: mpsc::Sender<Inbound>,
}

/// One node's table of live replicas: hands incoming frames to them, and outgoing ones to the link.
pub struct Switchboard {
    link: Arc<dyn Link>,
    ports: RwLock<HashMap<ReplicaId, Port>>,
    /// Groups in which not everybody is heard any more.
    recovered: RwLock<BTreeMap<GroupId, Recovery>>,
    votes: AtomicU8,
}

/// Nobody has said anything of votes yet: they are given.
const UNSAID: u8 = 0;
/// Votes of shards are held back.
const HELD: u8 = 1;
/// They are given, for good.
const GIVEN: u8 = 2;

impl std::fmt::Debug for Switchboard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switchboard").field("replicas", &self.ports.read().len()).finish_non_exhaustive()
    }
}

impl Switchboard {
    /// An empty table, for groups that send over `link`.
    pub fn new(link: Arc<dyn Link>) -> Arc<Self> {
        let (ports, recovered) = (RwLock::default(), RwLock::default());
        Arc::new(Self { link, ports, recovered, votes: AtomicU8::new(UNSAID) })
    }

    pub(crate) fn link(&self) -> &Arc<dyn Link> {
        &self.link
    }

    /// Holds the votes of shards back: for themselves and for others, until [`Self::give_votes`]. Does nothing after that.
    ///
    /// A process that has just begun may know a cluster of long ago: that its replicas were left behind by a recovery is known to
    /// the meta group only.
    pub fn hold_votes(&self) {
        let _ = self.votes.compare_exchange(UNSAID, HELD, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Votes are given from now on.
    pub fn give_votes(&self) {
        self.votes.store(GIVEN, Ordering::Release);
    }

    /// Whether votes are given for good.
    pub fn gives_votes(&self) -> bool {
        self.votes.load(Ordering::Acquire) == GIVEN
    }

    /// Whether the group's votes are held back.
    pub fn is_held(&self, group: GroupId) -> bool {
        group != GroupId::META && self.votes.load(Ordering::Acquire) == HELD
    }

    /// From now on no frame is taken in these groups from or for whom their recovery doesn't admit.
    pub fn admit_only(&self, recovered: BTreeMap<GroupId, Recovery>) {
        if *self.recovered.read() != recovered {
            *self.recovered.write() = recovered;
        }
    }

    fn admits(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.recovered.read().get(&group).is_none_or(|recovery| recovery.admits(replica))
    }

    /// Takes frames for `replica` from now on; `None` when it lives here already.
    pub(crate) fn open(&self, group: GroupId, replica: ReplicaId) -> Option<mpsc::Receiver<Inbound>> {
        let (inbound, frames) = mpsc::channel(INBOUND_MAX);
        let mut ports = self.ports.write();
        if ports.contains_key(&replica) {
            return None;
        }
        ports.insert(replica, Port { group, inbound });
        Some(frames)
    }

    /// Takes no more frames for `replica`.
    pub(crate) fn close(&self, replica: ReplicaId) {
        self.ports.write().remove(&replica);
    }

    /// Takes a frame that came over the link, in the order of arrival; the future gives the answer to send back. A frame
    /// whose addressee does not live here exactly, under its group, is answered REPLICA_GONE and dropped (invariant raft/2).
    ///
    /// The frame is queued for its replica before this returns. Needs no particular thread.
    pub fn serve(&self, frame: Bytes) -> BoxFuture<'static, Bytes> {
        let response = match self.deliver(&frame) {
            Ok(answer) => {
                return Box::pin(async move {
                    let stopped = || Response::Refused("the replica has stopped".to_string());
                    answer.await.unwrap_or_else(|_| stopped()).encode()
                });
            }
            Err(response) => response,
        };
        Box::pin(std::future::ready(response.encode()))
    }

    /// Has the replica stand for election, after all that came in for it before; `false` when it may not.
    pub(crate) async fn stand(&self, replica: ReplicaId) -> bool {
        let (answer, answered) = oneshot::channel();
        let stands = |port: &Port| !self.is_held(port.group) && self.admits(port.group, replica);
        let is_queued = self
            .ports
            .read()
            .get(&replica)
            .is_some_and(|port| stands(port) && port.inbound.try_send(Inbound::Stand(answer)).is_ok());
        is_queued && answered.await.unwrap_or(false)
    }

    fn deliver(&self, bytes: &Bytes) -> Result<oneshot::Receiver<Response>, Response> {
        let frame = decode_frame(bytes).map_err(|error| {
            tracing::warn!(%error, len = bytes.len(), "a frame can't be read");
            Response::Malformed(error.to_string().into_bytes().into())
        })?;
        if !self.admits(frame.group, frame.from) || !self.admits(frame.group, frame.to) {
            return Err(Response::Gone);
        }
        // Who is handed the lead votes for itself.
        let votes = matches!(frame.request, Request::Vote(_) | Request::PreVote(_) | Request::TransferLeader(_));
        if votes && self.is_held(frame.group) {
            return Err(Response::Refused("this process doesn't know yet what has become of the cluster".to_string()));
        }
        let ports = self.ports.read();
        let addressee = ports.get(&frame.to).filter(|port| port.group == frame.group);
        let anybody =
            || ports.values().find(|port| planted::is(Bug::FramesWithoutAddressee) && port.group == frame.group);
        let port = addressee.or_else(anybody).ok_or(Response::Gone)?;
        let (answer, answered) = oneshot::channel();
        let inbound = Inbound::Frame(Framed { from: frame.from, request: frame.request, answer });
        match port.inbound.try_send(inbound) {
            Ok(()) => Ok(answered),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Response::Refused("too many frames wait".to_string())),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Response::Gone),
        }
    }
}
