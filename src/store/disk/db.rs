//! One sled database: opening it with distrust, syncing it for real, and telling rot from failure.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::durable;
use crate::store::rules::HeaderError;

/// How an access to sled went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// What was read is not what was written: that replica's end, not the database's.
    Corrupt(String),
    /// What was read can't be made sense of, and this build may be at fault: nobody's end. Were it the replica's, one mistake of
    /// ours would end all replicas of a group, which meet it alike.
    Unclear(String),
    /// It is whole, and of a version that this build doesn't know.
    Version(String),
    /// The database is of no use any more.
    Failed(String),
}

impl Bad {
    pub(super) fn into_text(self) -> String {
        let (Self::Corrupt(what) | Self::Unclear(what) | Self::Version(what) | Self::Failed(what)) = self;
        what
    }
}

impl From<String> for Bad {
    /// What the codec complains of is rot.
    fn from(what: String) -> Self {
        Self::Corrupt(what)
    }
}

impl From<HeaderError> for Bad {
    fn from(error: HeaderError) -> Self {
        match &error {
            HeaderError::Damaged { .. } => Self::Corrupt(error.to_string()),
            HeaderError::Version { .. } => Self::Version(error.to_string()),
        }
    }
}

impl From<sled::Error> for Bad {
    fn from(error: sled::Error) -> Self {
        match &error {
            sled::Error::Corruption { .. } | sled::Error::CollectionNotFound(_) => Self::Corrupt(error.to_string()),
            sled::Error::Io(io) if is_damage(io) => Self::Corrupt(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    let unreadable = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    unreadable || matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// Why a database did not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotOpened {
    /// Its files are damaged.
    Damaged(String),
    /// Another process has it.
    InUse,
    /// The file system said no; nothing is known of the database.
    Io(String),
}

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    db: sled::Db,
    path: PathBuf,
    /// The file that sled writes, to be synced: sled's own flush is not durable.
    file: File,
    blobs_synced: Mutex<BTreeSet<OsString>>,
    failed: Mutex<Option<Failure>>,
}

/// Why a database is used no more.
#[derive(Clone, Debug)]
struct Failure {
    what: String,
    /// sled read what it had not written.
    is_damage: bool,
}

/// How often, and how long apart, a database that another process still has is tried: a node that restarts may find the
/// one before it not quite gone.
const LOCK_TRIES: u32 = 100;
const LOCK_WAIT: Duration = Duration::from_millis(20);

impl Database {
    /// Opens or makes the database at `path`.
    pub(super) fn open(path: &Path, cache_bytes: u64, flush_every_ms: u64) -> Result<Self, NotOpened> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            // sled collects its garbage only in its flusher.
            .flush_every_ms(Some(flush_every_ms.max(1)));
        let mut tries = 0;
        let db = loop {
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
            let error = match opened {
                Ok(Ok(db)) => break db,
                Ok(Err(error)) => error,
                Err(panic) => return Err(NotOpened::Damaged(panic_text(&*panic))),
            };
            match error {
                sled::Error::Io(io) if io.to_string().contains("could not acquire lock") => {
                    tries += 1;
                    if tries >= LOCK_TRIES {
                        return Err(NotOpened::InUse);
                    }
                    std::thread::sleep(LOCK_WAIT);
                }
                sled::Error::Io(io) if !is_damage(&io) => return Err(NotOpened::Io(io.to_string())),
                // Of another version of sled: whole, and not to be moved aside.
                sled::Error::Unsupported(what) => return Err(NotOpened::Io(what)),
                other => return Err(NotOpened::Damaged(other.to_string())),
            }
        };
        Self::settle(db, path)
    }

    /// Makes what opening made durable.
    fn settle(db: sled::Db, path: &Path) -> Result<Self, NotOpened> {
        // What sled's own opening did not look at may be damaged, too.
        let flushed = flushes_durably(&db).map_err(|error| match Bad::from(error) {
            Bad::Corrupt(what) if !durable::has_failed() => NotOpened::Damaged(what),
            bad => NotOpened::Io(bad.into_text()),
        })?;
        if !flushed {
            return Err(NotOpened::Io("this program is linked so that sled's flush is not durable".to_string()));
        }
        let file = Self::sync_files(path).map_err(|e| NotOpened::Io(e.to_string()))?;
        Ok(Self { db, path: path.to_path_buf(), file, blobs_synced: Mutex::default(), failed: Mutex::default() })
    }

    /// All that is in its folder; the file that sled writes.
    fn sync_files(path: &Path) -> io::Result<File> {
        let file = File::options().read(true).write(true).open(path.join("db"))?;
        file.sync_all()?;
        for entry in fs::read_dir(path)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(path)?.sync_all()?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(file)
    }

    pub(super) fn sled(&self) -> &sled::Db {
        &self.db
    }

    fn check(&self) -> Result<(), Bad> {
        match &*self.failed.lock() {
            Some(failure) => Err(Bad::Failed(failure.what.clone())),
            None if durable::has_failed() => Err(Bad::Failed("a sync of sled's log has failed".to_string())),
            None => Ok(()),
        }
    }

    /// Reads. As long as the database as a whole is well, an error is only what was read: a bad sector must not end the process,
    /// which would meet it again, and a panic may be our own.
    pub(super) fn read<T>(&self, call: impl FnOnce() -> Result<T, Bad>) -> Result<T, Bad> {
        self.check()?;
        let read = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(Bad::Unclear(panic_text(&*panic))));
        read.map_err(|bad| {
            // Once a write has failed, sled answers whatever it is asked with that failure.
            let flushed = self.write(|| Ok(self.db.flush()?));
            match (flushed, bad) {
                (Err(failed), _) => failed,
                (Ok(_), Bad::Failed(what)) => Bad::Unclear(what),
                (Ok(_), bad) => bad,
            }
        })
    }

