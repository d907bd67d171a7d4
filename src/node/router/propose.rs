//! Commands of accounts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::ids::{GroupId, RequestId, ShardId};
use crate::node::shards::Hosted;
use crate::raft::{Outcome, Rejected};
use crate::telemetry::OutcomeLabels;
use crate::view::{AccountCommand, Command, Envelope, FirstSent};

use super::attempt::Attempts;
use super::wire::{self, Ended, Told};
use super::{Call, Committed, Proposed, RETRY_AFTER_MS, RouteError, Router, Sent, Server, Target};

/// What one attempt brought for one command.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every one is the large variant")]
enum Step {
    Ended(Proposed),
    Again,
    Unknown,
}

impl Router {
    /// Proposes one account's command.
    pub async fn propose(&self, envelope: Envelope, call: &Call) -> Proposed {
        let shard = match envelope.account().map(|account| self.shard_of(account)) {
            Some(Ok(shard)) => shard,
            Some(Err(error)) => return Proposed::Rejected(error),
            None => return Proposed::Rejected(RouteError::Failed("a command without an account".to_string())),
        };
        let ended = self.propose_many(shard, vec![envelope], call).await.pop();
        ended.unwrap_or(Proposed::Unknown)
    }

    /// Proposes many commands of one shard, in their order, and says how each ended.
    pub async fn propose_many(&self, shard: ShardId, mut envelopes: Vec<Envelope>, call: &Call) -> Vec<Proposed> {
        envelopes.iter_mut().for_each(|envelope| self.make_repeatable(envelope));
        let group = GroupId::from(shard);
        let mut ended: Vec<Option<Proposed>> = vec![None; envelopes.len()];
        let mut unknown = vec![false; envelopes.len()];
        let mut attempts = Attempts::new(self.parts(), call);
        let ages: Vec<u64> = envelopes.iter().map(age_ms).collect();
        let began = self.parts().clock.monotonic();
        while let Some(timeout) = attempts.next().await {
            let waited = self.parts().clock.monotonic().since(began);
            for (envelope, age) in envelopes.iter_mut().zip(&ages) {
                grow_older(envelope, *age, waited, attempts.count());
            }
            let open: Vec<usize> = (0..envelopes.len()).filter(|i| ended[*i].is_none()).collect();
            let outcome = match self.target(group, &attempts) {
                Some(Target::Here(hosted)) => self.propose_here(&hosted, &envelopes, &open, timeout).await,
                Some(Target::There(lead)) => {
                    let asked: Vec<&Envelope> = open.iter().map(|i| &envelopes[*i]).collect();
                    let route = self.route(group, Some(lead.replica), timeout, call);
                    let frame = wire::encode_propose(&route, &asked);
                    match self.forward(lead, group, frame, open.len(), timeout, &mut attempts).await {
                        Sent::Told(Told::Proposed(items)) if items.len() == open.len() => {
                            let by = Server { node: lead.node, forwarded: true };
                            items.into_iter().map(|item| from_wire(item, by)).collect()
                        }
                        Sent::NothingDone => continue,
                        Sent::Told(_) | Sent::Unknown => vec![Step::Unknown; open.len()],
                    }
                }
                None => continue,
            };
            for (at, step) in open.into_iter().zip(outcome) {
                match step {
                    Step::Ended(how) => ended[at] = Some(how),
                    Step::Again => {}
                    Step::Unknown => unknown[at] = true,
                }
            }
            if ended.iter().all(Option::is_some) {
                break;
            }
        }
        let finish = |(ended, unknown): (Option<Proposed>, bool)| match ended {
            // What was tried before may have been committed, whatever the last attempt says.
            Some(Proposed::Rejected(_)) | None if unknown => Proposed::Unknown,
            Some(how) => how,
            None => Proposed::Rejected(self.no_leader(shard)),
        };
        let all: Vec<Proposed> = ended.into_iter().zip(unknown).map(finish).collect();
        self.count_proposed(&all);
        all
    }

