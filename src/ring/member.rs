//! Who may hold replicas, and by which rules.

use std::fmt;
use std::str::FromStr;

use crate::ids::NodeId;

/// Why a string is not a zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no zone: 1 to {max} characters of a-z, A-Z, 0-9, '-', '_' and '.' are accepted", max = Zone::BYTES_MAX)]
pub struct InvalidZone;

/// Machines that may fail together: a rack, a room, an availability zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode)]
#[cbor(transparent)]
pub struct Zone(#[n(0)] Box<str>);

impl Zone {
    /// The most bytes that the name of a zone may have.
    pub const BYTES_MAX: usize = 64;

    /// Checks `name`: 1 to [`Self::BYTES_MAX`] ASCII letters, digits, `-`, `_` and `.`.
    pub fn new(name: impl Into<Box<str>>) -> Result<Self, InvalidZone> {
        let name = name.into();
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > Self::BYTES_MAX || !name.bytes().all(fits) {
            return Err(InvalidZone);
        }
        Ok(Self(name))
    }

    /// The zone's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Zone {
    /// The zone of nodes that were given none: `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for Zone {
    type Err = InvalidZone;

    fn from_str(name: &str) -> Result<Self, InvalidZone> {
        Self::new(name)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Zone {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let at = d.position();
        Self::new(d.str()?).map_err(|e| minicbor::decode::Error::custom(e).at(at))
    }
}

/// Why a number is not a weight, a replication or a slack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} {got} is out of range: {min} to {max} is accepted")]
pub struct InvalidRule {
    /// What was to be set.
    pub name: &'static str,
    /// The number that came.
    pub got: u32,
    /// The least that is accepted.
    pub min: u32,
    /// The most that is accepted.
    pub max: u32,
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $label:literal, $int:ty, $decode:ident, $min:literal..=$max:literal, default $default:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] $int);

        impl $name {
            /// The least that is accepted.
            pub const MIN: u32 = $min;
            /// The most that is accepted.
            pub const MAX: u32 = $max;
            /// What holds when nobody says otherwise.
            pub const DEFAULT: Self = Self($default);

            /// Checks that `number` is from [`Self::MIN`] to [`Self::MAX`].
            pub const fn new(number: u32) -> Result<Self, InvalidRule> {
                if number < Self::MIN || number > Self::MAX {
                    return Err(InvalidRule { name: $label, got: number, min: Self::MIN, max: Self::MAX });
                }
                Ok(Self(number as $int))
            }

            /// The number itself.
            pub const fn get(self) -> u32 {
                self.0 as u32
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::DEFAULT
            }
        }

        impl TryFrom<u32> for $name {
            type Error = InvalidRule;

            fn try_from(number: u32) -> Result<Self, InvalidRule> {
                Self::new(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                Self::new(u32::from(d.$decode()?)).map_err(|e| minicbor::decode::Error::custom(e).at(at))
            }
        }
    };
}

bounded!(
    /// How much a node should hold beside the others: a node of weight 2 holds twice what a node of weight 1 holds.
    Weight, "weight", u16, u16, 1..=100, default 1
);
bounded!(
    /// How many replicas a shard should have. An even number survives no more failures than the odd one below it.
    Replication, "replication", u8, u8, 1..=7, default 3
);
bounded!(
    /// By how much a node may miss its fair share either way, in thousandths of it.
    Slack, "slack_permille", u16, u16, 0..=1000, default 50
);

/// How replicas are to be placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Rules {
    /// Replicas a shard.
    #[n(0)]
    pub replication: Replication,
    /// How far a node's load may be from its fair share: more follows the ring better and moves less.
    #[n(1)]
    pub slack: Slack,
}

/// A node that may hold replicas: one that is wanted in the cluster and is not on its way out.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Member {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// Where it stands.
    #[n(1)]
    pub zone: Zone,
    /// How much it takes.
    #[n(2)]
    pub weight: Weight,
}

impl Member {
    /// A member of weight 1 in the default zone.
    pub fn plain(node: NodeId) -> Self {
        Self { node, zone: Zone::default(), weight: Weight::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_short_plain_names() {
        assert_eq!(Zone::new("eu-west.1_a").map(|z| z.to_string()), Ok("eu-west.1_a".to_string()));
        for bad in ["", "a b", "a/b", "é", "a\n", &"x".repeat(65)] {
            assert_eq!(Zone::new(bad), Err(InvalidZone), "{bad:?}");
        }
    }

    #[test]
    fn numbers_out_of_range_say_what_is_accepted() {
        assert_eq!(Weight::new(0).unwrap_err().to_string(), "weight 0 is out of range: 1 to 100 is accepted");
        assert_eq!(Replication::new(8).unwrap_err().to_string(), "replication 8 is out of range: 1 to 7 is accepted");
        assert_eq!(Weight::new(100).map(Weight::get), Ok(100));
    }

    #[test]
    fn what_is_decoded_is_checked() {
        let member = Member { node: NodeId(7), zone: Zone::new("a").unwrap(), weight: Weight::new(3).unwrap() };
        let bytes = minicbor::to_vec(&member).unwrap();
        assert_eq!(minicbor::decode::<Member>(&bytes).unwrap(), member);
        assert!(minicbor::decode::<Zone>(&minicbor::to_vec("a b").unwrap()).is_err());
        assert!(minicbor::decode::<Weight>(&minicbor::to_vec(0u16).unwrap()).is_err());
    }
}
