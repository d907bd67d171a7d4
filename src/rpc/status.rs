//! What operators are told of shards, nodes and the cluster.

use super::convert::{intent, replica_status, timestamp};
use super::digests;
use super::operator::{Operator, Told, count};
use crate::health::Liveness;
use crate::ids::{GroupId, NodeId, ShardId};
use crate::node::gossip::{Leads, ReplicaReport, ReplicaRole};
use crate::node::meta::{MetaState, NodeRecord};
use crate::proto::v1;

impl Operator {
    pub(super) fn shard_status(&self, meta: &MetaState, shard: ShardId, told: &[Told]) -> v1::ShardStatus {
        let group = GroupId::from(shard);
        let leader = self.leader(group);
        let of_leader =
            told.iter().find(|(node, _, r)| Some(*node) == leader.map(|l| l.0) && r.role == ReplicaRole::Leader);
        let ahead = told.iter().map(|(_, _, r)| r.applied).max().unwrap_or(0);
        let recorded = meta.groups.get(&group).map(|g| &g.recorded.replicas);
        let replicas = recorded.into_iter().flatten().filter(|(_, allotted)| allotted.dismissed_by.is_none());
        let wanted = meta.wanted(group);
        // The preferred leader first.
        let mut placement: Vec<NodeId> = wanted.and_then(|w| w.leader).into_iter().collect();
        placement.extend(
            wanted.into_iter().flat_map(|w| &w.nodes).copied().filter(|n| Some(*n) != wanted.and_then(|w| w.leader)),
        );
        let marks: Vec<&[(u64, u64)]> = told.iter().map(|(_, _, r)| r.digests.as_slice()).collect();
        let checked = digests::compare(&marks);
        v1::ShardStatus {
            shard: shard.0,
            group: group.0,
            leader: leader.map(|(node, _)| meta.name_of(node)).unwrap_or_default(),
            term: leader.map_or(0, |(_, term)| term),
            applied_index: of_leader.map_or(ahead, |(_, _, r)| r.applied),
            revision: of_leader.map_or(0, |(_, _, r)| r.revision),
            active_views: of_leader.map_or(0, |(_, _, r)| r.active_views),
            replicas: replicas
                .map(|(id, allotted)| {
                    let said = told.iter().find(|(node, _, r)| *node == allotted.node && r.replica == *id);
                    let status =
                        replica_status(*id, meta.name_of(allotted.node), said.map(|(_, at, r)| (*at, r)), ahead);
                    // What a dead node said last is no role that it has now.
                    let dead = self.liveness(allotted.node) == Liveness::Dead;
                    let role = if dead { v1::ReplicaRole::Unspecified.into() } else { status.role };
                    v1::ReplicaStatus { leaving: allotted.unwanted, role, ..status }
                })
                .collect(),
            placement: placement.into_iter().map(|node| meta.name_of(node)).collect(),
            digest_check: checked.verdict.into(),
            digest_index: checked.index,
            digest_compared: count(checked.compared),
        }
    }

