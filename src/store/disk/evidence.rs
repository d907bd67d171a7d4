//! A copy of the ends of a database's files, taken before opening it: opening truncates what it cannot read.
//!
//! Kept only when something was found wrong; at most [`KEPT_MAX`] of them, the oldest go first.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Copies that are kept.
const KEPT_MAX: usize = 3;
/// The most bytes that are copied of one file.
const END_BYTES: u64 = 1 << 20;
/// The most files that are copied of one database.
const FILES_MAX: usize = 16;

/// A copy that is kept unless it is discarded.
#[derive(Debug)]
pub(super) struct Evidence {
    folder: Option<PathBuf>,
}

impl Evidence {
    /// Copies the files' ends of the databases in `root` to a new folder under `root/evidence`.
    pub(super) fn take(root: &Path, databases: &[&str]) -> io::Result<Self> {
        let present: Vec<_> = databases.iter().filter(|name| root.join(name).join("db").exists()).collect();
        if present.is_empty() {
            return Ok(Self { folder: None });
        }
        let kept = root.join("evidence");
        fs::create_dir_all(&kept)?;
        let mut numbers = numbered(&kept)?;
        let next = numbers.last().map_or(1, |last| last + 1);
        while numbers.len() >= KEPT_MAX {
            fs::remove_dir_all(kept.join(numbers.remove(0).to_string()))?;
        }
        let folder = kept.join(next.to_string());
        for name in present {
            copy_ends(&root.join(name), &folder.join(name))?;
        }
        Ok(Self { folder: Some(folder) })
    }

    /// Nothing was wrong.
    pub(super) fn discard(self) -> io::Result<()> {
        self.folder.map_or(Ok(()), fs::remove_dir_all)
    }
}

fn numbered(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn copy_ends(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut listing = String::new();
    let mut copied = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let name = entry.file_name();
        listing.push_str(&format!("{} {}\n", meta.len(), name.to_string_lossy()));
        if meta.is_file() && copied < FILES_MAX {
            copied += 1;
            let mut file = File::open(entry.path())?;
            file.seek(SeekFrom::Start(meta.len().saturating_sub(END_BYTES)))?;
            io::copy(&mut file.take(END_BYTES), &mut File::create(to.join(name))?)?;
        }
    }
    File::create(to.join("files.txt"))?.write_all(listing.as_bytes())
}
