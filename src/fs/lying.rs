//! A folder in memory that keeps only what it was made to promise.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::{File, Fs, check_name};

/// What a disk writes in one piece or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What a [`LyingFs`] shall do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The nth write from now on (1 = the next) writes a part, or nothing, and fails.
    Write(u64),
    /// The nth fdatasync from now on fails, and drops some of what it should have made durable for ever.
    Sync(u64),
    /// The nth preallocation from now on fails for want of room.
    Preallocate(u64),
}

/// A folder in memory that loses, tears and reorders at [`LyingFs::crash`] whatever was not synced.
///
/// All of it is decided by the seed. Clones are the same folder. Handles that were open at a crash are dead: they fail.
#[derive(Clone)]
pub struct LyingFs {
    disk: Arc<Mutex<Disk>>,
    /// The path of this folder within the disk: empty, or ending in `/`.
    prefix: String,
}

impl fmt::Debug for LyingFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LyingFs").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

struct Disk {
    rng: StdRng,
    /// Counts crashes: handles of an earlier life are dead.
    life: u64,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    /// Changes of names since the last `sync_dir` of their folder, in order.
    names_pending: Vec<NameChange>,
    /// `None`: without a limit.
    capacity_bytes: Option<u64>,
    writes: u64,
    syncs: u64,
    preallocations: u64,
    fail_write: Option<u64>,
    fail_sync: Option<u64>,
    fail_preallocate: Option<u64>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, inode) => {
                names.insert(name, inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
        }
    }

    fn folder(&self) -> &str {
        let (Self::Create(name, _) | Self::Rename(name, _) | Self::Remove(name)) = self;
        folder_of(name)
    }
}

fn folder_of(name: &str) -> &str {
    name.rfind('/').map_or("", |at| &name[..=at])
}

#[derive(Default)]
struct Inode {
    /// What readers see.
    content: Vec<u8>,
    /// What is on the disk for sure.
    durable: Vec<u8>,
    /// What may or may not be on the disk, in order.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Grow(usize),
    Cut(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                let end = at + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(bytes);
            }
            Self::Grow(len) => content.resize(content.len().max(*len), 0),
            Self::Cut(len) => content.truncate(*len),
        }
    }

    /// This change as the pieces that a disk writes one by one.
    fn sectors(&self) -> Vec<Change> {
        let Self::Write(at, bytes) = self else { return vec![self.clone()] };
        let mut pieces = Vec::new();
        let mut from = 0;
        while from < bytes.len() {
            let sector_end = ((at + from) / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let to = (sector_end - at).min(bytes.len());
            pieces.push(Self::Write(at + from, bytes[from..to].to_vec()));
            from = to;
        }
        pieces
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.content);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Keeps some sectors of what was pending, in some order: what a power cut leaves.
    fn tear(&mut self, rng: &mut StdRng) {
        let mut pieces: Vec<Change> = self.pending.drain(..).flat_map(|change| change.sectors()).collect();
        match rng.random_range(0..4) {
            0 => pieces.clear(),
            1 => {}
            2 => pieces.truncate(rng.random_range(0..=pieces.len())),
            _ => {
                let keep = rng.random_range(0.0..1.0);
                pieces.retain(|_| rng.random_bool(keep));
                pieces.shuffle(rng);
            }
        }
        for piece in pieces {
            piece.apply(&mut self.durable);
        }
        self.content.clone_from(&self.durable);
    }
}

