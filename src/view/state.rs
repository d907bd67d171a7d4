//! The state of one shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::live::Live;
use super::rows::Rows;
use super::txn::{Bail, Effects, Txn};
use super::{
    AccountCommand, Answer, Applied, Command, DecodeError, Directive, Envelope, Progressed, Query, Reply,
    ReportProgress, RowKey, Settings, Stretch, decide, read,
};
use crate::ids::{AccountId, Revision};
use crate::time::{LogicalMs, Stamp};
use crate::versions::{ClusterVersion, Feature, Spoken};

/// The most views that one tick expires.
pub const TICK_EXPIRIES_MAX: usize = 64;

/// The state of one shard. See the [module](super) for its contract.
#[derive(Clone, Debug)]
pub struct State {
    head: Head,
    live: Live,
    rows: Rows,
    /// The newest version that is spoken here. Not part of the state: what is above it isn't applied.
    known: ClusterVersion,
    /// Room for what is digested.
    scratch: Vec<u8>,
}

/// What of the state is neither a view nor a row.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Head {
    /// As the adopted version has it: 1, or with field 6 2.
    #[n(0)]
    version: u8,
    #[n(1)]
    logical: LogicalMs,
    #[n(2)]
    settings: Settings,
    #[n(3)]
    revision: Revision,
    #[n(4)]
    counts: Counts,
    #[n(5)]
    digest: u64,
    /// The version that the shard has adopted; `None`, and not written: the first.
    #[n(6)]
    adopted: Option<ClusterVersion>,
    /// Under which devices are told when to report next; `None`, and not written: as the settings say.
    #[n(7)]
    stretch: Option<Stretch>,
}

impl Head {
    fn adopted(&self) -> ClusterVersion {
        self.adopted.unwrap_or(ClusterVersion::FIRST)
    }

    fn adopt(&mut self, version: ClusterVersion) {
        self.version = version.formats().state_header;
        self.adopted = Some(version).filter(|version| version.has(Feature::ShardVersions));
    }

    /// Reads a header as a build does that speaks up to `known`. Of another version only that is looked at.
    fn read(bytes: &[u8], known: ClusterVersion) -> Result<Self, RestoreError> {
        let unreadable = |e: minicbor::decode::Error| RestoreError::Header(e.to_string());
        let mut decoder = minicbor::Decoder::new(bytes);
        decoder.array().map_err(unreadable)?;
        let (found, newest) = (decoder.u8().map_err(unreadable)?, known.formats().state_header);
        if !(1..=newest).contains(&found) {
            return Err(RestoreError::Version { found, known: newest });
        }
        let head: Self = minicbor::decode(bytes).map_err(unreadable)?;
        if head.adopted() > known {
            return Err(RestoreError::Rules { found: head.adopted(), known });
        }
        if found != head.adopted().formats().state_header {
            let adopted = head.adopted();
            return Err(RestoreError::Header(format!("version {found} doesn't go with adopted version {adopted}")));
        }
        Ok(head)
    }
}

/// A moment between two checkpoints. What was read from the store under one is worthless under another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence(pub(super) u64);

/// Rows that must be resident first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Hand this to [`State::admit`] with what the store said, read after this moment.
    pub fence: Fence,
    /// The rows, at least one.
    pub keys: Vec<RowKey>,
}

/// Why a replica must stop. Deterministic: every replica that applies the same log comes to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The caller's mistake: [`State::missing`] was not obeyed. Nothing was changed.
    #[error("{} rows are not resident, the first is {:?}", .0.keys.len(), .0.keys.first())]
    NotResident(Missing),
    /// A row holds what this build cannot read.
    #[error("row {key:?} cannot be read: {why}")]
    DamagedRow {
        /// The row.
        key: RowKey,
        /// What is wrong.
        why: String,
    },
    /// A newer build's command: the replica must be upgraded.
    #[error(transparent)]
    NotUnderstood(#[from] DecodeError),
}

/// What came of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The reply.
    Ready(Reply),
    /// Admit these rows and ask again.
    Missing(Missing),
    /// Scan the store and ask again with [`State::query_scanned`].
    Scan(Scan),
    /// A row cannot be read: the replica must stop.
    Stop(Stop),
}

