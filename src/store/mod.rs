//! Checkpoints of shards on disk: the store trait, sled behind it, and one in memory that can crash.
