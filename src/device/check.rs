//! Strong reads of a household, compared with its ledger.

use std::collections::BTreeMap;

use super::habits::Title;
use super::household::{Household, device_id, profile_id};
use super::ledger::Profile;
use crate::client::{Client, Error};
use crate::proto::v1;

/// Titles in one question for resume points.
const TITLES: usize = 1_000;
/// Titles whose history is asked for while playing.
const HISTORIES_WHILE_PLAYING: usize = 2;

impl Household {
    /// A check between two plays: what cannot be read now is left to a later one.
    pub(super) async fn check_while_playing(&mut self) {
        let client = self.around.client.clone();
        let mut checked = self.explain(&client).await;
        if checked.is_ok() {
            checked = self.check(&client, HISTORIES_WHILE_PLAYING).await.map(drop);
        }
        if let Err(error) = checked {
            match error {
                Error::Rejected(_) => self.mismatch(format!("a strong read was refused: {error}")),
                Error::Unavailable { .. } | Error::Unknown { .. } => self.around.stats.unavailable(),
            }
        }
    }

    /// Learns by a strong read what has become of starts and stops whose outcome stayed unknown, once they are so old that
    /// none of them can come about any more. From then on the active views are compared again.
    pub(super) async fn explain(&mut self, client: &Client) -> Result<(), Error> {
        let now = self.around.clock.monotonic();
        if !self.ledger.views_uncertain() || !self.ledger.is_explained_by(now) {
            return Ok(());
        }
        let request = v1::ListActiveViewsRequest { account_id: self.account.clone(), read_options: None };
        let views = client.list_active_views(request).await?.views;
        let position = |view: &v1::View| view.position_ms.and_then(|ms| u64::try_from(ms).ok());
        let active = views.iter().map(|view| (view.view_id.clone(), (view.sequence, position(view)))).collect();
        self.ledger.explain(&active);
        Ok(())
    }

    /// Compares everything, with the history from its first page to its last. Returns how many facts were compared.
    pub(super) async fn check_all(&mut self, client: &Client) -> Result<u64, Error> {
        self.explain(client).await?;
        self.served.lock().1.clear();
        let facts = self.check(client, 0).await?;
        let (reads, plays) = self.check_whole_history(client).await?;
        self.around.stats.read(reads);
        Ok(facts + plays)
    }

    /// Compares everything, with the newest entry of at most `histories` titles; fails if something cannot be read. Returns
    /// how many facts were compared.
    pub(super) async fn check(&self, client: &Client, histories: usize) -> Result<u64, Error> {
        let (mut reads, mut facts) = (1, self.check_active_views(client).await?);
        let mut by_profile: BTreeMap<Profile, Vec<Title>> = BTreeMap::new();
        self.ledger.places.keys().for_each(|(profile, title)| by_profile.entry(*profile).or_default().push(*title));
        for (profile, titles) in by_profile {
            for titles in titles.chunks(TITLES) {
                (reads, facts) = (reads + 1, facts + titles.len());
                self.check_places(client, profile, titles).await?;
            }
        }
        let ended = self.ledger.ended.iter().filter(|((p, t), _)| self.is_still(*p, *t)).take(histories);
        for ((profile, title), device) in ended {
            (reads, facts) = (reads + 1, facts + 1);
            self.check_history(client, *profile, *title, *device).await?;
        }
        self.around.stats.checked(reads);
        Ok(facts as u64)
    }

    pub(super) fn was_served(&self, info: Option<&v1::ReadInfo>) {
        let mut served = self.served.lock();
        let (shard, by) = info.map_or_else(Default::default, |info| (info.shard, info.served_by.clone()));
        served.0 = shard;
        served.1.insert(by);
    }

