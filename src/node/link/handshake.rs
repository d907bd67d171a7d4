//! Who may speak: pure decisions on a lane's first message.

use std::collections::BTreeSet;

use crate::ids::{Generation, NodeId};
use crate::node::folder::ClusterId;
use crate::node::versions::{Versions, build};
use crate::proto::link::v1 as wire;
use crate::versions::{ClusterVersion, Spoken};

use super::{Endpoints, Lane, Peer};

/// The version of everything that is said on the link. A node speaks one; what may only be said from a cluster version on is gated
/// by that.
pub const WIRE_VERSION: u32 = 2;
const _: () = assert!(WIRE_VERSION == Spoken::BUILD.newest.formats().wire);

/// What a node says of itself.
#[derive(Debug)]
pub struct Me {
    /// The node.
    pub node: NodeId,
    /// This process of it.
    pub generation: Generation,
    /// What people call it.
    pub name: String,
    /// What it fails together with.
    pub zone: String,
    /// Its share.
    pub weight: u32,
    /// Where it listens.
    pub endpoints: Endpoints,
    /// Its cluster, once it has one.
    pub cluster: std::sync::OnceLock<ClusterId>,
    /// The versions that it speaks, and its cluster's.
    pub versions: Versions,
    /// Nodes that were removed from the cluster, as far as is known here.
    pub removed: tokio::sync::watch::Sender<BTreeSet<NodeId>>,
    /// Whether it is known, or was told, that this node was removed.
    pub removed_told: tokio::sync::watch::Sender<bool>,
}

impl Me {
    /// Waits until the node is known to be removed.
    pub(super) async fn removes(&self, node: NodeId) {
        if self.removed.subscribe().wait_for(|removed| removed.contains(&node)).await.is_err() {
            std::future::pending().await
        }
    }

    fn cluster_text(&self) -> String {
        self.cluster.get().map(ToString::to_string).unwrap_or_default()
    }

    /// The first message of a lane to `to`.
    pub fn hello(&self, to: NodeId, lane: Lane) -> wire::Hello {
        wire::Hello {
            wire_version: WIRE_VERSION,
            cluster_id: self.cluster_text(),
            node_id: self.node.0,
            generation: self.generation.0,
            lane: lane as i32,
            to_node_id: to.0,
            addresses: Some(addresses(&self.endpoints)),
            cluster_version_oldest: self.versions.spoken().oldest.0,
            cluster_version_newest: self.versions.spoken().newest.0,
        }
    }

    /// What is told to whoever asks.
    pub fn card(&self) -> wire::NodeCard {
        wire::NodeCard {
            node_id: self.node.0,
            generation: self.generation.0,
            name: self.name.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            addresses: Some(addresses(&self.endpoints)),
            cluster_version_oldest: self.versions.spoken().oldest.0,
            cluster_version_newest: self.versions.spoken().newest.0,
            build: build(),
        }
    }
}

fn addresses(endpoints: &Endpoints) -> wire::Addresses {
    let Endpoints { link, client, admin } = endpoints.clone();
    wire::Addresses { link, client, admin }
}

pub(super) fn endpoints(addresses: Option<wire::Addresses>) -> Endpoints {
    let wire::Addresses { link, client, admin } = addresses.unwrap_or_default();
    Endpoints { link, client, admin }
}

pub(super) fn spoken(hello: &wire::Hello) -> Spoken {
    Spoken::told(hello.cluster_version_oldest, hello.cluster_version_newest)
}

/// Whether who welcomes this node is `meant`, of whom `seen` is the newest generation that was heard, and speaks what the cluster has;
/// what it speaks then. Else what is wrong, for people.
pub(super) fn judge_welcome(
    me: &Me,
    meant: NodeId,
    seen: Option<Generation>,
    welcome: &wire::Welcome,
) -> Result<Spoken, String> {
    if welcome.node_id != meant.0 {
        return Err(format!("is node {} now", welcome.node_id));
    }
    if seen.is_some_and(|seen| seen > Generation(welcome.generation)) {
        return Err(format!("is an older process of node {meant}"));
    }
    let told = ClusterVersion(welcome.cluster_version);
    if told > me.versions.spoken().newest {
        me.versions.be_told(told);
        return Err(format!("is in a cluster of version {told}, and this node speaks {}", me.versions.spoken()));
    }
    let (spoken, cluster) =
        (Spoken::told(welcome.cluster_version_oldest, welcome.cluster_version_newest), me.versions.cluster());
    match spoken.speaks(cluster) {
        true => Ok(spoken),
        false => Err(format!("speaks {spoken}, and the cluster has version {cluster}: it needs another build")),
    }
}

