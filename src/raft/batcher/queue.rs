//! What waits to be proposed: the more important first, and not more than has its turn in time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::raft::load::{Counts, Flow, Load, Pressure, Priority, Why};
use crate::raft::machine::{Machine, Piece};
use crate::raft::outcome::Rejected;
use crate::time::{Clock, MonotonicMs};

/// Of so many commands one is of the next lower priority that waits.
const SHARE_OF_LOWER: usize = 8;
/// What has waited so many times as long as it may is not proposed any more.
const STALE_TIMES: u64 = 2;

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
    priority: Priority,
    came: MonotonicMs,
    /// When nobody waits for it any more.
    deadline: MonotonicMs,
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

/// What a caller asks for its commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// What they are worth.
    pub(crate) priority: Priority,
    /// How long somebody waits for them.
    pub(crate) within: Duration,
}

struct Queued<M: Machine> {
    /// By priority.
    waiting: [VecDeque<Submission<M>>; Priority::COUNT],
    /// Commands of each.
    commands: Counts,
    bytes: usize,
    flow: Flow,
    /// The most important that was taken while something less important waited, and how many commands since that was let by.
    ahead: (usize, usize),
    /// The less important that was last let by.
    lower: usize,
    /// Counts partial refusals, so that it is not always the same end of a message that is refused.
    turns: usize,
    closed: bool,
}

impl<M: Machine> Queued<M> {
    fn all_commands(&self) -> usize {
        self.commands.iter().sum()
    }

    /// The most important that waits.
    fn top(&self) -> Option<usize> {
        self.waiting.iter().position(|waiting| !waiting.is_empty())
    }

    /// Which is to be taken next.
    fn next(&self) -> Option<usize> {
        let top = self.top()?;
        let waits = |at: &usize| !self.waiting[*at].is_empty();
        // In turn, so that the lowest wait behind the others and not for ever.
        let after = (self.lower.max(top) + 1..Priority::COUNT).find(waits);
        let lower = after.or_else(|| (top + 1..Priority::COUNT).find(waits));
        let due = |lower: &usize| {
            let size = self.waiting[*lower].front().map_or(0, |one| one.commands.len());
            self.ahead.0 == top && self.ahead.1 >= size.saturating_mul(SHARE_OF_LOWER - 1)
        };
        lower.filter(due).or(Some(top))
    }

    /// Commands are taken from `at`, where `top` is the most important.
    fn note_taken(&mut self, at: usize, top: usize, commands: usize) {
        let lower_waits = self.waiting[top + 1..].iter().any(|waiting| !waiting.is_empty());
        let before = if self.ahead.0 == top { self.ahead.1 } else { 0 };
        self.ahead = if at == top && lower_waits { (top, before + commands) } else { (top, 0) };
        if at != top {
            self.lower = at;
        }
    }

    /// How many commands of this priority have their turn in time, beside those that wait.
    fn room(&self, priority: Priority, fill: usize) -> usize {
        let Some(most) = self.flow.waiting_max(priority) else { return usize::MAX };
        most.max(fill).saturating_sub(self.commands[priority as usize])
    }

    fn pop(&mut self, at: usize) -> Option<Submission<M>> {
        let one = self.waiting[at].pop_front()?;
        self.commands[at] -= one.commands.len();
        self.bytes -= one.body.len();
        Some(one)
    }
}

/// The queue of one replica.
pub(crate) struct Queue<M: Machine> {
    queued: Mutex<Queued<M>>,
    wake: Notify,
    load: Arc<Load>,
    clock: Arc<dyn Clock>,
    commands_max: usize,
    bytes_max: usize,
    /// What one entry takes: so many may wait however slowly it goes.
    fill: usize,
}

impl<M: Machine> Queue<M> {
    /// A queue of at most so many commands and bytes, from which entries take up to `entry_commands_max` commands.
    pub(crate) fn new(
        (commands_max, bytes_max): (usize, usize),
        entry_commands_max: usize,
        load: Arc<Load>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let queued = Queued {
            waiting: Default::default(),
            commands: Default::default(),
            bytes: 0,
            flow: Flow::default(),
            ahead: (0, 0),
            lower: 0,
            turns: 0,
            closed: false,
        };
        let fill = entry_commands_max.min(load.pacer.worth());
        Self { queued: Mutex::new(queued), wake: Notify::new(), load, clock, commands_max, bytes_max, fill }
    }

