//! `clusterctl ring plan`: a dry run. Nothing of it leaves this program.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::Args;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::node::node_name;
use super::super::output::{bytes, right, table, text};
use super::super::text::{plain, short, wrapped};
use super::moves::{Change, Layout, Plan, Wish, plan};
use crate::ids::NodeId;
use crate::proto::v1;
use crate::ring::{Member, Placement, Replicas, Replication, Rules, ShardCount, Slack, Weight, Zone};

/// The most moves that a table lists.
const MOVES_SHOWN_MAX: usize = 20;

/// Who would come and go.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(in super::super) struct Options {
    /// A node that would come; zone `default` and weight 1 unless said. May be repeated
    #[arg(long, value_name = "NAME[:ZONE[:WEIGHT]]")]
    add: Vec<Addition>,
    /// A node that would go. May be repeated
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    remove: Vec<String>,
}

/// A node that would come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Addition {
    name: String,
    zone: Zone,
    weight: Weight,
}

impl FromStr for Addition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let name = node_name(parts.next().unwrap_or_default())?;
        let zone = parts.next().map_or(Ok(Zone::default()), |zone| Zone::new(zone).map_err(|e| format!("zone {e}")))?;
        let weight = match parts.next() {
            None => Weight::DEFAULT,
            Some(text) => {
                let number = text.parse::<u32>().map_err(|_| format!("weight: 1 to {} is accepted", Weight::MAX))?;
                Weight::new(number).map_err(|e| e.to_string())?
            }
        };
        Ok(Self { name, zone, weight })
    }
}

/// The plan, and what it rests on.
#[derive(Debug, Serialize)]
struct Planned {
    /// The placement's version that it starts from.
    epoch: u64,
    /// How much would be copied, by what a replica takes on average now.
    copied_bytes_about: u64,
    #[serde(flatten)]
    plan: Plan,
    notes: Vec<String>,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let admin = context.admin()?;
    let ring = context.read(admin.get_ring(v1::GetRingRequest { include_points: false })).await?;
    let status = context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?;
    let shards = context.read(admin.all_shards()).await?;
    let (layout, unsettled) = layout(&ring, &status.nodes, &shards)?;
    let (wish, made_up) = wish(&layout, &status.nodes, &options)?;
    let plan = plan(&layout, &wish).map_err(|e| Failure::Usage(e.to_string()))?;
    let planned = planned(ring.epoch, plan, &status.nodes, made_up, unsettled);
    context.answer(&planned, || planned.text())
}

/// The cluster as it stands, and whether it has been placed as it should be.
fn layout(
    ring: &v1::GetRingResponse,
    nodes: &[v1::NodeStatus],
    shards: &[v1::ShardStatus],
) -> Result<(Layout, bool), Failure> {
    let wrong = |what: &str| Failure::error(format!("the cluster's answer cannot be planned on: {what}"));
    let ids: BTreeMap<&str, NodeId> = nodes.iter().map(|node| (node.node.as_str(), NodeId(node.node_id))).collect();
    let id = |name: &str| ids.get(name).copied().ok_or_else(|| wrong(&format!("nothing is known of {}", plain(name))));
    let member = |share: &v1::RingShare| -> Result<Member, Failure> {
        Ok(Member {
            node: id(&share.node)?,
            zone: Zone::new(share.zone.as_str()).map_err(Failure::error)?,
            weight: Weight::new(share.weight).map_err(Failure::error)?,
        })
    };
    let count = ShardCount::new(ring.shards).map_err(Failure::error)?;
    if shards.len() != count.get() as usize || !(0..).zip(shards).all(|(n, shard)| shard.shard == n) {
        return Err(wrong("not every shard was told"));
    }
    let replicas = |shard: &v1::ShardStatus| -> Result<Replicas, Failure> {
        let nodes: Vec<NodeId> = shard.placement.iter().map(|name| id(name)).collect::<Result<_, _>>()?;
        Ok(Replicas { leader: nodes.first().copied(), nodes })
    };
    let layout = Layout {
        count,
        rules: Rules {
            replication: Replication::new(ring.replication_factor).map_err(Failure::error)?,
            slack: Slack::new(ring.slack_permille).map_err(Failure::error)?,
        },
        members: ring.shares.iter().map(member).collect::<Result<_, _>>()?,
        placement: Placement::of(shards.iter().map(replicas).collect::<Result<_, _>>()?),
        names: nodes.iter().map(|node| (NodeId(node.node_id), plain(&node.node))).collect(),
    };
    let unsettled = shards.iter().any(|shard| {
        shard.replicas.len() != shard.placement.len()
            || shard.replicas.iter().any(|replica| !shard.placement.contains(&replica.node))
    });
    Ok((layout, unsettled))
}

