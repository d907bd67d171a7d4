//! Handing commands to the batcher, in parts that fit into entries.

use std::time::Duration;

use super::Group;
use crate::raft::batcher::{Ended, Queue, Waiting};
use crate::raft::machine::{Machine, push};
use crate::raft::outcome::{Outcome, Rejected};

/// Commands of one call that stand in one entry, or one that could not be queued.
struct Part<A> {
    commands: usize,
    submitted: Result<Waiting<A>, Rejected>,
}

/// Cuts a call into parts.
struct Cutter<'q, M: Machine> {
    queue: &'q Queue<M>,
    commands: Vec<M::Command>,
    body: Vec<u8>,
    parts: Vec<Part<M::Answer>>,
}

impl<M: Machine> Cutter<'_, M> {
    /// Queues what has been gathered.
    fn submit(&mut self) {
        if !self.commands.is_empty() {
            let (commands, body) = (std::mem::take(&mut self.commands), std::mem::take(&mut self.body));
            self.parts.push(Part { commands: commands.len(), submitted: self.queue.submit(commands, body) });
        }
    }

    fn add(&mut self, command: M::Command, commands_max: usize, bytes_max: usize) {
        let before = self.body.len();
        let bytes = push::<M>(&command, &mut self.body);
        if bytes > bytes_max {
            self.body.truncate(before);
            self.submit();
            self.parts.push(Part { commands: 1, submitted: Err(Rejected::TooLarge { bytes, max: bytes_max }) });
            return;
        }
        if self.commands.len() == commands_max || self.body.len() > bytes_max {
            let own = self.body.split_off(before);
            self.submit();
            self.body = own;
        }
        self.commands.push(command);
    }

    fn refuse(&mut self, why: Rejected) {
        self.submit();
        self.parts.push(Part { commands: 1, submitted: Err(why) });
    }
}

impl<M: Machine> Group<M> {
    /// Proposes `commands` in their order and gives an outcome for each. Waits for at most `timeout`.
    ///
    /// When the future is dropped before it is ready, commands that are not yet proposed never will be.
    pub async fn propose(&self, mut commands: Vec<M::Command>, timeout: Duration) -> Vec<Outcome<M::Answer>> {
        // Not worth a queue: the caller goes elsewhere at once.
        if let Err(rejected) = self.inner.lead.term() {
            return commands.iter().map(|_| Outcome::Rejected(rejected.clone())).collect();
        }
        for command in &mut commands {
            M::date(command, || self.best_logical());
        }
        self.inner.core.prefetch(&commands);
        let count = commands.len();
        let parts = self.submit(commands);
        let deadline = tokio::time::Instant::now() + timeout;
        let mut outcomes = Vec::with_capacity(count);
        for Part { commands, submitted } in parts {
            let ended = match submitted {
                Ok(mut waiting) => match tokio::time::timeout_at(deadline, waiting.ended()).await {
                    Ok(ended) => ended,
                    Err(_) => waiting.give_up(),
                },
                Err(rejected) => Ended::Rejected(rejected),
            };
            match ended {
                Ended::Committed(answers) => outcomes.extend(answers.into_iter().map(Outcome::Committed)),
                Ended::Rejected(why) => outcomes.extend((0..commands).map(|_| Outcome::Rejected(why.clone()))),
                Ended::Unknown => outcomes.extend((0..commands).map(|_| Outcome::Unknown)),
            }
        }
        outcomes
    }

    /// The shard's time by the best knowledge of this replica: never later than what its leader would say.
    fn best_logical(&self) -> crate::time::LogicalMs {
        let logical = self.inner.core.look(|machine, _| machine.logical());
        self.inner.lead.best_now(logical).logical
    }

    /// Encodes and queues `commands`.
    fn submit(&self, commands: Vec<M::Command>) -> Vec<Part<M::Answer>> {
        let config = &self.inner.parts.config;
        let (commands_max, bytes_max) = (config.entry_commands_max, config.entry_bytes_max);
        let gathered = Vec::with_capacity(commands.len().min(commands_max));
        let mut cutter = Cutter { queue: &self.inner.queue, commands: gathered, body: Vec::new(), parts: Vec::new() };
        let room = self.inner.parts.room.level();
        for command in commands {
            if room.admits(M::growth(&command)) {
                cutter.add(command, commands_max, bytes_max);
            } else {
                cutter.refuse(Rejected::NoRoom);
            }
        }
        cutter.submit();
        cutter.parts
    }
}