/// A scan of the store: its rows of `from <= key < to`, at most `limit`, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The moment that it is for. The store must be read after it.
    pub fence: Fence,
    /// The first key.
    pub from: Vec<u8>,
    /// The key before which to stop.
    pub to: Vec<u8>,
    /// The most rows.
    pub limit: usize,
    /// How many bytes of rows are enough: then no more are read, however many are wanted. At least one row is.
    pub bytes_enough: u64,
}

/// What a scan has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// The rows, in order.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
    /// There are no more up to the end of the scan.
    pub complete: bool,
}

/// An image of active views under its key, 8 bytes; `None`: deleted.
pub type Image = (Vec<u8>, Option<Arc<[u8]>>);

/// What a checkpoint writes: one batch.
#[derive(Debug)]
pub struct Frozen {
    /// The state's part of the header: logical time, settings, revision, counts, digest.
    pub header: Vec<u8>,
    /// Changed rows; `None`: deleted.
    pub rows: BTreeMap<RowKey, Option<Arc<[u8]>>>,
    /// Changed images of active views.
    pub images: Vec<Image>,
}

/// Why stored bytes are no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The header cannot be read.
    #[error("the header cannot be read: {0}")]
    Header(String),
    /// The header was written by another build.
    #[error("the state's header has version {found}, this build knows up to {known}: the replica needs a newer build")]
    Version {
        /// Its version.
        found: u8,
        /// The newest that is known.
        known: u8,
    },
    /// The state came about by rules that this build doesn't have.
    #[error("the shard has adopted version {found}, this build speaks up to {known}: the replica needs a newer build")]
    Rules {
        /// The adopted version.
        found: ClusterVersion,
        /// The newest that is spoken.
        known: ClusterVersion,
    },
    /// An image cannot be read.
    #[error("image {key:02x?} cannot be read: {why}")]
    Image {
        /// Its key.
        key: Vec<u8>,
        /// What is wrong.
        why: String,
    },
}

/// How much there is in a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Counts {
    /// Views that run.
    #[n(0)]
    pub active_views: u64,
    /// Accounts of which anything is known.
    #[n(1)]
    pub accounts: u64,
    /// History entries.
    #[n(2)]
    pub entries: u64,
    /// Plays in them.
    #[n(3)]
    pub plays: u64,
}

impl State {
    /// An empty shard.
    pub fn new(settings: Settings) -> Self {
        let head = Head {
            version: ClusterVersion::FIRST.formats().state_header,
            logical: LogicalMs(0),
            settings,
            revision: Revision(0),
            counts: Counts::default(),
            digest: 0,
            adopted: None,
            stretch: None,
        };
        let known = Spoken::BUILD.newest;
        Self { head, live: Live::default(), rows: Rows::default(), known, scratch: Vec::new() }
    }

    /// The same, in a build that speaks versions up to `known`.
    pub fn knowing(self, known: ClusterVersion) -> Self {
        Self { known, ..self }
    }

    /// The version that a frozen shard with this header has adopted.
    pub fn version_in(header: &[u8], known: ClusterVersion) -> Result<ClusterVersion, RestoreError> {
        Head::read(header, known).map(|head| head.adopted())
    }

    /// A shard as it was frozen: the header, and all images that stand in the store, in any order. Rows are not needed. A build that
    /// speaks versions up to `known` restores no later one's.
    pub fn restore(
        header: &[u8],
        images: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        known: ClusterVersion,
    ) -> Result<Self, RestoreError> {
        let head = Head::read(header, known)?;
        let mut state = Self::new(head.settings.clone()).knowing(known);
        for (key, image) in images {
            state.live.restore(&key, &image).map_err(|why| RestoreError::Image { key, why })?;
        }
        state.live.check().map_err(|(key, why)| RestoreError::Image { key: key.to_be_bytes().to_vec(), why })?;
        if state.live.count() != head.counts.active_views {
            let (says, has) = (head.counts.active_views, state.live.count());
            return Err(RestoreError::Header(format!("it says {says} active views, the images hold {has}")));
        }
        state.head = head;
        Ok(state)
    }

