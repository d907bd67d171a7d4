//! What is done with what devices say while their shard has no leader: it is accepted, as a hint.
//!
//! After how long is told by the configuration, counted from when this node first found no leader, so that in a long outage nobody waits
//! anew with each report. A call that ends before that, as it does on a node that is cut off, is refused: its client asks another node.
//! A command of which an earlier attempt of the same call may have been proposed is never accepted: its
//! outcome is unknown; nor is one that a leader had in its hands, however late it was. (An earlier *call* of the same report or start may have been, and then handing off does nothing.)

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::ids::{AccountId, ShardId};
use crate::node::hints::{Hints, NotKept};
use crate::node::meta::Intent;
use crate::raft::ReadMode;
use crate::time::MonotonicMs;
use crate::versions::Feature;
use crate::view::{
    AccountCommand, ActiveView, Answer, Command, Directive, Envelope, Outcome, ParkedStart, PlayState, Progressed,
    Query, Reply, Settings, StartView, Started, Stopped, Stretch, ViewKind,
};

use super::{Call, Proposed, RETRY_AFTER_MS, RouteError, Router};

/// How long replicas are asked for what an account may do, and for where a title was left, in ms.
const ASK_MS: u64 = 300;
/// A shard that nobody has called or looked at for so long counts as led until it is found without a leader again, in ms.
const FORGET_MS: u64 = 10_000;

/// After how long without a leader something is accepted, in ms.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Reports and stops.
    pub progress_ms: u64,
    /// Starts.
    pub start_ms: u64,
}

/// Hints, and when they are taken.
pub struct Accepting {
    /// Where they are kept.
    pub hints: Hints,
    /// After how long.
    pub patience: Patience,
    /// Since when each shard was found without a leader, and the last time.
    pub(super) leaderless: Mutex<BTreeMap<ShardId, (MonotonicMs, MonotonicMs)>>,
}

impl Accepting {
    /// Nothing was found yet.
    pub fn new(hints: Hints, patience: Patience) -> Self {
        Self { hints, patience, leaderless: Mutex::default() }
    }

    /// How long a shard was found without a leader by now, in ms.
    pub(super) fn leaderless_ms(&self, shard: ShardId, now: MonotonicMs) -> u64 {
        let known = self.leaderless.lock().get(&shard).copied();
        known.filter(|(_, last)| now.since(*last) <= FORGET_MS).map_or(0, |(since, _)| now.since(since))
    }

    /// Takes in how a call that came at `came` has ended.
    pub(super) fn found(&self, shard: ShardId, led: bool, came: MonotonicMs, now: MonotonicMs) {
        let mut leaderless = self.leaderless.lock();
        if led {
            leaderless.remove(&shard);
            return;
        }
        let known = leaderless.entry(shard).or_insert((came, now));
        let since = if came.since(known.1) <= FORGET_MS { known.0.min(came) } else { came };
        *known = (since, now);
    }

    /// Looks again at what was found without a leader: it still is, or it is led, whether anybody has called or not.
    fn look(&self, is_led: impl Fn(ShardId) -> bool, now: MonotonicMs) {
        let known: Vec<ShardId> = self.leaderless.lock().keys().copied().collect();
        let led: Vec<ShardId> = known.into_iter().filter(|shard| is_led(*shard)).collect();
        let mut leaderless = self.leaderless.lock();
        leaderless.retain(|shard, _| !led.contains(shard));
        leaderless.values_mut().for_each(|(_, last)| *last = now);
    }
}

