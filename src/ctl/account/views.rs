//! Active views, as they are shown.

use prost_types::Timestamp;
use serde::Serialize;

use super::super::output::{ago, clock, rfc3339, right, room, table, text};
use super::super::text::{plain, short};
use crate::proto::v1;
use crate::time::WallMs;

/// What is being watched on a device.
#[derive(Debug, Serialize)]
pub(in super::super) struct ActiveView {
    pub(in super::super) view_id: String,
    pub(in super::super) profile_id: String,
    pub(in super::super) device_id: String,
    pub(in super::super) title_id: String,
    state: &'static str,
    kind: &'static str,
    holds_stream: bool,
    position_ms: Option<i64>,
    duration_ms: Option<i64>,
    watched_ms: i64,
    #[serde(serialize_with = "rfc3339")]
    start_time: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    report_time: Option<Timestamp>,
}

impl From<v1::View> for ActiveView {
    fn from(view: v1::View) -> Self {
        let state = match view.state() {
            v1::PlayState::Unspecified | v1::PlayState::Playing => "playing",
            v1::PlayState::Paused => "paused",
            v1::PlayState::Buffering => "buffering",
        };
        let kind = match view.kind() {
            v1::ViewKind::Unspecified | v1::ViewKind::Full => "full",
            v1::ViewKind::Preview => "preview",
            v1::ViewKind::Live => "live",
            v1::ViewKind::Offline => "offline",
        };
        Self {
            view_id: plain(&view.view_id),
            profile_id: plain(&view.profile_id),
            device_id: plain(&view.device_id),
            title_id: plain(&view.title_id),
            state,
            kind,
            holds_stream: view.holds_stream,
            position_ms: view.position_ms,
            duration_ms: view.duration_ms,
            watched_ms: view.watched_ms,
            start_time: view.start_time,
            report_time: view.report_time,
        }
    }
}

/// What is being watched, as a table.
pub(super) fn table_of(views: &[ActiveView], now: WallMs) -> String {
    if views.is_empty() {
        return "nothing is being watched".into();
    }
    let mut rows = table(["WATCHING", "PROFILE", "ON", "STATE", "AT", "STARTED", "REPORTED"]);
    right(&mut rows, &[4]);
    for view in views {
        rows.add_row([
            short(&view.title_id, room(14, 60)),
            short(&view.profile_id, room(6, 20)),
            short(&view.device_id, room(8, 20)),
            if view.kind == "full" { view.state } else { view.kind }.to_string(),
            view.position_ms.map_or_else(|| "-".to_string(), clock),
            ago(view.start_time.as_ref(), now),
            ago(view.report_time.as_ref(), now),
        ]);
    }
    text(&mut rows)
}
