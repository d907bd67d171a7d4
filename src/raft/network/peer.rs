//! The sending side: openraft's network, over the link.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;

use super::copying::Copying;
use super::hold::Held;
use super::wire::{AppendRepr, RequestRepr, Response, encode_frame};
use super::{Acknowledged, Lane, Link, LinkError};
use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::raft::machine::{Header, SnapshotData};
use crate::raft::types::{CommittedLeader, LogId, Member, Types, Vote};
use crate::raft::{GroupConfig, KnownVersion};
use crate::store::{ExportError, ExportHandle, Exported, ReadError};
use crate::versions::Feature;

type RpcError = RPCError<Types>;

/// Makes the network of one replica to its peers.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) group: GroupId,
    pub(crate) from: ReplicaId,
    pub(crate) config: Arc<GroupConfig>,
    /// Whether followers are told how long the lease is.
    pub(crate) known: Arc<KnownVersion>,
    /// Numbers the snapshots that this replica sends.
    pub(crate) transfers: Arc<AtomicU64>,
    /// What they have acknowledged while this replica leads.
    pub(crate) acknowledged: Arc<Acknowledged>,
    /// Who is being made, by the log.
    pub(crate) copying: Arc<Copying>,
}

impl Peers {
    fn peer(&self, target: u64, node: &Member, lane: Lane) -> Peer {
        Peer {
            link: Arc::clone(&self.link),
            group: self.group,
            from: self.from,
            to: ReplicaId(target),
            node: node.node,
            lane,
            config: Arc::clone(&self.config),
            known: Arc::clone(&self.known),
            transfers: Arc::clone(&self.transfers),
            acknowledged: Arc::clone(&self.acknowledged),
            copying: Arc::clone(&self.copying),
            place: Mutex::default(),
        }
    }

    /// Asks the replica `target` whether it would vote for this one; nothing comes of the answer there. `None`: none came in time.
    pub(crate) async fn would_vote(
        &self,
        target: ReplicaId,
        node: NodeId,
        request: &VoteRequest<Types>,
        deadline: Duration,
    ) -> Option<VoteResponse<Types>> {
        let peer = self.peer(target.0, &Member { node }, Lane::Control);
        peer.ask_for_vote(RequestRepr::PreVote(request.into()), deadline).await.ok()
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        self.peer(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Peer {
        self.peer(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Peer {
        self.peer(target, node, Lane::Snapshot)
    }
}

/// The way to one peer, on one lane (votes and transfers of the lead take the control lane in any case).
pub(crate) struct Peer {
    link: Arc<dyn Link>,
    group: GroupId,
    from: ReplicaId,
    to: ReplicaId,
    node: NodeId,
    lane: Lane,
    config: Arc<GroupConfig>,
    known: Arc<KnownVersion>,
    transfers: Arc<AtomicU64>,
    acknowledged: Arc<Acknowledged>,
    copying: Arc<Copying>,
    /// Held from a snapshot that was not begun to the next try.
    place: Mutex<Option<Box<dyn Send>>>,
}

const FORSWORN: &str = "it lacks what it has acknowledged, and is to be replaced";

fn network(error: &str) -> RpcError {
    RPCError::Network(NetworkError::from_string(error))
}

fn unreachable(error: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(error))
}

/// Waits for the answer to a call, for as long as `deadline`.
async fn answer(
    call: BoxFuture<'static, Result<Bytes, LinkError>>,
    deadline: Duration,
    timeout: Timeout<Types>,
) -> Result<Response, RpcError> {
    let bytes = match tokio::time::timeout(deadline, call).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error @ LinkError::Unreachable { .. })) => return Err(unreachable(error)),
        Ok(Err(error @ LinkError::Overloaded { .. })) => return Err(unreachable(error)),
        Err(_) => return Err(RPCError::Timeout(timeout)),
    };
    match Response::decode(&bytes).map_err(|e| network(&e.to_string()))? {
        // A replica that is gone never comes back; one that is about to be made will.
        Response::Gone => Err(unreachable("REPLICA_GONE")),
        Response::Refused(why) => Err(unreachable(why)),
        Response::Malformed(_) => Err(network("the other side can't read our frames")),
        response => Ok(response),
    }
}

