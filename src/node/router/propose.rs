//! Commands of accounts.
//!
//! Commands for one shard go as one. Where a call has commands for many shards, as a stream's messages have, the first attempt
//! sends one frame to each node for all that it leads, and hands in at once all that is led here; a shard of which that
//! brought nothing goes on by itself.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{join, join_all};

use crate::ids::{GroupId, NodeId, RequestId, ShardId};
use crate::node::leaders::Lead;
use crate::node::shards::Hosted;
use crate::raft::{Outcome, Priority, Rejected, ShardMachine, encode_commands};
use crate::telemetry::OutcomeLabels;
use crate::time::MonotonicMs;
use crate::view::{AccountCommand, Command, Envelope, FirstSent};

use super::attempt::Attempts;
use super::wire::{self, Ended, Head, Share, ShareTold, Told};
use super::{Call, Committed, NoAnswer, Proposed, RETRY_AFTER_MS, RouteError, Router, Sent, Server, Target};

/// What one attempt brought for one command.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every one is the large variant")]
enum Step {
    Ended(Proposed),
    Again,
    /// Not proposed either, but there is a leader: it has not come to it in time.
    Late,
    Unknown,
}

fn is_report(envelope: &Envelope) -> bool {
    matches!(envelope.command, Command::Account(_, AccountCommand::ReportProgress(_)))
}

/// Who was asked in vain, and who leads instead, as that node says.
type Corrected = (Lead, Option<Lead>);

/// The commands of one shard among those of a call, and where they stand on its board.
struct Portion {
    shard: ShardId,
    envelopes: Arc<Vec<Envelope>>,
    places: Range<usize>,
}

impl Portion {
    fn group(&self) -> GroupId {
        self.shard.into()
    }
}

/// What has become of all commands of a call.
#[derive(Default)]
struct Board {
    ended: Vec<Option<Proposed>>,
    /// By command: whether it was proposed with an unknown end.
    unknown: Vec<bool>,
    /// By command: whether it was in the hands of a leader.
    met: Vec<bool>,
}

impl Board {
    fn add(&mut self, shard: ShardId, envelopes: Vec<Envelope>) -> Portion {
        let places = self.ended.len()..self.ended.len() + envelopes.len();
        self.ended.resize_with(places.end, || None);
        self.unknown.resize(places.end, false);
        self.met.resize(places.end, false);
        Portion { shard, envelopes: Arc::new(envelopes), places }
    }

    fn note(&mut self, place: Option<usize>, step: Step) {
        let Some(place) = place else { return };
        self.met[place] |= matches!(step, Step::Ended(_) | Step::Late);
        match step {
            Step::Ended(how) => self.ended[place] = Some(how),
            Step::Again | Step::Late => {}
            Step::Unknown => self.unknown[place] = true,
        }
    }

    /// All of a shard's were sent, and no answer came.
    fn unknown(&mut self, portion: &Portion) {
        self.unknown[portion.places.clone()].fill(true);
    }

    /// A shard's commands, to go on with; `None` when all have ended.
    fn open(&mut self, portion: &Portion) -> Option<Asked> {
        let ended = &mut self.ended[portion.places.clone()];
        if ended.iter().all(Option::is_some) {
            return None;
        }
        Some(Asked {
            shard: portion.shard,
            envelopes: Arc::clone(&portion.envelopes),
            ages: Vec::new(),
            first: portion.places.start,
            ended: ended.iter_mut().map(Option::take).collect(),
            unknown: self.unknown[portion.places.clone()].to_vec(),
            met_leader: self.met[portion.places.clone()].contains(&true),
        })
    }

    fn close(&mut self, asked: Asked) {
        let places = asked.first..asked.first + asked.ended.len();
        self.unknown[places.clone()].copy_from_slice(&asked.unknown);
        for (place, ended) in places.zip(asked.ended) {
            self.ended[place] = ended;
        }
    }