/// Why a lane was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The nodes speak different versions.
    #[error("wire version {theirs} is not {ours}")]
    WireVersion {
        /// The caller's.
        theirs: u32,
        /// The called node's.
        ours: u32,
    },
    /// The nodes are of different clusters.
    #[error("cluster {theirs:?} is not {ours:?}")]
    WrongCluster {
        /// The caller's.
        theirs: String,
        /// The called node's; empty when it has none.
        ours: String,
    },
    /// Another node listens here.
    #[error("this is node {ours}, not node {meant}")]
    WrongNode {
        /// Whom the caller meant.
        meant: NodeId,
        /// Who listens.
        ours: NodeId,
    },
    /// A newer process of the caller was heard.
    #[error("generation {theirs} is older than {seen}, which was heard before")]
    OldGeneration {
        /// The caller's.
        theirs: Generation,
        /// The newest that was heard.
        seen: Generation,
    },
    /// The caller doesn't speak the version that the cluster has.
    #[error("the cluster has version {cluster}, and the caller speaks {spoken}: it needs another build")]
    ClusterVersion {
        /// What the caller speaks.
        spoken: Spoken,
        /// The cluster's version.
        cluster: ClusterVersion,
    },
    /// The caller was removed from the cluster.
    #[error("node {node} was removed from the cluster for good: it is never obeyed again")]
    Removed {
        /// The caller.
        node: NodeId,
    },
    /// The first message makes no sense.
    #[error("the first message is not a sound hello: {what}")]
    BadHello {
        /// What is wrong.
        what: &'static str,
    },
}

impl Refused {
    /// As metrics count it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::WireVersion { .. } => "wire_version",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::WrongNode { .. } => "wrong_node",
            Self::OldGeneration { .. } => "old_generation",
            Self::ClusterVersion { .. } => "cluster_version",
            Self::Removed { .. } => "removed",
            Self::BadHello { .. } => "bad_hello",
        }
    }

    pub(super) fn to_wire(&self) -> wire::Refusal {
        use wire::refusal::Reason;
        let reason = match self {
            Self::WireVersion { .. } => Reason::WireVersion,
            Self::WrongCluster { .. } => Reason::WrongCluster,
            Self::WrongNode { .. } => Reason::WrongNode,
            Self::OldGeneration { .. } => Reason::OldGeneration,
            Self::ClusterVersion { .. } => Reason::ClusterVersion,
            Self::Removed { .. } => Reason::Removed,
            Self::BadHello { .. } => Reason::BadHello,
        };
        let cluster_version = match self {
            Self::ClusterVersion { cluster, .. } => cluster.0,
            _ => 0,
        };
        wire::Refusal { reason: reason.into(), detail: self.to_string(), cluster_version }
    }
}

