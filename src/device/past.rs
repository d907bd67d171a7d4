//! The whole history of a household, compared with its ledger.

use std::collections::BTreeSet;

use super::household::{DEVICES, Household, device_id, profile_id};
use super::ledger::{PLAYS_MAX, Play, Profile};
use crate::client::{Client, Error};
use crate::proto::v1;

/// Entries on a page: few, so that there is more than one.
const PAGE: i32 = 20;
/// The most pages of one profile.
const PAGES_MAX: usize = 1_000;

/// When an entry or a play began, and the number of the view that began it.
type Began = (Option<(i64, i32)>, Option<u64>);

fn time(at: Option<&prost_types::Timestamp>) -> Option<(i64, i32)> {
    at.map(|at| (at.seconds, at.nanos))
}

/// Whether the first began before the second by the cluster's word, though its view started after it. Of equal times nothing
/// can be said.
fn is_turned_round(first: &Began, second: &Began) -> bool {
    first.0.is_some()
        && second.0.is_some()
        && first.0 < second.0
        && matches!((first.1, second.1), (Some(a), Some(b)) if a > b)
}

impl Household {
    /// Compares every page: each view that has ended is there once, with its title, device, position and watched time; nothing
    /// is there that was not played; and the order is that of the starts. Returns how many reads it took, and the facts.
    pub(super) async fn check_whole_history(&self, client: &Client) -> Result<(u64, u64), Error> {
        let (mut reads, mut facts) = (0, 0);
        for profile in 0..DEVICES {
            let is_of = |play: &Play| play.profile == profile;
            let unsure = self.ledger.unsure.values().any(|unsure| unsure.running.profile == profile);
            if !self.ledger.plays.values().any(is_of) && !unsure {
                continue;
            }
            let (read, compared) = self.check_history_of(client, profile).await?;
            (reads, facts) = (reads + read, facts + compared);
        }
        Ok((reads, facts))
    }

    async fn check_history_of(&self, client: &Client, profile: Profile) -> Result<(u64, u64), Error> {
        let (mut found, mut last): (BTreeSet<u64>, Option<Began>) = (BTreeSet::new(), None);
        let mut request = v1::ListHistoryRequest {
            account_id: self.account.clone(),
            profile_id: profile_id(profile),
            page_size: PAGE,
            include_plays: true,
            ..Default::default()
        };
        let mut reads = 0;
        while reads < PAGES_MAX as u64 {
            let page = client.list_history(request.clone()).await?;
            reads += 1;
            self.was_served(page.read_info.as_ref());
            for entry in &page.entries {
                self.check_entry(profile, entry, &mut found, &mut last);
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let expected = self.ledger.plays.iter().filter(|(_, play)| play.profile == profile);
        let missing: Vec<u64> = expected.map(|(number, _)| *number).filter(|number| !found.contains(number)).collect();
        let facts = found.len() + missing.len();
        self.around.stats.compared(facts);
        for number in missing {
            self.mismatch(format!("view {number} of {} is not in the history", profile_id(profile)));
        }
        Ok((reads, facts as u64))
    }

    fn are_turned_round(&self, first: &Began, second: &Began) -> bool {
        !self.around.plan.calendars_jump && is_turned_round(first, second)
    }

    fn check_entry(
        &self,
        profile: Profile,
        entry: &v1::HistoryEntry,
        found: &mut BTreeSet<u64>,
        last: &mut Option<Began>,
    ) {
        // A further play of a view begins later than the view, and one that was let in began by another clock.
        let in_order = |number: &u64| !self.ledger.was_accepted(*number);
        let began =
            |at: Option<&prost_types::Timestamp>, view_id: &str| (time(at), self.number_of(view_id).filter(in_order));
        let mut before: Option<Began> = None;
        for play in &entry.plays {
            let number = self.number_of(&play.view_id);
            match number {
                Some(number) if !found.insert(number) => {
                    if self.ledger.was_accepted(number) {
                        continue;
                    }
                    self.mismatch(format!("{} is in the history twice", play.view_id));
                }
                _ => self.check_play(profile, entry, play, number),
            }
            let this = began(play.start_time.as_ref(), &play.view_id);
            // Plays stand in the order of their starts.
            if before.is_some_and(|before| self.are_turned_round(&before, &this) || this.0 < before.0) {
                self.mismatch(format!("{} stands behind a play that began later", play.view_id));
            }
            before = Some(this);
        }
        let first = entry.plays.first().map_or("", |play| play.view_id.as_str());
        let this = began(entry.start_time.as_ref(), first);
        // Entries stand the latest first.
        if last.is_some_and(|last| self.are_turned_round(&this, &last) || this.0 > last.0) {
            self.mismatch(format!("the entry of {first} stands behind one that began before it"));
        }
        *last = Some(this);
        if entry.plays.len() != entry.play_count as usize || entry.plays.is_empty() {
            self.mismatch(format!(
                "the entry of {first} says {} plays, and has {}",
                entry.play_count,
                entry.plays.len()
            ));
        }
    }

    fn check_play(&self, profile: Profile, entry: &v1::HistoryEntry, play: &v1::Play, number: Option<u64>) {
        let Some(number) = number else {
            return self.mismatch(format!("the history has {:?}, which nobody has started", play.view_id));
        };
        if number > PLAYS_MAX {
            return;
        }
        let Some(known) = self.ledger.plays.get(&number) else {
            let running = self.ledger.running.get(&play.view_id);
            if running.is_some_and(|running| self.surely_runs(running)) {
                self.mismatch(format!("{} runs, and is in the history", play.view_id));
            } else if running.is_none() && !self.ledger.unsure.contains_key(&number) {
                self.mismatch(format!("the history has {}, whose start was not acknowledged", play.view_id));
            }
            return;
        };
        let what = (known.title.id(), device_id(known.device), known.profile);
        let told = (entry.title_id.clone(), entry.device_id.clone(), profile);
        let ms = |ms: i64| u64::try_from(ms).unwrap_or(u64::MAX);
        let position_ms = play.position_ms.map(ms);
        if what != told {
            self.mismatch(format!("{} was {what:?}, and is {told:?} in the history", play.view_id));
        } else if known.position_ms.is_some() && position_ms != known.position_ms {
            let known = known.position_ms;
            self.mismatch(format!("{} ended at {position_ms:?} ms by the history, not at {known:?}", play.view_id));
        } else if !known.watched_ms.contains(&ms(play.watched_ms)) {
            let (told, known) = (play.watched_ms, &known.watched_ms);
            self.mismatch(format!("{} was watched for {told} ms by the history, not {known:?}", play.view_id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_against_that_of_the_starts_is_seen_and_equal_times_say_nothing() {
        let at = |ms: i32, number: u64| -> Began { (Some((1, ms)), Some(number)) };
        assert!(is_turned_round(&at(1, 7), &at(2, 6)));
        assert!(!is_turned_round(&at(1, 6), &at(2, 7)) && !is_turned_round(&at(1, 7), &at(1, 6)));
        assert!(!is_turned_round(&(None, Some(7)), &at(2, 6)));
    }
}
