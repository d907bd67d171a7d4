//! What the meta group has committed about a group, and the only ways in which that may change.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, ReplicaId};

use super::{Membership, MembershipId};

/// The most replicas of one group that may be known at a time: the wanted, and those on their way out.
pub const REPLICAS_MAX: usize = 32;

/// A replica that the meta group has given out, until it is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Allotted {
    /// Where it stands, for all its life.
    #[n(0)]
    pub node: NodeId,
    /// Once dismissed: the committed membership that it was found missing in. From here it can only be destroyed.
    #[n(1)]
    pub dismissed_by: Option<MembershipId>,
    /// Whether it was in a recorded membership. Once it has been in one and is no longer, it never comes back.
    #[n(2)]
    pub joined: bool,
    /// An operator wants a fresh replica in its place. It votes until that one does.
    #[cbor(n(3), default)]
    pub unwanted: bool,
}

impl Allotted {
    /// One that was given out on `node`, and was in a membership or not.
    pub fn on(node: NodeId, joined: bool) -> Self {
        Self { node, dismissed_by: None, joined, unwanted: false }
    }

    /// Whether it has yet to join.
    pub fn is_waiting(&self) -> bool {
        !self.joined && self.dismissed_by.is_none()
    }
}

/// Why a replica is not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReplaced {
    /// There is no such replica, or it is out already.
    Unknown,
    /// It has no vote.
    NoVote,
    /// Too many replicas of the group are known: at most [`REPLICAS_MAX`].
    TooMany,
}

/// A group's first replica set.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Founding {
    /// The first voters.
    #[n(0)]
    pub voters: BTreeSet<ReplicaId>,
    /// The only one that may be told to initialize the group.
    #[n(1)]
    pub founder: ReplicaId,
}

/// What the meta group has committed about a group, beside its wanted nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Recorded {
    /// The first replica set; written once.
    #[n(0)]
    pub founding: Option<Founding>,
    /// Replicas given out and not yet forgotten.
    #[n(1)]
    pub replicas: BTreeMap<ReplicaId, Allotted>,
    /// The newest committed membership that was recorded.
    #[n(2)]
    pub membership: Option<Membership>,
}

impl Recorded {
    /// [`Duty::Found`](super::Duty::Found): writes the first replica set, `founder`'s among `seats`, if none is written.
    /// Says whether it was.
    pub fn found(&mut self, seats: &[(ReplicaId, NodeId)], founder: NodeId) -> bool {
        let Some(&(founder, _)) = seats.iter().find(|(_, node)| *node == founder) else { return false };
        if self.founding.is_some() {
            return false;
        }
        let voters = seats.iter().map(|&(replica, _)| replica).collect();
        self.founding = Some(Founding { voters, founder });
        for &(replica, node) in seats {
            self.replicas.insert(replica, Allotted::on(node, true));
        }
        true
    }

    /// [`Step::Allot`](super::Step::Allot): gives out `replica`, fresh in the cluster, on the node, unless one is given out
    /// there that has yet to join. Says whether it was.
    pub fn allot(&mut self, replica: ReplicaId, node: NodeId) -> bool {
        let waiting = |a: &Allotted| a.node == node && a.is_waiting();
        if self.replicas.len() >= REPLICAS_MAX || self.replicas.values().any(waiting) {
            return false;
        }
        self.replicas.entry(replica).or_insert(Allotted::on(node, false));
        true
    }

    /// An operator wants a fresh replica in the place of this voter, on the same node: `fresh` is given out there, unless one is
    /// that may take its place. Answers which it is.
    pub fn replace(&mut self, replica: ReplicaId, fresh: ReplicaId) -> Result<ReplicaId, NotReplaced> {
        let known = self.replicas.get(&replica).filter(|allotted| allotted.dismissed_by.is_none());
        let node = known.ok_or(NotReplaced::Unknown)?.node;
        let votes = self.membership.as_ref().is_some_and(|membership| membership.voters.contains(&replica));
        if !votes {
            return Err(NotReplaced::NoVote);
        }
        let successor = match self.successor_on(node) {
            Some(successor) => successor,
            None if self.replicas.len() >= REPLICAS_MAX => return Err(NotReplaced::TooMany),
            None => {
                self.replicas.insert(fresh, Allotted::on(node, false));
                fresh
            }
        };
        if let Some(allotted) = self.replicas.get_mut(&replica) {
            allotted.unwanted = true;
        }
        Ok(successor)
    }

    /// The replica on the node that has no vote yet and may get one.
    pub fn successor_on(&self, node: NodeId) -> Option<ReplicaId> {
        let votes = |replica: &ReplicaId| self.membership.as_ref().is_some_and(|m| m.has_voter(*replica));
        let mut fresh = self.replicas.iter().filter(|(_, a)| a.node == node && a.dismissed_by.is_none() && !a.unwanted);
        fresh.find(|(replica, _)| !votes(replica)).map(|(replica, _)| *replica)
    }

    /// [`Step::RecordMembership`](super::Step::RecordMembership): writes down a committed membership that is newer than the
    /// one written. Says whether it was.
    pub fn record(&mut self, membership: Membership) -> bool {
        if self.membership.as_ref().is_some_and(|known| known.id >= membership.id) {
            return false;
        }
        for (&replica, allotted) in &mut self.replicas {
            allotted.joined |= membership.has(replica);
        }
        self.membership = Some(membership);
        true
    }

    /// [`Step::Dismiss`](super::Step::Dismiss): writes down that the replica is out for good, if the membership written is
    /// the one it was found missing in. Says whether it was.
    pub fn dismiss(&mut self, replica: ReplicaId, missing_in: MembershipId) -> bool {
        let missing = self.membership.as_ref().is_some_and(|known| known.id == missing_in && !known.has(replica));
        match self.replicas.get_mut(&replica) {
            Some(allotted) if missing && allotted.dismissed_by.is_none() => {
                allotted.dismissed_by = Some(missing_in);
                true
            }
            _ => false,
        }
    }

    /// [`Step::Forget`](super::Step::Forget) and the end of [`Duty::Destroy`](super::Duty::Destroy): forgets a dismissed
    /// replica. Says whether it did.
    pub fn forget(&mut self, replica: ReplicaId) -> bool {
        let dismissed = self.replicas.get(&replica).is_some_and(|a| a.dismissed_by.is_some());
        dismissed && self.replicas.remove(&replica).is_some()
    }

    /// Whether the node may make this replica, and keep it: it is given out there and not dismissed.
    pub fn may_exist(&self, replica: ReplicaId, node: NodeId) -> bool {
        self.replicas.get(&replica).is_some_and(|a| a.node == node && a.dismissed_by.is_none())
    }
}
