//! Keys of stored rows: bytes whose order is the order of the lists.
//!
//! ```text
//! class(1) token(8, big-endian) account ...         names are length-prefixed, so that no key's tail reads as another's
//! 1 account row    ... account
//! 2 title row      ... account profile title
//! 3 title page     ... account profile title page(4)
//! 4 history entry  ... account profile !start(8) title device      newest first
//! 5 continue row   ... account profile !activity(8) title          newest first
//! ```

use std::fmt;

use crate::ids::{AccountId, DeviceId, ProfileId, TitleId};
use crate::ring::Token;
use crate::time::WallMs;

/// What a row is: the first byte of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RowClass {
    /// An account: policy, request ids, ended views, profiles.
    Account = 1,
    /// A profile's title: resume point, watched, directory of entries.
    Title = 2,
    /// Older part of a title's directory of entries.
    TitlePage = 3,
    /// A history entry.
    Entry = 4,
    /// An item of the continue-watching row.
    Continue = 5,
}

impl RowClass {
    /// All classes, by their byte.
    pub const ALL: [Self; 5] = [Self::Account, Self::Title, Self::TitlePage, Self::Entry, Self::Continue];
}

/// The token of an account: where it stands in the token space.
pub(super) fn token(account: &AccountId) -> u64 {
    Token::of(account).0
}

/// The key of a stored row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(Box<[u8]>);

impl RowKey {
    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the row is.
    pub fn class(&self) -> Option<RowClass> {
        let class = *self.0.first()?;
        RowClass::ALL.into_iter().find(|c| *c as u8 == class)
    }

    /// Bytes that came back from a store.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub(super) fn account(account: &AccountId) -> Self {
        Self(Writer::new(RowClass::Account, account).0.into())
    }

    pub(super) fn title(account: &AccountId, profile: &ProfileId, title: &TitleId) -> Self {
        Self(Writer::new(RowClass::Title, account).name(profile.as_str()).title(title).0.into())
    }

    pub(super) fn title_page(account: &AccountId, profile: &ProfileId, title: &TitleId, page: u32) -> Self {
        let mut key = Writer::new(RowClass::TitlePage, account).name(profile.as_str()).title(title);
        key.0.extend(page.to_be_bytes());
        Self(key.0.into())
    }

    pub(super) fn entry(
        account: &AccountId,
        profile: &ProfileId,
        start: WallMs,
        title: &TitleId,
        device: &DeviceId,
    ) -> Self {
        let key = Writer::new(RowClass::Entry, account).name(profile.as_str()).newest_first(start).title(title);
        Self(key.name(device.as_str()).0.into())
    }

    pub(super) fn continue_row(account: &AccountId, profile: &ProfileId, activity: WallMs, title: &TitleId) -> Self {
        let key = Writer::new(RowClass::Continue, account).name(profile.as_str()).newest_first(activity).title(title);
        Self(key.0.into())
    }

    /// What an entry's key says: start, title, device. `list`: what all keys of its list begin with.
    pub(super) fn read_entry(list: &[u8], key: &[u8]) -> Option<(WallMs, TitleId, DeviceId)> {
        let (at, rest) = read_newest_first(key.strip_prefix(list)?)?;
        let (title, rest) = read_title(rest)?;
        let (len, device) = rest.split_first()?;
        if usize::from(*len) != device.len() {
            return None;
        }
        Some((at, title, DeviceId::new(std::str::from_utf8(device).ok()?).ok()?))
    }

    /// What a continue-watching item's key says: activity, title. `list`: what all keys of its list begin with.
    pub(super) fn read_continue_row(list: &[u8], key: &[u8]) -> Option<(WallMs, TitleId)> {
        let (at, rest) = read_newest_first(key.strip_prefix(list)?)?;
        let (title, rest) = read_title(rest)?;
        rest.is_empty().then_some((at, title))
    }

    /// The first key of a newest-first list for what is at `at` or earlier.
    pub(super) fn first_at(list: &[u8], at: WallMs) -> Vec<u8> {
        [list, &(!at.0).to_be_bytes()].concat()
    }

    /// The key after all of a newest-first list for what is at `at` or later. (After the time comes a title's length.)
    pub(super) fn end_at(list: &[u8], at: WallMs) -> Vec<u8> {
        [list, &(!at.0).to_be_bytes(), &[0xff]].concat()
    }

    /// What all keys of a list begin with.
    pub(super) fn list(class: RowClass, account: &AccountId, profile: &ProfileId) -> Vec<u8> {
        Writer::new(class, account).name(profile.as_str()).0
    }
}

impl AsRef<[u8]> for RowKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for RowKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowKey({})", self.0.escape_ascii())
    }
}

fn read_newest_first(bytes: &[u8]) -> Option<(WallMs, &[u8])> {
    let (at, rest) = bytes.split_first_chunk::<8>()?;
    Some((WallMs(!u64::from_be_bytes(*at)), rest))
}

fn read_title(bytes: &[u8]) -> Option<(TitleId, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (title, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((TitleId::new(std::str::from_utf8(title).ok()?).ok()?, rest))
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(class: RowClass, account: &AccountId) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(class as u8);
        bytes.extend(token(account).to_be_bytes());
        Self(bytes).name(account.as_str())
    }

    fn name(mut self, name: &str) -> Self {
        self.0.push(u8::try_from(name.len()).expect("names have at most 128 bytes"));
        self.0.extend(name.as_bytes());
        self
    }

    fn title(mut self, title: &TitleId) -> Self {
        let title = title.as_str();
        self.0.extend(u16::try_from(title.len()).expect("titles have at most 512 bytes").to_be_bytes());
        self.0.extend(title.as_bytes());
        self
    }

    fn newest_first(mut self, at: WallMs) -> Self {
        self.0.extend((!at.0).to_be_bytes());
        self
    }
}