    fn count_proposed(&self, all: &[Proposed]) {
        let committed = all.iter().filter(|how| matches!(how, Proposed::Committed(_))).count() as u64;
        let label = |how: &Proposed| match how {
            Proposed::Committed(_) => "committed",
            Proposed::Rejected(RouteError::NoLeader { .. } | RouteError::Moving(_)) => "no_leader",
            Proposed::Rejected(_) => "rejected",
            Proposed::Unknown => "unknown",
        };
        let count = |outcome, by| self.parts().metrics.proposals.get_or_create(&OutcomeLabels { outcome }).inc_by(by);
        if committed > 0 {
            self.inner.acknowledged.fetch_add(committed, Ordering::Relaxed);
            count("committed", committed);
        }
        for how in all.iter().filter(|how| !matches!(how, Proposed::Committed(_))) {
            if label(how) == "no_leader" {
                self.parts().metrics.route_no_leader.inc();
            }
            count(label(how), 1);
        }
    }

    /// Gives a request id to a command that isn't idempotent and has none.
    fn make_repeatable(&self, envelope: &mut Envelope) {
        let idempotent = !matches!(&envelope.command, Command::Account(_, command) if !matches!(command, AccountCommand::ReportProgress(_)));
        if idempotent || envelope.request_id.is_some() {
            return;
        }
        let made = self.inner.made.fetch_add(1, Ordering::Relaxed);
        let text = format!("node-{:x}-{:x}-{made:x}", self.parts().node.0, self.parts().generation.0);
        envelope.request_id = RequestId::new(text).ok();
    }

    async fn propose_here(
        &self,
        hosted: &Hosted,
        envelopes: &[Envelope],
        open: &[usize],
        timeout: Duration,
    ) -> Vec<Step> {
        let Some(group) = hosted.shard() else { return vec![Step::Again; open.len()] };
        let commands = open.iter().map(|i| envelopes[*i].clone()).collect();
        let by = Server { node: self.parts().node, forwarded: false };
        let outcomes = group.propose(commands, timeout).await;
        outcomes.into_iter().map(|outcome| from_outcome(outcome, by)).collect()
    }
}

/// How long ago a request was sent for the first time, as it says.
fn age_ms(envelope: &Envelope) -> u64 {
    match envelope.first_sent {
        Some(FirstSent::AgoMs(ago)) => ago,
        Some(FirstSent::At(_)) | None => 0,
    }
}

/// What was tried before says so, and how long ago that was: the state may have forgotten it since.
fn grow_older(envelope: &mut Envelope, age_ms: u64, waited_ms: u64, attempts_before: u32) {
    if envelope.request_id.is_some() && (attempts_before > 0 || envelope.first_sent.is_some()) {
        envelope.first_sent = Some(FirstSent::AgoMs(age_ms.saturating_add(waited_ms)));
    }
}

fn from_outcome(outcome: Outcome<crate::view::Applied>, by: Server) -> Step {
    let rejected = |why| Step::Ended(Proposed::Rejected(why));
    match outcome {
        Outcome::Committed(applied) => {
            Step::Ended(Proposed::Committed(Committed { answer: applied.answer, revision: applied.revision, by }))
        }
        Outcome::Rejected(Rejected::NotLeader { .. } | Rejected::Stopped) => Step::Again,
        Outcome::Rejected(Rejected::Overloaded) => rejected(RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
        Outcome::Rejected(Rejected::NoRoom) => rejected(RouteError::DiskFull),
        // The time of this attempt, not of the call: the next one sees whether there is more.
        Outcome::Rejected(Rejected::DeadlineExceeded) => Step::Again,
        Outcome::Rejected(Rejected::TooLarge { bytes, max }) => {
            rejected(RouteError::TooLarge { bytes: bytes as u64, max: max as u64 })
        }
        Outcome::Unknown => Step::Unknown,
    }
}

fn from_wire(ended: Ended, by: Server) -> Step {
    let rejected = |why| Step::Ended(Proposed::Rejected(why));
    match ended {
        Ended::Committed(answer, revision) => Step::Ended(Proposed::Committed(Committed { answer, revision, by })),
        Ended::NotLeader | Ended::DeadlineExceeded => Step::Again,
        Ended::Overloaded => rejected(RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
        Ended::TooLarge(bytes, max) => rejected(RouteError::TooLarge { bytes, max }),
        Ended::NoRoom => rejected(RouteError::DiskFull),
        Ended::Unknown => Step::Unknown,
    }
}
