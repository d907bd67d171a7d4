//! What a member sees of it all.

use std::collections::BTreeSet;

use super::{Account, Reference, View};
use crate::view::tests::*;

impl Reference {
    /// All that a member of the account can see at `now`, and the titles that active views stand in.
    pub(in crate::view::tests) fn sees(&self, now: Stamp, id: &AccountId, who: &ProfileId, titles: &[TitleId]) -> Seen {
        let s = &self.settings;
        let none = Account::new(id);
        let account = self.accounts.iter().find(|a| a.id == *id).unwrap_or(&none);
        let now = Stamp { logical: now.logical.max(self.logical), ..now };
        let mut views: Vec<&View> = account.views.iter().collect();
        views.sort_by_key(|v| (v.started.logical, v.id.clone()));
        let is_active =
            |t: &TitleId| account.views.iter().any(|v| v.moves() && v.profile == *who && v.media.title == *t);
        let told = |t: &TitleId| account.told(s, now.logical, who, t, true).state;
        let mut row: Vec<ContinueItem> = account
            .titles(who)
            .iter()
            .filter_map(|t| {
                let TitleState { title, title_type, resume, .. } = told(t);
                Some(ContinueItem { active: is_active(t), title, title_type, resume: resume? })
            })
            .filter(|item| item.resume.at.0 + s.continue_ms >= now.wall.0)
            .collect();
        row.sort_by_key(|item| (std::cmp::Reverse(item.resume.at), item.title.clone()));
        Seen {
            active: views.iter().map(|v| v.show(s, now.logical)).collect(),
            titles: titles.iter().map(told).collect(),
            stored_titles: titles.iter().map(|t| account.told(s, now.logical, who, t, false).state).collect(),
            row,
            history: account.history(s, who),
            policy: account.policy.unwrap_or(s.policy),
            profiles: account
                .profiles
                .iter()
                .map(|p| {
                    let history = account.history(s, p);
                    let titles: BTreeSet<_> =
                        account.happenings.iter().filter(|(who, ..)| who == p).map(|(_, t, _)| t).collect();
                    ProfileSummary {
                        profile: p.clone(),
                        titles: titles.len() as u64,
                        entries: history.len() as u64,
                        plays: history.iter().map(|e| e.plays.len() as u64).sum(),
                    }
                })
                .collect(),
        }
    }
}

/// All that a member can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::view::tests) struct Seen {
    pub(in crate::view::tests) active: Vec<ActiveView>,
    pub(in crate::view::tests) titles: Vec<TitleState>,
    /// Without what active views add.
    pub(in crate::view::tests) stored_titles: Vec<TitleState>,
    pub(in crate::view::tests) row: Vec<ContinueItem>,
    pub(in crate::view::tests) history: Vec<HistoryEntry>,
    pub(in crate::view::tests) policy: StreamPolicy,
    pub(in crate::view::tests) profiles: Vec<ProfileSummary>,
}
