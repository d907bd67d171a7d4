//! The node: its shards, the meta group, the router.
