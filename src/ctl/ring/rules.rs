//! `clusterctl ring rules`.

use std::time::Duration;

use clap::Args;

use super::super::connect;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::span_of;
use super::super::plan::{How, change};
use crate::client::AdminClient;
use crate::proto::v1;

/// What changes; what is not named stays.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["replication_factor", "slack_permille", "grace", "automatic", "heat"])]
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

impl Options {
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
        let what: Vec<String> = [replication, slack, grace, begin, heat].into_iter().flatten().collect();
        format!("The cluster's rules: {}", what.join(", "))
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let grace_ms = options.grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
    change(context, options.how, async |admin: AdminClient, validate_only| {
        let request = v1::UpdateRulesRequest {
            replication_factor: options.replication_factor,
            slack_permille: options.slack_permille,
            grace_ms,
            automatic: options.automatic,
            heat: options.heat,
            validate_only,
        };
        Ok((options.sentence(), admin.update_rules(request).await?.plan))
    })
    .await
}
