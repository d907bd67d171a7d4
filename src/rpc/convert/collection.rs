//! Views: starts, reports, stops.

use super::{account, ms, outcome, request_id, timestamp, title_type, title_type_in, view_kind, view_kind_in};
use crate::ids::{AccountId, DeviceId, ProfileId, RequestId, TitleId, ViewId};
use crate::proto::v1;
use crate::rpc::fault::Fault;
use crate::rpc::fields::{Fields, Path};
use crate::view::{
    AccountCommand, ActiveView, Command, Directive, EndReason, EndView, EndedView, Envelope, Media, NextView, OnLimit,
    PLAYED_RANGES_MAX, PlayState, Played, Progressed, ReportProgress, StartView, Started, StopView, Stopped,
};

/// What a well-formed write is: whose, under which id, and what.
pub(in crate::rpc) type Asked = (AccountId, Option<RequestId>, AccountCommand);

/// What a caller says about a title, and where that stands in its request.
struct MediaFields<'a> {
    within: Option<Path<'a>>,
    title_id: String,
    title_type: i32,
    duration_ms: Option<i64>,
    credits_position_ms: Option<i64>,
}

fn media(fields: &mut Fields, from: MediaFields<'_>) -> Option<Media> {
    let within = from.within;
    let at = |name: &'static str| name;
    let path = |name| within.as_ref().map_or(Path::Field(at(name)), |p| Path::In(p, name));
    let title = fields.id(path("title_id"), from.title_id, TitleId::new);
    let title_type = title_type_in(fields, path("title_type"), from.title_type);
    let duration_ms = fields.ms_or_none(path("duration_ms"), from.duration_ms, 1);
    let credits_ms = fields.ms_or_none(path("credits_position_ms"), from.credits_position_ms, 1);
    if let (Some(credits), Some(duration)) = (credits_ms, duration_ms)
        && credits > duration
    {
        fields.bad(path("credits_position_ms"), format!("is {credits}: at most duration_ms, {duration}, is accepted"));
    }
    Some(Media { title: title?, title_type, duration_ms, credits_ms })
}

pub(in crate::rpc) fn start_view(request: v1::StartViewRequest) -> Result<Asked, Fault> {
    let mut fields = Fields::default();
    let f = &mut fields;
    let account = account(f, request.account_id);
    let request_id = request_id(f, request.request_id);
    let view = f.id("view_id", request.view_id, ViewId::new);
    let profile = f.id("profile_id", request.profile_id, ProfileId::new);
    let device = f.id("device_id", request.device_id, DeviceId::new);
    let media = media(
        f,
        MediaFields {
            within: None,
            title_id: request.title_id,
            title_type: request.title_type,
            duration_ms: request.duration_ms,
            credits_position_ms: request.credits_position_ms,
        },
    );
    let kind = view_kind_in(f, "kind", request.kind);
    let position_ms = f.ms_or_none("position_ms", request.position_ms, 0);
    let on_limit = on_limit(f, request.on_limit, request.end_view_id);
    let built = (|| {
        let start = StartView {
            view: view?,
            profile: profile?,
            device: device?,
            media: media?,
            kind,
            position_ms,
            on_limit: on_limit?,
        };
        Some((account?, request_id, AccountCommand::StartView(start)))
    })();
    fields.with(built)
}

fn on_limit(fields: &mut Fields, value: i32, named: String) -> Option<OnLimit> {
    let accepted = "ON_LIMIT_REJECT, ON_LIMIT_END_OLDEST or ON_LIMIT_END_NAMED";
    let choice: v1::OnLimit = fields.choice("on_limit", value, accepted)?;
    if choice != v1::OnLimit::EndNamed && !named.is_empty() {
        fields.bad("end_view_id", "is accepted only with ON_LIMIT_END_NAMED");
    }
    match choice {
        v1::OnLimit::Unspecified | v1::OnLimit::Reject => Some(OnLimit::Reject),
        v1::OnLimit::EndOldest => Some(OnLimit::EndOldest),
        v1::OnLimit::EndNamed => Some(OnLimit::EndNamed(fields.id("end_view_id", named, ViewId::new)?)),
    }
}

