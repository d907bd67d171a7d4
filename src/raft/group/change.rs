//! Changing the members, and handing over the lead.
//!
//! Every change names the membership upon which it was decided (openraft's `Precondition::LastMembershipLogId`), so that a
//! plan made from an old observation is refused. Replacing one replica is four steps, each of which may be done again:
//! add the fresh one as a learner, wait until it has caught up, change the voters by a joint membership, and (the old one
//! leaves with that) stop and destroy the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Precondition};

use super::{ChangeError, Group, Members, MembershipId, TransferError};
use crate::ids::{NodeId, ReplicaId};
use crate::raft::batcher::hint;
use crate::raft::machine::Machine;
use crate::raft::outcome::{LeaderHint, Rejected, Role};
use crate::raft::types::{self, Member, Types};

/// A target further behind than this is not handed the lead: the group would stall until it has caught up.
const TRANSFER_LAG_MAX: u64 = 64;

type Changed = Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>;

impl<M: Machine> Group<M> {
    /// Makes this replica, which must be empty, the first of its group, with `members` as voters. Exactly one replica of a
    /// group may be told so, once in the group's life: the one that the meta log names. Telling it again does nothing.
    pub async fn initialize(&self, members: BTreeMap<ReplicaId, NodeId>) -> Result<(), ChangeError> {
        let raft = self.inner.raft.clone();
        match raft.is_initialized().await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(_) => return Err(ChangeError::Stopped),
        }
        let members = types::members(members);
        let run = self.inner.parts.thread.run(async move { raft.initialize(members).await });
        match run.await {
            Some(Ok(())) => Ok(()),
            Some(Err(RaftError::APIError(e))) => Err(ChangeError::Refused(e.to_string())),
            Some(Err(RaftError::Fatal(_))) | None => Err(ChangeError::Stopped),
        }
    }

    /// Adds a listener without a vote. `expected` is where the membership stood upon which this was decided.
    pub async fn add_learner(
        &self,
        replica: ReplicaId,
        node: NodeId,
        expected: MembershipId,
    ) -> Result<MembershipId, ChangeError> {
        let nodes = BTreeMap::from([(replica.0, Member { node })]);
        self.change(ChangeMembers::AddNodes(nodes), expected).await
    }

    /// Makes `voters` (all of them members already) the voters, by a joint change; those who lose their vote leave.
    ///
    /// The change has two steps. When only the first is made the answer is `Unknown`, the members are two sets, and calling
    /// this again with their id makes the second.
    pub async fn change_voters(
        &self,
        voters: Vec<ReplicaId>,
        expected: MembershipId,
    ) -> Result<MembershipId, ChangeError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|voter| voter.0).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters), expected).await
    }

    /// Removes a listener without a vote.
    pub async fn remove_learner(
        &self,
        replica: ReplicaId,
        expected: MembershipId,
    ) -> Result<MembershipId, ChangeError> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([replica.0])), expected).await
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, Member>,
        expected: MembershipId,
    ) -> Result<MembershipId, ChangeError> {
        if let Err(rejected) = self.inner.lead.term() {
            return Err(not_leading(rejected));
        }
        let raft = self.inner.raft.clone();
        // On the groups' thread, so that a caller that gives up doesn't leave a change half-way.
        let changing = self.inner.parts.thread.run(async move {
            let guard = Precondition::LastMembershipLogId { last_membership_log_id: expected };
            raft.change_membership_if(change, false, [guard]).await
        });
        match changing.await {
            Some(changed) => self.changed(changed, expected),
            None => Err(ChangeError::Stopped),
        }
    }

    fn changed(&self, changed: Changed, expected: MembershipId) -> Result<MembershipId, ChangeError> {
        let error = match changed {
            Ok(response) => return Ok(Some(response.log_id)),
            Err(RaftError::Fatal(error)) => return Err(ChangeError::Unknown(error.to_string())),
            Err(RaftError::APIError(error)) => error,
        };
        // A joint change that fails at its second step says why that failed; the first is made all the same.
        if self.members().id != expected && !matches!(error, ClientWriteError::PreconditionFailed(_)) {
            return Err(ChangeError::Unknown(error.to_string()));
        }
        Err(match error {
            ClientWriteError::ForwardToLeader(to) => {
                ChangeError::NotLeader { leader: hint(to.leader_id, to.leader_node) }
            }
            ClientWriteError::PreconditionFailed(e) => ChangeError::Changed(e.to_string()),
            ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(e)) => {
                ChangeError::Changed(e.to_string())
            }
            ClientWriteError::ChangeMembershipError(e) => ChangeError::Refused(e.to_string()),
            ClientWriteError::LogEntryDiscarded(_) => ChangeError::Unknown(error.to_string()),
        })
    }

    /// The members, as of this replica's log.
    pub fn members(&self) -> Members {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
        Members::new(&metrics.membership_config, committed)
    }

    /// Waits, on the leader, until `replica` is at most `lag_max` entries behind; gives its lag. `None` when the time is over
    /// or this replica does not lead any more.
    pub async fn wait_caught_up(&self, replica: ReplicaId, lag_max: u64, timeout: Duration) -> Option<u64> {
        let mut metrics = self.inner.raft.metrics();
        let peers = self.inner.peers.clone();
        within(timeout, async move {
            loop {
                {
                    let now = metrics.borrow_watched();
                    now.replication.as_ref()?;
                    if let Some(progress) = super::progress(&now, &peers.acknowledged.forsworn()).get(&replica)
                        && progress.matched.is_some()
                        && progress.lag <= lag_max
                    {
                        return Some(progress.lag);
                    }
                }
                metrics.changed().await.ok()?;
            }
        })
        .await?
    }

    /// Hands the lead over to `to`, if it is a voter and not behind, and waits until it leads.
    pub async fn transfer_leader(&self, to: ReplicaId, timeout: Duration) -> Result<(), TransferError> {
        match self.inner.lead.term() {
            Ok(_) if to == self.replica() => return Ok(()),
            Ok(_) => {}
            Err(Rejected::NotLeader { leader }) => return Err(TransferError::NotLeader { leader }),
            Err(_) => return Err(TransferError::Stopped),
        }
        let status = self.status();
        if !status.members.is_voter(to) {
            return Err(TransferError::NotVoter(to));
        }
        // openraft never takes a transfer back that has failed (its issue 2088): the old leader falls silent and an
        // election follows. So a target that is behind isn't even tried.
        let lag = status.progress.get(&to).map_or(u64::MAX, |progress| progress.lag);
        if lag > TRANSFER_LAG_MAX {
            return Err(TransferError::Behind { replica: to, lag });
        }
        self.inner.raft.trigger().transfer_leader(to.0).await.map_err(|_| TransferError::Stopped)?;
        let mut changes = self.changes();
        let taken = within(timeout, async {
            while self.leadership().2.map(|leader| leader.replica) != Some(to) {
                if !changes.changed().await {
                    return false;
                }
            }
            true
        });
        match taken.await {
            Some(true) => Ok(()),
            Some(false) => Err(TransferError::Stopped),
            None => Err(TransferError::TimedOut),
        }
    }

    /// Waits until this replica knows a leader, itself or another.
    pub async fn wait_leader(&self, timeout: Duration) -> Option<LeaderHint> {
        let mut changes = self.changes();
        within(timeout, async {
            loop {
                if let (Role::Leader | Role::Follower | Role::Learner, _, Some(leader)) = self.leadership() {
                    return Some(leader);
                }
                if !changes.changed().await {
                    return None;
                }
            }
        })
        .await?
    }
}

async fn within<T>(timeout: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(timeout, work).await.ok()
}

fn not_leading(rejected: Rejected) -> ChangeError {
    match rejected {
        Rejected::NotLeader { leader } => ChangeError::NotLeader { leader },
        _ => ChangeError::Stopped,
    }
}
