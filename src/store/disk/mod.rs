//! The store on disk: two sled databases, `live` and `archive`.
//!
//! *live* holds of each replica what its newest checkpoint is made of: header, images, and the rows that it has changed;
//! *archive* holds all rows of before. Rows are packed many to a value. Where what lives long shares a database with what is
//! overwritten, sled's file grows to many times its content; apart both stay flat. Each replica has a tree in each, named by its id and an incarnation; a pointer in live's default tree
//! says which incarnation is the replica. Trees that no pointer names are swept.
//!
//! # Invariants
//!
//! - A checkpoint is exactly one batch of the live tree, then `flush`, then a sync of the file.
//! - A row is in the archive, synced, before it leaves live; it leaves live in the next checkpoint's batch, whose header
//!   names the archive's move that it relies on. So live is read first, then the archive, and nothing needs to be atomic
//!   over both.
//! - Only one thread at a time changes a replica (its `work` lock). Readers share its `view` lock, which is held for writing
//!   only while a batch is applied, not while it is synced.
//! - Locks are taken in the order `work`, `lease`, `view`.
//!
//! # Caveats
//!
//! - While a batch is applied all reads of the process wait: sled has one lock for that.
//! - A page that sled loses without a trace from the middle of an archive tree is not missed. All of live and the archive's
//!   moves are compared when the store is opened; an archived page's own checksum when it is read.
//! - A crash while a tree is dropped may leave its pages behind, unreachable: [`rewrite()`] leaves them out.
//! - What sled deletes is gone for readers, not from the disk. [`rewrite()`] writes a database anew.

mod checkpoint;
mod codec;
mod cool;
mod db;
mod durable;
mod evidence;
mod export;
mod install;
mod open;
mod read;
mod rewrite;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub use open::{OpenError, Opened};
pub use rewrite::rewrite;

use self::codec::{ArchiveHeader, TreeName};
use self::cool::Moved;
use self::db::{Bad, Database};
use self::tree::{Tree, Writer};
use super::rules::{self, Counters, ImageIndex, Lease, add};
use super::{
    Checkpoint, Checkpointed, Chunk, CoolBudget, Cooled, Export, ExportError, Haste, Header, Install, Key, ReadError,
    ReplicaUsage, Retirement, Scan, Space, Store, Usage, Value, WriteError,
};
use crate::ids::ReplicaId;
use crate::time::Clock;

/// How a store on disk is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder; it is made when it is not there.
    pub path: PathBuf,
    /// sled's cache for the live database. Memory runs about 150 MB above.
    pub live_cache_bytes: u64,
    /// sled's cache for the archive.
    pub archive_cache_bytes: u64,
    /// How often sled writes what it has buffered and collects its garbage, in milliseconds: 50 to 500.
    pub flush_every_ms: u64,
    /// Under this many free bytes the owner refuses writes.
    pub reserve_bytes: u64,
}

impl Options {
    /// What a node uses unless it is told otherwise.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            live_cache_bytes: 128 << 20,
            archive_cache_bytes: 64 << 20,
            flush_every_ms: 200,
            reserve_bytes: 1 << 30,
        }
    }
}

/// A store on disk. Clones are the same store.
#[derive(Clone, Debug)]
pub struct DiskStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    clock: Arc<dyn Clock>,
    live: Database,
    archive: Database,
    replicas: RwLock<BTreeMap<ReplicaId, Arc<Replica>>>,
    retired: RwLock<BTreeMap<ReplicaId, Retirement>>,
    /// What could not be made sense of when the store was opened.
    unclear: RwLock<BTreeMap<ReplicaId, String>>,
    /// Trees of installs that were given up; the next install sweeps them.
    orphans: Mutex<Vec<TreeName>>,
    counters: Counters,
}

#[derive(Debug)]
struct Replica {
    id: ReplicaId,
    work: Mutex<Work>,
    lease: Mutex<Lease>,
    view: RwLock<View>,
}

/// What readers need.
#[derive(Debug)]
struct View {
    name: TreeName,
    live: Tree,
    archive: Option<Tree>,
    header: Option<Header>,
    /// Dropped while a reader had found the replica already.
    gone: bool,
}

/// What writers need besides.
#[derive(Debug, Default)]
struct Work {
    images: ImageIndex,
    /// The pages of rows in live, by label.
    pages: ImageIndex,
    live: Writer,
    archive: Writer,
    archive_header: ArchiveHeader,
    /// The last move that is durable.
    moves_synced: u64,
    moved: Moved,
}

