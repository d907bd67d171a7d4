//! Starting a view: admission and start in one step.

use super::{Decided, accept, stop};
use crate::ids::{AccountId, ViewId};
use crate::time::{LogicalMs, WallMs};
use crate::versions::Feature;
use crate::view::account::{ACCOUNT_VIEWS_MAX, PROFILES_MAX};
use crate::view::record::{LiveView, Progress};
use crate::view::title::TitleRow;
use crate::view::txn::{Bail, TitleRef, Txn};
use crate::view::{
    AccountCommand, EndReason, Fact, MEDIA_MS_MAX, Media, OnLimit, PlayState, Rejection, StartView, Started, ViewKind,
};

/// Whether the command starts a view that runs, just as it runs.
pub(super) fn is_repeated(txn: &Txn<'_>, account: &AccountId, command: &AccountCommand) -> bool {
    match command {
        AccountCommand::StartView(start) => txn.view(account, &start.view).is_some_and(|view| is_same(&view, start)),
        _ => false,
    }
}

pub(super) fn is_same(view: &LiveView, start: &StartView) -> bool {
    view.profile == start.profile
        && view.device == start.device
        && view.media.title == start.media.title
        && view.progress.kind == start.kind
}

/// Decides [`AccountCommand::StartView`].
pub(super) fn start_view(txn: &mut Txn<'_>, account: &AccountId, start: &StartView) -> Decided<Started> {
    accept!(check(start));
    if let Some(view) = txn.view(account, &start.view) {
        if !is_same(&view, start) {
            return Ok(Err(Rejection::ViewIdInUse(start.view.clone())));
        }
        let before = txn.title(&TitleRef::of(&view))?.clone();
        return Ok(Ok(started(txn, &view, &before, How { repeated: true, ..How::default() })?));
    }
    admit(txn, account, start, false)
}

/// The start of a view that isn't active. `keeps_stream`: it goes on in the stream of a view that was just stopped.
pub(super) fn admit(txn: &mut Txn<'_>, account: &AccountId, start: &StartView, keeps_stream: bool) -> Decided<Started> {
    let at = TitleRef::new(account, &start.profile, &start.media.title);
    let mark = txn.mark();
    Txn::go_on(txn.account(account))?;
    Txn::go_on(txn.title(&at))?;
    txn.settle(mark)?;
    let (sequence, brought_back) = accept!(former(txn, account, &start.view)?);
    let views = txn.views(account);
    let mut ending = replaced(&views, start);
    if start.kind.takes_a_stream() && !keeps_stream {
        accept!(make_room(txn, account, start, &views, &mut ending)?);
    }
    if views.len() - ending.len() >= ACCOUNT_VIEWS_MAX {
        return Ok(Err(Rejection::TooManyViews { max: ACCOUNT_VIEWS_MAX as u32 }));
    }
    if start.kind != ViewKind::Preview && txn.account(account)?.profile(&start.profile).is_none() {
        return Ok(Err(Rejection::TooManyProfiles { max: PROFILES_MAX as u32 }));
    }
    for (view, _) in &ending {
        stop::prefetch_end(txn, view)?;
    }
    txn.settle(mark)?;
    for (view, why) in &ending {
        Txn::go_on(stop::end(txn, view, *why, Some(start.device.clone())))?;
    }
    txn.settle(mark)?;
    let ended = ending.into_iter().map(|(view, _)| view.view).collect();
    let before = txn.title_as_if_ended(&at)?;
    let again = has_ended(txn, account, &start.view)?;
    let mut view = new_view(txn, account, start, sequence, before.resume().map(|r| r.position_ms));
    view.progress.again = again && txn.version.has(Feature::Hints);
    let how = How { brought_back, ended, ..How::default() };
    let answer = started(txn, &view, &before, how)?;
    txn.account(account)?.view_started(&view.view);
    txn.tell(account, Fact::Started { view: answer.view.clone(), brought_back });
    txn.put_view(view);
    Ok(Ok(answer))
}

pub(super) fn check(start: &StartView) -> Result<(), Rejection> {
    check_media(&start.media, "media")?;
    check_ms(start.position_ms, 0, "position_ms", "must be at most 30 days")
}

/// Checks what is told of a title.
pub(super) fn check_media(media: &Media, field: &str) -> Result<(), Rejection> {
    check_ms(media.duration_ms, 1, &format!("{field}.duration_ms"), "must be 1 ms to 30 days")?;
    check_ms(media.credits_ms, 1, &format!("{field}.credits_ms"), "must be 1 ms to 30 days")?;
    match (media.duration_ms, media.credits_ms) {
        (Some(duration), Some(credits)) if credits > duration => {
            Err(Rejection::invalid(&format!("{field}.credits_ms"), "must be at most duration_ms"))
        }
        _ => Ok(()),
    }
}

/// Checks a time in a title.
pub(super) fn check_ms(ms: Option<u64>, least: u64, field: &str, accepted: &str) -> Result<(), Rejection> {
    match ms {
        Some(ms) if ms < least || ms > MEDIA_MS_MAX => Err(Rejection::invalid(field, accepted)),
        _ => Ok(()),
    }
}

/// What is known of an ended view of that id: its sequence, and whether this start brings it back.
pub(super) fn former(txn: &mut Txn<'_>, account: &AccountId, view: &ViewId) -> Decided<(u64, bool)> {
    let (settings, now) = (txn.settings, txn.stamp.logical);
    Ok(match txn.account(account)?.ended(settings, now, view) {
        None => Ok((0, false)),
        Some(ended) if ended.why.may_come_back() => {
            Ok((ended.sequence, now.since(ended.logical) <= settings.comeback_ms))
        }
        Some(ended) => Err(Rejection::ViewEnded(ended.clone())),
    })
}

