//! A store in memory, for simulations and tests: it loses what was not synced, and fails when it is told to.
//!
//! [`MemDisk`] is what outlives a process; [`MemStore`] is the process's view of it. After [`MemDisk::crash`] the stores that
//! were open answer `Failed` for ever, and a new one is opened on the disk.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::rules::{self, Counters, ImageIndex, Lease, add};
use super::{
    Checkpoint, CheckpointRecord, Checkpointed, Chunk, CoolBudget, Cooled, Export, ExportError, Exported, Haste,
    Header, Install, Key, Limits, Pair, ReadError, ReplicaUsage, Retirement, Scan, Space, Store, Usage, Value, Verdict,
    WriteError,
};
use crate::ids::ReplicaId;
use crate::time::Clock;

/// What the next checkpoint meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing is changed.
    Refused,
    /// It is applied, its sync fails: readers see it, [`MemDisk::crash`] decides whether it is kept.
    Unsynced,
    /// The call panics, and nothing is changed.
    Panics,
}

#[derive(Clone, Debug, Default)]
struct Content {
    header: Option<Header>,
    images: BTreeMap<Key, Value>,
    index: ImageIndex,
    rows: BTreeMap<Key, Value>,
}

impl Content {
    fn apply(&mut self, replica: ReplicaId, new: &Checkpoint) -> Checkpointed {
        for (key, value) in &new.images {
            self.index.put(key, value.as_deref());
            change(&mut self.images, key, value);
        }
        for (key, value) in &new.rows {
            change(&mut self.rows, key, value);
        }
        let checksum = rules::checksum(&self.index.header(replica, new.generation, &new.header).encode());
        self.header = Some(Header { generation: new.generation, checksum, bytes: new.header.clone() });
        Checkpointed { generation: new.generation, checksum }
    }
}

fn change(map: &mut BTreeMap<Key, Value>, key: &Key, value: &Option<Value>) {
    match value {
        Some(value) => map.insert(key.clone(), value.clone()),
        None => map.remove(key),
    };
}

#[derive(Debug, Default)]
struct Replica {
    content: Content,
    /// What a crash may go back to, when the newest checkpoint was not synced.
    synced: Option<Content>,
    lease: Lease,
    retired: Option<Retirement>,
}

#[derive(Debug)]
struct Disk {
    replicas: BTreeMap<ReplicaId, Replica>,
    /// Grows with every crash, so that stores of before it are known.
    life: u64,
    fault: Option<Fault>,
    failed: Option<String>,
    space: Space,
}

/// What outlives a crash. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemDisk {
    disk: Arc<Mutex<Disk>>,
}

