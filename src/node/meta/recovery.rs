//! A shard goes on with one replica that is left.
//!
//! # What is refused, and why no two of a group can lead after it
//!
//! Let S be the set of voters of which most stand on nodes that are removed or given up, one of them the survivor. Whoever was to lead by
//! the members of before needs more than half of S. Without the survivor that takes two at least of those that are given up: one of them
//! to give its vote to the other. But
//!
//! - the survivor's node has applied this command before it acts, and takes no frame of theirs any more (`Switchboard::admit_only`);
//! - a node whose process begins after this command gives no shard's vote, its own included, before it has applied what the
//!   meta group had committed by then (`node::confirm`), and then it runs none of them (`Wanted::rest`).
//!
//! So it takes nodes that were given up and never stopped, one of which leads or two of which give their votes, and that hear nobody of the
//! rest: that is what the operator vouches for. Where the meta group itself was recovered its old voters must never run again as they are:
//! they would confirm each other.
//!
//! # Caveats
//!
//! Revisions follow the log's indexes, so those that were lost are given out again.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, GroupId, NodeId, ReplicaId};
use crate::plan::{Allotted, Membership, MembershipId, Recovery};

use super::apply::Change;
use super::{GroupRecord, MetaState, Refusal};

/// More commands than a meta group that is lost can have acknowledged without the replica that is left of it.
const LOST_MAX: u64 = 1 << 20;

impl MetaState {
    /// Whether a node's replicas are given up: it is removed, or was dead for too long.
    pub fn counts_as_gone(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_none_or(|record| record.is_given_up()) || self.is_removed(node)
    }

    /// The voters that a recovery of the group is judged by: those of before, while one is under way.
    pub fn voters_judged(record: &GroupRecord) -> Vec<BTreeSet<ReplicaId>> {
        let recorded = record.recorded.membership.as_ref();
        let before = record.recovery.as_ref().filter(|_| Recovery::is_pending(recorded)).map(|r| &r.before);
        match before.or(recorded) {
            Some(membership) => membership.sets().cloned().collect(),
            None => record.recorded.founding.iter().map(|founding| founding.voters.clone()).collect(),
        }
    }

    /// Whether a shard may go on with `survivor` alone; an error says why not.
    pub fn may_recover(&self, group: GroupId, survivor: ReplicaId) -> Result<(), Refusal> {
        group.shard().ok_or(Refusal::UnknownGroup)?;
        let record = self.groups.get(&group).ok_or(Refusal::UnknownGroup)?;
        let replicas = &record.recorded.replicas;
        let known = replicas.get(&survivor).filter(|allotted| allotted.dismissed_by.is_none());
        if self.counts_as_gone(known.ok_or(Refusal::UnknownReplica)?.node) {
            return Err(Refusal::UnknownNode);
        }
        let is_gone = |replica: &ReplicaId| replicas.get(replica).is_none_or(|a| self.counts_as_gone(a.node));
        let pending = record.recovery.as_ref().filter(|_| Recovery::is_pending(record.recorded.membership.as_ref()));
        if pending.is_some_and(|other| other.survivor != survivor && !is_gone(&other.survivor)) {
            // There would be two.
            return Err(Refusal::HasQuorum);
        }
        let sets = Self::voters_judged(record);
        if !sets.iter().flatten().any(|replica| *replica == survivor) {
            return Err(Refusal::NoVote);
        }
        let is_left = |set: &BTreeSet<ReplicaId>| {
            set.contains(&survivor) && set.iter().filter(|replica| !is_gone(replica)).count() <= set.len() / 2
        };
        if sets.iter().any(is_left) { Ok(()) } else { Err(Refusal::HasQuorum) }
    }

    pub(super) fn recover(&mut self, group: GroupId, version: u64, survivor: ReplicaId) -> Result<Change, Refusal> {
        let fresh = self.next_replica;
        let record = self.groups.get(&group).ok_or(Refusal::UnknownGroup)?;
        let is_pending = Recovery::is_pending(record.recorded.membership.as_ref());
        if is_pending && record.recovery.as_ref().is_some_and(|known| known.survivor == survivor) {
            return Ok(Change::Nothing);
        }
        self.seen(group, version)?;
        self.may_recover(group, survivor)?;
        let record = self.seen(group, version)?;
        let before = match &record.recovery {
            Some(known) if is_pending => known.before.clone(),
            _ => record.recorded.membership.clone().unwrap_or_else(|| founders(record)),
        };
        for (_, allotted) in record.recorded.replicas.iter_mut().filter(|(replica, _)| **replica != survivor) {
            // It has nothing that could be wanted. The others are dismissed when the survivor leads: until then they keep what they have.
            if allotted.is_waiting() {
                allotted.dismissed_by = Some(MembershipId::default());
            }
        }
        if let Some(allotted) = record.recorded.replicas.get_mut(&survivor) {
            *allotted = Allotted::on(allotted.node, true);
        }
        record.recorded.membership = Some(Recovery::alone(survivor));
        record.recovery = Some(Recovery { survivor, fresh, before });
        record.version += 1;
        self.next_epoch();
        Ok(Change::Something)
    }

