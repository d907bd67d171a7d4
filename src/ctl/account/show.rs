//! `clusterctl account show`.

use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{number, right, table, text};
use super::super::shard::role;
use super::super::text::{plain, short};
use super::views::{ActiveView, table_of};
use super::{ShowOptions, Source};
use crate::proto::v1;
use crate::time::WallMs;

#[derive(Debug, Serialize)]
struct Account {
    account_id: String,
    token: String,
    shard: u32,
    max_streams: u32,
    policy_is_own: bool,
    streams: u32,
    profiles: Vec<Profile>,
    active_views: Vec<ActiveView>,
    served_by: String,
    role: &'static str,
    revision: String,
    /// Of both, the account and its views.
    read: Source,
}

#[derive(Debug, Serialize)]
struct Profile {
    profile_id: String,
    titles: u64,
    history_entries: u64,
    plays: u64,
}

impl Account {
    fn new(answer: v1::GetAccountResponse, views: Vec<v1::View>, source: &Source) -> Self {
        let (account, info) = (answer.account.unwrap_or_default(), answer.read_info.unwrap_or_default());
        let policy = account.policy.unwrap_or_default();
        Self {
            account_id: plain(&account.account_id),
            token: format!("{:016x}", account.token),
            shard: info.shard,
            max_streams: policy.max_streams,
            policy_is_own: account.policy_is_own,
            streams: account.streams,
            profiles: account.profiles.into_iter().map(Profile::from).collect(),
            active_views: views.into_iter().map(ActiveView::from).collect(),
            role: role(info.role()),
            served_by: plain(&info.served_by),
            revision: info.revision,
            read: source.clone(),
        }
    }
}

impl From<v1::ProfileSummary> for Profile {
    fn from(profile: v1::ProfileSummary) -> Self {
        Self {
            profile_id: plain(&profile.profile_id),
            titles: profile.titles,
            history_entries: profile.history_entries,
            plays: profile.plays,
        }
    }
}

pub(super) async fn run(context: &Context, options: ShowOptions) -> Result<(), Failure> {
    let (account_id, read_options) = (options.account.to_string(), options.reading.options()?);
    let client = context.asking()?;
    let request = v1::GetAccountRequest { account_id: account_id.clone(), read_options: read_options.clone() };
    let answer = context.read(client.get_account(request)).await?;
    let request = v1::ListActiveViewsRequest { account_id, read_options };
    let views = context.read(client.list_active_views(request)).await?;
    let source = Source::from(answer.read_info.clone()).and(views.read_info);
    let account = Account::new(answer, views.views, &source);
    context.show(context.screen(&account, || account.text(context.clock.wall(), &source), source.verdict())?)
}

impl Account {
    fn text(&self, now: WallMs, source: &Source) -> String {
        let policy = if self.policy_is_own { "" } else { " (the cluster's default)" };
        let mut out = format!(
            "account {}  token {}\n{} of {} streams taken{policy}\n{}\n",
            short(&self.account_id, 40),
            self.token,
            self.streams,
            self.max_streams,
            source.text(now),
        );
        if self.profiles.is_empty() {
            out.push_str("\nno profiles: nothing was ever played\n");
        } else {
            let mut rows = table(["PROFILE", "TITLES", "ENTRIES", "PLAYS"]);
            right(&mut rows, &[1, 2, 3]);
            for profile in &self.profiles {
                rows.add_row([
                    short(&profile.profile_id, 40),
                    number(profile.titles),
                    number(profile.history_entries),
                    number(profile.plays),
                ]);
            }
            out.push_str(&format!("\n{}\n", text(&mut rows)));
        }
        format!("{out}\n{}\n", table_of(&self.active_views, now))
    }
}
