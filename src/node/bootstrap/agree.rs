//! How nodes agree on one charter: whom it is offered to, in which order, and when it may begin.

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::ids::NodeId;
use crate::node::folder::{Charter, ClusterId, Founder};
use crate::node::link::{Introduction, Me};
use crate::ring::{Replication, Rules, ShardCount};
use crate::versions::Spoken;

use super::{BootstrapError, Bootstrapped, Wishes};

/// How a founding speaks to the nodes. Errors are for people, and say nothing of whether it was done.
#[async_trait]
pub(super) trait Ways: Sync {
    /// Who is there?
    async fn introduce(&self, address: &str) -> Result<Introduction, String>;

    /// Offers a charter; answers the one that the node holds then, durably.
    async fn offer(&self, to: &Introduction, charter: &Charter) -> Result<Charter, String>;

    /// Every founder holds this charter.
    async fn begin(&self, to: &Introduction, charter: &Charter) -> Result<(), String>;
}

/// Makes one cluster of the nodes at `addresses`, or goes on with what was begun with the same nodes.
pub(super) async fn found_together<W: Ways>(
    ways: &W,
    me: &Me,
    wishes: &Wishes,
    addresses: &BTreeSet<String>,
) -> Result<Bootstrapped, BootstrapError> {
    let met = meet(ways, me, addresses).await?;
    let proposal = proposal(wishes, &met)?;
    let mut charter = held(&met, &proposal)?.unwrap_or_else(|| proposal.clone());
    fits(wishes, &charter, &proposal)?;
    // One after the other, by node id: of lists that differ, one always gets all its nodes.
    for (at, other) in met.iter().enumerate() {
        let held = ways.offer(other, &charter).await.map_err(|why| BootstrapError::HalfWay(vec![why]))?;
        if held == charter {
            continue;
        }
        if at > 0 || !same_nodes(&held, &charter) {
            return Err(differ(&charter, &held));
        }
        // The arbiter has been offered another one first: that is the one.
        fits(wishes, &held, &proposal)?;
        charter = held;
    }
    let told = met.iter().map(|other| ways.begin(other, &charter));
    let failed: Vec<String> = futures::future::join_all(told).await.into_iter().filter_map(Result::err).collect();
    if !failed.is_empty() {
        return Err(BootstrapError::HalfWay(failed));
    }
    let created = charter.cluster == proposal.cluster;
    Ok(Bootstrapped { charter, created })
}

