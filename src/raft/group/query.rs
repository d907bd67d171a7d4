//! Reading from one replica.

use std::time::Duration;

use super::Group;
use crate::ids::Revision;
use crate::raft::load::{Priority, Why};
use crate::raft::machine::{Machine, MetaMachine, MetaState, Missing, ShardMachine};
use crate::raft::meter::encoded_bytes;
use crate::raft::outcome::{Answered, AsOf, QueryError, ReadMode, Rejected, Role};
use crate::raft::read::Confirmed;
use crate::time::{AwakeOrNotMs, LogicalMs, WallMs};
use crate::view::{Lookup, Query, Reply, Scan, Scanned};

/// How often a query may ask for rows before it is given up.
const LOOKUPS_MAX: usize = 64;

/// The moment of what was read.
struct Seen {
    revision: Revision,
    logical: LogicalMs,
    wall: WallMs,
    /// Everything before it is in what was read.
    proven: Option<AwakeOrNotMs>,
}

impl<M: Machine> Group<M> {
    /// Waits until a local read is as fresh as `mode` asks for.
    pub async fn ready_to_read(&self, mode: ReadMode, timeout: Duration) -> Result<(), QueryError> {
        match mode {
            ReadMode::Any => Ok(()),
            ReadMode::Strong => self.confirmed(Confirmed::Quorum, timeout).await.map(drop),
            ReadMode::Lease => self.confirmed(Confirmed::Lease, timeout).await.map(drop),
            ReadMode::Bounded(age_ms_max) => self.fresh_enough(age_ms_max, timeout).await,
            ReadMode::Session(revision) => self.reached(revision, timeout).await,
        }
    }

    /// The index that a quorum has confirmed after now: everything that was acknowledged before now stands at or below it. Only who
    /// leads knows it. `hurry`: by a round of its own; else by the next heartbeat.
    pub async fn read_index(&self, hurry: bool, timeout: Duration) -> Result<u64, QueryError> {
        self.confirmed(if hurry { Confirmed::Quorum } else { Confirmed::Heartbeat }, timeout).await
    }

    /// The moment for a question after the read index that is asked from now on; see [`Group::prove`].
    pub fn moment(&self) -> AwakeOrNotMs {
        self.inner.reads.fresh().moment()
    }

    /// Takes in what [`Group::read_index`] of who leads has answered to a question that was asked after `moment` of this process.
    pub fn prove(&self, moment: AwakeOrNotMs, index: u64) {
        self.inner.reads.fresh().prove(moment, index, self.applied_index());
    }

    /// Everything that was acknowledged longer ago than this, in milliseconds, is in the state; `None`: there is no proof of any age.
    pub fn age_ms(&self) -> Option<u64> {
        let fresh = self.inner.reads.fresh();
        fresh.proven(self.applied_index()).map(|moment| fresh.age_ms(moment))
    }

    fn applied_index(&self) -> Option<u64> {
        self.inner.core.applied().borrow().log_id.map(|id| id.index)
    }

    async fn confirmed(&self, how: Confirmed, timeout: Duration) -> Result<u64, QueryError> {
        // Waiting is for leaders: whoever follows sends its caller elsewhere at once.
        self.inner.lead.term().map_err(|rejected| match rejected {
            Rejected::NotLeader { leader } => QueryError::NotLeader { leader },
            _ => QueryError::Stopped,
        })?;
        self.inner.reads.confirmed(how, timeout).await
    }

    /// Who leads and has no young proof makes one: a round that begins now.
    async fn fresh_enough(&self, age_ms_max: u64, timeout: Duration) -> Result<(), QueryError> {
        if self.age_ms().is_some_and(|age_ms| age_ms <= age_ms_max) {
            return Ok(());
        }
        match self.confirmed(Confirmed::Quorum, timeout).await {
            Err(QueryError::NotLeader { .. }) => Err(QueryError::NotFresh),
            confirmed => confirmed.map(drop),
        }
    }

    async fn reached(&self, revision: Revision, timeout: Duration) -> Result<(), QueryError> {
        let now = || self.inner.core.look(|machine, _| machine.revision());
        if now() >= revision {
            return Ok(());
        }
        match self.confirmed(Confirmed::Quorum, timeout).await {
            // Everything that was acknowledged is in the state now.
            Ok(_) => Some(now()).filter(|now| *now < revision).map_or(Ok(()), |now| Err(QueryError::NotReached(now))),
            Err(QueryError::NotLeader { .. }) => self.inner.reads.revision(self.revisions(), revision, timeout).await,
            Err(error) => Err(error),
        }
    }

    fn as_of(&self, seen: &Seen) -> AsOf {
        let Seen { revision, logical, wall, proven } = *seen;
        let (role, ..) = self.inner.lead.now();
        let age_ms = proven.map(|moment| self.inner.reads.fresh().age_ms(moment));
        AsOf { revision, logical, wall, replica: self.replica(), role, cut_off: self.is_cut_off(), age_ms }
    }

