//! `clusterctl account`.

mod active;
mod history;
mod reading;
mod resume;
mod show;
mod views;

use clap::{Args, Subcommand};

use super::context::Context;
use super::exit::Failure;
use super::text::plain;
use super::watch;
use crate::client::Client;
use crate::ids::{AccountId, ProfileId, TitleId};
use crate::proto::v1;

pub(super) use reading::{Reading, Source};

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

/// The profile that was named, or the only one that there is.
async fn profile_of(
    context: &Context,
    client: &Client,
    account: &AccountId,
    profile: Option<ProfileId>,
    reading: &Reading,
) -> Result<String, Failure> {
    if let Some(profile) = profile {
        return Ok(profile.to_string());
    }
    let request = v1::GetAccountRequest { account_id: account.to_string(), read_options: reading.options()? };
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
