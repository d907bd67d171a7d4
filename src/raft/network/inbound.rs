//! The receiving side: what one replica does with the frames for it. Runs on the thread of the groups.
//!
//! What a replica owes its leader ([`Promise`]) is kept here, where everything comes by in one order: a leader's word is noted
//! before it is handed on, so that no answer to it can leave earlier; a vote, also the one for itself, is judged by what was noted
//! before it, and handed on before anything that came after. openraft takes both from one queue.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{VoteRequest, VoteResponse};
use openraft::storage::Snapshot;
use openraft::{Raft, ServerState};
use tokio::sync::{mpsc, oneshot, watch};

use super::switchboard::{Framed, Inbound};
use super::wire::{Request, Response, SnapshotRequest};
use super::{Link, Promise};
use crate::ids::ReplicaId;
use crate::raft::GroupConfig;
use crate::raft::machine::{Header, Machine, Replica, SnapshotData};
use crate::raft::types::{Types, Vote};
use crate::store::{InstallHandle, StoreHandle};

/// Pieces of snapshots that wait to be put into the store. The sender has fewer in flight.
const PIECES_MAX: usize = 16;

type RaftOf<M> = Raft<Types, Replica<M>>;

/// Handles the frames of one replica until nobody can send any more.
///
/// Requests are given to openraft in the order of arrival, and their answers are awaited side by side: an append's answer
/// comes when it is durable, and the next must not wait for that.
pub(crate) async fn run<M: Machine>(
    raft: RaftOf<M>,
    store: StoreHandle,
    link: Arc<dyn Link>,
    config: Arc<GroupConfig>,
    replica: ReplicaId,
    promise: Arc<Promise>,
    mut frames: mpsc::Receiver<Inbound>,
) {
    let (pieces, snapshots) = mpsc::channel(PIECES_MAX);
    let (begun, newest) = watch::channel((replica, 0));
    let patience =
        Duration::from_millis(config.snapshot_piece_ms_max) / (2 * config.snapshot_pieces_in_flight.max(1) as u32);
    let receiver = Receiver { raft: raft.clone(), store, link, replica, incoming: None, newest, patience };
    let mut receiving = std::pin::pin!(receiver.run(snapshots));
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = running.next(), if !running.is_empty() => {}
            frame = frames.recv() => {
                let (from, request, answer) = match frame {
                    Some(Inbound::Frame(Framed { from, request, answer })) => (from, request, answer),
                    Some(Inbound::Stand(answer)) => {
                        let stands = promise.has_lapsed() && !leads(&raft) && raft.trigger().elect(false).await.is_ok();
                        let _ = answer.send(stands);
                        continue;
                    }
                    None => return,
                };
                if let Request::Snapshot(request) = request {
                    promise.heard_again();
                    if let SnapshotRequest::Begin { transfer, .. } = &request {
                        begun.send_replace((from, *transfer));
                    }
                    if let Err(full) = pieces.try_send((from, request, answer)) {
                        let (_, _, answer) = full.into_inner();
                        let _ = answer.send(Response::Refused("too many pieces wait".to_string()));
                    }
                    continue;
                }
                let mut handling = Box::pin(handle(raft.clone(), Arc::clone(&promise), request, answer));
                // The first poll queues the request in openraft: so the order is kept.
                if futures::poll!(&mut handling).is_pending() {
                    running.push(handling);
                }
            }
            () = &mut receiving => return,
        }
    }
}

/// Whether the replica leads, as far as it is told.
fn leads<M: Machine>(raft: &RaftOf<M>) -> bool {
    raft.server_metrics().borrow_watched().state == ServerState::Leader
}

/// Whether the replica would vote for the asker whose log ends there, now that it owes nobody anything. What term either is in is
/// found out by the election itself.
fn would_vote<M: Machine>(raft: &RaftOf<M>, request: &VoteRequest<Types>) -> Response {
    let last = raft.data_metrics().borrow_watched().last_log;
    let vote = raft.server_metrics().borrow_watched().vote;
    VoteResponse::new(vote, last, request.last_log_id >= last).into()
}

async fn handle<M: Machine>(
    raft: RaftOf<M>,
    promise: Arc<Promise>,
    request: Request,
    answer: oneshot::Sender<Response>,
) {
    let response = match request {
        Request::Vote(mut request) => {
            // openraft's own lease is longer than what is owed; a leader's is kept in any case.
            request.leadership_transfer |= promise.has_lapsed() && !leads(&raft);
            raft.vote(request).await.map(Response::from).map_err(|e| e.to_string())
        }
        Request::PreVote(request) if promise.has_lapsed() && !leads(&raft) => Ok(would_vote(&raft, &request)),
        Request::PreVote(request) => raft.pre_vote(request).await.map(Response::from).map_err(|e| e.to_string()),
        Request::Append { request, lease_ms } => {
            promise.heard(lease_ms);
            raft.append_entries(request).await.map(Response::from).map_err(|e| e.to_string())
        }
        Request::TransferLeader(request) => {
            raft.handle_transfer_leader(request).await.map(Response::from).map_err(|e| e.to_string())
        }
        Request::Snapshot(_) => Err("a piece of a snapshot, out of place".to_string()),
    };
    // The sender may have given up waiting.
    let _ = answer.send(response.unwrap_or_else(Response::Refused));
}

