//! Frames between replicas.

mod link;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use link::{Lane, Link, LinkError};

/// The most bytes of a frame. An append message carries at least one entry, so this is well above an entry's bound.
pub const FRAME_BYTES_MAX: usize = 3 << 20;

/// One node's table of live replicas: hands incoming frames to them, and outgoing ones to the link.
pub struct Switchboard {
    _link: Arc<dyn Link>,
}

impl Switchboard {
    /// An empty table.
    pub fn new(link: Arc<dyn Link>) -> Arc<Self> {
        Arc::new(Self { _link: link })
    }

    /// Takes a frame that came over the link, in the order of arrival; the future gives the answer to send back. A frame
    /// whose addressee does not live here exactly is answered REPLICA_GONE.
    pub fn serve(&self, _frame: Bytes) -> BoxFuture<'static, Bytes> {
        todo!()
    }
}
