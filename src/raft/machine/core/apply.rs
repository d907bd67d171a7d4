//! Applying entries to the machine, a turn at a time.
//!
//! Short commands, which nearly all are, are applied on the thread of all groups. Long ones, as imports of history are, would keep it for
//! tens of milliseconds an entry, in which no other group's commands or heartbeats get on: they are decoded and applied apart from it.

use std::sync::Arc;

use parking_lot::RwLockWriteGuard;

use super::{ApplyError, Core, Fetched};
use crate::raft::machine::decoded::{Piece, Pieces};
use crate::raft::machine::{Machine, Missing, Stop, body};
use crate::raft::types::{Applied, Batch, Entry, LogId, Payload, StoredMembership};
use crate::time::Stamp;

/// Commands that are applied under the lock before others get a turn.
const TURN_COMMANDS: usize = 256;
/// As many long ones: readers of the shard, and its minder, wait for each turn.
const TURN_COMMANDS_LONG: usize = 1;
/// Bytes that a short command takes at most, nearly always.
const SHORT_COMMAND_BYTES: usize = 256;
/// Of how many commands ahead the rows are fetched together.
const AHEAD_COMMANDS: usize = 1024;
/// The most rows that one fetch asks for.
const FETCH_KEYS_MAX: usize = 8192;

/// What is to be done before more of an entry can be applied.
enum Next<F> {
    Done,
    Yield,
    Fetch(Missing<F>),
}

/// The commands of an entry's body, as they were held or else decoded.
fn pieces<M: Machine>(
    count: u32,
    body: &[u8],
    held: Option<Pieces<M::Command>>,
) -> Result<Pieces<M::Command>, ApplyError> {
    match held {
        Some(pieces) => Ok(pieces),
        None => Ok(vec![Piece::all(Arc::new(body::decode::<M>(body, count)?))]),
    }
}

fn commands<M: Machine>(pieces: &Pieces<M::Command>) -> Vec<&M::Command> {
    pieces.iter().flat_map(|piece| piece.iter()).collect()
}

impl<M: Machine> Core<M> {
    /// Applies one entry; the answers to its commands.
    pub(in crate::raft::machine) async fn apply(self: &Arc<Self>, entry: Entry) -> Result<Applied, ApplyError> {
        let index = entry.log_id.index;
        let applied = self.apply_one(entry).await;
        if let Err(error) = &applied {
            self.note(error.cause(), format!("entry {index} can't be applied: {error}"));
        }
        applied
    }

    async fn apply_one(self: &Arc<Self>, entry: Entry) -> Result<Applied, ApplyError> {
        let id = entry.log_id;
        match entry.payload {
            Payload::Blank => {
                self.finish(id, 0, |_| {});
                Ok(Applied::default())
            }
            Payload::Membership(membership) => {
                self.finish(id, 0, |inner| inner.membership = StoredMembership::new(Some(id), membership));
                Ok(Applied::default())
            }
            Payload::Normal(batch) => {
                let answers = self.apply_batch(id, &batch).await?;
                Ok(Applied::new(answers))
            }
        }
    }

    async fn apply_batch(self: &Arc<Self>, id: LogId, batch: &Batch) -> Result<Vec<M::Answer>, ApplyError> {
        let held = self.decoded.lock().take(id);
        let answers = if self.is_long(batch) {
            self.apply_long(batch, held).await?
        } else {
            self.apply_short(batch, held).await?
        };
        self.finish(id, batch.body.len(), |inner| inner.stamp = inner.stamp_of(batch.stamp));
        Ok(answers)
    }

    /// Whether to decode and apply it would keep the thread of the groups for long.
    pub(super) fn is_long(&self, batch: &Batch) -> bool {
        batch.body.len().saturating_sub(batch.count as usize * SHORT_COMMAND_BYTES) >= self.long_entry_bytes
    }

