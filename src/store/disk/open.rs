//! Opening with distrust: sled may panic on damaged files, and after a power cut may open empty without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::codec::{ArchiveHeader, CLASS_IMAGE, CLASS_ROW, HEADER, TreeName};
use super::cool::Moved;
use super::db::{Bad, Database, NotOpened};
use super::evidence::Evidence;
use super::tree::{Tree, Writer};
use super::{DiskStore, Inner, Options, Replica, View, Work, rewrite};
use crate::ids::ReplicaId;
use crate::store::rules::{self, Counters, ImageIndex, StoredHeader};
use crate::store::{CheckpointRecord, Header, Retirement, Verdict};
use crate::time::Clock;

/// Why there is no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store is in use by another process")]
    InUse,
    /// Too little room to open it safely.
    #[error("{free_bytes} bytes are free on the store's disk, {needed_bytes} are needed to open it")]
    NoSpace {
        /// On the disk.
        free_bytes: u64,
        /// To open.
        needed_bytes: u64,
    },
    /// The file system said no. Nothing is known of the content.
    #[error("the store cannot be opened: {0}")]
    Io(String),
    /// It was written by another version of this program. Nothing was changed, and nothing is wrong with it.
    #[error("the store can't be read by this version: {0}")]
    Version(String),
    /// A database is damaged, where it may not be replaced by a fresh one (see [`super::rewrite()`]).
    #[error("a database is damaged: {0}")]
    Damaged(String),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// A store, and what it found.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: DiskStore,
    /// Of all replicas that the records or the store know, in the order of their ids.
    pub verdicts: Vec<(ReplicaId, Verdict)>,
}

/// How long after damage was seen it is looked whether it is still there.
const SUSPECTED_WAIT: Duration = Duration::from_secs(1);
/// sled writes a little when it opens.
const OPEN_BYTES: u64 = 16 << 20;

impl DiskStore {
    /// Opens the store, or makes an empty one. `known` are the newest checkpoint records of the log.
    ///
    /// A database that cannot be read is moved aside (`live.damaged`, one of each is kept) and a fresh one begun.
    pub fn open(options: Options, clock: Arc<dyn Clock>, known: &[CheckpointRecord]) -> Result<Opened, OpenError> {
        make_folder(&options.path)?;
        let stat = rustix::fs::statvfs(&options.path).map_err(|e| OpenError::Io(format!("statvfs: {e}")))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free_bytes < OPEN_BYTES {
            return Err(OpenError::NoSpace { free_bytes, needed_bytes: OPEN_BYTES });
        }
        rewrite::clear(&options.path)?;
        let evidence = Evidence::take(&options.path, &["live", "archive"])?;
        let (mut damage, mut suspected) = (Damage::default(), Damage::default());
        let opened = loop {
            match attempt(&options, &clock, known, &mut damage) {
                Ok(opened) => break opened,
                // sled opens databases of which it finds out only later that they are damaged. A disk that was away for a moment
                // looks the same: only what is damaged when it is read anew, too, is taken for it.
                Err(Failed { found, .. }) if damage.is_more(&found) => match suspected.is_more(&found) {
                    true => {
                        std::thread::sleep(SUSPECTED_WAIT);
                        suspected.add(found);
                    }
                    false => damage.set_aside(&options, found)?,
                },
                Err(Failed { error, .. }) => return Err(error),
            }
        };
        if damage.is_none() && opened.verdicts.iter().all(|(_, verdict)| matches!(verdict, Verdict::Sound { .. })) {
            evidence.discard()?;
        }
        Ok(opened)
    }
}

/// What was wrong with the databases, where it was.
#[derive(Debug, Default)]
struct Damage {
    live: Option<String>,
    archive: Option<String>,
}

impl Damage {
    fn of(inner: &Inner) -> Self {
        Self { live: inner.live.damage(), archive: inner.archive.damage() }
    }

    fn is_none(&self) -> bool {
        self.live.is_none() && self.archive.is_none()
    }

    /// Whether a database is damaged that was not moved aside before: a fresh one that is damaged, too, helps nobody.
    fn is_more(&self, found: &Self) -> bool {
        (found.live.is_some() && self.live.is_none()) || (found.archive.is_some() && self.archive.is_none())
    }

    fn add(&mut self, found: Self) {
        self.live = self.live.take().or(found.live);
        self.archive = self.archive.take().or(found.archive);
    }

    fn set_aside(&mut self, options: &Options, found: Self) -> io::Result<()> {
        for (name, known, found) in
            [("live", &mut self.live, found.live), ("archive", &mut self.archive, found.archive)]
        {
            if let (None, Some(what)) = (&known, found) {
                tracing::error!(database = name, %what, "a database is damaged: it is moved aside, and a fresh one begun");
                move_aside(options, name)?;
                *known = Some(what);
            }
        }
        Ok(())
    }
}

