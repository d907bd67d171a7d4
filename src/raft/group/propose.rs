//! Handing commands to the batcher, in parts that fit into entries.

use std::sync::Arc;
use std::time::Duration;

use super::Group;
use crate::raft::batcher::{Ended, Queue, Terms, Waiting};
use crate::raft::load::{Priority, Why};
use crate::raft::machine::{Machine, Piece, Stop, decode, push};
use crate::raft::outcome::{Outcome, Rejected};

/// Commands that were handed in. Dropped, those that are not yet proposed never will be.
pub struct Submitted<A> {
    parts: Vec<Part<A>>,
}

/// Commands of one call that stand in one entry, or one that could not be queued.
struct Part<A> {
    commands: usize,
    state: State<A>,
}

enum State<A> {
    Waits(Waiting<A>),
    Ended(Ended<A>),
}

impl<A> Part<A> {
    fn new(commands: usize, queued: Result<Waiting<A>, Rejected>) -> Self {
        let state = match queued {
            Ok(waiting) => State::Waits(waiting),
            Err(rejected) => State::Ended(Ended::Rejected(rejected)),
        };
        Self { commands, state }
    }
}

impl<A> Submitted<A> {
    /// Waits until all have ended. May be given up and taken up again.
    pub async fn wait(&mut self) {
        for part in &mut self.parts {
            if let State::Waits(waiting) = &mut part.state {
                part.state = State::Ended(waiting.ended().await);
            }
        }
    }

    /// Tells an outcome for each command, in their order; of those that have not ended, what is known by now.
    pub fn end(self, mut tell: impl FnMut(Outcome<A>)) {
        for Part { commands, state } in self.parts {
            let ended = match state {
                State::Waits(mut waiting) => waiting.give_up(),
                State::Ended(ended) => ended,
            };
            match ended {
                Ended::Committed(answers) => answers.into_iter().for_each(|answer| tell(Outcome::Committed(answer))),
                Ended::Rejected(why) => (0..commands).for_each(|_| tell(Outcome::Rejected(why.clone()))),
                Ended::Unknown => (0..commands).for_each(|_| tell(Outcome::Unknown)),
            }
        }
    }
}

/// Cuts a call into parts.
struct Cutter<'c, M: Machine> {
    queue: &'c Queue<M>,
    call: &'c Arc<Vec<M::Command>>,
    terms: Terms,
    /// Commands before this one have been seen to; from here to the next one they are gathered.
    from: usize,
    body: Vec<u8>,
    parts: Vec<Part<M::Answer>>,
}

impl<M: Machine> Cutter<'_, M> {
    /// Queues what has been gathered, up to but not including the command at `to`.
    fn submit(&mut self, to: usize) {
        if self.from < to {
            let body = std::mem::take(&mut self.body);
            let queued = self.queue.submit(Piece::part(self.call, self.from..to), body, self.terms);
            self.parts.push(Part::new(to - self.from, queued));
        }
        self.from = to;
    }

    fn add(&mut self, at: usize, commands_max: usize, bytes_max: usize) {
        let before = self.body.len();
        let bytes = push::<M>(&self.call[at], &mut self.body);
        if bytes > bytes_max {
            self.body.truncate(before);
            self.refuse(at, Rejected::TooLarge { bytes, max: bytes_max });
            return;
        }
        if at - self.from == commands_max || self.body.len() > bytes_max {
            let own = self.body.split_off(before);
            self.submit(at);
            self.body = own;
        }
    }

    /// Leaves out the command at `at`.
    fn refuse(&mut self, at: usize, why: Rejected) {
        self.submit(at);
        self.parts.push(Part::new(1, Err(why)));
        self.from = at + 1;
    }
}

/// Commands of one call go together, so that their order stays: they are worth what the most important of them is.
fn priority_of<M: Machine>(commands: &[M::Command]) -> Priority {
    commands.iter().map(M::priority).min().unwrap_or(Priority::Own)
}

impl<M: Machine> Group<M> {
    /// Proposes `commands` in their order and gives an outcome for each. Waits for at most `timeout`.
    ///
    /// When the future is dropped before it is ready, commands that are not yet proposed never will be.
    pub async fn propose(&self, commands: Vec<M::Command>, timeout: Duration) -> Vec<Outcome<M::Answer>> {
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut submitted = self.submit(Arc::new(commands), timeout);
        // What is known when the time is over is told by `end`.
        let _ = tokio::time::timeout(timeout, submitted.wait()).await;
        submitted.end(|outcome| outcomes.push(outcome));
        outcomes
    }

    /// Hands in `commands`, to be proposed in their order, for which somebody waits for so long. Returns at once.
    pub fn submit(&self, commands: Arc<Vec<M::Command>>, within: Duration) -> Submitted<M::Answer> {
        if let Err(elsewhere) = self.refuse(commands.len()) {
            return elsewhere;
        }
        let taken_in = self.take_in(&commands);
        self.submit_some(commands, within, taken_in.as_deref())
    }

