//! `clusterctl account show`.

use prost_types::Timestamp;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{ago, clock, number, rfc3339, right, table, text};
use super::super::shard::role;
use super::ShowOptions;
use crate::proto::v1;

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
}

#[derive(Debug, Serialize)]
struct Profile {
    profile_id: String,
    titles: u64,
    history_entries: u64,
    plays: u64,
}

#[derive(Debug, Serialize)]
struct ActiveView {
    view_id: String,
    profile_id: String,
    device_id: String,
    title_id: String,
    state: &'static str,
    holds_stream: bool,
    position_ms: Option<i64>,
    #[serde(serialize_with = "rfc3339")]
    start_time: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    report_time: Option<Timestamp>,
}

impl Account {
    fn new(answer: v1::GetAccountResponse, views: Vec<v1::View>) -> Self {
        let (account, info) = (answer.account.unwrap_or_default(), answer.read_info.unwrap_or_default());
        let policy = account.policy.unwrap_or_default();
        Self {
            account_id: account.account_id,
            token: format!("{:016x}", account.token),
            shard: info.shard,
            max_streams: policy.max_streams,
            policy_is_own: account.policy_is_own,
            streams: account.streams,
            profiles: account.profiles.into_iter().map(Profile::from).collect(),
            active_views: views.into_iter().map(ActiveView::from).collect(),
            role: role(info.role()),
            served_by: info.served_by,
            revision: info.revision,
        }
    }
}

impl From<v1::ProfileSummary> for Profile {
    fn from(profile: v1::ProfileSummary) -> Self {
        Self {
            profile_id: profile.profile_id,
            titles: profile.titles,
            history_entries: profile.history_entries,
            plays: profile.plays,
        }
    }
}

impl From<v1::View> for ActiveView {
    fn from(view: v1::View) -> Self {
        let state = match view.state() {
            v1::PlayState::Unspecified | v1::PlayState::Playing => "playing",
            v1::PlayState::Paused => "paused",
            v1::PlayState::Buffering => "buffering",
        };
        Self {
            view_id: view.view_id,
            profile_id: view.profile_id,
            device_id: view.device_id,
            title_id: view.title_id,
            state,
            holds_stream: view.holds_stream,
            position_ms: view.position_ms,
            start_time: view.start_time,
            report_time: view.report_time,
        }
    }
}

pub(super) async fn run(context: &Context, options: ShowOptions) -> Result<(), Failure> {
    let request = v1::GetAccountRequest { account_id: options.account.to_string(), read_options: None };
    let client = context.client()?;
    let answer = client.get_account(request).await?;
    let request = v1::ListActiveViewsRequest { account_id: options.account.to_string(), read_options: None };
    let account = Account::new(answer, client.list_active_views(request).await?.views);
    let now = context.clock.wall();
    context.answer(&account, || {
        let policy = if account.policy_is_own { "" } else { " (the cluster's default)" };
        let mut out = format!(
            "account {}  shard {}  token {}\n{} of {} streams taken{policy}; read from {}, {}\n",
            account.account_id,
            account.shard,
            account.token,
            account.streams,
            account.max_streams,
            account.served_by,
            account.role
        );
        if account.profiles.is_empty() {
            out.push_str("\nno profiles: nothing was ever played\n");
        } else {
            let mut rows = table(["PROFILE", "TITLES", "ENTRIES", "PLAYS"]);
            right(&mut rows, &[1, 2, 3]);
            for profile in &account.profiles {
                rows.add_row([
                    profile.profile_id.clone(),
                    number(profile.titles),
                    number(profile.history_entries),
                    number(profile.plays),
                ]);
            }
            out.push_str(&format!("\n{}\n", text(&mut rows)));
        }
        if account.active_views.is_empty() {
            out.push_str("\nnothing is being watched\n");
        } else {
            let mut rows = table(["WATCHING", "PROFILE", "ON", "STATE", "AT", "STARTED", "REPORTED"]);
            right(&mut rows, &[4]);
            for view in &account.active_views {
                rows.add_row([
                    view.title_id.clone(),
                    view.profile_id.clone(),
                    view.device_id.clone(),
                    view.state.to_string(),
                    view.position_ms.map_or_else(|| "-".to_string(), clock),
                    ago(view.start_time.as_ref(), now),
                    ago(view.report_time.as_ref(), now),
                ]);
            }
            out.push_str(&format!("\n{}\n", text(&mut rows)));
        }
        out
    })
}
