//! Letting a node into a cluster that runs, and being let in.
//!
//! Any member lets a node in that serves at an address: it asks who is there, has the meta group take it in as *joining*, and hands it
//! the cluster's founding record with the addresses of the present nodes. From then on it goes by itself: the newcomer calls the
//! others, the meta group's leader gives it a replica of the meta group to listen with, and makes it *active* once it listens
//! (`node::rollout`).
//!
//! A node that is told by its configuration whom to join asks one of them to do the same with it.
//!
//! # Contract
//!
//! - Whoever dies at whatever step: called again it goes on. A node that was let in and not told is listed as joining until then.
//! - A node of another cluster, one that was removed, one whose name is taken, and one that doesn't speak the cluster's version are
//!   refused with what to do, before anything is changed.
//!
//! # Invariants
//!
//! - A node takes the record of a cluster that has begun without it only while it holds none, offered or begun (node/35).
//!
//! # Caveats
//!
//! Whoever can reach the link's port of a node that belongs to no cluster can make it one of a cluster, as it can found one with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Generation, NodeId};
use crate::ring::{Weight, Zone};
use crate::versions::{ClusterVersion, Feature, Spoken};

use super::core::{Inner, Node};
use super::folder::{Charter, ClusterId};
use super::link::{self, Endpoints, Introduction, introduce};
use super::meta::{Answer, Command, MetaState, Refusal};
use super::router::RouteError;

/// How long a command of the meta group may take.
const META_MS_MAX: u64 = 4_000;
/// How often a node that wants to join asks.
const ASK: Duration = Duration::from_secs(1);
/// The most members that a newcomer is told of.
pub(super) const MEMBERS_TOLD_MAX: usize = 1_024;

/// A node that is to be let in.
#[derive(Clone, Debug, Default)]
pub struct Newcomer {
    /// Where it serves other nodes.
    pub address: String,
    /// Its zone; `None`: as it says.
    pub zone: Option<Zone>,
    /// Its weight; `None`: as it says.
    pub weight: Option<Weight>,
    /// The dead node that it comes for.
    pub replaces: Option<NodeId>,
}

/// A node that may be let in.
#[derive(Clone, Debug)]
pub struct LetIn {
    /// Which.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// How it is let in; `None`: it is listed already.
    pub command: Option<Command>,
    met: Introduction,
}

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The called node has no cluster.
    #[error("this node knows no cluster yet")]
    NoCluster,
    /// The cluster hasn't got the version for it.
    #[error(
        "nodes join from cluster version {needed} on, and the cluster has {version}: finish the upgrade first (clusterctl upgrade)"
    )]
    Early {
        /// What it needs.
        needed: ClusterVersion,
        /// What the cluster has.
        version: ClusterVersion,
    },
    /// Nobody answers there. Nothing was changed.
    #[error("node_endpoint: {0}")]
    Unreachable(String),
    /// It is the called node itself.
    #[error("node_endpoint: {0} is the address of {1}, which is asked")]
    Myself(String, String),
    /// It belongs to another cluster, or may found one.
    #[error(
        "{name} belongs to the cluster {cluster}, or was offered its founding record: wipe its data folder, if that is a mistake"
    )]
    OtherCluster {
        /// Its name.
        name: String,
        /// That cluster.
        cluster: ClusterId,
    },
    /// It was removed.
    #[error("{name} (node {node}) was removed from this cluster: wipe its data folder, and it can join as a new node")]
    Removed {
        /// Its name.
        name: String,
        /// Its id.
        node: NodeId,
    },
    /// It doesn't speak the cluster's version.
    #[error("{name} speaks {spoken}, and the cluster has version {version}: it needs another build")]
    Version {
        /// Its name.
        name: String,
        /// What it speaks.
        spoken: Spoken,
        /// The cluster's version.
        version: ClusterVersion,
    },
    /// It is in the cluster already, and doesn't come for the node that it was named for. Nothing was changed.
    #[error(
        "{name} is in the cluster already, and is not let in for {dead}: add another node for {dead}, or drain {dead} and remove it"
    )]
    Listed {
        /// Its name.
        name: String,
        /// The name of the other one.
        dead: String,
    },
    /// Another node has its name.
    #[error("another node is called {0}: names are unique in a cluster (node.name)")]
    NameTaken(String),
    /// The meta group says no.
    #[error("{0}")]
    Refused(Refusal),
    /// The meta group says nothing.
    #[error("{0}")]
    Meta(RouteError),
    /// It is listed, and could not be told. Calling again goes on.
    #[error("{name} is let in, but could not be told: {why}; call again to go on")]
    HalfWay {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
}

