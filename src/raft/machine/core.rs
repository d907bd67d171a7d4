//! A replica's machine between those who need it: the applier, readers, the prefetcher, the checkpointer.
//!
//! One lock around the machine, never held across a wait. Rows are fetched outside of it; that a checkpoint may have come
//! between is the machine's to see, by the fence that goes with each fetch.

mod apply;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use tokio::sync::{mpsc, watch};

use super::body;
use super::decoded::{Decoded, Piece, Pieces};
use super::digests::Digests;
use super::header::Header;
use super::marks::Marks;
use super::{Machine, Missing, Stop};
use crate::ids::{ReplicaId, Revision};
use crate::raft::log_store::Appending;
use crate::raft::types::{Batch, LogId, SnapshotMeta, StoredMembership};
use crate::store::{Haste, Key, Limits, ReadError, StoreHandle, Value};
use crate::time::{LogicalMs, Stamp};
use crate::wal;

/// Fetched rows that are made resident under the lock before others get a turn.
const TURN_ROWS: usize = 256;
/// A checkpoint waits for a reader of the one before until so many checkpoints' worth of changed rows are in memory.
const HELD_OFF_CHECKPOINTS_MAX: u64 = 32;
/// Fetches that may wait for the prefetcher; more are left to the applier.
const PREFETCHES_MAX: usize = 64;

/// Why an entry could not be applied: this replica ends, and a human has to look.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// Every replica ends here.
    #[error(transparent)]
    Stop(#[from] Stop),
    /// Only this replica ends: its store has failed or lost something.
    #[error("rows can't be read: {0}")]
    Store(#[from] ReadError),
}

impl ApplyError {
    fn cause(&self) -> Cause {
        match self {
            Self::Store(ReadError::Corrupt { .. } | ReadError::Retired { .. }) => Cause::Lost,
            Self::Stop(_) | Self::Store(_) => Cause::Other,
        }
    }
}

/// What kind of reason has stopped a replica, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Anything that other replicas may meet as well, such as a command that this build can't apply, or that isn't known. Never a
    /// reason to give the replica up: all of a group would be given up at the same place.
    Other,
    /// Its own data can't be read now.
    Disk,
    /// Its own data is not what was written: it must not go on.
    Lost,
}

/// What has stopped a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What kind of reason.
    pub cause: Cause,
    /// In words.
    pub why: String,
}

/// How far a replica has applied its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The last applied entry.
    pub(crate) log_id: Option<LogId>,
    /// Commands in the state.
    pub(crate) revision: Revision,
}

/// The newest durable checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checkpointed {
    /// What it covers; `None` before the first.
    pub(crate) meta: Option<SnapshotMeta>,
    /// Its number.
    pub(crate) generation: u64,
    /// The log up to here is not needed any more.
    pub(crate) purge_upto: Option<u64>,
}

pub(super) struct Inner<M> {
    pub(super) machine: M,
    pub(super) stamp: Stamp,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) marks: Marks,
    /// `marks.total()` when the newest checkpoint was begun.
    pub(super) frozen_at: u64,
    pub(super) checkpointed: Checkpointed,
    /// A snapshot takes the store's place: what is read from it now doesn't belong to the machine that is still here.
    pub(super) installing: bool,
    digests: Digests,
}

/// The machine of one replica and what stands around it.
pub(crate) struct Core<M: Machine> {
    pub(super) replica: ReplicaId,
    pub(super) store: StoreHandle,
    pub(super) inner: RwLock<Inner<M>>,
    log_keep_bytes: u64,
    held_off_bytes_max: u64,
    long_entry_bytes: usize,
    /// A checkpoint is under way.
    pub(super) checkpointing: AtomicBool,
    /// Held by whatever changes the replica's content in the store: a checkpoint, or an installation.
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    /// Tells a checkpoint that waits for the store to give way.
    pub(super) give_way: AtomicBool,
    /// The next checkpoint lets go of all of the log that it covers.
    trim: AtomicBool,
    /// The replica has ended: nothing of it changes the store any more.
    closed: AtomicBool,
    /// What has stopped the replica, as far as that was seen here.
    broken: Mutex<Option<Broken>>,
    decoded: Mutex<Decoded<M::Command>>,
    prefetches: mpsc::Sender<Missing<M::Fence>>,
    applied: watch::Sender<Applied>,
    revisions: watch::Sender<Revision>,
}

