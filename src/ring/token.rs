//! Account -> token -> shard. Fixed for ever: stored rows begin with the token.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::{AccountId, ShardId};

/// The seed of every hash that decides where something is stored. Never changes: stored rows depend on it.
pub(super) const SEED: u64 = 0;

/// A point in the token space: all of `u64`, as a ring.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Token(#[n(0)] pub u64);

impl Token {
    /// The account's token: XXH3 (64 bits, seed 0) of the bytes of its id.
    pub fn of(account: &AccountId) -> Self {
        Self(xxh3_64_with_seed(account.as_str().as_bytes(), SEED))
    }

    /// The token as stored rows begin with it: big-endian, so that rows sort by token.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The token that a stored row begins with.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }
}

impl From<&AccountId> for Token {
    fn from(account: &AccountId) -> Self {
        Self::of(account)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// Why a number is not a shard count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got} is no shard count: a power of two from 1 to {max} is accepted", max = ShardCount::MAX)]
pub struct InvalidShardCount {
    /// The number that came.
    pub got: u32,
}

/// How many shards the cluster has: a power of two from 1 to 4096, fixed when the cluster is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode)]
#[cbor(transparent)]
pub struct ShardCount(#[n(0)] u32);

impl ShardCount {
    /// The most shards a cluster may have.
    pub const MAX: u32 = 4096;
    /// What a cluster has when nobody says otherwise.
    pub const DEFAULT: Self = Self(64);

    /// Checks `count`: a power of two from 1 to [`Self::MAX`].
    pub const fn new(count: u32) -> Result<Self, InvalidShardCount> {
        if count.is_power_of_two() && count <= Self::MAX {
            Ok(Self(count))
        } else {
            Err(InvalidShardCount { got: count })
        }
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// How many leading bits of a token name its shard.
    pub const fn bits(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// The shard of a token: the token's first [`bits`](Self::bits) bits.
    pub const fn shard_of(self, token: Token) -> ShardId {
        // A shift by all 64 bits is not defined on a `u64`, so one shard is a case of its own.
        if self.bits() == 0 {
            return ShardId(0);
        }
        ShardId((token.0 >> (u64::BITS - self.bits())) as u32)
    }

    /// The first token of a shard, which is also where the shard stands on the [`Ring`](super::Ring).
    pub const fn first_token(self, shard: ShardId) -> Token {
        if self.bits() == 0 {
            return Token(0);
        }
        Token((shard.0 as u64) << (u64::BITS - self.bits()))
    }

    /// The last token of a shard, inclusive.
    pub const fn last_token(self, shard: ShardId) -> Token {
        if self.bits() == 0 {
            return Token(u64::MAX);
        }
        Token(self.first_token(shard).0 | (u64::MAX >> self.bits()))
    }

    /// Whether the cluster has this shard.
    pub const fn has(self, shard: ShardId) -> bool {
        shard.0 < self.0
    }

    /// All shards, in order.
    pub fn shards(self) -> impl ExactSizeIterator<Item = ShardId> + DoubleEndedIterator + Clone {
        (0..self.0).map(ShardId)
    }
}

impl Default for ShardCount {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for ShardCount {
    type Error = InvalidShardCount;

    fn try_from(count: u32) -> Result<Self, InvalidShardCount> {
        Self::new(count)
    }
}

impl fmt::Display for ShardCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'b, C> minicbor::Decode<'b, C> for ShardCount {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let at = d.position();
        Self::new(d.u32()?).map_err(|e| minicbor::decode::Error::custom(e).at(at))
    }
}

/// The shard of an account or token in a cluster of `count` shards.
pub fn shard_of(token: impl Into<Token>, count: ShardCount) -> ShardId {
    count.shard_of(token.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(account: &str) -> u64 {
        Token::of(&AccountId::new(account).unwrap()).0
    }

    #[test]
    fn tokens_never_change() {
        // Golden, from the reference implementation of XXH3 in C. If one of these moves, every stored row is lost.
        let long = "x".repeat(AccountId::BYTES_MAX);
        for (account, golden) in [
            ("a", 0xe6c6_32b6_1e96_4e1f),
            ("account-1", 0x601c_6a20_4495_de1a),
            ("household-000042", 0xcadf_e094_c26c_0be9),
            ("7e2c64ce-2a3c-4a5e-9a3f-6f4f6c2a9b11", 0xb22b_3618_793c_16ba),
            ("né à Zürich, 東京 🎬", 0x8503_c7de_26f3_5199),
            (&long, 0x4ca3_7e83_f6cd_dd17),
        ] {
            assert_eq!(token(account), golden, "{account}");
        }
    }

    #[test]
    fn shard_counts_are_powers_of_two_up_to_4096() {
        let accepted: Vec<u32> = (0..=10_000).filter(|&n| ShardCount::new(n).is_ok()).collect();
        assert_eq!(accepted, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]);
        assert_eq!(
            ShardCount::new(65).unwrap_err().to_string(),
            "65 is no shard count: a power of two from 1 to 4096 is accepted"
        );
    }

    #[test]
    fn a_decoded_shard_count_is_checked() {
        let mut bytes = minicbor::to_vec(ShardCount::DEFAULT).unwrap();
        assert_eq!(minicbor::decode::<ShardCount>(&bytes).unwrap(), ShardCount::DEFAULT);
        *bytes.last_mut().unwrap() = 63;
        assert!(minicbor::decode::<ShardCount>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn shards_are_the_prefixes_of_the_token_space(token: u64, bits in 0..=12u32) {
            let count = ShardCount::new(1 << bits).unwrap();
            let shard = count.shard_of(Token(token));
            prop_assert!(count.has(shard));
            prop_assert!(count.first_token(shard) <= Token(token) && Token(token) <= count.last_token(shard));
            if bits < 12 {
                // Doubling the count splits each shard in two and moves nothing else.
                let split = ShardCount::new(2 << bits).unwrap().shard_of(Token(token));
                prop_assert_eq!(split.0 / 2, shard.0);
            }
        }
    }

    #[test]
    fn the_shards_cover_the_token_space_without_a_gap() {
        for bits in 0..=12 {
            let count = ShardCount::new(1 << bits).unwrap();
            let mut next = Some(0);
            for shard in count.shards() {
                assert_eq!(Some(count.first_token(shard).0), next);
                next = count.last_token(shard).0.checked_add(1);
            }
            assert_eq!(next, None);
        }
    }
}