struct Incoming {
    from: ReplicaId,
    transfer: u64,
    vote: Vote,
    header: Header,
    install: InstallHandle,
    pieces: u64,
}

/// Takes in one snapshot at a time; a newer transfer replaces an older one.
struct Receiver<M: Machine> {
    raft: RaftOf<M>,
    store: StoreHandle,
    link: Arc<dyn Link>,
    replica: ReplicaId,
    incoming: Option<Incoming>,
    /// The transfer that was begun last, and by whom, as far as requests have come.
    newest: watch::Receiver<(ReplicaId, u64)>,
    /// How long a piece waits for the pace of copies: a sender gives up when as many as are in flight have waited for twice as long.
    patience: Duration,
}

type Piece = (ReplicaId, SnapshotRequest, oneshot::Sender<Response>);

impl<M: Machine> Receiver<M> {
    async fn run(mut self, mut pieces: mpsc::Receiver<Piece>) {
        while let Some((from, request, answer)) = pieces.recv().await {
            let response = match request {
                SnapshotRequest::Begin { transfer, vote, header } => self.begin(from, transfer, vote, &header).await,
                SnapshotRequest::Piece { transfer, number, images, rows } => {
                    self.piece(from, transfer, number, images, rows).await
                }
                SnapshotRequest::End { transfer, pieces } => self.end(from, transfer, pieces).await,
            };
            let response = response.unwrap_or_else(|why| {
                self.incoming = None;
                tracing::warn!(replica = %self.replica, %from, %why, "a snapshot was not taken");
                Response::Refused(why)
            });
            let _ = answer.send(response);
        }
    }

    /// A newer vote than the sender's, if this replica has one.
    fn newer_vote(&self, vote: Vote) -> Option<Vote> {
        let metrics = self.raft.server_metrics();
        let mine = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&metrics).vote;
        (mine > vote).then_some(mine)
    }

    async fn begin(&mut self, from: ReplicaId, transfer: u64, vote: Vote, header: &[u8]) -> Result<Response, String> {
        if let Some(newer) = self.newer_vote(vote) {
            return Ok(Response::Snapshot(newer.into()));
        }
        // Whoever begins again under the same vote was too slow, or kept waiting for too long.
        if self.incoming.take().is_some_and(|old| old.from == from && old.vote == vote && old.pieces > 0) {
            self.link.snapshot_broken_off();
        }
        let header = Header::decode(header).map_err(|e| e.to_string())?;
        let install = self.store.begin_install(self.replica).await.map_err(|e| e.to_string())?;
        self.incoming = Some(Incoming { from, transfer, vote, header, install, pieces: 0 });
        Ok(Response::PieceTaken)
    }

    async fn piece(
        &mut self,
        from: ReplicaId,
        transfer: u64,
        number: u64,
        images: Vec<crate::store::Pair>,
        rows: Vec<crate::store::Pair>,
    ) -> Result<Response, String> {
        let incoming = self.incoming.as_mut().filter(|incoming| (incoming.from, incoming.transfer) == (from, transfer));
        let incoming = incoming.ok_or("no such snapshot is on its way here")?;
        if incoming.pieces != number {
            return Err(format!("piece {number} came where {} was expected", incoming.pieces));
        }
        let paced = self.link.pace_taken(super::bytes_of(&images) + super::bytes_of(&rows));
        tokio::select! {
            _ = tokio::time::timeout(self.patience, paced) => {}
            // Its sender has begun anew: nothing comes of it.
            _ = self.newest.wait_for(|(sender, newest)| *sender == from && *newest != transfer) => {}
        }
        incoming.install.put(images, rows).await.map_err(|e| e.to_string())?;
        incoming.pieces += 1;
        Ok(Response::PieceTaken)
    }

    async fn end(&mut self, from: ReplicaId, transfer: u64, pieces: u64) -> Result<Response, String> {
        let incoming = self.incoming.take().filter(|incoming| (incoming.from, incoming.transfer) == (from, transfer));
        let Incoming { vote, header, install, pieces: taken, .. } =
            incoming.ok_or("no such snapshot is on its way here")?;
        if taken != pieces {
            return Err(format!("{taken} of {pieces} pieces came"));
        }
        let meta = header.meta.clone();
        let data = SnapshotData::Received { install: parking_lot::Mutex::new(install), header };
        let installed = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: data }).await;
        installed.map(|response| Response::Snapshot(response.vote.into())).map_err(|e| e.to_string())
    }
}
