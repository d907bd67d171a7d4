//! `clusterctl account show`.

use prost_types::Timestamp;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{ago, clock, number, rfc3339, right, table, text, until};
use super::super::shard::role;
use super::ShowOptions;
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Account {
    account_id: String,
    token: String,
    shard: u32,
    max_streams: u32,
    max_streams_is_default: bool,
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
    resume_points: u64,
    #[serde(serialize_with = "rfc3339")]
    activity_time: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct ActiveView {
    view_id: String,
    profile_id: String,
    device_id: String,
    title_id: String,
    state: &'static str,
    position_ms: i64,
    #[serde(serialize_with = "rfc3339")]
    report_time: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    expire_time: Option<Timestamp>,
}

impl From<v1::GetAccountResponse> for Account {
    fn from(answer: v1::GetAccountResponse) -> Self {
        let (account, info) = (answer.account.unwrap_or_default(), answer.read_info.unwrap_or_default());
        let policy = account.policy.unwrap_or_default();
        Self {
            account_id: account.account_id,
            token: format!("{:016x}", account.token),
            shard: info.shard,
            max_streams: policy.max_streams,
            max_streams_is_default: policy.is_default,
            profiles: account.profiles.into_iter().map(Profile::from).collect(),
            active_views: account.active_views.into_iter().map(ActiveView::from).collect(),
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
            resume_points: profile.resume_points,
            activity_time: profile.activity_time,
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
            position_ms: view.position_ms,
            report_time: view.report_time,
            expire_time: view.expire_time,
        }
    }
}

pub(super) async fn run(context: &Context, options: ShowOptions) -> Result<(), Failure> {
    let request = v1::GetAccountRequest { account_id: options.account.to_string(), read_options: None };
    let account = Account::from(context.client()?.get_account(request).await?);
    let now = context.clock.wall();
    context.answer(&account, || {
        let policy = if account.max_streams_is_default { " (the cluster's default)" } else { "" };
        let mut out = format!(
            "account {}  shard {}  token {}\nmay watch {} at once{policy}; read from {}, {}\n",
            account.account_id, account.shard, account.token, account.max_streams, account.served_by, account.role
        );
        if account.profiles.is_empty() {
            out.push_str("\nno profiles: nothing was ever played\n");
        } else {
            let mut rows = table(["PROFILE", "TITLES", "ENTRIES", "PLAYS", "RESUME POINTS", "LAST PLAYED"]);
            right(&mut rows, &[1, 2, 3, 4]);
            for profile in &account.profiles {
                rows.add_row([
                    profile.profile_id.clone(),
                    number(profile.titles),
                    number(profile.history_entries),
                    number(profile.plays),
                    number(profile.resume_points),
                    ago(profile.activity_time.as_ref(), now),
                ]);
            }
            out.push_str(&format!("\n{}\n", text(&rows)));
        }
        if account.active_views.is_empty() {
            out.push_str("\nnothing is being watched\n");
        } else {
            let mut rows = table(["WATCHING", "PROFILE", "ON", "STATE", "AT", "REPORTED", "EXPIRES IN"]);
            right(&mut rows, &[4]);
            for view in &account.active_views {
                rows.add_row([
                    view.title_id.clone(),
                    view.profile_id.clone(),
                    view.device_id.clone(),
                    view.state.to_string(),
                    clock(view.position_ms),
                    ago(view.report_time.as_ref(), now),
                    until(view.expire_time.as_ref(), now),
                ]);
            }
            out.push_str(&format!("\n{}\n", text(&rows)));
        }
        out
    })
}
