//! What rots in a data folder.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::Result;

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Identity,
    Meta,
    Peers,
    Segment,
    TruncatedLog,
    RewoundLog,
    NoLog,
    Live,
    Archive,
}

/// What was done, and how it was before.
pub(crate) struct Done {
    pub(crate) what: String,
    before: Vec<(PathBuf, Vec<u8>)>,
}

impl Done {
    /// As from a copy that somebody kept.
    pub(crate) fn undo(&self) -> Result<()> {
        for (path, bytes) in &self.before {
            fs::write(path, bytes)?;
        }
        Ok(())
    }
}

/// Damages a file of a folder that no process uses.
pub(crate) fn inflict(data: &Path, damage: Damage) -> Result<Done> {
    let (log, store) = (data.join("log"), data.join("store"));
    match damage {
        Damage::Identity => flip(data.join("identity"), usize::MAX),
        Damage::Meta => flip(data.join("meta"), usize::MAX),
        Damage::Peers => flip(data.join("peers"), usize::MAX),
        Damage::Segment => flip(fullest(&log, "seg")?, 1 << 18),
        Damage::Live => flip(store.join("live/db"), 512),
        Damage::Archive => flip(store.join("archive/db"), 512),
        Damage::TruncatedLog => {
            let path = fullest(&log, "seg")?;
            let before = fs::read(&path)?;
            let kept = written(&before) / 2;
            OpenOptions::new().write(true).open(&path)?.set_len(kept as u64)?;
            Ok(Done { what: format!("{kept} bytes kept"), before: vec![(path, before)] })
        }
        // As if the last writes had never come: nothing in the file says that there were more.
        Damage::RewoundLog => {
            let path = newest(&log, "seg")?;
            let before = fs::read(&path)?;
            let mut bytes = before.clone();
            let kept = written(&before) / 2 / 512 * 512;
            bytes[kept..].fill(0);
            fs::write(&path, bytes)?;
            Ok(Done { what: format!("{kept} bytes kept"), before: vec![(path, before)] })
        }
        Damage::NoLog => {
            fs::remove_dir_all(&log)?;
            Ok(Done { what: "no log".into(), before: Vec::new() })
        }
    }
}

/// How much of a file that was made larger beforehand is written.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

/// The file with most in it.
fn fullest(folder: &Path, extension: &str) -> Result<PathBuf> {
    let mut best = None;
    for path in used(folder, extension)? {
        let size = written(&fs::read(&path)?);
        if best.as_ref().is_none_or(|(most, _)| size > *most) {
            best = Some((size, path));
        }
    }
    best.map(|(_, path)| path).ok_or_else(|| format!("no {extension} in {}", folder.display()).into())
}

/// The file with the greatest number that has more in it than its header.
fn newest(folder: &Path, extension: &str) -> Result<PathBuf> {
    let mut found = used(folder, extension)?;
    found.sort();
    let filled = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| written(&bytes) > 4096);
    found.into_iter().rev().find(filled).ok_or_else(|| format!("no {extension} in {}", folder.display()).into())
}

fn used(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let is_spare = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("spare"));
    let paths = paths.collect::<std::io::Result<Vec<_>>>()?.into_iter();
    Ok(paths.filter(|path| !is_spare(path) && path.extension().is_some_and(|e| e == extension)).collect())
}

/// Turns bytes over: the last one that is written, and one in so many before it.
fn flip(path: PathBuf, one_in: usize) -> Result<Done> {
    let bytes = fs::read(&path)?;
    let last = written(&bytes).saturating_sub(1);
    let file = File::options().write(true).open(&path)?;
    let mut flipped = 0;
    let places = std::iter::successors(Some(last), |at| at.checked_sub(one_in));
    for at in places {
        file.write_all_at(&[bytes[at] ^ 0xff], at as u64)?;
        flipped += 1;
    }
    let s = if flipped == 1 { "" } else { "s" };
    Ok(Done { what: format!("{flipped} byte{s}"), before: vec![(path, bytes)] })
}
