//! openraft's log, in the node's write-ahead log.
//!
//! Entries are readable when `append` returns and openraft is told when they are durable; a vote is durable before
//! `save_vote` returns (invariant raft/1). Order among appends, truncations, purges and votes of one replica is the log's own.
//! Committed markers only save replay time.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::codec::{self, VoteRepr};
use super::types::{Batch, Entry, LogId, Payload, Types, Vote, log_id};
use crate::ids::ReplicaId;
use crate::wal::{self, Record, Wal};

/// Is told of every entry with commands as it is appended, before it is committed: the time to fetch what it will need.
pub(crate) trait Appending: Send + Sync + 'static {
    /// `batch` will stand at `id`; its decoded commands may be taken.
    fn appending(&self, id: LogId, batch: &mut Batch);
    /// Entries from `index` on are cut off.
    fn truncating(&self, index: u64);
    /// Entries that the log should have can't be read.
    fn unreadable(&self, error: &wal::ReadError);
}

/// The log of one replica. Clones are the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    replica: ReplicaId,
    read_bytes_max: usize,
    appending: Arc<dyn Appending>,
}

impl LogStore {
    /// The log of `replica`; one read gives about `read_bytes_max` bytes.
    pub(crate) fn new(wal: Wal, replica: ReplicaId, read_bytes_max: usize, appending: Arc<dyn Appending>) -> Self {
        Self { wal, replica, read_bytes_max, appending }
    }

    async fn read_some(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        if range.is_empty() || self.wal.replica_state(self.replica).is_none() {
            return Ok(Vec::new());
        }
        let records = match self.wal.read_cached(self.replica, range.clone()) {
            Some(records) if records.len() <= 1 || bytes(&records) <= self.read_bytes_max => records,
            _ => self.wal.read(self.replica, range, self.read_bytes_max).await.map_err(|error| {
                self.appending.unreadable(&error);
                io::Error::other(error)
            })?,
        };
        records.into_iter().map(entry).collect()
    }

    fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        start..end
    }
}

fn bytes(records: &[Record]) -> usize {
    records.iter().map(|record| record.payload.len()).sum()
}

fn entry(record: Record) -> io::Result<Entry> {
    let payload = codec::decode_payload(&record.payload).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Entry { log_id: from_wal(record.id), payload })
}

/// A log id as the write-ahead log names it. Terms have one leader, so the leader isn't told apart.
pub(crate) fn to_wal(id: LogId) -> wal::LogId {
    wal::LogId { term: id.leader_id.term, leader: 0, index: id.index }
}

/// A log id out of the write-ahead log.
pub(crate) fn from_wal(id: wal::LogId) -> LogId {
    log_id(id.term, id.index)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let Range { mut start, end } = Self::bounds(&range);
        let mut entries = Vec::new();
        loop {
            let some = self.read_some(start..end).await?;
            let Some(last) = some.last() else { return Ok(entries) };
            start = last.log_id.index + 1;
            entries.extend(some);
        }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read_some(start..end).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Piece by piece: after a restart the range is all of the log that has not been applied.
        let pieces = futures::stream::try_unfold((self.clone(), Self::bounds(&range)), |(log, range)| async move {
            let some = log.read_some(range.clone()).await?;
            let Some(last) = some.last() else { return Ok::<_, io::Error>(None) };
            let rest = last.log_id.index + 1..range.end;
            Ok(Some((futures::stream::iter(some.into_iter().map(Ok)), (log, rest))))
        });
        Box::pin(futures::TryStreamExt::try_flatten(pieces))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let Some(bytes) = self.wal.replica_state(self.replica).and_then(|state| state.vote) else { return Ok(None) };
        let vote: VoteRepr = codec::from_slice("a vote", &bytes).map_err(io::Error::other)?;
        Ok(Some(vote.into()))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.wal.replica_state(self.replica).unwrap_or_default();
        Ok(LogState { last_purged_log_id: state.last_purged.map(from_wal), last_log_id: state.last.map(from_wal) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = codec::to_vec(&VoteRepr::from(*vote));
        let durable = self.wal.save_vote(self.replica, bytes.into()).map_err(io::Error::other)?;
        durable.await.map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.wal.save_committed(self.replica, committed.map(to_wal)).map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let state = self.wal.replica_state(self.replica).unwrap_or_default();
        Ok(state.committed.map(from_wal))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.wal.room().await;
        let mut records = Vec::with_capacity(entries.len());
        for mut entry in entries {
            if let Payload::Normal(batch) = &mut entry.payload {
                self.appending.appending(entry.log_id, batch);
            }
            records.push(Record { id: to_wal(entry.log_id), payload: codec::encode_payload(&entry.payload) });
        }
        let done = move |durable: Result<(), wal::Stopped>| callback.io_completed(durable.map_err(io::Error::other));
        self.wal.append(self.replica, records, Box::new(done)).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.appending.truncating(last.map_or(0, |last| last.index + 1));
        // What comes after it in the log can't become durable before it, so nobody has to wait.
        let _durable = self.wal.truncate_after(self.replica, last.map(to_wal)).map_err(io::Error::other)?;
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let _durable = self.wal.purge(self.replica, to_wal(upto)).map_err(io::Error::other)?;
        Ok(())
    }
}