    pub(super) fn node_status(&self, meta: &MetaState, node: NodeId, record: &NodeRecord) -> v1::NodeStatus {
        let report = self.report_of(node);
        let heard = self.parts.ear.heard(node);
        let known = self.parts.book.get(node);
        let (endpoints, generation) = if node == self.me() {
            (Some(self.parts.endpoints.clone()), Some(self.parts.generation))
        } else {
            known.map(|known| (known.endpoints, known.generation)).unzip()
        };
        let endpoints = endpoints.unwrap_or_default();
        let url = |scheme: &str, address: &str| match address {
            "" => String::new(),
            address => format!("{scheme}://{address}"),
        };
        let of_shards = |r: &&ReplicaReport| r.group != GroupId::META;
        let replicas = report.iter().flat_map(|(_, report)| &report.replicas).filter(of_shards);
        let led = replicas.clone().filter(|r| r.role == ReplicaRole::Leader && !r.cut_off);
        let wanted = meta.placement.as_ref().map_or(0, |p| p.held_by(node).count());
        let pulse = if node == self.me() { Some(self.now()) } else { heard.map(|h| h.at) };
        let about = report.as_ref().map(|(_, report)| report);
        v1::NodeStatus {
            node: record.name.clone(),
            node_id: node.0,
            intent: intent(record.intent).into(),
            liveness: self.liveness_told(node).into(),
            client_endpoint: url(self.parts.client_scheme, &endpoints.client),
            admin_endpoint: url("http", &endpoints.admin),
            node_endpoint: endpoints.link,
            zone: record.zone.to_string(),
            weight: record.weight.get(),
            generation: generation.unwrap_or_default().0,
            version: about.map(|r| r.version.clone()).unwrap_or_default(),
            shards_led: count(led.clone().count()),
            replicas: count(replicas.count()),
            replicas_wanted: count(wanted),
            active_views: led.map(|r| r.active_views).sum(),
            log_bytes: about.map_or(0, |r| r.log_bytes),
            store_bytes: about.map_or(0, |r| r.store_bytes),
            pulse_time: pulse.map(timestamp),
            start_time: about.map(|r| timestamp(r.started)),
            reports_acknowledged: about.map_or(0, |r| r.reports),
            commands_acknowledged: about.map_or(0, |r| r.acknowledged),
            report_time: report.as_ref().map(|(at, _)| timestamp(*at)),
            disk_full: about.is_some_and(|r| r.disk_full),
            command_p50_us: about.map_or(0, |r| r.p50_us),
            command_p99_us: about.map_or(0, |r| r.p99_us),
            hints_waiting: about.map_or(0, |r| r.hints.waiting),
            hints_oldest_ms: about.map_or(0, |r| i64::try_from(r.hints.oldest_ms).unwrap_or(i64::MAX)),
            hints_damaged: about.map_or(0, |r| r.hints.damaged),
            hints_dropped: about.map_or(0, |r| r.hints.dropped),
            hints_broken: about.is_some_and(|r| r.hints.broken),
            given_up: record.is_given_up(),
            held: record.life().held,
            dead_since_time: pulse.filter(|_| self.liveness(node) == Liveness::Dead).map(timestamp),
            replaced: record.life().replaced,
            meta_voter: meta.meta_wanted.has(node),
            snapshot_bytes_received: about.and_then(|r| r.snapshot_bytes_received).unwrap_or(0),
            without_leads: match node == self.me() {
                true => self.parts.leads.held(),
                false => self.parts.ear.leads(node) != Leads::Takes,
            },
        }
    }

    pub(super) fn cluster(&self, meta: &MetaState) -> v1::ClusterStatus {
        let told = self.told(meta);
        let shards: Vec<ShardId> = meta.shard_count.map(|c| c.shards().collect()).unwrap_or_default();
        let led = |shard: &&ShardId| {
            self.leader(GroupId::from(**shard)).is_some_and(|(node, _)| self.liveness(node) != Liveness::Dead)
        };
        let recorded = shards.iter().filter_map(|shard| meta.groups.get(&GroupId::from(*shard)));
        let standing = recorded.flat_map(|g| g.recorded.replicas.values()).filter(|a| a.dismissed_by.is_none());
        let follows = |(node, _, r): &&Told| {
            let takes_part = matches!(r.role, ReplicaRole::Leader | ReplicaRole::Follower) && !r.cut_off;
            let stays = *node == self.me() || self.parts.ear.leads(*node) != Leads::Leaving;
            takes_part && stays && self.liveness(*node) == Liveness::Alive
        };
        let of_shards = || told.iter().filter(|(group, _)| **group != GroupId::META).flat_map(|(_, told)| told);
        let views = of_shards().filter(|(_, _, r)| r.role == ReplicaRole::Leader).map(|(_, _, r)| r.active_views);
        let wanted = meta.placement.as_ref().map_or(0, |p| p.iter().map(|(_, r)| r.nodes.len()).sum());
        let lead = self.leader(GroupId::META);
        v1::ClusterStatus {
            cluster_id: meta.cluster.as_ref().map(|c| c.as_str().to_string()).unwrap_or_default(),
            epoch: meta.epoch.0,
            cluster_version: meta.cluster_version.0,
            shards: count(shards.len()),
            shards_led: count(shards.iter().filter(led).count()),
            replicas: count(standing.count()),
            replicas_wanted: count(wanted),
            replicas_current: count(of_shards().filter(follows).count()),
            replication_factor: meta.rules.replication.get(),
            active_views: views.sum(),
            meta_leader: lead.map(|(node, _)| meta.name_of(node)).unwrap_or_default(),
            meta_term: lead.map_or(0, |(_, term)| term),
        }
    }
}
