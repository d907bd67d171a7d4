//! What is left when most of a group's voters are gone for good: one that is left becomes the only one, by its own log.
//!
//! No election can do that, so it is written past the group: an entry after the last one of the replica's log, of a term above all that it
//! has heard of, with a membership of itself alone. Openraft goes by the newest membership that stands in the log, committed or not;
//! so the replica, opened again, elects itself and commits whatever its log has, and then this. Other replicas come back by the usual
//! way: as learners under fresh ids.
//!
//! # Contract
//!
//! - The replica doesn't run meanwhile, and an operator has said that the others are gone for good. Nothing here can know it.
//! - What the replica's log has is kept, committed or not: it may have been acknowledged. What only the others had is lost.
//! - Done again before the replica has run, it does nothing.
//!
//! # Caveats
//!
//! Should a majority of the old voters live after all, and hear nothing of this, they go on by themselves: two groups under one name.
//! Their ids have to be dismissed where nodes look whom to run, before they can come back.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ReplicaId};
use crate::raft::codec::{self, VoteRepr};
use crate::raft::log_store::{from_wal, to_wal};
use crate::raft::types::{LogId, Member, Membership, Payload, Vote, log_id};
use crate::wal::{self, Record, Wal};

/// Why a replica doesn't become the only voter.
#[derive(Debug, thiserror::Error)]
pub enum SoleError {
    /// It has nothing: there would be an empty group where there was one with accounts.
    #[error("replica {0} has neither a log nor a checkpoint: it can't stand for its group")]
    Empty(ReplicaId),
    /// Its log can't be used.
    #[error("the log of replica {replica}: {why}")]
    Log {
        /// Which.
        replica: ReplicaId,
        /// Why.
        why: String,
    },
}

/// Makes a replica that doesn't run the only voter of its group. Gives the place of the entry that says so.
pub async fn make_sole_voter(wal: &Wal, replica: ReplicaId, node: NodeId) -> Result<LogId, SoleError> {
    let failed = |why: String| SoleError::Log { replica, why };
    let state = wal.replica_state(replica).ok_or(SoleError::Empty(replica))?;
    let last = state.last.map(from_wal).ok_or(SoleError::Empty(replica))?;
    if is_sole(wal, replica, last).await.map_err(|e| failed(e.to_string()))? {
        return Ok(last);
    }
    let vote = match &state.vote {
        Some(bytes) => {
            codec::from_slice::<VoteRepr>("a vote", bytes).map(Vote::from).map_err(|e| failed(e.to_string()))?
        }
        None => Vote::new(0, 0),
    };
    let term = vote.leader_id.term.max(last.leader_id.term) + 1;
    let vote = codec::to_vec(&VoteRepr::from(Vote::new(term, replica.0)));
    wal.save_vote(replica, vote.into()).map_err(|e| failed(e.to_string()))?.await.map_err(|e| failed(e.to_string()))?;
    let id = log_id(term, last.index + 1);
    let payload = codec::encode_payload(&Payload::Membership(alone(replica, node).map_err(failed)?));
    let (told, durable) = tokio::sync::oneshot::channel();
    let done = Box::new(move |written| {
        let _ = told.send(written);
    });
    wal.append(replica, vec![Record { id: to_wal(id), payload }], done).map_err(|e| failed(e.to_string()))?;
    match durable.await {
        Ok(Ok(())) => Ok(id),
        _ => Err(failed("it has stopped".to_string())),
    }
}

fn alone(replica: ReplicaId, node: NodeId) -> Result<Membership, String> {
    let voters = vec![BTreeSet::from([replica.0])];
    Membership::new(voters, BTreeMap::from([(replica.0, Member { node })])).map_err(|e| e.to_string())
}

/// Whether the last entry of the log says so already.
async fn is_sole(wal: &Wal, replica: ReplicaId, last: LogId) -> Result<bool, wal::ReadError> {
    let records = wal.read(replica, last.index..last.index + 1, usize::MAX).await?;
    let Some(payload) = records.first().and_then(|record| codec::decode_payload(&record.payload).ok()) else {
        return Ok(false);
    };
    Ok(match payload {
        Payload::Membership(membership) => membership.voter_ids().eq([replica.0]),
        _ => false,
    })
}
