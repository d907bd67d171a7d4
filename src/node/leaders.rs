//! Who leads what, as far as this node has heard: from its own replicas and from the other nodes' pulses.
//!
//! Hearsay: it says where to try first, and nothing else. Of two claims for a group the one of the higher term counts; a claim
//! is dropped when the node that made it stops repeating it.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::ids::{GroupId, NodeId, ReplicaId};

/// A claim to lead a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Lead {
    /// The term that it leads.
    #[n(0)]
    pub term: u64,
    /// The leading replica.
    #[n(1)]
    pub replica: ReplicaId,
    /// The node that it is on.
    #[n(2)]
    pub node: NodeId,
}

/// What has been heard.
#[derive(Debug, Default)]
pub struct Leaders {
    leads: RwLock<BTreeMap<GroupId, Lead>>,
    changes: watch::Sender<u64>,
}

impl Leaders {
    /// Who leads a group.
    pub fn get(&self, group: GroupId) -> Option<Lead> {
        self.leads.read().get(&group).copied()
    }

    /// Everything that has been heard.
    pub fn all(&self) -> BTreeMap<GroupId, Lead> {
        self.leads.read().clone()
    }

    /// Takes in all that a node claims; what it claimed before and claims no more is dropped.
    pub fn hear(&self, node: NodeId, claims: impl IntoIterator<Item = (GroupId, u64, ReplicaId)>) {
        let claims: BTreeMap<GroupId, Lead> =
            claims.into_iter().map(|(group, term, replica)| (group, Lead { term, replica, node })).collect();
        let mut leads = self.leads.write();
        let before = leads.len();
        leads.retain(|group, lead| lead.node != node || claims.contains_key(group));
        let mut changed = leads.len() != before;
        for (group, lead) in claims {
            let better = leads.get(&group).is_none_or(|known| known.term < lead.term);
            if better {
                leads.insert(group, lead);
                changed = true;
            }
        }
        drop(leads);
        if changed {
            self.changes.send_modify(|version| *version += 1);
        }
    }

    /// Takes in one claim, from an answer.
    pub fn hear_one(&self, group: GroupId, lead: Lead) {
        let mut leads = self.leads.write();
        if leads.get(&group).is_none_or(|known| known.term < lead.term) {
            leads.insert(group, lead);
            drop(leads);
            self.changes.send_modify(|version| *version += 1);
        }
    }

    /// Drops a claim that proved wrong, unless a newer one has come.
    pub fn doubt(&self, group: GroupId, lead: Lead) {
        let mut leads = self.leads.write();
        if leads.get(&group) == Some(&lead) {
            leads.remove(&group);
        }
    }

    /// Drops all that a node claims: it is not heard any more.
    pub fn forget(&self, node: NodeId) {
        self.hear(node, []);
    }

    /// Wakes when something changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);
    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);

    #[test]
    fn the_higher_term_counts_whatever_comes_first() {
        for turned in [false, true] {
            let leaders = Leaders::default();
            let mut claims = [(ONE, 4, ReplicaId(10)), (TWO, 5, ReplicaId(20))];
            if turned {
                claims.reverse();
            }
            for (node, term, replica) in claims {
                leaders.hear(node, [(GROUP, term, replica)]);
            }
            assert_eq!(leaders.get(GROUP), Some(Lead { term: 5, replica: ReplicaId(20), node: TWO }));
        }
    }

    #[test]
    fn a_claim_that_is_not_repeated_is_dropped() {
        let leaders = Leaders::default();
        leaders.hear(ONE, [(GROUP, 4, ReplicaId(10)), (GroupId(8), 4, ReplicaId(11))]);
        leaders.hear(ONE, [(GroupId(8), 4, ReplicaId(11))]);
        assert_eq!(leaders.get(GROUP), None);
        leaders.forget(ONE);
        assert_eq!(leaders.get(GroupId(8)), None);
    }

    #[test]
    fn doubting_an_old_claim_leaves_a_newer_one() {
        let leaders = Leaders::default();
        let old = Lead { term: 4, replica: ReplicaId(10), node: ONE };
        let new = Lead { term: 5, ..old };
        leaders.hear_one(GROUP, old);
        leaders.hear_one(GROUP, new);
        leaders.doubt(GROUP, old);
        assert_eq!(leaders.get(GROUP), Some(new));
        leaders.doubt(GROUP, new);
        assert_eq!(leaders.get(GROUP), None);
    }
}
