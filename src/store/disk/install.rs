//! Taking in a snapshot: into new trees, which one pointer makes the replica's.
//!
//! Rows go right into archive pages (they come in order, so the pages are full); only what changes later is live. What was
//! put is synced every now and then, so that a power cut never finds much unsynced.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::codec::{self, ARCHIVE_HEADER_VERSION, ArchiveHeader, CLASS_IMAGE, CLASS_ROW, Change, HEADER, TreeName};
use super::cool::bytes_of;
use super::db::Bad;
use super::tree::{Tree, Writer};
use super::{Inner, Replica, View, Work};
use crate::ids::ReplicaId;
use crate::store::rules::{self, ImageIndex, Lease, StoredHeader, add};
use crate::store::{Checkpoint, Checkpointed, Header, Install, Key, Pair, ReadError, WriteError};

/// Of what is put into either database so many bytes may be unsynced, and the last batch: a sync for each small batch would keep the thread
/// of all writers for longer than writing does. A little less than what pieces add up to.
const UNSYNCED_BYTES_MAX: usize = 448 << 10;

pub(super) struct DiskInstall {
    inner: Arc<Inner>,
    id: ReplicaId,
    name: TreeName,
    live: Tree,
    archive: Tree,
    images: ImageIndex,
    live_writer: Writer,
    archive_writer: Writer,
    header: ArchiveHeader,
    /// Rows that do not fill a page yet.
    rest: Vec<Change>,
    last_row: Option<Key>,
    /// Bytes put since live, and since the archive, were synced.
    unsynced: (usize, usize),
    finished: bool,
}

impl DiskInstall {
    pub(super) fn begin(inner: &Arc<Inner>, id: ReplicaId) -> Result<Self, WriteError> {
        match inner.sound(id) {
            Ok(_) | Err(ReadError::UnknownReplica(_)) => {}
            Err(other) => return Err(other.into()),
        }
        let open = || {
            inner.sweep()?;
            let name = inner.new_name(id);
            let live = inner.live.write(|| Ok(inner.live.sled().open_tree(name.text())?))?;
            let archive = inner.archive.write(|| Ok(inner.archive.sled().open_tree(name.text())?))?;
            Ok((name, Tree { sled: live }, Tree { sled: archive }))
        };
        let (name, live, archive) = open().map_err(|bad| inner.tell_write(id, bad))?;
        Ok(Self {
            inner: Arc::clone(inner),
            id,
            name,
            live,
            archive,
            images: ImageIndex::default(),
            live_writer: Writer::default(),
            archive_writer: Writer::default(),
            header: ArchiveHeader { version: ARCHIVE_HEADER_VERSION, moves: 1, ..ArchiveHeader::default() },
            rest: Vec::new(),
            last_row: None,
            unsynced: (0, 0),
            finished: false,
        })
    }

    fn put_images(&mut self, images: Vec<Pair>) -> Result<(), Bad> {
        if images.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for (key, value) in images {
            self.unsynced.0 += key.len() + value.len();
            self.images.put(&key, Some(&value));
            self.live_writer.put(&mut batch, codec::physical(CLASS_IMAGE, &key), 0, Some(&value));
        }
        self.inner.live.write(|| Ok(self.live.sled.apply_batch(batch)?))?;
        if self.unsynced.0 < UNSYNCED_BYTES_MAX {
            return Ok(());
        }
        self.unsynced.0 = 0;
        self.inner.sync(&self.inner.live)
    }

    /// Packs rows; the last page is held back unless this is the end.
    fn put_rows(&mut self, rows: Vec<Pair>, end: bool) -> Result<(), Bad> {
        self.rest.extend(rows.into_iter().map(|(key, value)| (key, Some(value))));
        let mut pages = codec::divide(std::mem::take(&mut self.rest));
        if !end {
            self.rest = pages.pop().unwrap_or_default();
        }
        let mut batch = sled::Batch::default();
        for page in &pages {
            self.header.rows += page.len() as u64;
            self.header.bytes += bytes_of(page);
            self.unsynced.1 += bytes_of(page) as usize;
            self.header.pages += 1;
            let label = codec::physical(CLASS_ROW, &page[0].0);
            self.archive_writer.put(&mut batch, label, self.header.moves, Some(&codec::encode_page(page)));
        }
        if end {
            let header = self.header.encode();
            self.archive_writer.put(&mut batch, HEADER.to_vec(), self.header.moves, Some(&header));
        } else if pages.is_empty() {
            return Ok(());
        }
        self.inner.archive.write(|| Ok(self.archive.sled.apply_batch(batch)?))?;
        if !end && self.unsynced.1 < UNSYNCED_BYTES_MAX {
            return Ok(());
        }
        self.unsynced.1 = 0;
        self.inner.sync(&self.inner.archive)
    }