    /// The meta group goes on with one replica alone. What it had acknowledged and this one has not is lost: replica ids given out,
    /// epochs and revisions that others have seen. So all of these go on far beyond whatever that can have been.
    pub(super) fn recover_meta(&mut self, survivor: ReplicaId) -> Result<Change, Refusal> {
        let fresh = ReplicaId(self.next_replica.0 + LOST_MAX);
        let record = self.groups.get_mut(&GroupId::META).ok_or(Refusal::UnknownGroup)?;
        let known = record.recorded.replicas.get(&survivor).filter(|allotted| allotted.dismissed_by.is_none());
        known.ok_or(Refusal::UnknownReplica)?;
        let before = record.recorded.membership.clone().unwrap_or_else(|| founders(record));
        for (_, allotted) in record.recorded.replicas.iter_mut().filter(|(replica, _)| **replica != survivor) {
            // Every node listens under a fresh id as soon as it is heard.
            allotted.dismissed_by.get_or_insert(before.id);
        }
        record.recovery = Some(Recovery { survivor, fresh, before });
        record.version += 1;
        self.next_replica = fresh;
        self.revision += LOST_MAX;
        self.epoch.0 += LOST_MAX;
        Ok(Change::Something)
    }

    /// Whether somebody who tells of that epoch knows of a recovery of the meta group that this state doesn't.
    pub fn is_of_before(&self, told: Epoch) -> bool {
        told.0 >= self.epoch.0.saturating_add(LOST_MAX / 2)
    }

    /// The groups that were recovered.
    pub fn recovered(&self) -> BTreeMap<GroupId, Recovery> {
        let of = |(group, record): (&GroupId, &GroupRecord)| Some((*group, record.recovery.clone()?));
        self.groups.iter().filter_map(of).collect()
    }

    /// The replicas on a node that go on alone for their groups, and haven't told of that yet.
    pub fn to_go_on_alone(&self, node: NodeId) -> Vec<(GroupId, ReplicaId)> {
        let here = self.groups.iter().filter_map(|(group, record)| {
            let survivor = record.recovery.as_ref()?.survivor;
            let on = record.recorded.replicas.get(&survivor).filter(|allotted| allotted.dismissed_by.is_none())?.node;
            let is_due = on == node && Recovery::is_pending(record.recorded.membership.as_ref());
            is_due.then_some((*group, survivor))
        });
        here.collect()
    }

    /// The replicas on a node that a recovery has left behind and that are not dismissed yet: they don't run, and keep what they have.
    pub fn resting_on(&self, node: NodeId) -> impl Iterator<Item = (GroupId, ReplicaId)> + '_ {
        self.groups.iter().flat_map(move |(group, record)| {
            let here = record.recorded.replicas.iter();
            let here = here.filter(move |(replica, allotted)| {
                allotted.node == node && allotted.dismissed_by.is_none() && !record.admits(**replica)
            });
            here.map(|(replica, _)| (*group, *replica))
        })
    }
}

