//! `clusterctl shard list`.

use super::super::context::{Context, Screen};
use super::super::exit::Failure;
use super::super::output::{judged, number, right, table, text};
use super::super::watch;
use super::{ListOptions, Replica, Shard, shards};

pub(super) async fn run(context: &Context, options: ListOptions) -> Result<(), Failure> {
    let look = async |context: &Context| look(context, options.troubled).await;
    watch::run(context, &options.repeat, look).await
}

async fn look(context: &Context, only_troubled: bool) -> Result<Screen, Failure> {
    let mut shards = shards(context, None).await?;
    let troubled = shards.iter().filter(|shard| shard.is_troubled()).count();
    let all = shards.len();
    if only_troubled {
        shards.retain(Shard::is_troubled);
    }
    let verdict = match troubled {
        0 => Ok(()),
        some => {
            Err(Failure::Degraded(format!("{some} of {all} shards have no leader, or a replica that does not follow")))
        }
    };
    context.screen(&shards, || text_of(&shards), verdict)
}

fn text_of(shards: &[Shard]) -> String {
    let mut rows = table(["SHARD", "LEADER", "TERM", "APPLIED", "REVISION", "VIEWS", "LAG", "REPLICAS"]);
    right(&mut rows, &[0, 2, 3, 4, 5, 6]);
    for shard in shards {
        let lag = shard.replicas.iter().map(|replica| replica.lag).max().unwrap_or_default();
        let replica = |r: &Replica| match r.role {
            "follower" => r.node.clone(),
            role => format!("{}:{role}", r.node),
        };
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
}