impl Default for MemDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemDisk {
    /// An empty disk with ample space.
    pub fn new() -> Self {
        let space = Space { free_bytes: u64::MAX, reserve_bytes: 0 };
        let disk = Disk { replicas: BTreeMap::new(), life: 0, fault: None, failed: None, space };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The process has ended, or the power: stores that are open are of no use any more, and checkpoints that were applied
    /// but not synced are there or gone, as `keep_unsynced` says (both happen).
    pub fn crash(&self, keep_unsynced: bool) {
        let mut disk = self.disk.lock();
        disk.life += 1;
        disk.failed = None;
        disk.fault = None;
        disk.replicas.retain(|_, replica| {
            let synced = replica.synced.take();
            if let (Some(synced), false) = (synced, keep_unsynced) {
                replica.content = synced;
            }
            replica.lease.break_off();
            true
        });
    }

    /// Lets the next checkpoint meet a fault.
    pub fn fail_next(&self, fault: Fault) {
        self.disk.lock().fault = Some(fault);
    }

    /// Sets what [`Store::space`] says.
    pub fn set_space(&self, space: Space) {
        self.disk.lock().space = space;
    }

    /// Loses all of a replica, as a disk does that lied about a sync.
    pub fn lose(&self, replica: ReplicaId) {
        self.disk.lock().replicas.remove(&replica);
    }

    /// Lets a row or an image of a replica rot: found when it is read, or when the store is opened.
    pub fn rot(&self, replica: ReplicaId) {
        if let Some(replica) = self.disk.lock().replicas.get_mut(&replica) {
            replica.retired = Some(Retirement::Corrupt("rotten by request".to_string()));
        }
    }
}

/// A store over a [`MemDisk`].
#[derive(Clone, Debug)]
pub struct MemStore {
    disk: MemDisk,
    life: u64,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
}

impl MemStore {
    /// Opens the disk. `known` are the newest checkpoint records of the log; the verdicts are of all replicas that either
    /// side knows, in the order of their ids.
    pub fn open(
        disk: &MemDisk,
        clock: Arc<dyn Clock>,
        known: &[CheckpointRecord],
    ) -> (Self, Vec<(ReplicaId, Verdict)>) {
        let known: BTreeMap<_, _> = known.iter().map(|record| (record.replica, record)).collect();
        let mut locked = disk.disk.lock();
        for replica in known.keys() {
            locked.replicas.entry(*replica).or_default();
        }
        let mut verdicts = Vec::new();
        for (id, replica) in &mut locked.replicas {
            let found = replica.content.header.as_ref().map(|h| (h.generation, h.checksum));
            let verdict = match &replica.retired {
                Some(reason) => Verdict::Retired(reason.clone()),
                None => rules::judge(found, known.get(id).copied()),
            };
            if let Verdict::Retired(reason) = &verdict {
                replica.retired = Some(reason.clone());
            }
            verdicts.push((*id, verdict));
        }
        let life = locked.life;
        drop(locked);
        (Self { disk: disk.clone(), life, clock, counters: Arc::default() }, verdicts)
    }

    fn with<T>(&self, id: ReplicaId, call: impl FnOnce(&mut Replica) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let mut disk = self.disk.disk.lock();
        let replica = alive(&mut disk, self.life)?.get_mut(&id).ok_or(ReadError::UnknownReplica(id))?;
        sound(id, replica)?;
        call(replica)
    }

    fn checkpoint_one(
        &self,
        disk: &mut Disk,
        id: ReplicaId,
        (new, haste): (&Checkpoint, Haste),
        fault: Option<Fault>,
    ) -> Result<Checkpointed, WriteError> {
        let replica = alive(disk, self.life)?.get_mut(&id).ok_or(ReadError::UnknownReplica(id))?;
        sound(id, replica)?;
        rules::check_checkpoint(id, new, replica.content.header.as_ref().map(|h| h.generation))?;
        if !replica.lease.allows_change(self.clock.monotonic(), haste) {
            add(&self.counters.checkpoints_held_off, 1);
            return Err(WriteError::Busy(id));
        }
        match fault {
            Some(Fault::Refused) => return Err(WriteError::Failed("refused by request".to_string())),
            Some(Fault::Panics) => panic!("panics by request"),
            Some(Fault::Unsynced) => replica.synced = Some(replica.content.clone()),
            None => {}
        }
        let done = replica.content.apply(id, new);
        let bytes = |changes: &[(Key, Option<Value>)]| -> usize {
            changes.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum()
        };
        add(&self.counters.checkpoints, 1);
        add(&self.counters.checkpoint_images, new.images.len());
        add(&self.counters.checkpoint_rows, new.rows.len());
        add(&self.counters.checkpoint_bytes, bytes(&new.images) + bytes(&new.rows));
        Ok(done)
    }
}

fn alive(disk: &mut Disk, life: u64) -> Result<&mut BTreeMap<ReplicaId, Replica>, ReadError> {
    if disk.life != life {
        return Err(ReadError::Failed("the process of this store has ended".to_string()));
    }
    match &disk.failed {
        Some(what) => Err(ReadError::Failed(what.clone())),
        None => Ok(&mut disk.replicas),
    }
}

fn sound(replica: ReplicaId, found: &Replica) -> Result<(), ReadError> {
    match &found.retired {
        Some(reason) => Err(ReadError::Retired { replica, reason: reason.clone() }),
        None => Ok(()),
    }
}

/// The pairs after `from`, about `bytes_max` bytes of them, at most `limit`.
fn chunk(map: &BTreeMap<Key, Value>, from: Bound<&[u8]>, bytes_max: usize) -> Chunk {
    let mut chunk = Chunk::default();
    let mut bytes = 0;
    for (key, value) in map.range::<[u8], _>((from, Bound::Unbounded)) {
        if bytes > 0 && bytes >= bytes_max {
            chunk.more = true;
            break;
        }
        bytes += key.len() + value.len();
        chunk.pairs.push((key.clone(), value.clone()));
    }
    chunk
}

impl Store for MemStore {
    fn create(&self, replica: ReplicaId) -> Result<(), WriteError> {
        let mut disk = self.disk.disk.lock();
        let replicas = alive(&mut disk, self.life)?;
        if let Some(there) = replicas.get(&replica) {
            sound(replica, there)?;
            return Err(WriteError::Exists(replica));
        }
        replicas.insert(replica, Replica::default());
        Ok(())
    }