impl Peer {
    /// Sends now; the future is the answer.
    fn call(
        &self,
        lane: Lane,
        action: RPCTypes,
        request: RequestRepr<'_>,
        deadline: Duration,
    ) -> impl Future<Output = Result<Response, RpcError>> + Send + use<> {
        let timeout = Timeout { action, id: self.from.0, target: self.to.0, timeout: deadline };
        let frame = encode_frame(self.group, self.from, self.to, request);
        let (len, max) = (frame.len(), super::FRAME_BYTES_MAX);
        let call = (len <= max).then(|| self.link.call(self.node, lane, frame));
        if call.is_none() {
            tracing::error!(group = %self.group, replica = %self.from, to = %self.to, len, max, "a frame is too large to be sent");
        }
        async move {
            match call {
                Some(call) => answer(call, deadline, timeout).await,
                // The other side would break the lane for it, and with it what others have on it.
                None => Err(unreachable(format!("a frame of {len} bytes: at most {max} are sent"))),
            }
        }
    }

    fn append(
        &self,
        request: &AppendEntriesRequest<Types>,
        deadline: Duration,
    ) -> impl Future<Output = Result<AppendEntriesResponse<Types>, RpcError>> + Send + use<> {
        let (to, acknowledged) = (self.to, Arc::clone(&self.acknowledged));
        let last = request.entries.last().map(|entry| entry.log_id);
        let asked = acknowledged.ask(to, request.vote, request.prev_log_id, last);
        let asked = asked.map(|asked| {
            let repr = RequestRepr::append(request, self.lease_ms());
            (asked, self.call(self.lane, RPCTypes::AppendEntries, repr, deadline))
        });
        async move {
            let (asked, call) = asked.ok_or_else(|| unreachable(FORSWORN))?;
            match call.await? {
                Response::Append(response) => {
                    let response = AppendRepr::into(response);
                    let believed = acknowledged.answered(to, asked, &response);
                    believed.then_some(response).ok_or_else(|| unreachable(FORSWORN))
                }
                other => Err(unexpected(&other)),
            }
        }
    }

    /// Whether `request`, the first of a stream, only asks for what comes before its entries, and goes without them (invariant raft/25).
    /// openraft looks by bisection for where a follower's log ends, with some entries at each step; a replica that is being made has none of
    /// them, and where they are long they would go for nothing. They are sent once it has said that it has what comes before them. What
    /// openraft streams without an end begins where the follower has said it is, and is no question.
    fn is_question(&self, request: &AppendEntriesRequest<Types>) -> bool {
        self.copying.may_be_copy(self.to, request) && !self.acknowledged.has(self.to, request.vote, request.prev_log_id)
    }

    /// How long a lease is asked of the follower. Builds that don't read it take a longer one to be asked.
    fn lease_ms(&self) -> Option<u64> {
        let is_told = self.known.heard().has(Feature::ToldLeases);
        is_told.then(|| u64::try_from(self.config.lease().as_millis()).unwrap_or(u64::MAX))
    }

    fn append_deadline(&self, option: &RPCOption) -> Duration {
        match self.lane {
            // openraft itself gives heartbeats up after this.
            Lane::Control => option.hard_ttl(),
            _ => Duration::from_millis(self.config.append_ms_max),
        }
    }

