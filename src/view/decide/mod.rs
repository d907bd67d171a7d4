//! Deciding a command: which answer, and what changes. Nothing is changed here.

mod handoff;
mod history;
mod import;
mod progress;
mod start;
mod stop;

pub(super) use self::progress::{check_report, goes_on, report, wants_stream_back};

use super::account::Known;
use super::txn::{Bail, Effects, Txn};
use super::{
    AccountCommand, Answer, Command, EndedView, Envelope, Rejection, Settings, StreamPolicy, Stretch,
    TICK_EXPIRIES_MAX, Ticked,
};
use crate::ids::{AccountId, RequestId, ViewId};
use crate::planted::{self, Bug};

/// What comes of a command that may be refused.
type Decided<T> = Result<Result<T, Rejection>, Bail>;

/// Hands a refusal on: like `?` for the inner one of two results.
macro_rules! accept {
    ($decided:expr) => {
        match $decided {
            Ok(accepted) => accepted,
            Err(rejection) => return Ok(Err(rejection)),
        }
    };
}
use accept;

/// Decides a command. On [`Bail::Missing`] the transaction knows which rows are missing.
pub(super) fn decide(txn: &mut Txn<'_>, envelope: &Envelope) -> Result<Answer, Bail> {
    if !envelope.is_permitted_at(txn.version) {
        // No leader proposes it. Told by every replica alike, which a mistake of a leader shall not stop.
        return Ok(Answer::Rejected(Rejection::invalid("command", "is not switched on yet")));
    }
    match &envelope.command {
        Command::Tick => tick(txn),
        Command::Adopt(version) => Ok(Answer::Adopted(txn.adopt(*version))),
        Command::Stretch(stretch) => Ok(set_stretch(txn, *stretch)),
        Command::UpdateSettings(settings) => Ok(update_settings(txn, settings)),
        Command::Account(account, command) => {
            let idempotent = matches!(command, AccountCommand::ReportProgress(_) | AccountCommand::HandOff(_));
            let request = envelope.request_id.as_ref().filter(|_| !idempotent);
            match request {
                Some(id) => decide_once(txn, envelope, id, account, command),
                None => decide_account(txn, account, command),
            }
        }
    }
}

/// Decides a command that has a request id: never twice.
fn decide_once(
    txn: &mut Txn<'_>,
    envelope: &Envelope,
    id: &RequestId,
    account: &AccountId,
    command: &AccountCommand,
) -> Result<Answer, Bail> {
    let fingerprint = command.fingerprint();
    match txn.account(account)?.request(id, fingerprint, envelope.first_sent) {
        _ if planted::is(Bug::RetryRunTwice) => {}
        Known::Answered(answer) => return Ok(answer),
        Known::Reused => return Ok(Answer::Rejected(Rejection::RequestIdReused)),
        // A start of a view that runs needs no memory of requests to be the same start.
        Known::TooOld(_) if start::is_repeated(txn, account, command) => return decide_account(txn, account, command),
        // Plays are known by their content: those that are in add nothing.
        Known::TooOld(_) if matches!(command, AccountCommand::ImportHistory(_)) => {}
        Known::TooOld(remembered_since) => {
            return Ok(Answer::Rejected(Rejection::RequestTooOld { remembered_since }));
        }
        Known::New => {}
    }
    let answer = decide_account(txn, account, command)?;
    // What is invalid is so for ever, and leaves no trace; nor does a refusal make an account where there is none.
    let leaves_no_trace = match &answer {
        Answer::Rejected(Rejection::Invalid { .. }) => true,
        Answer::Rejected(_) => !txn.knows(account)?,
        _ => false,
    };
    if !leaves_no_trace {
        let (settings, stamp) = (txn.settings, txn.stamp);
        txn.account(account)?.remember(settings, stamp, id.clone(), fingerprint, &answer);
    }
    Ok(answer)
}

