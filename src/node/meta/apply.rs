//! What each command does.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, GroupId, NodeId, ReplicaId, ShardId};
use crate::node::folder::Charter;
use crate::plan::{Allotted, Founding, Membership, MembershipId, NotReplaced, Recorded};
use crate::ring::{Placement, Replicas, ShardCount};
use crate::versions::{ClusterVersion, Feature};

use super::{Answer, Command, GroupRecord, Intent, MetaState, NodeRecord, Refusal};

/// What a command changed: an id, something, or nothing.
pub(super) enum Change {
    Gave(ReplicaId),
    Something,
    Nothing,
}

impl MetaState {
    /// Carries `command` out.
    pub fn apply(&mut self, command: Command) -> Answer {
        self.revision += 1;
        let changed = match command {
            command if command.needs().is_some_and(|feature| !self.has(feature)) => Err(Refusal::TooEarly),
            Command::Found { charter, placement } => self.found(charter, placement),
            Command::RecordMembership { group, membership } => self.record_membership(group, membership),
            Command::Allot { group, version, node } => self.allot(group, version, node),
            Command::Dismiss { group, version, replica, missing_in } => {
                self.dismiss(group, version, replica, missing_in)
            }
            Command::Forget { group, replica } => self.forget(group, replica),
            Command::Replace { group, version, replica } => self.replace(group, version, replica),
            Command::Place { from, placement } => self.place(from, placement),
            Command::AddNode { node, name, zone, weight } => {
                self.add_node(node, NodeRecord::joining(name, zone, weight))
            }
            Command::SetIntent { node, intent, seen, forced } => self.set_intent(node, intent, seen, forced),
            Command::RaiseVersion { version } => Ok(self.raise_version(version)),
            Command::SetSettings { settings } => {
                if settings.version <= self.settings.version {
                    Err(Refusal::Outdated)
                } else {
                    self.settings = settings;
                    Ok(Change::Something)
                }
            }
            Command::Recover { group, version, survivor } => self.recover(group, version, survivor),
            Command::RecoverMeta { survivor } => self.recover_meta(survivor),
            life => self.apply_life(life),
        };
        let epoch = self.epoch;
        match changed {
            Ok(Change::Gave(replica)) => Answer::Done { epoch, replica: Some(replica) },
            Ok(Change::Something) => Answer::Done { epoch, replica: None },
            Ok(Change::Nothing) => Answer::Unchanged { epoch },
            Err(why) => Answer::Refused { why, epoch },
        }
    }

    pub(super) fn next_epoch(&mut self) {
        self.epoch.0 += 1;
    }

    fn give_replica(&mut self) -> ReplicaId {
        let replica = self.next_replica;
        self.next_replica.0 += 1;
        replica
    }

    /// The group's record, if it is still the version that the planner saw.
    pub(super) fn seen(&mut self, group: GroupId, version: u64) -> Result<&mut GroupRecord, Refusal> {
        match self.groups.get_mut(&group) {
            None => Err(Refusal::UnknownGroup),
            Some(record) if record.version != version => Err(Refusal::Outdated),
            Some(record) => Ok(record),
        }
    }

    fn found(&mut self, charter: Charter, placement: Placement) -> Result<Change, Refusal> {
        match &self.cluster {
            Some(cluster) if *cluster == charter.cluster => return Ok(Change::Nothing),
            Some(_) => return Err(Refusal::OtherCluster),
            None => {}
        }
        let founders: BTreeSet<NodeId> = charter.founders.iter().map(|founder| founder.node).collect();
        if !fits(&placement, charter.shards, |_, node| founders.contains(&node)) {
            return Err(Refusal::UnfitPlacement);
        }
        for founder in &charter.founders {
            let record = NodeRecord {
                name: founder.name.clone(),
                zone: founder.zone.clone(),
                weight: founder.weight,
                intent: Intent::Active,
                life: None,
            };
            self.nodes.insert(founder.node, record);
        }
        self.found_meta(&charter);
        for (shard, replicas) in placement.iter() {
            let allotted: Vec<(ReplicaId, NodeId)> =
                replicas.nodes.iter().map(|node| (self.give_replica(), *node)).collect();
            let founder = allotted.iter().find(|(_, node)| Some(*node) == replicas.leader).or(allotted.first());
            let founder = founder.ok_or(Refusal::UnfitPlacement)?.0;
            self.groups.insert(shard.into(), first_set(&allotted, &allotted, founder));
        }
        self.shard_count = Some(charter.shards);
        self.cluster_version = charter.version();
        self.rules = charter.rules;
        self.cluster = Some(charter.cluster);
        self.placement = Some(placement);
        self.next_epoch();
        Ok(Change::Something)
    }

