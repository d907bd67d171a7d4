//! Accounts, their policies, and the rules' settings.

use std::collections::HashMap;

use super::collection::Asked;
use super::{account, request_id};
use crate::ids::AccountId;
use crate::proto::v1;
use crate::ring::Token;
use crate::rpc::fault::Fault;
use crate::rpc::fields::Fields;
use crate::view::{AccountCommand, AccountSummary, Rejection, Settings, StreamPolicy};

pub(in crate::rpc) fn update_stream_policy(request: v1::UpdateStreamPolicyRequest) -> Result<Asked, Fault> {
    let mut fields = Fields::default();
    let f = &mut fields;
    let account = account(f, request.account_id);
    let request_id = request_id(f, request.request_id);
    let fail_closed = request.policy.is_some_and(|policy| policy.fail_closed);
    let max_streams = f.required("policy", request.policy).and_then(|policy| {
        let fits = u16::try_from(policy.max_streams).ok().filter(|n| (1..=StreamPolicy::STREAMS_MAX).contains(n));
        if fits.is_none() {
            let (got, most) = (policy.max_streams, StreamPolicy::STREAMS_MAX);
            f.bad("policy.max_streams", format!("is {got}: 1 to {most} is accepted"));
        }
        fits
    });
    let built = (|| {
        let policy = StreamPolicy { max_streams: max_streams?, fail_closed };
        Some((account?, request_id, AccountCommand::UpdateStreamPolicy(policy)))
    })();
    fields.with(built)
}

/// A policy, for the wire.
pub(in crate::rpc) fn stream_policy(policy: StreamPolicy) -> v1::StreamPolicy {
    v1::StreamPolicy { max_streams: policy.max_streams.into(), fail_closed: policy.fail_closed }
}

/// An account, for the wire.
pub(in crate::rpc) fn account_summary(account: &AccountId, summary: &AccountSummary) -> v1::Account {
    let profiles = summary.profiles.iter().map(|p| v1::ProfileSummary {
        profile_id: p.profile.to_string(),
        titles: p.titles,
        history_entries: p.entries,
        plays: p.plays,
    });
    v1::Account {
        account_id: account.to_string(),
        policy: Some(stream_policy(summary.policy)),
        profiles: profiles.collect(),
        active_views: summary.active_views,
        streams: summary.streams,
        token: Token::of(account).0,
        policy_is_own: summary.policy_is_own,
    }
}

/// A figure's name, and where it is kept.
type Figure = (&'static str, fn(&mut Settings) -> &mut u64);

/// All figures but the policy's, which is a smaller number.
const FIGURES: [Figure; 17] = [
    ("interval_ms", |s| &mut s.interval_ms),
    ("silence_percent", |s| &mut s.silence_percent),
    ("comeback_ms", |s| &mut s.comeback_ms),
    ("pause_holds_ms", |s| &mut s.pause_holds_ms),
    ("pause_lives_ms", |s| &mut s.pause_lives_ms),
    ("entry_gap_ms", |s| &mut s.entry_gap_ms),
    ("resumable_film_permille", |s| &mut s.resumable_film_permille),
    ("resumable_ms", |s| &mut s.resumable_ms),
    ("short_title_ms", |s| &mut s.short_title_ms),
    ("watched_percent", |s| &mut s.watched_percent),
    ("episode_left_ms", |s| &mut s.episode_left_ms),
    ("really_watched_percent", |s| &mut s.really_watched_percent),
    ("speed_percent_max", |s| &mut s.speed_percent_max),
    ("alternate_ms", |s| &mut s.alternate_ms),
    ("continue_ms", |s| &mut s.continue_ms),
    ("ended_ms", |s| &mut s.ended_ms),
    ("jitter_percent", |s| &mut s.jitter_percent),
];
const REQUEST_MS: &str = "request_ms";
const MAX_STREAMS: &str = "policy.max_streams";
/// 0 or 1.
const FAIL_CLOSED: &str = "policy.fail_closed";

/// The settings, for the wire.
pub(in crate::rpc) fn settings(settings: &Settings) -> v1::Settings {
    let mut copy = settings.clone();
    let mut figures: HashMap<String, u64> =
        FIGURES.iter().map(|(name, get)| ((*name).into(), *get(&mut copy))).collect();
    figures.insert(REQUEST_MS.into(), settings.request_ms);
    figures.insert(MAX_STREAMS.into(), settings.policy.max_streams.into());
    figures.insert(FAIL_CLOSED.into(), settings.policy.fail_closed.into());
    v1::Settings { version: settings.version, figures }
}

/// The settings that an update asks for.
pub(in crate::rpc) fn settings_update(now: &Settings, update: &v1::Settings) -> Result<Settings, Fault> {
    if update.version != 0 && update.version != now.version {
        let (got, version) = (update.version, now.version);
        return Err(Fault::conflict(format!("the settings have version {version}, not {got}: read them again")));
    }
    let mut fields = Fields::default();
    let mut wanted = Settings { version: now.version.saturating_add(1), ..now.clone() };
    if update.figures.is_empty() {
        fields.bad("settings.figures", "is empty: at least one figure is accepted");
    }
    // In order, so that the same request is always answered alike.
    let mut figures: Vec<(&String, &u64)> = update.figures.iter().collect();
    figures.sort();
    for (name, value) in figures {
        let figure = FIGURES.iter().find(|(known, _)| known == name);
        match (name.as_str(), figure) {
            (_, Some((_, get))) => *get(&mut wanted) = *value,
            (REQUEST_MS, None) => wanted.request_ms = *value,
            (MAX_STREAMS, None) => wanted.policy.max_streams = u16::try_from(*value).unwrap_or(u16::MAX),
            (FAIL_CLOSED, None) if *value <= 1 => wanted.policy.fail_closed = *value == 1,
            (FAIL_CLOSED, None) => fields.bad("settings.figures[policy.fail_closed]", "must be 0 or 1"),
            _ => {
                let known = FIGURES.map(|(name, _)| name).join(", ");
                let shown: String = name.chars().take(64).filter(|c| !c.is_control()).collect();
                fields.bad(
                    "settings.figures",
                    format!("has {shown:?}: {known}, {REQUEST_MS}, {MAX_STREAMS}, {FAIL_CLOSED} are accepted"),
                );
            }
        }
    }
    for fault in wanted.faults() {
        if let Rejection::Invalid { field, accepted } = fault {
            fields.bad(format!("settings.figures[{field}]").as_str(), accepted.to_string());
        }
    }
    fields.finish()?;
    Ok(wanted)
}
