//! When a local read is fresh enough.
//!
//! A STRONG read is ReadIndex: after the read came in, a quorum confirms that this replica leads, and everything that was
//! committed then is applied before the read looks. It uses no lease and no clock. One round serves all reads that wait when
//! it begins; a read that comes while a round is on its way waits for the next one (invariant raft/3), so however many reads
//! there are, at most one round is open.
//!
//! A LEASE read trusts the leader's lease instead, and is answered at once while that is valid.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Raft, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::batcher::Lead;
use super::machine::{Core, Machine, Replica};
use super::outcome::{QueryError, ReadMode, Rejected};
use super::types::Types;
use crate::time::{Clock, MonotonicMs};

/// How long to wait before the next round when no quorum has answered one, or the lease has run out.
const AGAIN_WAIT: Duration = Duration::from_millis(20);

type Ready = Result<(), QueryError>;

/// The reads that wait for one kind of round.
struct Rounds {
    waiting: Mutex<Option<Vec<oneshot::Sender<Ready>>>>,
    wake: Notify,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { waiting: Mutex::new(Some(Vec::new())), wake: Notify::new() }
    }
}

impl Rounds {
    fn join(&self, reads_max: usize) -> Result<oneshot::Receiver<Ready>, QueryError> {
        let (tell, ready) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let waiting = waiting.as_mut().ok_or(QueryError::Stopped)?;
        if waiting.len() >= reads_max {
            waiting.retain(|read| !read.is_closed());
            if waiting.len() >= reads_max {
                return Err(QueryError::Overloaded);
            }
        }
        waiting.push(tell);
        self.wake.notify_one();
        Ok(ready)
    }

    fn take(&self) -> Option<Vec<oneshot::Sender<Ready>>> {
        self.waiting.lock().as_mut().map(std::mem::take)
    }

    fn close(&self) {
        self.waiting.lock().take();
        self.wake.notify_one();
    }
}

/// Reads of one replica that wait.
pub(crate) struct Reads {
    strong: Rounds,
    lease: Rounds,
    reads_max: usize,
    lease_ms: u64,
    clock: Arc<dyn Clock>,
    /// Until then, by the process's stopwatch, no lease is trusted.
    void_until: AtomicU64,
}

/// Runs the rounds.
pub(crate) struct Rounder<M: Machine> {
    pub(crate) raft: Raft<Types, Replica<M>>,
    pub(crate) core: Arc<Core<M>>,
    pub(crate) lead: Arc<Lead>,
    pub(crate) reads: Arc<Reads>,
}

impl Reads {
    pub(crate) fn new(reads_max: usize, lease_ms: u64, clock: Arc<dyn Clock>) -> Self {
        let (strong, lease) = (Rounds::default(), Rounds::default());
        Self { strong, lease, reads_max, lease_ms, clock, void_until: AtomicU64::new(0) }
    }

    /// Trusts no lease for the time of one.
    pub(crate) fn void_leases(&self) {
        let until = self.clock.monotonic().plus(self.lease_ms);
        self.void_until.fetch_max(until.0, Ordering::AcqRel);
    }

    /// Waits until a local read is as fresh as `mode` asks for.
    pub(crate) async fn ready(&self, mode: ReadMode, timeout: Duration) -> Ready {
        let rounds = match mode {
            ReadMode::Any => return Ok(()),
            ReadMode::Strong => &self.strong,
            ReadMode::Lease if self.clock.monotonic() < MonotonicMs(self.void_until.load(Ordering::Acquire)) => {
                &self.strong
            }
            ReadMode::Lease => &self.lease,
        };
        let ready = rounds.join(self.reads_max)?;
        match tokio::time::timeout(timeout, ready).await {
            Ok(ready) => ready.unwrap_or(Err(QueryError::Stopped)),
            Err(_) => Err(QueryError::DeadlineExceeded),
        }
    }

    /// Lets nobody wait any more.
    pub(crate) fn close(&self) {
        self.strong.close();
        self.lease.close();
    }
}

impl<M: Machine> Rounder<M> {
    /// Runs rounds of both kinds until the reads are closed.
    pub(crate) async fn run(self) {
        let leader_alone = || LinearizerOption::from(ReadPolicy::LeaseRead);
        let quorum = || LinearizerOption::from(ReadPolicy::ReadIndex);
        tokio::join!(self.rounds(&self.reads.strong, quorum), self.rounds(&self.reads.lease, leader_alone));
    }

    async fn rounds(&self, rounds: &Rounds, option: impl Fn() -> LinearizerOption) {
        loop {
            rounds.wake.notified().await;
            let Some(mut reads) = rounds.take() else { return };
            // A round that found no quorum is run again for those who still wait, and whoever has come since joins them:
            // the new round begins after they came.
            while !reads.is_empty() {
                match self.round(option()).await {
                    Some(ready) => reads.drain(..).for_each(|read| {
                        let _ = read.send(ready.clone());
                    }),
                    None => {
                        tokio::time::sleep(AGAIN_WAIT).await;
                        reads.retain(|read| !read.is_closed());
                        let Some(more) = rounds.take() else { return };
                        reads.extend(more);
                    }
                }
            }
        }
    }

    /// One round; `None` when no quorum has answered in time, which may be otherwise soon.
    async fn round(&self, option: LinearizerOption) -> Option<Ready> {
        match self.raft.get_read_linearizer(option).await {
            Ok(linearizer) => {
                let index = linearizer.read_log_id().index();
                let mut applied = self.core.applied();
                let reached = applied.wait_for(|applied| applied.log_id.is_some_and(|id| id.index >= index)).await;
                Some(reached.map(|_| ()).map_err(|_| QueryError::Stopped))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => None,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Some(Err(self.not_leader())),
            Err(RaftError::Fatal(_)) => Some(Err(QueryError::Stopped)),
        }
    }

    fn not_leader(&self) -> QueryError {
        match self.lead.term() {
            Err(Rejected::NotLeader { leader }) => QueryError::NotLeader { leader },
            Err(_) => QueryError::Stopped,
            // It hands its lead over.
            Ok(_) => QueryError::NotLeader { leader: None },
        }
    }
}
