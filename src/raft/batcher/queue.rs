//! What waits to be proposed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::raft::machine::{Machine, Piece};
use crate::raft::outcome::Rejected;

/// How the commands of one submission ended.
#[derive(Debug)]
pub(crate) enum Ended<A> {
    Committed(Vec<A>),
    Rejected(Rejected),
    Unknown,
}

/// It waits in the queue: its caller may still take it back.
const QUEUED: u8 = 0;
/// It is being proposed.
const TAKEN: u8 = 1;
/// Its caller has taken it back.
const WITHDRAWN: u8 = 2;

/// Commands that stand in one entry together.
pub(crate) struct Submission<M: Machine> {
    pub(super) commands: Piece<M::Command>,
    pub(super) body: Vec<u8>,
    state: Arc<AtomicU8>,
    ended: oneshot::Sender<Ended<M::Answer>>,
}

impl<M: Machine> Submission<M> {
    /// Tells the caller, if it still waits.
    pub(super) fn end(self, ended: Ended<M::Answer>) {
        let _ = self.ended.send(ended);
    }
}

/// A caller's side of a submission. Dropping it takes the submission back if it was not yet taken.
pub(crate) struct Waiting<A> {
    state: Arc<AtomicU8>,
    ended: oneshot::Receiver<Ended<A>>,
}

impl<A> Waiting<A> {
    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> Ended<A> {
        // The sender goes without a word only when the replica stops with the entry open.
        (&mut self.ended).await.unwrap_or(Ended::Unknown)
    }

    /// Gives up waiting: what is known by now.
    pub(crate) fn give_up(&mut self) -> Ended<A> {
        if self.withdraw() {
            return Ended::Rejected(Rejected::DeadlineExceeded);
        }
        self.ended.try_recv().unwrap_or(Ended::Unknown)
    }

    fn withdraw(&self) -> bool {
        self.state.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl<A> Drop for Waiting<A> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

struct Queued<M: Machine> {
    waiting: VecDeque<Submission<M>>,
    commands: usize,
    bytes: usize,
    closed: bool,
}

/// The queue of one replica.
pub(crate) struct Queue<M: Machine> {
    queued: Mutex<Queued<M>>,
    wake: Notify,
    commands_max: usize,
    bytes_max: usize,
}

impl<M: Machine> Queue<M> {
    pub(crate) fn new(commands_max: usize, bytes_max: usize) -> Self {
        let queued = Queued { waiting: VecDeque::new(), commands: 0, bytes: 0, closed: false };
        Self { queued: Mutex::new(queued), wake: Notify::new(), commands_max, bytes_max }
    }

    /// Queues commands that fit into one entry, with their encodings in `body`.
    pub(crate) fn submit(&self, commands: Piece<M::Command>, body: Vec<u8>) -> Result<Waiting<M::Answer>, Rejected> {
        let (tell, ended) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(QUEUED));
        let one = Submission { commands, body, state: Arc::clone(&state), ended: tell };
        {
            let mut queued = self.queued.lock();
            if queued.closed {
                return Err(Rejected::Stopped);
            }
            let (commands, bytes) = (queued.commands + one.commands.len(), queued.bytes + one.body.len());
            if commands > self.commands_max || bytes > self.bytes_max {
                return Err(Rejected::Overloaded);
            }
            (queued.commands, queued.bytes) = (commands, bytes);
            queued.waiting.push_back(one);
        }
        self.wake.notify_one();
        Ok(Waiting { state, ended })
    }

    /// Waits until something is queued; `false` when the queue is closed.
    pub(super) async fn ready(&self) -> bool {
        loop {
            {
                let queued = self.queued.lock();
                if queued.closed {
                    return false;
                }
                if !queued.waiting.is_empty() {
                    return true;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Takes what fits into one entry: at most so many commands and bytes, and at least one submission if there is one.
    pub(super) fn take(&self, commands_max: usize, bytes_max: usize) -> Vec<Submission<M>> {
        let mut queued = self.queued.lock();
        let (mut taken, mut commands, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = queued.waiting.front() {
            let (more, larger) = (commands + next.commands.len(), bytes + next.body.len());
            if !taken.is_empty() && (more > commands_max || larger > bytes_max) {
                break;
            }
            let Some(next) = queued.waiting.pop_front() else { break };
            queued.commands -= next.commands.len();
            queued.bytes -= next.body.len();
            if next.state.compare_exchange(QUEUED, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                (commands, bytes) = (more, larger);
                taken.push(next);
            }
        }
        taken
    }

    /// Puts back what was taken and not proposed.
    pub(super) fn put_back(&self, taken: Vec<Submission<M>>) {
        let mut queued = self.queued.lock();
        for one in taken.into_iter().rev() {
            one.state.store(QUEUED, Ordering::Release);
            queued.commands += one.commands.len();
            queued.bytes += one.body.len();
            queued.waiting.push_front(one);
        }
    }

    /// Rejects all that waits.
    pub(super) fn reject_all(&self, rejected: &Rejected) {
        let waiting = {
            let mut queued = self.queued.lock();
            (queued.commands, queued.bytes) = (0, 0);
            std::mem::take(&mut queued.waiting)
        };
        waiting.into_iter().for_each(|one| one.end(Ended::Rejected(rejected.clone())));
    }

    /// Takes nothing more, and rejects all that waits.
    pub(crate) fn close(&self) {
        self.queued.lock().closed = true;
        self.reject_all(&Rejected::Stopped);
        self.wake.notify_one();
    }

    /// How many commands wait.
    pub(crate) fn len(&self) -> usize {
        self.queued.lock().commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::tests::Tally;

    fn queue() -> Queue<Tally> {
        Queue::new(10, 100)
    }

    fn piece(commands: Vec<u64>) -> Piece<u64> {
        Piece::all(Arc::new(commands))
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_knows_whether_its_commands_were_proposed() {
        let queue = queue();
        let mut early = queue.submit(piece(vec![1]), vec![0; 8]).expect("room");
        assert!(matches!(early.give_up(), Ended::Rejected(Rejected::DeadlineExceeded)));
        let mut late = queue.submit(piece(vec![2]), vec![0; 8]).expect("room");
        let taken = queue.take(10, 100);
        assert_eq!(taken.len(), 1, "what was withdrawn is not taken");
        assert!(matches!(late.give_up(), Ended::Unknown));
        queue.put_back(taken);
        assert!(matches!(late.give_up(), Ended::Rejected(_)));
        assert!(queue.take(10, 100).is_empty());
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_goes_in_order_into_bounded_entries() {
        let queue = queue();
        let mut waiting: Vec<_> = (0..5).filter_map(|n| queue.submit(piece(vec![n, n]), vec![0; 16]).ok()).collect();
        assert_eq!(waiting.len(), 5);
        assert!(matches!(queue.submit(piece(vec![9]), vec![0; 4]), Err(Rejected::Overloaded)));
        let first: Vec<u64> = queue.take(4, 100).iter().map(|one| one.commands[0]).collect();
        assert_eq!(first, [0, 1]);
        let second: Vec<u64> = queue.take(100, 33).iter().map(|one| one.commands[0]).collect();
        assert_eq!(second, [2, 3]);
        queue.close();
        assert!(matches!(waiting[4].ended().await, Ended::Rejected(Rejected::Stopped)));
        assert!(matches!(queue.submit(piece(vec![9]), vec![0; 4]), Err(Rejected::Stopped)));
        assert!(!queue.ready().await);
    }
}