    /// Rows that must be resident before `envelope` may be applied under `stamp`; `None`: none, apply it. Ask again after
    /// admitting: what a row says can make others needed. Cheap and `None` for progress of an active view.
    pub fn missing(&self, stamp: Stamp, envelope: &Envelope) -> Result<Option<Missing>, Stop> {
        envelope.understood_by(self.known)?;
        let stamp = self.stamp(stamp);
        if let Command::Account(account, AccountCommand::ReportProgress(report)) = &envelope.command
            && let Some(progress) = self.live.progress(account, &report.view)
            && !decide::wants_stream_back(&self.head.settings, stamp, &progress, report)
        {
            return Ok(None);
        }
        match decide::effects(self.txn(stamp), envelope) {
            Ok(_) => Ok(None),
            Err((Bail::Stop(stop), _)) => Err(stop),
            Err((Bail::Missing, keys)) => Ok(Some(Missing { fence: self.rows.fence(), keys })),
        }
    }

    /// Takes in what the store said of a row (`None`: it isn't there). `false`: the read was overtaken by a checkpoint and is
    /// ignored; ask what is missing again.
    pub fn admit(&mut self, fence: Fence, key: RowKey, value: Option<&[u8]>) -> bool {
        self.rows.admit(fence, key, value)
    }

    /// The moment to hand to [`Self::admit`] for rows read from now on without having been asked for.
    pub fn fence(&self) -> Fence {
        self.rows.fence()
    }

    /// Takes the place of `before`, as after a snapshot was installed: rows that were read for `before` are refused from now on.
    pub fn follow(&mut self, before: &Self) {
        self.rows.follow(&before.rows);
    }

    /// Applies a command. Pure: the result depends only on the state's content, the stamp and the command, never on what else
    /// is resident. A [`Stop`] changes nothing.
    pub fn apply(&mut self, stamp: Stamp, envelope: &Envelope) -> Result<Applied, Stop> {
        envelope.understood_by(self.known)?;
        let stamp = self.stamp(stamp);
        if let Command::Account(account, AccountCommand::ReportProgress(report)) = &envelope.command
            && let Some(answer) = self.report(stamp, account, report)
        {
            return Ok(self.applied(stamp, answer, Vec::new()));
        }
        match decide::effects(self.txn(stamp), envelope) {
            Ok((answer, effects)) => {
                let events = self.take(effects);
                Ok(self.applied(stamp, answer, events))
            }
            Err((Bail::Stop(stop), _)) => Err(stop),
            Err((Bail::Missing, keys)) => Err(Stop::NotResident(Missing { fence: self.rows.fence(), keys })),
        }
    }

    /// A report of an active view, written in place; `None` when it takes more than that.
    fn report(&mut self, stamp: Stamp, account: &AccountId, report: &ReportProgress) -> Option<Answer> {
        decide::check_report(report).ok()?;
        let (settings, stretch) = (&self.head.settings, self.head.stretch.unwrap_or_default());
        self.live.update(settings, account, &report.view, |progress| {
            if decide::wants_stream_back(settings, stamp, progress, report) {
                return None;
            }
            let applied = decide::report(settings, (stamp, stretch), progress, &report.into());
            Some(Answer::Progressed(decide::goes_on(settings, stamp, &report.view, progress, applied)))
        })
    }

    /// The moment of a command: the shard's time never goes back.
    fn stamp(&self, stamp: Stamp) -> Stamp {
        Stamp { logical: stamp.logical.max(self.head.logical), ..stamp }
    }

