//! `clusterctl shard transfer-leader`.

use clap::Args;
use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::node::node_name;
use super::super::text::plain;
use super::shards;
use crate::proto::v1::{self, get_shard_request::Of};

/// Which shard, and to whom.
#[derive(Debug, Args)]
pub(in super::super) struct Options {
    /// The shard's number
    shard: u32,
    /// The node that shall lead; none: the one that the placement prefers
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    to: Option<String>,
}

/// Who leads now.
#[derive(Debug, Serialize)]
struct Transferred {
    shard: u32,
    from: Option<String>,
    leader: String,
    /// Null: not known yet.
    term: Option<u64>,
    /// It led already.
    unchanged: bool,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Some(shard) = shards(context, Some(Of::Shard(options.shard))).await?.pop() else {
        return Err(Failure::error("the node answered without a shard"));
    };
    let to = match options.to.as_ref().or(shard.placement.first()) {
        Some(to) => to.clone(),
        None => return Err(Failure::error(format!("shard {} has no place yet", options.shard))),
    };
    let Some(heir) = shard.replicas.iter().find(|replica| replica.node == to) else {
        let nodes: Vec<&str> = shard.replicas.iter().map(|replica| replica.node.as_str()).collect();
        let number = options.shard;
        return Err(Failure::Usage(format!("{to:?} holds no replica of shard {number}: {} do", nodes.join(", "))));
    };
    if heir.is_troubled() {
        let (number, role) = (options.shard, heir.role);
        let message = format!("the replica of shard {number} on {to} is {role} and can't lead; nothing was changed");
        return Err(Failure::Degraded(message));
    }
    let transferred = if shard.leader.as_deref() == Some(&to) {
        Transferred { shard: options.shard, from: shard.leader, leader: to, term: Some(shard.term), unchanged: true }
    } else {
        transfer(context, options.shard, shard.leader, to).await?
    };
    context.answer(&transferred, || match transferred.unchanged {
        true => format!("{} leads shard {} already", transferred.leader, transferred.shard),
        false => {
            let from = transferred.from.as_deref().map_or_else(String::new, |from| format!(", no longer {from}"));
            let term = transferred.term.map_or_else(String::new, |term| format!(" in term {term}"));
            format!("{} leads shard {}{term}{from}", transferred.leader, transferred.shard)
        }
    })
}

async fn transfer(context: &Context, shard: u32, from: Option<String>, to: String) -> Result<Transferred, Failure> {
    let Some(leader) = &from else {
        let message = format!("shard {shard} has no leader that could hand over; nothing was changed");
        return Err(Failure::Degraded(message));
    };
    let what = format!("The leader of shard {shard} becomes {to} instead of {leader}; its writes wait for a moment");
    let context = permission(context, &what).await?;
    let request = v1::TransferLeaderRequest { shard, to_node: to };
    let answer = context.patient_admin().await?.transfer_leader(request).await?;
    let term = Some(answer.term).filter(|term| *term > 0);
    Ok(Transferred { shard, from, leader: plain(&answer.leader), term, unchanged: false })
}
