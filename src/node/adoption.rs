//! The shards led here adopt the cluster's version, each through its own log.
//!
//! Each is asked what it has, every time: a lead may have come here from a node that died before it told the shard. A shard is never
//! told more than this node keeps in its folder and speaks.
//!
//! A follower's folder may say less when the adoption comes to it: then its node is told by the shard, and no checkpoint of such a
//! state is made and no such snapshot installed before the folder says it (`raft::KnownVersion`). So the store is never newer than
//! the folder says. The log may be: its entries are acknowledged before anybody looks what they say.

use std::sync::Arc;
use std::time::Duration;

use crate::versions::{ClusterVersion, Feature};
use crate::view::{Command, Envelope};

use super::core::Inner;
use super::shards::Hosted;

/// How long telling the shards may keep the caller.
const TELLING_MAX: Duration = Duration::from_millis(500);

/// The version that shards should adopt; `None` while they should not know of any.
fn wanted(cluster: ClusterVersion, kept: ClusterVersion, newest: ClusterVersion) -> Option<ClusterVersion> {
    Some(cluster.min(kept).min(newest)).filter(|version| version.has(Feature::ShardVersions))
}

/// Tells those that are behind.
pub(super) async fn run(inner: &Inner) {
    let versions = &inner.me.versions;
    let cluster = inner.meta.now.load().cluster_version;
    let Some(version) = wanted(cluster, versions.kept(), versions.spoken().newest) else { return };
    let behind =
        |hosted: &Arc<Hosted>| hosted.shard().is_some_and(|group| group.peek(|state| state.version()) < version);
    let led = inner.shards.led().into_iter().map(|(hosted, _)| hosted).filter(behind);
    let telling = led.map(|hosted| async move {
        if let Some(group) = hosted.shard() {
            // Whether it came to be is seen the next time.
            let _ = group.propose(vec![Envelope::plain(Command::Adopt(version))], TELLING_MAX).await;
        }
    });
    futures::future::join_all(telling).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_adopts_what_the_cluster_has_the_folder_keeps_and_the_node_speaks() {
        let wanted = |cluster, kept, newest| {
            wanted(ClusterVersion(cluster), ClusterVersion(kept), ClusterVersion(newest)).map(|version| version.0)
        };
        assert_eq!(wanted(2, 2, 3), Some(2));
        assert_eq!([wanted(1, 2, 2), wanted(2, 1, 2), wanted(2, 2, 1)], [None; 3]);
        assert_eq!(wanted(4, 3, 2), Some(2));
    }
}
