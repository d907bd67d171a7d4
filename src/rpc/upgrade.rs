//! What the node can tell of its cluster's versions, and raising them.

use std::time::Duration;

use super::backend::{Failure, Operations as _};
use super::convert::timestamp;
use super::fault::Fault;
use super::operator::Operator;
use super::versions::{SeenNode, newest, obstacles, switched_on};
use crate::health::Liveness;
use crate::ids::{GroupId, NodeId};
use crate::node::gossip::{Heard, ReplicaRole};
use crate::node::meta::{self, Intent, MetaState};
use crate::node::router::RouteError;
use crate::proto::v1;
use crate::time::WallMs;
use crate::versions::{ClusterVersion, Spoken};

/// How long it is waited for a pulse of every node before the version is raised.
const SAY_ANEW_MS_MAX: u64 = 2_000;
/// How often it is looked whether they have come.
const SAY_ANEW_LOOK: Duration = Duration::from_millis(20);

impl Operator {
    /// What this node speaks.
    fn spoken(&self) -> Spoken {
        self.parts.spoken
    }

    fn heard(&self, node: NodeId) -> Option<Heard> {
        self.parts.ear.heard(node)
    }

    async fn propose_meta(&self, command: &meta::Command) -> Result<meta::Answer, RouteError> {
        self.parts.router.propose_meta(command, &self.call()).await
    }

    /// What a node speaks, as it last said; `None`: it was not heard.
    fn spoken_by(&self, node: NodeId) -> Option<Spoken> {
        if node == self.me() {
            return Some(self.spoken());
        }
        self.heard(node).map(|heard| heard.spoken)
    }

    /// Whether a node has said since then what it speaks: what was heard before may be of a process that has ended meanwhile.
    fn said_since(&self, node: NodeId, since: WallMs) -> bool {
        node == self.me() || self.heard(node).is_some_and(|heard| heard.at > since)
    }

    /// Waits for every node to say anew what it speaks, some pulses long.
    async fn all_say_anew(&self, meta: &MetaState, since: WallMs) {
        let clock = self.parts.router.clock().clone();
        let until = clock.monotonic().plus(SAY_ANEW_MS_MAX);
        let there = || meta.nodes.iter().filter(|(_, record)| record.intent != Intent::Removed);
        while !there().all(|(node, _)| self.said_since(*node, since)) && clock.monotonic() < until {
            tokio::time::sleep(SAY_ANEW_LOOK).await;
        }
    }

    /// What the nodes speak; one that has not said so `since` then counts as silent.
    fn seen(&self, meta: &MetaState, since: Option<WallMs>) -> Vec<SeenNode> {
        let there = meta.nodes.iter().filter(|(_, record)| record.intent != Intent::Removed);
        let seen = there.map(|(node, record)| SeenNode {
            name: record.name.clone(),
            alive: self.liveness(*node) == Liveness::Alive && since.is_none_or(|since| self.said_since(*node, since)),
            spoken: self.spoken_by(*node),
        });
        let mut seen: Vec<SeenNode> = seen.collect();
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        seen
    }

    fn node_versions(&self, meta: &MetaState, node: NodeId) -> v1::NodeVersions {
        let (report, spoken) = (self.report_of(node), self.spoken_by(node));
        let replicas = report.iter().flat_map(|(_, report)| &report.replicas).filter(|r| r.group != GroupId::META);
        let adopted = replicas.clone().filter(|r| r.adopted.unwrap_or_default() >= meta.cluster_version);
        let pulse = if node == self.me() { Some(self.now()) } else { self.heard(node).map(|heard| heard.at) };
        v1::NodeVersions {
            node: meta.name_of(node),
            liveness: self.liveness_told(node).into(),
            build: report.as_ref().map(|(_, report)| report.version.clone()).unwrap_or_default(),
            oldest: spoken.map_or(0, |spoken| spoken.oldest.0),
            newest: spoken.map_or(0, |spoken| spoken.newest.0),
            replicas: u32::try_from(replicas.count()).unwrap_or(u32::MAX),
            replicas_adopted: u32::try_from(adopted.count()).unwrap_or(u32::MAX),
            pulse_time: pulse.map(timestamp),
        }
    }

    /// See `AdminService`.
    pub(super) fn versions(&self) -> Result<v1::GetVersionsResponse, Fault> {
        let meta = self.meta()?;
        let cluster = meta.cluster_version;
        let seen = self.seen(&meta, None);
        let newest = newest(cluster, &seen);
        let there = meta.nodes.iter().filter(|(_, record)| record.intent != Intent::Removed);
        let mut nodes: Vec<v1::NodeVersions> = there.map(|(node, _)| self.node_versions(&meta, *node)).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        let told = self.told(&meta);
        let of_shards = told.iter().filter(|(group, _)| **group != GroupId::META);
        let adopted = of_shards.filter(|(_, told)| {
            let leads = |role| role == ReplicaRole::Leader;
            told.iter().any(|(_, _, r)| leads(r.role) && r.adopted.unwrap_or_default() >= cluster)
        });
        Ok(v1::GetVersionsResponse {
            cluster_version: cluster.0,
            newest_version: newest.0,
            obstacles: obstacles(cluster, newest, &seen),
            nodes,
            shards: meta.shard_count.map_or(0, crate::ring::ShardCount::get),
            shards_adopted: u32::try_from(adopted.count()).unwrap_or(u32::MAX),
            known: switched_on(ClusterVersion(0), Spoken::BUILD.newest),
            answered_by: self.name(),
        })
    }

    /// See `AdminService`.
    pub(super) async fn raise(
        &self,
        request: v1::RaiseClusterVersionRequest,
    ) -> Result<v1::RaiseClusterVersionResponse, Fault> {
        let since = self.now();
        self.all_say_anew(&*self.meta()?, since).await;
        let meta = self.meta()?;
        let (before, seen) = (meta.cluster_version, self.seen(&meta, Some(since)));
        let version = match request.version {
            0 => newest(before, &seen),
            version => ClusterVersion(version),
        };
        let obstacles = obstacles(before, version, &seen);
        if !obstacles.is_empty() {
            let why = obstacles.join("; ");
            return Err(Fault::cluster_state(format!(
                "version {version} can't be raised to: {why}; nothing was changed"
            )));
        }
        if version > before && !request.validate_only {
            let command = meta::Command::RaiseVersion { version };
            match self.propose_meta(&command).await.map_err(Failure::from)? {
                meta::Answer::Done { .. } | meta::Answer::Unchanged { .. } => self.news_of_meta(meta.revision).await,
                meta::Answer::Refused { why, .. } => return Err(Fault::cluster_state(why.to_string())),
            }
        }
        Ok(v1::RaiseClusterVersionResponse {
            version_before: before.0,
            version: version.0,
            switched_on: switched_on(before, version),
        })
    }
}
