//! Making a cluster of nodes that have none, by one call to any of them.
//!
//! The called node asks every address who is there and writes down what all must agree on (the [`Charter`]). Then, in two rounds:
//! it *offers* the charter to the nodes one after the other, by node id, and each keeps durably the first that it is
//! offered; and when every founder holds the same one, it tells all of them to *begin*. From then on the nodes go on by
//! themselves: each opens its meta replica, one of them initializes the meta group, and the meta group's leader proposes the
//! cluster's first placement.
//!
//! # Contract
//!
//! - **Many calls at once** through any nodes, for the same nodes, make one cluster: the node with the smallest id is the arbiter.
//!   It is offered to first, and whoever is answered with another charter goes on with that one.
//! - **Safely repeatable.** Whoever died, at whatever step: the next call for the same nodes, through any of them, goes on with what
//!   is held already, and a cluster that has begun says that it has. A node that was told too little asks the other
//!   founders by itself.
//! - **Lists that differ** are refused with both lists. Nothing begins half: nodes that hold a charter of a list that was refused
//!   begin when that list is named again, and let go of it by themselves once one of its nodes is in another cluster.
//!
//! # Invariants
//!
//! - No node begins before every founder of its charter holds it durably; so no node can ever be in two clusters, and no two
//!   clusters can share a founder (node/14).
//! - An offered charter is let go of only when one of its founders has begun with another one: that founder will never hold it, so
//!   it can never begin anywhere (node/15).
//!
//! # Caveats
//!
//! A founder whose data is lost between the rounds can't come back under its id. The others then hold a charter that can't
//! begin; their data folders are empty otherwise and are to be removed.

mod agree;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use crate::ring::{InvalidRule, InvalidShardCount};

use super::core::{Inner, Node};
use super::folder::{Charter, CharterError};
use super::link::{self, Dialling, Introduction, introduce};
use super::router::Call;

use agree::{Fate, Ways, fate_of, found_together};

/// What a cluster shall be.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Shards; 0 for the default.
    pub shards: u32,
    /// Replicas of each; 0 for the default: 3, or as many as there are nodes.
    pub replication: u32,
    /// Link addresses of the first nodes, the called one included; none for the called node and its seeds.
    pub addresses: Vec<String>,
    /// Random: makes the cluster's id.
    pub random: (u64, u64),
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The number of shards.
    #[error("shards: {0}")]
    Shards(#[from] InvalidShardCount),
    /// The number of replicas.
    #[error("replication_factor: {0}")]
    Replication(#[from] InvalidRule),
    /// An address is not one.
    #[error("node_endpoints: {0:?} is no HOST:PORT")]
    Address(String),
    /// The nodes can't found a cluster together.
    #[error("node_endpoints: {0}")]
    Nodes(#[from] CharterError),
    /// The called node is not among them.
    #[error("node_endpoints: the called node ({0}) is not among them")]
    WithoutMe(String),
    /// Two nodes have the same name.
    #[error("node_endpoints: two nodes are called {0}: names are unique in a cluster")]
    SameName(String),
    /// Some can't be reached. Nothing was changed.
    #[error("not every node answers: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// There is no cluster version that all of them speak.
    #[error("node_endpoints: there is no cluster version that all of them speak: {0}")]
    Versions(String),
    /// Some belong to a cluster already.
    #[error("{0}")]
    Taken(String),
    /// Another list of nodes was named before, and is not given up.
    #[error(
        "node_endpoints: the lists of nodes differ: this call names {named}; cluster {cluster} was begun with {held}. Name those to go on with it"
    )]
    Differ {
        /// The nodes of this call.
        named: String,
        /// The cluster that was begun.
        cluster: super::folder::ClusterId,
        /// Its nodes.
        held: String,
    },
    /// Some didn't take the charter. Calling again goes on from here.
    #[error("not every node took part: {}; call again to go on", .0.join("; "))]
    HalfWay(Vec<String>),
    /// All took part, and the cluster is not there yet.
    #[error("all nodes take part, but the cluster has not begun in time; it goes on by itself, look at its status")]
    Slow,
}

/// A cluster that was made.
#[derive(Clone, Debug)]
pub struct Bootstrapped {
    /// Its charter.
    pub charter: Charter,
    /// Whether this call made it.
    pub created: bool,
}

/// How a founding speaks to the nodes, in earnest.
struct Wires {
    dialling: Dialling,
}

#[async_trait]
impl Ways for Wires {
    async fn introduce(&self, address: &str) -> Result<Introduction, String> {
        introduce(address, &self.dialling).await
    }

    async fn offer(&self, to: &Introduction, charter: &Charter) -> Result<Charter, String> {
        link::offer(to, charter, &self.dialling).await
    }

    async fn begin(&self, to: &Introduction, charter: &Charter) -> Result<(), String> {
        link::tell_to_begin(to, charter, &self.dialling).await
    }
}

impl Node {
    /// Makes a cluster, or goes on with what an earlier call began, and waits until it has begun.
    pub async fn bootstrap(&self, wishes: Wishes, call: &Call) -> Result<Bootstrapped, BootstrapError> {
        let inner = &self.inner;
        let addresses = addresses(inner, &wishes)?;
        let ways = Wires { dialling: inner.dialling() };
        let made = found_together(&ways, &inner.me, &wishes, &addresses).await?;
        self.wait_for_cluster(call).await?;
        Ok(made)
    }

    async fn wait_for_cluster(&self, call: &Call) -> Result<(), BootstrapError> {
        let inner = &self.inner;
        let mut changes = inner.meta.changes.subscribe();
        while inner.meta.now.load().cluster.is_none() {
            let left = call.deadline.since(inner.clock.monotonic());
            let waited = tokio::time::timeout(std::time::Duration::from_millis(left), changes.changed()).await;
            if waited.is_err() {
                return Err(BootstrapError::Slow);
            }
        }
        Ok(())
    }
}

/// The addresses of the first nodes.
fn addresses(inner: &Inner, wishes: &Wishes) -> Result<BTreeSet<String>, BootstrapError> {
    let mut addresses: BTreeSet<String> = wishes.addresses.iter().map(|a| a.trim().to_string()).collect();
    if let Some(wrong) = addresses.iter().find(|a| a.parse::<super::config::Address>().is_err()) {
        return Err(BootstrapError::Address(wrong.chars().take(200).collect()));
    }
    if addresses.len() > super::folder::FOUNDERS_MAX {
        return Err(CharterError::TooMany { got: addresses.len(), max: super::folder::FOUNDERS_MAX }.into());
    }
    if addresses.is_empty() {
        addresses.extend(inner.config.seeds.iter().map(ToString::to_string));
        addresses.insert(inner.me.endpoints.link.clone());
    }
    Ok(addresses)
}

/// A node that was offered a founding record and told nothing since asks the other founders what became of it.
pub(super) async fn settle_offer(inner: &Arc<Inner>) {
    let Some(offered) = inner.offered() else { return };
    let ways = Wires { dialling: inner.dialling() };
    let cluster = &offered.cluster;
    let settled = match fate_of(&ways, inner.me.node, &offered).await {
        Fate::Open => return,
        Fate::Begun => {
            tracing::info!(%cluster, "the cluster has begun at other founders");
            inner.clone().found(offered).await
        }
        Fate::Dead => {
            tracing::warn!(%cluster, "a founder is in another cluster: this one can't begin, and its record is let go of");
            inner.withdraw(offered).await
        }
    };
    if let Err(error) = settled {
        tracing::error!(error, "what became of the founding can't be kept on disk");
    }
}
