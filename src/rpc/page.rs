//! Page tokens: opaque, with a checksum, and good only for the list that they were made for.
//!
//! ```text
//! hexadecimal of:  version (1 byte) | what list (8) | crc32c of all else (4) | where the last page ended
//! ```

use xxhash_rust::xxh3::Xxh3;

use super::fields::{Fields, Path};

const VERSION: u8 = 1;
const HEADER: usize = 1 + 8 + 4;
/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8_192;

/// Which list a token is for: a hash over its kind, account, profile and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List(u64);

impl List {
    /// `kind` tells one list method from another; the parts are whatever else must not change between pages.
    pub(super) fn new(kind: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Xxh3::new();
        for part in std::iter::once(kind.as_bytes()).chain(parts.iter().copied()) {
            // The length keeps ("ab", "c") apart from ("a", "bc").
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.digest())
    }

    /// The token for the place where a page ended.
    pub(super) fn token(self, place: &[u8]) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.0.to_be_bytes());
        bytes.extend(checksum(self, place).to_be_bytes());
        bytes.extend(place);
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The place that a token stands for; `None` for an empty token, and for a bad one after noting that.
    pub(super) fn place<'a>(self, fields: &mut Fields, path: impl Into<Path<'a>>, token: &str) -> Option<Vec<u8>> {
        if token.is_empty() {
            return None;
        }
        let place = self.read(token);
        if let Err(why) = &place {
            fields.bad(path, *why);
        }
        place.ok()
    }

    fn read(self, token: &str) -> Result<Vec<u8>, &'static str> {
        const BAD: &str = "is no page token: an unchanged next_page_token, or nothing, is accepted";
        const OTHER: &str = "belongs to another list: account, profile and filters must stay as they were";
        if token.len() > TOKEN_BYTES_MAX {
            return Err(BAD);
        }
        let bytes = unhex(token).ok_or(BAD)?;
        let (header, place) = bytes.split_at_checked(HEADER).ok_or(BAD)?;
        let list = Self(u64::from_be_bytes(header[1..9].try_into().map_err(|_| BAD)?));
        let sum = u32::from_be_bytes(header[9..].try_into().map_err(|_| BAD)?);
        if header[0] != VERSION || sum != checksum(list, place) {
            return Err(BAD);
        }
        if list == self { Ok(place.to_vec()) } else { Err(OTHER) }
    }
}

fn checksum(list: List, place: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&list.0.to_be_bytes()), place)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_its_list_only() {
        let list = List::new("history", &[b"account", b"profile", b""]);
        let other = List::new("history", &[b"accoun", b"tprofile", b""]);
        let token = list.token(b"place");
        assert_eq!(list.read(&token), Ok(b"place".to_vec()));
        assert!(other.read(&token).unwrap_err().contains("another list"));
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let list = List::new("history", &[]);
        let token = list.token(b"place");
        for i in 0..token.len() {
            let mut damaged = token.clone().into_bytes();
            damaged[i] = if damaged[i] == b'0' { b'1' } else { b'0' };
            assert!(list.read(std::str::from_utf8(&damaged).unwrap()).is_err(), "digit {i}");
            assert!(list.read(&token[..i]).is_err());
        }
        for garbage in ["x", "zz", "é", "00", &"0".repeat(100_000)] {
            assert!(list.read(garbage).is_err());
        }
    }
}
