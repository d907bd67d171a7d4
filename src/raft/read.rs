//! When a local read is fresh enough.
//!
//! A STRONG read is ReadIndex: after the read came in, a quorum confirms that this replica leads, and everything that was
//! committed then is applied before the read looks. It uses no lease and no clock. One round serves all reads that wait when
//! it begins; a read that comes while a round is on its way waits for the next one (invariant raft/3), so however many reads
//! there are, at most one round is open.
//!
//! A LEASE read trusts the leader's lease instead (`promise`), and is answered at once while that is valid: while a quorum has
//! answered something that was sent less than nine tenths of a lease ago. Else it waits until one has, which a heartbeat asks for.
//!
//! Who follows asks the leader for the index of such a round, and knows from then on how old its state is at most (`fresh`): that
//! serves BOUNDED reads and gives every answer its age. Asking in the background costs no round: such a question waits for an answer of a
//! quorum to the next heartbeat that goes out anyway.
//!
//! A SESSION read waits until the replica has the revision that is asked for; who leads finds out by a round that nobody has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Raft, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::GroupConfig;
use super::batcher::Lead;
use super::fresh::Fresh;
use super::machine::{Core, Machine, Replica};
use super::outcome::{QueryError, Rejected};
use super::types::Types;
use crate::ids::Revision;
use crate::time::{Clock, MonotonicMs};

/// How long to wait before the next round when no quorum has answered one, or the lease has run out.
const AGAIN_WAIT: Duration = Duration::from_millis(20);

/// The most reads that wait for a revision, in one replica: each is woken by every entry.
const REVISION_WAITS_MAX: usize = 1024;

/// The index that the state has reached, or why the read can't be done.
type Ready = Result<u64, QueryError>;

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

/// What a read waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// A quorum, asked now.
    Quorum,
    /// A quorum, by its answer to the next heartbeat.
    Heartbeat,
    /// The lease.
    Lease,
}

/// Reads of one replica that wait.
pub(crate) struct Reads {
    strong: Rounds,
    unhurried: Rounds,
    lease: Rounds,
    /// How many wait for a revision.
    for_revisions: AtomicUsize,
    fresh: Fresh,
    reads_max: usize,
    lease_ms: u64,
    /// How old a quorum's word may be.
    trusted: Duration,
    clock: Arc<dyn Clock>,
    /// Until then, by the process's stopwatch, no lease is trusted.
    void_until: AtomicU64,
    /// For how long the machine had been suspended when that was looked at last.
    suspended_ms: AtomicU64,
}

/// From how long on the machine counts as suspended: reading two clocks one after the other is not.
const SUSPENDED_MS: u64 = 50;

/// Runs the rounds.
pub(crate) struct Rounder<M: Machine> {
    pub(crate) raft: Raft<Types, Replica<M>>,
    pub(crate) core: Arc<Core<M>>,
    pub(crate) lead: Arc<Lead>,
    pub(crate) reads: Arc<Reads>,
}

