//! The machine as openraft drives it: apply, checkpoint, snapshot, install.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use super::core::{ApplyError, Cause, Checkpointed, Core};
use super::header::Header;
use super::{Machine, Stop};
use crate::ids::{GroupId, ReplicaId};
use crate::planted::{self, Bug};
use crate::raft::log_store::to_wal;
use crate::raft::types::{CommittedLeader, LogId, Member, SnapshotMeta, StoredMembership, Types};
use crate::store::{Checkpoint, CoolBudget, Exported, Haste, InstallHandle, Pair, StoreHandle, WriteError};
use crate::wal::{CheckpointRecord, Wal};

/// How long to wait before a checkpoint that the store can't take now is tried again.
const BUSY_WAIT: Duration = Duration::from_millis(100);
/// The same while the disk is full.
const FULL_WAIT: Duration = Duration::from_secs(2);
/// How long a snapshot may wait for the folder to say its version, before the replica stops and is opened anew.
const FOLDER_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether it does.
const FOLDER_WAIT: Duration = Duration::from_millis(20);
/// About how many bytes of images are read from the store at a time.
const IMAGES_BYTES: usize = 1 << 20;

/// A snapshot as openraft handles it: not its data, only how to get at it.
pub(crate) enum SnapshotData {
    /// The newest checkpoint of a replica that lives here.
    Local {
        /// Where it is.
        store: StoreHandle,
        /// Whose.
        replica: ReplicaId,
        /// For how long whoever reads it may ask for nothing, in milliseconds.
        lease_ms: u64,
    },
    /// One that came from another replica: all of it is in the store, not yet in the place of what was there.
    Received {
        /// What was put; the lock is only there because openraft shares what it carries.
        install: parking_lot::Mutex<InstallHandle>,
        /// The sender's header.
        header: Header,
    },
}

type SnapshotOf = Snapshot<CommittedLeader, u64, Member, SnapshotData>;

/// openraft's state machine: [`Core`] with the store and the log at hand.
pub(crate) struct Replica<M: Machine> {
    group: GroupId,
    core: Arc<Core<M>>,
    wal: Wal,
    lease_ms: u64,
}

impl<M: Machine> Replica<M> {
    /// The replica around `core`.
    pub(crate) fn new(group: GroupId, core: Arc<Core<M>>, wal: Wal, lease_ms: u64) -> Self {
        Self { group, core, wal, lease_ms }
    }

    fn fail(&self, doing: &'static str, error: &dyn std::error::Error) -> io::Error {
        self.core.note(Cause::Other, format!("{doing}: {error}"));
        tracing::error!(group = %self.group, replica = %self.core.replica, %error, "{doing}: this replica stops");
        io::Error::other(format!("{doing}: {error}"))
    }

    /// Waits until the folder says by which version the snapshot is written: builds that don't speak it are to find that before
    /// they find the snapshot.
    async fn may_be_installed(&self, header: &Header) -> Result<(), Stop> {
        let waiting = async {
            while !self.core.look(|machine, _| machine.may_be_installed(&header.machine))? {
                tokio::time::sleep(FOLDER_WAIT).await;
            }
            Ok(())
        };
        let late = |_| Stop("the data folder doesn't say its version yet".to_string());
        tokio::time::timeout(FOLDER_MAX, waiting).await.map_err(late)?
    }

    async fn install(&mut self, install: InstallHandle, header: Header) -> Result<(), io::Error> {
        let generation = self.core.checkpointed().generation + 1;
        let bytes = header.clone().encode();
        // openraft has cut off by now what contradicts the snapshot. Log and store are synced each for itself: were the snapshot
        // there after a crash and the cut not, the log would contradict it (invariant raft/12).
        self.wal.flush().map_err(io::Error::other)?.await.map_err(io::Error::other)?;
        self.may_be_installed(&header).await.map_err(|e| self.fail("installing a snapshot", &e))?;
        self.core.begin_install();
        let done = install.finish(generation, bytes).await.map_err(|e| self.fail("installing a snapshot", &e))?;
        let applied = header.meta.last_log_id;
        record(&self.wal, self.core.replica, done, applied).await?;
        let template = self.core.look(|machine, _| machine.empty());
        let machine = restore(template, &self.core.store, self.core.replica, header.machine.clone())
            .await
            .map_err(|e| self.fail("restoring a snapshot", &e))?;
        self.core.replace(machine, header, generation);
        Ok(())
    }
}

fn local<M: Machine>(core: &Core<M>, lease_ms: u64) -> SnapshotData {
    SnapshotData::Local { store: core.store.clone(), replica: core.replica, lease_ms }
}

