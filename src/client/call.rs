//! One call over as many attempts as its deadline allows.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::budget::Budget;
use super::endpoints::{Endpoints, Node};
use super::error::{Error, Verdict, decided_by_the_state};
use super::sent::Sent;
use super::watched::{Fate, Watched};
use crate::proto::REQUEST_AGE;
use crate::proto::v1::{self, ErrorReason};
use crate::time::{Clock, MonotonicMs};

/// The first wait between attempts when the cluster doesn't say how long; doubles each time.
const WAIT_MS_MIN: u64 = 10;
/// The longest wait between attempts when the cluster doesn't say how long.
const WAIT_MS_MAX: u64 = 400;

/// What may be done with a call whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing.
    Read,
    /// It carries a request id or a sequence: the cluster does it once, however often it comes.
    Write,
    /// It must not come twice.
    Once,
}

/// Where a call goes and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// Whose leader to ask first.
    pub(super) account: Option<&'a str>,
    pub(super) kind: Kind,
    pub(super) deadline_ms: u64,
    /// How long ago it was sent for the first time, when this is not the first; 0: it is.
    pub(super) age_ms: u64,
}

/// What all calls of a client share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) endpoints: Endpoints,
    pub(super) attempt_ms: u64,
    /// Writes that may be repeated by their callers.
    pub(super) sent: Mutex<Sent>,
    /// Retries of what was refused for load.
    pub(super) budget: Budget,
    random: Mutex<StdRng>,
}

impl Core {
    pub(super) fn new(clock: Arc<dyn Clock>, seed: u64, endpoints: Endpoints, attempt_ms: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { clock, endpoints, attempt_ms, sent: Mutex::default(), budget: Budget::default(), random }
    }

