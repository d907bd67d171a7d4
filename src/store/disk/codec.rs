//! Bytes on disk: physical keys, stored values, archive pages.
//!
//! A tree's keys begin with a class byte: 1 the header (that byte is all of its key), 2 images, 3 pages of rows, 4 pieces of
//! values that are too long. A stored value begins with a head of 13 bytes:
//!
//! ```text
//! kind u8 | changed at u64 | crc32c u32 | 1 tombstone: nothing
//!                                       | 2 inline:    the value
//!                                       | 3 in pieces: length u32, pieces u16
//! ```
//!
//! Numbers are big-endian. The checksum is over the physical key, kind, changed at and the whole value, so that a value that
//! turns up under another key is found out. Piece `n` of a value lies at `4 | physical key | n u16`.
//!
//! **Why pieces**: sled writes a node (up to 20 entries) of more than 128 KiB to a file of its own, which it never syncs.
//! With at most 5 KiB a value and 1 KiB a key no node gets that long.
//!
//! A page is a stored value whose bytes are its rows in key order, each as `shared u16 | rest u16 | value u32 | rest of the
//! key | value`: `shared` bytes are those of the key before it, and a value of 2^32-1 is a tombstone (in live only). The
//! page's own key is not greater than that of its first row, and greater than all of the page before.

use crate::store::rules::{self, HeaderError};
use crate::store::{Key, Value};

/// A row, or the tombstone of one.
pub(super) type Change = (Key, Option<Value>);

const TOMBSTONE: u32 = u32::MAX;

pub(super) const HEADER: &[u8] = &[1];
pub(super) const CLASS_IMAGE: u8 = 2;
pub(super) const CLASS_ROW: u8 = 3;
pub(super) const CLASS_PIECE: u8 = 4;

/// A value that is longer is cut in pieces.
pub(super) const INLINE_BYTES_MAX: usize = 5 * 1024;
/// All pieces but the last have this length.
pub(super) const PIECE_BYTES: usize = 4 * 1024;
/// A page's rows are divided anew when they have more bytes than this.
pub(super) const PAGE_BYTES_MAX: usize = 4 * 1024;

const HEAD_BYTES: usize = 13;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Tombstone = 1,
    Inline = 2,
    Pieces = 3,
}

/// What lies under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The generation of the checkpoint that wrote it; in the archive the number of the move.
    pub(super) changed_at: u64,
    /// `None` for a tombstone.
    pub(super) value: Option<Value>,
}

/// A stored value, as bytes.
pub(super) struct Encoded {
    pub(super) value: Vec<u8>,
    pub(super) pieces: Vec<Vec<u8>>,
}

pub(super) fn physical(class: u8, key: &[u8]) -> Vec<u8> {
    let mut physical = Vec::with_capacity(key.len() + 1);
    physical.push(class);
    physical.extend_from_slice(key);
    physical
}

pub(super) fn piece_key(physical: &[u8], n: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(physical.len() + 3);
    key.push(CLASS_PIECE);
    key.extend_from_slice(physical);
    key.extend_from_slice(&n.to_be_bytes());
    key
}

/// The physical key that a piece belongs to, from the piece's key.
pub(super) fn piece_owner(piece_key: &[u8]) -> Option<&[u8]> {
    piece_key.get(1..piece_key.len().checked_sub(2)?)
}

fn crc(physical: &[u8], kind: Kind, changed_at: u64, value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(physical);
    let crc = crc32c::crc32c_append(crc, &[kind as u8]);
    let crc = crc32c::crc32c_append(crc, &changed_at.to_be_bytes());
    crc32c::crc32c_append(crc, value)
}

fn head(physical: &[u8], kind: Kind, changed_at: u64, value: &[u8], room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + room);
    out.push(kind as u8);
    out.extend_from_slice(&changed_at.to_be_bytes());
    out.extend_from_slice(&crc(physical, kind, changed_at, value).to_be_bytes());
    out
}

