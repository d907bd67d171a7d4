//! From callers to log entries: many commands to one entry, at most one entry open.
//!
//! One entry costs about the same on all replicas with one command in it or with a thousand, so while an entry is on its
//! way everything that comes is gathered for the next. Callers encode their commands on their own threads.
//!
//! # Contract
//!
//! - A command ends *committed* with its answer, *rejected* (it was never proposed) or *unknown* (it was, and what became
//!   of it was not learned). Unknown is never told as rejected: invariant raft/4.
//! - Commands of one call stand in the log in their order. A call too large for one entry is cut into several entries;
//!   then a later part may be committed though an earlier one was rejected, when the lead changes in between.
//! - What waits is bounded in commands and bytes, and in time: what would wait longer than its priority may is rejected as
//!   overloaded when it comes, and what is more important goes first ([`crate::raft::load`]). So calls overtake each other; the
//!   commands of one call don't.

mod lead;
mod queue;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use lead::{Lead, hint};
pub(crate) use queue::{Ended, Queue, Submission, Terms, Waiting};

use bytes::Bytes;
use openraft::Raft;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::impls::ProgressResponder;

use crate::raft::GroupConfig;
use crate::raft::machine::{Core, Machine, Pieces, Replica};
use crate::raft::meter::Meter;
use crate::raft::outcome::Rejected;
use crate::raft::types::{Batch, Types};

/// How long to wait before an entry is proposed again that was refused because the lease had run out.
const LEASE_WAIT: Duration = Duration::from_millis(20);

/// Gathers commands into entries and proposes them, one entry at a time.
pub(crate) struct Batcher<M: Machine> {
    pub(crate) raft: Raft<Types, Replica<M>>,
    pub(crate) core: Arc<Core<M>>,
    pub(crate) queue: Arc<Queue<M>>,
    pub(crate) lead: Arc<Lead>,
    pub(crate) config: Arc<GroupConfig>,
    pub(crate) meter: Arc<Meter>,
}

/// What became of an entry.
enum Proposed<A> {
    Committed(Vec<A>),
    /// It was not proposed; this replica leads, but no quorum has confirmed it of late.
    LeaseExpired,
    Rejected(Rejected),
    Unknown,
}

impl<M: Machine> Batcher<M> {
    /// Proposes what is queued until the queue is closed.
    pub(crate) async fn run(self) {
        while self.queue.ready().await {
            if let Err(rejected) = self.lead.take_over(&self.core).await {
                self.queue.reject_all(&rejected);
                continue;
            }
            // Before anything is taken: what waits for its turn can still be taken back, and overtaken.
            let Some(worth) = self.queue.turn().await else { continue };
            let taken = self.queue.take(self.config.entry_commands_max.min(worth), self.config.entry_bytes_max);
            if taken.is_empty() {
                continue;
            }
            match self.propose(&taken).await {
                Proposed::Committed(answers) => {
                    let sum = |of: fn(&Submission<M>) -> usize| taken.iter().map(of).sum::<usize>() as u64;
                    self.meter.add(sum(|one| one.commands.len()), sum(|one| one.body.len()));
                    answer(taken, answers);
                }
                Proposed::LeaseExpired => {
                    self.queue.put_back(taken);
                    tokio::time::sleep(LEASE_WAIT).await;
                }
                Proposed::Rejected(rejected) => {
                    taken.into_iter().for_each(|one| one.end(Ended::Rejected(rejected.clone())));
                }
                Proposed::Unknown => taken.into_iter().for_each(|one| one.end(Ended::Unknown)),
            }
        }
    }

    async fn propose(&self, taken: &[Submission<M>]) -> Proposed<M::Answer> {
        let (responder, outcome) = ProgressResponder::complete_only();
        if self.raft.client_write_ff(self.batch(taken), Some(responder)).await.is_err() {
            // It did not reach openraft at all, which has ended.
            self.lead.stop();
            return Proposed::Rejected(Rejected::Stopped);
        }
        match outcome.await {
            Ok(Ok(response)) => match response.data.take::<M::Answer>() {
                Some(answers) => Proposed::Committed(answers),
                None => Proposed::Unknown,
            },
            Ok(Err(ClientWriteError::ForwardToLeader(to))) if to.reason == ForwardReason::LeaseExpired => {
                Proposed::LeaseExpired
            }
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => Proposed::Rejected(not_leader(&to)),
            // Appended here, then given up by a new leader, or the replica has stopped: nobody can say here.
            Ok(Err(_)) | Err(_) => Proposed::Unknown,
        }
    }

    fn batch(&self, taken: &[Submission<M>]) -> Batch {
        let bytes = taken.iter().map(|one| one.body.len()).sum();
        let mut body = Vec::with_capacity(bytes);
        let mut pieces: Pieces<M::Command> = Vec::with_capacity(taken.len());
        let mut count = 0;
        for one in taken {
            body.extend_from_slice(&one.body);
            count += one.commands.len();
            pieces.push(one.commands.clone());
        }
        let count = u32::try_from(count).expect("an entry's commands are bounded far below this");
        let mut batch = Batch::new(self.lead.stamp(), count, Bytes::from(body));
        batch.decoded = Some(Box::new(pieces));
        batch
    }
}

fn not_leader(to: &ForwardToLeader<Types>) -> Rejected {
    Rejected::NotLeader { leader: hint(to.leader_id, to.leader_node) }
}

/// Hands each caller its answers: they are in the order of the commands.
fn answer<M: Machine>(taken: Vec<Submission<M>>, answers: Vec<M::Answer>) {
    let mut answers = answers.into_iter();
    for one in taken {
        let its: Vec<M::Answer> = answers.by_ref().take(one.commands.len()).collect();
        let ended = if its.len() == one.commands.len() { Ended::Committed(its) } else { Ended::Unknown };
        one.end(ended);
    }
}