/// The members of a group of which none was ever recorded.
fn founders(record: &GroupRecord) -> Membership {
    let voters = record.recorded.founding.iter().flat_map(|founding| founding.voters.iter().copied()).collect();
    Membership { id: MembershipId::default(), voters, leaving: None, learners: BTreeSet::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::node::folder::{Charter, ClusterId, Founder};
    use crate::node::meta::{Answer, Command};
    use crate::raft::MetaState as _;
    use crate::ring::{Placement, Rules, ShardCount, Weight, Zone, place};
    use crate::versions::ClusterVersion;

    const SHARD: GroupId = GroupId(1);

    /// Five nodes, each shard on three, all memberships recorded; and the nodes of the first shard's voters.
    fn founded(version: u32) -> (MetaState, Vec<(ReplicaId, NodeId)>) {
        let founder = |n: u64| Founder {
            node: NodeId(n),
            name: format!("n{n}"),
            zone: Zone::default(),
            weight: Weight::default(),
            link: format!("127.0.0.1:{n}"),
        };
        let shards = ShardCount::new(8).unwrap();
        let charter =
            Charter::new(ClusterId::from_random(1, 2), shards, Rules::default(), (1..=5).map(founder).collect());
        let charter = charter.unwrap().at(ClusterVersion(version));
        let placement = place(&charter.members(), shards, charter.rules, &Placement::empty(shards)).unwrap();
        let mut meta = MetaState::default();
        done(&mut meta, Command::Found { charter, placement });
        let voters: Vec<(ReplicaId, NodeId)> =
            meta.groups[&SHARD].recorded.replicas.iter().map(|(replica, a)| (*replica, a.node)).collect();
        assert_eq!((voters.len(), SHARD.shard()), (3, Some(ShardId(0))));
        done(&mut meta, record(9, &[voters[0].0, voters[1].0, voters[2].0]));
        (meta, voters)
    }

    fn record(index: u64, voters: &[ReplicaId]) -> Command {
        let (id, voters) = (MembershipId { index, term: 1 }, voters.iter().copied().collect());
        let membership = Membership { id, voters, leaving: None, learners: BTreeSet::new() };
        Command::RecordMembership { group: SHARD, membership }
    }

    fn done(meta: &mut MetaState, command: Command) {
        let answer = meta.apply(command.clone());
        assert!(matches!(answer, Answer::Done { .. }), "{command:?}: {answer:?}");
    }

    fn refused(meta: &mut MetaState, command: Command) -> Refusal {
        match meta.apply(command) {
            Answer::Refused { why, .. } => why,
            other => panic!("{other:?} is no refusal"),
        }
    }

    fn recover(meta: &MetaState, survivor: ReplicaId) -> Command {
        Command::Recover { group: SHARD, version: meta.groups[&SHARD].version, survivor }
    }

    fn lose(meta: &mut MetaState, node: NodeId) {
        done(meta, Command::Remove { node, lost: Some(meta.epoch) });
    }

    #[test]
    fn a_shard_is_recovered_only_when_most_of_its_voters_are_given_up_or_removed() {
        let (mut meta, voters) = founded(5);
        let (left, on) = voters[0];
        let command = recover(&meta, left);
        assert_eq!(refused(&mut meta, command), Refusal::HasQuorum);
        lose(&mut meta, voters[1].1);
        let command = recover(&meta, left);
        assert_eq!(refused(&mut meta, command), Refusal::HasQuorum, "two of three may live");
        done(&mut meta, Command::Hurry { node: voters[2].1 });
        let gone = recover(&meta, voters[1].0);
        assert_eq!(refused(&mut meta, gone), Refusal::UnknownNode, "its node is gone");
        let stranger = recover(&meta, ReplicaId(2));
        assert_eq!(refused(&mut meta, stranger), Refusal::UnknownReplica);
        let old = Command::Recover { group: SHARD, version: 1, survivor: left };
        assert_eq!(refused(&mut meta, old), Refusal::Outdated);
        let metas = Command::Recover { group: GroupId::META, version: 1, survivor: ReplicaId(1) };
        assert_eq!(refused(&mut meta, metas), Refusal::UnknownGroup);
        let (command, epoch, fresh) = (recover(&meta, left), meta.epoch, meta.next_replica);
        done(&mut meta, command.clone());
        assert_eq!(meta.epoch, Epoch(epoch.0 + 1), "who lags behind it can be told");
        assert!(matches!(meta.apply(command), Answer::Unchanged { .. }), "asked again");
        assert_eq!(meta.to_go_on_alone(on), [(SHARD, left)]);
        let recovery = meta.groups[&SHARD].recovery.clone().unwrap();
        assert_eq!((recovery.survivor, recovery.fresh), (left, fresh));
        assert!(recovery.admits(left) && recovery.admits(fresh) && !recovery.admits(voters[1].0));
        // The others keep what they have, and don't run, until the survivor leads.
        let node = voters[2].1;
        assert_eq!(meta.resting_on(node).collect::<Vec<_>>(), [(SHARD, voters[2].0)]);
        assert!(!meta.hosted_by(node).any(|(group, _)| group == SHARD) && meta.dismissed_on(node).count() == 0);
        let state = super::super::Replicated::decode(&minicbor::to_vec(&meta).unwrap()).unwrap();
        assert_eq!(**state.state(), meta);
    }

    #[test]
    fn what_a_leader_of_before_tells_is_not_recorded_and_what_the_survivor_tells_ends_it() {
        let (mut meta, voters) = founded(5);
        let (left, on) = voters[0];
        lose(&mut meta, voters[1].1);
        lose(&mut meta, voters[2].1);
        let command = recover(&meta, left);
        done(&mut meta, command);
        let old = record(500, &[voters[0].0, voters[1].0, voters[2].0]);
        assert_eq!(refused(&mut meta, old.clone()), Refusal::Outdated);
        // Its log was shorter than what was recorded before.
        done(&mut meta, record(7, &[left]));
        assert!(meta.to_go_on_alone(on).is_empty());
        assert_eq!(refused(&mut meta, old), Refusal::Outdated, "for good");
        let fresh = Command::Allot { group: SHARD, version: meta.groups[&SHARD].version, node: NodeId(on.0) };
        let Answer::Done { replica: Some(fresh), .. } = meta.apply(fresh) else { panic!("none was given out") };
        done(&mut meta, record(8, &[left, fresh]));
    }

    #[test]
    fn no_second_one_goes_on_while_the_first_may_live() {
        let (mut meta, voters) = founded(5);
        let nodes: BTreeSet<NodeId> = voters.iter().map(|(_, node)| *node).collect();
        let others: Vec<NodeId> = (1..=5).map(NodeId).filter(|node| !nodes.contains(node)).collect();
        let mut five: Vec<ReplicaId> = voters.iter().map(|(replica, _)| *replica).collect();
        for node in &others {
            let allot = Command::Allot { group: SHARD, version: meta.groups[&SHARD].version, node: *node };
            let Answer::Done { replica: Some(replica), .. } = meta.apply(allot) else { panic!("none was given out") };
            five.push(replica);
        }
        done(&mut meta, record(12, &five));
        [voters[1].1, voters[2].1, others[0]].into_iter().for_each(|node| lose(&mut meta, node));
        let (first, second) = (recover(&meta, five[0]), five[4]);
        done(&mut meta, first);
        let other = recover(&meta, second);
        assert_eq!(refused(&mut meta, other), Refusal::HasQuorum);
        assert_eq!(meta.resting_on(others[1]).collect::<Vec<_>>(), [(SHARD, second)]);
        // The first is gone before it led.
        lose(&mut meta, voters[0].1);
        let other = recover(&meta, second);
        done(&mut meta, other);
        assert!(!meta.groups[&SHARD].admits(five[0]) && meta.groups[&SHARD].admits(second));
        assert_eq!(meta.to_go_on_alone(others[1]), [(SHARD, second)]);
    }

    #[test]
    fn a_recovered_meta_group_goes_on_beyond_all_that_the_lost_one_can_have_given_out() {
        let (mut meta, _) = founded(5);
        let lost = meta.clone();
        done(&mut meta, Command::RecoverMeta { survivor: ReplicaId(1) });
        assert!(meta.next_replica.0 > lost.next_replica.0 + 1_000_000 && meta.revision > lost.revision + 1_000_000);
        assert!(lost.is_of_before(meta.epoch) && !meta.is_of_before(meta.epoch) && !lost.is_of_before(lost.epoch));
        let here: Vec<NodeId> =
            (1..=5).map(NodeId).filter(|node| meta.hosted_by(*node).any(|(group, _)| group == GroupId::META)).collect();
        assert_eq!(here, [NodeId(1)], "the others listen anew");
        let old = Membership {
            id: MembershipId { index: 90, term: 9 },
            voters: (1..=3).map(ReplicaId).collect(),
            leaving: None,
            learners: BTreeSet::new(),
        };
        let told = Command::RecordMembership { group: GroupId::META, membership: old.clone() };
        assert_eq!(refused(&mut meta, told), Refusal::Outdated);
        let alone = Membership { voters: [ReplicaId(1)].into(), ..old };
        done(&mut meta, Command::RecordMembership { group: GroupId::META, membership: alone });
    }

    #[test]
    fn under_earlier_versions_nothing_of_it_is_done_or_written() {
        let (mut meta, voters) = founded(4);
        let before = minicbor::to_vec(&meta.groups).unwrap();
        let command = recover(&meta, voters[0].0);
        assert_eq!(refused(&mut meta, command), Refusal::TooEarly);
        assert_eq!(minicbor::to_vec(&meta.groups).unwrap(), before);
    }
}
