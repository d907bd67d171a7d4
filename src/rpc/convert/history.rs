//! History: its pages and its imports.

use super::collection::Asked;
use super::{account, ms, outcome, request_id, timestamp, title_type, title_type_in, view_kind, view_kind_in};
use crate::ids::{AccountId, DeviceId, ProfileId, TitleId, ViewId};
use crate::proto::v1;
use crate::rpc::fault::Fault;
use crate::rpc::fields::{Fields, Path};
use crate::view::{
    AccountCommand, HistoryEntry, HistoryFilter, IMPORT_PLAYS_MAX, ImportHistory, ImportPlay, ImportResult, Imported,
    MEDIA_MS_MAX, Outcome, PAGE_ITEMS_MAX, Play,
};

/// A well-formed question for a page of history; only the page token is left to be looked at.
pub(in crate::rpc) struct ListHistory {
    pub(in crate::rpc) account: Option<AccountId>,
    pub(in crate::rpc) profile: Option<ProfileId>,
    pub(in crate::rpc) filter: HistoryFilter,
    pub(in crate::rpc) items_max: u32,
    pub(in crate::rpc) bytes_max: u32,
}

pub(in crate::rpc) fn list_history(fields: &mut Fields, request: &mut v1::ListHistoryRequest) -> ListHistory {
    let account = account(fields, std::mem::take(&mut request.account_id));
    let profile = fields.id("profile_id", std::mem::take(&mut request.profile_id), ProfileId::new);
    let title = fields.id_or_none("title_id", std::mem::take(&mut request.title_id), TitleId::new);
    let from = fields.time_or_none("start_time_min", request.start_time_min);
    let to = fields.time_or_none("start_time_max", request.start_time_max);
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        fields.bad("start_time_max", "is not after start_time_min: a later time is accepted");
    }
    let items_max = fields.number("page_size", request.page_size.into(), (1, PAGE_ITEMS_MAX), 100);
    let bytes_max = fields.number("page_bytes", request.page_bytes.into(), (4_096, 2 << 20), 1 << 20);
    ListHistory { account, profile, filter: HistoryFilter { title, from, to }, items_max, bytes_max }
}

/// An entry, for the wire.
pub(in crate::rpc) fn entry(profile: &ProfileId, entry: &HistoryEntry, include_plays: bool) -> v1::HistoryEntry {
    // The play that ended last is where the title was left.
    let last = entry.plays.iter().max_by_key(|p| p.end());
    let known = |get: fn(&Play) -> Option<u64>| entry.plays.iter().filter(|p| get(p).is_some()).max_by_key(|p| p.end());
    let furthest = entry.plays.iter().map(|p| p.outcome).max_by_key(|o| rank(*o)).unwrap_or_default();
    v1::HistoryEntry {
        profile_id: profile.to_string(),
        title_id: entry.title.to_string(),
        title_type: title_type(last.map(|p| p.title_type).unwrap_or_default()).into(),
        device_id: entry.device.to_string(),
        status: outcome(furthest).into(),
        start_time: Some(timestamp(entry.start)),
        end_time: Some(timestamp(entry.end)),
        position_ms: known(|p| p.position_ms).and_then(|p| p.position_ms).map(ms),
        duration_ms: known(|p| p.duration_ms).and_then(|p| p.duration_ms).map(ms),
        watched_ms: ms(entry.plays.iter().map(|p| p.watched_ms).fold(0, u64::saturating_add)),
        play_count: u32::try_from(entry.plays.len()).unwrap_or(u32::MAX),
        plays: if include_plays { entry.plays.iter().map(play).collect() } else { Vec::new() },
    }
}

/// How far an outcome got.
fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Nothing => 0,
        Outcome::Sampled => 1,
        Outcome::Partial => 2,
        Outcome::CompletedBySeek => 3,
        Outcome::Completed => 4,
    }
}

fn play(play: &Play) -> v1::Play {
    v1::Play {
        start_time: Some(timestamp(play.start)),
        end_time: Some(timestamp(play.end())),
        position_ms: play.position_ms.map(ms),
        watched_ms: ms(play.watched_ms),
        view_id: play.view.as_ref().map(ViewId::to_string).unwrap_or_default(),
        kind: view_kind(play.kind).into(),
        status: outcome(play.outcome).into(),
    }
}

pub(in crate::rpc) fn import(request: v1::BatchImportHistoryRequest) -> Result<Asked, Fault> {
    let mut fields = Fields::default();
    let f = &mut fields;
    let account = account(f, request.account_id);
    let request_id = request_id(f, request.request_id);
    let path = Path::from("plays");
    let mut plays = Vec::new();
    if f.count(path, request.plays.len(), 1, IMPORT_PLAYS_MAX) {
        plays.extend(request.plays.into_iter().enumerate().filter_map(|(i, p)| import_play(f, Path::At(&path, i), p)));
    }
    let built = (|| Some((account?, request_id, AccountCommand::ImportHistory(ImportHistory { plays }))))();
    fields.with(built)
}

fn import_play(fields: &mut Fields, path: Path<'_>, play: v1::ImportPlay) -> Option<ImportPlay> {
    let at = |name| Path::In(&path, name);
    let profile = fields.id(at("profile_id"), play.profile_id, ProfileId::new);
    let title = fields.id(at("title_id"), play.title_id, TitleId::new);
    let title_type = title_type_in(fields, at("title_type"), play.title_type);
    let device = fields.id(at("device_id"), play.device_id, DeviceId::new);
    let kind = view_kind_in(fields, at("kind"), play.kind);
    let start = fields.required(at("start_time"), play.start_time).and_then(|t| fields.time(at("start_time"), t));
    Some(ImportPlay {
        profile: profile?,
        title: title?,
        title_type,
        device: device?,
        kind,
        start: start?,
        elapsed_ms: figure(play.elapsed_ms),
        position_ms: play.position_ms.map(figure),
        duration_ms: play.duration_ms.map(figure),
    })
}

/// A figure of a play. What is out of range goes on as more than the most that the rules take, so that they refuse this play
/// by itself and not its whole request.
fn figure(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX).min(MEDIA_MS_MAX + 1)
}

/// What came of an import.
pub(in crate::rpc) fn imported(imported: &Imported) -> v1::BatchImportHistoryResponse {
    let count = |result| u32::try_from(imported.count(result)).unwrap_or(u32::MAX);
    let result = |result: &ImportResult| {
        let outcome = match result {
            ImportResult::Added => v1::ImportOutcome::Added,
            ImportResult::Unchanged => v1::ImportOutcome::Unchanged,
            ImportResult::Preview => v1::ImportOutcome::Preview,
            _ => v1::ImportOutcome::Refused,
        };
        v1::ImportResult { outcome: outcome.into(), message: result.refusal().unwrap_or_default().into() }
    };
    v1::BatchImportHistoryResponse {
        results: imported.results.iter().map(result).collect(),
        added: count(ImportResult::Added),
        unchanged: count(ImportResult::Unchanged),
        refused: u32::try_from(imported.refused()).unwrap_or(u32::MAX),
        previews: count(ImportResult::Preview),
        write_info: None,
    }
}
