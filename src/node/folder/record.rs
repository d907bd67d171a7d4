//! Small files that are replaced as a whole: what was there stays until the new is durable.
//!
//! ```text
//! 8 bytes  which file this is
//! 4 bytes  format version, big-endian: 1; of `identity` 1 or 2
//! 4 bytes  CRC-32C of the rest, big-endian
//! n bytes  the value, CBOR
//! ```

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::fs::{Fs, read_file, replace_file};

/// Why a small file can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// It is whole, and of a version that this build doesn't know.
    #[error(
        "{} has format version {found}, this build knows up to {known}: a newer build wrote it. Nothing was changed; start that build again",
        path.display()
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// What is there is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What doesn't fit.
        reason: String,
    },
}

/// The version of all files but `identity`.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// The most bytes that such a file may have.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Reads a file; `None` when there is none.
pub fn read_record<T>(folder: &dyn Fs, name: &str, magic: &[u8; 8]) -> Result<Option<T>, RecordError>
where
    T: for<'b> minicbor::Decode<'b, ()>,
{
    read_up_to(folder, name, magic, VERSION)
}

/// Reads a file of a version up to `known`; `None` when there is none.
pub(super) fn read_up_to<T>(folder: &dyn Fs, name: &str, magic: &[u8; 8], known: u32) -> Result<Option<T>, RecordError>
where
    T: for<'b> minicbor::Decode<'b, ()>,
{
    let path = || folder.place(name);
    let damaged = |reason: &str| RecordError::Damaged { path: path(), reason: reason.to_string() };
    let bytes = match read_file(folder, name, RECORD_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(e) if e.kind() == ErrorKind::InvalidData => return Err(damaged("it is too large")),
        Err(source) => return Err(RecordError::Io { path: path(), source }),
    };
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| damaged("it is too short"))?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..8] != magic[..] {
        return Err(damaged("it is another kind of file"));
    }
    match word(8) {
        0 => return Err(damaged("its format version is 0")),
        found if found > known => return Err(RecordError::TooNew { path: path(), found, known }),
        _ => {}
    }
    if word(12) != crc32c::crc32c(body) {
        return Err(damaged("its checksum doesn't match"));
    }
    minicbor::decode(body).map(Some).map_err(|e| damaged(&e.to_string()))
}

/// Replaces a file, durably.
pub fn write_record<T: minicbor::Encode<()>>(
    folder: &dyn Fs,
    name: &str,
    magic: &[u8; 8],
    value: &T,
) -> Result<(), RecordError> {
    write_as(folder, name, magic, VERSION, value)
}

/// Replaces a file by one of this version, durably.
pub(super) fn write_as<T: minicbor::Encode<()>>(
    folder: &dyn Fs,
    name: &str,
    magic: &[u8; 8],
    version: u32,
    value: &T,
) -> Result<(), RecordError> {
    let body = minicbor::to_vec(value).expect("writing to a vector doesn't fail");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    bytes.extend_from_slice(&body);
    replace_file(folder, name, &bytes).map_err(|source| RecordError::Io { path: folder.place(name), source })
}
