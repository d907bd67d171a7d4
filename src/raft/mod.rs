//! Consensus: openraft over our log, state, store and link.

mod batcher;
mod codec;
mod group;
mod log_store;
mod machine;
mod network;
mod outcome;
mod read;
mod runtime;
#[cfg(test)]
mod testing;
mod types;

pub use group::{
    ChangeError, Changes as GroupChanges, Group, GroupConfig, GroupParts, GroupStatus, InvalidConfig, Members,
    MembershipId, Progress, StartError, TransferError, destroy,
};
pub use machine::{Changes, Machine, MetaMachine, MetaState, Missing, ShardMachine, Stop};
pub use network::{FRAME_BYTES_MAX, Fate, Lane, Link, LinkError, MemoryNet, Switchboard};
pub use outcome::{Answered, AsOf, LeaderHint, Outcome, QueryError, ReadMode, Rejected, Role};
pub use runtime::RaftThread;
pub use types::LogId;