    fn replicas(&self) -> Vec<ReplicaId> {
        self.disk.disk.lock().replicas.keys().copied().collect()
    }

    fn header(&self, replica: ReplicaId) -> Result<Option<Header>, ReadError> {
        self.with(replica, |replica| Ok(replica.content.header.clone()))
    }

    fn images(&self, replica: ReplicaId, after: Option<&[u8]>, bytes_max: usize) -> Result<Chunk, ReadError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.with(replica, |replica| Ok(chunk(&replica.content.images, from, bytes_max)))
    }

    fn get(&self, replica: ReplicaId, keys: &[Key]) -> Result<Vec<Option<Value>>, ReadError> {
        rules::check_get(keys)?;
        add(&self.counters.gets, keys.len());
        self.with(replica, |replica| Ok(keys.iter().map(|key| replica.content.rows.get(key).cloned()).collect()))
    }

    fn scan(&self, replica: ReplicaId, from: &[u8], to: &[u8], limit: usize) -> Result<Scan, ReadError> {
        add(&self.counters.scans, 1);
        let scan = self.with(replica, |replica| {
            let mut scan =
                Scan { generation: replica.content.header.as_ref().map_or(0, |h| h.generation), ..Scan::default() };
            let mut bytes = 0;
            for (key, value) in replica.content.rows.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
                if !to.is_empty() && key.as_slice() >= to {
                    break;
                }
                if scan.rows.len() >= limit || bytes >= Limits::SCAN_BYTES {
                    scan.next = Some(key.clone());
                    break;
                }
                bytes += key.len() + value.len();
                scan.rows.push((key.clone(), value.clone()));
            }
            Ok(scan)
        })?;
        add(&self.counters.scanned_rows, scan.rows.len());
        Ok(scan)
    }

    fn checkpoint(
        &self,
        checkpoints: Vec<(ReplicaId, Arc<Checkpoint>, Haste)>,
    ) -> Vec<Result<Checkpointed, WriteError>> {
        let mut disk = self.disk.disk.lock();
        let fault = disk.fault.take();
        let group = rules::check_group(checkpoints.len());
        let mut answers: Vec<_> = checkpoints
            .iter()
            .map(|(id, new, haste)| {
                group.clone().and_then(|()| self.checkpoint_one(&mut disk, *id, (new, *haste), fault))
            })
            .collect();
        add(&self.counters.syncs, 1);
        if fault == Some(Fault::Unsynced) {
            let what = "the sync failed by request".to_string();
            disk.failed = Some(what.clone());
            for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                *answer = Err(WriteError::Failed(what.clone()));
            }
        }
        answers
    }

    fn cool(&self, replica: ReplicaId, _budget: CoolBudget) -> Result<Cooled, WriteError> {
        Ok(self.with(replica, |_| Ok(Cooled { done: true, ..Cooled::default() }))?)
    }

    fn begin_install(&self, replica: ReplicaId) -> Result<Box<dyn Install>, WriteError> {
        let mut disk = self.disk.disk.lock();
        if let Some(there) = alive(&mut disk, self.life)?.get(&replica) {
            sound(replica, there)?;
        }
        Ok(Box::new(MemInstall { store: self.clone(), replica, content: Content::default() }))
    }

    fn export(&self, replica: ReplicaId, lease_ms: u64) -> Result<Box<dyn Export>, ExportError> {
        let now = self.clock.monotonic();
        let (header, serial) = self.with(replica, |found| {
            Ok((
                found.content.header.clone(),
                found.content.header.as_ref().and_then(|_| found.lease.take(now, lease_ms)),
            ))
        })?;
        let header = header.ok_or(ExportError::Empty(replica))?;
        let serial = serial.ok_or(ExportError::Busy(replica))?;
        add(&self.counters.exports, 1);
        Ok(Box::new(MemExport { store: self.clone(), replica, header, serial, at: At::Images(None) }))
    }

    fn drop_replica(&self, replica: ReplicaId) -> Result<(), WriteError> {
        alive(&mut self.disk.disk.lock(), self.life)?.remove(&replica);
        Ok(())
    }

    fn usage(&self) -> Result<Usage, ReadError> {
        let mut disk = self.disk.disk.lock();
        let mut usage = Usage::default();
        for (id, replica) in alive(&mut disk, self.life)? {
            let header = replica.content.index.header(*id, 0, b"");
            let rows: usize = replica.content.rows.iter().map(|(k, v)| k.len() + v.len()).sum();
            usage.live_bytes += header.image_bytes + rows as u64;
            let of = ReplicaUsage { images: header.images, image_bytes: header.image_bytes, ..ReplicaUsage::default() };
            usage.replicas.insert(*id, of);
        }
        Ok(usage)
    }

    fn space(&self) -> Result<Space, ReadError> {
        Ok(self.disk.disk.lock().space)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }
}

