//! `clusterctl account`.

mod active;
mod history;
mod resume;
mod show;
mod views;

use clap::{Args, Subcommand, ValueEnum};
use prost_types::Timestamp;
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::output::{ago, rfc3339};
use super::shard::role;
use super::text::plain;
use super::watch;
use crate::client::Client;
use crate::ids::{AccountId, ProfileId, TitleId};
use crate::proto::v1;
use crate::time::WallMs;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// An account: what it may watch, its profiles, what is being watched now
    Show(ShowOptions),
    /// What is being watched on the account now
    Active(ActiveOptions),
    /// What a profile has watched, the latest start first
    History(HistoryOptions),
    /// Where a profile left off: in these titles, or in all that it can go on watching
    Resume(ResumeOptions),
}

#[derive(Debug, Args)]
pub(super) struct ShowOptions {
    /// The account
    #[arg(value_name = "ID")]
    account: AccountId,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct ActiveOptions {
    /// The account
    #[arg(value_name = "ID")]
    account: AccountId,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    repeat: watch::Repeat,
}

#[derive(Debug, Args)]
pub(super) struct HistoryOptions {
    /// The account
    #[arg(value_name = "ID")]
    account: AccountId,
    /// Whose; may be left out where the account has one profile
    #[arg(long, value_name = "ID")]
    profile: Option<ProfileId>,
    /// Only of this title
    #[arg(long, value_name = "ID")]
    title: Option<TitleId>,
    /// The most entries
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct ResumeOptions {
    /// The account
    #[arg(value_name = "ID")]
    account: AccountId,
    /// Of what, up to 1,000 titles; none: all that the profile can go on watching
    #[arg(value_name = "TITLE", num_args = 0..=1_000)]
    titles: Vec<TitleId>,
    /// Whose; may be left out where the account has one profile
    #[arg(long, value_name = "ID")]
    profile: Option<ProfileId>,
    #[command(flatten)]
    reading: Reading,
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Reading {
    /// How fresh the answer must be
    #[arg(long = "read", value_name = "MODE", value_enum, default_value_t = Freshness::Strong)]
    freshness: Freshness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Freshness {
    /// With all that was acknowledged before: a quorum is asked.
    Strong,
    /// From the leader, which trusts its lease.
    Lease,
    /// From the nearest replica, however old, also without a quorum.
    Any,
}

impl Reading {
    pub(super) fn options(self) -> Option<v1::ReadOptions> {
        let mode = match self.freshness {
            Freshness::Strong => v1::ReadMode::Strong,
            Freshness::Lease => v1::ReadMode::Lease,
            Freshness::Any => v1::ReadMode::Any,
        };
        Some(v1::ReadOptions { mode: mode.into() })
    }
}

/// Who answered, and as of when.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Source {
    served_by: String,
    role: &'static str,
    shard: u32,
    revision: String,
    #[serde(serialize_with = "rfc3339")]
    as_of_time: Option<Timestamp>,
    degraded: bool,
}

impl From<Option<v1::ReadInfo>> for Source {
    fn from(info: Option<v1::ReadInfo>) -> Self {
        let info = info.unwrap_or_default();
        Self {
            role: role(info.role()),
            served_by: plain(&info.served_by),
            shard: info.shard,
            revision: plain(&info.revision),
            as_of_time: info.as_of_time,
            degraded: info.degraded,
        }
    }
}

impl Source {
    /// For people, as the last line.
    pub(super) fn text(&self, now: WallMs) -> String {
        let Self { served_by, role, shard, .. } = self;
        let as_of = ago(self.as_of_time.as_ref(), now);
        let degraded = if self.degraded { "; it knows no leader, so this may be old" } else { "" };
        format!("read from {served_by}, {role} of shard {shard}, as of {as_of}{degraded}")
    }

    /// How the cluster is by it.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match self.degraded {
            false => Ok(()),
            true => Err(Failure::Degraded(format!("shard {} has no leader that {} knows", self.shard, self.served_by))),
        }
    }
}

/// The profile that was named, or the only one that there is.
async fn profile_of(
    context: &Context,
    client: &Client,
    account: &AccountId,
    profile: Option<ProfileId>,
    reading: Reading,
) -> Result<String, Failure> {
    if let Some(profile) = profile {
        return Ok(profile.to_string());
    }
    let request = v1::GetAccountRequest { account_id: account.to_string(), read_options: reading.options() };
    let answer = context.read(client.get_account(request)).await?;
    let profiles = answer.account.unwrap_or_default().profiles;
    match profiles.as_slice() {
        [only] => Ok(only.profile_id.clone()),
        [] => Err(Failure::Usage(format!(
            "account {account} has no profile: nothing was ever played; name one with --profile"
        ))),
        several => {
            let names: Vec<String> = several.iter().take(20).map(|profile| plain(&profile.profile_id)).collect();
            Err(Failure::Usage(format!("--profile is missing: account {account} has {}", names.join(", "))))
        }
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Show(options) => show::run(context, options).await,
        Command::Active(options) => active::run(context, options).await,
        Command::History(options) => history::run(context, options).await,
        Command::Resume(options) => resume::run(context, options).await,
    }
}
