//! One command's view of the state: reads what is resident, collects what should change, changes nothing.
//!
//! A command is decided on a [`Txn`]. Where it meets a row that isn't resident it notes the key and bails, and all that was
//! collected is dropped: so what [`State::missing`](super::State::missing) says is by construction what
//! [`State::apply`](super::State::apply) reads. Rows and the facts about titles and history come from the difference
//! between what was read and what is there at the end, so that no handler can forget one.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::account::AccountRow;
use super::entry::EntryRow;
use super::live::Live;
use super::record::LiveView;
use super::rows::Rows;
use super::title::{Page, TitleRow};
use super::{Event, Fact, ResumePoint, RowKey, Settings, Stop, Stretch, TitleType, rules};
use crate::ids::{AccountId, DeviceId, ProfileId, TitleId, ViewId};
use crate::planted::{self, Bug};
use crate::time::{LogicalMs, Stamp, WallMs};
use crate::versions::ClusterVersion;

/// The version that each row's value begins with.
const ROW_VERSION: u8 = 1;

/// A profile's title.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TitleRef {
    pub(super) account: AccountId,
    pub(super) profile: ProfileId,
    pub(super) title: TitleId,
}

impl TitleRef {
    pub(super) fn of(view: &LiveView) -> Self {
        Self::new(&view.account, &view.profile, &view.media.title)
    }

    pub(super) fn new(account: &AccountId, profile: &ProfileId, title: &TitleId) -> Self {
        Self { account: account.clone(), profile: profile.clone(), title: title.clone() }
    }

    fn key(&self) -> RowKey {
        RowKey::title(&self.account, &self.profile, &self.title)
    }
}

/// Why a command cannot be decided now.
#[derive(Debug)]
pub(super) enum Bail {
    /// Rows are not resident; the transaction knows which.
    Missing,
    /// The replica must stop.
    Stop(Stop),
}

/// A row as it was read and as it is to be.
#[derive(Debug)]
struct Slot<T> {
    before: Option<T>,
    now: T,
}

/// What a command changes.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) rows: Vec<(RowKey, Option<Vec<u8>>)>,
    pub(super) views: Vec<((AccountId, ViewId), Option<LiveView>)>,
    pub(super) events: Vec<Event>,
    pub(super) settings: Option<Settings>,
    pub(super) version: Option<ClusterVersion>,
    pub(super) stretch: Option<Stretch>,
    pub(super) accounts: u64,
    pub(super) entries: i64,
    pub(super) plays: i64,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Txn<'a> {
    pub(super) settings: &'a Settings,
    pub(super) stamp: Stamp,
    /// What the shard has adopted: rules that came later ask it.
    pub(super) version: ClusterVersion,
    /// Under which devices are told when to report next.
    pub(super) stretch: Stretch,
    live: &'a Live,
    rows: &'a Rows,
    missing: Vec<RowKey>,
    accounts: BTreeMap<AccountId, Slot<AccountRow>>,
    titles: BTreeMap<TitleRef, Slot<TitleRow>>,
    pages: BTreeMap<(TitleRef, u32), Slot<Page>>,
    entries: BTreeMap<(TitleRef, DeviceId, WallMs), Slot<Option<EntryRow>>>,
    views: BTreeMap<(AccountId, ViewId), Option<LiveView>>,
    events: Vec<Event>,
    new_settings: Option<Settings>,
    new_version: Option<ClusterVersion>,
    new_stretch: Option<Stretch>,
}

/// A row's bytes.
pub(super) fn encode_row<T: Encode<()>>(row: &T) -> Vec<u8> {
    let mut bytes = vec![ROW_VERSION];
    minicbor::encode(row, &mut bytes).expect("writing to a Vec cannot fail");
    bytes
}

/// A row from its bytes.
pub(super) fn decode_row<'b, T: Decode<'b, ()>>(key: &RowKey, bytes: &'b [u8]) -> Result<T, Stop> {
    let damaged = |why: String| Stop::DamagedRow { key: key.clone(), why };
    match bytes.split_first() {
        Some((&ROW_VERSION, rest)) => minicbor::decode(rest).map_err(|e| damaged(e.to_string())),
        Some((version, _)) => Err(damaged(format!("its version is {version}, this build knows {ROW_VERSION}"))),
        None => Err(damaged("it is empty".to_string())),
    }
}