/// Why the store did not open, and what is damaged in it. Nothing of it is open any more.
struct Failed {
    error: OpenError,
    found: Damage,
}

impl<E: Into<OpenError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into(), found: Damage::default() }
    }
}

/// Opens both databases and loads all replicas; `damage` is what was found before, and what opening finds.
fn attempt(
    options: &Options,
    clock: &Arc<dyn Clock>,
    known: &[CheckpointRecord],
    damage: &mut Damage,
) -> Result<Opened, Failed> {
    let (live, live_damage) = open_or_replace(options, "live", options.live_cache_bytes)?;
    damage.live = damage.live.take().or(live_damage);
    let (archive, archive_damage) = open_or_replace(options, "archive", options.archive_cache_bytes)?;
    damage.archive = damage.archive.take().or(archive_damage);
    let inner = Inner {
        options: options.clone(),
        clock: clock.clone(),
        live,
        archive,
        replicas: RwLock::default(),
        retired: RwLock::default(),
        unclear: RwLock::default(),
        orphans: Mutex::default(),
        counters: Counters::default(),
    };
    match fill(&inner, known, damage) {
        Ok(verdicts) => Ok(Opened { store: DiskStore { inner: Arc::new(inner) }, verdicts }),
        Err(bad) => Err(Failed { error: failed(bad), found: Damage::of(&inner) }),
    }
}

/// Loads what is there, and judges it by what the log knows.
fn fill(inner: &Inner, known: &[CheckpointRecord], damage: &Damage) -> Result<Vec<(ReplicaId, Verdict)>, Bad> {
    let mut loaded = load_all(inner, damage)?;
    let known: BTreeMap<_, _> = known.iter().map(|record| (record.replica, record)).collect();
    let ids: BTreeSet<_> = loaded.keys().chain(known.keys()).copied().collect();
    let mut verdicts = Vec::new();
    for id in ids {
        let verdict = match loaded.remove(&id) {
            Some(Ok(replica)) => {
                let found = replica.view.read().header.as_ref().map(|header| (header.generation, header.checksum));
                let verdict = rules::judge(found, known.get(&id).copied());
                inner.replicas.write().insert(id, Arc::new(replica));
                verdict
            }
            Some(Err(NotLoaded::Retired(retirement))) => Verdict::Retired(retirement),
            Some(Err(NotLoaded::Unclear(what))) => Verdict::Unclear(what),
            None => match &damage.live {
                Some(damage) => Verdict::Retired(Retirement::DatabaseUnreadable(damage.clone())),
                None => rules::judge(None, known.get(&id).copied()),
            },
        };
        match &verdict {
            Verdict::Retired(reason) => drop(inner.retired.write().insert(id, reason.clone())),
            Verdict::Unclear(what) => drop(inner.unclear.write().insert(id, what.clone())),
            Verdict::Sound { .. } => {}
        }
        verdicts.push((id, verdict));
    }
    inner.live.sync().and_then(|()| inner.archive.sync())?;
    Ok(verdicts)
}

fn failed(bad: Bad) -> OpenError {
    match bad {
        Bad::Version(what) => OpenError::Version(what),
        bad => OpenError::Io(bad.into_text()),
    }
}

/// Makes a folder durably, with those above it.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_folder(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Opens a database; a damaged one is moved aside, and what was wrong with it is told beside the fresh one.
fn open_or_replace(options: &Options, name: &str, cache: u64) -> Result<(Database, Option<String>), OpenError> {
    let path = options.path.join(name);
    let open = || Database::open(&path, cache, options.flush_every_ms);
    match open() {
        Ok(database) => Ok((database, None)),
        Err(NotOpened::InUse) => Err(OpenError::InUse),
        Err(NotOpened::Io(what)) => Err(OpenError::Io(format!("{name}: {what}"))),
        Err(NotOpened::Damaged(what)) => {
            move_aside(options, name)?;
            match open() {
                Ok(database) => Ok((database, Some(what))),
                Err(again) => Err(OpenError::Io(format!("a fresh {name} does not open: {again:?}"))),
            }
        }
    }
}

fn move_aside(options: &Options, name: &str) -> io::Result<()> {
    let aside = options.path.join(format!("{name}.damaged"));
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    fs::rename(options.path.join(name), &aside)?;
    File::open(&options.path)?.sync_all()
}

type Loaded = BTreeMap<ReplicaId, Result<Replica, NotLoaded>>;

/// Why a replica is not served.
enum NotLoaded {
    Retired(Retirement),
    Unclear(String),
}