impl Inner {
    /// The replica, if it may be used.
    fn sound(&self, id: ReplicaId) -> Result<Arc<Replica>, ReadError> {
        if let Some(reason) = self.retired.read().get(&id) {
            return Err(ReadError::Retired { replica: id, reason: reason.clone() });
        }
        if let Some(what) = self.unclear.read().get(&id) {
            return Err(ReadError::Unclear { replica: id, what: what.clone() });
        }
        self.replicas.read().get(&id).cloned().ok_or(ReadError::UnknownReplica(id))
    }

    /// Says of an access to a replica what it means for it. Rot retires it.
    fn tell(&self, replica: ReplicaId, bad: Bad) -> ReadError {
        match bad {
            Bad::Corrupt(what) => {
                add(&self.counters.corruptions, 1);
                self.retired.write().entry(replica).or_insert_with(|| Retirement::Corrupt(what.clone()));
                ReadError::Corrupt { replica, what }
            }
            Bad::Unclear(what) | Bad::Version(what) => {
                add(&self.counters.unclear, 1);
                ReadError::Unclear { replica, what }
            }
            Bad::Failed(what) => ReadError::Failed(what),
        }
    }

    fn tell_write(&self, replica: ReplicaId, bad: Bad) -> WriteError {
        match bad {
            Bad::Failed(what) => WriteError::Failed(what),
            corrupt => self.tell(replica, corrupt).into(),
        }
    }

    fn sync(&self, database: &Database) -> Result<(), Bad> {
        add(&self.counters.syncs, 1);
        database.sync()
    }

    fn space(&self) -> Result<Space, ReadError> {
        let stat = rustix::fs::statvfs(&self.options.path).map_err(|e| ReadError::Failed(format!("statvfs: {e}")))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(Space { free_bytes, reserve_bytes: self.options.reserve_bytes })
    }

    /// Refuses to begin what may fill the disk to the brim: sled does not open on a full disk. The reserve is there to be
    /// used by checkpoints, so this is far below it.
    fn room_for(&self, bytes: usize) -> Result<(), WriteError> {
        let needed_bytes = (bytes as u64).saturating_mul(3).saturating_add(4 << 20);
        let free_bytes = self.space()?.free_bytes;
        if free_bytes < needed_bytes { Err(WriteError::NoSpace { free_bytes, needed_bytes }) } else { Ok(()) }
    }

    /// Drops the trees of one name, in both databases.
    fn drop_trees(&self, name: &str) -> Result<(), Bad> {
        for database in [&self.live, &self.archive] {
            database.write(|| Ok(database.sled().drop_tree(name)?))?;
        }
        Ok(())
    }

    fn sweep(&self) -> Result<(), Bad> {
        let orphans = std::mem::take(&mut *self.orphans.lock());
        orphans.into_iter().try_for_each(|name| self.drop_trees(&name.text()))
    }

    fn names_of(&self, replica: ReplicaId) -> impl Iterator<Item = TreeName> {
        let names = self.live.sled().tree_names().into_iter().chain(self.archive.sled().tree_names());
        names.filter_map(|name| TreeName::parse(&name)).filter(move |name| name.replica == replica.0)
    }

    /// A name that no tree has.
    fn new_name(&self, replica: ReplicaId) -> TreeName {
        let last = self.names_of(replica).map(|name| name.incarnation).max();
        TreeName { replica: replica.0, incarnation: last.map_or(0, |last| last.wrapping_add(1)) }
    }
}

impl Store for DiskStore {
    fn create(&self, replica: ReplicaId) -> Result<(), WriteError> {
        let inner = &self.inner;
        match inner.sound(replica) {
            Ok(_) => return Err(WriteError::Exists(replica)),
            Err(ReadError::UnknownReplica(_)) => {}
            Err(other) => return Err(other.into()),
        }
        let name = inner.new_name(replica);
        let live = inner.live.write(|| {
            let tree = inner.live.sled().open_tree(name.text())?;
            let (key, value) = name.pointer();
            inner.live.sled().insert(key, value)?;
            Ok(Tree { sled: tree })
        });
        let live = live.map_err(|bad| inner.tell_write(replica, bad))?;
        let view = View { name, live, archive: None, header: None, gone: false };
        let made = Replica { id: replica, work: Mutex::default(), lease: Mutex::default(), view: RwLock::new(view) };
        inner.replicas.write().insert(replica, Arc::new(made));
        Ok(())
    }

