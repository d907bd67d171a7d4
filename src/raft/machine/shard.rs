//! The machine of a shard: [`crate::view::State`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Changes, Machine, Missing, Stop, Tried};
use crate::ids::Revision;
use crate::raft::known::KnownVersion;
use crate::raft::load::Priority;
use crate::raft::room::Growth;
use crate::ring::Token;
use crate::store::Pair;
use crate::time::{LogicalMs, Stamp};
use crate::versions::{ClusterVersion, Spoken};
use crate::view::{self, AccountCommand, Applied, Command, Envelope, Fence, Frozen, RowKey, Settings, State};

/// About how many bytes of clean rows a shard keeps in memory when nobody says otherwise.
const CLEAN_ROWS_BYTES_MAX: usize = 8 << 20;

/// About how many bytes of clean rows each shard of a node keeps in memory: the node's own share over its shards.
#[derive(Debug)]
pub struct RowsShare(AtomicUsize);

impl Default for RowsShare {
    fn default() -> Self {
        Self(AtomicUsize::new(CLEAN_ROWS_BYTES_MAX))
    }
}

impl RowsShare {
    /// So many bytes for each shard from now on.
    pub fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A shard's state as a replicated machine.
#[derive(Debug)]
pub struct ShardMachine {
    state: State,
    settings: Settings,
    rows: Arc<RowsShare>,
    /// The newest version that this node speaks.
    spoken: ClusterVersion,
    /// What this node's folder says of the cluster's version.
    known: Arc<KnownVersion>,
}

impl ShardMachine {
    /// An empty shard under these settings.
    pub fn new(settings: Settings) -> Self {
        let newest = Spoken::BUILD.newest;
        Self::sharing(settings, Arc::default(), newest, Arc::new(KnownVersion::new(newest)))
    }

    /// As [`ShardMachine::new`], with a share of the node's memory for rows, on a node that speaks versions up to `spoken` and whose
    /// folder is told of those that its shards have adopted: no state of a version is written down before the folder says it.
    pub fn sharing(settings: Settings, rows: Arc<RowsShare>, spoken: ClusterVersion, known: Arc<KnownVersion>) -> Self {
        Self { state: State::new(settings.clone()).knowing(spoken), settings, rows, spoken, known }
    }

    /// The state, to be asked.
    pub fn state(&self) -> &State {
        &self.state
    }
}

fn missing(missing: crate::view::Missing) -> Missing<Fence> {
    Missing { fence: missing.fence, keys: missing.keys.iter().map(|key| key.as_bytes().to_vec()).collect() }
}

impl Machine for ShardMachine {
    type Command = Envelope;
    type Answer = Applied;
    type Fence = Fence;
    type Frozen = Arc<Frozen>;

    fn encode(command: &Envelope, out: &mut Vec<u8>) {
        command.encode_to(out);
    }

    fn decode(bytes: &[u8]) -> Result<Envelope, Stop> {
        Envelope::from_bytes(bytes).map_err(|e| Stop(e.to_string()))
    }

    fn missing(&self, stamp: Stamp, command: &Envelope) -> Result<Option<Missing<Fence>>, Stop> {
        match self.state.missing(stamp, command) {
            Ok(rows) => Ok(rows.map(missing)),
            Err(e) => Err(Stop(e.to_string())),
        }
    }

    fn looks_ahead(command: &Envelope) -> bool {
        // A report of an active view, as nearly all are, needs no row, and to see that takes half as long as to apply it.
        !matches!(&command.command, Command::Account(_, AccountCommand::ReportProgress(_)))
    }

    fn admit(&mut self, fence: Fence, key: &[u8], value: Option<&[u8]>) -> bool {
        self.state.admit(fence, RowKey::from_bytes(key), value)
    }

    fn apply(&mut self, stamp: Stamp, command: &Envelope) -> Result<Applied, Stop> {
        match self.try_apply(stamp, command)? {
            Ok(applied) => Ok(applied),
            Err(missing) => Err(Stop(format!("{} rows are not resident", missing.keys.len()))),
        }
    }

    fn try_apply(&mut self, stamp: Stamp, command: &Envelope) -> Result<Tried<Self>, Stop> {
        match self.state.apply(stamp, command) {
            Ok(applied) => {
                if matches!(command.command, Command::Adopt(_)) {
                    self.known.hear(self.state.version());
                }
                Ok(Ok(applied))
            }
            Err(view::Stop::NotResident(rows)) => Ok(Err(missing(rows))),
            Err(e) => Err(Stop(e.to_string())),
        }
    }