/// One report of a single call or of a batch, standing at `path`.
pub(in crate::rpc) fn report(path: Path<'_>, report: v1::ProgressReport) -> Result<Envelope, Fault> {
    let mut fields = Fields::default();
    let f = &mut fields;
    let account = f.id(Path::In(&path, "account_id"), report.account_id, AccountId::new);
    let view = f.id(Path::In(&path, "view_id"), report.view_id, ViewId::new);
    sequence(f, Path::In(&path, "sequence"), report.sequence);
    let position_ms = f.ms_or_none(Path::In(&path, "position_ms"), report.position_ms, 0);
    let accepted = "PLAY_STATE_PLAYING, PLAY_STATE_PAUSED or PLAY_STATE_BUFFERING";
    let state = match f.choice(Path::In(&path, "state"), report.state, accepted) {
        None | Some(v1::PlayState::Unspecified | v1::PlayState::Playing) => PlayState::Playing,
        Some(v1::PlayState::Paused) => PlayState::Paused,
        Some(v1::PlayState::Buffering) => PlayState::Buffering,
    };
    let played = played(f, Path::In(&path, "played_ranges"), &report.played_ranges);
    let (sequence, seeked) = (report.sequence, report.seeked);
    let built = (|| {
        let report = ReportProgress { view: view?, sequence, position_ms, state, played, seeked };
        Some(Envelope::plain(Command::Account(account?, AccountCommand::ReportProgress(report))))
    })();
    fields.with(built)
}

fn sequence(fields: &mut Fields, path: Path<'_>, sequence: u64) {
    if sequence == 0 {
        fields.bad(path, "is 0: 1 or more is accepted");
    }
}

fn played(fields: &mut Fields, path: Path<'_>, ranges: &[v1::PlayedRange]) -> Vec<Played> {
    if !fields.count(path, ranges.len(), 0, PLAYED_RANGES_MAX) {
        return Vec::new();
    }
    let mut played = Vec::with_capacity(ranges.len());
    for (i, range) in ranges.iter().enumerate() {
        let at = Path::At(&path, i);
        let from_ms = fields.ms(Path::In(&at, "start_ms"), range.start_ms, 0);
        let to_ms = fields.ms(Path::In(&at, "end_ms"), range.end_ms, 0);
        let (Some(from_ms), Some(to_ms)) = (from_ms, to_ms) else { continue };
        if from_ms >= to_ms {
            fields.bad(Path::In(&at, "end_ms"), format!("is {to_ms}: more than start_ms, {from_ms}, is accepted"));
        }
        played.push(Played { from_ms, to_ms });
    }
    played
}

pub(in crate::rpc) fn stop_view(request: v1::StopViewRequest) -> Result<Asked, Fault> {
    let mut fields = Fields::default();
    let f = &mut fields;
    let account = account(f, request.account_id);
    let request_id = request_id(f, request.request_id);
    let next = request.next.map(|next| next_view(f, next, &request.view_id));
    let view = f.id("view_id", request.view_id, ViewId::new);
    if let Some(n) = request.sequence {
        sequence(f, "sequence".into(), n);
    }
    let position_ms = f.ms_or_none("position_ms", request.position_ms, 0);
    let played = played(f, "played_ranges".into(), &request.played_ranges);
    let built = (|| {
        let next = match next {
            Some(next) => Some(next?),
            None => None,
        };
        let (sequence, failed) = (request.sequence, request.failed);
        let stop = StopView { view: view?, sequence, position_ms, played, failed, next };
        Some((account?, request_id, AccountCommand::StopView(stop)))
    })();
    fields.with(built)
}

fn next_view(fields: &mut Fields, next: v1::NextTitle, stopped: &str) -> Option<NextView> {
    let path = Path::from("next");
    if next.view_id == stopped && !stopped.is_empty() {
        fields.bad(Path::In(&path, "view_id"), "is the stopped view's: another id is accepted");
    }
    let view = fields.id(Path::In(&path, "view_id"), next.view_id, ViewId::new);
    let position_ms = fields.ms_or_none(Path::In(&path, "position_ms"), next.position_ms, 0);
    let media = media(
        fields,
        MediaFields {
            within: Some(path),
            title_id: next.title_id,
            title_type: next.title_type,
            duration_ms: next.duration_ms,
            credits_position_ms: next.credits_position_ms,
        },
    );
    Some(NextView { view: view?, media: media?, position_ms })
}