    fn replicas(&self) -> Vec<ReplicaId> {
        let mut all: BTreeSet<_> = self.inner.replicas.read().keys().copied().collect();
        all.extend(self.inner.retired.read().keys().copied());
        all.extend(self.inner.unclear.read().keys().copied());
        all.into_iter().collect()
    }

    fn header(&self, replica: ReplicaId) -> Result<Option<Header>, ReadError> {
        Ok(self.inner.sound(replica)?.view.read().header.clone())
    }

    fn images(&self, replica: ReplicaId, after: Option<&[u8]>, bytes_max: usize) -> Result<Chunk, ReadError> {
        self.inner.view(replica, |view| read::images(view, after, bytes_max))
    }

    fn get(&self, replica: ReplicaId, keys: &[Key]) -> Result<Vec<Option<Value>>, ReadError> {
        rules::check_get(keys)?;
        add(&self.inner.counters.gets, keys.len());
        let counters = &self.inner.counters;
        self.inner.view(replica, |view| keys.iter().map(|key| read::get(view, key, counters)).collect())
    }

    fn scan(&self, replica: ReplicaId, from: &[u8], to: &[u8], limit: usize) -> Result<Scan, ReadError> {
        add(&self.inner.counters.scans, 1);
        let bounds = read::Bounds { from, to, limit, bytes_max: super::Limits::SCAN_BYTES };
        let scan = self.inner.view(replica, |view| read::scan(view, bounds))?;
        add(&self.inner.counters.scanned_rows, scan.rows.len());
        Ok(scan)
    }

    fn checkpoint(
        &self,
        checkpoints: Vec<(ReplicaId, Arc<Checkpoint>, Haste)>,
    ) -> Vec<Result<Checkpointed, WriteError>> {
        self.inner.checkpoint(checkpoints)
    }

    fn cool(&self, replica: ReplicaId, budget: CoolBudget) -> Result<Cooled, WriteError> {
        self.inner.cool(replica, budget)
    }

    fn begin_install(&self, replica: ReplicaId) -> Result<Box<dyn Install>, WriteError> {
        Ok(Box::new(install::DiskInstall::begin(&self.inner, replica)?))
    }

    fn export(&self, replica: ReplicaId, lease_ms: u64) -> Result<Box<dyn Export>, ExportError> {
        Ok(Box::new(export::DiskExport::begin(&self.inner, replica, lease_ms)?))
    }

    fn drop_replica(&self, replica: ReplicaId) -> Result<(), WriteError> {
        let inner = &self.inner;
        let dropped = inner.replicas.write().remove(&replica);
        if let Some(dropped) = &dropped {
            // Whoever has found it already is done first.
            let _work = dropped.work.lock();
            dropped.lease.lock().break_off();
            dropped.view.write().gone = true;
        }
        let given_up = inner.retired.write().remove(&replica).is_some();
        let known = inner.unclear.write().remove(&replica).is_some() || given_up || dropped.is_some();
        if known {
            // The pointer first, durably: without it the trees are orphans, whatever becomes of them.
            let pointer = TreeName::pointer_key(replica.0);
            let removed = inner.live.write(|| Ok(inner.live.sled().remove(pointer)?));
            let removed = removed.and_then(|_| inner.sync(&inner.live));
            let swept = removed.and_then(|()| {
                let names: BTreeSet<_> = inner.names_of(replica).map(TreeName::text).collect();
                names.into_iter().try_for_each(|name| inner.drop_trees(&name))
            });
            swept.map_err(|bad| inner.tell_write(replica, bad))?;
        }
        Ok(())
    }

    fn usage(&self) -> Result<Usage, ReadError> {
        let io = |e: std::io::Error| ReadError::Failed(format!("reading the size of files: {e}"));
        let mut usage = Usage {
            live_bytes: self.inner.live.bytes_on_disk().map_err(io)?,
            archive_bytes: self.inner.archive.bytes_on_disk().map_err(io)?,
            replicas: BTreeMap::new(),
        };
        let replicas: Vec<_> = self.inner.replicas.read().values().cloned().collect();
        for replica in replicas {
            let work = replica.work.lock();
            let images = work.images.header(replica.id, 0, b"");
            let of = ReplicaUsage {
                images: images.images,
                image_bytes: images.image_bytes,
                archived_rows: work.archive_header.rows,
                archived_bytes: work.archive_header.bytes,
            };
            usage.replicas.insert(replica.id, of);
        }
        Ok(usage)
    }

    fn space(&self) -> Result<Space, ReadError> {
        self.inner.space()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.inner.counters.list()
    }
}
