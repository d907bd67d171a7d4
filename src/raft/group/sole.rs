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

use bytes::Bytes;

use crate::ids::{NodeId, ReplicaId};
use crate::raft::codec::{self, VoteRepr};
use crate::raft::log_store::{from_wal, to_wal};
use crate::raft::machine::{MetaMachine, MetaState, encode_commands};
use crate::raft::types::{Batch, LogId, Member, Membership, Payload, Vote, log_id};
use crate::time::{LogicalMs, Stamp, WallMs};
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
    go_alone(wal, replica, node, None).await
}

/// The same of the meta group, whose log then has this command next, in one write with that: what it says is so as soon as the replica
/// leads.
pub async fn make_sole_voter_of_meta<S: MetaState>(
    wal: &Wal,
    replica: ReplicaId,
    node: NodeId,
    (command, wall): (Bytes, WallMs),
) -> Result<LogId, SoleError> {
    let stamp = Stamp { logical: LogicalMs(0), wall };
    let body = encode_commands::<MetaMachine<S>>(&[command]);
    go_alone(wal, replica, node, Some(Batch::new(stamp, 1, body.into()))).await
}

async fn go_alone(wal: &Wal, replica: ReplicaId, node: NodeId, then: Option<Batch>) -> Result<LogId, SoleError> {
    let failed = |why: String| SoleError::Log { replica, why };
    let state = wal.replica_state(replica).ok_or(SoleError::Empty(replica))?;
    let last = state.last.map(from_wal).ok_or(SoleError::Empty(replica))?;
    let said = last.index.checked_sub(u64::from(then.is_some())).ok_or(SoleError::Empty(replica))?;
    if is_sole(wal, replica, said).await.map_err(|e| failed(e.to_string()))? {
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
    let payloads = [Payload::Membership(alone(replica, node).map_err(failed)?)];
    let payloads = payloads.into_iter().chain(then.map(Payload::Normal));
    let id = log_id(term, last.index + 1);
    let record =
        |(payload, index)| Record { id: to_wal(log_id(term, index)), payload: codec::encode_payload(&payload) };
    let records = payloads.zip(id.index..).map(record).collect();
    let (told, durable) = tokio::sync::oneshot::channel();
    let done = Box::new(move |written| {
        let _ = told.send(written);
    });
    wal.append(replica, records, done).map_err(|e| failed(e.to_string()))?;
    match durable.await {
        Ok(Ok(())) => Ok(id),
        _ => Err(failed("it has stopped".to_string())),
    }
}

/// Where the log of a replica that doesn't run ends: the term and the index of its last entry. `None`: it has none.
pub fn end_of_log(wal: &Wal, replica: ReplicaId) -> Option<(u64, u64)> {
    let last = from_wal(wal.replica_state(replica)?.last?);
    Some((last.leader_id.term, last.index))
}

fn alone(replica: ReplicaId, node: NodeId) -> Result<Membership, String> {
    let voters = vec![BTreeSet::from([replica.0])];
    Membership::new(voters, BTreeMap::from([(replica.0, Member { node })])).map_err(|e| e.to_string())
}

/// Whether that entry of the log says so already.
async fn is_sole(wal: &Wal, replica: ReplicaId, index: u64) -> Result<bool, wal::ReadError> {
    let purged = wal.replica_state(replica).and_then(|state| state.last_purged);
    if purged.is_some_and(|purged| purged.index >= index) {
        return Ok(false);
    }
    let records = wal.read(replica, index..index + 1, usize::MAX).await?;
    let Some(payload) = records.first().and_then(|record| codec::decode_payload(&record.payload).ok()) else {
        return Ok(false);
    };
    Ok(match payload {
        Payload::Membership(membership) => membership.voter_ids().eq([replica.0]),
        _ => false,
    })
}