/// Whether the node that was met may be let in, by the meta state.
fn judge(meta: &MetaState, newcomer: &Newcomer, met: Introduction) -> Result<LetIn, JoinError> {
    let (node, name) = (met.node, met.name.clone());
    let version = meta.cluster_version;
    if meta.is_removed(node) {
        return Err(JoinError::Removed { name, node });
    }
    let holds = met.cluster.as_ref().or(met.founding.as_ref().map(|charter| &charter.cluster));
    if let Some(other) = holds.filter(|cluster| meta.cluster.as_ref() != Some(cluster)) {
        return Err(JoinError::OtherCluster { name, cluster: other.clone() });
    }
    if !super::config::is_label(&name) || name.is_empty() {
        return Err(JoinError::Unreachable(format!("{} has no sound name", met.endpoints.link)));
    }
    if !met.spoken.speaks(version) {
        return Err(JoinError::Version { name, spoken: met.spoken, version });
    }
    if let Some(record) = meta.nodes.get(&node) {
        // What the newcomer itself or an operator asks again without saying for whom leaves that as it is.
        if let Some(dead) = newcomer.replaces.filter(|dead| record.life().replaces != Some(*dead)) {
            return Err(JoinError::Listed { name: meta.name_of(node), dead: meta.name_of(dead) });
        }
        return Ok(LetIn { node, name: meta.name_of(node), command: None, met });
    }
    // A machine that lost its disk may come back under its name for what it was.
    let named = meta.node_named(&name).filter(|other| !meta.is_removed(*other) && newcomer.replaces != Some(*other));
    if named.is_some() {
        return Err(JoinError::NameTaken(name));
    }
    let command = Command::Admit {
        node,
        name: name.clone(),
        zone: newcomer.zone.clone().unwrap_or_else(|| met.zone.clone()),
        weight: newcomer.weight.unwrap_or(met.weight),
        replaces: newcomer.replaces,
    };
    Ok(LetIn { node, name, command: Some(command), met })
}

impl Node {
    /// Asks who is at the address, and whether that node may be let in. Changes nothing.
    pub async fn meet(&self, newcomer: &Newcomer) -> Result<LetIn, JoinError> {
        self.inner.meet(newcomer).await
    }

    /// Lets in whoever was met.
    pub async fn let_in(&self, who: &LetIn) -> Result<(), JoinError> {
        self.inner.let_in(who).await
    }
}

impl Inner {
    async fn meet(&self, newcomer: &Newcomer) -> Result<LetIn, JoinError> {
        let meta = self.meta.now.load_full();
        if meta.cluster.is_none() {
            return Err(JoinError::NoCluster);
        }
        if !meta.has(Feature::NodeLife) {
            let (needed, version) = (Feature::NodeLife.since(), meta.cluster_version);
            return Err(JoinError::Early { needed, version });
        }
        let met = introduce(&newcomer.address, &self.dialling()).await.map_err(JoinError::Unreachable)?;
        // A call that is tried again may come to the node that it has let in.
        if met.node == NodeId(0) || (met.node == self.me.node && !meta.nodes.contains_key(&met.node)) {
            return Err(JoinError::Myself(newcomer.address.clone(), self.me.name.clone()));
        }
        judge(&meta, newcomer, met)
    }

    async fn let_in(&self, who: &LetIn) -> Result<(), JoinError> {
        if let Some(command) = &who.command {
            match self.router.propose_meta(command, &self.own_call(META_MS_MAX)).await.map_err(JoinError::Meta)? {
                Answer::Done { .. } => tracing::info!(name = who.name, node = %who.node, "a node is let in"),
                Answer::Unchanged { .. } => {}
                Answer::Refused { why: Refusal::NameTaken, .. } => return Err(JoinError::NameTaken(who.name.clone())),
                Answer::Refused { why: Refusal::WasRemoved, .. } => {
                    return Err(JoinError::Removed { name: who.name.clone(), node: who.node });
                }
                Answer::Refused { why, .. } => return Err(JoinError::Refused(why)),
            }
        }
        if who.node == self.me.node {
            return Ok(());
        }
        self.link.book().learn(who.met.node, who.met.generation, &who.met.endpoints);
        self.look.notify_one();
        if who.met.cluster.is_some() {
            return Ok(());
        }
        let Some(charter) = self.charter() else { return Err(JoinError::NoCluster) };
        let told = link::tell_to_join(&who.met, &charter, self.addresses(), &self.dialling()).await;
        told.map_err(|why| JoinError::HalfWay { name: who.name.clone(), why })
    }

