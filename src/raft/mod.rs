//! Consensus: one openraft group a shard, over one log and one link a node.