    fn growth(command: &Envelope) -> Growth {
        match &command.command {
            Command::Tick | Command::UpdateSettings(_) | Command::Adopt(_) | Command::Stretch(_) => Growth::None,
            Command::Account(_, command) => match command {
                AccountCommand::StopView(_) | AccountCommand::EndView(_) => Growth::None,
                AccountCommand::ReportProgress(_) | AccountCommand::HandOff(_) => Growth::Little,
                AccountCommand::StartView(_)
                | AccountCommand::ImportHistory(_)
                | AccountCommand::UpdateStreamPolicy(_) => Growth::Much,
            },
        }
    }

    fn priority(command: &Envelope) -> Priority {
        match &command.command {
            Command::Tick | Command::UpdateSettings(_) | Command::Adopt(_) | Command::Stretch(_) => Priority::Own,
            Command::Account(_, command) => match command {
                AccountCommand::StartView(_)
                | AccountCommand::StopView(_)
                | AccountCommand::EndView(_)
                | AccountCommand::UpdateStreamPolicy(_) => Priority::Prompt,
                AccountCommand::ReportProgress(_) | AccountCommand::HandOff(_) => Priority::Report,
                AccountCommand::ImportHistory(_) => Priority::Bulk,
            },
        }
    }

    fn account(command: &Envelope) -> Option<u64> {
        command.account().map(|account| Token::of(account).0)
    }

    fn is_gated(command: &Envelope) -> bool {
        !command.is_permitted_at(ClusterVersion::FIRST) || matches!(command.command, Command::Adopt(_))
    }

    fn permits(&self, command: &Envelope) -> bool {
        self.state.permits(command)
    }

    fn logical(&self) -> LogicalMs {
        self.state.logical()
    }

    fn revision(&self) -> Revision {
        self.state.revision()
    }

    fn digest(&self) -> Option<u64> {
        Some(self.state.digest())
    }

    fn next_due(&mut self, now: LogicalMs) -> Option<LogicalMs> {
        self.state.next_due(now)
    }

    fn has_age(command: &Envelope) -> bool {
        command.first_sent.is_some()
    }

    fn date(command: &mut Envelope, now: impl FnOnce() -> LogicalMs) {
        if let Some(first_sent) = command.first_sent {
            command.first_sent = Some(first_sent.dated(now()));
        }
    }

    fn tick() -> Option<Envelope> {
        Some(Envelope::plain(Command::Tick))
    }

    fn freeze(&mut self) -> Option<Arc<Frozen>> {
        self.state.freeze()
    }

    fn changes(frozen: &Arc<Frozen>) -> Changes {
        let bytes = |value: &Option<Arc<[u8]>>| value.as_ref().map(|value| value.to_vec());
        Changes {
            header: frozen.header.clone(),
            images: frozen.images.iter().map(|(key, value)| (key.clone(), bytes(value))).collect(),
            rows: frozen.rows.iter().map(|(key, value)| (key.as_bytes().to_vec(), bytes(value))).collect(),
        }
    }

    fn may_be_written(&self) -> bool {
        self.state.version() <= self.known.kept()
    }

    fn may_be_installed(&self, header: &[u8]) -> Result<bool, Stop> {
        let version = State::version_in(header, self.spoken).map_err(|e| Stop(e.to_string()))?;
        self.known.hear(version);
        Ok(version <= self.known.kept())
    }

    fn thawed(&mut self) {
        self.state.thawed();
    }

    fn dirty_bytes(&self) -> usize {
        self.state.dirty_bytes()
    }

    fn trim(&mut self) {
        self.state.evict(self.rows.bytes());
    }

    fn empty(&self) -> Self {
        let (rows, known) = (Arc::clone(&self.rows), Arc::clone(&self.known));
        Self::sharing(self.settings.clone(), rows, self.spoken, known)
    }

    fn follow(&mut self, before: &Self) {
        self.state.follow(&before.state);
    }

    fn restore(&self, header: &[u8], images: Vec<Pair>) -> Result<Self, Stop> {
        let state = State::restore(header, images, self.spoken).map_err(|e| Stop(e.to_string()))?;
        self.known.hear(state.version());
        Ok(Self { state, ..self.empty() })
    }
}