/// Whether `hello` may open a lane to `me`, when `seen` is the newest generation heard of the caller's node.
pub fn judge(
    me: &Me,
    seen: impl Fn(NodeId) -> Option<Generation>,
    hello: &wire::Hello,
) -> Result<(Peer, Lane, Endpoints), Refused> {
    if hello.wire_version != WIRE_VERSION {
        return Err(Refused::WireVersion { theirs: hello.wire_version, ours: WIRE_VERSION });
    }
    if hello.node_id == 0 {
        return Err(Refused::BadHello { what: "no node id" });
    }
    let lane = Lane::ALL.into_iter().find(|lane| *lane as i32 == hello.lane);
    let lane = lane.ok_or(Refused::BadHello { what: "no known lane" })?;
    let endpoints = endpoints(hello.addresses.clone());
    if !endpoints.is_sound() {
        return Err(Refused::BadHello { what: "no sound addresses" });
    }
    let ours = me.cluster_text();
    if ours.is_empty() || hello.cluster_id != ours {
        let theirs = hello.cluster_id.chars().take(ClusterId::BYTES_MAX).collect();
        return Err(Refused::WrongCluster { theirs, ours });
    }
    if hello.to_node_id != me.node.0 {
        return Err(Refused::WrongNode { meant: NodeId(hello.to_node_id), ours: me.node });
    }
    let peer = Peer { node: NodeId(hello.node_id), generation: Generation(hello.generation) };
    if peer.node == me.node {
        return Err(Refused::BadHello { what: "it carries this node's own id" });
    }
    if me.removed.borrow().contains(&peer.node) {
        return Err(Refused::Removed { node: peer.node });
    }
    let (spoken, cluster) = (spoken(hello), me.versions.cluster());
    if !spoken.speaks(cluster) {
        return Err(Refused::ClusterVersion { spoken, cluster });
    }
    match seen(peer.node) {
        Some(seen) if seen > peer.generation => Err(Refused::OldGeneration { theirs: peer.generation, seen }),
        _ => Ok((peer, lane, endpoints)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(node: u64, cluster: Option<u64>) -> Me {
        let at = |port: &str| format!("127.0.0.1:{node}{port}");
        let me = Me {
            node: NodeId(node),
            generation: Generation(3),
            name: format!("n{node}"),
            zone: "default".to_string(),
            weight: 1,
            endpoints: Endpoints { link: at("1"), client: at("2"), admin: at("3") },
            cluster: std::sync::OnceLock::new(),
            versions: Versions::default(),
            removed: Default::default(),
            removed_told: Default::default(),
        };
        if let Some(cluster) = cluster {
            me.cluster.set(ClusterId::from_random(cluster, 0)).unwrap();
        }
        me
    }

    #[test]
    fn a_node_of_the_same_cluster_is_welcome_on_the_lane_it_names() {
        let hello = me(2, Some(9)).hello(NodeId(1), Lane::Append);
        let (peer, lane, endpoints) = judge(&me(1, Some(9)), |_| Some(Generation(3)), &hello).unwrap();
        assert_eq!((peer.node, peer.generation, lane), (NodeId(2), Generation(3), Lane::Append));
        assert_eq!(endpoints.link, "127.0.0.1:21");
    }

    #[test]
    fn everybody_else_is_refused_with_the_reason() {
        let hello = me(2, Some(9)).hello(NodeId(1), Lane::Control);
        let refuse = |me: &Me, seen, hello: &wire::Hello| judge(me, |_| seen, hello).unwrap_err().label();
        let one = me(1, Some(9));
        assert_eq!(refuse(&one, None, &wire::Hello { wire_version: 7, ..hello.clone() }), "wire_version");
        assert_eq!(refuse(&me(1, Some(8)), None, &hello), "wrong_cluster");
        assert_eq!(
            refuse(&me(1, None), None, &wire::Hello { cluster_id: String::new(), ..hello.clone() }),
            "wrong_cluster"
        );
        assert_eq!(refuse(&me(3, Some(9)), None, &hello), "wrong_node");
        let after = me(1, Some(9));
        after.removed.send_replace([NodeId(2)].into());
        assert_eq!(refuse(&after, None, &hello), "removed");
        assert_eq!(refuse(&one, Some(Generation(4)), &hello), "old_generation");
        assert_eq!(refuse(&one, None, &wire::Hello::default()), "wire_version");
        assert_eq!(refuse(&one, None, &wire::Hello { lane: 0, ..hello.clone() }), "bad_hello");
        assert_eq!(refuse(&one, None, &wire::Hello { addresses: None, ..hello.clone() }), "bad_hello");
        assert_eq!(refuse(&one, None, &wire::Hello { node_id: 1, ..hello.clone() }), "bad_hello");
    }

    #[test]
    fn a_node_that_does_not_speak_the_clusters_version_is_refused_with_that_as_the_reason() {
        let (of_now, one) = (me(2, Some(9)).hello(NodeId(1), Lane::Append), me(1, Some(9)));
        // A build of before there was a second version says nothing of versions.
        let (cluster_version_oldest, cluster_version_newest) = (0, 0);
        let of_before = wire::Hello { cluster_version_oldest, cluster_version_newest, ..of_now.clone() };
        let later = wire::Hello { cluster_version_oldest: 2, cluster_version_newest: 3, ..of_now.clone() };
        let welcome = |hello: &wire::Hello| judge(&one, |_| None, hello).is_ok();
        assert!(welcome(&of_now) && welcome(&of_before) && !welcome(&later), "the cluster has version 1");
        one.versions.hear(ClusterVersion(2));
        assert!(welcome(&of_now) && !welcome(&of_before) && welcome(&later), "the cluster has version 2");
        let refused = judge(&one, |_| None, &of_before).unwrap_err();
        assert_eq!(refused, Refused::ClusterVersion { spoken: Spoken::FIRST, cluster: ClusterVersion(2) });
        assert_eq!(refused.to_wire().cluster_version, 2);
    }

    #[test]
    fn a_node_that_does_not_speak_the_clusters_version_is_not_called_either() {
        let one = me(1, Some(9));
        let welcome = |node_id, cluster_version, newest| wire::Welcome {
            node_id,
            generation: 3,
            cluster_version,
            cluster_version_oldest: newest,
            cluster_version_newest: newest,
        };
        let judged = |seen, welcome| judge_welcome(&one, NodeId(2), Some(Generation(seen)), &welcome);
        assert!(judged(3, welcome(5, 1, 1)).unwrap_err().contains("is node 5"));
        assert!(judged(4, welcome(2, 1, 1)).unwrap_err().contains("older process"));
        // A build of before there was a second version says nothing.
        assert_eq!(judged(3, welcome(2, 0, 0)), Ok(Spoken::FIRST));
        one.versions.hear(ClusterVersion(2));
        assert!(judged(3, welcome(2, 0, 0)).unwrap_err().contains("speaks 1, and the cluster has version 2"));
        assert_eq!(judged(3, welcome(2, 1, 2)), Ok(Spoken::told(2, 2)), "it has not heard of the raise");
        assert!(judged(3, welcome(2, 9, 9)).unwrap_err().contains("cluster of version 9"));
        assert_eq!(one.versions.cluster(), ClusterVersion(2), "that is hearsay");
    }
}