    fn finish(self, shares: &[Portion], no_leader: impl Fn(ShardId) -> RouteError) -> Vec<Proposed> {
        let shards = shares.iter().flat_map(|portion| portion.places.clone().map(|_| portion.shard));
        let each = self.ended.into_iter().zip(self.unknown).zip(shards);
        let mut finished = Vec::with_capacity(shares.last().map_or(0, |portion| portion.places.end));
        finished.extend(each.map(|((ended, unknown), shard)| finish(ended, unknown, || no_leader(shard))));
        finished
    }
}

/// How a command ended, after the last attempt.
fn finish(ended: Option<Proposed>, unknown: bool, no_leader: impl FnOnce() -> RouteError) -> Proposed {
    match ended {
        // What was tried before may have been committed, whatever the last attempt says.
        Some(Proposed::Rejected(_)) | None if unknown => Proposed::Unknown,
        Some(how) => how,
        None => Proposed::Rejected(no_leader()),
    }
}

/// The commands of a call for one shard that goes on by itself, and what has become of them.
struct Asked {
    shard: ShardId,
    envelopes: Arc<Vec<Envelope>>,
    /// When each was sent for the first time before this call, in milliseconds; empty until that matters.
    ages: Vec<u64>,
    /// Where the first stands on the call's board.
    first: usize,
    ended: Vec<Option<Proposed>>,
    unknown: Vec<bool>,
    /// Some attempt has reached a leader that answered: there is one, however slow.
    met_leader: bool,
}

impl Asked {
    fn new(shard: ShardId, envelope: Envelope) -> Self {
        let envelopes = Arc::new(vec![envelope]);
        Self {
            shard,
            envelopes,
            ages: Vec::new(),
            first: 0,
            ended: vec![None],
            unknown: vec![false],
            met_leader: false,
        }
    }

    /// Whether no attempt has met a leader, or may have.
    fn is_leaderless(&self) -> bool {
        !self.met_leader && !self.unknown.contains(&true)
    }

    fn group(&self) -> GroupId {
        self.shard.into()
    }

    fn is_done(&self) -> bool {
        self.ended.iter().all(Option::is_some)
    }

    /// What may have been done before says how long ago that was: the state may have forgotten it since. What was certainly
    /// never proposed is as new as at first.
    fn grow_older(&mut self, waited_ms: u64) {
        let grows = |one: &Envelope, unknown: bool| one.request_id.is_some() && (unknown || one.first_sent.is_some());
        if !self.envelopes.iter().zip(&self.unknown).any(|(one, unknown)| grows(one, *unknown)) {
            return;
        }
        if self.ages.is_empty() {
            self.ages.extend(self.envelopes.iter().map(age_ms));
        }
        let aged = Arc::make_mut(&mut self.envelopes).iter_mut().zip(&self.ages).zip(&self.unknown);
        for ((envelope, age_ms), _) in aged.filter(|((envelope, _), unknown)| grows(envelope, **unknown)) {
            envelope.first_sent = Some(FirstSent::AgoMs(age_ms.saturating_add(waited_ms)));
        }
    }

    /// Those that have not ended, and where they stand.
    fn open(&self) -> (Vec<usize>, Arc<Vec<Envelope>>) {
        let open: Vec<usize> = (0..self.ended.len()).filter(|at| self.ended[*at].is_none()).collect();
        let envelopes = match open.len() == self.envelopes.len() {
            true => Arc::clone(&self.envelopes),
            false => Arc::new(open.iter().map(|at| self.envelopes[*at].clone()).collect()),
        };
        (open, envelopes)
    }

    /// Takes in what an attempt brought for the commands at `open`.
    fn note(&mut self, open: Vec<usize>, steps: Vec<Step>) {
        for (at, step) in open.into_iter().zip(steps) {
            self.met_leader |= matches!(step, Step::Ended(_) | Step::Late);
            match step {
                Step::Ended(how) => self.ended[at] = Some(how),
                Step::Again | Step::Late => {}
                Step::Unknown => self.unknown[at] = true,
            }
        }
    }
}