impl Reads {
    pub(crate) fn new(config: &GroupConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            strong: Rounds::default(),
            unhurried: Rounds::default(),
            lease: Rounds::default(),
            for_revisions: AtomicUsize::new(0),
            fresh: Fresh::new(Arc::clone(&clock)),
            reads_max: config.reads_max,
            lease_ms: u64::try_from(config.lease().as_millis()).unwrap_or(u64::MAX),
            trusted: config.lease_trusted(),
            suspended_ms: AtomicU64::new(clock.suspended_ms()),
            clock,
            void_until: AtomicU64::new(0),
        }
    }

    /// What is proven of the state's age.
    pub(crate) fn fresh(&self) -> &Fresh {
        &self.fresh
    }

    /// Trusts no lease for the time of one.
    pub(crate) fn void_leases(&self) {
        let until = self.clock.monotonic().plus(self.lease_ms);
        self.void_until.fetch_max(until.0, Ordering::AcqRel);
    }

    /// Whether a lease may be trusted now. A machine that was suspended has taken no notice of the time: that is looked at for every
    /// read, since whoever watches for it may come later than the first read after it.
    fn trusts_leases(&self) -> bool {
        let suspended_ms = self.clock.suspended_ms();
        let before = self.suspended_ms.swap(suspended_ms, Ordering::AcqRel);
        if suspended_ms.saturating_sub(before) > SUSPENDED_MS {
            self.void_leases();
        }
        self.clock.monotonic() >= MonotonicMs(self.void_until.load(Ordering::Acquire))
    }

    /// Waits until the lead was confirmed after now, and what was committed then is applied here; the index of that.
    pub(crate) async fn confirmed(&self, how: Confirmed, timeout: Duration) -> Ready {
        let rounds = match how {
            Confirmed::Quorum => &self.strong,
            Confirmed::Heartbeat => &self.unhurried,
            Confirmed::Lease if self.trusts_leases() => &self.lease,
            Confirmed::Lease => &self.strong,
        };
        let ready = rounds.join(self.reads_max)?;
        match tokio::time::timeout(timeout, ready).await {
            Ok(ready) => ready.unwrap_or(Err(QueryError::Stopped)),
            Err(_) => Err(QueryError::DeadlineExceeded),
        }
    }

    /// Waits until the state has `revision`.
    pub(crate) async fn revision(
        &self,
        mut revisions: watch::Receiver<Revision>,
        revision: Revision,
        timeout: Duration,
    ) -> Result<(), QueryError> {
        if *revisions.borrow_and_update() >= revision {
            return Ok(());
        }
        let _place = self.place_for_revision()?;
        match tokio::time::timeout(timeout, revisions.wait_for(|reached| *reached >= revision)).await {
            Ok(reached) => reached.map(drop).map_err(|_| QueryError::Stopped),
            Err(_) => Err(QueryError::Behind),
        }
    }

    fn place_for_revision(&self) -> Result<Place<'_>, QueryError> {
        let take = |waiting: usize| (waiting < REVISION_WAITS_MAX).then_some(waiting + 1);
        let taken = self.for_revisions.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.map(|_| Place(&self.for_revisions)).map_err(|_| QueryError::Overloaded)
    }

    /// Lets nobody wait any more.
    pub(crate) fn close(&self) {
        self.strong.close();
        self.unhurried.close();
        self.lease.close();
    }
}

/// Of one that waits; given back when it waits no more, however that ends.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<M: Machine> Rounder<M> {
    /// Runs rounds of all kinds until the reads are closed.
    pub(crate) async fn run(self) {
        let quorum = || LinearizerOption::from(ReadPolicy::ReadIndex);
        let next_heartbeat = || LinearizerOption::new(Some(Duration::ZERO), false);
        let lease = || LinearizerOption::new(Some(self.reads.trusted), true);
        tokio::join!(
            self.rounds(&self.reads.strong, quorum, true),
            self.rounds(&self.reads.unhurried, next_heartbeat, true),
            self.rounds(&self.reads.lease, lease, false)
        );
    }

    async fn rounds(&self, rounds: &Rounds, option: impl Fn() -> LinearizerOption, by_quorum: bool) {
        loop {
            rounds.wake.notified().await;
            let Some(mut reads) = rounds.take() else { return };
            // A round that found no quorum is run again for those who still wait, and whoever has come since joins them:
            // the new round begins after they came.
            while !reads.is_empty() {
                let moment = self.reads.fresh.moment();
                match self.round(option()).await {
                    Some(ready) => {
                        if let (Ok(index), true) = (&ready, by_quorum) {
                            self.reads.fresh.prove(moment, *index, Some(*index));
                        }
                        reads.drain(..).for_each(|read| {
                            let _ = read.send(ready.clone());
                        });
                    }
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
                Some(reached.map(|_| index).map_err(|_| QueryError::Stopped))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::testing::Hands;

    #[test]
    fn the_first_read_after_a_suspension_trusts_no_lease_though_nobody_has_noticed_it_yet() {
        let hands = Arc::new(Hands::default());
        let reads = Reads::new(&GroupConfig::default(), hands.clone());
        hands.awake.store(10_000, Ordering::Relaxed);
        assert!(reads.trusts_leases());
        hands.suspended.store(SUSPENDED_MS, Ordering::Relaxed);
        assert!(reads.trusts_leases(), "two clocks are not read at the same moment");
        hands.suspended.store(4_000, Ordering::Relaxed);
        assert!(!reads.trusts_leases());
        hands.awake.fetch_add(reads.lease_ms - 1, Ordering::Relaxed);
        assert!(!reads.trusts_leases());
        hands.awake.fetch_add(1, Ordering::Relaxed);
        assert!(reads.trusts_leases());
    }
}
