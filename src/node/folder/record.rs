//! Small files that are replaced as a whole: what was there stays until the new is durable.
//!
//! ```text
//! 8 bytes  which file this is
//! 4 bytes  format version, big-endian: 1
//! 4 bytes  CRC-32C of the rest, big-endian
//! n bytes  the value, CBOR
//! ```

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

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
    /// What is there is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What doesn't fit.
        reason: String,
    },
}

const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// The most bytes that such a file may have.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Reads a file; `None` when there is none.
pub fn read_record<T>(path: &Path, magic: &[u8; 8]) -> Result<Option<T>, RecordError>
where
    T: for<'b> minicbor::Decode<'b, ()>,
{
    let io = |source| RecordError::Io { path: path.to_path_buf(), source };
    let damaged = |reason: &str| RecordError::Damaged { path: path.to_path_buf(), reason: reason.to_string() };
    let bytes = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > RECORD_BYTES_MAX => return Err(damaged("it is too large")),
        Ok(_) => std::fs::read(path).map_err(io)?,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| damaged("it is too short"))?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..8] != magic[..] {
        return Err(damaged("it is another kind of file"));
    }
    if word(8) != VERSION {
        return Err(damaged(&format!("its format version is {}, this program reads {VERSION}", word(8))));
    }
    if word(12) != crc32c::crc32c(body) {
        return Err(damaged("its checksum doesn't match"));
    }
    minicbor::decode(body).map(Some).map_err(|e| damaged(&e.to_string()))
}

/// Replaces a file, durably.
pub fn write_record<T: minicbor::Encode<()>>(path: &Path, magic: &[u8; 8], value: &T) -> Result<(), RecordError> {
    let body = minicbor::to_vec(value).expect("writing to a vector doesn't fail");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    bytes.extend_from_slice(&body);
    replace(path, &bytes).map_err(|source| RecordError::Io { path: path.to_path_buf(), source })
}

/// Writes beside, syncs, renames over, syncs the folder.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