impl LyingFs {
    /// An empty folder on a disk without a limit, whose crashes are decided by `seed`.
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            rng: StdRng::seed_from_u64(seed),
            life: 0,
            next_inode: 1,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            names_pending: Vec::new(),
            capacity_bytes: None,
            writes: 0,
            syncs: 0,
            preallocations: 0,
            fail_write: None,
            fail_sync: None,
            fail_preallocate: None,
        };
        Self { disk: Arc::new(Mutex::new(disk)), prefix: String::new() }
    }

    /// The power goes: of everything that was not synced some is kept, some is lost, some is torn, in any order. Handles
    /// that are open die; the folder can be used again at once.
    pub fn crash(&self) {
        let mut disk = self.disk.lock();
        let disk = &mut *disk;
        disk.life += 1;
        let pending = std::mem::take(&mut disk.names_pending);
        let keep = [0.0, 1.0, disk.rng.random_range(0.0..1.0)][disk.rng.random_range(0..3)];
        for change in pending {
            if disk.rng.random_bool(keep) {
                change.apply(&mut disk.names_durable);
            }
        }
        disk.names.clone_from(&disk.names_durable);
        let alive: std::collections::BTreeSet<u64> = disk.names.values().copied().collect();
        disk.inodes.retain(|inode, _| alive.contains(inode));
        for inode in disk.inodes.values_mut() {
            inode.tear(&mut disk.rng);
        }
        (disk.fail_write, disk.fail_sync, disk.fail_preallocate) = (None, None, None);
    }

    /// The process dies and the machine lives: nothing is lost, nothing becomes durable either. Open handles die;
    /// what was to go wrong is forgotten, as at a crash.
    pub fn kill(&self) {
        let mut disk = self.disk.lock();
        disk.life += 1;
        (disk.fail_write, disk.fail_sync, disk.fail_preallocate) = (None, None, None);
    }

    /// From now on this shall go wrong, once.
    pub fn fail(&self, fault: Fault) {
        let mut disk = self.disk.lock();
        match fault {
            Fault::Write(nth) => disk.fail_write = Some(disk.writes + nth),
            Fault::Sync(nth) => disk.fail_sync = Some(disk.syncs + nth),
            Fault::Preallocate(nth) => disk.fail_preallocate = Some(disk.preallocations + nth),
        }
    }

    /// The disk has room for so many bytes from now on; `None`: without a limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity_bytes = bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.disk.lock().used() as u64
    }

    /// How many fdatasyncs there were.
    pub fn syncs(&self) -> u64 {
        self.disk.lock().syncs
    }

    /// What readers see of a file, for tests that damage it and put it back with [`LyingFs::put`].
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk.lock();
        let inode = disk.names.get(&format!("{}{name}", self.prefix))?;
        Some(disk.inodes.get(inode)?.content.clone())
    }

    /// Gives a file this content, durably; makes the file when there is none.
    pub fn put(&self, name: &str, content: &[u8]) {
        let mut disk = self.disk.lock();
        let path = format!("{}{name}", self.prefix);
        let inode = disk.names.get(&path).copied().unwrap_or(disk.next_inode);
        disk.next_inode = disk.next_inode.max(inode + 1);
        disk.names.insert(path.clone(), inode);
        disk.names_durable.insert(path, inode);
        disk.inodes.insert(inode, Inode { content: content.to_vec(), durable: content.to_vec(), pending: Vec::new() });
    }

    fn path(&self, name: &str) -> io::Result<String> {
        check_name(name)?;
        Ok(format!("{}{name}", self.prefix))
    }

    fn handle(&self, disk: &Disk, inode: u64) -> Arc<dyn File> {
        Arc::new(LyingFile { disk: Arc::clone(&self.disk), inode, life: disk.life })
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such file"))
}

impl Fs for LyingFs {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.path(name)?;
        let disk = self.disk.lock();
        let inode = *disk.names.get(&path).ok_or_else(|| not_found(name))?;
        Ok(self.handle(&disk, inode))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.path(name)?;
        let mut disk = self.disk.lock();
        if disk.names.contains_key(&path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name}: exists")));
        }
        let inode = disk.next_inode;
        disk.next_inode += 1;
        disk.inodes.insert(inode, Inode::default());
        disk.change_names(NameChange::Create(path, inode));
        Ok(self.handle(&disk, inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        let mut disk = self.disk.lock();
        if !disk.names.contains_key(&from) {
            return Err(not_found(&from));
        }
        disk.change_names(NameChange::Rename(from, to));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        let mut disk = self.disk.lock();
        if !disk.names.contains_key(&path) {
            return Err(not_found(name));
        }
        disk.change_names(NameChange::Remove(path));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        let inside = |path: &String| {
            let name = path.strip_prefix(&self.prefix)?;
            (!name.contains('/')).then(|| name.to_string())
        };
        Ok(disk.names.keys().filter_map(inside).collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let disk = &mut *disk;
        let (ours, others) = std::mem::take(&mut disk.names_pending)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.folder() == self.prefix);
        disk.names_pending = others;
        for change in ours {
            change.apply(&mut disk.names_durable);
        }
        Ok(())
    }

    fn folder(&self, name: &str) -> io::Result<Arc<dyn Fs>> {
        let prefix = format!("{}/", self.path(name)?);
        Ok(Arc::new(Self { disk: Arc::clone(&self.disk), prefix }))
    }

    fn place(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}{name}", self.prefix))
    }
}

impl Disk {
    fn change_names(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.names_pending.push(change);
    }

    fn used(&self) -> usize {
        self.names.values().filter_map(|i| self.inodes.get(i)).map(|i| i.content.len()).sum()
    }

    /// Whether the file may grow to `len` bytes.
    fn has_room(&self, inode: u64, len: usize) -> bool {
        let Some(capacity) = self.capacity_bytes else { return true };
        let used = self.used();
        let own = self.inodes.get(&inode).map_or(0, |i| i.content.len());
        (used - own.min(used) + len.max(own)) as u64 <= capacity || len <= own
    }
}

struct LyingFile {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
    life: u64,
}

impl fmt::Debug for LyingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LyingFile").field("inode", &self.inode).finish_non_exhaustive()
    }
}