/// Rows and what the store has for them.
type Fetched<F> = (F, Vec<(Key, Option<Value>)>);

impl<M: Machine> Core<M> {
    /// Around `machine`, which stands at `header` of checkpoint `generation` (`None`: at the beginning). The receiver is for
    /// [`Core::prefetch_all`].
    pub(crate) fn new(
        replica: ReplicaId,
        store: StoreHandle,
        machine: M,
        header: Option<Header>,
        generation: u64,
        config: &crate::raft::GroupConfig,
    ) -> (Arc<Self>, mpsc::Receiver<Missing<M::Fence>>) {
        let (prefetches, fetches) = mpsc::channel(PREFETCHES_MAX);
        let stamp = header.as_ref().map_or_else(Stamp::default, |header| header.stamp);
        let meta = header.map(|header| header.meta);
        let applied = meta.as_ref().and_then(|meta| meta.last_log_id);
        let revision = machine.revision();
        let digests = digests_at(applied, &machine);
        let inner = Inner {
            machine,
            stamp,
            applied,
            membership: meta.as_ref().map(|meta| meta.last_membership.clone()).unwrap_or_default(),
            marks: Marks::default(),
            frozen_at: 0,
            checkpointed: Checkpointed { meta, generation, purge_upto: None },
            installing: false,
            digests,
        };
        let core = Self {
            replica,
            store,
            inner: RwLock::new(inner),
            log_keep_bytes: config.log_keep_bytes,
            held_off_bytes_max: config.checkpoint_log_bytes.saturating_mul(HELD_OFF_CHECKPOINTS_MAX),
            long_entry_bytes: config.long_entry_bytes,
            checkpointing: AtomicBool::new(false),
            gate: Arc::default(),
            give_way: AtomicBool::new(false),
            trim: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            broken: Mutex::new(None),
            decoded: Mutex::new(Decoded::new(config.decoded_bytes_max)),
            prefetches,
            applied: watch::Sender::new(Applied { log_id: applied, revision }),
            revisions: watch::Sender::new(revision),
        };
        (Arc::new(core), fetches)
    }

    /// Notes what stops the replica; the first that is noted stays, unless a later one is worse.
    pub(crate) fn note(&self, cause: Cause, why: impl Into<String>) {
        let mut broken = self.broken.lock();
        if broken.as_ref().is_none_or(|broken| broken.cause < cause) {
            *broken = Some(Broken { cause, why: why.into() });
        }
    }

