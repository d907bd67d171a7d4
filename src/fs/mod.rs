//! The file seam: the few file operations that the log and the small node files need.
//!
//! A [`Fs`] is one folder. [`DiskFs`] is a folder on a real disk, [`LyingFs`] one in memory that loses, tears and reorders
//! whatever was not synced, and can be told to fail. Code above the seam cannot tell which one it has, so what is tested is
//! what runs.
//!
//! **Contract.**
//! - What a [`File::fdatasync`] that returned `Ok` covers survives a crash: bytes written before it began, and the length
//!   needed to read them. The *name* of a file survives only after a [`Fs::sync_dir`] that began after the name was made.
//! - A rename is atomic: after a crash a name leads to the old file or to the new one, never to a mixture.
//! - Reads see every write that returned, synced or not.
//! - A failed write or sync says nothing about what is on the disk. It must never be retried on the assumption that the
//!   second success covers the first failure: the kernel may have dropped the pages. Callers end the process.
//!
//! **Caveats.** Names are plain file names (no separators, see [`check_name`]); sub-folders are opened with
//! [`Fs::folder`]. All calls block: none may be made on a runtime thread.

mod disk;
mod lying;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use disk::DiskFs;
pub use lying::{Fault, LyingFs, SECTOR_BYTES};

/// One folder.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Opens an existing file for reading and writing; [`io::ErrorKind::NotFound`] when there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Makes a new, empty file; [`io::ErrorKind::AlreadyExists`] when there is one. Its name is durable after
    /// [`Fs::sync_dir`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name, replacing what had that name. Durable after [`Fs::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after [`Fs::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names of all files (not folders), sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes all names of this folder durable as they are now.
    fn sync_dir(&self) -> io::Result<()>;
    /// A folder in this folder; made, durably, when it isn't there.
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Fs>>;
    /// Where a file of this name is, for people.
    fn place(&self, name: &str) -> PathBuf;
}

/// One open file. Renaming or removing it leaves an open handle as it is.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads into `buf` from `offset` on until it is full or the file ends; returns how many bytes were read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, growing the file when needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Sees to it that the file is at least `len` bytes long and that they have their place on the disk
    /// ([`io::ErrorKind::StorageFull`] otherwise). New bytes read as zero.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Cuts the file to `len` bytes; no effect when it isn't longer.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn fdatasync(&self) -> io::Result<()>;
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The most bytes that a name may have.
pub const NAME_BYTES_MAX: usize = 200;

/// Refuses a name that isn't a plain file name: 1 to 200 of ASCII letters, digits, `.`, `-`, `_`, not starting with a dot.
pub fn check_name(name: &str) -> io::Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not a plain file name: 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . - _, no leading dot"),
        ));
    }
    Ok(())
}

/// Reads a whole file of at most `max` bytes; `Ok(None)` when there is none.
pub fn read_file(fs: &dyn Fs, name: &str, max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match fs.open(name) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if len > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{name} has {len} bytes, at most {max} are accepted"),
        ));
    }
    let mut bytes = vec![0; len];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Replaces the content of a small file atomically and durably: after a crash the file has the old content or the new one,
/// and the new one once this returned. Uses `NAME.new` on the way.
pub fn replace_file(fs: &dyn Fs, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = format!("{name}.new");
    match fs.remove(&new) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let file = fs.create(&new)?;
    file.write_at(0, bytes)?;
    file.fdatasync()?;
    fs.rename(&new, name)?;
    fs.sync_dir()
}
