//! What a node knows of its cluster's version, and how much of that its data folder says: what its replicas may write by.

use tokio::sync::watch;

use crate::versions::ClusterVersion;

/// The newest cluster version that the node has proof of, and the newest that is durable in its folder. Neither goes back.
#[derive(Debug)]
pub struct KnownVersion {
    heard: watch::Sender<ClusterVersion>,
    kept: watch::Sender<ClusterVersion>,
}

impl KnownVersion {
    /// Of a node on a folder that says `kept`.
    pub fn new(kept: ClusterVersion) -> Self {
        Self { heard: watch::Sender::new(kept), kept: watch::Sender::new(kept) }
    }

    /// There is proof that the cluster has this version: it stands in the meta state, or a shard has adopted it.
    pub fn hear(&self, version: ClusterVersion) {
        raise(&self.heard, version);
    }

    /// The newest that there is proof of.
    pub fn heard(&self) -> ClusterVersion {
        *self.heard.borrow()
    }

    /// That, and whatever comes.
    pub fn news(&self) -> watch::Receiver<ClusterVersion> {
        self.heard.subscribe()
    }

    /// The folder says this version, durably.
    pub fn keep(&self, version: ClusterVersion) {
        raise(&self.kept, version);
    }

    /// The newest that is durable in the folder.
    pub fn kept(&self) -> ClusterVersion {
        *self.kept.borrow()
    }
}

fn raise(to: &watch::Sender<ClusterVersion>, version: ClusterVersion) {
    to.send_if_modified(|now| {
        let news = version > *now;
        *now = version.max(*now);
        news
    });
}