struct MemInstall {
    store: MemStore,
    replica: ReplicaId,
    content: Content,
}

impl Install for MemInstall {
    fn put(&mut self, images: Vec<Pair>, rows: Vec<Pair>) -> Result<(), WriteError> {
        let last = self.content.rows.last_key_value().map(|(key, _)| key.clone());
        rules::check_put(self.replica, &images, &rows, last.as_deref())?;
        for (key, value) in images {
            self.content.index.put(&key, Some(&value));
            self.content.images.insert(key, value);
        }
        self.content.rows.extend(rows);
        Ok(())
    }

    fn finish(mut self: Box<Self>, generation: u64, header: Vec<u8>) -> Result<Checkpointed, WriteError> {
        let mut disk = self.store.disk.disk.lock();
        let replicas = alive(&mut disk, self.store.life)?;
        if let Some(there) = replicas.get(&self.replica) {
            sound(self.replica, there)?;
        }
        let last = replicas.get(&self.replica).and_then(|there| there.content.header.as_ref()).map(|h| h.generation);
        let new = Checkpoint { generation, header, ..Checkpoint::default() };
        rules::check_checkpoint(self.replica, &new, last)?;
        let done = self.content.apply(self.replica, &new);
        let replica = replicas.entry(self.replica).or_default();
        *replica = Replica { content: self.content, ..Replica::default() };
        add(&self.store.counters.installs, 1);
        Ok(done)
    }
}

enum At {
    Images(Option<Key>),
    Rows(Option<Key>),
    End,
}

struct MemExport {
    store: MemStore,
    replica: ReplicaId,
    header: Header,
    serial: u64,
    at: At,
}