    /// Queues commands that fit into one entry, with their encodings in `body`.
    pub(crate) fn submit(
        &self,
        commands: Piece<M::Command>,
        body: Vec<u8>,
        terms: Terms,
    ) -> Result<Waiting<M::Answer>, Rejected> {
        let (tell, ended) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(QUEUED));
        let Terms { priority, within } = terms;
        let came = self.clock.monotonic();
        let deadline = came.plus(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        let one = Submission { commands, body, priority, came, deadline, state: Arc::clone(&state), ended: tell };
        {
            let mut queued = self.queued.lock();
            if queued.closed {
                return Err(Rejected::Stopped);
            }
            let count = one.commands.len();
            let (commands, bytes) = (queued.all_commands() + count, queued.bytes + one.body.len());
            let full = commands > self.commands_max || bytes > self.bytes_max;
            let before = queued.commands[priority as usize];
            // Whoever finds none of its kind before it is let in, however slowly it goes.
            let late = before > 0 && queued.room(priority, self.fill) < count;
            let in_vain = priority != Priority::Own && came.plus(queued.flow.wait_ms(priority, before)) > deadline;
            if full || late || in_vain {
                self.load.refused(priority, Why::Queue, count);
                return Err(Rejected::Overloaded);
            }
            queued.bytes = bytes;
            queued.commands[priority as usize] += count;
            queued.waiting[priority as usize].push_back(one);
        }
        self.wake.notify_one();
        Ok(Waiting { state, ended })
    }

    /// Which of `count` commands of this priority have a turn in time, as far as can be told before they are handed in: how many,
    /// counted round from which on. `None`: all of them.
    pub(crate) fn choose(&self, priority: Priority, count: usize) -> Option<(usize, usize)> {
        let mut queued = self.queued.lock();
        let room = queued.room(priority, self.fill);
        if room >= count {
            return None;
        }
        queued.turns = queued.turns.wrapping_add(room.max(1));
        Some((queued.turns % count.max(1), room))
    }

    /// What waits longer than it should keeps out what would come after it: whether a query of this priority is to be refused.
    pub(crate) fn keeps_out(&self, priority: Priority) -> bool {
        priority >= Priority::Listing && self.queued.lock().flow.is_standing()
    }

    /// How near the replica is to its capacity.
    pub(crate) fn pressure(&self) -> Pressure {
        self.queued.lock().flow.pressure(self.clock.monotonic())
    }

