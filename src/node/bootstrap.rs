//! Making a cluster of nodes that have none, by one call to any of them.
//!
//! The called node asks every address who is there, writes down what all must agree on (the [`Charter`]), and hands it to each,
//! which keeps it durably before it answers. From then on the nodes go on by themselves: each opens its meta replica, one
//! of them initializes the meta group, and the meta group's leader proposes the cluster's first placement.
//!
//! **Safely repeatable.** A charter that any of the nodes holds already is the one that is used; so a call that died half-way is
//! finished by the next, from any of the nodes. A node that belongs to another cluster makes the call fail
//! before anything is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ids::NodeId;
use crate::ring::{InvalidRule, InvalidShardCount, Replication, Rules, ShardCount};

use super::core::{Inner, Node};
use super::folder::{Charter, CharterError, ClusterId, Founder};
use super::link::{Introduction, ask_to_found, introduce};
use super::router::Call;

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
    /// Some belong to a cluster already.
    #[error("{0}")]
    Taken(String),
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

impl Node {
    /// Makes a cluster, or goes on with what an earlier call began, and waits until it has begun.
    pub async fn bootstrap(&self, wishes: Wishes, call: &Call) -> Result<Bootstrapped, BootstrapError> {
        let inner = &self.inner;
        let met = meet(inner, &wishes).await?;
        let (charter, created) = agree(inner, &wishes, &met)?;
        let tls = inner.config.link_tls();
        let asked = met.iter().map(|other| {
            let (charter, tls) = (&charter, tls.as_ref());
            async move { ask_to_found(&other.endpoints.link, other.node, charter, tls).await }
        });
        let answers = futures::future::join_all(asked).await;
        let failed: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        if !failed.is_empty() {
            return Err(BootstrapError::HalfWay(failed));
        }
        self.wait_for_cluster(call).await?;
        Ok(Bootstrapped { charter, created })
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

/// Asks every address who is there.
async fn meet(inner: &Arc<Inner>, wishes: &Wishes) -> Result<Vec<Introduction>, BootstrapError> {
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
    let tls = inner.config.link_tls();
    let asked = addresses.iter().map(|address| introduce(address, tls.as_ref()));
    let (met, failed): (Vec<_>, Vec<_>) = futures::future::join_all(asked).await.into_iter().partition(Result::is_ok);
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    if !failed.is_empty() {
        return Err(BootstrapError::Unreachable(failed));
    }
    let met: Vec<Introduction> = met.into_iter().filter_map(Result::ok).collect();
    if !met.iter().any(|other| other.node == inner.me.node) {
        return Err(BootstrapError::WithoutMe(inner.me.endpoints.link.clone()));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = met.iter().find(|other| !names.insert(&other.name)) {
        return Err(BootstrapError::SameName(twice.name.clone()));
    }
    Ok(met)
}

/// The charter that one of the nodes holds already, or a new one; and whether it is new.
fn agree(inner: &Inner, wishes: &Wishes, met: &[Introduction]) -> Result<(Charter, bool), BootstrapError> {
    let shards = match wishes.shards {
        0 => ShardCount::DEFAULT,
        count => ShardCount::new(count)?,
    };
    let replication = match wishes.replication {
        0 => Replication::new(u32::try_from(met.len()).unwrap_or(3).min(3))?,
        count => Replication::new(count)?,
    };
    let rules = Rules { replication, ..Rules::default() };
    let held = inner.charter();
    let mut charters: Vec<&Charter> =
        held.iter().chain(met.iter().filter_map(|other| other.founding.as_ref())).collect();
    charters.dedup();
    let Some(first) = charters.first() else {
        let founder = |other: &Introduction| Founder {
            node: other.node,
            name: other.name.clone(),
            zone: other.zone.clone(),
            weight: other.weight,
            link: other.endpoints.link.clone(),
        };
        let cluster = ClusterId::from_random(wishes.random.0, wishes.random.1);
        return Ok((Charter::new(cluster, shards, rules, met.iter().map(founder).collect())?, true));
    };
    if let Some(other) = charters.iter().find(|other| other.cluster != first.cluster) {
        let told = format!("the nodes belong to two clusters already, {} and {}", first.cluster, other.cluster);
        return Err(BootstrapError::Taken(told));
    }
    let named: BTreeSet<NodeId> = met.iter().map(|other| other.node).collect();
    let founders: BTreeSet<NodeId> = first.founders.iter().map(|founder| founder.node).collect();
    if named != founders {
        let names: Vec<String> = first.founders.iter().map(|f| format!("{} at {}", f.name, f.link)).collect();
        let told = format!("cluster {} was founded by other nodes: {}", first.cluster, names.join(", "));
        return Err(BootstrapError::Taken(told));
    }
    let same_shards = wishes.shards == 0 || first.shards == shards;
    let same_replication = wishes.replication == 0 || first.rules.replication == replication;
    if !same_shards || !same_replication {
        let (shards, replication) = (first.shards.get(), first.rules.replication);
        let told = format!("cluster {} has {shards} shards of {replication} replicas already", first.cluster);
        return Err(BootstrapError::Taken(told));
    }
    Ok(((*first).clone(), false))
}
