//! Tokens, shards, virtual nodes and the placement of replicas.
