//! Answering queries from what is resident, and saying what isn't.

mod lists;

use super::record::LiveView;
use super::state::{Lookup, Missing, Scan, Scanned, State};
use super::txn::{Bail, TitleRef, Txn};
use super::{AccountSummary, Query, RESUME_POINTS_MAX, Reply, ViewStatus};
use crate::ids::{AccountId, ProfileId, TitleId, ViewId};
use crate::time::Stamp;

/// What a scan of the store found.
type Found<'a> = Option<(&'a Scan, &'a Scanned)>;

/// Why there is no reply yet.
enum Unready {
    Bail(Bail),
    Scan(Scan),
}

impl From<Bail> for Unready {
    fn from(bail: Bail) -> Self {
        Self::Bail(bail)
    }
}

pub(super) fn query(state: &State, query: &Query, now: Stamp, found: Found<'_>) -> Lookup {
    let mut txn = state.txn(now);
    match reply(state, &mut txn, query, found) {
        Ok(reply) => Lookup::Ready(reply),
        Err(Unready::Scan(scan)) => Lookup::Scan(scan),
        Err(Unready::Bail(Bail::Stop(stop))) => Lookup::Stop(stop),
        Err(Unready::Bail(Bail::Missing)) => {
            Lookup::Missing(Missing { fence: state.fence(), keys: txn.into_missing() })
        }
    }
}

fn reply(state: &State, txn: &mut Txn<'_>, query: &Query, found: Found<'_>) -> Result<Reply, Unready> {
    match query {
        Query::GetView(account, view) => Ok(Reply::View(view_status(txn, account, view)?)),
        Query::ListActiveViews(account) => {
            let show = |v: &LiveView| v.show(txn.settings, txn.stamp.logical);
            Ok(Reply::ActiveViews(txn.views(account).iter().map(show).collect()))
        }
        Query::GetResumePoints(account, profile, titles) => Ok(resume_points(txn, account, profile, titles)?),
        Query::ListContinueWatching(account, profile, page) => {
            lists::continue_watching(state, txn, (account, profile), page, found)
        }
        Query::ListHistory(account, profile, filter, page) => {
            lists::history(state, txn, (account, profile), filter, page, found)
        }
        Query::GetAccount(account) => Ok(Reply::Account(summary(txn, account)?)),
        Query::GetStreamPolicy(account) => {
            let settings = txn.settings;
            Ok(Reply::StreamPolicy(txn.account(account)?.policy(settings)))
        }
    }
}

fn view_status(txn: &mut Txn<'_>, account: &AccountId, view: &ViewId) -> Result<ViewStatus, Bail> {
    let (settings, now) = (txn.settings, txn.stamp.logical);
    if let Some(view) = txn.view(account, view) {
        return Ok(ViewStatus::Active(view.show(settings, now)));
    }
    let ended = txn.account(account)?.ended(settings, now, view);
    Ok(ended.map_or(ViewStatus::Unknown, |ended| ViewStatus::Ended(ended.clone())))
}

fn resume_points(
    txn: &mut Txn<'_>,
    account: &AccountId,
    profile: &ProfileId,
    titles: &[TitleId],
) -> Result<Reply, Bail> {
    if titles.is_empty() || titles.len() > RESUME_POINTS_MAX {
        return Ok(Reply::Invalid { field: "titles".into(), accepted: "must be 1 to 1000 titles".into() });
    }
    let at = |title| TitleRef::new(account, profile, title);
    let mark = txn.mark();
    for title in titles {
        Txn::go_on(txn.title(&at(title)))?;
    }
    txn.settle(mark)?;
    let now = txn.stamp.logical;
    let states = titles.iter().map(|title| Ok(txn.title_as_if_ended(&at(title))?.show(title, now)));
    Ok(Reply::ResumePoints(states.collect::<Result<_, Bail>>()?))
}

fn summary(txn: &mut Txn<'_>, account: &AccountId) -> Result<AccountSummary, Bail> {
    let (settings, now) = (txn.settings, txn.stamp.logical);
    let views = txn.views(account);
    let row = txn.account(account)?;
    Ok(AccountSummary {
        policy: row.policy(settings),
        policy_is_own: row.policy.is_some(),
        profiles: row.profiles.clone(),
        active_views: u32::try_from(views.len()).expect("at most 128"),
        streams: u32::try_from(views.iter().filter(|v| v.progress.holds_stream(settings, now)).count())
            .expect("at most 128"),
    })
}