/// Who comes and goes, by number; and whether the number of one that comes is made up.
fn wish(layout: &Layout, nodes: &[v1::NodeStatus], options: &Options) -> Result<(Wish, bool), Failure> {
    let member = |name: &str| {
        let id = layout.names.iter().find(|(_, known)| *known == name).map(|(id, _)| *id)?;
        layout.members.iter().find(|member| member.node == id)
    };
    let mut wish = Wish::default();
    for name in &options.remove {
        let Some(member) = member(name) else {
            let known: Vec<String> = layout.members.iter().filter_map(|m| layout.names.get(&m.node).cloned()).collect();
            return Err(Failure::Usage(format!("{name:?} holds nothing: {} do", known.join(", "))));
        };
        wish.remove.push(member.node);
    }
    let (mut fresh, mut made_up) = (nodes.iter().map(|node| node.node_id).max().unwrap_or_default(), false);
    for added in &options.add {
        if member(&added.name).is_some() || wish.add.iter().any(|(_, name)| *name == added.name) {
            return Err(Failure::Usage(format!("{:?} is there already", added.name)));
        }
        let node = match nodes.iter().find(|node| node.node == added.name) {
            Some(known) => NodeId(known.node_id),
            None => {
                (fresh, made_up) = (fresh.saturating_add(1), true);
                NodeId(fresh)
            }
        };
        let member = Member { node, zone: added.zone.clone(), weight: added.weight };
        wish.add.push((member, added.name.clone()));
    }
    Ok((wish, made_up))
}

fn planned(epoch: u64, plan: Plan, nodes: &[v1::NodeStatus], made_up: bool, unsettled: bool) -> Planned {
    let held: u64 = nodes.iter().map(|node| u64::from(node.replicas)).sum();
    let stored: u64 = nodes.iter().map(|node| node.store_bytes).sum();
    let each = stored.checked_div(held).unwrap_or_default();
    let mut notes = Vec::new();
    if made_up {
        notes.push(
            "which shards a new node gets depends on the number that it is given when it first starts; how many it gets does \
             not: take the list as an example"
                .to_string(),
        );
    }
    if plan.shards_short > 0 {
        notes.push(format!(
            "{} shards would have fewer replicas than they should: there are too few nodes",
            plan.shards_short
        ));
    }
    if unsettled {
        notes.push("replicas do not stand where they should yet: `clusterctl doctor` says which".to_string());
    }
    Planned { epoch, copied_bytes_about: each.saturating_mul(plan.replicas_moved as u64), plan, notes }
}

impl Planned {
    fn text(&self) -> String {
        let plan = &self.plan;
        let mut rows = table(["NODE", "", "ZONE", "WEIGHT", "REPLICAS", "GETS", "GIVES", "LEADS"]);
        right(&mut rows, &[3, 4, 5, 6, 7]);
        let arrow = |before: usize, after: usize| format!("{before} -> {after}");
        for node in &plan.nodes {
            let change = match node.change {
                Change::Stays => "",
                Change::Comes => "comes",
                Change::Goes => "goes",
            };
            rows.add_row([
                short(&node.node, 16),
                change.to_string(),
                short(&node.zone, 12),
                node.weight.to_string(),
                arrow(node.replicas_before, node.replicas_after),
                node.gets.to_string(),
                node.gives.to_string(),
                arrow(node.leaders_before, node.leaders_after),
            ]);
        }
        let share = 100.0 * plan.replicas_moved as f64 / (plan.replicas as f64).max(1.0);
        let (moved, all) = (plan.replicas_moved, plan.replicas);
        let copied = bytes(self.copied_bytes_about);
        let mut out = format!(
            "{}\n\n{moved} of {all} replicas are copied ({share:.1} %), about {copied}\n\
             the nodes that come or go make up {:.0} of them; {} preferred leaders change\n",
            text(&mut rows),
            plan.share_of_changed,
            plan.leaders_moved
        );
        if !plan.moves.is_empty() {
            let mut moves = table(["SHARD", "FROM", "TO"]);
            right(&mut moves, &[0]);
            let name = |node: &Option<String>| node.as_ref().map_or_else(|| "-".to_string(), |node| short(node, 24));
            for step in plan.moves.iter().take(MOVES_SHOWN_MAX) {
                moves.add_row([step.shard.to_string(), name(&step.from), name(&step.to)]);
            }
            out.push_str(&format!("\n{}\n", text(&mut moves)));
            if plan.moves.len() > MOVES_SHOWN_MAX {
                let more = plan.moves.len() - MOVES_SHOWN_MAX;
                out.push_str(&format!("and {more} more: --output json lists them all\n"));
            }
        }
        for note in &self.notes {
            out.push_str(&format!("\n{}\n", wrapped(&format!("note: {note}"), 80).join("\n")));
        }
        format!("{out}\nnothing was changed: this is a dry run, from epoch {}", self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_comes_has_a_name_a_zone_and_a_weight() {
        let addition = |name: &str, zone: &str, weight| Addition {
            name: name.into(),
            zone: Zone::new(zone).unwrap(),
            weight: Weight::new(weight).unwrap(),
        };
        assert_eq!("n4".parse(), Ok(addition("n4", "default", 1)));
        assert_eq!("n4:eu-1".parse(), Ok(addition("n4", "eu-1", 1)));
        assert_eq!("n4:eu-1:2".parse(), Ok(addition("n4", "eu-1", 2)));
        for text in ["", ":a", "n4:", "n4:a b", "n4:a:0", "n4:a:101", "n4:a:x", "n4:a:1:2", "n\u{7}"] {
            assert!(text.parse::<Addition>().is_err(), "{text:?}");
        }
    }
}
