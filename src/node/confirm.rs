//! Whether what this process knows of the cluster is as new as the process itself.
//!
//! A process begins with what the one before it had applied, which may be of long ago: the shards of this node may have been recovered
//! without it since, or the node removed. So it gives no votes of shards, and none of its replicas stands, before it has applied what
//! the meta group had committed by the time that it asked. Asking is a command that changes nothing; its answer names the epoch.
//!
//! # Invariants
//!
//! - A shard's replica gives no vote, its own included, before its node has applied all epochs that were committed when its process
//!   began (node/43).
//!
//! # Caveats
//!
//! Where the meta group has no leader, a node that was restarted helps nobody to the lead of a shard. It follows leaders that
//! there are, and answers reads that may be old.

use std::sync::Arc;
use std::time::Duration;

use crate::versions::{ClusterVersion, Feature};

use super::core::Inner;
use super::meta::{Answer, Command, MetaState};

/// How long it is asked at a time.
const ASK_MS_MAX: u64 = 2_000;
/// How long it is waited before it is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long it is waited for a newer meta state before it is looked whether there is one.
const LOOK: Duration = Duration::from_millis(200);

impl Inner {
    /// Whether the cluster may have recovered shards.
    pub(super) fn may_have_recovered(&self, meta: &MetaState) -> bool {
        meta.has(Feature::Recovery) || self.me.versions.kept().has(Feature::Recovery)
    }
}

/// Asks until it is known, and has votes given from then on.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut changes = inner.meta.changes.subscribe();
    let committed = loop {
        let meta = inner.meta.now.load_full();
        if meta.cluster.is_none() || !inner.may_have_recovered(&meta) {
            let _ = changes.changed().await;
            continue;
        }
        // No cluster has an older version than this.
        let nothing = Command::RaiseVersion { version: ClusterVersion::FIRST };
        match inner.router.propose_meta(&nothing, &inner.own_call(ASK_MS_MAX)).await {
            Ok(Answer::Done { epoch, .. } | Answer::Unchanged { epoch } | Answer::Refused { epoch, .. }) => {
                break epoch;
            }
            Err(error) => {
                tracing::debug!(%error, "what has become of the cluster is not known yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    loop {
        let meta = inner.meta.now.load_full();
        // Whoever has answered may be of a meta group that was left behind itself.
        if meta.epoch >= committed && !meta.is_of_before(inner.ear.newest_epoch()) {
            break;
        }
        let _ = tokio::time::timeout(LOOK, changes.changed()).await;
    }
    inner.shards.give_votes();
    inner.look.notify_one();
}