    /// A fresh request id.
    pub(super) fn request_id(&self) -> String {
        let bytes = self.random.lock().random::<[u8; 16]>();
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// How long to wait before attempt `attempt` + 1: what the cluster asks and up to half of it more, or else anything up to
    /// a bound that doubles.
    pub(super) fn wait_ms(&self, after: Option<Duration>, attempt: u32) -> u64 {
        match after {
            Some(after) => {
                let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                ms.saturating_add(self.random.lock().random_range(0..=ms / 2))
            }
            None => {
                let most = (WAIT_MS_MIN << attempt.saturating_sub(1).min(16)).min(WAIT_MS_MAX);
                self.random.lock().random_range(0..=most)
            }
        }
    }

    /// Sends `request` by `send` until it is answered, decided or out of time.
    pub(super) async fn call<Q, A, F, R>(&self, call: Call<'_>, request: Q, send: F) -> Result<A, Error>
    where
        Q: Clone,
        F: Fn(Watched, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_noting(call, request, send).await.map(|(answer, _)| answer)
    }

    /// The same; says, too, whether an attempt before the answered one may have been executed.
    pub(super) async fn call_noting<Q, A, F, R>(&self, call: Call<'_>, request: Q, send: F) -> Result<(A, bool), Error>
    where
        Q: Clone,
        F: Fn(Watched, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let began = self.clock.monotonic();
        let deadline = began.plus(call.deadline_ms);
        self.budget.earn(1);
        // What was sent before this call may have been done.
        let maybe_done = call.age_ms > 0;
        let (last, reason) = ("never tried".into(), v1::ErrorReason::Unspecified);
        let mut progress = Progress { kind: call.kind, attempts: 0, maybe_done, last, reason };
        let mut avoid = None;
        loop {
            let now = self.clock.monotonic();
            let left_ms = deadline.since(now);
            if left_ms == 0 {
                return Err(progress.give_up());
            }
            let node = self.endpoints.pick(call.account, avoid, now);
            // What was certainly never done is as new as at first.
            let repeats = call.kind == Kind::Write && progress.maybe_done;
            let age_ms = repeats.then(|| call.age_ms.saturating_add(now.since(began)));
            let limit_ms = left_ms.min(self.attempt_ms);
            let verdict = match self.attempt(limit_ms, age_ms, &node, &request, &send).await {
                Ok(answer) => {
                    node.is_well();
                    if let (Some(account), false) = (call.account, call.kind == Kind::Read) {
                        self.endpoints.wrote(account, answer.metadata(), &node);
                    }
                    return Ok((answer.into_inner(), progress.maybe_done));
                }
                Err(verdict) => verdict,
            };
            let for_load = verdict.is_for_load();
            let Next { sick, elsewhere, after } = progress.take(verdict)?;
            if for_load && !self.budget.spend() {
                return Err(progress.give_up());
            }
            let now = self.clock.monotonic();
            avoid = elsewhere.then_some(node.index());
            if sick {
                node.is_sick(now)
            } else {
                node.is_well()
            }
            self.pause(after, elsewhere, deadline, now, &progress).await?;
        }
    }

    async fn attempt<Q, A, F, R>(
        &self,
        limit_ms: u64,
        age_ms: Option<u64>,
        node: &Node,
        request: &Q,
        send: &F,
    ) -> Result<Response<A>, Verdict>
    where
        Q: Clone,
        F: Fn(Watched, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let limit = Duration::from_millis(limit_ms);
        let mut request = Request::new(request.clone());
        request.set_timeout(limit);
        if let Some(age_ms) = age_ms {
            request.metadata_mut().insert(REQUEST_AGE, MetadataValue::from(age_ms));
        }
        let fate = Fate::default();
        let channel = Watched::new(node.channel.clone(), fate.clone());
        match tokio::time::timeout(limit, send(channel, request)).await {
            Ok(Ok(answer)) => {
                self.endpoints.learn(answer.metadata(), node, self.clock.monotonic());
                Ok(answer)
            }
            Ok(Err(status)) => {
                self.endpoints.learn(status.metadata(), node, self.clock.monotonic());
                Err(Verdict::of(&status, fate.settle()))
            }
            Err(_) => Err(Verdict::timed_out(limit_ms, fate.settle())),
        }
    }

    /// Waits before the next attempt; gives up at once when the wait would outlast the deadline.
    async fn pause(
        &self,
        after: Option<Duration>,
        elsewhere: bool,
        deadline: MonotonicMs,
        now: MonotonicMs,
        progress: &Progress,
    ) -> Result<(), Error> {
        // Another node is asked at once, as long as there may be one that was not asked yet: what this one asks to wait for, e.g.
        // that it knows the cluster, is its own affair.
        if elsewhere && (progress.attempts as usize) < self.endpoints.len() {
            return Ok(());
        }
        let wait_ms = self.wait_ms(after, progress.attempts);
        if wait_ms >= deadline.since(now) {
            return Err(progress.give_up());
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        Ok(())
    }
}

/// How a call goes on after a failed attempt.
struct Next {
    /// The node is to be left alone for a while.
    sick: bool,
    /// Another node is to be asked.
    elsewhere: bool,
    /// How long the cluster asks to wait.
    after: Option<Duration>,
}

/// What is known about a call after some attempts.
#[derive(Debug)]
struct Progress {
    kind: Kind,
    attempts: u32,
    maybe_done: bool,
    last: String,
    /// The last one that a node gave.
    reason: v1::ErrorReason,
}

impl Progress {
    /// Takes in a failed attempt: the end, or how to go on.
    fn take(&mut self, verdict: Verdict) -> Result<Next, Error> {
        self.attempts = self.attempts.saturating_add(1);
        match verdict {
            // Only the shard's state knows of the attempts before; a node that refuses at its door doesn't.
            Verdict::Final(rejection)
                if self.maybe_done && self.kind != Kind::Read && !decided_by_the_state(rejection.reason) =>
            {
                self.last = rejection.to_string();
                Err(self.give_up())
            }
            // It may have been done, by an attempt that only the cluster knows of.
            Verdict::Final(rejection) if rejection.reason == ErrorReason::RequestTooOld => {
                self.last = rejection.to_string();
                self.maybe_done = true;
                Err(self.give_up())
            }
            Verdict::Final(rejection) => Err(Error::Rejected(rejection)),
            Verdict::Again { maybe_done, node_sick, elsewhere, after, reason, why } => {
                self.last = why;
                if reason != v1::ErrorReason::Unspecified {
                    self.reason = reason;
                }
                self.maybe_done |= maybe_done;
                if maybe_done && self.kind == Kind::Once {
                    return Err(self.give_up());
                }
                Ok(Next { sick: node_sick, elsewhere, after })
            }
        }
    }

    fn give_up(&self) -> Error {
        let (attempts, last) = (self.attempts, self.last.clone());
        if self.maybe_done && self.kind != Kind::Read {
            Error::Unknown { attempts, last }
        } else {
            Error::Unavailable { attempts, last, reason: self.reason }
        }
    }
}