    fn found_meta(&mut self, charter: &Charter) {
        let all: Vec<(ReplicaId, NodeId)> = charter.meta_replicas().collect();
        let voters = charter.meta_voters();
        let founder = voters[0].0;
        self.meta_wanted =
            Replicas { nodes: voters.iter().map(|(_, node)| *node).collect(), leader: Some(voters[0].1) };
        self.next_replica = ReplicaId(all.len() as u64 + 1);
        self.groups.insert(GroupId::META, first_set(&all, &voters, founder));
    }

    fn record_membership(&mut self, group: GroupId, membership: Membership) -> Result<Change, Refusal> {
        let record = self.groups.get_mut(&group).ok_or(Refusal::UnknownGroup)?;
        if record.recovery.as_ref().is_some_and(|recovery| !recovery.admits_all(&membership)) {
            // Told by a leader of before, which has not heard that it is none.
            return Err(Refusal::Outdated);
        }
        if !record.recorded.record(membership) {
            return Ok(Change::Nothing);
        }
        record.version += 1;
        Ok(Change::Something)
    }

    fn allot(&mut self, group: GroupId, version: u64, node: NodeId) -> Result<Change, Refusal> {
        if !self.nodes.contains_key(&node) || (self.has(Feature::NodeLife) && self.is_removed(node)) {
            return Err(Refusal::UnknownNode);
        }
        self.seen(group, version)?;
        let replica = self.give_replica();
        let record = self.seen(group, version)?;
        record.recorded.replicas.insert(replica, Allotted::on(node, false));
        record.version += 1;
        self.next_epoch();
        Ok(Change::Gave(replica))
    }

    fn dismiss(
        &mut self,
        group: GroupId,
        version: u64,
        replica: ReplicaId,
        missing_in: MembershipId,
    ) -> Result<Change, Refusal> {
        let record = self.seen(group, version)?;
        let membership = record.recorded.membership.as_ref().ok_or(Refusal::StillNeeded)?;
        if membership.id != missing_in {
            return Err(Refusal::Outdated);
        }
        if membership.has(replica) {
            return Err(Refusal::StillNeeded);
        }
        let allotted = record.recorded.replicas.get_mut(&replica).ok_or(Refusal::UnknownReplica)?;
        if allotted.dismissed_by.is_some() {
            return Ok(Change::Nothing);
        }
        allotted.dismissed_by = Some(missing_in);
        record.version += 1;
        self.next_epoch();
        Ok(Change::Something)
    }

    fn forget(&mut self, group: GroupId, replica: ReplicaId) -> Result<Change, Refusal> {
        let record = self.groups.get_mut(&group).ok_or(Refusal::UnknownGroup)?;
        match record.recorded.replicas.get(&replica) {
            None => Ok(Change::Nothing),
            Some(Allotted { dismissed_by: None, .. }) => Err(Refusal::StillNeeded),
            Some(_) => {
                record.recorded.replicas.remove(&replica);
                record.version += 1;
                Ok(Change::Something)
            }
        }
    }

    fn replace(&mut self, group: GroupId, version: u64, replica: ReplicaId) -> Result<Change, Refusal> {
        // The meta group's replicas follow its own rules: one on every node.
        group.shard().ok_or(Refusal::UnknownGroup)?;
        let fresh = self.next_replica;
        let record = self.seen(group, version)?;
        let node = record.recorded.replicas.get(&replica).ok_or(Refusal::UnknownReplica)?.node;
        if !self.nodes.get(&node).is_some_and(NodeRecord::takes_replicas) {
            return Err(Refusal::UnknownNode);
        }
        let successor = self.seen(group, version)?.recorded.replace(replica, fresh).map_err(|why| match why {
            NotReplaced::Unknown => Refusal::UnknownReplica,
            NotReplaced::NoVote => Refusal::NoVote,
            NotReplaced::TooMany => Refusal::TooManyReplicas,
        })?;
        if successor == fresh {
            self.give_replica();
        }
        self.seen(group, version)?.version += 1;
        self.next_epoch();
        Ok(Change::Gave(successor))
    }

