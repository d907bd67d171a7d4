//! Promises that need no search: what an answer says about itself.

use std::collections::BTreeMap;

use super::history::{Action, Mode, Name, Op, Outcome, Revision, Rules, Seen, What};
use super::story::Story;

/// The first promise that is broken.
pub(super) fn broken(rules: &Rules, account: &Name, ops: &[&Op]) -> Option<Story> {
    let mut exact: BTreeMap<u64, usize> = BTreeMap::new();
    let limits = ops.iter().filter_map(|op| match &op.what {
        What::Write(Action::SetLimit { streams }, _) => Some(*streams),
        _ => None,
    });
    let limit_max = limits.chain([rules.limit]).max().unwrap_or(rules.limit);
    for (at, op) in ops.iter().enumerate() {
        let why = match &op.what {
            What::Write(
                _,
                Outcome::Committed(_, Some(Revision::Exact(revision)))
                | Outcome::Refused(_, Some(Revision::Exact(revision))),
            ) => exact.insert(*revision, at).map(|_| format!("two writes took effect as revision {revision}")),
            What::Write(..) => None,
            What::Read { mode, seen, info } => {
                let (revision, degraded) = (info.revision, info.degraded);
                freshness(*mode, revision, degraded).or_else(|| crowd(seen, limit_max))
            }
        };
        if let Some(why) = why {
            return Some(Story::of(account, why, ops, at));
        }
    }
    None
}

fn freshness(mode: Mode, revision: Option<u64>, degraded: bool) -> Option<String> {
    match (mode, revision) {
        (Mode::Strong | Mode::Lease, _) if degraded => Some("an answer of the quorum says that it is degraded".into()),
        (Mode::Session(least), Some(revision)) if revision < least => {
            Some(format!("a session that had seen revision {least} was answered as of revision {revision}"))
        }
        _ => None,
    }
}

/// Views that are not degraded never exceed the limit: the highest that the account ever had, since a lower one ends no view.
fn crowd(seen: &Seen, limit_max: u16) -> Option<String> {
    let Seen::Active(views) = seen else { return None };
    let holders = views.iter().filter(|view| view.holds_stream && !view.degraded).count();
    (holders > usize::from(limit_max)).then(|| {
        format!("{holders} views that are not degraded hold a stream each, and the limit was never above {limit_max}")
    })
}