/// Loads every replica that a pointer names, and sweeps all other trees.
fn load_all(inner: &Inner, damage: &Damage) -> Result<Loaded, Bad> {
    let archive_damage = damage.archive.as_deref();
    let mut loaded = Loaded::new();
    let mut named = BTreeSet::new();
    let pointers = inner.live.read(|| {
        let found: Result<Vec<_>, _> = inner.live.sled().scan_prefix(b"p").collect();
        Ok(found?)
    })?;
    for (key, value) in pointers {
        let id = key.get(1..).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
        let Some(id) = id.map(ReplicaId) else { continue };
        let name = match TreeName::from_pointer(&key, &value) {
            Ok(name) => name,
            Err(what) => {
                loaded.insert(id, Err(NotLoaded::Retired(Retirement::Corrupt(what))));
                continue;
            }
        };
        named.insert(name.text());
        let replica = match inner.live.read(|| load(inner, name, archive_damage)) {
            Ok(loaded) => loaded.map_err(NotLoaded::Retired),
            Err(Bad::Corrupt(what)) => Err(NotLoaded::Retired(Retirement::Corrupt(what))),
            // On damaged files sled may panic as well as say so, but so may a mistake of ours, on every node alike.
            Err(Bad::Unclear(what)) => Err(NotLoaded::Unclear(what)),
            Err(failed) => return Err(failed),
        };
        loaded.insert(id, replica);
    }
    // Where the pointers were lost nobody knows what the archive's trees are for, and a person may want them.
    let swept = if damage.live.is_some() { &[&inner.live][..] } else { &[&inner.live, &inner.archive] };
    for database in swept {
        for tree in database.sled().tree_names() {
            let orphan = TreeName::parse(&tree).filter(|name| !named.contains(&name.text()));
            if orphan.is_some() {
                database.write(|| Ok(database.sled().drop_tree(&tree)?))?;
            }
        }
    }
    Ok(loaded)
}

fn load(inner: &Inner, name: TreeName, archive_damage: Option<&str>) -> Result<Result<Replica, Retirement>, Bad> {
    let text = name.text();
    let present = |database: &Database| database.sled().tree_names().iter().any(|tree| tree == text.as_bytes());
    // Opening makes what is not there: an empty tree has no header, and is found wanting by that.
    let live = Tree { sled: inner.live.sled().open_tree(&text)? };
    let archive = match present(&inner.archive) {
        true => Some(Tree { sled: inner.archive.sled().open_tree(&text)? }),
        false => None,
    };
    let stored = live.get(HEADER)?.and_then(|stored| stored.value);
    let header = stored.as_deref().map(StoredHeader::decode).transpose().map_err(Bad::from)?;
    let mut images = ImageIndex::default();
    for found in live.range(CLASS_IMAGE, Bound::Unbounded) {
        let (key, stored) = found?;
        images.put(&key, stored.value.as_deref());
    }
    let mut pages = ImageIndex::default();
    for found in live.range(CLASS_ROW, Bound::Unbounded) {
        let (label, stored) = found?;
        pages.put(&label, stored.value.as_deref());
    }
    let wanted = header.clone().unwrap_or_default();
    images.matches("images", (wanted.images_digest, wanted.images))?;
    pages.matches("pages of rows", (wanted.rows_digest, wanted.row_pages))?;
    if header.is_some() && wanted.replica.0 != name.replica {
        return Err(Bad::Corrupt(format!("the header is of replica {}", wanted.replica)));
    }
    let mut archive_header = ArchiveHeader::default();
    let mut archive_writer = Writer::default();
    if let Some(archive) = &archive {
        let stored = archive.get(HEADER)?.and_then(|stored| stored.value);
        let decoded = stored.as_deref().map(ArchiveHeader::decode).transpose().map_err(Bad::from)?;
        archive_header = decoded.unwrap_or_default();
        archive_writer = Writer::load(archive)?;
    }
    if archive_header.moves < wanted.archive_moves {
        return Ok(Err(match archive_damage {
            Some(damage) => Retirement::DatabaseUnreadable(damage.to_string()),
            None => Retirement::ArchiveOlder { found: archive_header.moves, relied_on: wanted.archive_moves },
        }));
    }
    let live_writer = Writer::load(&live)?;
    let header = header.zip(stored).map(|(header, stored)| Header {
        generation: header.generation,
        checksum: rules::checksum(&stored),
        bytes: header.bytes,
    });
    // Whether the archive has them is not known: moving them once more does no harm.
    let moved = if pages.digest().1 > 0 { Moved::nothing() } else { Moved::All };
    let moves_synced = archive_header.moves;
    let work = Work { images, pages, live: live_writer, archive: archive_writer, archive_header, moves_synced, moved };
    let view = View { name, live, archive, header, gone: false };
    let id = ReplicaId(name.replica);
    Ok(Ok(Replica { id, work: Mutex::new(work), lease: Mutex::default(), view: RwLock::new(view) }))
}