impl Export for MemExport {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next(&mut self, bytes_max: usize) -> Result<Option<Exported>, ExportError> {
        loop {
            let now = self.store.clock.monotonic();
            let (images, after) = match &self.at {
                At::Images(after) => (true, after.as_deref()),
                At::Rows(after) => (false, after.as_deref()),
                At::End => {
                    // All was read before: no checkpoint can spoil it any more.
                    let _ = self.store.with(self.replica, |replica| Ok(replica.lease.goes_on(self.serial, now)));
                    return Ok(None);
                }
            };
            let found = self.store.with(self.replica, |replica| {
                let map = if images { &replica.content.images } else { &replica.content.rows };
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                Ok(replica.lease.goes_on(self.serial, now).then(|| chunk(map, from, bytes_max)))
            })?;
            let Some(found) = found else {
                add(&self.store.counters.exports_broken_off, 1);
                return Err(ExportError::LeaseLost(self.replica));
            };
            let last = found.pairs.last().map(|(key, _)| key.clone());
            self.at = match (images, found.more) {
                (true, true) => At::Images(last),
                (true, false) => At::Rows(None),
                (false, true) => At::Rows(last),
                (false, false) => At::End,
            };
            if !found.pairs.is_empty() {
                return Ok(Some(if images { Exported::Images(found.pairs) } else { Exported::Rows(found.pairs) }));
            }
        }
    }
}

impl Drop for MemExport {
    fn drop(&mut self) {
        // A store that has failed has no lease to give back.
        let _ = self.store.with(self.replica, |replica| {
            replica.lease.release(self.serial);
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::{Rig, TestClock, conformance};

    #[derive(Default)]
    struct MemRig {
        disk: MemDisk,
        clock: Arc<TestClock>,
    }

    impl Rig for MemRig {
        fn open(&mut self, known: &[CheckpointRecord]) -> (Arc<dyn Store>, Vec<(ReplicaId, Verdict)>) {
            self.disk.crash(false);
            let (store, verdicts) = MemStore::open(&self.disk, self.clock.clone(), known);
            (Arc::new(store), verdicts)
        }

        fn clock(&self) -> Arc<TestClock> {
            self.clock.clone()
        }
    }

    conformance!(MemRig::default());

    const A: ReplicaId = ReplicaId(1);

    fn checkpoint(generation: u64) -> Vec<(ReplicaId, Arc<Checkpoint>, Haste)> {
        let rows = vec![(vec![1], Some(generation.to_be_bytes().to_vec()))];
        vec![(A, Arc::new(Checkpoint { generation, rows, ..Checkpoint::default() }), Haste::Patient)]
    }

    fn opened(disk: &MemDisk) -> MemStore {
        MemStore::open(disk, Arc::<TestClock>::default(), &[]).0
    }

    #[test]
    fn what_was_not_synced_is_there_after_a_crash_or_not_as_it_is_told() {
        for keep in [false, true] {
            let disk = MemDisk::new();
            let store = opened(&disk);
            store.create(A).unwrap();
            store.checkpoint(checkpoint(1)).remove(0).unwrap();
            disk.fail_next(Fault::Unsynced);
            assert!(matches!(store.checkpoint(checkpoint(2)).remove(0), Err(WriteError::Failed(_))));
            assert!(matches!(store.header(A), Err(ReadError::Failed(_))));
            disk.crash(keep);
            assert!(matches!(store.header(A), Err(ReadError::Failed(_))));
            let found = opened(&disk).header(A).unwrap().map(|h| h.generation);
            assert_eq!(found, Some(if keep { 2 } else { 1 }));
        }
    }

    #[test]
    fn a_refused_checkpoint_changes_nothing_and_a_lost_replica_is_missed() {
        let disk = MemDisk::new();
        let store = opened(&disk);
        store.create(A).unwrap();
        let done = store.checkpoint(checkpoint(1)).remove(0).unwrap();
        disk.fail_next(Fault::Refused);
        assert!(store.checkpoint(checkpoint(2)).remove(0).is_err());
        assert_eq!(store.header(A).unwrap().map(|h| h.generation), Some(1));
        disk.lose(A);
        let known = CheckpointRecord { replica: A, generation: done.generation, checksum: done.checksum };
        let verdicts = MemStore::open(&disk, Arc::<TestClock>::default(), &[known]).1;
        assert_eq!(verdicts, vec![(A, Verdict::Retired(Retirement::Missing { recorded: 1 }))]);
    }
}
