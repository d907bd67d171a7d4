//! Playhead answers, for every account of a streaming service: *what have I watched, where did I leave off, what is being
//! watched on my account right now*.
//!
//! Accounts hash to shards, a ring of virtual nodes places shards on nodes, each shard is a Raft group with its active
//! views in memory, checkpointed to sled; any node takes any call and forwards it to the shard's leader.
//!
//! The modules stand on floors. A module imports only from floors below its own, and from its left on its own floor
//! (`tests/floors` reads this table and holds it):
//!
//! | floor | modules |
//! |---|---|
//! | 0 ground: pure, no IO, no clock, no random numbers | [`planted`], [`ids`], [`time`], [`ring`], [`versions`], [`view`] |
//! | 1 decisions: pure | [`plan`], [`health`], [`check`] |
//! | 2 edges | [`threads`], [`net`], [`fs`], [`wal`], [`store`], [`proto`], [`formats`], [`telemetry`], [`ambient`] |
//! | 3 replication | [`raft`] |
//! | 4 the node and its clients | [`node`], [`client`], [`device`] |
//! | 5 faces | [`rpc`], [`local`], [`ctl`] |
//! | 6 binaries | `src/bin/` |

pub mod ambient;
pub mod check;
pub mod client;
pub mod ctl;
pub mod device;
pub mod formats;
pub mod fs;
pub mod health;
pub mod ids;
pub mod local;
pub mod net;
pub mod node;
pub mod plan;
pub mod planted;
pub mod proto;
pub mod raft;
pub mod ring;
pub mod rpc;
pub mod store;
pub mod telemetry;
pub mod threads;
pub mod time;
pub mod versions;
pub mod view;
pub mod wal;
