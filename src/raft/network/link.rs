//! What carries frames between nodes: the seam to the node's link.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::ids::NodeId;

/// Which of the connections between two nodes a frame takes, so that none waits for a bigger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, transfers of leadership: small and urgent.
    Control,
    /// Appended entries.
    Append,
    /// Pieces of snapshots.
    Snapshot,
}

/// Why a call over the link has no answer. Whether the other side acted on it is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no connection, or it broke before the answer came.
    #[error("node {node} can't be reached: {why}")]
    Unreachable {
        /// Whom it was for.
        node: NodeId,
        /// What the link says.
        why: String,
    },
    /// Too much waits to be sent on this lane; nothing was sent.
    #[error("too much waits to be sent to node {node}")]
    Overloaded {
        /// Whom it was for.
        node: NodeId,
    },
}

/// Carries calls to other nodes. The node implements it over its streams.
///
/// # Contract
///
/// - [`Link::call`] queues `frame` before it returns and never blocks; frames of one lane to one node arrive in the order in
///   which `call` was called, or the lane breaks. The future is only the answer, it may be dropped.
/// - The link has no deadline of its own towards the caller: callers put one on the future. It must forget calls whose
///   connection has broken (answering [`LinkError::Unreachable`]), and bound what is queued ([`LinkError::Overloaded`]).
/// - Many frames should travel in one message: that is the largest lever after many commands in one entry.
/// - On the other side the frame is handed to [`super::Switchboard::serve`], in the order of arrival, and what the future
///   that it returns gives is the answer.
pub trait Link: Send + Sync + 'static {
    /// Sends `frame` to `to` and gives the answer. At most [`super::FRAME_BYTES_MAX`] bytes.
    fn call(&self, to: NodeId, lane: Lane, frame: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>>;

    /// Waits until so many bytes of copies may be sent: what this node sends in a second is bounded, for the sake of all else.
    fn pace(&self, _bytes: usize) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }

    /// Waits until so many bytes of a log may be sent to a replica that is being made. Those who wait for this go one after the other, so
    /// that a snapshot doesn't wait for many of them.
    fn pace_entries(&self, _bytes: usize) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }

    /// Waits until so many bytes of a snapshot that have come may be put into the store, for the same reason. Its sender waits meanwhile.
    fn pace_taken(&self, _bytes: usize) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }

    /// How many bytes of a snapshot are to go into one piece, where `usual` are the most.
    fn piece_bytes(&self, usual: usize) -> usize {
        usual
    }

    /// Waits for a place to send a snapshot from, held until it is dropped: while it is sent its shard's log is kept, and a snapshot that
    /// shares what may be sent in a second with many others takes longer than there is room for.
    fn snapshot_place(&self) -> BoxFuture<'static, Box<dyn Send>> {
        futures::future::ready(Box::new(()) as Box<dyn Send>).boxed()
    }

    /// Takes in that another replica has taken over a snapshot of so many bytes.
    fn snapshot_taken(&self, _bytes: u64) {}

    /// Takes in that a snapshot that was being sent was broken off by its shard's next checkpoint, or that one that came was: slower, the
    /// next one would be, too.
    fn snapshot_broken_off(&self) {}
}
