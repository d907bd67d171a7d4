//! `clusterctl shard show`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{ago, bytes, judged, number, right, table, text};
use super::super::text::wrapped;
use super::{ShowOptions, shards};
use crate::proto::v1::get_shard_request::Of;

pub(super) async fn run(context: &Context, options: ShowOptions) -> Result<(), Failure> {
    let of = match (options.shard, options.account) {
        (Some(shard), _) => Of::Shard(shard),
        (None, Some(account)) => Of::AccountId(account.to_string()),
        (None, None) => return Err(Failure::Usage("name a shard, or an account with --account".into())),
    };
    let Some(shard) = shards(context, Some(of)).await?.pop() else {
        return Err(Failure::error("the node answered without a shard"));
    };
    let now = context.clock.wall();
    context.answer(&shard, || {
        let mut rows = table(["ID", "NODE", "ROLE", "APPLIED", "LAG", "UNSAVED", "SAVED TO", "DIGEST", "SAID"]);
        right(&mut rows, &[0, 3, 4, 5, 6]);
        for replica in &shard.replicas {
            let digest: String = replica.digest.chars().take(8).collect();
            let role = if replica.leaving { format!("{} (leaving)", replica.role) } else { replica.role.to_string() };
            rows.add_row([
                replica.replica_id.into(),
                replica.node.clone().into(),
                judged(role, !replica.is_troubled()),
                number(replica.applied_index).into(),
                number(replica.lag).into(),
                bytes(replica.log_bytes).into(),
                number(replica.checkpoint_index).into(),
                if digest.is_empty() { "-".to_string() } else { digest }.into(),
                ago(replica.report_time.as_ref(), now).into(),
            ]);
        }
        let failed = shard.replicas.iter().filter(|replica| !replica.why.is_empty());
        let why = failed.map(|replica| {
            let why = format!("{} on {}: {}", replica.replica_id, replica.node, replica.why);
            format!("\n{}", wrapped(&why, 80).join("\n  "))
        });
        let why: String = why.collect();
        let leader = shard.leader.as_deref().unwrap_or("none");
        let digests = match shard.digest_compared {
            0 => "replicas: not compared yet".to_string(),
            compared => {
                format!("{compared} replicas {} at entry {}", shard.digests, number(shard.digest_index))
            }
        };
        format!(
            "shard {} (group {})  leader {leader}  term {}  revision {}  {} active views\nplaced on {}; {digests}\n\n{}{why}",
            shard.shard,
            shard.group,
            shard.term,
            number(shard.revision),
            number(shard.active_views),
            shard.placement.join(", "),
            text(&mut rows)
        )
    })?;
    match shard.is_troubled() {
        false => Ok(()),
        true if shard.digests == super::DIFFER => Err(Failure::Degraded(format!(
            "replicas of shard {} have different states after entry {}: keep their folders, and replace none before it is known which is right",
            shard.shard, shard.digest_index
        ))),
        true => {
            Err(Failure::Degraded(format!("shard {} has no leader, or a replica that does not follow", shard.shard)))
        }
    }
}