impl Router {
    /// Proposes one account's command.
    pub async fn propose(&self, mut envelope: Envelope, call: &Call) -> Proposed {
        let shard = match envelope.account().map(|account| self.shard_of(account)) {
            Some(Ok(shard)) => shard,
            Some(Err(error)) => return Proposed::Rejected(error),
            None => return Proposed::Rejected(RouteError::Failed("a command without an account".to_string())),
        };
        self.make_repeatable(&mut envelope);
        let mut asked = Asked::new(shard, envelope);
        let (came, began) = (tokio::time::Instant::now(), self.parts().clock.monotonic());
        let accepted_from = self.accepted_from(shard, &asked.envelopes[0], call);
        self.go_on(&mut asked, Attempts::new(self.parts(), call), accepted_from, began, call).await;
        let unknown = asked.unknown.contains(&true);
        let mut ended = finish(asked.ended.pop().flatten(), unknown, || self.no_leader(shard));
        self.note_led(shard, &ended, asked.is_leaderless(), began);
        if self.may_be_accepted(&asked, accepted_from)
            && let Proposed::Rejected(why @ (RouteError::NoLeader { .. } | RouteError::Moving(_))) = ended
        {
            ended = self.accept(&asked.envelopes[0], why).await;
        }
        let is_report = asked.envelopes.iter().map(is_report);
        self.count_proposed(std::slice::from_ref(&ended), is_report, came.elapsed());
        ended
    }

    /// Proposes many commands of many shards, each shard's in their order, and says how each ended: one after the other, as
    /// they stand in `shares`.
    pub async fn propose_all(&self, shares: Vec<(ShardId, Vec<Envelope>)>, call: &Call) -> Vec<Proposed> {
        let mut board = Board::default();
        let shares: Vec<Portion> = shares
            .into_iter()
            .map(|(shard, mut envelopes)| {
                envelopes.iter_mut().for_each(|envelope| self.make_repeatable(envelope));
                board.add(shard, envelopes)
            })
            .collect();
        let mut attempts = Attempts::new(self.parts(), call);
        let (came, began) = (tokio::time::Instant::now(), self.parts().clock.monotonic());
        if let Some(timeout) = attempts.next().await {
            let stale = self.ask_all(&shares, &mut board, &attempts, timeout, call).await;
            let mut rest: Vec<(Asked, Option<MonotonicMs>, Option<Corrected>)> = Vec::new();
            for (at, portion) in shares.iter().enumerate() {
                if let Some(asked) = board.open(portion) {
                    let told = stale.get(&at).copied();
                    let accepted_from = self.accepted_from(portion.shard, &asked.envelopes[0], call);
                    rest.push((asked, accepted_from, told));
                }
            }
            let going = rest.into_iter().map(|(mut asked, accepted_from, told)| async move {
                let attempts = Attempts::after_first(self.parts(), call, asked.group(), told);
                self.go_on(&mut asked, attempts, accepted_from, began, call).await;
                self.accept_rest(&mut asked, accepted_from, began).await;
                asked
            });
            for asked in join_all(going).await {
                board.close(asked);
            }
        }
        let ended = board.finish(&shares, |shard| self.no_leader(shard));
        let are_reports = shares.iter().flat_map(|portion| portion.envelopes.iter().map(is_report));
        self.count_proposed(&ended, are_reports, came.elapsed());
        ended
    }

    /// Accepts what has found no leader for certain.
    async fn accept_rest(&self, asked: &mut Asked, accepted_from: Option<MonotonicMs>, began: MonotonicMs) {
        let (no_leader, leaderless) = (|| self.no_leader(asked.shard), asked.is_leaderless());
        let open = |at: &usize| asked.ended[*at].is_none() && !asked.unknown[*at];
        let open: Vec<usize> = (0..asked.ended.len()).filter(open).collect();
        match asked.ended.iter().flatten().find(|how| matches!(how, Proposed::Committed(_))) {
            Some(committed) => self.note_led(asked.shard, committed, leaderless, began),
            None if open.is_empty() => {}
            None => self.note_led(asked.shard, &Proposed::Rejected(no_leader()), leaderless, began),
        }
        if self.may_be_accepted(asked, accepted_from) {
            let accepting = open.iter().map(|at| self.accept(&asked.envelopes[*at], no_leader()));
            let accepted = join_all(accepting).await;
            open.into_iter().zip(accepted).for_each(|(at, how)| asked.ended[at] = Some(how));
        }
    }

