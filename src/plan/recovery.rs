//! A group of which most voters are gone for good, and that goes on with one that is left.

use std::collections::BTreeSet;

use crate::ids::ReplicaId;

use super::{Membership, MembershipId};

/// Which replica goes on alone, by the word of an operator, and who may belong to its group from then on.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Recovery {
    /// The one that is left.
    #[n(0)]
    pub survivor: ReplicaId,
    /// The first replica id that was not given out by then. All below but the survivor's are out of the group for good.
    #[n(1)]
    pub fresh: ReplicaId,
    /// The members before.
    #[n(2)]
    pub before: Membership,
}

impl Recovery {
    /// Whether a replica may be a member, and its frames are taken.
    pub fn admits(&self, replica: ReplicaId) -> bool {
        replica == self.survivor || replica >= self.fresh
    }

    /// Whether nobody votes in `membership` who is out for good.
    pub fn admits_all(&self, membership: &Membership) -> bool {
        membership.sets().flatten().all(|replica| self.admits(*replica))
    }

    /// The members as they are recorded until the survivor tells of its own: older than any that a leader can tell.
    pub fn alone(survivor: ReplicaId) -> Membership {
        let (voters, learners) = (BTreeSet::from([survivor]), BTreeSet::new());
        Membership { id: MembershipId::default(), voters, leaving: None, learners }
    }

    /// Whether the survivor has not told of its membership yet.
    pub fn is_pending(recorded: Option<&Membership>) -> bool {
        recorded.is_some_and(|membership| membership.id == MembershipId::default())
    }
}
