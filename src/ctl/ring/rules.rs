//! `clusterctl ring rules`.

use std::time::Duration;

use clap::Args;

use super::super::connect;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::span_of;
use super::super::plan::{How, change, copies_sentence};
use crate::client::AdminClient;
use crate::proto::v1;
use crate::versions::{ClusterVersion, Feature};

/// What copies may be left of a node, in KiB a second: what nodes take for a setting of their own.
const COPIES_KIB: std::ops::RangeInclusive<u64> = 64..=16 << 20;

/// What changes; what is not named stays.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["replication_factor", "slack_permille", "grace", "automatic", "heat", "copies_kib_per_second"])]
pub(in super::super) struct Options {
    /// Voting copies of each shard: 1, 3 or 5
    #[arg(long, value_name = "N")]
    replication_factor: Option<u32>,
    /// By how much a node may miss its fair share either way, in thousandths of it
    #[arg(long, value_name = "N")]
    slack_permille: Option<u32>,
    /// How long a node may be dead before it is given up
    #[arg(long, value_name = "TIME", value_parser = connect::duration)]
    grace: Option<Duration>,
    /// Whether changes begin by themselves, or wait for `plan apply`
    #[arg(long, value_name = "YES|NO", value_parser = yes_or_no)]
    automatic: Option<bool>,
    /// Whether leads move by what shards cost, or are even by number
    #[arg(long, value_name = "ON|OFF", value_parser = on_or_off)]
    heat: Option<bool>,
    /// What each node may send of copies, KiB a second: 64 to 16777216; default: what each node has set
    #[arg(long, value_name = "N|default", value_parser = copies)]
    copies_kib_per_second: Option<u64>,
    #[command(flatten)]
    how: How,
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err("yes or no is accepted".to_string()),
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off is accepted".to_string()),
    }
}

/// KiB a second; 0: what each node has set.
fn copies(text: &str) -> Result<u64, String> {
    let refused = || format!("{} to {}, or default, is accepted", COPIES_KIB.start(), COPIES_KIB.end());
    match text {
        "default" => Ok(0),
        _ => text.parse::<u64>().ok().filter(|kib| *kib == 0 || COPIES_KIB.contains(kib)).ok_or_else(refused),
    }
}

impl Options {
    fn copies_bytes_per_second(&self) -> Option<u64> {
        self.copies_kib_per_second.map(|kib| kib << 10)
    }

    fn sentence(&self) -> String {
        let replication = self.replication_factor.map(|n| format!("{n} copies of each shard"));
        let slack = self.slack_permille.map(|n| format!("{n} thousandths of slack"));
        let grace = self.grace.map(|grace| format!("dead nodes are given up after {}", span_of(grace)));
        let begin = self.automatic.map(|automatic| match automatic {
            true => "changes begin by themselves".to_string(),
            false => "changes wait for `plan apply`".to_string(),
        });
        let heat = self.heat.map(|heat| match heat {
            true => "leads move by what shards cost".to_string(),
            false => "leads are even by number".to_string(),
        });
        let copies = self.copies_bytes_per_second().map(|rate| copies_sentence(Some(rate).filter(|rate| *rate > 0)));
        let what: Vec<String> = [replication, slack, grace, begin, heat, copies].into_iter().flatten().collect();
        format!("The cluster's rules: {}", what.join(", "))
    }
}

/// Refuses a rule that the cluster's version doesn't have: a node of a build of before would read over it and say that all is done.
async fn judge_version(context: &Context) -> Result<(), Failure> {
    let versions = context.read(context.admin()?.get_versions(v1::GetVersionsRequest {})).await?;
    let (needed, has) = (Feature::CopiesRule.since(), ClusterVersion(versions.cluster_version));
    match has.has(Feature::CopiesRule) {
        true => Ok(()),
        false => Err(Failure::error(format!(
            "--copies-kib-per-second needs cluster version {needed}, and the cluster has {has}: finish the upgrade first \
             (clusterctl upgrade); nothing was changed"
        ))),
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    if options.copies_kib_per_second.is_some() {
        judge_version(context).await?;
    }
    let grace_ms = options.grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
    change(context, options.how, async |admin: AdminClient, validate_only| {
        let request = v1::UpdateRulesRequest {
            replication_factor: options.replication_factor,
            slack_permille: options.slack_permille,
            grace_ms,
            automatic: options.automatic,
            heat: options.heat,
            copies_bytes_per_second: options.copies_bytes_per_second(),
            validate_only,
        };
        Ok((options.sentence(), admin.update_rules(request).await?.plan))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_copies_may_take_is_typed_in_kib_within_what_nodes_accept() {
        assert_eq!(["default", "0", "64", "8192", "16777216"].map(copies), [0, 0, 64, 8192, 16 << 20].map(Ok));
        for wrong in ["", "63", "16777217", "-1", "8MiB", "1.5", "99999999999999999999", "Default"] {
            let told = copies(wrong).unwrap_err();
            assert!(told.contains("64 to 16777216, or default"), "{wrong}: {told}");
        }
    }
}
