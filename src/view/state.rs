//! The state of one shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Applied, Envelope, Query, Reply, RowKey, Settings};
use crate::ids::Revision;
use crate::time::{LogicalMs, Stamp};

/// The most views that one tick expires.
pub const TICK_EXPIRIES_MAX: usize = 64;

/// The state of one shard. See the [module](super) for its contract.
#[derive(Debug, Default)]
pub struct State {
    _later: (),
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
    /// The most rows. Fewer rows say that there are no more.
    pub limit: usize,
}

/// What a checkpoint writes: one batch.
#[derive(Debug)]
pub struct Frozen {
    /// The state's part of the header: logical time, settings, revision, counts, digest.
    pub header: Vec<u8>,
    /// Changed rows; `None`: deleted.
    pub rows: BTreeMap<RowKey, Option<Arc<[u8]>>>,
    /// Changed images of active views by their key, 8 bytes; `None`: deleted.
    pub images: Vec<(Vec<u8>, Option<Arc<[u8]>>)>,
}

/// Why stored bytes are no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The header cannot be read.
    #[error("the header cannot be read: {0}")]
    Header(String),
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
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
    pub fn new(_settings: Settings) -> Self {
        todo!()
    }

    /// A shard as it was frozen: the header, and all images that stand in the store, in any order. Rows are not needed.
    pub fn restore(
        _header: &[u8],
        _images: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, RestoreError> {
        todo!()
    }

    /// Rows that must be resident before `envelope` may be applied under `stamp`; `None`: none, apply it. Ask again after
    /// admitting: what a row says can make others needed. Cheap and `None` for progress of an active view.
    pub fn missing(&self, _stamp: Stamp, _envelope: &Envelope) -> Result<Option<Missing>, Stop> {
        todo!()
    }

    /// Takes in what the store said of a row (`None`: it isn't there). `false`: the read was overtaken by a checkpoint and is
    /// ignored; ask what is missing again.
    pub fn admit(&mut self, _fence: Fence, _key: RowKey, _value: Option<&[u8]>) -> bool {
        todo!()
    }

    /// The moment to hand to [`Self::admit`] for rows read from now on without having been asked for.
    pub fn fence(&self) -> Fence {
        todo!()
    }

    /// Applies a command. Pure: the result depends only on the state's content, the stamp and the command, never on what else
    /// is resident. A [`Stop`] changes nothing.
    pub fn apply(&mut self, _stamp: Stamp, _envelope: &Envelope) -> Result<Applied, Stop> {
        todo!()
    }

    /// Answers a query as of now. `now.logical` is the reader's best knowledge of the shard's time; what has passed in the
    /// state counts as passed.
    pub fn query(&self, _query: &Query, _now: Stamp) -> Lookup {
        todo!()
    }

    /// As [`Self::query`], with what the scan that it asked for found. A scan that was overtaken by a checkpoint, or is too
    /// short by now, gives another [`Lookup::Scan`].
    pub fn query_scanned(&self, _query: &Query, _now: Stamp, _scan: &Scan, _rows: &[(Vec<u8>, Vec<u8>)]) -> Lookup {
        todo!()
    }

    /// When the next view is due. At or before `now`: propose a tick. After it: nothing is due until then, ask again then.
    pub fn next_due(&mut self, _now: LogicalMs) -> Option<LogicalMs> {
        todo!()
    }

    /// Swaps out what changed since the last freeze, for a checkpoint. `None` while another one is under way.
    pub fn freeze(&mut self) -> Option<Arc<Frozen>> {
        todo!()
    }

    /// The frozen set is durable in the store.
    pub fn thawed(&mut self) {
        todo!()
    }

    /// Forgets clean rows until at most `bytes` of them are resident. Never changes an answer.
    pub fn evict(&mut self, _bytes: usize) {
        todo!()
    }

    /// Bytes of rows that changed since the last freeze: when a checkpoint is worth it.
    pub fn dirty_bytes(&self) -> usize {
        todo!()
    }

    /// How many commands the state has taken in.
    pub fn revision(&self) -> Revision {
        todo!()
    }

    /// The shard's logical time: of the last command.
    pub fn logical(&self) -> LogicalMs {
        todo!()
    }

    /// The rules' figures.
    pub fn settings(&self) -> &Settings {
        todo!()
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        todo!()
    }

    /// A running digest over all stamps, answers and events: equal at equal revision on every replica.
    pub fn digest(&self) -> u64 {
        todo!()
    }
}