pub(super) fn encode(physical: &[u8], changed_at: u64, value: Option<&[u8]>) -> Encoded {
    let Some(value) = value else {
        return Encoded { value: head(physical, Kind::Tombstone, changed_at, &[], 0), pieces: Vec::new() };
    };
    if value.len() <= INLINE_BYTES_MAX {
        let mut out = head(physical, Kind::Inline, changed_at, value, value.len());
        out.extend_from_slice(value);
        return Encoded { value: out, pieces: Vec::new() };
    }
    let pieces: Vec<_> = value.chunks(PIECE_BYTES).map(<[u8]>::to_vec).collect();
    let mut out = head(physical, Kind::Pieces, changed_at, value, 6);
    let len = u32::try_from(value.len()).expect("values are bounded by Limits, pages by their rows");
    out.extend_from_slice(&len.to_be_bytes());
    let count = u16::try_from(pieces.len()).expect("values are bounded by Limits, pages by their rows");
    out.extend_from_slice(&count.to_be_bytes());
    Encoded { value: out, pieces }
}

/// Takes a stored value apart and checks it. `piece` gets a piece by its key.
pub(super) fn decode<E: From<String>>(
    physical: &[u8],
    raw: &[u8],
    mut piece: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Stored, E> {
    let bad = |what: &str| E::from(format!("{what} under {}", hex(physical)));
    let (Some(&kind), Some(rest)) = (raw.first(), raw.get(HEAD_BYTES..)) else {
        return Err(bad("a value is cut short"));
    };
    let changed_at = u64::from_be_bytes(raw[1..9].try_into().expect("eight bytes"));
    let wanted = u32::from_be_bytes(raw[9..13].try_into().expect("four bytes"));
    let (kind, value) = match kind {
        1 => (Kind::Tombstone, Vec::new()),
        2 => (Kind::Inline, rest.to_vec()),
        3 => {
            let rest: [u8; 6] = rest.try_into().map_err(|_| bad("a value in pieces is cut short"))?;
            let len = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let count = u16::from_be_bytes([rest[4], rest[5]]);
            if len.div_ceil(PIECE_BYTES) != usize::from(count) {
                return Err(bad("a value's pieces do not make its length"));
            }
            let mut value = Vec::with_capacity(len);
            for n in 0..count {
                let key = piece_key(physical, n);
                value.extend(piece(&key)?.ok_or_else(|| bad("a piece is missing of the value"))?);
            }
            if value.len() != len {
                return Err(bad("a value's pieces do not make its length"));
            }
            (Kind::Pieces, value)
        }
        _ => return Err(bad("an unknown kind of value")),
    };
    if crc(physical, kind, changed_at, &value) != wanted {
        return Err(bad("a wrong checksum"));
    }
    Ok(Stored { changed_at, value: (kind != Kind::Tombstone).then_some(value) })
}

fn hex(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(64).map(|b| format!("{b:02x}")).collect();
    if bytes.len() > 64 { format!("{shown}...") } else { shown }
}

/// About how many bytes a row takes in a page.
pub(super) fn row_bytes((key, value): &Change) -> usize {
    8 + key.len() + value.as_ref().map_or(0, Vec::len)
}

/// A page's bytes; `rows` are in key order.
pub(super) fn encode_page(rows: &[Change]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut before: &[u8] = &[];
    for (key, value) in rows {
        let shared = key.iter().zip(before).take_while(|(a, b)| a == b).count();
        let rest = &key[shared..];
        out.extend_from_slice(&u16::try_from(shared).expect("keys are bounded by Limits").to_be_bytes());
        out.extend_from_slice(&u16::try_from(rest.len()).expect("keys are bounded by Limits").to_be_bytes());
        let len = |value: &Value| u32::try_from(value.len()).expect("values are bounded by Limits");
        out.extend_from_slice(&value.as_ref().map_or(TOMBSTONE, len).to_be_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value.as_deref().unwrap_or_default());
        before = key;
    }
    out
}

/// The rows of a page.
pub(super) fn decode_page(page: &[u8]) -> Result<Vec<Change>, String> {
    let mut rows: Vec<Change> = Vec::new();
    let mut rest = page;
    while !rest.is_empty() {
        let (row, behind) = decode_row(rest, rows.last().map_or(&[], |(key, _)| key)).ok_or("a page is cut short")?;
        rows.push(row);
        rest = behind;
    }
    Ok(rows)
}

fn decode_row<'a>(page: &'a [u8], before: &[u8]) -> Option<(Change, &'a [u8])> {
    let (lens, page) = page.split_at_checked(8)?;
    let shared = usize::from(u16::from_be_bytes([lens[0], lens[1]]));
    let rest = usize::from(u16::from_be_bytes([lens[2], lens[3]]));
    let value = u32::from_be_bytes([lens[4], lens[5], lens[6], lens[7]]);
    let (rest, page) = page.split_at_checked(rest)?;
    let (value, page) = match value {
        TOMBSTONE => (None, page),
        len => page.split_at_checked(len as usize).map(|(value, page)| (Some(value.to_vec()), page))?,
    };
    let mut key = before.get(..shared)?.to_vec();
    key.extend_from_slice(rest);
    Some(((key, value), page))
}

