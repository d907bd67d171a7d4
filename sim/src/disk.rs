//! A machine's disk: what survives its processes, loses what was not synced, and fails when it is told to.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use playhead::fs::{Fs, LyingFs};
use playhead::node::folder::FolderError;
use playhead::node::surroundings::{Disk, OpenedStore, StoreSizes, Taken};
use playhead::store::{self, CheckpointRecord, MemDisk, MemStore, OnFatal, Space};
use playhead::time::Clock;
use playhead::wal;

/// Why a process has ended by itself.
pub(crate) type Ending = Arc<Mutex<Option<String>>>;

/// Says why the process has to end, unless somebody has before.
fn end(ending: &Ending, why: String) {
    ending.lock().get_or_insert(why);
}

/// The disk of one machine. Clones are the same.
#[derive(Clone)]
pub(crate) struct SimDisk {
    pub(crate) fs: LyingFs,
    pub(crate) store: MemDisk,
    in_use: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
    /// Of the process that has it now.
    ending: Ending,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

#[derive(Debug)]
struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            fs: LyingFs::new(seed),
            store: MemDisk::new(),
            in_use: Arc::default(),
            full: Arc::default(),
            ending: Arc::default(),
        }
    }

    /// As a new process sees it, which says in `ending` that it has to end.
    pub(crate) fn for_process(&self, ending: Ending) -> Self {
        Self { in_use: Arc::default(), ending, ..self.clone() }
    }

    /// The log is gone, as after somebody has put in a new disk for it.
    pub(crate) fn lose_log(&self) -> anyhow::Result<usize> {
        let log = self.fs.folder("log")?;
        let names = log.list()?;
        for name in &names {
            log.remove(name)?;
        }
        log.sync_dir()?;
        Ok(names.len())
    }

    /// The end of the log is gone, up to so many bytes of it, as if syncs had been lied about. Says how many bytes were cut.
    pub(crate) fn lose_tail(&self, bytes: usize) -> anyhow::Result<usize> {
        let mut names = self.fs.folder("log")?.list()?;
        names.sort();
        for name in names.iter().rev().map(|name| format!("log/{name}")) {
            let Some(mut content) = self.fs.content(&name) else { continue };
            let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            // A segment's first batch has all small state.
            let kept = end.saturating_sub(bytes).max(end / 2);
            if kept > 4_096 {
                content[kept..].fill(0);
                self.fs.put(&name, &content);
                return Ok(end - kept);
            }
        }
        Ok(0)
    }

    /// Whether it has little room or none.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The disk has room for `bytes` more than is on it.
    pub(crate) fn fill(&self, bytes: Option<u64>) {
        self.fs.set_capacity(bytes.map(|more| self.fs.used_bytes() + more));
        self.full.store(bytes.is_some(), Ordering::Relaxed);
        let free_bytes = bytes.unwrap_or(u64::MAX);
        self.store.set_space(Space { free_bytes, reserve_bytes: if bytes.is_some() { 1 << 20 } else { 0 } });
    }
}

impl Disk for SimDisk {
    fn take(&self) -> Result<Taken, FolderError> {
        let path = PathBuf::from("data");
        if self.in_use.swap(true, Ordering::Relaxed) {
            return Err(FolderError::InUse { path });
        }
        Ok(Taken { fs: Arc::new(self.fs.clone()), path, lock: Box::new(Held(self.in_use.clone())) })
    }

    /// Small enough that segments are used again, entries are moved and read back, within seconds.
    fn log(&self, usual: wal::Config) -> wal::Config {
        let ending = self.ending.clone();
        wal::Config {
            segment_bytes: 256 << 10,
            replicas_max: 128,
            batch_bytes_max: 64 << 10,
            memory_bytes_max: 128 << 10,
            zeros_ahead_bytes: 16 << 10,
            move_bytes_max: 32 << 10,
            // Now and then one entry is more.
            move_bytes_in_batch: 512,
            spares_max: 1,
            segments_min: 2,
            on_fatal: Arc::new(move |fatal| end(&ending, format!("{fatal}"))),
            ..usual
        }
    }

    fn store(
        &self,
        _: StoreSizes,
        clock: Arc<dyn Clock>,
        known: &[CheckpointRecord],
    ) -> Result<OpenedStore, store::OpenError> {
        let (store, verdicts) = MemStore::open(&self.store, clock, known);
        Ok((Arc::new(store), verdicts))
    }

    fn on_store_failed(&self) -> OnFatal {
        let ending = self.ending.clone();
        Arc::new(move |why| end(&ending, format!("the store has failed: {why}")))
    }
}
