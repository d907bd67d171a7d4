//! Consensus: openraft over our log, state, store and link.

mod codec;
mod group;
mod machine;
mod network;
mod outcome;
mod runtime;
mod types;

pub use codec::DecodeError;
pub use group::{
    ChangeError, Group, GroupConfig, GroupParts, GroupStatus, InvalidConfig, Members, MembershipId, Progress,
    StartError, TransferError,
};
pub use machine::{Changes, Machine, MetaMachine, MetaState, Missing, ShardMachine, Stop};
pub use network::{FRAME_BYTES_MAX, Lane, Link, LinkError, Switchboard};
pub use outcome::{Answered, AsOf, LeaderHint, Outcome, QueryError, ReadMode, Rejected, Role};
pub use runtime::RaftThread;
pub use types::LogId;
