//! The names of things: a type for each, so that none is taken for another.
//!
//! Names that come from callers (accounts, profiles, devices, titles, views, requests) are checked once, where they are
//! made, and are right from then on. Numbers that the cluster gives out are plain.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The most bytes that the id of an account, profile, device, view or request may have.
pub const NAME_BYTES_MAX: usize = 128;
/// The most bytes that the id of a title may have.
pub const TITLE_BYTES_MAX: usize = 512;

/// Why a caller's string is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The string is empty.
    #[error("must not be empty: 1 to {max} bytes of UTF-8 without control characters are accepted")]
    Empty {
        /// The most bytes that are accepted.
        max: usize,
    },
    /// The string is too long.
    #[error("is {len} bytes long: 1 to {max} bytes of UTF-8 without control characters are accepted")]
    TooLong {
        /// Bytes that came.
        len: usize,
        /// The most bytes that are accepted.
        max: usize,
    },
    /// The string has a control character.
    #[error("has a control character at byte {at}: 1 to {max} bytes of UTF-8 without control characters are accepted")]
    ControlCharacter {
        /// Where it stands.
        at: usize,
        /// The most bytes that are accepted.
        max: usize,
    },
}

fn check(text: &str, max: usize) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty { max });
    }
    if text.len() > max {
        return Err(InvalidId::TooLong { len: text.len(), max });
    }
    // Nearly all are plain: worth a look that needs no characters.
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(());
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(InvalidId::ControlCharacter { at, max }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] Box<str>);

        impl $name {
            /// The most bytes that this id may have.
            pub const BYTES_MAX: usize = $max;

            /// Checks `text`: 1 to [`Self::BYTES_MAX`] bytes without control characters.
            pub fn new(text: impl Into<Box<str>>) -> Result<Self, InvalidId> {
                let text = text.into();
                check(&text, $max)?;
                Ok(Self(text))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                Self::new(d.str()?).map_err(|e| minicbor::decode::Error::custom(e).at(at))
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }
    };
}

name!(
    /// Whoever pays: the unit that is hashed to a shard, and that a stream limit holds for.
    AccountId,
    NAME_BYTES_MAX
);
name!(
    /// One person, or the kids, on an account.
    ProfileId,
    NAME_BYTES_MAX
);
name!(
    /// A device, as its maker or the service names it.
    DeviceId,
    NAME_BYTES_MAX
);
name!(
    /// Something that can be watched: a film, an episode.
    TitleId,
    TITLE_BYTES_MAX
);
name!(
    /// One playback on one device; chosen by the client.
    ViewId,
    NAME_BYTES_MAX
);
name!(
    /// One request of a client, the same over all its retries.
    RequestId,
    NAME_BYTES_MAX
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode,
            serde::Serialize, serde::Deserialize,
        )]
        #[cbor(transparent)]
        #[serde(transparent)]
        pub struct $name(#[n(0)] pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number!(
    /// A slice of the accounts: a prefix of the token space. From 0 to the cluster's number of shards, exclusive.
    ShardId,
    u32
);
number!(
    /// A Raft group. 0 is the meta group; shard `s` is group `s + 1` today.
    GroupId,
    u64
);
number!(
    /// A copy of a group on a node, and openraft's node id. Given out by the meta group, once in the cluster's life.
    ReplicaId,
    u64
);
number!(
    /// A machine's process and its data folder. Given once, when the folder is made.
    NodeId,
    u64
);
number!(
    /// The version of the placement: grows with every change of it.
    Epoch,
    u64
);
number!(
    /// How often a node has started on its data folder.
    Generation,
    u64
);
number!(
    /// How many commands a shard's state has taken in.
    Revision,
    u64
);

impl GroupId {
    /// The group of nodes, placement and epoch.
    pub const META: Self = Self(0);

    /// The shard that this group serves; `None` for the meta group.
    pub fn shard(self) -> Option<ShardId> {
        u32::try_from(self.0.checked_sub(1)?).ok().map(ShardId)
    }
}

impl From<ShardId> for GroupId {
    fn from(shard: ShardId) -> Self {
        Self(u64::from(shard.0) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_is_empty_long_or_has_control_characters() {
        assert_eq!(AccountId::new("a").map(|a| a.to_string()), Ok("a".to_string()));
        assert_eq!(AccountId::new(""), Err(InvalidId::Empty { max: 128 }));
        assert!(AccountId::new("x".repeat(128)).is_ok());
        assert_eq!(AccountId::new("x".repeat(129)), Err(InvalidId::TooLong { len: 129, max: 128 }));
        assert_eq!(TitleId::new("né\u{7}"), Err(InvalidId::ControlCharacter { at: 3, max: 512 }));
    }

    #[test]
    fn a_group_is_a_shard_or_the_meta_group() {
        assert_eq!(GroupId::META.shard(), None);
        assert_eq!(GroupId::from(ShardId(63)).shard(), Some(ShardId(63)));
    }
}
