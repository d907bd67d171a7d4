//! `clusterctl shard list`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{judged, number, right, table, text};
use super::{ListOptions, Shard};

pub(super) async fn run(context: &Context, options: ListOptions) -> Result<(), Failure> {
    let mut shards: Vec<Shard> = context.admin()?.all_shards().await?.into_iter().map(Shard::from).collect();
    let troubled = shards.iter().filter(|shard| shard.is_troubled()).count();
    let all = shards.len();
    if options.troubled {
        shards.retain(Shard::is_troubled);
    }
    context.answer(&shards, || {
        let mut rows = table(["SHARD", "LEADER", "TERM", "APPLIED", "REVISION", "VIEWS", "LAG", "REPLICAS"]);
        right(&mut rows, &[0, 2, 3, 4, 5, 6]);
        for shard in &shards {
            let lag = shard.replicas.iter().map(|replica| replica.lag).max().unwrap_or_default();
            let replica = |r: &super::Replica| format!("{}:{}", r.node, r.role);
            let followers = shard.replicas.iter().filter(|r| r.role != "leader").map(replica);
            rows.add_row([
                shard.shard.into(),
                judged(shard.leader.as_deref().unwrap_or("none"), shard.leader.is_some()),
                shard.term.into(),
                number(shard.applied_index).into(),
                number(shard.revision).into(),
                number(shard.active_views).into(),
                number(lag).into(),
                followers.collect::<Vec<_>>().join(" ").into(),
            ]);
        }
        text(&mut rows)
    })?;
    match troubled {
        0 => Ok(()),
        some => {
            Err(Failure::Degraded(format!("{some} of {all} shards have no leader, or a replica that does not follow")))
        }
    }
}