/// Notes in the log that a checkpoint is durable.
async fn record(
    wal: &Wal,
    replica: ReplicaId,
    done: crate::store::Checkpointed,
    applied: Option<LogId>,
) -> io::Result<()> {
    let record =
        CheckpointRecord { generation: done.generation, applied: applied.map(to_wal), checksum: done.checksum };
    wal.checkpoint(replica, record).map_err(io::Error::other)?.await.map_err(io::Error::other)
}

/// The machine out of what the store has: `header` and all images.
pub(crate) async fn restore<M: Machine>(
    template: M,
    store: &StoreHandle,
    replica: ReplicaId,
    header: Vec<u8>,
) -> Result<M, ApplyError> {
    let mut images: Vec<Pair> = Vec::new();
    loop {
        let after = images.last().map(|(key, _)| key.clone());
        let chunk = store.images(replica, after, IMAGES_BYTES).await?;
        let more = chunk.more && !chunk.pairs.is_empty();
        images.extend(chunk.pairs);
        if !more {
            break;
        }
    }
    let restoring = store.apart().blocking(move || template.restore(&header, images));
    Ok(restoring.await.map_err(|e| Stop(format!("restoring panicked: {e}")))??)
}

impl<M: Machine> RaftStateMachine<Types> for Replica<M> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Checkpointer<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.core.applied_state())
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let id = entry.log_id;
            let answers = self.core.apply(entry).await.map_err(|error| {
                let (group, replica) = (self.group, self.core.replica);
                tracing::error!(%group, %replica, index = id.index, %error, "an entry can't be applied: this replica stops");
                io::Error::other(error)
            })?;
            // Only the leader that proposed the entry has somebody waiting.
            if let Some(responder) = responder {
                responder.send(answers);
            }
        }
        // What was still to be applied may be gone from the log, with the replica.
        if self.core.is_closed() {
            return Err(io::Error::other("this replica has ended"));
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Checkpointer<M>> {
        let permit = Arc::clone(&self.core.gate).try_lock_owned().ok().filter(|_| !self.core.is_closed())?;
        let mut inner = self.core.inner.write();
        if !inner.machine.may_be_written() {
            // The folder's file could not be written yet; it is tried until it can be, and so is this.
            return None;
        }
        let rows_bytes = inner.machine.dirty_bytes();
        let frozen = inner.machine.freeze()?;
        inner.frozen_at = inner.marks.total();
        let (purge_upto, trims) = self.core.leaving(&mut inner);
        let meta = SnapshotMeta { last_log_id: inner.applied, last_membership: inner.membership.clone() };
        let next = Checkpointed {
            meta: Some(meta.clone()),
            generation: inner.checkpointed.generation + 1,
            purge_upto: purge_upto.or(inner.checkpointed.purge_upto),
        };
        let stamp = inner.stamp;
        drop(inner);
        self.core.checkpointing.store(true, Ordering::Release);
        self.core.give_way.store(self.core.is_closed(), Ordering::Release);
        Some(Checkpointer {
            group: self.group,
            core: Arc::clone(&self.core),
            wal: self.wal.clone(),
            lease_ms: self.lease_ms,
            work: Some(Work { frozen, rows_bytes, trims, meta, stamp, next }),
            _permit: permit,
        })
    }

    async fn get_snapshot_builder(&mut self) -> Checkpointer<M> {
        loop {
            if let Some(builder) = self.try_create_snapshot_builder(true).await {
                return builder;
            }
            tokio::time::sleep(BUSY_WAIT).await;
        }
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        self.core.give_way.store(true, Ordering::Release);
        let gate = Arc::clone(&self.core.gate);
        let _permit = gate.lock().await;
        if self.core.is_closed() {
            return Err(io::Error::other("this replica has ended"));
        }
        let (install, header) = match snapshot {
            SnapshotData::Received { install, header } => (install.into_inner(), header),
            SnapshotData::Local { store, replica, lease_ms } => {
                copy(&store, replica, lease_ms, &self.core.store, self.core.replica)
                    .await
                    .map_err(|e| self.fail("copying a snapshot", &e))?
            }
        };
        self.install(install, header).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        let meta = self.core.checkpointed().meta;
        Ok(meta.map(|meta| Snapshot { meta, snapshot: local(&self.core, self.lease_ms) }))
    }
}

/// Reads a checkpoint of one replica and puts it, not yet in the place of what is there, before another.
async fn copy(
    from: &StoreHandle,
    replica: ReplicaId,
    lease_ms: u64,
    to: &StoreHandle,
    target: ReplicaId,
) -> Result<(InstallHandle, Header), Stop> {
    let stop = |e: &dyn std::error::Error| Stop(e.to_string());
    let mut export = from.export(replica, lease_ms).await.map_err(|e| stop(&e))?;
    let header = Header::decode(&export.header().bytes)?;
    let mut install = to.begin_install(target).await.map_err(|e| stop(&e))?;
    while let Some(piece) = export.next(IMAGES_BYTES).await.map_err(|e| stop(&e))? {
        let (images, rows) = match piece {
            Exported::Images(images) => (images, Vec::new()),
            Exported::Rows(rows) => (Vec::new(), rows),
        };
        install.put(images, rows).await.map_err(|e| stop(&e))?;
    }
    Ok((install, header))
}

