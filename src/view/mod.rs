//! The viewing domain: commands, state and rules of one shard.