    /// What has stopped the replica, as far as that was seen here.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.broken.lock().clone()
    }

    /// Waits until nothing of this replica is on its way to the store; nothing will be from then on. A successor under the same
    /// id may then be restored from what is there.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.give_way.store(true, Ordering::Release);
        drop(self.gate.lock().await);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Rows that are read from the store from now on are refused, until [`Core::replace`]: they may be of the new state.
    pub(super) fn begin_install(&self) {
        self.inner.write().installing = true;
    }

    /// Waits until rows of the store belong to the machine.
    pub(crate) async fn installed(&self) {
        let mut applied = self.applied.subscribe();
        while self.inner.read().installing {
            // The sender lives as long as this does.
            let _ = applied.changed().await;
        }
    }

    /// Whether rows that were read by now may be of another state than the machine's.
    pub(crate) fn is_installing(&self) -> bool {
        self.inner.read().installing
    }

    /// Asks for a checkpoint that lets go of all of the log that it covers, and waits for no reader; nor does one that is under way.
    pub(crate) fn trim(&self) {
        self.trim.store(true, Ordering::Release);
    }

    /// Whether such a checkpoint was asked for and not yet begun.
    pub(crate) fn is_to_trim(&self) -> bool {
        self.trim.load(Ordering::Acquire)
    }

    /// The newest checkpoint covers everything: lets go of all of the log without another one.
    pub(crate) fn let_go(&self) {
        let mut inner = self.inner.write();
        let covered = inner.checkpointed.meta.as_ref().and_then(|meta| meta.last_log_id).map(|id| id.index);
        inner.checkpointed.purge_upto = covered.max(inner.checkpointed.purge_upto);
        self.trim.store(false, Ordering::Release);
    }

    /// The log up to there goes with the checkpoint that is begun now; and whether that is what it was asked for.
    pub(super) fn leaving(&self, inner: &mut Inner<M>) -> (Option<u64>, bool) {
        if self.trim.swap(false, Ordering::AcqRel) {
            return (inner.applied.map(|id| id.index), true);
        }
        (inner.marks.leaving(self.log_keep_bytes), false)
    }

    /// What a checkpoint that holds `frozen` bytes of rows does while the one before is being read. The log has a budget, and who holds
    /// back too much of it is asked to trim it; what the state has changed since is in memory, and bounded here.
    pub(super) fn haste(&self, frozen: usize) -> Haste {
        let rows = (frozen + self.inner.read().machine.dirty_bytes()) as u64;
        if self.is_to_trim() || rows > self.held_off_bytes_max { Haste::Urgent } else { Haste::Patient }
    }

    /// Looks at the machine.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&M, Stamp) -> T) -> T {
        let inner = self.inner.read();
        look(&inner.machine, inner.stamp)
    }

    /// The state's digest after the last applied entry, and after some before it.
    pub(crate) fn digests(&self) -> Vec<(u64, u64)> {
        self.inner.read().digests.all()
    }

    /// Asks the machine when it wants a tick.
    pub(crate) fn next_due(&self, now: LogicalMs) -> Option<LogicalMs> {
        self.inner.write().machine.next_due(now)
    }

    /// How far the log is applied, now and from now on.
    pub(crate) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// The newest checkpoint.
    pub(crate) fn checkpointed(&self) -> Checkpointed {
        self.inner.read().checkpointed.clone()
    }

    /// Whether a checkpoint is under way.
    pub(crate) fn is_checkpointing(&self) -> bool {
        self.checkpointing.load(Ordering::Acquire)
    }

    /// Bytes of log applied since the newest checkpoint was begun, and whether anything was applied since.
    pub(crate) fn since_checkpoint(&self) -> (u64, bool) {
        let inner = self.inner.read();
        let covered = inner.checkpointed.meta.as_ref().and_then(|meta| meta.last_log_id);
        let bytes = (inner.marks.total() - inner.frozen_at).max(inner.machine.dirty_bytes() as u64);
        (bytes, inner.applied > covered)
    }

    /// The applied entry and the membership as of it.
    pub(super) fn applied_state(&self) -> (Option<LogId>, StoredMembership) {
        let inner = self.inner.read();
        (inner.applied, inner.membership.clone())
    }

    fn finish(&self, id: LogId, bytes: usize, change: impl FnOnce(&mut Inner<M>)) {
        let revision = {
            let mut inner = self.inner.write();
            change(&mut inner);
            debug_assert!(inner.applied < Some(id), "entries are applied in order, each once");
            inner.applied = Some(id);
            inner.marks.applied(id.index, bytes);
            if let Some(digest) = inner.machine.digest() {
                inner.digests.applied(id.index, digest);
            }
            inner.machine.trim();
            inner.machine.revision()
        };
        self.tell(Some(id), revision);
    }

    fn tell(&self, log_id: Option<LogId>, revision: Revision) {
        self.applied.send_replace(Applied { log_id, revision });
        self.revisions.send_if_modified(|told| std::mem::replace(told, revision) != revision);
    }

    /// The revision, now and whenever it changes.
    pub(crate) fn revisions(&self) -> watch::Receiver<Revision> {
        self.revisions.subscribe()
    }

    /// Reads rows from the store.
    pub(crate) async fn fetch(&self, missing: Missing<M::Fence>) -> Result<Fetched<M::Fence>, ReadError> {
        let mut rows = Vec::with_capacity(missing.keys.len());
        for keys in missing.keys.chunks(Limits::KEYS_A_GET) {
            let values = self.store.get(self.replica, keys.to_vec()).await?;
            rows.extend(keys.iter().cloned().zip(values));
        }
        Ok((missing.fence, rows))
    }

    /// Makes fetched rows resident.
    pub(crate) fn admit(&self, (fence, rows): Fetched<M::Fence>) {
        for some in rows.chunks(TURN_ROWS) {
            let mut inner = self.inner.write();
            inner.admit(fence, some);
            RwLockWriteGuard::unlock_fair(inner);
        }
    }

    /// Has the rows fetched that these commands will need, if there is room for another fetch.
    pub(crate) fn prefetch<'c>(&self, commands: impl IntoIterator<Item = &'c M::Command>) {
        let mut commands = commands.into_iter().filter(|command| M::looks_ahead(command)).peekable();
        if commands.peek().is_none() {
            return;
        }
        let (stamp, first) = {
            let inner = self.inner.read();
            let first =
                commands.by_ref().find_map(|command| inner.machine.missing(inner.stamp, command).ok().flatten());
            (inner.stamp, first)
        };
        let Some(first) = first else { return };
        // What can't be told now stops the replica when it is applied, not here.
        let ahead: Vec<&M::Command> = commands.collect();
        if let Ok(missing) = self.missing_ahead(stamp, first, &ahead) {
            let _ = self.prefetches.try_send(missing);
        }
    }

    /// Fetches what is asked for until nobody can ask any more. A failed read is left to whoever needs the rows.
    pub(crate) async fn prefetch_all(self: Arc<Self>, mut fetches: mpsc::Receiver<Missing<M::Fence>>) {
        while let Some(missing) = fetches.recv().await {
            match self.fetch(missing).await {
                Ok(fetched) => self.admit(fetched),
                Err(error) => tracing::warn!(replica = %self.replica, %error, "rows could not be prefetched"),
            }
        }
    }

    /// Puts `machine` in the place of this one: a snapshot was installed.
    pub(super) fn replace(&self, mut machine: M, header: Header, generation: u64) {
        let applied = header.meta.last_log_id;
        let revision = machine.revision();
        {
            let mut inner = self.inner.write();
            // A read of the old rows may still be on its way: it must not be admitted to the new machine.
            machine.follow(&inner.machine);
            inner.digests = digests_at(applied, &machine);
            inner.machine = machine;
            inner.stamp = header.stamp;
            inner.applied = applied;
            inner.membership = header.meta.last_membership.clone();
            inner.frozen_at = inner.marks.total();
            inner.checkpointed = Checkpointed { meta: Some(header.meta), generation, purge_upto: None };
            inner.installing = false;
        }
        self.decoded.lock().truncate(0);
        self.tell(applied, revision);
    }
}