/// Asks every address who is there; by node id.
async fn meet<W: Ways>(ways: &W, me: &Me, addresses: &BTreeSet<String>) -> Result<Vec<Introduction>, BootstrapError> {
    let asked = addresses.iter().map(|address| ways.introduce(address));
    let (met, failed): (Vec<_>, Vec<_>) = futures::future::join_all(asked).await.into_iter().partition(Result::is_ok);
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    if !failed.is_empty() {
        return Err(BootstrapError::Unreachable(failed));
    }
    let mut met: Vec<Introduction> = met.into_iter().filter_map(Result::ok).collect();
    if !met.iter().any(|other| other.node == me.node) {
        return Err(BootstrapError::WithoutMe(me.endpoints.link.clone()));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = met.iter().find(|other| !names.insert(&other.name)) {
        return Err(BootstrapError::SameName(twice.name.clone()));
    }
    met.sort_by_key(|other| other.node);
    Ok(met)
}

/// The charter of a cluster that is not there yet.
pub(super) fn proposal(wishes: &Wishes, met: &[Introduction]) -> Result<Charter, BootstrapError> {
    let shards = match wishes.shards {
        0 => ShardCount::DEFAULT,
        count => ShardCount::new(count)?,
    };
    let replication = match wishes.replication {
        0 => Replication::new(u32::try_from(met.len()).unwrap_or(3).min(3))?,
        count => Replication::new(count)?,
    };
    let founder = |other: &Introduction| Founder {
        node: other.node,
        name: other.name.clone(),
        zone: other.zone.clone(),
        weight: other.weight,
        link: other.endpoints.link.clone(),
    };
    let cluster = ClusterId::from_random(wishes.random.0, wishes.random.1);
    let rules = Rules { replication, ..Rules::default() };
    // Builds of before name none: then the cluster begins with what they know.
    let version = Spoken::newest_of_all(met.iter().map(|other| other.spoken));
    let version = version.ok_or_else(|| BootstrapError::Versions(spoken_by(met)))?;
    Ok(Charter::new(cluster, shards, rules, met.iter().map(founder).collect())?.at(version))
}

fn spoken_by(met: &[Introduction]) -> String {
    met.iter().map(|other| format!("{} speaks {}", other.name, other.spoken)).collect::<Vec<_>>().join(", ")
}

/// The charter to go on with: of a cluster that has begun, else the arbiter's, else any that was offered to these nodes.
fn held(met: &[Introduction], proposal: &Charter) -> Result<Option<Charter>, BootstrapError> {
    let begun = |other: &&Introduction| other.cluster.is_some();
    let charters =
        |begun: bool| met.iter().filter(move |o| o.cluster.is_some() == begun).filter_map(|o| o.founding.as_ref());
    let mut clusters = met.iter().filter(begun).filter_map(|other| other.cluster.as_ref());
    if let Some(first) = clusters.next()
        && let Some(other) = clusters.find(|other| *other != first)
    {
        return Err(BootstrapError::Taken(format!("the nodes belong to two clusters already, {first} and {other}")));
    }
    let mut all = charters(true).chain(charters(false));
    if let Some(other) = all.clone().find(|charter| !same_nodes(charter, proposal)) {
        return Err(differ(proposal, other));
    }
    Ok(all.next().cloned())
}

fn same_nodes(one: &Charter, other: &Charter) -> bool {
    let nodes =
        |charter: &Charter| -> BTreeSet<NodeId> { charter.founders.iter().map(|founder| founder.node).collect() };
    nodes(one) == nodes(other)
}

/// A charter that isn't this call's own must still be what this call wishes.
fn fits(wishes: &Wishes, charter: &Charter, proposal: &Charter) -> Result<(), BootstrapError> {
    let same_shards = wishes.shards == 0 || charter.shards == proposal.shards;
    let same_replication = wishes.replication == 0 || charter.rules.replication == proposal.rules.replication;
    if same_shards && same_replication {
        return Ok(());
    }
    let (shards, replication) = (charter.shards.get(), charter.rules.replication);
    let told = format!("cluster {} has {shards} shards of {replication} replicas already", charter.cluster);
    Err(BootstrapError::Taken(told))
}

fn differ(named: &Charter, held: &Charter) -> BootstrapError {
    let list = |charter: &Charter| {
        let named = charter.founders.iter().map(|founder| format!("{} at {}", founder.name, founder.link));
        named.collect::<Vec<_>>().join(", ")
    };
    BootstrapError::Differ { named: list(named), cluster: held.cluster.clone(), held: list(held) }
}

/// What became of a charter that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody who answers knows.
    Open,
    /// A founder has begun with it: so all held it.
    Begun,
    /// A founder has begun with another one: it never can.
    Dead,
}

/// Asks the other founders what became of a charter.
pub(super) async fn fate_of<W: Ways>(ways: &W, me: NodeId, charter: &Charter) -> Fate {
    let others = charter.founders.iter().filter(|founder| founder.node != me);
    let asked = others.map(|founder| async { (founder.node, ways.introduce(&founder.link).await) });
    for (node, answer) in futures::future::join_all(asked).await {
        // Another node may have the address by now.
        let Some(told) = answer.ok().filter(|told| told.node == node) else { continue };
        match (told.cluster, told.founding) {
            (Some(_), Some(begun)) if begun == *charter => return Fate::Begun,
            (Some(_), Some(_)) => return Fate::Dead,
            _ => {}
        }
    }
    Fate::Open
}
