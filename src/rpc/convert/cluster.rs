//! What nodes say of themselves and of their replicas.

use super::timestamp;
use crate::ids::ReplicaId;
use crate::node::gossip::{ReplicaReport, ReplicaRole};
use crate::node::meta::Intent;
use crate::proto::v1;
use crate::time::WallMs;

/// What an operator wants of a node.
pub(in super::super) fn intent(intent: Intent) -> v1::NodeIntent {
    match intent {
        Intent::Joining => v1::NodeIntent::Joining,
        Intent::Active => v1::NodeIntent::Active,
        Intent::Draining => v1::NodeIntent::Draining,
        Intent::Removed => v1::NodeIntent::Removed,
    }
}

fn role(role: ReplicaRole) -> v1::ReplicaRole {
    match role {
        ReplicaRole::Leader => v1::ReplicaRole::Leader,
        ReplicaRole::Follower => v1::ReplicaRole::Follower,
        ReplicaRole::Candidate => v1::ReplicaRole::Candidate,
        ReplicaRole::Learner => v1::ReplicaRole::Learner,
        ReplicaRole::Stopped => v1::ReplicaRole::Stopped,
        ReplicaRole::Failed => v1::ReplicaRole::Failed,
        ReplicaRole::Retired => v1::ReplicaRole::Retired,
    }
}

/// A replica as it told when; of one that was not heard of, only where it stands.
pub(in super::super) fn replica_status(
    id: ReplicaId,
    node: String,
    said: Option<(WallMs, &ReplicaReport)>,
    ahead: u64,
) -> v1::ReplicaStatus {
    let place = v1::ReplicaStatus { replica_id: id.0, node, ..Default::default() };
    let Some((at, r)) = said else { return place };
    v1::ReplicaStatus {
        role: role(r.role).into(),
        voter: r.voter,
        last_log_index: r.last_log,
        applied_index: r.applied,
        lag: ahead.saturating_sub(r.applied),
        log_bytes: r.log_bytes,
        checkpoint_index: r.checkpointed,
        checkpoint_generation: r.checkpoint_generation,
        digest: r
            .digests
            .first()
            .filter(|(at, _)| *at == r.applied)
            .map(|(_, d)| format!("{d:016x}"))
            .unwrap_or_default(),
        report_time: Some(timestamp(at)),
        why: r.why.clone().unwrap_or_default(),
        ..place
    }
}
