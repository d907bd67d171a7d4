//! Tests of the whole domain, and the harness that plays the store for them.

mod bytes;
mod expiry;
mod handoff;
mod imports;
mod limits;
mod model;
mod real_history;
mod reference;
mod requests;
mod starting;
mod titles;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::ids::{AccountId, DeviceId, ProfileId, RequestId, TitleId, ViewId};
use crate::time::{LogicalMs, Stamp, WallMs};
use crate::versions::{ClusterVersion, Spoken};

/// 2023-06-21T00:00:00Z.
pub(super) const WALL: u64 = 1_687_305_600_000;
pub(super) const MINUTE: u64 = 60_000;

/// `logical` ms after the shard began.
pub(super) fn at(logical: u64) -> Stamp {
    Stamp { logical: LogicalMs(logical), wall: WallMs(WALL + logical) }
}

pub(super) fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

pub(super) fn profile(name: &str) -> ProfileId {
    ProfileId::new(name).unwrap()
}

pub(super) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

pub(super) fn title(name: &str) -> TitleId {
    TitleId::new(name).unwrap()
}

pub(super) fn view(name: &str) -> ViewId {
    ViewId::new(name).unwrap()
}

pub(super) fn request(name: &str) -> RequestId {
    RequestId::new(name).unwrap()
}

/// A film of 100 minutes.
pub(super) fn film(name: &str) -> Media {
    Media { title: title(name), title_type: TitleType::Film, duration_ms: Some(100 * MINUTE), credits_ms: None }
}

pub(super) fn start(view_id: &str, on: &str, media: Media) -> StartView {
    StartView {
        view: view(view_id),
        profile: profile("ann"),
        device: device(on),
        media,
        kind: ViewKind::Full,
        position_ms: None,
        on_limit: OnLimit::Reject,
    }
}

pub(super) fn report(view_id: &str, sequence: u64, position_ms: u64) -> AccountCommand {
    AccountCommand::ReportProgress(ReportProgress {
        view: view(view_id),
        sequence,
        position_ms: Some(position_ms),
        state: PlayState::Playing,
        played: Vec::new(),
        seeked: false,
    })
}

pub(super) fn stop(view_id: &str, position_ms: Option<u64>) -> AccountCommand {
    AccountCommand::StopView(StopView {
        view: view(view_id),
        sequence: None,
        position_ms,
        played: Vec::new(),
        failed: false,
        next: None,
    })
}

pub(super) fn page(items_max: u32) -> Page {
    Page { items_max, bytes_max: None, after: None }
}

/// A shard with a store: does what the replication layer has to do.
pub(super) struct Shard {
    pub(super) state: State,
    pub(super) store: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) images: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) header: Vec<u8>,
    frozen: Option<Arc<Frozen>>,
    pub(super) reads: usize,
}

