//! A replica of a Raft group.

use crate::ids::NodeId;
use crate::proto::v1;
use crate::raft::GroupStatus;

/// A replica as it sees itself, for the wire.
pub(in crate::rpc) fn raft_state(status: &GroupStatus, name: impl Fn(NodeId) -> String) -> v1::RaftState {
    let members = status.members.nodes.iter().map(|(replica, node)| {
        let progress = status.progress.get(replica);
        v1::RaftMember {
            replica_id: replica.0,
            node: name(*node),
            voter: status.members.is_voter(*replica),
            matched_index: progress.and_then(|progress| progress.matched),
            lag: progress.map(|progress| progress.lag),
        }
    });
    v1::RaftState {
        group: status.group.0,
        replica_id: status.replica.0,
        role: super::role(status.role).into(),
        term: status.term,
        leader: status.leader.map(|leader| name(leader.node)).unwrap_or_default(),
        last_log_index: status.last_log,
        applied_index: status.applied,
        checkpoint_index: status.checkpointed,
        purged_index: status.purged,
        log_bytes: status.log_bytes,
        members: members.collect(),
        joint: status.members.joint(),
        members_committed: status.members.committed,
        quorum_ms_ago: status.quorum_acked_ms_ago,
        queued_commands: status.queued_commands as u64,
        stopped: status.stopped.clone().unwrap_or_default(),
        last_log_term: status.last_log_term,
        leader_heard_ms_ago: status.leader_heard_ms_ago.filter(|_| status.role != crate::raft::Role::Leader),
    }
}