    /// Waits until something is queued; `false` when the queue is closed.
    pub(super) async fn ready(&self) -> bool {
        loop {
            {
                let queued = self.queued.lock();
                if queued.closed {
                    return false;
                }
                if queued.top().is_some() {
                    return true;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Waits for a turn of the most important that waits, and says how many commands it is worth; `None` when nothing waits any more.
    pub(super) async fn turn(&self) -> Option<usize> {
        loop {
            let top = self.queued.lock().top()?;
            tokio::select! {
                biased;
                worth = self.load.pacer.turn(Priority::ALL[top]) => return Some(worth),
                () = self.more_important_than(top) => {}
            }
        }
    }

    async fn more_important_than(&self, top: usize) {
        loop {
            self.wake.notified().await;
            let queued = self.queued.lock();
            if queued.closed || queued.top() != Some(top) {
                return;
            }
        }
    }

    /// Takes what fits into one entry: at most so many commands and bytes, and at least one submission if there is one. What has
    /// waited in vain is told so.
    pub(super) fn take(&self, commands_max: usize, bytes_max: usize) -> Vec<Submission<M>> {
        let now = self.clock.monotonic();
        let mut queued = self.queued.lock();
        let (mut taken, mut commands, mut bytes, mut age_ms) = (Vec::new(), 0, 0, 0);
        let (mut in_vain, mut counts) = (Vec::new(), Counts::default());
        while let Some(at) = queued.next() {
            let Some(next) = queued.waiting[at].front() else { break };
            let (more, larger) = (commands + next.commands.len(), bytes + next.body.len());
            if !taken.is_empty() && (more > commands_max || larger > bytes_max) {
                break;
            }
            let top = queued.top().unwrap_or(at);
            let Some(next) = queued.pop(at) else { break };
            age_ms = age_ms.max(now.since(next.came));
            if let Some(why) = queued.in_vain(&next, now) {
                in_vain.push((next, why));
                continue;
            }
            if next.state.compare_exchange(QUEUED, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                (commands, bytes) = (more, larger);
                queued.note_taken(at, top, next.commands.len());
                counts[at] += next.commands.len();
                taken.push(next);
            }
        }
        let left = queued.commands;
        queued.flow.note(now, &counts, &left, age_ms);
        drop(queued);
        self.load.pacer.settle(commands);
        for (one, why) in in_vain {
            if why == Rejected::Overloaded {
                self.load.refused(one.priority, Why::Stale, one.commands.len());
            }
            one.end(Ended::Rejected(why));
        }
        taken
    }

    /// Puts back what was taken and not proposed.
    pub(super) fn put_back(&self, taken: Vec<Submission<M>>) {
        let mut queued = self.queued.lock();
        for one in taken.into_iter().rev() {
            one.state.store(QUEUED, Ordering::Release);
            queued.commands[one.priority as usize] += one.commands.len();
            queued.bytes += one.body.len();
            queued.waiting[one.priority as usize].push_front(one);
        }
    }

    /// Rejects all that waits.
    pub(super) fn reject_all(&self, rejected: &Rejected) {
        let waiting = {
            let mut queued = self.queued.lock();
            (queued.commands, queued.bytes, queued.ahead) = Default::default();
            queued.flow = Flow::default();
            std::mem::take(&mut queued.waiting)
        };
        waiting.into_iter().flatten().for_each(|one| one.end(Ended::Rejected(rejected.clone())));
    }

    /// Takes nothing more, and rejects all that waits.
    pub(crate) fn close(&self) {
        self.queued.lock().closed = true;
        self.reject_all(&Rejected::Stopped);
        self.wake.notify_one();
    }

    /// How many commands wait.
    pub(crate) fn len(&self) -> usize {
        self.queued.lock().all_commands()
    }
}

impl<M: Machine> Queued<M> {
    /// Why something that has had its turn is not worth proposing any more.
    fn in_vain(&self, one: &Submission<M>, now: MonotonicMs) -> Option<Rejected> {
        if one.priority == Priority::Own {
            return None;
        }
        if now >= one.deadline {
            return Some(Rejected::DeadlineExceeded);
        }
        let most_ms = one.priority.wait_ms_max().saturating_mul(STALE_TIMES);
        (self.flow.stands_before(one.priority) && now.since(one.came) > most_ms).then_some(Rejected::Overloaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::tests::Tally;
    use crate::time::testing::Hands;

    fn queue_of(commands_max: usize, fill: usize) -> (Queue<Tally>, Arc<Hands>) {
        let clock = Arc::new(Hands::default());
        let load = Arc::new(Load::new((0, 0), clock.clone(), Default::default()));
        (Queue::new((commands_max, 100_000), fill, load, clock.clone()), clock)
    }

    fn queue() -> Queue<Tally> {
        queue_of(10, 10).0
    }

    fn piece(commands: Vec<u64>) -> Piece<u64> {
        Piece::all(Arc::new(commands))
    }

    fn terms(priority: Priority) -> Terms {
        Terms { priority, within: Duration::from_secs(1) }
    }

    fn reports() -> Terms {
        terms(Priority::Report)
    }

    fn firsts(taken: &[Submission<Tally>]) -> Vec<u64> {
        taken.iter().map(|one| one.commands[0]).collect()
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_knows_whether_its_commands_were_proposed() {
        let queue = queue();
        let mut early = queue.submit(piece(vec![1]), vec![0; 8], reports()).expect("room");
        assert!(matches!(early.give_up(), Ended::Rejected(Rejected::DeadlineExceeded)));
        let mut late = queue.submit(piece(vec![2]), vec![0; 8], reports()).expect("room");
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
        let submit = |n: u64| queue.submit(piece(vec![n, n]), vec![0; 16], reports());
        let mut waiting: Vec<_> = (0..5).filter_map(|n| submit(n).ok()).collect();
        assert_eq!(waiting.len(), 5);
        assert!(matches!(submit(9), Err(Rejected::Overloaded)));
        assert_eq!(firsts(&queue.take(4, 100)), [0, 1]);
        assert_eq!(firsts(&queue.take(100, 33)), [2, 3]);
        queue.close();
        assert!(matches!(waiting[4].ended().await, Ended::Rejected(Rejected::Stopped)));
        assert!(matches!(submit(9), Err(Rejected::Stopped)));
        assert!(!queue.ready().await);
    }

    #[test]
    fn what_is_more_important_goes_first_and_one_in_eight_of_the_rest() {
        let (queue, _) = queue_of(1_000, 1_000);
        let submit = |n: u64, priority| queue.submit(piece(vec![n]), vec![0; 8], terms(priority)).expect("room");
        let mut waiting: Vec<_> = (100..120).map(|n| submit(n, Priority::Report)).collect();
        waiting.push(submit(1_000, Priority::Bulk));
        waiting.extend((0..20).map(|n| submit(n, Priority::Prompt)));
        waiting.push(submit(7_777, Priority::Own));
        let order = firsts(&queue.take(18, 10_000));
        assert_eq!(order, [7_777, 0, 1, 2, 3, 4, 5, 6, 100, 7, 8, 9, 10, 11, 12, 13, 1_000, 14], "in turn");
    }

    type Callers = Vec<Waiting<(u64, u64)>>;

    /// A queue of reports of which ten are taken every 20 ms, so that 500 a second is its speed; 20 are left.
    fn standing() -> (Queue<Tally>, Arc<Hands>, Callers) {
        let (queue, clock) = queue_of(10_000, 10);
        let mut waiting = Vec::new();
        for n in 0..8 {
            clock.awake.store(1_000 + n * 20, Ordering::Relaxed);
            let more = if n == 0 { 30 } else { 10 };
            waiting.extend((0..more).map(|m| queue.submit(piece(vec![m]), vec![0; 8], reports()).expect("room")));
            assert_eq!(queue.take(10, 10_000).len(), 10);
        }
        (queue, clock, waiting)
    }

    #[test]
    fn a_full_queue_of_progress_refuses_progress_and_lets_a_stop_in_before_it() {
        let (queue, _, mut waiting) = standing();
        let report = |n: u64| queue.submit(piece(vec![n]), vec![0; 8], reports());
        while let Ok(one) = report(5) {
            waiting.push(one);
        }
        assert_eq!(queue.len(), 100, "200 ms at 500 a second");
        assert_eq!(queue.choose(Priority::Report, 40).map(|(_, room)| room), Some(0));
        assert!(queue.keeps_out(Priority::Listing) && !queue.keeps_out(Priority::Report));
        let _stop = queue.submit(piece(vec![7_777]), vec![0; 8], terms(Priority::Prompt)).expect("a stop gets in");
        assert_eq!(firsts(&queue.take(10, 10_000))[0], 7_777);
        assert_eq!(queue.choose(Priority::Report, 40).map(|(_, room)| room), Some(9), "as many as were taken");
        assert!(queue.submit(piece(vec![1]), vec![0; 8], terms(Priority::Own)).is_ok());
    }

    #[test]
    fn what_cannot_be_done_in_its_time_is_refused_when_it_comes_and_what_was_not_is_not_done() {
        let (queue, clock, _waiting) = standing();
        let within = |ms| Terms { priority: Priority::Report, within: Duration::from_millis(ms) };
        // Twenty wait, which takes 40 ms.
        assert!(matches!(queue.submit(piece(vec![1]), vec![0; 8], within(30)), Err(Rejected::Overloaded)));
        let mut late = queue.submit(piece(vec![1]), vec![0; 8], within(60)).expect("in time");
        clock.awake.fetch_add(61, Ordering::Relaxed);
        assert_eq!(queue.take(100, 10_000).len(), 20, "nobody waits for the last any more");
        assert!(matches!(late.ended.try_recv(), Ok(Ended::Rejected(Rejected::DeadlineExceeded))));
    }

    #[test]
    fn what_was_overtaken_by_too_much_is_told_as_refused_and_never_once_it_was_taken() {
        let (queue, clock, mut waiting) = standing();
        clock.awake.fetch_add(401, Ordering::Relaxed);
        let _fresh = queue.submit(piece(vec![77]), vec![0; 8], reports()).expect("room");
        assert_eq!(firsts(&queue.take(100, 10_000)), [77]);
        let ends: Vec<_> = waiting.iter_mut().map(|one| one.ended.try_recv()).collect();
        let refused = ends.iter().filter(|end| matches!(end, Ok(Ended::Rejected(Rejected::Overloaded)))).count();
        assert_eq!(refused, 20, "those that waited still");
        let taken = waiting.iter_mut().map(Waiting::give_up).filter(|end| matches!(end, Ended::Unknown)).count();
        assert_eq!(taken, 80, "and all others may have been proposed");
    }
}