/// What can be compared of a machine that was just restored.
fn digests_at<M: Machine>(applied: Option<LogId>, machine: &M) -> Digests {
    let mut digests = Digests::default();
    if let (Some(id), Some(digest)) = (applied, machine.digest()) {
        digests.applied(id.index, digest);
    }
    digests
}

impl<M: Machine> Inner<M> {
    fn stamp_of(&self, stamp: Stamp) -> Stamp {
        Stamp { logical: stamp.logical.max(self.machine.logical()).max(self.stamp.logical), wall: stamp.wall }
    }

    fn admit(&mut self, fence: M::Fence, rows: &[(Key, Option<Value>)]) {
        if self.installing {
            return;
        }
        for (key, value) in rows {
            // Refused when a checkpoint came between: then they will be asked for again.
            if !self.machine.admit(fence, key, value.as_deref()) {
                return;
            }
        }
    }
}

impl<M: Machine> Appending for Core<M> {
    fn appending(&self, id: LogId, batch: &mut Batch) {
        let bytes = batch.body.len();
        let proposed = batch.decoded.take().and_then(|decoded| decoded.downcast::<Pieces<M::Command>>().ok());
        let pieces = match proposed {
            // Its rows were asked for when it was proposed.
            Some(pieces) => *pieces,
            None => {
                // A long one is decoded where it is applied.
                if self.is_long(batch) || !self.decoded.lock().has_room(bytes) {
                    return;
                }
                // What can't be decoded stops the replica when it is applied: only then is it committed.
                let Ok(commands) = body::decode::<M>(&batch.body, batch.count) else { return };
                self.prefetch(&commands);
                vec![Piece::all(Arc::new(commands))]
            }
        };
        self.decoded.lock().put(id, bytes, pieces);
    }

    fn truncating(&self, index: u64) {
        self.decoded.lock().truncate(index);
    }

    fn unreadable(&self, error: &wal::ReadError) {
        let cause = match error {
            wal::ReadError::Rot { .. } | wal::ReadError::Distrusted { .. } => Cause::Lost,
            // Of no segment: reading panicked, which other replicas may do as well.
            wal::ReadError::Io { segment: 0, .. } | wal::ReadError::Unknown { .. } => Cause::Other,
            wal::ReadError::Io { .. } => Cause::Disk,
        };
        self.note(cause, error.to_string());
    }
}

#[cfg(test)]
mod tests;