    /// Hands in those that are taken in; `None`: all.
    fn submit_some(
        &self,
        commands: Arc<Vec<M::Command>>,
        within: Duration,
        taken_in: Option<&[bool]>,
    ) -> Submitted<M::Answer> {
        let commands = self.dated(commands);
        match taken_in {
            // What is refused is not worth fetching anything for.
            Some(taken_in) => {
                let each = commands.iter().zip(taken_in);
                self.inner.core.prefetch(each.filter(|(_, is)| **is).map(|(command, _)| command));
            }
            None => self.inner.core.prefetch(commands.iter()),
        }
        self.cut(&commands, within, taken_in)
    }

    /// Which of the commands are taken in: not what an account sends beyond its share, nor what would wait too long. `None`: all.
    fn take_in(&self, commands: &[M::Command]) -> Option<Vec<bool>> {
        let inner = &self.inner;
        let each = commands.iter().map(|command| (M::account(command), M::priority(command)));
        let (per_second, now) = (inner.parts.load.account_per_second(), inner.parts.clock.monotonic());
        let mut taken_in = inner.accounts.admit(per_second, now, each);
        let priority = priority_of::<M>(commands);
        if let Some(taken_in) = &taken_in {
            let refused = taken_in.iter().filter(|is| !**is).count();
            inner.parts.load.refused(priority, Why::Account, refused);
        }
        if let Some((from, room)) = inner.queue.choose(priority, commands.len()) {
            let taken_in = taken_in.get_or_insert_with(|| vec![true; commands.len()]);
            let count = commands.len();
            let mut late = 0;
            for at in (room..count).map(|nth| (from + nth) % count) {
                late += usize::from(std::mem::take(&mut taken_in[at]));
            }
            inner.parts.load.refused(priority, Why::Queue, late);
        }
        taken_in
    }

    /// As [`Group::submit`], for `count` commands as they stand in an entry's body. What can't be decoded is not proposed.
    pub fn submit_encoded(&self, body: Vec<u8>, count: u32, within: Duration) -> Result<Submitted<M::Answer>, Stop> {
        if let Err(elsewhere) = self.refuse(count as usize) {
            return Ok(elsewhere);
        }
        let commands = Arc::new(decode::<M>(&body, count)?);
        let taken_in = self.take_in(&commands);
        let (config, room) = (&self.inner.parts.config, self.inner.parts.room.level());
        let fits = commands.len() <= config.entry_commands_max && body.len() <= config.entry_bytes_max;
        let as_it_is =
            |command: &M::Command| room.admits(M::growth(command)) && !M::has_age(command) && !M::is_gated(command);
        if commands.is_empty() || taken_in.is_some() || !fits || !commands.iter().all(as_it_is) {
            return Ok(self.submit_some(commands, within, taken_in.as_deref()));
        }
        self.inner.core.prefetch(commands.iter());
        let terms = Terms { priority: priority_of::<M>(&commands), within };
        let part = Part::new(commands.len(), self.inner.queue.submit(Piece::all(commands), body, terms));
        Ok(Submitted { parts: vec![part] })
    }

    /// Whoever doesn't lead is not worth a queue: the caller goes elsewhere at once.
    fn refuse(&self, commands: usize) -> Result<(), Submitted<M::Answer>> {
        let leads = self.inner.lead.term();
        leads.map(|_| ()).map_err(|rejected| Submitted { parts: vec![Part::new(commands, Err(rejected))] })
    }

    /// Ages become times, by the leader's clock.
    fn dated(&self, mut commands: Arc<Vec<M::Command>>) -> Arc<Vec<M::Command>> {
        if commands.iter().any(M::has_age) {
            for command in Arc::make_mut(&mut commands) {
                M::date(command, || self.best_logical());
            }
        }
        commands
    }

    /// The shard's time by the best knowledge of this replica: never later than what its leader would say.
    fn best_logical(&self) -> crate::time::LogicalMs {
        let logical = self.inner.core.look(|machine, _| machine.logical());
        self.inner.lead.best_now(logical).logical
    }

    /// Encodes and queues those of `commands` that are taken in.
    fn cut(
        &self,
        commands: &Arc<Vec<M::Command>>,
        within: Duration,
        taken_in: Option<&[bool]>,
    ) -> Submitted<M::Answer> {
        let config = &self.inner.parts.config;
        let queue = &self.inner.queue;
        let terms = Terms { priority: priority_of::<M>(commands), within };
        let mut cutter = Cutter { queue, call: commands, terms, from: 0, body: Vec::new(), parts: Vec::new() };
        let room = self.inner.parts.room.level();
        for (at, command) in commands.iter().enumerate() {
            // Invariant versions/3: by the state as it is applied here, so that whoever applies the command has come as far.
            if taken_in.is_some_and(|taken_in| !taken_in[at]) {
                cutter.refuse(at, Rejected::Overloaded);
            } else if M::is_gated(command) && !self.inner.core.look(|machine, _| machine.permits(command)) {
                cutter.refuse(at, Rejected::NotYet);
            } else if room.admits(M::growth(command)) {
                cutter.add(at, config.entry_commands_max, config.entry_bytes_max);
            } else {
                cutter.refuse(at, Rejected::NoRoom);
            }
        }
        cutter.submit(commands.len());
        Submitted { parts: cutter.parts }
    }
}
