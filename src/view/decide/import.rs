//! Imports: past plays with their own times, in any order.

use super::history::{Placed, place};
use super::{Decided, accept};
use crate::ids::AccountId;
use crate::time::WallMs;
use crate::view::txn::{Bail, TitleRef, Txn};
use crate::view::{
    IMPORT_PLAYS_MAX, ImportHistory, ImportPlay, ImportResult, Imported, MEDIA_MS_MAX, Rejection, ViewKind, rules,
};

/// How far in the future an imported play may end, in ms.
const FUTURE_MS_MAX: u64 = 5 * 60 * 1000;

/// Decides [`AccountCommand::ImportHistory`](crate::view::AccountCommand::ImportHistory).
pub(super) fn import_history(txn: &mut Txn<'_>, account: &AccountId, import: &ImportHistory) -> Decided<Imported> {
    accept!(check(import));
    let latest = txn.stamp.wall.plus(FUTURE_MS_MAX);
    let mark = txn.mark();
    Txn::go_on(txn.account(account))?;
    for play in import.plays.iter().filter(|p| verdict(p, latest).is_none()) {
        Txn::go_on(txn.title(&TitleRef::new(account, &play.profile, &play.title)))?;
    }
    txn.settle(mark)?;
    let mut results = Vec::with_capacity(import.plays.len());
    for play in &import.plays {
        match take(txn, account, play, latest) {
            Ok(result) => results.push(result),
            // The other plays are tried all the same, to ask for all that is missing at once.
            Err(Bail::Missing) => {}
            Err(stop) => return Err(stop),
        }
    }
    txn.settle(mark)?;
    Ok(Ok(Imported { results }))
}

fn check(import: &ImportHistory) -> Result<(), Rejection> {
    if import.plays.is_empty() || import.plays.len() > IMPORT_PLAYS_MAX {
        return Err(Rejection::invalid("plays", "must be 1 to 1000 plays"));
    }
    Ok(())
}

/// What can be said of a play by itself alone.
fn verdict(play: &ImportPlay, latest: WallMs) -> Option<ImportResult> {
    if play.duration_ms.is_some_and(|ms| ms == 0 || ms > MEDIA_MS_MAX) {
        return Some(ImportResult::BadDuration);
    }
    if play.position_ms.is_some_and(|ms| ms > MEDIA_MS_MAX) {
        return Some(ImportResult::BadPosition);
    }
    if play.elapsed_ms > MEDIA_MS_MAX {
        return Some(ImportResult::BadElapsed);
    }
    if play.start.plus(play.elapsed_ms) > latest {
        return Some(ImportResult::InFuture);
    }
    (play.kind == ViewKind::Preview).then_some(ImportResult::Preview)
}

fn take(txn: &mut Txn<'_>, account: &AccountId, import: &ImportPlay, latest: WallMs) -> Result<ImportResult, Bail> {
    if let Some(verdict) = verdict(import, latest) {
        return Ok(verdict);
    }
    if txn.account(account)?.profile(&import.profile).is_none() {
        return Ok(ImportResult::TooManyProfiles);
    }
    let at = TitleRef::new(account, &import.profile, &import.title);
    let (play, last) = rules::imported(txn.settings, import);
    let placed = place(txn, &at, &import.device, play.clone(), false)?;
    if placed == Placed::Added {
        rules::take_in(txn.title(&at)?, &play, last);
    }
    Ok(match placed {
        Placed::Added => ImportResult::Added,
        Placed::Unchanged => ImportResult::Unchanged,
        Placed::Full => ImportResult::EntryFull,
    })
}