/// What can be accepted.
enum Kind<'e> {
    Report(&'e crate::view::ReportProgress),
    Stop(&'e crate::view::StopView),
    Start(&'e StartView),
}

fn kind(envelope: &Envelope) -> Option<(&AccountId, Kind<'_>)> {
    let Command::Account(account, command) = &envelope.command else { return None };
    Some((
        account,
        match command {
            AccountCommand::ReportProgress(report) => Kind::Report(report),
            // What follows would have to be let in in the same step.
            AccountCommand::StopView(stop) if stop.next.is_none() => Kind::Stop(stop),
            AccountCommand::StartView(start) => Kind::Start(start),
            _ => return None,
        },
    ))
}

impl Router {
    fn accepting(&self) -> Option<&Accepting> {
        let meta = self.parts().meta.load();
        // Who is about to go accepts nothing more: it could not be handed off in time.
        let stays = || match meta.nodes.get(&self.node()).map(|record| record.intent) {
            Some(Intent::Removed) => false,
            Some(Intent::Draining) => meta.rests_on(self.node()),
            Some(Intent::Joining | Intent::Active) | None => true,
        };
        self.parts().accepting.as_ref().filter(|_| meta.cluster_version.has(Feature::Hints) && stays())
    }

    /// Looks which of the shards that were found without a leader have one now. To be called some times a second.
    pub(crate) fn look_who_is_led(&self) {
        if let Some(accepting) = &self.parts().accepting {
            accepting.look(|shard| self.is_led(shard), self.parts().clock.monotonic());
        }
    }

    /// Takes in how a call has ended that has met no leader, or one.
    pub(super) fn note_led(&self, shard: ShardId, ended: &Proposed, leaderless: bool, came: MonotonicMs) {
        let Some(accepting) = &self.parts().accepting else { return };
        let now = self.parts().clock.monotonic();
        match ended {
            Proposed::Committed(_) => accepting.found(shard, true, came, now),
            Proposed::Rejected(RouteError::NoLeader { .. } | RouteError::Moving(_)) if leaderless => {
                accepting.found(shard, false, came, now);
            }
            _ => {}
        }
    }

    /// From when on a command is accepted if no leader is met until then; `None`: it never is.
    pub(super) fn accepted_from(&self, shard: ShardId, envelope: &Envelope, call: &Call) -> Option<MonotonicMs> {
        let accepting = self.accepting()?;
        let (_, kind) = kind(envelope)?;
        let now = self.parts().clock.monotonic();
        let left = call.deadline.since(now);
        // What was found before counts only as long as nobody is heard to lead.
        let found = if self.is_led(shard) { 0 } else { accepting.leaderless_ms(shard, now) };
        let wait = match kind {
            // Within any deadline: what is said last counts, and it is asked again in a minute only.
            Kind::Report(_) | Kind::Stop(_) => accepting.patience.progress_ms.saturating_sub(found).min(left / 4 * 3),
            Kind::Start(_) => accepting.patience.start_ms.saturating_sub(found),
        };
        let from = now.plus(wait);
        let leaves_time = from.plus(ASK_MS.min(left / 10)) < call.deadline;
        leaves_time.then_some(from)
    }

    /// Accepts a command for which no leader was found, if it can be.
    pub(super) async fn accept(&self, envelope: &Envelope, no_leader: RouteError) -> Proposed {
        let (Some(accepting), Some((account, kind))) = (self.accepting(), kind(envelope)) else {
            return Proposed::Rejected(no_leader);
        };
        let id = envelope.request_id.as_ref();
        let kept = match kind {
            Kind::Report(report) => {
                let kept = accepting.hints.report(account, report).await;
                kept.map(|is_latest| self.accepted_report(report, is_latest))
            }
            Kind::Stop(stop) => accepting.hints.stop(account, id, stop).await.map(|()| {
                let (view, position_ms) = (stop.view.clone(), stop.position_ms);
                Answer::Stopped(Box::new(Stopped { view, position_ms, outcome: Outcome::Nothing, next: None }))
            }),
            Kind::Start(start) => match self.let_in(accepting, account, envelope, start).await {
                Some(kept) => kept,
                None => return Proposed::Rejected(no_leader),
            },
        };
        match kept {
            Ok(answer) => Proposed::Accepted(answer),
            Err(NotKept::Full) => Proposed::Rejected(RouteError::Overloaded { retry_after_ms: RETRY_AFTER_MS * 5 }),
            // Of a view that was stopped, or of another one by that name, only the shard can tell.
            Err(NotKept::Broken | NotKept::Taken) => Proposed::Rejected(no_leader),
            Err(NotKept::Unknown) => Proposed::Unknown,
        }
    }

    /// The figures that all shards shall work by, as far as is known here.
    fn usual(&self) -> Settings {
        self.parts().meta.load().settings.clone()
    }

    fn accepted_report(&self, report: &crate::view::ReportProgress, is_latest: bool) -> Answer {
        let settings = self.usual();
        Answer::Progressed(Progressed {
            applied: is_latest,
            interval_ms: settings.told_interval_ms(&report.view, report.sequence, Stretch::NONE),
            expires_at: self.parts().clock.wall().plus(settings.silence_ms(Stretch::NONE)),
            directive: Directive::Continue,
        })
    }

    /// Lets a view start; `None` where the account's policy is against it, or may be.
    async fn let_in(
        &self,
        accepting: &Accepting,
        account: &AccountId,
        envelope: &Envelope,
        start: &StartView,
    ) -> Option<Result<Answer, NotKept>> {
        let id = envelope.request_id.as_ref();
        if let Some(known) = accepting.hints.started(account, &start.view) {
            // It is written again: nobody knows whether the first time is on the disk yet.
            let kept = accepting.hints.start(account, id, start, known.position_ms).await;
            return Some(kept.map(|(parked, _)| self.let_in_answer(&parked, None, true)));
        }
        let call = Call { trace: Default::default(), deadline: self.parts().clock.monotonic().plus(ASK_MS) };
        let policy = Query::GetStreamPolicy(account.clone());
        let points = Query::GetResumePoints(account.clone(), start.profile.clone(), vec![start.media.title.clone()]);
        let (policy, points) = tokio::join!(
            self.query(policy, ReadMode::Any.into(), &call),
            self.query(points, ReadMode::Any.into(), &call)
        );
        let fail_closed = match policy.map(|served| served.reply) {
            Ok(Reply::StreamPolicy(policy)) => policy.fail_closed,
            // The replica here may know that the account is against it, and could not say so in time: the next attempt will tell.
            _ if self.has_replica_of(account) => return None,
            // Nobody knows what the account wants: what is usual in this cluster.
            _ => self.usual().policy.fail_closed,
        };
        if fail_closed {
            return None;
        }
        let resume_ms = match points.map(|served| served.reply) {
            Ok(Reply::ResumePoints(points)) => {
                points.first().and_then(|state| state.resume.as_ref()).map(|point| point.position_ms)
            }
            _ => None,
        };
        let begins = start.position_ms.or(resume_ms.filter(|_| start.kind.moves_resume_points()));
        let position_ms = if start.kind == ViewKind::Live { begins } else { begins.or(Some(0)) };
        let kept = accepting.hints.start(account, id, start, position_ms).await;
        Some(kept.map(|(parked, repeated)| self.let_in_answer(&parked, resume_ms, repeated)))
    }

    fn has_replica_of(&self, account: &AccountId) -> bool {
        let here = self.shard_of(account).ok().and_then(|shard| self.member_here(shard.into()));
        here.is_some_and(|hosted| hosted.shard().is_some())
    }

    fn let_in_answer(&self, parked: &ParkedStart, resume_ms: Option<u64>, repeated: bool) -> Answer {
        let (start, settings, wall) = (&parked.start, self.usual(), self.parts().clock.wall());
        let view = ActiveView {
            view: start.view.clone(),
            profile: start.profile.clone(),
            device: start.device.clone(),
            media: start.media.clone(),
            kind: start.kind,
            state: PlayState::Playing,
            position_ms: parked.position_ms,
            sequence: 0,
            started_at: wall,
            reported_at: wall,
            watched_ms: 0,
            holds_stream: start.kind.takes_a_stream(),
            degraded: true,
        };
        Answer::Started(Box::new(Started {
            interval_ms: settings.told_interval_ms(&start.view, 0, Stretch::NONE),
            expires_at: wall.plus(settings.silence_ms(Stretch::NONE)),
            resume_ms,
            watched: false,
            repeated,
            brought_back: false,
            continues: None,
            ended: Vec::new(),
            view,
        }))
    }
}