    pub(super) fn txn(&self, stamp: Stamp) -> Txn<'_> {
        let rules = (self.head.adopted(), self.stretch());
        Txn::new(&self.head.settings, rules, &self.live, &self.rows, self.stamp(stamp))
    }

    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Makes what was decided true.
    fn take(&mut self, effects: Effects) -> Vec<super::Event> {
        for ((account, view), change) in effects.views {
            match change {
                Some(view) => self.live.put(&self.head.settings, &view),
                None => self.live.remove(&account, &view),
            }
        }
        for (key, value) in effects.rows {
            self.rows.put(key, value);
        }
        let counts = &mut self.head.counts;
        counts.accounts += effects.accounts;
        counts.entries = counts.entries.saturating_add_signed(effects.entries);
        counts.plays = counts.plays.saturating_add_signed(effects.plays);
        if let Some(settings) = effects.settings {
            self.head.settings = settings;
            self.live.forget_due();
        }
        if let Some(version) = effects.version {
            self.head.adopt(version);
        }
        if let Some(stretch) = effects.stretch {
            self.head.stretch = Some(stretch).filter(|stretch| *stretch != Stretch::NONE);
        }
        effects.events
    }

    /// Counts and digests a command that is done.
    fn applied(&mut self, stamp: Stamp, answer: Answer, events: Vec<super::Event>) -> Applied {
        self.head.logical = stamp.logical;
        self.head.revision.0 += 1;
        self.head.counts.active_views = self.live.count();
        let moment = [self.head.revision.0, stamp.logical.0, stamp.wall.0];
        self.scratch.clear();
        self.scratch.extend(moment.into_iter().flat_map(u64::to_le_bytes));
        match &answer {
            // Nearly all answers: not worth an encoder.
            Answer::Progressed(Progressed { applied, interval_ms, expires_at, directive: Directive::Continue })
                if events.is_empty() =>
            {
                let told = [u64::from(*applied), *interval_ms, expires_at.0];
                self.scratch.extend(told.into_iter().flat_map(u64::to_le_bytes));
            }
            answer => minicbor::encode((answer, &events), &mut self.scratch).expect("writing to a Vec cannot fail"),
        }
        self.head.digest = xxh3_64_with_seed(&self.scratch, self.head.digest);
        Applied { revision: self.head.revision, answer, events }
    }

    /// Answers a query as of now. `now.logical` is the reader's best knowledge of the shard's time; what has passed in the
    /// state counts as passed.
    pub fn query(&self, query: &Query, now: Stamp) -> Lookup {
        read::query(self, query, self.stamp(now), None)
    }

    /// As [`Self::query`], with what the scan that it asked for found. A scan that was overtaken by a checkpoint, or is too
    /// short by now, gives another [`Lookup::Scan`].
    pub fn query_scanned(&self, query: &Query, now: Stamp, scan: &Scan, rows: &Scanned) -> Lookup {
        read::query(self, query, self.stamp(now), Some((scan, rows)))
    }

    /// When the next view is due. At or before `now`: propose a tick. After it: nothing is due until then, ask again then.
    pub fn next_due(&mut self, now: LogicalMs) -> Option<LogicalMs> {
        self.live.next_due(&self.head.settings, now.max(self.head.logical))
    }

    /// Swaps out what changed since the last freeze, for a checkpoint. `None` while another one is under way.
    pub fn freeze(&mut self) -> Option<Arc<Frozen>> {
        if self.rows.is_frozen() {
            return None;
        }
        let header = minicbor::to_vec(&self.head).expect("writing to a Vec cannot fail");
        let frozen = Arc::new(Frozen { header, rows: self.rows.take_dirty(), images: self.live.take_changed() });
        self.rows.freeze(frozen.clone());
        Some(frozen)
    }

    /// The frozen set is durable in the store.
    pub fn thawed(&mut self) {
        self.rows.thaw();
    }

    /// Forgets clean rows until at most `bytes` of them are resident. Never changes an answer. To be called between commands
    /// now and then: nothing else bounds them.
    pub fn evict(&mut self, bytes: usize) {
        self.rows.evict(bytes);
    }

    /// Bytes of rows that changed since the last freeze: when a checkpoint is worth it.
    pub fn dirty_bytes(&self) -> usize {
        self.rows.dirty_bytes()
    }

    /// How many commands the state has taken in.
    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    /// The shard's logical time: of the last command.
    pub fn logical(&self) -> LogicalMs {
        self.head.logical
    }

    /// The rules' figures.
    pub fn settings(&self) -> &Settings {
        &self.head.settings
    }

    /// By how much devices are told to report more seldom.
    pub fn stretch(&self) -> Stretch {
        self.head.stretch.unwrap_or_default()
    }

    /// The version that it works by.
    pub fn version(&self) -> ClusterVersion {
        self.head.adopted()
    }

    /// Whether its leader may propose `envelope` now: it is switched on here, and understood.
    pub fn permits(&self, envelope: &Envelope) -> bool {
        envelope.is_permitted_at(self.version()) && envelope.understood_by(self.known).is_ok()
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        self.head.counts
    }

    /// A running digest over all stamps, answers and events: equal at equal revision on every replica.
    pub fn digest(&self) -> u64 {
        self.head.digest
    }
}