impl Shard {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            state: State::new(settings),
            store: BTreeMap::new(),
            images: BTreeMap::new(),
            header: Vec::new(),
            frozen: None,
            reads: 0,
        }
    }

    /// Another shard with the same content, all of it stored: to ask without changing what is resident here.
    pub(super) fn copy(&self) -> Self {
        Self {
            state: self.state.clone(),
            store: self.store.clone(),
            images: self.images.clone(),
            header: self.header.clone(),
            frozen: self.frozen.clone(),
            reads: 0,
        }
    }

    pub(super) fn admit(&mut self, missing: Missing) {
        for key in missing.keys {
            let value = self.store.get(key.as_bytes()).cloned();
            self.reads += 1;
            assert!(self.state.admit(missing.fence, key, value.as_deref()), "nothing overtakes the harness");
        }
    }

    pub(super) fn apply(&mut self, stamp: Stamp, envelope: &Envelope) -> Applied {
        for _ in 0..6 {
            match self.state.missing(stamp, envelope).unwrap() {
                Some(missing) => self.admit(missing),
                None => return self.state.apply(stamp, envelope).unwrap(),
            }
        }
        panic!("a command needs rows for ever: {:.300}", format!("{envelope:?}"));
    }

    /// A command of account `a` without a request id.
    pub(super) fn run(&mut self, stamp: Stamp, command: AccountCommand) -> Answer {
        self.apply(stamp, &Envelope::plain(Command::Account(account("a"), command))).answer
    }

    pub(super) fn start(&mut self, stamp: Stamp, start: StartView) -> Started {
        match self.run(stamp, AccountCommand::StartView(start)) {
            Answer::Started(started) => *started,
            other => panic!("not started: {other:?}"),
        }
    }

    pub(super) fn progress(&mut self, stamp: Stamp, command: AccountCommand) -> Progressed {
        match self.run(stamp, command) {
            Answer::Progressed(progressed) => progressed,
            other => panic!("no progress: {other:?}"),
        }
    }

    pub(super) fn stop(&mut self, stamp: Stamp, view_id: &str, position_ms: u64) -> Stopped {
        match self.run(stamp, stop(view_id, Some(position_ms))) {
            Answer::Stopped(stopped) => *stopped,
            other => panic!("not stopped: {other:?}"),
        }
    }

    pub(super) fn reject(&mut self, stamp: Stamp, command: AccountCommand) -> Rejection {
        match self.run(stamp, command) {
            Answer::Rejected(rejection) => rejection,
            other => panic!("not rejected: {other:?}"),
        }
    }

    pub(super) fn tick(&mut self, stamp: Stamp) -> u32 {
        match self.apply(stamp, &Envelope::plain(Command::Tick)).answer {
            Answer::Ticked(ticked) => ticked.expired,
            other => panic!("no tick: {other:?}"),
        }
    }

    fn scan(&self, scan: &Scan) -> Scanned {
        let mut scanned = Scanned::default();
        let mut bytes = 0;
        for (key, value) in self.store.range(scan.from.clone()..scan.to.clone()) {
            if scanned.rows.len() == scan.limit || (bytes >= scan.bytes_enough && bytes > 0) {
                return scanned;
            }
            bytes += (key.len() + value.len()) as u64;
            scanned.rows.push((key.clone(), value.clone()));
        }
        Scanned { complete: true, ..scanned }
    }

    pub(super) fn ask(&mut self, now: Stamp, query: &Query) -> Reply {
        let mut lookup = self.state.query(query, now);
        for _ in 0..64 {
            match lookup {
                Lookup::Ready(reply) => return reply,
                Lookup::Stop(stop) => panic!("{stop}"),
                Lookup::Missing(missing) => {
                    self.admit(missing);
                    lookup = self.state.query(query, now);
                }
                Lookup::Scan(scan) => {
                    let scanned = self.scan(&scan);
                    lookup = match self.state.query_scanned(query, now, &scan, &scanned) {
                        Lookup::Missing(missing) => {
                            self.admit(missing);
                            self.state.query(query, now)
                        }
                        other => other,
                    };
                }
            }
        }
        panic!("a query needs more for ever: {query:?}");
    }

    pub(super) fn title(&mut self, now: Stamp, name: &str) -> TitleState {
        match self.ask(now, &Query::GetResumePoints(account("a"), profile("ann"), vec![title(name)])) {
            Reply::ResumePoints(mut states) => states.remove(0),
            other => panic!("no resume point: {other:?}"),
        }
    }

    pub(super) fn history(&mut self, now: Stamp) -> Vec<HistoryEntry> {
        match self.ask(now, &Query::ListHistory(account("a"), profile("ann"), HistoryFilter::default(), page(1000))) {
            Reply::History { entries, next: None } => entries,
            other => panic!("no history: {other:?}"),
        }
    }

    pub(super) fn row(&mut self, now: Stamp) -> Vec<ContinueItem> {
        match self.ask(now, &Query::ListContinueWatching(account("a"), profile("ann"), page(1000))) {
            Reply::ContinueWatching { items, next: None } => items,
            other => panic!("no row: {other:?}"),
        }
    }

    pub(super) fn active(&mut self, now: Stamp) -> Vec<ActiveView> {
        match self.ask(now, &Query::ListActiveViews(account("a"))) {
            Reply::ActiveViews(views) => views,
            other => panic!("no views: {other:?}"),
        }
    }

    pub(super) fn freeze(&mut self) {
        if let Some(frozen) = self.state.freeze() {
            self.frozen = Some(frozen);
        }
    }

    /// The frozen set reaches the store.
    pub(super) fn write(&mut self) {
        let Some(frozen) = &self.frozen else { return };
        for (key, value) in &frozen.rows {
            match value {
                Some(value) => self.store.insert(key.as_bytes().to_vec(), value.to_vec()),
                None => self.store.remove(key.as_bytes()),
            };
        }
        for (key, value) in &frozen.images {
            match value {
                Some(value) => self.images.insert(key.clone(), value.to_vec()),
                None => self.images.remove(key),
            };
        }
        self.header = frozen.header.clone();
    }

    pub(super) fn thaw(&mut self) {
        self.write();
        if self.frozen.take().is_some() {
            self.state.thawed();
        }
    }

    pub(super) fn checkpoint(&mut self) {
        self.thaw();
        self.freeze();
        self.thaw();
    }

    /// Starts again from the store, without losing anything.
    pub(super) fn restart(&mut self) {
        self.checkpoint();
        let (revision, digest, counts) = (self.state.revision(), self.state.digest(), self.state.counts());
        self.state = State::restore(&self.header, self.images.clone(), Spoken::BUILD.newest).unwrap();
        assert_eq!((self.state.revision(), self.state.digest(), self.state.counts()), (revision, digest, counts));
    }
}