    /// Whether what is still open has waited long enough for a leader, and has certainly met none.
    fn may_be_accepted(&self, asked: &Asked, accepted_from: Option<MonotonicMs>) -> bool {
        asked.is_leaderless() && accepted_from.is_some_and(|from| self.parts().clock.monotonic() >= from)
    }

    /// Tries for one shard until all its commands have ended or the time is over, or what no leader has met can be accepted. The call has
    /// begun at `began`.
    async fn go_on(
        &self,
        asked: &mut Asked,
        mut attempts: Attempts<'_>,
        accepted_from: Option<MonotonicMs>,
        began: MonotonicMs,
        call: &Call,
    ) {
        let group = asked.group();
        while let Some(timeout) = attempts.next().await {
            if attempts.count() > 0 && self.may_be_accepted(asked, accepted_from) {
                break;
            }
            asked.grow_older(self.parts().clock.monotonic().since(began));
            let (open, envelopes) = asked.open();
            let steps = match self.target(group, &attempts) {
                // Proposed now, its outcome would be unknown.
                Some(Target::Here(hosted)) if hosted.has_lost_quorum() => continue,
                Some(Target::Here(hosted)) => self.propose_here(&hosted, envelopes, timeout).await,
                Some(Target::There(lead)) => {
                    let route = self.route(group, Some(lead.replica), timeout, call);
                    let frame = wire::encode_propose(&route, &envelopes);
                    match self.forward(lead, group, frame, open.len(), timeout, &mut attempts).await {
                        Sent::Told(Told::Proposed(items)) if items.len() == open.len() => {
                            let by = Server { node: lead.node, forwarded: true };
                            items.into_iter().map(|item| from_wire(item, by)).collect()
                        }
                        Sent::NothingDone => continue,
                        Sent::Full => vec![from_wire(Ended::Overloaded, self.by_here()); open.len()],
                        Sent::Told(_) | Sent::Unknown => vec![Step::Unknown; open.len()],
                    }
                }
                None => continue,
            };
            asked.note(open, steps);
            if asked.is_done() {
                break;
            }
        }
    }

    /// The first attempt for many shards: a frame to each node that leads some, and all that is led here. Gives, by share, who was
    /// asked in vain and who leads instead.
    async fn ask_all(
        &self,
        shares: &[Portion],
        board: &mut Board,
        attempts: &Attempts<'_>,
        timeout: Duration,
        call: &Call,
    ) -> BTreeMap<usize, Corrected> {
        let mut here = Vec::new();
        let mut there: BTreeMap<NodeId, Vec<(usize, Lead)>> = BTreeMap::new();
        for (at, portion) in shares.iter().enumerate() {
            match self.target(portion.group(), attempts) {
                Some(Target::Here(hosted)) if hosted.has_lost_quorum() => {}
                Some(Target::Here(hosted)) => {
                    here.extend(
                        hosted.shard().map(|group| (at, group.submit(Arc::clone(&portion.envelopes), timeout))),
                    );
                }
                Some(Target::There(lead)) => there.entry(lead.node).or_default().push((at, lead)),
                None => {}
            }
        }
        let head = self.head(timeout, call);
        let sending = there.into_iter().map(|(node, leads)| {
            let frame = wire::encode_propose_all(&head, &wire_shares(shares, &leads));
            let items = leads.iter().map(|(at, _)| shares[*at].envelopes.len()).sum();
            async move { (node, leads, self.send(node, (frame, items), Priority::Report, timeout).await) }
        });
        let ended_here = async {
            for (_, submitted) in &mut here {
                submitted.wait().await;
            }
        };
        // What is known when the time is over is told by `end`.
        let (told, _) = join(join_all(sending), self.patiently(timeout, ended_here)).await;
        let by = Server { node: self.node(), forwarded: false };
        for (at, submitted) in here {
            let mut places = shares[at].places.clone();
            submitted.end(|outcome| board.note(places.next(), from_outcome(outcome, by)));
        }
        let mut stale = BTreeMap::new();
        for (node, leads, told) in told {
            self.note_told(shares, board, &mut stale, (node, leads, told));
        }
        stale
    }