    /// To be asked before the state is looked at: what is applied later proves nothing of what was read.
    fn proven(&self) -> Option<AwakeOrNotMs> {
        self.inner.reads.fresh().proven(self.applied_index())
    }
}

impl Group<ShardMachine> {
    /// Answers a query as fresh as `mode` asks for, within `timeout`.
    pub async fn query(&self, query: &Query, mode: ReadMode, timeout: Duration) -> Result<Answered<Reply>, QueryError> {
        let deadline = tokio::time::Instant::now() + timeout;
        tokio::time::timeout_at(deadline, self.may_read(query)).await.map_err(|_| QueryError::DeadlineExceeded)??;
        self.ready_to_read(mode, deadline.saturating_duration_since(tokio::time::Instant::now())).await?;
        let answer = tokio::time::timeout_at(deadline, self.look_up(query)).await;
        let answered = answer.map_err(|_| QueryError::DeadlineExceeded)??;
        if answered.as_of.role == Role::Leader {
            self.inner.meter.add(1, encoded_bytes(query) + encoded_bytes(&answered.reply));
        }
        Ok(answered)
    }

    /// Progress before listings: while more comes than can be proposed, what scans is refused before anything was done for it.
    async fn may_read(&self, query: &Query) -> Result<(), QueryError> {
        let (priority, load) = (Priority::of_query(query), &self.inner.parts.load);
        if self.inner.queue.keeps_out(priority) || !load.pacer.read(priority).await {
            load.refused(priority, Why::Queue, 1);
            return Err(QueryError::Overloaded);
        }
        Ok(())
    }

    /// Asks the state until it has all rows that it needs.
    async fn look_up(&self, query: &Query) -> Result<Answered<Reply>, QueryError> {
        let core = &self.inner.core;
        let failed = |e: crate::store::ReadError| QueryError::Failed(e.to_string());
        let mut scanned: Option<(Scan, Scanned)> = None;
        for _ in 0..LOOKUPS_MAX {
            if scanned.is_some() && core.is_installing() {
                scanned = None;
            }
            let proven = self.proven();
            let (lookup, seen) = core.look(|machine, stamp| {
                let state = machine.state();
                let now = self.inner.lead.best_now(state.logical());
                let lookup = match &scanned {
                    Some((scan, rows)) => state.query_scanned(query, now, scan, rows),
                    None => state.query(query, now),
                };
                let seen = Seen { revision: state.revision(), logical: state.logical(), wall: stamp.wall, proven };
                (lookup, seen)
            });
            match lookup {
                Lookup::Ready(reply) => {
                    return Ok(Answered { reply, as_of: self.as_of(&seen) });
                }
                // The state of memory and that of the store belong together again when the snapshot is in.
                Lookup::Missing(_) | Lookup::Scan(_) if core.is_installing() => core.installed().await,
                Lookup::Missing(missing) => {
                    let keys = missing.keys.iter().map(|key| key.as_bytes().to_vec()).collect();
                    let fetched = core.fetch(Missing { fence: missing.fence, keys }).await.map_err(failed)?;
                    core.admit(fetched);
                }
                // A row that this build can't read; the next command about it stops the replica.
                Lookup::Stop(stop) => return Err(QueryError::Failed(stop.to_string())),
                Lookup::Scan(scan) => {
                    let rows = self.scan(&scan).await.map_err(failed)?;
                    scanned = Some((scan, rows));
                }
            }
        }
        // Overtaken by checkpoint after checkpoint: the caller may try again.
        Err(QueryError::Raced)
    }

    async fn scan(&self, scan: &Scan) -> Result<Scanned, crate::store::ReadError> {
        let parts = &self.inner.parts;
        let (mut from, mut found, mut bytes) = (scan.from.clone(), Scanned::default(), 0);
        loop {
            let left = scan.limit - found.rows.len();
            let some = parts.store.scan(parts.replica, from, scan.to.clone(), left).await?;
            bytes += some.rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
            found.rows.extend(some.rows);
            match some.next {
                Some(next) if found.rows.len() < scan.limit && bytes < scan.bytes_enough => from = next,
                next => return Ok(Scanned { complete: next.is_none(), ..found }),
            }
        }
    }
}

impl<S: MetaState> Group<MetaMachine<S>> {
    /// Reads the state as fresh as `mode` asks for, within `timeout`.
    pub async fn read<T>(
        &self,
        mode: ReadMode,
        timeout: Duration,
        look: impl FnOnce(&S) -> T,
    ) -> Result<Answered<T>, QueryError> {
        self.ready_to_read(mode, timeout).await?;
        let proven = self.proven();
        let (reply, seen) = self.inner.core.look(|machine, stamp| {
            let (revision, logical) = (machine.revision(), machine.logical());
            (look(machine.state()), Seen { revision, logical, wall: stamp.wall, proven })
        });
        Ok(Answered { reply, as_of: self.as_of(&seen) })
    }
}
