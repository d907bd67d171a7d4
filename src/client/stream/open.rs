//! One unanswered batch: which of its reports still need an answer, and what is known about the others.

use super::super::call::Core;
use super::super::error::{Error, Verdict, decided_by_the_state};
use super::{Batch, ReportOutcome, Reported};
use crate::proto::v1;
use crate::time::MonotonicMs;

/// A batch that is not yet answered in full.
pub(super) struct Open {
    batch: Batch,
    /// What came of each report, as far as it is known.
    outcomes: Vec<Option<ReportOutcome>>,
    /// The reports of the message that is out, by their place in the batch.
    asked: Vec<usize>,
    /// When that message went out; `None` while none is.
    sent_at: Option<MonotonicMs>,
    /// When to send again what is missing.
    pub(super) again_at: MonotonicMs,
    attempts: u32,
    /// A message that is not out any more may have been taken all the same.
    maybe_done: bool,
    last: String,
    /// What a node last gave as its reason.
    reason: v1::ErrorReason,
}

impl Open {
    pub(super) fn new(batch: Batch, now: MonotonicMs) -> Self {
        let outcomes = std::iter::repeat_with(|| None).take(batch.reports.len()).collect();
        Self {
            batch,
            outcomes,
            asked: Vec::new(),
            sent_at: None,
            again_at: now,
            attempts: 0,
            maybe_done: false,
            last: "never sent".into(),
            reason: v1::ErrorReason::Unspecified,
        }
    }

    pub(super) fn deadline(&self) -> MonotonicMs {
        self.batch.deadline
    }

    pub(super) fn sent_at(&self) -> Option<MonotonicMs> {
        self.sent_at
    }

    /// Whether its message may go out now.
    pub(super) fn is_due(&self, now: MonotonicMs) -> bool {
        self.sent_at.is_none() && self.again_at <= now
    }

    /// The message that asks for all that is missing.
    pub(super) fn message(&mut self, batch_id: u64, now: MonotonicMs) -> v1::ReportProgressStreamRequest {
        self.asked = (0..self.outcomes.len()).filter(|&i| self.outcomes[i].is_none()).collect();
        self.sent_at = Some(now);
        self.attempts = self.attempts.saturating_add(1);
        let reports = self.asked.iter().map(|&i| self.batch.reports[i].clone()).collect();
        v1::ReportProgressStreamRequest { batch_id, reports }
    }

    /// The stream on which its message went out is broken: send it again on the next.
    pub(super) fn lost(&mut self, why: &str) {
        if self.sent_at.take().is_some() {
            self.maybe_done = true;
            self.last = why.to_string();
        }
    }

    /// Takes in an answer. True when nothing is missing any more.
    pub(super) fn answered(&mut self, core: &Core, answer: v1::ReportProgressStreamResponse, now: MonotonicMs) -> bool {
        self.sent_at = None;
        let asked = std::mem::take(&mut self.asked);
        let repeated = self.maybe_done;
        let mut wait_ms = 0;
        let results: Vec<v1::ProgressResult> = match answer.error {
            Some(error) => {
                let refused = |_| v1::ProgressResult { error: Some(error.clone()), ..Default::default() };
                asked.iter().map(refused).collect()
            }
            None => answer.results,
        };
        for (&i, result) in asked.iter().zip(results) {
            let Some(error) = &result.error else {
                let revision = answer.revisions.get(result.revision_index as usize).cloned().unwrap_or_default();
                self.outcomes[i] = Some(Ok(Reported { result, repeated, revision }));
                continue;
            };
            match Verdict::of_item(error) {
                verdict @ Verdict::Again { .. } if verdict.is_for_load() && !core.budget.spend() => {
                    self.outcomes[i] = Some(Err(self.undone(error)));
                }
                Verdict::Final(rejection) if self.maybe_done && !decided_by_the_state(rejection.reason) => {
                    let (attempts, last) = (self.attempts, rejection.to_string());
                    self.outcomes[i] = Some(Err(Error::Unknown { attempts, last }));
                }
                Verdict::Final(rejection) => self.outcomes[i] = Some(Err(Error::Rejected(rejection))),
                Verdict::Again { maybe_done, after, reason, why, .. } => {
                    self.maybe_done |= maybe_done;
                    wait_ms = wait_ms.max(core.wait_ms(after, self.attempts));
                    self.last = why;
                    self.reason = reason;
                }
            }
        }
        self.again_at = now.plus(wait_ms);
        self.outcomes.iter().all(Option::is_some)
    }

    /// A report that was refused for load, and is not tried again.
    fn undone(&self, error: &v1::ItemError) -> Error {
        let (attempts, last) = (self.attempts, error.message.clone());
        match self.maybe_done {
            true => Error::Unknown { attempts, last },
            false => Error::Unavailable { attempts, last, reason: error.reason() },
        }
    }

    /// Hands out what is known; what is missing is unknown, or undone if it never went out.
    pub(super) fn finish(self) {
        let Self { batch, outcomes, sent_at, attempts, maybe_done, last, reason, .. } = self;
        let maybe_done = maybe_done || sent_at.is_some();
        let missing = || match maybe_done {
            true => Error::Unknown { attempts, last: last.clone() },
            false => Error::Unavailable { attempts, last: last.clone(), reason },
        };
        let outcomes = outcomes.into_iter().map(|o| o.unwrap_or_else(|| Err(missing()))).collect();
        // Nobody may be waiting any more.
        let _ = batch.answer.send(outcomes);
    }
}