/// Divides rows in pages of 2 to 4 KiB (a longer row is a page of its own).
pub(super) fn divide(rows: Vec<Change>) -> Vec<Vec<Change>> {
    let total: usize = rows.iter().map(row_bytes).sum();
    let target = total / total.div_ceil(PAGE_BYTES_MAX).max(1);
    let mut pages: Vec<Vec<Change>> = Vec::new();
    let mut filled = usize::MAX;
    for row in rows {
        let bytes = row_bytes(&row);
        if filled >= target || filled + bytes > PAGE_BYTES_MAX {
            pages.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        pages.last_mut().expect("the first row makes the first page").push(row);
    }
    pages
}

/// Which trees a replica has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TreeName {
    pub(super) replica: u64,
    /// Grows with every snapshot that is installed.
    pub(super) incarnation: u32,
}

impl TreeName {
    pub(super) fn text(self) -> String {
        format!("r{:016x}-{:08x}", self.replica, self.incarnation)
    }

    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let (replica, incarnation) = std::str::from_utf8(name).ok()?.strip_prefix('r')?.split_once('-')?;
        let replica = u64::from_str_radix(replica, 16).ok()?;
        let incarnation = u32::from_str_radix(incarnation, 16).ok()?;
        Some(Self { replica, incarnation }).filter(|parsed| parsed.text().as_bytes() == name)
    }

    /// Where the pointer to a replica's trees lies in the live database's default tree.
    pub(super) fn pointer_key(replica: u64) -> Vec<u8> {
        physical(b'p', &replica.to_be_bytes())
    }

    /// The pointer: what makes a tree a replica's.
    pub(super) fn pointer(self) -> (Vec<u8>, Vec<u8>) {
        let key = Self::pointer_key(self.replica);
        let value = encode(&key, 0, Some(&self.incarnation.to_be_bytes())).value;
        (key, value)
    }

    pub(super) fn from_pointer(key: &[u8], value: &[u8]) -> Result<Self, String> {
        let replica = key.get(1..).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
        let stored: Stored = decode::<String>(key, value, |_| Ok(None))?;
        let incarnation = stored.value.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let (Some(replica), Some(incarnation)) = (replica, incarnation) else {
            return Err(format!("a pointer that is none under {}", hex(key)));
        };
        Ok(Self { replica, incarnation })
    }
}

/// The version of [`ArchiveHeader`]. 1 (2026-11): the first.
pub(super) const ARCHIVE_HEADER_VERSION: u8 = 1;

/// What the archive knows of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) struct ArchiveHeader {
    #[n(0)]
    pub(super) version: u8,
    /// How often rows were moved: a checkpoint names the moves that it relies on.
    #[n(1)]
    pub(super) moves: u64,
    #[n(2)]
    pub(super) rows: u64,
    /// Of the rows as they are counted by [`row_bytes`].
    #[n(3)]
    pub(super) bytes: u64,
    #[n(4)]
    pub(super) pages: u64,
}