impl LyingFile {
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.life != self.life || !disk.inodes.contains_key(&self.inode) {
            return Err(io::Error::other("the file was open when the machine went down"));
        }
        act(&mut disk)
    }
}

/// The inode that [`LyingFile::with`] has just seen.
fn inode_of(disk: &mut Disk, inode: u64) -> &mut Inode {
    disk.inodes.get_mut(&inode).expect("checked by with, under the same lock")
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no room on the disk")
}

impl File for LyingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|disk| {
            let content = &inode_of(disk, self.inode).content;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
            let n = buf.len().min(content.len() - from);
            buf[..n].copy_from_slice(&content[from..from + n]);
            Ok(n)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk| {
            disk.writes += 1;
            let at = usize::try_from(offset).map_err(io::Error::other)?;
            let failing = disk.fail_write == Some(disk.writes);
            let n = if failing { disk.rng.random_range(0..=bytes.len()) } else { bytes.len() };
            if !disk.has_room(self.inode, at + n) {
                return Err(full());
            }
            inode_of(disk, self.inode).change(Change::Write(at, bytes[..n].to_vec()));
            if failing { Err(io::Error::other("the disk failed a write, as told")) } else { Ok(()) }
        })
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.with(|disk| {
            disk.preallocations += 1;
            let len = usize::try_from(len).map_err(io::Error::other)?;
            if disk.fail_preallocate == Some(disk.preallocations) || !disk.has_room(self.inode, len) {
                return Err(full());
            }
            let inode = inode_of(disk, self.inode);
            if inode.content.len() < len {
                inode.change(Change::Grow(len));
            }
            Ok(())
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|disk| {
            let len = usize::try_from(len).map_err(io::Error::other)?;
            let inode = inode_of(disk, self.inode);
            if inode.content.len() > len {
                inode.change(Change::Cut(len));
            }
            Ok(())
        })
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.with(|disk| {
            disk.syncs += 1;
            if disk.fail_sync == Some(disk.syncs) {
                let Disk { inodes, rng, .. } = disk;
                let inode = inodes.get_mut(&self.inode).expect("checked by with, under the same lock");
                // The pages are clean now although they never reached the disk: a later success would not cover them.
                inode.pending.retain(|_| rng.random_bool(0.5));
                return Err(io::Error::other("the disk failed a sync, as told"));
            }
            inode_of(disk, self.inode).sync();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|disk| Ok(inode_of(disk, self.inode).content.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_file, replace_file};
    use super::*;

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_be_anything_but_is_cut_at_sectors() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..300 {
            let fs = LyingFs::new(seed);
            let file = fs.create("a").unwrap();
            file.write_at(0, &[1; 2048]).unwrap();
            file.fdatasync().unwrap();
            fs.sync_dir().unwrap();
            file.write_at(1024, &[2; 3000]).unwrap();
            fs.crash();
            assert!(file.len().is_err(), "a handle from before the crash is dead");
            let content = fs.content("a").unwrap();
            assert!(content[..1024].iter().all(|b| *b == 1), "seed {seed}");
            for sector in content[1024..].chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|b| *b == sector[0]), "a sector is one piece, seed {seed}");
            }
            match content[1024..].iter().filter(|b| **b == 2).count() {
                0 => lost += 1,
                3000 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 30 && kept > 30 && torn > 30, "lost {lost}, kept {kept}, torn {torn}");
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_gone() {
        let gone = (0..100).filter(|seed| {
            let fs = LyingFs::new(*seed);
            fs.create("a").unwrap().fdatasync().unwrap();
            fs.crash();
            fs.open("a").is_err()
        });
        assert!((20..80).contains(&gone.count()));
    }

    #[test]
    fn a_replaced_file_is_old_or_new_after_a_crash_at_any_point() {
        for seed in 0..500 {
            let fs = LyingFs::new(seed);
            replace_file(&fs, "node", &[1; 700]).unwrap();
            fs.fail(if seed.is_multiple_of(2) { Fault::Write(1) } else { Fault::Sync(1) });
            assert!(replace_file(&fs, "node", &[2; 700]).is_err());
            fs.crash();
            assert_eq!(read_file(&fs, "node", 1000).unwrap(), Some(vec![1; 700]), "seed {seed}");
            replace_file(&fs, "node", &[2; 700]).unwrap();
            fs.crash();
            assert_eq!(read_file(&fs, "node", 1000).unwrap(), Some(vec![2; 700]), "seed {seed}");
        }
    }

    #[test]
    fn a_full_disk_refuses_to_grow_and_still_lets_files_be_overwritten() {
        let fs = LyingFs::new(1);
        let file = fs.create("a").unwrap();
        fs.set_capacity(Some(4096));
        file.preallocate(4096).unwrap();
        assert_eq!(file.write_at(4090, &[1; 7]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.write_at(4090, &[1; 6]).unwrap();
        let other = fs.create("b").unwrap();
        assert_eq!(other.preallocate(1).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
