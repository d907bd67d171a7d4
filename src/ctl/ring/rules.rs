//! `clusterctl ring rules`.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use super::super::connect;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::span_of;
use super::super::plan::{How, account_sentence, change, copies_sentence};
use crate::client::AdminClient;
use crate::proto::v1;
use crate::versions::{ClusterVersion, Feature};

/// What copies may be left of a node, in KiB a second: what nodes take for a setting of their own.
const COPIES_KIB: RangeInclusive<u64> = 64..=16 << 20;
/// What a leader may be bound to take of one account, commands a second.
const ACCOUNT: RangeInclusive<u64> = 1..=1_000_000;

/// What changes; what is not named stays.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["replication_factor", "slack_permille", "grace", "automatic", "heat", "copies_kib_per_second", "account_per_second"])]
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
    #[arg(long, value_name = "N|default", value_parser = |text: &str| limit(text, COPIES_KIB))]
    copies_kib_per_second: Option<u64>,
    /// What each leader takes of one account, commands a second: 1 to 1000000; default: what each node has set
    #[arg(long, value_name = "N|default", value_parser = |text: &str| limit(text, ACCOUNT))]
    account_per_second: Option<u64>,
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

/// A limit, or 0 for what each node has set.
fn limit(text: &str, accepted: RangeInclusive<u64>) -> Result<u64, String> {
    let refused = || format!("{} to {}, or default, is accepted", accepted.start(), accepted.end());
    match text {
        "default" => Ok(0),
        _ => text.parse::<u64>().ok().filter(|limit| accepted.contains(limit)).ok_or_else(refused),
    }
}

impl Options {
    fn copies_bytes_per_second(&self) -> Option<u64> {
        self.copies_kib_per_second.map(|kib| kib << 10)
    }

    fn account_per_second(&self) -> Option<u32> {
        // What was typed fits.
        self.account_per_second.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX))
    }

    /// The first of the limits that change, as it is typed.
    fn limit_changed(&self) -> Option<&'static str> {
        let copies = self.copies_kib_per_second.map(|_| "--copies-kib-per-second");
        copies.or(self.account_per_second.map(|_| "--account-per-second"))
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
        let account = self.account_per_second().map(|rate| account_sentence(Some(rate).filter(|rate| *rate > 0)));
        let what = [replication, slack, grace, begin, heat, copies, account];
        let what: Vec<String> = what.into_iter().flatten().collect();
        format!("The cluster's rules: {}", what.join(", "))
    }
}

/// Refuses a limit that the cluster's version doesn't have: a node of a build of before would read over it and say that all is done.
async fn judge_version(context: &Context, limit: &str) -> Result<(), Failure> {
    let versions = context.read(context.admin()?.get_versions(v1::GetVersionsRequest {})).await?;
    let (needed, has) = (Feature::LimitRules.since(), ClusterVersion(versions.cluster_version));
    match has.has(Feature::LimitRules) {
        true => Ok(()),
        false => Err(Failure::error(format!(
            "{limit} needs cluster version {needed}, and the cluster has {has}: finish the upgrade first \
             (clusterctl upgrade); nothing was changed"
        ))),
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    if let Some(limit) = options.limit_changed() {
        judge_version(context, limit).await?;
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
            account_per_second: options.account_per_second(),
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
    fn limits_are_typed_within_what_nodes_accept_or_as_default() {
        let copies = |text: &str| limit(text, COPIES_KIB);
        assert_eq!(["default", "64", "8192", "16777216"].map(copies), [0, 64, 8192, 16 << 20].map(Ok));
        for wrong in ["", "0", "63", "16777217", "-1", "8MiB", "1.5", "99999999999999999999", "Default"] {
            let told = copies(wrong).unwrap_err();
            assert!(told.contains("64 to 16777216, or default"), "{wrong}: {told}");
        }
        let account = |text: &str| limit(text, ACCOUNT);
        assert_eq!(["default", "1", "1000000"].map(account), [0, 1, 1_000_000].map(Ok));
        for wrong in ["0", "1000001", "many"] {
            let told = account(wrong).unwrap_err();
            assert!(told.contains("1 to 1000000, or default"), "{wrong}: {told}");
        }
    }
}