    async fn apply_short(&self, batch: &Batch, held: Option<Pieces<M::Command>>) -> Result<Vec<M::Answer>, ApplyError> {
        let pieces = pieces::<M>(batch.count, &batch.body, held)?;
        let commands = commands::<M>(&pieces);
        let mut answers = Vec::with_capacity(commands.len());
        let mut fetched = None;
        loop {
            match self.apply_some(batch.stamp, &commands, &mut answers, fetched.take(), TURN_COMMANDS)? {
                Next::Done => return Ok(answers),
                Next::Yield => tokio::task::yield_now().await,
                Next::Fetch(missing) => fetched = Some(self.fetch(missing).await?),
            }
        }
    }

    /// As [`Core::apply_short`], apart from the thread that calls it.
    async fn apply_long(
        self: &Arc<Self>,
        batch: &Batch,
        mut held: Option<Pieces<M::Command>>,
    ) -> Result<Vec<M::Answer>, ApplyError> {
        let mut answers = Vec::new();
        let mut fetched: Option<Fetched<M::Fence>> = None;
        loop {
            let (core, stamp, count, body) = (Arc::clone(self), batch.stamp, batch.count, batch.body.clone());
            let (mut before, rows, given) = (std::mem::take(&mut answers), fetched.take(), held.take());
            let turns = move || {
                let pieces = pieces::<M>(count, &body, given)?;
                let commands = commands::<M>(&pieces);
                rows.into_iter().for_each(|rows| core.admit(rows));
                loop {
                    match core.apply_some(stamp, &commands, &mut before, None, TURN_COMMANDS_LONG)? {
                        Next::Yield => {}
                        // What was decoded is let go of here: that takes time, too.
                        Next::Done => break Ok::<_, ApplyError>((before, None)),
                        Next::Fetch(missing) => break Ok((before, Some((missing, pieces)))),
                    }
                }
            };
            let (applied, rest) = match self.store.apart().long(turns).await {
                Ok(done) => done?,
                // As if it had happened here: what a panic means is decided for the threads of the groups.
                Err(error) if error.is_panic() => panic!("applying a long entry panicked: {error}"),
                Err(error) => return Err(Stop(format!("applying was broken off: {error}")).into()),
            };
            answers = applied;
            let Some((missing, pieces)) = rest else { return Ok(answers) };
            held = Some(pieces);
            fetched = Some(self.fetch(missing).await?);
        }
    }

    /// Applies as many of `commands` as can be without waiting; `answers` says how many are applied already.
    fn apply_some(
        &self,
        stamp: Stamp,
        commands: &[&M::Command],
        answers: &mut Vec<M::Answer>,
        fetched: Option<Fetched<M::Fence>>,
        turn: usize,
    ) -> Result<Next<M::Fence>, ApplyError> {
        let mut inner = self.inner.write();
        if let Some((fence, rows)) = fetched {
            inner.admit(fence, &rows);
        }
        // Invariant raft/6: a shard's time never goes back, whatever stamp a new leader has put on an entry.
        let stamp = inner.stamp_of(stamp);
        for _ in 0..turn {
            let Some(command) = commands.get(answers.len()) else { return Ok(Next::Done) };
            match inner.machine.try_apply(stamp, command)? {
                Ok(answer) => answers.push(answer),
                Err(missing) => {
                    drop(inner);
                    let ahead = &commands[answers.len() + 1..];
                    return Ok(Next::Fetch(self.missing_ahead(stamp, missing, ahead)?));
                }
            }
        }
        // Whoever waits for the lock is next: this may be another thread than theirs, which would take it again and again.
        RwLockWriteGuard::unlock_fair(inner);
        Ok(Next::Yield)
    }

    /// `first` and what the commands after it miss. Looked up one by one: each takes about as long as to apply it, and others wait for the
    /// lock. What changes in between makes it worth less, not wrong.
    pub(super) fn missing_ahead(
        &self,
        stamp: Stamp,
        first: Missing<M::Fence>,
        ahead: &[&M::Command],
    ) -> Result<Missing<M::Fence>, Stop> {
        let mut missing = first;
        for command in ahead.iter().take(AHEAD_COMMANDS) {
            if missing.keys.len() >= FETCH_KEYS_MAX {
                break;
            }
            let more = self.inner.read().machine.missing(stamp, command)?;
            if let Some(more) = more {
                missing.keys.extend(more.keys);
            }
        }
        missing.keys.sort_unstable();
        missing.keys.dedup();
        Ok(missing)
    }
}