    /// Ends the views that are active in this account; returns how many.
    pub(super) async fn end_views(&self, client: &Client) -> Result<u64, Error> {
        let request = v1::ListActiveViewsRequest { account_id: self.account.clone(), read_options: None };
        let mut ended = 0;
        for view in client.list_active_views(request).await?.views {
            let (account_id, view_id) = (self.account.clone(), view.view_id);
            let stop = v1::StopViewRequest { account_id, view_id, ..Default::default() };
            match client.stop_view(stop).await {
                Ok(_) => ended += 1,
                Err(error) if error.reason() == Some(v1::ErrorReason::ViewExpired) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    /// Nothing is under way with this title.
    fn is_still(&self, profile: Profile, title: Title) -> bool {
        !self.ledger.views_uncertain()
            && !self.ledger.running.values().any(|r| (r.profile, r.title) == (profile, title))
    }

    async fn check_active_views(&self, client: &Client) -> Result<usize, Error> {
        let request = v1::ListActiveViewsRequest { account_id: self.account.clone(), read_options: None };
        let answer = client.list_active_views(request).await?;
        self.was_served(answer.read_info.as_ref());
        let views = answer.views;
        // Where each is, how long it was watched; and who has to be there.
        let facts = 2 * views.len() + self.ledger.running.len();
        self.around.stats.compared(facts);
        for view in &views {
            let Some(running) = self.ledger.running.get(&view.view_id) else {
                if !self.ledger.views_uncertain() {
                    self.mismatch(format!("{} is active, and nobody plays it", view.view_id));
                }
                continue;
            };
            let found = (view.sequence, view.position_ms.and_then(|ms| u64::try_from(ms).ok()));
            let differs =
                found.0 != running.sequence || (running.position_ms.is_some() && found.1 != running.position_ms);
            if differs && !running.uncertain {
                let known = (running.sequence, running.position_ms);
                self.mismatch(format!("{} is at (sequence, position) {found:?}, not {known:?}", view.view_id));
            }
            let watched_ms = u64::try_from(view.watched_ms).unwrap_or(u64::MAX);
            if !running.watched_ms().contains(&watched_ms) {
                let known = running.watched_ms();
                self.mismatch(format!("{} was watched for {watched_ms} ms, not {known:?}", view.view_id));
            }
        }
        for running in self.ledger.running.values() {
            let is_there = views.iter().any(|view| view.view_id == running.view_id);
            if !is_there && self.surely_runs(running) {
                self.mismatch(format!("{} plays, and is not active", running.view_id));
            }
        }
        Ok(facts)
    }

    async fn check_places(&self, client: &Client, profile: Profile, titles: &[Title]) -> Result<(), Error> {
        let request = v1::BatchGetResumePointsRequest {
            account_id: self.account.clone(),
            profile_id: profile_id(profile),
            title_ids: titles.iter().map(|title| title.id()).collect(),
            read_options: None,
        };
        let answer = client.batch_get_resume_points(request).await?;
        self.was_served(answer.read_info.as_ref());
        let points = answer.resume_points;
        self.around.stats.compared(titles.len());
        for (at, title) in titles.iter().enumerate() {
            let (Some(point), Some(place)) = (points.get(at), self.ledger.places.get(&(profile, *title))) else {
                self.mismatch(format!("no answer for {} of {} titles", titles.len() - at, titles.len()));
                break;
            };
            let ms = |ms: Option<i64>| ms.and_then(|ms| u64::try_from(ms).ok());
            let (last_ms, resume_ms) = (ms(point.last_position_ms), ms(point.position_ms));
            let what = || format!("{} of {}", title.id(), profile_id(profile));
            if point.title_id != title.id() {
                self.mismatch(format!("{}: the answer is for {:?}", what(), point.title_id));
            } else if !place.admits(last_ms) {
                self.mismatch(format!("{} was left at {last_ms:?} ms, not at {place:?}", what()));
            } else if place.accepted_ms.is_some() && self.around.stats.is_handed_off() {
                self.around.stats.accepted_compared();
                if place.accepted_ms != last_ms {
                    self.around.stats.accepted_lost();
                    self.mismatch(format!("{} was left at {last_ms:?} ms, and {place:?} was accepted", what()));
                }
            } else if !place.admits_resume(*title, resume_ms) {
                self.mismatch(format!("{} resumes at {resume_ms:?} ms, not at {place:?}", what()));
            }
        }
        Ok(())
    }

    async fn check_history(&self, client: &Client, profile: Profile, title: Title, device: usize) -> Result<(), Error> {
        let request = v1::ListHistoryRequest {
            account_id: self.account.clone(),
            profile_id: profile_id(profile),
            title_id: title.id(),
            // Where calendars jump what was watched last need not stand first.
            page_size: if self.around.plan.calendars_jump { 0 } else { 1 },
            include_plays: self.around.plan.calendars_jump,
            ..Default::default()
        };
        let page = client.list_history(request).await?;
        self.around.stats.compared(1);
        let what = || format!("the history of {} of {}", title.id(), profile_id(profile));
        let Some(entry) = page.entries.first() else {
            self.mismatch(format!("{} is empty", what()));
            return Ok(());
        };
        let at = |entry: &v1::HistoryEntry| entry.position_ms.and_then(|ms| u64::try_from(ms).ok());
        let (position_ms, place) = (at(entry), self.ledger.places.get(&(profile, title)));
        let fits = |entry: &v1::HistoryEntry| {
            let same = entry.title_id == title.id() && entry.device_id == device_id(device);
            // An entry ends as the play that the calendar has last.
            let plays = entry.plays.iter().filter(|_| self.around.plan.calendars_jump).map(|play| play.position_ms);
            let mut ends = plays.map(|ms| ms.and_then(|ms| u64::try_from(ms).ok())).chain([at(entry)]);
            same && place.is_some_and(|place| ends.any(|at| place.admits(at)))
        };
        if page.entries.iter().any(fits) {
            return Ok(());
        }
        if entry.title_id != title.id() || entry.device_id != device_id(device) {
            self.mismatch(format!("{} begins with {:?} on {:?}", what(), entry.title_id, entry.device_id));
        } else {
            self.mismatch(format!("{} ends at {position_ms:?} ms, not at {place:?}", what()));
        }
        Ok(())
    }
}
