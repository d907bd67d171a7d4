//! The hints on the disk: one file at a time, written front to back, replaced by a shorter one when most of it is of the past.
//!
//! A file begins with all hints that there were when it was made, and gets its name once these are durable: so the newest file is enough.
//! A write that fails says nothing about what is on the disk; nothing more is written to that file, and the next is begun with all
//! that is known.

use std::io;
use std::sync::Arc;

use super::format::{self, Found, HEADER_BYTES, Record};
use crate::fs::{File, Fs};

const NEW: &str = "hints.new";
/// The last file that had something wrong in it.
pub(super) const DAMAGED: &str = "hints.damaged";
/// A file shorter than this is not replaced.
const FILE_BYTES_MIN: u64 = 1 << 20;
/// The longest file that is read. None is longer: a longer one than [`FILE_BYTES_DUE`] takes no more, and is begun with at most
/// [`LIVE_BYTES_MAX`], and a third of that for ages that take more digits since.
const FILE_BYTES_MAX: usize = 1 << 30;
/// A file that is longer is replaced before the next write.
const FILE_BYTES_DUE: u64 = 768 << 20;
/// The most that may wait: the bound of `hints.max_mib`.
pub(super) const LIVE_BYTES_MAX: u64 = 512 << 20;

fn name(file: u64) -> String {
    format!("{file:016x}.hints")
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".hints").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// An open file.
#[derive(Debug)]
struct Open {
    number: u64,
    file: Arc<dyn File>,
    len: u64,
}

/// See the [module](self). All calls block.
#[derive(Debug)]
pub(super) struct Journal {
    fs: Arc<dyn Fs>,
    open: Option<Open>,
    next: u64,
}

/// What was found when the journal was opened.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// All records that could be read, in their order.
    pub(super) records: Vec<Record>,
    /// Places that could not be read, in front of others that could, and files that could not be read at all.
    pub(super) damaged: u64,
    /// Bytes of a last write that was not finished.
    pub(super) torn_bytes: u64,
}

impl Journal {
    /// Reads what is there. Nothing is changed; the first write begins a file. A file that the disk doesn't give, or that is longer than any
    /// that is written, is an error: what was acknowledged may stand in it.
    pub(super) fn open(fs: Arc<dyn Fs>) -> io::Result<(Self, Opened)> {
        let mut files: Vec<u64> = fs.list()?.iter().filter_map(|name| number(name)).collect();
        files.sort_unstable();
        let next = files.last().map_or(1, |last| last + 1);
        let mut opened = Opened::default();
        while let Some(file) = files.pop() {
            let name = name(file);
            let bytes = crate::fs::read_file(&*fs, &name, FILE_BYTES_MAX).map_err(|error| {
                let what = format!("{name} can't be read, and what it keeps would be lost: {error}");
                io::Error::new(error.kind(), what)
            })?;
            // One that is gone since it was listed was replaced by nobody but us.
            let Some(bytes) = bytes else { continue };
            let Found { records, damaged, torn_bytes } = format::read(file, &bytes);
            let is_whole = format::is_header(&bytes, file);
            opened.damaged += damaged + u64::from(!is_whole);
            opened.torn_bytes = torn_bytes;
            opened.records.splice(0..0, records);
            if is_whole {
                break;
            }
        }
        Ok((Self { fs, open: None, next }, opened))
    }

    /// Whether the file should be replaced, with hints of so many bytes in all.
    pub(super) fn is_due(&self, live_bytes: u64) -> bool {
        let due = FILE_BYTES_MIN.max(4 * live_bytes).min(FILE_BYTES_DUE);
        self.open.as_ref().is_none_or(|open| open.len > due)
    }

    /// As if so much more had been written.
    #[cfg(test)]
    pub(super) fn lengthen(&mut self, bytes: u64) {
        self.open.iter_mut().for_each(|open| open.len += bytes);
    }

    /// Appends records that make one batch, durably: after a crash all of them are there, or none. After an error nobody knows whether they are there, and the next write has to be [`Self::replace`].
    pub(super) fn append(&mut self, bodies: &[Vec<u8>]) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Err(io::Error::other("there is no file")) };
        let mut bytes = Vec::with_capacity(bodies.iter().map(|body| body.len() + 16).sum());
        format::write(&mut bytes, open.number, open.len, bodies);
        open.file.write_at(open.len, &bytes)?;
        open.file.fdatasync()?;
        open.len += bytes.len() as u64;
        self.open = Some(open);
        Ok(())
    }

    /// Begins a new file with these records, durably, in place of all that was; `keep`: what was is kept once, as evidence.
    pub(super) fn replace(&mut self, bodies: &[Vec<u8>], keep: bool) -> io::Result<()> {
        let number = self.next;
        self.next += 1;
        self.open = None;
        match self.fs.remove(NEW) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.fs.create(NEW)?;
        let mut bytes = format::header(number);
        debug_assert_eq!(bytes.len(), HEADER_BYTES);
        let mut rest = bodies;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(format::batch(rest));
            format::write(&mut bytes, number, 0, batch);
            rest = after;
        }
        file.write_at(0, &bytes)?;
        file.fdatasync()?;
        self.fs.rename(NEW, &name(number))?;
        self.fs.sync_dir()?;
        for old in self.fs.list()?.iter().filter_map(|name| self::number(name)).filter(|old| *old < number) {
            let gone = if keep { self.fs.rename(&name(old), DAMAGED) } else { self.fs.remove(&name(old)) };
            gone?;
        }
        self.fs.sync_dir()?;
        self.open = Some(Open { number, file, len: bytes.len() as u64 });
        Ok(())
    }
}
