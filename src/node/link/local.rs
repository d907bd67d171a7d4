//! The link as a node's groups use it: over the lanes to other nodes, and straight to the switchboard for this one.
//!
//! Two replicas of one group stand on one node while the one takes the other's place.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::ids::NodeId;
use crate::raft::{Lane as RaftLane, LinkError, Switchboard};

use super::pace::Pace;
use super::{Link, Lost};

struct Local {
    link: Link,
    here: OnceLock<Weak<Switchboard>>,
    pace: Arc<Pace>,
}

/// A switchboard for groups that send over `link`, copies at this `pace`; what is for this node it serves itself.
pub(crate) fn switchboard(link: &Link, pace: &Arc<Pace>) -> Arc<Switchboard> {
    let local = Arc::new(Local { link: link.clone(), here: OnceLock::new(), pace: pace.clone() });
    let switchboard = Switchboard::new(local.clone());
    let _ = local.here.set(Arc::downgrade(&switchboard));
    switchboard
}

impl crate::raft::Link for Local {
    fn pace(&self, bytes: usize) -> BoxFuture<'_, ()> {
        self.pace.send(bytes).boxed()
    }

    fn pace_entries(&self, bytes: usize) -> BoxFuture<'_, ()> {
        self.link.metrics().log_bytes_copied.inc_by(bytes as u64);
        self.pace.send_entries(bytes).boxed()
    }

    fn pace_taken(&self, bytes: usize) -> BoxFuture<'_, ()> {
        self.pace.take_in(bytes).boxed()
    }

    fn piece_bytes(&self, usual: usize) -> usize {
        self.pace.piece_bytes(usual)
    }

    fn snapshot_place(&self) -> BoxFuture<'static, Box<dyn Send>> {
        self.pace.place().boxed()
    }

    fn snapshot_taken(&self, bytes: u64) {
        self.link.metrics().snapshot_bytes_taken.inc_by(bytes);
    }

    fn snapshot_broken_off(&self) {
        self.pace.hurry();
    }

    fn call(&self, to: NodeId, lane: RaftLane, frame: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        if to != self.link.me().node {
            return self.link.call(to, lane.into(), frame).map(|answer| answer.map_err(Lost::into_error)).boxed();
        }
        match self.here.get().and_then(Weak::upgrade) {
            Some(switchboard) => switchboard.serve(frame).map(Ok).boxed(),
            None => {
                let why = "the node stops".to_string();
                futures::future::ready(Err(LinkError::Unreachable { node: to, why })).boxed()
            }
        }
    }
}
