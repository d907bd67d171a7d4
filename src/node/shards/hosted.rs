//! One replica that runs here, whichever machine it has.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::node::gossip::{ReplicaReport, ReplicaRole};
use crate::node::meta::Replicated;
use crate::raft::{Broken, Group, GroupStatus, LeaderHint, MetaMachine, Role, ShardMachine, TransferError, Work};

/// A shard's group.
pub type ShardGroup = Group<ShardMachine>;
/// The meta group.
pub type MetaGroup = Group<MetaMachine<Replicated>>;

/// A replica that runs.
pub struct Hosted {
    /// Its group.
    pub group: GroupId,
    /// Which.
    pub replica: ReplicaId,
    machine: Handle,
}

/// Either kind of group.
pub(super) enum Handle {
    /// A shard's.
    Shard(ShardGroup),
    /// The meta group.
    Meta(MetaGroup),
}

/// Does the same with either kind of group.
macro_rules! either {
    ($hosted:expr, $group:ident => $what:expr) => {
        match &$hosted.machine {
            Handle::Shard($group) => $what,
            Handle::Meta($group) => $what,
        }
    };
}

impl Hosted {
    /// A replica that has just been started.
    pub(super) fn new(group: GroupId, replica: ReplicaId, machine: Handle) -> Self {
        Self { group, replica, machine }
    }

    /// Initializes its group; see [`Group::initialize`].
    pub(super) async fn initialize(&self, voters: BTreeMap<ReplicaId, NodeId>) -> Result<(), String> {
        either!(self, group => group.initialize(voters).await.map_err(|error| error.to_string()))
    }

    /// The group, when it is a shard's.
    pub fn shard(&self) -> Option<&ShardGroup> {
        match &self.machine {
            Handle::Shard(group) => Some(group),
            Handle::Meta(_) => None,
        }
    }

    /// The group, when it is the meta group.
    pub fn meta(&self) -> Option<&MetaGroup> {
        match &self.machine {
            Handle::Meta(group) => Some(group),
            Handle::Shard(_) => None,
        }
    }

    /// Whether it has taken part in its group: a fresh one knows no members, and nothing else either.
    pub fn has_members(&self) -> bool {
        either!(self, group => group.members().id.is_some())
    }

    /// Role, term and leader now.
    pub fn leadership(&self) -> (Role, u64, Option<LeaderHint>) {
        either!(self, group => group.leadership())
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.leadership().0 == Role::Leader
    }

    /// Whether it leads by its own word, and no quorum has answered it for so long that its word counts no more.
    pub fn has_lost_quorum(&self) -> bool {
        either!(self, group => group.has_lost_quorum())
    }

    /// What it is like now.
    pub fn status(&self) -> GroupStatus {
        either!(self, group => group.status())
    }

    /// What it has done as a leader since it was started.
    pub fn work(&self) -> Work {
        either!(self, group => group.work())
    }

    /// Active views in its state.
    pub fn active_views(&self) -> u64 {
        self.shard().map_or(0, |shard| shard.peek(|state| state.counts().active_views))
    }

    /// Stands for election; see [`Group::stand`].
    pub async fn stand(&self, later: Duration, patience: Duration) -> bool {
        either!(self, group => group.stand(later, patience).await)
    }

    /// Hands the lead over.
    pub async fn transfer_leader(&self, to: ReplicaId, timeout: Duration) -> Result<(), TransferError> {
        either!(self, group => group.transfer_leader(to, timeout).await)
    }

    /// Adds a listener; see [`Group::add_learner`].
    pub async fn add_learner(
        &self,
        replica: ReplicaId,
        node: NodeId,
        after: crate::raft::MembershipId,
    ) -> Result<(), crate::raft::ChangeError> {
        either!(self, group => group.add_learner(replica, node, after).await.map(|_| ()))
    }

    /// Changes the voters; see [`Group::change_voters`].
    pub async fn change_voters(
        &self,
        voters: Vec<ReplicaId>,
        after: crate::raft::MembershipId,
    ) -> Result<(), crate::raft::ChangeError> {
        either!(self, group => group.change_voters(voters, after).await.map(|_| ()))
    }

    /// Removes a listener; see [`Group::remove_learner`].
    pub async fn remove_learner(
        &self,
        replica: ReplicaId,
        after: crate::raft::MembershipId,
    ) -> Result<(), crate::raft::ChangeError> {
        either!(self, group => group.remove_learner(replica, after).await.map(|_| ()))
    }

    /// Why it has stopped by itself, or must stop; see [`Group::broken`].
    pub fn broken(&self) -> Option<Broken> {
        either!(self, group => group.broken())
    }

    /// Whether it may stand by itself; see [`Group::let_stand`].
    pub(super) fn let_stand(&self, may: bool) {
        either!(self, group => group.let_stand(may));
    }

    /// Ends it; see [`Group::stop`].
    pub(super) async fn stop(&self) {
        either!(self, group => group.stop().await);
    }

    /// Has its log purged; see [`Group::trim_log`].
    pub fn trim_log(&self) {
        either!(self, group => group.trim_log());
    }

    /// LEASE reads are done as STRONG ones for a while: see [`Group::void_leases`].
    pub fn void_leases(&self) {
        either!(self, group => group.void_leases());
    }

    /// As the other nodes are told.
    pub fn report(&self) -> ReplicaReport {
        let status = self.status();
        let role = match (&status.stopped, status.role) {
            (Some(_), _) | (None, Role::Stopped) => ReplicaRole::Stopped,
            (None, Role::Leader) => ReplicaRole::Leader,
            (None, Role::Follower) => ReplicaRole::Follower,
            (None, Role::Candidate) => ReplicaRole::Candidate,
            (None, Role::Learner) => ReplicaRole::Learner,
        };
        ReplicaReport {
            group: self.group,
            replica: self.replica,
            role,
            term: status.term,
            last_log: status.last_log.unwrap_or(0),
            applied: status.applied.unwrap_or(0),
            checkpointed: status.checkpointed.unwrap_or(0),
            log_bytes: status.log_bytes,
            revision: status.revision.0,
            voter: status.members.is_voter(self.replica),
            active_views: self.active_views(),
            checkpoint_generation: status.checkpoint_generation,
            digests: status.digests,
            why: None,
            adopted: self.shard().map(|shard| shard.peek(|state| state.version())),
            cut_off: self.has_lost_quorum(),
            forsworn: status.forsworn.into_iter().collect(),
        }
    }
}