pub(in crate::rpc) fn end_view(request: v1::EndViewRequest) -> Result<Asked, Fault> {
    let mut fields = Fields::default();
    let f = &mut fields;
    let account = account(f, request.account_id);
    let request_id = request_id(f, request.request_id);
    let view = f.id("view_id", request.view_id, ViewId::new);
    let by = f.id_or_none("by_device_id", request.by_device_id, DeviceId::new);
    let built = (|| Some((account?, request_id, AccountCommand::EndView(EndView { view: view?, by }))))();
    fields.with(built)
}

/// An active view, for the wire.
pub(in crate::rpc) fn view(account: &AccountId, view: &ActiveView) -> v1::View {
    let state = match view.state {
        PlayState::Playing => v1::PlayState::Playing,
        PlayState::Paused => v1::PlayState::Paused,
        PlayState::Buffering => v1::PlayState::Buffering,
    };
    v1::View {
        account_id: account.to_string(),
        view_id: view.view.to_string(),
        profile_id: view.profile.to_string(),
        device_id: view.device.to_string(),
        title_id: view.media.title.to_string(),
        title_type: title_type(view.media.title_type).into(),
        kind: view_kind(view.kind).into(),
        state: state.into(),
        position_ms: view.position_ms.map(ms),
        duration_ms: view.media.duration_ms.map(ms),
        credits_position_ms: view.media.credits_ms.map(ms),
        sequence: view.sequence,
        start_time: Some(timestamp(view.started_at)),
        report_time: Some(timestamp(view.reported_at)),
        watched_ms: ms(view.watched_ms),
        holds_stream: view.holds_stream,
        degraded: view.degraded,
    }
}

/// A view that is no longer active, for the wire.
pub(in crate::rpc) fn ended(ended: &EndedView) -> v1::ViewEnded {
    let reason = match ended.why {
        EndReason::Stopped => v1::EndReason::Stopped,
        EndReason::Replaced => v1::EndReason::Replaced,
        EndReason::EndedForAnother => v1::EndReason::EndedForAnother,
        EndReason::EndedByOwner => v1::EndReason::EndedByOwner,
        EndReason::Expired => v1::EndReason::Expired,
        EndReason::PausedTooLong => v1::EndReason::PausedTooLong,
        EndReason::StreamTaken => v1::EndReason::StreamTaken,
        EndReason::OverLimit => v1::EndReason::OverLimit,
    };
    v1::ViewEnded {
        view_id: ended.view.to_string(),
        reason: reason.into(),
        by_device_id: ended.by.as_ref().map(DeviceId::to_string).unwrap_or_default(),
        end_time: Some(timestamp(ended.at)),
        may_come_back: ended.why.may_come_back(),
    }
}

/// What a start answers.
pub(in crate::rpc) fn started(account: &AccountId, started: &Started) -> v1::StartedView {
    v1::StartedView {
        view: Some(view(account, &started.view)),
        progress_interval_ms: ms(started.interval_ms),
        expire_time: Some(timestamp(started.expires_at)),
        resume_position_ms: started.resume_ms.map(ms),
        watched: started.watched,
        already_active: started.repeated,
        brought_back: started.brought_back,
        continues_entry_time: started.continues.map(timestamp),
        ended_view_ids: started.ended.iter().map(ViewId::to_string).collect(),
    }
}

/// What a report answers.
pub(in crate::rpc) fn progress_result(progressed: &Progressed) -> v1::ProgressResult {
    let (directive, ended) = match &progressed.directive {
        Directive::Continue => (v1::Directive::Continue, None),
        Directive::Stop(view) => (v1::Directive::Stop, Some(ended(view))),
    };
    v1::ProgressResult {
        applied: progressed.applied,
        directive: directive.into(),
        progress_interval_ms: ms(progressed.interval_ms),
        expire_time: Some(timestamp(progressed.expires_at)),
        ended,
        error: None,
        revision_index: 0,
        standing: 0,
    }
}

/// What a stop answers.
pub(in crate::rpc) fn stopped(account: &AccountId, stopped: &Stopped) -> v1::StopViewResponse {
    v1::StopViewResponse {
        view_id: stopped.view.to_string(),
        position_ms: stopped.position_ms.map(ms),
        status: outcome(stopped.outcome).into(),
        next: stopped.next.as_ref().map(|next| started(account, next)),
        write_info: None,
    }
}