impl<'a> Txn<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        (version, stretch): (ClusterVersion, Stretch),
        live: &'a Live,
        rows: &'a Rows,
        stamp: Stamp,
    ) -> Self {
        Self {
            settings,
            stamp,
            version,
            stretch,
            live,
            rows,
            missing: Vec::new(),
            accounts: BTreeMap::new(),
            titles: BTreeMap::new(),
            pages: BTreeMap::new(),
            entries: BTreeMap::new(),
            views: BTreeMap::new(),
            events: Vec::new(),
            new_settings: None,
            new_version: None,
            new_stretch: None,
        }
    }

    /// The same moment, with nothing collected.
    pub(super) fn fresh(&self) -> Self {
        Self::new(self.settings, (self.version, self.stretch), self.live, self.rows, self.stamp)
    }

    /// The rows that were asked for in vain.
    pub(super) fn into_missing(mut self) -> Vec<RowKey> {
        self.missing.sort();
        self.missing.dedup();
        self.missing
    }

    /// How much was asked for in vain so far.
    pub(super) fn mark(&self) -> usize {
        self.missing.len()
    }

    /// Bails if anything was asked for in vain since `mark`: so that many rows are asked for at once.
    pub(super) fn settle(&self, mark: usize) -> Result<(), Bail> {
        if self.missing.len() == mark { Ok(()) } else { Err(Bail::Missing) }
    }

    /// Goes on after a missing row, to ask for more rows at once; [`Self::settle`] has to follow.
    pub(super) fn go_on<T>(asked: Result<T, Bail>) -> Result<(), Bail> {
        match asked {
            Ok(_) | Err(Bail::Missing) => Ok(()),
            Err(stop) => Err(stop),
        }
    }

    fn load<T: for<'b> Decode<'b, ()>>(&mut self, key: RowKey) -> Result<Option<T>, Bail> {
        match self.rows.get(&key) {
            Some(Some(bytes)) => decode_row(&key, bytes).map(Some).map_err(Bail::Stop),
            Some(None) => Ok(None),
            None => {
                self.missing.push(key);
                Err(Bail::Missing)
            }
        }
    }

    /// An account's row; an empty one where there is none.
    pub(super) fn account(&mut self, account: &AccountId) -> Result<&mut AccountRow, Bail> {
        if !self.accounts.contains_key(account) {
            let before: Option<AccountRow> = self.load(RowKey::account(account))?;
            let now = before.clone().unwrap_or_default();
            self.accounts.insert(account.clone(), Slot { before, now });
        }
        Ok(&mut self.accounts.get_mut(account).expect("just put in").now)
    }

    /// Whether the account has a row.
    pub(super) fn knows(&mut self, account: &AccountId) -> Result<bool, Bail> {
        self.account(account)?;
        Ok(self.accounts.get(account).is_some_and(|slot| slot.before.is_some()))
    }

    /// A title's row; an empty one where there is none.
    pub(super) fn title(&mut self, at: &TitleRef) -> Result<&mut TitleRow, Bail> {
        if !self.titles.contains_key(at) {
            let before: Option<TitleRow> = self.load(at.key())?;
            let now = before.clone().unwrap_or_default();
            self.titles.insert(at.clone(), Slot { before, now });
        }
        Ok(&mut self.titles.get_mut(at).expect("just put in").now)
    }

    /// A page of a title's directory.
    pub(super) fn page(&mut self, at: &TitleRef, page: u32) -> Result<&mut Page, Bail> {
        let id = (at.clone(), page);
        if !self.pages.contains_key(&id) {
            let before: Option<Page> = self.load(RowKey::title_page(&at.account, &at.profile, &at.title, page))?;
            let now = before.clone().unwrap_or_default();
            self.pages.insert(id.clone(), Slot { before, now });
        }
        Ok(&mut self.pages.get_mut(&id).expect("just put in").now)
    }

    /// Puts in a page that is new.
    pub(super) fn new_page(&mut self, at: &TitleRef, page: u32, content: Page) {
        self.pages.insert((at.clone(), page), Slot { before: None, now: content });
    }

    /// A history entry that the directory knows.
    pub(super) fn entry(&mut self, at: &TitleRef, device: &DeviceId, start: WallMs) -> Result<&EntryRow, Bail> {
        let id = (at.clone(), device.clone(), start);
        let key = || RowKey::entry(&at.account, &at.profile, start, &at.title, device);
        if !self.entries.contains_key(&id) {
            let before: Option<EntryRow> = self.load(key())?;
            self.entries.insert(id.clone(), Slot { before: Some(before.clone()), now: before });
        }
        let entry = self.entries.get(&id).and_then(|slot| slot.now.as_ref());
        entry.ok_or_else(|| Bail::Stop(Stop::DamagedRow { key: key(), why: "the directory knows it".to_string() }))
    }

    /// Changes a history entry: one that was read, or a new one.
    pub(super) fn put_entry(&mut self, at: &TitleRef, device: &DeviceId, start: WallMs, entry: Option<EntryRow>) {
        let slot = self.entries.entry((at.clone(), device.clone(), start));
        slot.or_insert(Slot { before: None, now: None }).now = entry;
    }

    /// An active view.
    pub(super) fn view(&self, account: &AccountId, view: &ViewId) -> Option<LiveView> {
        match self.views.get(&(account.clone(), view.clone())) {
            Some(changed) => changed.clone(),
            None => self.live.get(account, view),
        }
    }

    /// All active views of an account, the oldest first.
    pub(super) fn views(&self, account: &AccountId) -> Vec<LiveView> {
        let mut views = self.live.of_account(account);
        views.retain(|v| !self.views.contains_key(&(v.account.clone(), v.view.clone())));
        let changed = self.views.iter().filter(|((a, _), _)| a == account).filter_map(|(_, view)| view.clone());
        views.extend(changed);
        views.sort_by(|a, b| (a.progress.started.logical, &a.view).cmp(&(b.progress.started.logical, &b.view)));
        views
    }

    /// Views that are due, at most `max`.
    pub(super) fn due(&self, max: usize) -> Vec<LiveView> {
        let now = self.stamp.logical;
        let off_ms = if planted::is(Bug::ExpiryByLocalClock) { planted::off_ms() } else { 0 };
        self.live.due(self.settings, LogicalMs(now.0.saturating_add_signed(off_ms)), max)
    }

    /// Puts a view in, or in place of the one with its id.
    pub(super) fn put_view(&mut self, view: LiveView) {
        self.views.insert((view.account.clone(), view.view.clone()), Some(view));
    }

    /// Takes a view out.
    pub(super) fn remove_view(&mut self, view: &LiveView) {
        self.views.insert((view.account.clone(), view.view.clone()), None);
    }

    /// The settings from the next command on.
    pub(super) fn put_settings(&mut self, settings: Settings) {
        self.events.push(Event { account: None, fact: Fact::SettingsChanged(settings.clone()) });
        self.new_settings = Some(settings);
    }

    /// The shard works by `version` from now on, unless it works by a newer one; the one that it works by.
    pub(super) fn adopt(&mut self, version: ClusterVersion) -> ClusterVersion {
        if version > self.version {
            self.new_version = Some(version);
        }
        version.max(self.version)
    }

    /// Devices are told to report so much more seldom from now on.
    pub(super) fn put_stretch(&mut self, stretch: Stretch) {
        self.new_stretch = Some(stretch);
    }

    /// Notes a fact.
    pub(super) fn tell(&mut self, account: &AccountId, fact: Fact) {
        self.events.push(Event { account: Some(account.clone()), fact });
    }

    /// What is known of a title if its active views end at their last reports.
    pub(super) fn title_as_if_ended(&mut self, at: &TitleRef) -> Result<TitleRow, Bail> {
        let mut row = self.title(at)?.clone();
        let mut views = self.views(&at.account);
        views.retain(|v| v.profile == at.profile && v.media.title == at.title);
        views.sort_by(|a, b| (a.progress.reported.logical, &a.view).cmp(&(b.progress.reported.logical, &b.view)));
        for view in &views {
            rules::conclude(self.settings, &mut row, view, self.stamp.logical);
        }
        Ok(row)
    }

    /// What all of it comes to.
    pub(super) fn finish(mut self) -> Effects {
        let mut effects = Effects { events: std::mem::take(&mut self.events), ..Effects::default() };
        self.finish_titles(&mut effects);
        self.finish_entries(&mut effects);
        for ((at, id), slot) in &self.pages {
            let now = Some(&slot.now).filter(|p| !p.spans.is_empty());
            if now != slot.before.as_ref() {
                let key = RowKey::title_page(&at.account, &at.profile, &at.title, *id);
                effects.rows.push((key, now.map(encode_row)));
            }
        }
        for (account, slot) in &self.accounts {
            if Some(&slot.now) != slot.before.as_ref() && (slot.before.is_some() || slot.now != AccountRow::default()) {
                effects.accounts += u64::from(slot.before.is_none());
                effects.rows.push((RowKey::account(account), Some(encode_row(&slot.now))));
                let policy = |row: &AccountRow| row.policy;
                if let Some(policy) = slot.now.policy.filter(|p| slot.before.as_ref().and_then(policy) != Some(*p)) {
                    effects.events.push(Event { account: Some(account.clone()), fact: Fact::PolicyChanged(policy) });
                }
            }
        }
        effects.views = self.views.into_iter().collect();
        effects.settings = self.new_settings;
        effects.version = self.new_version;
        effects.stretch = self.new_stretch;
        effects
    }

    fn finish_titles(&mut self, effects: &mut Effects) {
        for (at, slot) in std::mem::take(&mut self.titles) {
            if Some(&slot.now) == slot.before.as_ref() || (slot.before.is_none() && slot.now == TitleRow::default()) {
                continue;
            }
            let is_new = slot.before.is_none();
            let before = slot.before.unwrap_or_default();
            effects.rows.push((at.key(), Some(encode_row(&slot.now))));
            if is_new {
                self.profile_counts(&at, 1, 0, 0);
            }
            let mut tell = |fact| effects.events.push(Event { account: Some(at.account.clone()), fact });
            if slot.now.play_count > before.play_count {
                let (profile, title) = (at.profile.clone(), at.title.clone());
                tell(Fact::Watched { profile, title, play_count: slot.now.play_count });
            }
            let visible = |r: &TitleRow| (r.last.clone(), r.alternate.clone(), r.watched_at, r.play_count);
            if visible(&before) != visible(&slot.now) {
                let state = slot.now.show(&at.title, self.stamp.logical);
                tell(Fact::ResumePointMoved { profile: at.profile.clone(), state });
            }
            let (old, new) = (continue_row(&before), continue_row(&slot.now));
            if old != new {
                let key = |row: &ContinueRow| RowKey::continue_row(&at.account, &at.profile, row.resume.at, &at.title);
                effects.rows.extend(old.map(|row| (key(&row), None)));
                effects.rows.extend(new.map(|row| (key(&row), Some(encode_row(&row)))));
            }
        }
    }

    fn finish_entries(&mut self, effects: &mut Effects) {
        for ((at, device, start), slot) in std::mem::take(&mut self.entries) {
            let before = slot.before.flatten();
            if before == slot.now {
                continue;
            }
            let plays = |e: &Option<EntryRow>| e.as_ref().map_or(0, |e| e.plays.len() as i64);
            let entries = i64::from(slot.now.is_some()) - i64::from(before.is_some());
            let plays = plays(&slot.now) - plays(&before);
            self.profile_counts(&at, 0, entries, plays);
            effects.entries += entries;
            effects.plays += plays;
            let key = RowKey::entry(&at.account, &at.profile, start, &at.title, &device);
            effects.rows.push((key, slot.now.as_ref().map(encode_row)));
            let (profile, title) = (at.profile.clone(), at.title.clone());
            let fact = match slot.now {
                Some(entry) => Fact::EntryPut { profile, entry: entry.show(title, device, start) },
                None => Fact::EntryRemoved { profile, title, device, start },
            };
            effects.events.push(Event { account: Some(at.account), fact });
        }
    }

    fn profile_counts(&mut self, at: &TitleRef, titles: u64, entries: i64, plays: i64) {
        let row = self.accounts.get_mut(&at.account).map(|slot| &mut slot.now);
        debug_assert!(row.is_some(), "whoever changes a title has read its account");
        if let Some(profile) = row.and_then(|row| row.profile(&at.profile)) {
            profile.titles += titles;
            profile.entries = profile.entries.saturating_add_signed(entries);
            profile.plays = profile.plays.saturating_add_signed(plays);
        }
    }
}

/// An item of the continue-watching row. Profile, title and activity stand in its key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct ContinueRow {
    #[n(0)]
    pub(super) title_type: TitleType,
    #[n(1)]
    pub(super) resume: ResumePoint,
}

/// A title's item in the continue-watching row, if it has one.
pub(super) fn continue_row(row: &TitleRow) -> Option<ContinueRow> {
    row.resume().map(|resume| ContinueRow { title_type: row.title_type(), resume })
}
