//! Writing a database anew: how deleted data physically goes, and the last resort against growth.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::db::{Bad, Database, NotOpened, bytes_on_disk};
use super::{OpenError, Options};

/// Copied as one batch.
const BATCH_BYTES: usize = 1 << 20;

/// Writes both databases of a store that is not open into fresh files, which then take their place. Answers the bytes on
/// disk before and after.
///
/// The old files stay until the new ones are complete and synced, so there must be room for both. A crash in between leaves
/// the old database, or the new one, whole; the rest is removed when the store is opened.
pub fn rewrite(options: &Options) -> Result<(u64, u64), OpenError> {
    clear(&options.path)?;
    let (mut before, mut after) = (0, 0);
    for (name, cache) in [("live", options.live_cache_bytes), ("archive", options.archive_cache_bytes)] {
        let path = options.path.join(name);
        if !path.join("db").exists() {
            continue;
        }
        let fresh = options.path.join(format!("{name}.rewrite"));
        before += bytes_on_disk(&path)?;
        room_for(&options.path, bytes_on_disk(&path)?)?;
        copy(&path, &fresh, cache, options.flush_every_ms)?;
        renameat_with(CWD, &fresh, CWD, &path, RenameFlags::EXCHANGE).map_err(io::Error::from)?;
        File::open(&options.path)?.sync_all()?;
        fs::remove_dir_all(&fresh)?;
        after += bytes_on_disk(&path)?;
    }
    Ok((before, after))
}

/// Removes what a rewrite that was cut off has left.
pub(super) fn clear(root: &Path) -> io::Result<()> {
    for name in ["live.rewrite", "archive.rewrite"] {
        match fs::remove_dir_all(root.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn room_for(root: &Path, bytes: u64) -> Result<(), OpenError> {
    let stat = rustix::fs::statvfs(root).map_err(io::Error::from)?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed_bytes = bytes.saturating_add(16 << 20);
    if free_bytes < needed_bytes { Err(OpenError::NoSpace { free_bytes, needed_bytes }) } else { Ok(()) }
}

fn copy(from: &Path, to: &Path, cache: u64, flush_every_ms: u64) -> Result<(), OpenError> {
    let open = |path| {
        Database::open(path, cache, flush_every_ms).map_err(|error| match error {
            NotOpened::InUse => OpenError::InUse,
            NotOpened::Io(what) => OpenError::Io(what),
            NotOpened::Damaged(what) => OpenError::Damaged(what),
        })
    };
    let damaged = |bad| match bad {
        Bad::Corrupt(what) => OpenError::Damaged(what),
        Bad::Version(what) => OpenError::Version(what),
        Bad::Failed(what) | Bad::Unclear(what) => OpenError::Io(what),
    };
    let (old, new) = (open(from)?, open(to)?);
    for name in old.sled().tree_names() {
        let (source, target) =
            (old.read(|| Ok(old.sled().open_tree(&name)?)), new.write(|| Ok(new.sled().open_tree(&name)?)));
        let (source, target) = (source.map_err(damaged)?, target.map_err(damaged)?);
        let mut pairs = source.iter();
        loop {
            let mut batch = sled::Batch::default();
            let mut bytes = 0;
            while bytes < BATCH_BYTES {
                let next = old.read(|| Ok(pairs.next().transpose()?)).map_err(damaged)?;
                let Some((key, value)) = next else { break };
                bytes += key.len() + value.len();
                batch.insert(key, value);
            }
            if bytes == 0 {
                break;
            }
            new.write(|| Ok(target.apply_batch(batch)?)).and_then(|()| new.sync()).map_err(damaged)?;
        }
    }
    new.sync().map_err(damaged)
}
