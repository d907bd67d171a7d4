//! Requests to the domain's commands and queries, the domain's answers to messages.
//!
//! The domain's types know nothing of the wire, and here is the only place where both are seen. Checks note every bad field in
//! [`Fields`].

mod account;
mod cluster;
mod collection;
mod history;
mod progress;
mod raft;

pub(super) use account::{account_summary, settings, settings_update, stream_policy, update_stream_policy};
pub(super) use cluster::{intent, replica_status};
pub(super) use collection::{end_view, ended, progress_result, report, start_view, started, stop_view, stopped, view};
pub(super) use history::{entry, import, imported, list_history};
pub(super) use progress::{continue_item, resume_point, titles};
pub(super) use raft::raft_state;

use prost_types::Timestamp;

use super::fields::{Fields, Path};
use crate::ids::{AccountId, RequestId};
use crate::proto::v1;
use crate::raft::Role;
use crate::time::WallMs;
use crate::view;

/// A point in time, for the wire.
pub(super) fn timestamp(time: WallMs) -> Timestamp {
    let nanos = i32::try_from(time.0 % 1_000 * 1_000_000).unwrap_or_default();
    Timestamp { seconds: i64::try_from(time.0 / 1_000).unwrap_or(i64::MAX), nanos }
}

/// Milliseconds, for the wire.
pub(super) fn ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// The account of a request.
pub(super) fn account(fields: &mut Fields, id: String) -> Option<AccountId> {
    fields.id("account_id", id, AccountId::new)
}

/// The request id of a request, or none.
pub(super) fn request_id(fields: &mut Fields, id: String) -> Option<RequestId> {
    fields.id_or_none("request_id", id, RequestId::new)
}

/// A replica's role, for the wire.
pub(super) fn role(role: Role) -> v1::ReplicaRole {
    match role {
        Role::Leader => v1::ReplicaRole::Leader,
        Role::Follower => v1::ReplicaRole::Follower,
        Role::Candidate => v1::ReplicaRole::Candidate,
        Role::Learner => v1::ReplicaRole::Learner,
        Role::Stopped => v1::ReplicaRole::Stopped,
    }
}

fn title_type_in<'a>(fields: &mut Fields, path: impl Into<Path<'a>>, value: i32) -> view::TitleType {
    let accepted = "TITLE_TYPE_FILM, TITLE_TYPE_EPISODE or TITLE_TYPE_OTHER";
    match fields.choice(path, value, accepted) {
        None | Some(v1::TitleType::Unspecified | v1::TitleType::Other) => view::TitleType::Other,
        Some(v1::TitleType::Film) => view::TitleType::Film,
        Some(v1::TitleType::Episode) => view::TitleType::Episode,
    }
}

fn title_type(kind: view::TitleType) -> v1::TitleType {
    match kind {
        view::TitleType::Other => v1::TitleType::Other,
        view::TitleType::Film => v1::TitleType::Film,
        view::TitleType::Episode => v1::TitleType::Episode,
    }
}

fn view_kind_in<'a>(fields: &mut Fields, path: impl Into<Path<'a>>, value: i32) -> view::ViewKind {
    let accepted = "VIEW_KIND_FULL, VIEW_KIND_PREVIEW, VIEW_KIND_LIVE or VIEW_KIND_OFFLINE";
    match fields.choice(path, value, accepted) {
        None | Some(v1::ViewKind::Unspecified | v1::ViewKind::Full) => view::ViewKind::Full,
        Some(v1::ViewKind::Preview) => view::ViewKind::Preview,
        Some(v1::ViewKind::Live) => view::ViewKind::Live,
        Some(v1::ViewKind::Offline) => view::ViewKind::Offline,
    }
}

fn view_kind(kind: view::ViewKind) -> v1::ViewKind {
    match kind {
        view::ViewKind::Full => v1::ViewKind::Full,
        view::ViewKind::Preview => v1::ViewKind::Preview,
        view::ViewKind::Live => v1::ViewKind::Live,
        view::ViewKind::Offline => v1::ViewKind::Offline,
    }
}

fn outcome(outcome: view::Outcome) -> v1::HistoryStatus {
    match outcome {
        view::Outcome::Partial => v1::HistoryStatus::InProgress,
        view::Outcome::Sampled => v1::HistoryStatus::Sampled,
        view::Outcome::Completed => v1::HistoryStatus::Watched,
        view::Outcome::CompletedBySeek => v1::HistoryStatus::CompletedBySeek,
        view::Outcome::Nothing => v1::HistoryStatus::Unspecified,
    }
}