struct Work<F> {
    frozen: F,
    /// About what the rows among it take.
    rows_bytes: usize,
    /// It is there for the log's sake, which needs the room.
    trims: bool,
    meta: SnapshotMeta,
    stamp: crate::time::Stamp,
    next: Checkpointed,
}

/// One checkpoint on its way to the store. What it holds was frozen between two entries.
pub(crate) struct Checkpointer<M: Machine> {
    group: GroupId,
    core: Arc<Core<M>>,
    wal: Wal,
    lease_ms: u64,
    work: Option<Work<M::Frozen>>,
    _permit: tokio::sync::OwnedMutexGuard<()>,
}

impl<M: Machine> Checkpointer<M> {
    /// What was planted: the rows come first, under the header of before.
    async fn torn(&self, whole: Checkpoint) -> Checkpoint {
        let (store, replica) = (&self.core.store, self.core.replica);
        let Ok(Some(before)) = store.header(replica).await else { return whole };
        let first = Checkpoint { header: before.bytes, ..whole.clone() };
        let generation =
            whole.generation + u64::from(store.checkpoint(replica, Arc::new(first), Haste::Patient).await.is_ok());
        Checkpoint { generation, ..whole }
    }

    /// One batch into the store, durable; then a record in the log; only then may the log be purged (invariant raft/5). `None`:
    /// gave way to a snapshot that is to be installed.
    async fn checkpoint(&mut self, work: Work<M::Frozen>) -> io::Result<Option<SnapshotMeta>> {
        let Work { frozen, rows_bytes, trims, meta, stamp, mut next } = work;
        let (of, generation) = (meta.clone(), next.generation);
        let build = self.core.store.apart().blocking(move || {
            let changes = M::changes(&frozen);
            let header = Header { meta: of, stamp, machine: changes.header }.encode();
            Checkpoint { generation, header, images: changes.images, rows: changes.rows }
        });
        let mut checkpoint = build.await.map_err(io::Error::other)?;
        if planted::is(Bug::TornCheckpoint) {
            checkpoint = self.torn(checkpoint).await;
            next.generation = checkpoint.generation;
        }
        let checkpoint = Arc::new(checkpoint);
        let done = loop {
            // Asked anew each time: while it waits for a reader the log may come to need the room.
            let haste = if trims { Haste::Urgent } else { self.core.haste(rows_bytes) };
            let wait = match self.core.store.checkpoint(self.core.replica, Arc::clone(&checkpoint), haste).await {
                Ok(done) => break done,
                Err(WriteError::Busy(_)) => BUSY_WAIT,
                Err(error @ WriteError::NoSpace { .. }) => {
                    tracing::error!(group = %self.group, replica = %self.core.replica, %error, "no room for a checkpoint");
                    FULL_WAIT
                }
                Err(error) => return Err(io::Error::other(error)),
            };
            if self.core.give_way.load(Ordering::Acquire) {
                return Ok(None);
            }
            tokio::time::sleep(wait).await;
        };
        record(&self.wal, self.core.replica, done, meta.last_log_id).await?;
        {
            let mut inner = self.core.inner.write();
            inner.machine.thawed();
            inner.checkpointed = next;
        }
        // Rows that have been quiet move to the archive; the next checkpoint takes them out of live.
        if let Err(error) = self.core.store.cool(self.core.replica, CoolBudget::default()).await {
            tracing::warn!(group = %self.group, replica = %self.core.replica, %error, "rows were not archived");
        }
        Ok(Some(meta))
    }
}

impl<M: Machine> Drop for Checkpointer<M> {
    fn drop(&mut self) {
        self.core.checkpointing.store(false, Ordering::Release);
    }
}

impl<M: Machine> RaftSnapshotBuilder<Types> for Checkpointer<M> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        let work = self.work.take().ok_or_else(|| io::Error::other("a checkpoint is built once"))?;
        let before = self.core.checkpointed().meta;
        match self.checkpoint(work).await {
            Ok(meta) => {
                let meta = meta.or(before).unwrap_or_default();
                Ok(Snapshot { meta, snapshot: local(&self.core, self.lease_ms) })
            }
            Err(error) => {
                let (group, replica) = (self.group, self.core.replica);
                tracing::error!(%group, %replica, %error, "a checkpoint failed: this replica stops");
                self.core.note(Cause::Other, format!("a checkpoint failed: {error}"));
                Err(error)
            }
        }
    }
}
