//! Resume points and the row of what can be gone on with.

use super::{ms, timestamp, title_type};
use crate::ids::{DeviceId, ProfileId, TitleId};
use crate::proto::v1;
use crate::rpc::fields::{Fields, Path};
use crate::view::{ContinueItem, RESUME_POINTS_MAX, TitleState};

/// The titles of a question.
pub(in crate::rpc) fn titles(fields: &mut Fields, ids: Vec<String>) -> Vec<TitleId> {
    let path = Path::from("title_ids");
    if !fields.count(path, ids.len(), 1, RESUME_POINTS_MAX) {
        return Vec::new();
    }
    ids.into_iter().enumerate().filter_map(|(i, id)| fields.id(Path::At(&path, i), id, TitleId::new)).collect()
}

/// What is known of a title, for the wire.
pub(in crate::rpc) fn resume_point(profile: &ProfileId, state: &TitleState) -> v1::ResumePoint {
    let last = state.last.as_ref();
    let alternate = state.alternate.as_ref().map(|alternate| v1::AlternatePoint {
        position_ms: ms(alternate.point.position_ms),
        device_id: alternate.point.device.to_string(),
        activity_time: Some(timestamp(alternate.point.at)),
    });
    v1::ResumePoint {
        profile_id: profile.to_string(),
        title_id: state.title.to_string(),
        title_type: title_type(state.title_type).into(),
        position_ms: state.resume.as_ref().map(|r| ms(r.position_ms)),
        last_position_ms: last.map(|l| ms(l.position_ms)),
        duration_ms: last.and_then(|l| l.duration_ms).map(ms),
        watched: state.watched_at.is_some(),
        play_count: state.play_count,
        activity_time: last.map(|l| timestamp(l.at)),
        device_id: last.map(|l| DeviceId::to_string(&l.device)).unwrap_or_default(),
        watched_time: state.watched_at.map(timestamp),
        alternate,
    }
}

/// An item of the row, for the wire.
pub(in crate::rpc) fn continue_item(item: &ContinueItem) -> v1::ContinueWatchingItem {
    v1::ContinueWatchingItem {
        kind: v1::ContinueKind::Continue.into(),
        title_id: item.title.to_string(),
        title_type: title_type(item.title_type).into(),
        position_ms: ms(item.resume.position_ms),
        duration_ms: item.resume.duration_ms.map(ms),
        device_id: item.resume.device.to_string(),
        activity_time: Some(timestamp(item.resume.at)),
        active: item.active,
    }
}