    /// Takes in what a node has answered to a frame for many shards.
    fn note_told(
        &self,
        shares: &[Portion],
        board: &mut Board,
        stale: &mut BTreeMap<usize, Corrected>,
        (node, leads, told): (NodeId, Vec<(usize, Lead)>, Result<Told, NoAnswer>),
    ) {
        let leaders = &self.parts().leaders;
        let by = Server { node, forwarded: true };
        let (told, ended) = match told {
            Ok(Told::ProposedAll(told, ended)) if fits(shares, &leads, &told, &ended) => (told, ended),
            Err(NoAnswer::Full) => {
                for place in leads.iter().flat_map(|(at, _)| shares[*at].places.clone()) {
                    board.note(Some(place), from_wire(Ended::Overloaded, by));
                }
                return;
            }
            other => {
                for (at, lead) in leads {
                    if matches!(other, Err(NoAnswer::NotSent | NoAnswer::Broken)) {
                        leaders.doubt(shares[at].group(), lead);
                    }
                    if !matches!(other, Err(NoAnswer::NotSent)) {
                        board.unknown(&shares[at]);
                    }
                }
                return;
            }
        };
        let mut ended = ended.into_iter();
        for ((at, lead), told) in leads.into_iter().zip(told) {
            let portion = &shares[at];
            match told {
                ShareTold::Proposed => {
                    let items = portion.places.clone().zip(&mut ended);
                    items.for_each(|(place, item)| board.note(Some(place), from_wire(item, by)));
                }
                ShareTold::Stale(better) => {
                    leaders.doubt(portion.group(), lead);
                    stale.insert(at, (lead, better));
                }
                ShareTold::Malformed(why) => {
                    tracing::warn!(to = %node, why, "another node can't read our commands");
                }
            }
        }
    }

    fn by_here(&self) -> Server {
        Server { node: self.node(), forwarded: false }
    }

    fn head(&self, timeout: Duration, call: &Call) -> Head {
        let epoch = self.parts().meta.load().epoch;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        Head { epoch, timeout_ms, trace: call.trace.clone() }
    }