    /// Where the nodes of the cluster serve others, as far as is known here.
    fn addresses(&self) -> BTreeMap<NodeId, String> {
        let book = self.link.book();
        let others = self.nodes().into_iter().filter_map(|node| Some((node, book.link_address(node)?)));
        let mut addresses: BTreeMap<NodeId, String> = others.take(MEMBERS_TOLD_MAX - 1).collect();
        addresses.insert(self.me.node, self.me.endpoints.link.clone());
        addresses
    }

    /// A node that belongs to no cluster asks to be let in.
    pub(super) async fn asked_to_let_in(self: Arc<Self>, address: String) -> Result<(), String> {
        let who = self.meet(&Newcomer { address, ..Newcomer::default() }).await.map_err(|e| e.to_string())?;
        self.let_in(&who).await.map_err(|e| e.to_string())
    }

    /// Takes the founding record of a cluster that has begun, in which this node is let in, and learns where its nodes are.
    pub(super) async fn join(
        self: Arc<Self>,
        charter: Charter,
        members: BTreeMap<NodeId, String>,
    ) -> Result<(), String> {
        if !self.me.versions.spoken().speaks(charter.version().max(Feature::NodeLife.since())) {
            return Err(format!("this node speaks {}", self.me.versions.spoken()));
        }
        let taken = charter.clone();
        // The addresses first: a node that has the record and knows nobody could not find the others.
        for (node, link) in members.into_iter().filter(|(node, _)| *node != self.me.node) {
            if self.link.book().get(node).is_none() {
                self.link.book().learn(node, Generation(0), &Endpoints { link, ..Endpoints::default() });
            }
        }
        self.link.book().save(&self.threads).await.map_err(|e| e.to_string())?;
        self.change_folder(move |folder| folder.join(&taken)).await?;
        self.begin_with(charter);
        Ok(())
    }
}

/// A node without a cluster asks those that its configuration names to be let in, until it is.
pub(super) async fn run(inner: Arc<Inner>) {
    let (dialling, mut told) = (inner.dialling(), String::new());
    while !inner.config.cluster_join.is_empty() {
        if inner.folder.lock().identity().held().is_some() {
            return;
        }
        for address in &inner.config.cluster_join {
            match link::ask_to_join(&address.to_string(), inner.me.card(), &dialling).await {
                Ok(()) => break,
                Err(why) if why != told => {
                    tracing::warn!(why, "this node is not let into the cluster; it asks again and again");
                    told = why;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(ASK).await;
    }
}

/// Another node says that this one was removed from the cluster, or the meta state does: it stops, and says what to do.
pub(super) async fn stop_when_removed(inner: Arc<Inner>) {
    let mut removed = inner.me.removed_told.subscribe();
    if removed.wait_for(|removed| *removed).await.is_ok() {
        inner.halt(
            "this node was removed from its cluster for good: nothing of it is used any more. To let it in again as a new node wipe its \
             data folder and add it"
                .to_string(),
        );
    }
}

impl Node {
    /// Whether it was removed from its cluster, and stops for that.
    pub fn was_removed(&self) -> bool {
        *self.inner.me.removed_told.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::meta::{Life, NodeRecord};

    fn met(node: u64) -> Introduction {
        Introduction {
            node: NodeId(node),
            generation: Generation(1),
            name: format!("n{node}"),
            zone: Zone::default(),
            weight: Weight::default(),
            endpoints: Endpoints::default(),
            cluster: None,
            founding: None,
            spoken: Spoken::BUILD,
        }
    }

    fn newcomer(replaces: Option<u64>) -> Newcomer {
        Newcomer { replaces: replaces.map(NodeId), ..Newcomer::default() }
    }

    #[test]
    fn a_node_of_the_cluster_is_not_let_in_for_another_unless_it_came_for_that_one() {
        let mut meta = MetaState { cluster_version: Feature::NodeLife.since(), ..MetaState::default() };
        for node in 1..=4 {
            let record = NodeRecord::joining(format!("n{node}"), Zone::default(), Weight::default());
            let life = (node == 4).then(|| Life { replaces: Some(NodeId(2)), ..Life::default() });
            meta.nodes.insert(NodeId(node), NodeRecord { life, ..record });
        }
        let judged = |node, replaces| judge(&meta, &newcomer(replaces), met(node));
        let error = judged(3, Some(2)).unwrap_err();
        assert!(matches!(&error, JoinError::Listed { name, dead } if name == "n3" && dead == "n2"), "{error}");
        assert!(matches!(judged(4, Some(1)), Err(JoinError::Listed { .. })));
        for (node, replaces) in [(4, Some(2)), (4, None), (3, None)] {
            assert!(judged(node, replaces).is_ok_and(|who| who.command.is_none()));
        }
    }
}