    fn place(&mut self, from: Epoch, placement: Placement) -> Result<Change, Refusal> {
        let shards = self.shard_count.ok_or(Refusal::NoCluster)?;
        if from != self.epoch {
            return Err(Refusal::Outdated);
        }
        if self.placement.as_ref() == Some(&placement) {
            return Ok(Change::Nothing);
        }
        let usable = |node: NodeId| self.nodes.get(&node).is_some_and(NodeRecord::takes_replicas);
        // On the way to another placement the shards that have not begun stay where they are, whatever became of their nodes.
        let stays = |shard, node| {
            self.has(Feature::NodeLife)
                && self.placement.as_ref().and_then(|now| now.get(shard)).is_some_and(|r| r.has(node))
        };
        if !fits(&placement, shards, |shard, node| usable(node) || stays(shard, node)) {
            return Err(Refusal::UnfitPlacement);
        }
        self.placement = Some(placement);
        self.next_epoch();
        Ok(Change::Something)
    }

    pub(super) fn add_node(&mut self, node: NodeId, new: NodeRecord) -> Result<Change, Refusal> {
        if self.cluster.is_none() {
            return Err(Refusal::NoCluster);
        }
        match self.nodes.get(&node) {
            Some(known) if known.name == new.name && known.zone == new.zone && known.weight == new.weight => {
                return Ok(Change::Nothing);
            }
            Some(_) => return Err(Refusal::Outdated),
            None => {}
        }
        // The names of removed nodes are free again, since there is a way to get rid of nodes.
        let has_name = |known: &NodeRecord| !self.has(Feature::NodeLife) || known.intent != Intent::Removed;
        if self.nodes.values().any(|known| known.name == new.name && has_name(known)) {
            return Err(Refusal::NameTaken);
        }
        self.nodes.insert(node, new);
        Ok(Change::Something)
    }

    fn set_intent(
        &mut self,
        node: NodeId,
        intent: Intent,
        seen: Option<Intent>,
        forced: Option<bool>,
    ) -> Result<Change, Refusal> {
        let life = self.has(Feature::NodeLife);
        let others = self.members().iter().filter(|member| member.node != node).count();
        let copies = self.rules.replication.get() as usize;
        let record = self.nodes.get_mut(&node).ok_or(Refusal::UnknownNode)?;
        if record.intent == intent {
            return Ok(Change::Nothing);
        }
        if seen.is_some_and(|seen| seen != record.intent) {
            return Err(Refusal::Outdated);
        }
        if !record.intent.may_become(intent) {
            return Err(Refusal::IllegalIntent);
        }
        if life && intent == Intent::Removed {
            return Err(Refusal::HoldsSomething);
        }
        // Here, not only where it is decided: of two nodes drained at once the second finds the first draining.
        let least = forced.map(|forced| if forced { 1 } else { copies });
        if intent == Intent::Draining && least.is_some_and(|least| others < least) {
            return Err(Refusal::TooFewNodes);
        }
        record.intent = intent;
        if life {
            self.intent_has_changed(node);
        }
        Ok(Change::Something)
    }

    fn raise_version(&mut self, version: ClusterVersion) -> Change {
        if version <= self.cluster_version {
            return Change::Nothing;
        }
        self.cluster_version = version;
        Change::Something
    }
}

/// Whether every shard has nodes, all of them usable, none twice, and a leader among them.
pub(super) fn fits(placement: &Placement, shards: ShardCount, usable: impl Fn(ShardId, NodeId) -> bool) -> bool {
    placement.shard_count() == shards.get() as usize
        && placement.iter().all(|(shard, replicas)| {
            let distinct: BTreeSet<NodeId> = replicas.nodes.iter().copied().collect();
            !distinct.is_empty()
                && distinct.len() == replicas.nodes.len()
                && distinct.iter().all(|node| usable(shard, *node))
                && replicas.leader.is_some_and(|leader| distinct.contains(&leader))
        })
}

fn first_set(all: &[(ReplicaId, NodeId)], voters: &[(ReplicaId, NodeId)], founder: ReplicaId) -> GroupRecord {
    let replicas: BTreeMap<ReplicaId, Allotted> =
        all.iter().map(|(replica, node)| (*replica, Allotted::on(*node, true))).collect();
    let founding = Founding { voters: voters.iter().map(|(replica, _)| *replica).collect(), founder };
    let recorded = Recorded { founding: Some(founding), replicas, membership: None };
    GroupRecord { version: 1, recorded, recovery: None }
}
