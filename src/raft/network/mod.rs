//! Frames between replicas.
//!
//! Every frame names its group, the replica it comes from and the one it is for. openraft's own messages name no
//! addressee: a vote meant for a replica that was removed would be given by its empty successor on the same node. So a
//! node hands a frame on only if exactly its addressee lives there, under exactly that group, and answers REPLICA_GONE else.
//!
//! Three lanes keep the small and urgent apart from the big: votes, heartbeats and transfers of the lead on one, appended
//! entries on another, snapshots on a third. Appends are pipelined: several are on their way to a follower at once.
//!
//! How frames travel is the node's business: it implements [`Link`] and hands what comes in to [`Switchboard::serve`].

mod acknowledged;
mod copying;
mod hold;
pub(crate) mod inbound;
mod link;
mod memory;
mod peer;
mod promise;
mod switchboard;
#[cfg(test)]
pub(crate) mod testing;
mod wire;

pub(crate) use acknowledged::Acknowledged;
pub(crate) use copying::Copying;
pub use link::{Lane, Link, LinkError};
pub use memory::{Fate, Gate, MemoryNet};
pub(crate) use peer::Peers;
pub(crate) use promise::Promise;
pub(crate) use switchboard::Inbound;
pub use switchboard::Switchboard;

/// The most bytes of a frame. An append message or a piece of a snapshot has at least one entry or pair, so this is well
/// above the bound of one of those.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// What a snapshot's pairs count when they are sent and put away.
fn bytes_of(pairs: &[crate::store::Pair]) -> usize {
    pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
}