    async fn ask_for_vote(
        &self,
        request: RequestRepr<'_>,
        deadline: Duration,
    ) -> Result<VoteResponse<Types>, RpcError> {
        match self.call(Lane::Control, RPCTypes::Vote, request, deadline).await? {
            Response::Vote { vote, granted, last } => {
                Ok(VoteResponse::new(Vote::from(vote), last.map(Into::into), granted))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Sends the checkpoint that covers everything up to `covers`: the leader goes on after that.
    async fn send_snapshot(
        &self,
        vote: Vote,
        covers: Option<LogId>,
        data: SnapshotData,
        kept: Option<Box<dyn Send>>,
    ) -> Result<SnapshotResponse<Types>, RpcError> {
        let SnapshotData::Local { store, replica, lease_ms } = data else {
            return Err(network("only checkpoints of this node are sent"));
        };
        let place = match kept {
            Some(place) => place,
            None => self.link.snapshot_place().await,
        };
        let mut export = store.export(replica, lease_ms).await.map_err(|e| self.export_error(&e))?;
        let found = Header::decode(&export.header().bytes).map_err(|stop| unreachable(stop.0))?;
        if found.meta.last_log_id != covers {
            // The leader would go on after what `covers` says, where the log is gone, and all that is sent now would be sent again.
            *self.place.lock() = Some(place);
            return Err(unreachable("another checkpoint has come meanwhile"));
        }
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        let piece_deadline = Duration::from_millis(self.config.snapshot_piece_ms_max);
        let send = |request: RequestRepr<'_>, deadline| {
            self.call(Lane::Snapshot, RPCTypes::InstallSnapshot, request, deadline)
        };
        let header = export.header().bytes.clone();
        let begin = RequestRepr::SnapshotBegin { transfer, vote: vote.into(), header: header[..].into() };
        // A follower that can't be reached is seen soon, and tried again; only pieces may take their time.
        let begin_deadline = piece_deadline.min(Duration::from_millis(self.config.append_ms_max));
        if let Some(done) = piece_taken(send(begin, begin_deadline).await?)? {
            return Ok(done);
        }
        let mut in_flight = futures::stream::FuturesOrdered::new();
        let (mut number, mut bytes) = (0, 0);
        loop {
            // It may change meanwhile.
            let piece_bytes = self.link.piece_bytes(self.config.snapshot_piece_bytes);
            let Some(piece) = export.next(piece_bytes).await.map_err(|e| self.export_error(&e))? else { break };
            let (images, rows) = match &piece {
                Exported::Images(images) => (RequestRepr::pairs(images), Vec::new()),
                Exported::Rows(rows) => (Vec::new(), RequestRepr::pairs(rows)),
            };
            let piece_bytes = match &piece {
                Exported::Images(pairs) | Exported::Rows(pairs) => super::bytes_of(pairs),
            };
            self.link.pace(piece_bytes).await;
            bytes += piece_bytes as u64;
            in_flight.push_back(send(RequestRepr::SnapshotPiece { transfer, number, images, rows }, piece_deadline));
            number += 1;
            // Memory is bounded by the pieces in flight: no more is read before the oldest is taken.
            if in_flight.len() >= self.config.snapshot_pieces_in_flight
                && let Some(taken) = in_flight.next().await
                && let Some(done) = piece_taken(taken?)?
            {
                return Ok(done);
            }
        }
        while let Some(taken) = in_flight.next().await {
            if let Some(done) = piece_taken(taken?)? {
                return Ok(done);
            }
        }
        let end = RequestRepr::SnapshotEnd { transfer, pieces: number };
        let install_deadline = Duration::from_millis(self.config.snapshot_install_ms_max);
        match keeping(&mut export, lease_ms, send(end, install_deadline)).await? {
            Response::Snapshot(answered) => {
                let answered = answered.into();
                // Otherwise the other side knows a newer leader.
                if answered == vote {
                    self.link.snapshot_taken(bytes);
                }
                Ok(SnapshotResponse::new(answered))
            }
            other => Err(unexpected(&other)),
        }
    }

    fn export_error(&self, error: &ExportError) -> RpcError {
        match error {
            ExportError::Read(ReadError::Corrupt { .. } | ReadError::Retired { .. }) => {
                tracing::error!(%error, "a checkpoint can't be read to be sent");
                unreachable(error)
            }
            ExportError::LeaseLost(_) => {
                self.link.snapshot_broken_off();
                tracing::warn!(
                    %error,
                    "a snapshot was broken off and begins again: the log or the memory needed its shard's next checkpoint, or nothing \
                     moved for too long; where it happens again and again raise what copies may take (clusterctl ring rules, or \
                     snapshots.bytes_per_second) or disk.log_mib"
                );
                unreachable(error)
            }
            _ => unreachable(error),
        }
    }
}

/// Waits for the answer to a snapshot that was read to its end, and keeps it in its place meanwhile: with the next checkpoint the log
/// goes that the other side needs after it, which would need another snapshot then.
async fn keeping<T>(export: &mut ExportHandle, lease_ms: u64, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    let turn = Duration::from_millis(lease_ms / 2).max(Duration::from_millis(1));
    loop {
        match tokio::time::timeout(turn, &mut answer).await {
            Ok(answer) => return answer,
            // That something urgent went ahead of it is no loss of what was sent.
            Err(_) => drop(export.next(1).await),
        }
    }
}

fn unexpected(response: &Response) -> RpcError {
    network(&format!("an answer of another kind: {response:?}"))
}

/// `None`: go on. A vote: the other side knows a newer leader.
fn piece_taken(response: Response) -> Result<Option<SnapshotResponse<Types>>, RpcError> {
    match response {
        Response::PieceTaken => Ok(None),
        Response::Snapshot(vote) => Ok(Some(SnapshotResponse::new(vote.into()))),
        other => Err(unexpected(&other)),
    }
}

/// The answer to an append as a stream gives it, and whether the stream may go on after it.
fn stream_result(
    response: AppendEntriesResponse<Types>,
    prev: Option<LogId>,
    last: Option<LogId>,
) -> (StreamAppendResult<Types>, bool) {
    match response {
        // Nothing to conflict with: openraft would panic on it, and so could whoever sends it.
        AppendEntriesResponse::Conflict if prev.is_none() => (Ok(None), false),
        AppendEntriesResponse::PartialSuccess(reached) => (Ok(reached), reached == last),
        response => {
            let result = response.into_stream_result(prev, last);
            let on = result.is_ok();
            (result, on)
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        let deadline = self.append_deadline(&option);
        self.append(&request, deadline).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let deadline = self.append_deadline(&option);
        let in_flight = self.config.appends_in_flight;
        // A heartbeat is all that it is: nothing comes after it.
        let input = Held::new(input, Duration::from_millis(self.config.commit_hold_ms));
        Box::pin(async move {
            let this = &*self;
            // After a question the stream ends: its answer decides how openraft goes on.
            let input = futures::stream::unfold((Some(input), true), move |(input, is_first)| async move {
                let mut input = input?;
                let mut request = input.next().await?;
                if is_first && this.is_question(&request) {
                    request.entries.clear();
                    return Some((request, (None, false)));
                }
                this.copying.pace(&*this.link, this.to, &request).await;
                Some((request, (Some(input), false)))
            });
            // Sent as soon as they come, several at once; the answers are taken in the order of the requests.
            let answers = input.map(move |request| {
                let prev = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(prev);
                let call = this.append(&request, deadline);
                async move { call.await.map(|response| stream_result(response, prev, last)) }
            });
            // After the first that is not a success nothing more is told: openraft begins a new stream.
            let answers = answers.buffered(in_flight).boxed();
            let ending = futures::stream::unfold(Some(answers), |answers| async move {
                let mut answers = answers?;
                let answer = answers.next().await?;
                let on = matches!(answer, Ok((_, true)));
                Some((answer.map(|(result, _)| result), on.then_some(answers)))
            });
            Ok(ending.fuse().boxed())
        })
    }

    async fn vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_for_vote(RequestRepr::Vote((&request).into()), option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_for_vote(RequestRepr::PreVote((&request).into()), option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeader, u64, Member, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let covers = snapshot.meta.last_log_id;
        // Whatever comes of this try, nobody else waits for it longer.
        let kept = self.place.lock().take();
        if self.acknowledged.ask(self.to, vote, covers, None).is_none() {
            return Err(unreachable(FORSWORN).into());
        }
        self.copying.begun(self.to, covers);
        let sent = tokio::select! {
            closed = cancel => return Err(closed.into()),
            sent = self.send_snapshot(vote, covers, snapshot.snapshot, kept) => sent?,
        };
        if sent.vote == vote {
            self.acknowledged.reached(self.to, vote, covers);
        }
        Ok(sent)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let call = RequestRepr::transfer_leader(&request);
        match self.call(Lane::Control, RPCTypes::TransferLeader, call, option.soft_ttl()).await? {
            Response::TransferLeader(response) => Ok(response.into()),
            other => Err(unexpected(&other)),
        }
    }
}

#[cfg(test)]
mod tests;