impl ArchiveHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into a Vec cannot fail")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        rules::decode_versioned("an archive's header", ARCHIVE_HEADER_VERSION, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(physical: &[u8], encoded: &Encoded) -> Result<Stored, String> {
        decode(physical, &encoded.value, |key| {
            let at = usize::from(u16::from_be_bytes([key[key.len() - 2], key[key.len() - 1]]));
            assert_eq!(piece_owner(key), Some(physical));
            Ok(encoded.pieces.get(at).cloned())
        })
    }

    #[test]
    fn stored_values_keep_their_bytes() {
        let tombstone = encode(&[3, b'k'], 258, None);
        assert_eq!(tombstone.value, [1, 0, 0, 0, 0, 0, 0, 1, 2, 45, 76, 152, 201]);
        let inline = encode(&[3, b'k'], 258, Some(b"ab"));
        assert_eq!(inline.value, [2, 0, 0, 0, 0, 0, 0, 1, 2, 204, 207, 169, 34, b'a', b'b']);
        let long = encode(&[3, b'k'], 1, Some(&[7; 10_000]));
        assert_eq!(long.value, [3, 0, 0, 0, 0, 0, 0, 0, 1, 84, 158, 222, 228, 0, 0, 0x27, 0x10, 0, 3]);
        assert_eq!(piece_key(&[3, b'k'], 258), [4, 3, b'k', 1, 2]);
    }

    #[test]
    fn stored_values_come_back_and_damage_is_found() {
        for value in [
            None,
            Some(vec![]),
            Some(vec![1; INLINE_BYTES_MAX]),
            Some(vec![2; INLINE_BYTES_MAX + 1]),
            Some(vec![3; 50_000]),
        ] {
            let encoded = encode(b"\x03key", 9, value.as_deref());
            assert_eq!(decoded(b"\x03key", &encoded), Ok(Stored { changed_at: 9, value }));
            assert!(decode::<String>(b"\x03kex", &encoded.value, |_| Ok(Some(vec![]))).is_err());
            for at in 0..encoded.value.len() {
                let mut damaged = Encoded { value: encoded.value.clone(), pieces: encoded.pieces.clone() };
                damaged.value[at] ^= 0x10;
                assert!(decoded(b"\x03key", &damaged).is_err(), "byte {at}");
                damaged.value.truncate(at);
                assert!(decoded(b"\x03key", &damaged).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn pages_keep_their_bytes() {
        let rows =
            vec![(b"abc".to_vec(), Some(b"1".to_vec())), (b"abd".to_vec(), Some(b"".to_vec())), (b"ac".to_vec(), None)];
        let page = encode_page(&rows);
        let expected = b"\0\0\0\x03\0\0\0\x01abc1\0\x02\0\x01\0\0\0\0d\0\x01\0\x01\xff\xff\xff\xffc";
        assert_eq!(page, expected);
        assert_eq!(decode_page(&page), Ok(rows));
        assert!(decode_page(&page[..page.len() - 1]).is_err());
        assert!(decode_page(&[0, 9, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn rows_divide_in_pages_of_two_to_four_kibibytes() {
        for value in [10, 90, 700, 1500] {
            for count in [1, 5, 60, 400] {
                let row = |n: u32| (n.to_be_bytes().to_vec(), Some(vec![0; value]));
                let rows: Vec<Change> = (0..count).map(row).collect();
                let total: usize = rows.iter().map(row_bytes).sum();
                let pages = divide(rows.clone());
                assert_eq!(pages.concat(), rows);
                for page in &pages {
                    let bytes: usize = page.iter().map(row_bytes).sum();
                    assert!(bytes <= PAGE_BYTES_MAX, "{bytes}");
                }
                assert!(pages.len() <= total.div_ceil(2048), "{} pages of {total}", pages.len());
            }
        }
        assert_eq!(divide(vec![]), Vec::<Vec<Change>>::new());
        assert_eq!(divide(vec![(vec![1], Some(vec![0; 9000])), (vec![2], None)]).len(), 2);
    }

    #[test]
    fn trees_are_named_by_replica_and_found_by_their_pointer() {
        let name = TreeName { replica: 0x1f, incarnation: 2 };
        assert_eq!(name.text(), "r000000000000001f-00000002");
        assert_eq!(TreeName::parse(name.text().as_bytes()), Some(name));
        for other in ["__sled__default", "r1f-2", "r000000000000001F-00000002", ""] {
            assert_eq!(TreeName::parse(other.as_bytes()), None);
        }
        let (key, value) = name.pointer();
        assert_eq!(TreeName::from_pointer(&key, &value), Ok(name));
        assert!(TreeName::from_pointer(&TreeName::pointer_key(3), &value).is_err());
    }
}