    /// Writes. If it fails, whatever the reason, what the database holds is unknown, and it is used no more.
    pub(super) fn write<T>(&self, call: impl FnOnce() -> Result<T, Bad>) -> Result<T, Bad> {
        self.check()?;
        let done = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(Bad::Failed(panic_text(&*panic))));
        // What sled has not noticed counts all the same.
        let done = done.and_then(|done| self.check().map(|()| done));
        done.map_err(|bad| {
            // After a failed sync what is read back may be anything.
            let is_damage = matches!(bad, Bad::Corrupt(_)) && !durable::has_failed();
            let what = format!("{}: {}", self.path.display(), bad.into_text());
            self.failed.lock().get_or_insert(Failure { what: what.clone(), is_damage });
            Bad::Failed(what)
        })
    }

    /// What was damaged, where that is why it is used no more.
    pub(super) fn damage(&self) -> Option<String> {
        self.failed.lock().as_ref().filter(|failure| failure.is_damage).map(|failure| failure.what.clone())
    }

    /// Makes all that was written durable. Never tried again when it fails: after a failed sync the pages that were not
    /// written count as clean.
    pub(super) fn sync(&self) -> Result<(), Bad> {
        self.write(|| {
            self.db.flush()?;
            self.sync_blobs().and_then(|()| self.file.sync_data()).map_err(|e| Bad::Failed(e.to_string()))
        })
    }

    /// sled never syncs what it writes to files beside its log. Values are kept so short that there are none; should there
    /// be one all the same, it is not relied on unsynced.
    fn sync_blobs(&self) -> io::Result<()> {
        let folder = self.path.join("blobs");
        let mut synced = self.blobs_synced.lock();
        let mut new = false;
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            if !synced.contains(&name) {
                match File::open(folder.join(&name)) {
                    Ok(file) => file.sync_all()?,
                    // sled removes them as it likes.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                }
                synced.insert(name);
                new = true;
            }
        }
        if new { File::open(&folder)?.sync_all() } else { Ok(()) }
    }

    /// Bytes that its files take on the disk.
    pub(super) fn bytes_on_disk(&self) -> io::Result<u64> {
        bytes_on_disk(&self.path)
    }
}

/// Whether sled's flush comes through [`durable`]. Counts how often the database was opened, to have something to flush.
fn flushes_durably(db: &sled::Db) -> Result<bool, sled::Error> {
    if !cfg!(target_os = "linux") {
        return Ok(true);
    }
    let before = durable::calls();
    let opened = db.get(b"opened")?.and_then(|n| n.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes);
    db.insert(b"opened", &opened.wrapping_add(1).to_be_bytes())?;
    db.flush()?;
    Ok(durable::calls() > before)
}

/// Bytes that the files of a folder, and of the folders in it, take on the disk.
pub(super) fn bytes_on_disk(folder: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes += bytes_on_disk(&entry.path())?,
            Ok(meta) => bytes += meta.blocks() * 512,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("sled panicked: {}", text.unwrap_or("without a word"))
}