/// Whether it is known how a view of that id ended.
pub(super) fn has_ended(txn: &mut Txn<'_>, account: &AccountId, view: &ViewId) -> Result<bool, Bail> {
    let (settings, now) = (txn.settings, txn.stamp.logical);
    Ok(txn.account(account)?.ended(settings, now, view).is_some())
}

/// The device's own views that this start replaces. A preview replaces only previews.
pub(super) fn replaced(views: &[LiveView], start: &StartView) -> Vec<(LiveView, EndReason)> {
    let by_kind = |v: &LiveView| start.kind != ViewKind::Preview || v.progress.kind == ViewKind::Preview;
    let own = views.iter().filter(|v| v.device == start.device && by_kind(v));
    own.map(|v| (v.clone(), EndReason::Replaced)).collect()
}

/// Finds views to end until there is a stream free.
fn make_room(
    txn: &mut Txn<'_>,
    account: &AccountId,
    start: &StartView,
    views: &[LiveView],
    ending: &mut Vec<(LiveView, EndReason)>,
) -> Decided<()> {
    let (settings, now) = (txn.settings, txn.stamp.logical);
    let limit = txn.account(account)?.policy(settings).max_streams;
    let holds = |v: &&LiveView| v.progress.holds_stream(settings, now) && !ending.iter().any(|(e, _)| e.view == v.view);
    let mut holders: Vec<&LiveView> = views.iter().filter(holds).collect();
    let mut end = |holders: &mut Vec<&LiveView>, at: usize| {
        ending.push((holders.remove(at).clone(), EndReason::EndedForAnother));
    };
    while holders.len() >= usize::from(limit) {
        match &start.on_limit {
            OnLimit::EndOldest => end(&mut holders, 0),
            OnLimit::EndNamed(named) => match holders.iter().position(|v| v.view == *named) {
                Some(at) => end(&mut holders, at),
                None if ending_names(&holders, views, named) => return Ok(Err(full(settings, now, limit, &holders))),
                None => return Ok(Err(Rejection::NamedViewUnknown(named.clone()))),
            },
            OnLimit::Reject => return Ok(Err(full(settings, now, limit, &holders))),
        }
    }
    Ok(Ok(()))
}

/// Whether the named view was a holder that is being ended already, which was not enough.
fn ending_names(holders: &[&LiveView], views: &[LiveView], named: &ViewId) -> bool {
    views.iter().any(|v| v.view == *named) && !holders.iter().any(|v| v.view == *named)
}

fn full(settings: &crate::view::Settings, now: LogicalMs, limit: u16, holders: &[&LiveView]) -> Rejection {
    Rejection::StreamLimit { limit, views: holders.iter().map(|v| v.show(settings, now)).collect() }
}

pub(super) fn new_view(
    txn: &Txn<'_>,
    account: &AccountId,
    start: &StartView,
    sequence: u64,
    resume: Option<u64>,
) -> LiveView {
    let position = match start.kind {
        ViewKind::Live => start.position_ms,
        ViewKind::Preview => Some(start.position_ms.unwrap_or(0)),
        ViewKind::Full | ViewKind::Offline => Some(start.position_ms.or(resume).unwrap_or(0)),
    };
    LiveView {
        account: account.clone(),
        view: start.view.clone(),
        profile: start.profile.clone(),
        device: start.device.clone(),
        media: start.media.clone(),
        progress: Progress {
            kind: start.kind,
            state: PlayState::Playing,
            sequence,
            started: txn.stamp,
            reported: txn.stamp,
            paused_since: None,
            position_ms: position.map(|ms| u32::try_from(ms).expect("media times were checked")),
            played: Default::default(),
            degraded: false,
            again: false,
            stretch: txn.stretch,
        },
    }
}

/// What is special about a start.
#[derive(Default)]
pub(super) struct How {
    pub(super) repeated: bool,
    pub(super) brought_back: bool,
    pub(super) ended: Vec<ViewId>,
}

pub(super) fn started(txn: &mut Txn<'_>, view: &LiveView, before: &TitleRow, how: How) -> Result<Started, Bail> {
    let (settings, stamp) = (txn.settings, txn.stamp);
    Ok(Started {
        view: view.show(settings, stamp.logical),
        interval_ms: settings.told_interval_ms(&view.view, view.progress.sequence, view.progress.stretch),
        expires_at: stamp.wall.plus(view.progress.due(settings).since(stamp.logical)),
        resume_ms: before.resume().map(|r| r.position_ms),
        watched: before.play_count > 0,
        repeated: how.repeated,
        brought_back: how.brought_back,
        continues: continues(txn, view)?,
        ended: how.ended,
    })
}

/// The entry that the view's play will go on with.
fn continues(txn: &mut Txn<'_>, view: &LiveView) -> Result<Option<WallMs>, Bail> {
    if view.progress.kind == ViewKind::Preview {
        return Ok(None);
    }
    let (gap_ms, start) = (txn.settings.entry_gap_ms, view.progress.started.wall);
    let spans = super::history::spans_near(txn, &TitleRef::of(view), &view.device, start, start, gap_ms)?;
    Ok(spans.into_iter().map(|(_, span)| span.start).min())
}
