//! A group's committed membership, as its leader tells it.

use std::collections::BTreeSet;

use crate::ids::ReplicaId;

/// Which committed membership: the place in the group's log of the entry that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
pub struct MembershipId {
    /// The index of the entry. Alone it already orders committed memberships.
    #[n(0)]
    pub index: u64,
    /// The term of the leader that wrote it.
    #[n(1)]
    pub term: u64,
}

/// A group's committed membership.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Membership {
    /// Where it stands in the group's log.
    #[n(0)]
    pub id: MembershipId,
    /// The voters; while the membership is joint, those that it is changing to.
    #[n(1)]
    pub voters: BTreeSet<ReplicaId>,
    /// While the membership is joint: the voters that it is changing from.
    #[n(2)]
    pub leaving: Option<BTreeSet<ReplicaId>>,
    /// Those that are sent the log and have no vote.
    #[n(3)]
    pub learners: BTreeSet<ReplicaId>,
}

impl Membership {
    /// Whether the replica is a voter, old or new, or a learner.
    pub fn has(&self, replica: ReplicaId) -> bool {
        self.has_voter(replica) || self.learners.contains(&replica)
    }

    /// The sets of voters of which each has to agree: the new one, and while the membership is joint the old one.
    pub fn sets(&self) -> impl Iterator<Item = &BTreeSet<ReplicaId>> {
        std::iter::once(&self.voters).chain(&self.leaving)
    }

    /// Whether the replica is a voter, old or new.
    pub fn has_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.leaving.as_ref().is_some_and(|old| old.contains(&replica))
    }
}