    /// Counts how commands ended, of which those are progress reports.
    fn count_proposed(&self, all: &[Proposed], are_reports: impl Iterator<Item = bool>, took: Duration) {
        self.parts().metrics.commands.note(took, all.len());
        let committed = all.iter().filter(|how| matches!(how, Proposed::Committed(_))).count() as u64;
        let label = |how: &Proposed| match how {
            Proposed::Committed(_) => "committed",
            Proposed::Accepted(_) => "accepted",
            Proposed::Rejected(RouteError::NoLeader { .. } | RouteError::Moving(_)) => "no_leader",
            Proposed::Rejected(_) => "rejected",
            Proposed::Unknown => "unknown",
        };
        let accepted = all.iter().filter(|how| matches!(how, Proposed::Accepted(_))).count() as u64;
        self.inner.accepted.fetch_add(accepted, Ordering::Relaxed);
        let count = |outcome, by| self.parts().metrics.proposals.get_or_create(&OutcomeLabels { outcome }).inc_by(by);
        let reports =
            all.iter().zip(are_reports).filter(|(how, is)| *is && matches!(how, Proposed::Committed(_))).count();
        if committed > 0 {
            self.inner.reports.fetch_add(reports as u64, Ordering::Relaxed);
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
        let idempotent = is_report(envelope)
            || !matches!(&envelope.command, Command::Account(..))
            || matches!(&envelope.command, Command::Account(_, AccountCommand::HandOff(_)));
        if idempotent || envelope.request_id.is_some() {
            return;
        }
        let made = self.inner.made.fetch_add(1, Ordering::Relaxed);
        let text = format!("node-{:x}-{:x}-{made:x}", self.parts().node.0, self.parts().generation.0);
        envelope.request_id = RequestId::new(text).ok();
    }

    async fn propose_here(&self, hosted: &Hosted, envelopes: Arc<Vec<Envelope>>, timeout: Duration) -> Vec<Step> {
        let Some(group) = hosted.shard() else { return vec![Step::Again; envelopes.len()] };
        let by = Server { node: self.parts().node, forwarded: false };
        let mut submitted = group.submit(envelopes, timeout);
        // What is known when the time is over is told by `end`.
        self.patiently(timeout, submitted.wait()).await;
        let mut steps = Vec::with_capacity(1);
        submitted.end(|outcome| steps.push(from_outcome(outcome, by)));
        steps
    }
}

/// How long ago a request was sent for the first time, as it says.
fn age_ms(envelope: &Envelope) -> u64 {
    match envelope.first_sent {
        Some(FirstSent::AgoMs(ago)) => ago,
        Some(FirstSent::At(_)) | None => 0,
    }
}

/// Whether an answer says something of every share, and of every command of those that were proposed.
fn fits(shares: &[Portion], leads: &[(usize, Lead)], told: &[ShareTold], ended: &[Ended]) -> bool {
    let proposed = leads.iter().zip(told).filter(|(_, told)| matches!(told, ShareTold::Proposed));
    let commands: usize = proposed.map(|((at, _), _)| shares[*at].envelopes.len()).sum();
    told.len() == leads.len() && ended.len() == commands
}

/// The shares of a frame for the shards at `leads`.
fn wire_shares(shares: &[Portion], leads: &[(usize, Lead)]) -> Vec<Share> {
    let share = |(at, lead): &(usize, Lead)| {
        let portion = &shares[*at];
        let count = u32::try_from(portion.envelopes.len()).expect("a call's commands are bounded far below this");
        let body = encode_commands::<ShardMachine>(&portion.envelopes);
        Share { group: portion.group(), replica: lead.replica, count, body }
    };
    leads.iter().map(share).collect()
}

fn from_outcome(outcome: Outcome<crate::view::Applied>, by: Server) -> Step {
    let rejected = |why| Step::Ended(Proposed::Rejected(why));
    match outcome {
        Outcome::Committed(applied) => {
            Step::Ended(Proposed::Committed(Committed { answer: applied.answer, revision: applied.revision, by }))
        }
        // What isn't switched on yet soon will be.
        Outcome::Rejected(Rejected::NotLeader { .. } | Rejected::NotYet | Rejected::Stopped) => Step::Again,
        Outcome::Rejected(Rejected::Overloaded) => rejected(RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
        Outcome::Rejected(Rejected::NoRoom) => rejected(RouteError::DiskFull),
        // The time of this attempt, not of the call: the next one sees whether there is more.
        Outcome::Rejected(Rejected::DeadlineExceeded) => Step::Late,
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
        Ended::NotLeader => Step::Again,
        Ended::DeadlineExceeded => Step::Late,
        Ended::Overloaded => rejected(RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
        Ended::TooLarge(bytes, max) => rejected(RouteError::TooLarge { bytes, max }),
        Ended::NoRoom => rejected(RouteError::DiskFull),
        Ended::Unknown => Step::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AccountId;
    use crate::view::StreamPolicy;

    #[test]
    fn what_may_have_been_proposed_is_never_told_as_refused_for_load() {
        let refused = || Some(Proposed::Rejected(RouteError::Overloaded { retry_after_ms: 1 }));
        let no_leader = || RouteError::NoMetaLeader;
        assert_eq!(finish(refused(), true, no_leader), Proposed::Unknown);
        assert_eq!(Some(finish(refused(), false, no_leader)), refused());
    }

    #[test]
    fn only_what_may_have_been_proposed_before_grows_older() {
        let envelope = || {
            let command = AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(1));
            Envelope::request(RequestId::new("r").unwrap(), AccountId::new("a").unwrap(), command)
        };
        let mut asked = Asked::new(ShardId(0), envelope());
        asked.grow_older(50);
        assert_eq!(asked.envelopes[0].first_sent, None, "it was certainly never proposed");
        asked.unknown[0] = true;
        asked.grow_older(70);
        assert_eq!(asked.envelopes[0].first_sent, Some(FirstSent::AgoMs(70)));
        let mut old = Asked::new(ShardId(0), Envelope { first_sent: Some(FirstSent::AgoMs(9)), ..envelope() });
        old.grow_older(1);
        old.grow_older(2);
        assert_eq!(old.envelopes[0].first_sent, Some(FirstSent::AgoMs(11)), "by the time since it came");
    }
}