/// Decides an account's command. A refused one leaves nothing in the transaction.
fn decide_account(txn: &mut Txn<'_>, account: &AccountId, command: &AccountCommand) -> Result<Answer, Bail> {
    let decided = match command {
        AccountCommand::StartView(start) => {
            start::start_view(txn, account, start).map(|r| r.map(|s| Answer::Started(s.into())))
        }
        AccountCommand::ReportProgress(report) => progress::report_progress(txn, account, report),
        AccountCommand::StopView(stop) => {
            stop::stop_view(txn, account, stop).map(|r| r.map(|s| Answer::Stopped(s.into())))
        }
        AccountCommand::EndView(end) => stop::end_view(txn, account, end).map(|r| r.map(Answer::Ended)),
        AccountCommand::ImportHistory(import) => {
            import::import_history(txn, account, import).map(|r| r.map(Answer::Imported))
        }
        AccountCommand::HandOff(parked) => handoff::hand_off(txn, account, parked).map(|r| r.map(Answer::HandedOff)),
        AccountCommand::UpdateStreamPolicy(policy) => update_policy(txn, account, *policy),
    };
    Ok(match decided? {
        Ok(answer) => answer,
        Err(rejection) => {
            let fresh = txn.fresh();
            *txn = fresh;
            Answer::Rejected(rejection)
        }
    })
}

fn update_settings(txn: &mut Txn<'_>, settings: &Settings) -> Answer {
    if settings.version <= txn.settings.version {
        return Answer::Rejected(Rejection::SettingsOlder { version: txn.settings.version });
    }
    if let Err(rejection) = settings.check() {
        return Answer::Rejected(rejection);
    }
    txn.put_settings(settings.clone());
    Answer::SettingsUpdated
}

fn set_stretch(txn: &mut Txn<'_>, stretch: Stretch) -> Answer {
    if stretch > Stretch::MOST {
        return Answer::Rejected(Rejection::invalid("stretch", "must be at most 176 sixteenths"));
    }
    txn.put_stretch(stretch);
    Answer::Stretched(stretch)
}

fn update_policy(txn: &mut Txn<'_>, account: &AccountId, policy: StreamPolicy) -> Decided<Answer> {
    if policy.max_streams < 1 || policy.max_streams > StreamPolicy::STREAMS_MAX {
        return Ok(Err(Rejection::invalid("policy.max_streams", "must be 1 to 64")));
    }
    txn.account(account)?.policy = Some(policy);
    Ok(Ok(Answer::PolicyUpdated(policy)))
}

/// Expires what is due: the only place where time alone ends a view.
fn tick(txn: &mut Txn<'_>) -> Result<Answer, Bail> {
    let due = txn.due(TICK_EXPIRIES_MAX);
    let mark = txn.mark();
    for view in &due {
        stop::prefetch_end(txn, view)?;
    }
    txn.settle(mark)?;
    for view in &due {
        Txn::go_on(stop::expire(txn, view))?;
    }
    txn.settle(mark)?;
    Ok(Answer::Ticked(Ticked { expired: u32::try_from(due.len()).expect("a few at a time") }))
}

/// Why a view is not active.
fn not_active(txn: &mut Txn<'_>, account: &AccountId, view: &ViewId) -> Result<Result<EndedView, Rejection>, Bail> {
    let (settings, now) = (txn.settings, txn.stamp.logical);
    Ok(match txn.account(account)?.ended(settings, now, view) {
        Some(ended) if ended.why.may_come_back() => Err(Rejection::ViewExpired(ended.clone())),
        Some(ended) => Ok(ended.clone()),
        None => Err(Rejection::ViewUnknown(view.clone())),
    })
}

/// Decides on a fresh transaction, for what would change or what is missing.
pub(super) fn effects(mut txn: Txn<'_>, envelope: &Envelope) -> Result<(Answer, Effects), (Bail, Vec<super::RowKey>)> {
    match decide(&mut txn, envelope) {
        Ok(answer) => Ok((answer, txn.finish())),
        Err(bail) => Err((bail, txn.into_missing())),
    }
}