    /// The last page, the header, and the pointer: the moment when the snapshot is the replica.
    fn seal(&mut self, generation: u64, header: &[u8]) -> Result<Checkpointed, Bad> {
        self.put_rows(Vec::new(), true)?;
        let images = self.images.header(self.id, generation, header);
        let stored = StoredHeader { archive_moves: self.header.moves, ..images }.encode();
        let mut batch = sled::Batch::default();
        self.live_writer.put(&mut batch, HEADER.to_vec(), generation, Some(&stored));
        let live = &self.inner.live;
        live.write(|| Ok(self.live.sled.apply_batch(batch)?))?;
        self.inner.sync(live)?;
        let (key, value) = self.name.pointer();
        live.write(|| Ok(live.sled().insert(key, value)?))?;
        self.inner.sync(live)?;
        Ok(Checkpointed { generation, checksum: rules::checksum(&stored) })
    }

    /// Makes the new trees what readers see, and drops the old.
    fn switch(&mut self, old: Option<(&Replica, &mut Work)>, header: Header) -> Result<(), Bad> {
        let view = View {
            name: self.name,
            live: self.live.clone(),
            archive: Some(self.archive.clone()),
            header: Some(header),
            gone: false,
        };
        let work = Work {
            images: std::mem::take(&mut self.images),
            live: std::mem::take(&mut self.live_writer),
            archive: std::mem::take(&mut self.archive_writer),
            archive_header: self.header.clone(),
            moves_synced: self.header.moves,
            ..Work::default()
        };
        match old {
            Some((replica, old_work)) => {
                replica.lease.lock().break_off();
                *old_work = work;
                let old = std::mem::replace(&mut *replica.view.write(), view);
                self.inner.drop_trees(&old.name.text())
            }
            None => {
                let lease = Mutex::new(Lease::default());
                let made = Replica { id: self.id, work: Mutex::new(work), lease, view: RwLock::new(view) };
                self.inner.replicas.write().insert(self.id, Arc::new(made));
                Ok(())
            }
        }
    }
}

impl Install for DiskInstall {
    fn put(&mut self, images: Vec<Pair>, rows: Vec<Pair>) -> Result<(), WriteError> {
        rules::check_put(self.id, &images, &rows, self.last_row.as_deref())?;
        let bytes = images.iter().chain(&rows).map(|(key, value)| key.len() + value.len()).sum();
        self.inner.room_for(bytes)?;
        if let Some((key, _)) = rows.last() {
            self.last_row = Some(key.clone());
        }
        let put = self.put_images(images).and_then(|()| self.put_rows(rows, false));
        put.map_err(|bad| self.inner.tell_write(self.id, bad))
    }

    fn finish(mut self: Box<Self>, generation: u64, header: Vec<u8>) -> Result<Checkpointed, WriteError> {
        let inner = Arc::clone(&self.inner);
        let old = match inner.sound(self.id) {
            Ok(old) => Some(old),
            Err(ReadError::UnknownReplica(_)) => None,
            Err(other) => return Err(other.into()),
        };
        let mut work = old.as_ref().map(|old| old.work.lock());
        let last = old.as_ref().and_then(|old| old.view.read().header.as_ref().map(|header| header.generation));
        let checked = Checkpoint { generation, header: header.clone(), ..Checkpoint::default() };
        rules::check_checkpoint(self.id, &checked, last)?;
        let done = self.seal(generation, &header).map_err(|bad| inner.tell_write(self.id, bad))?;
        self.finished = true;
        let header = Header { generation, checksum: done.checksum, bytes: header };
        let old = old.as_deref().zip(work.as_deref_mut());
        self.switch(old, header).map_err(|bad| inner.tell_write(self.id, bad))?;
        add(&inner.counters.installs, 1);
        Ok(done)
    }
}

impl Drop for DiskInstall {
    fn drop(&mut self) {
        // Not here: whoever drops this may be on a thread that must not block.
        if !self.finished {
            self.inner.orphans.lock().push(self.name);
        }
    }
}
