//! Trying again within one deadline.

use std::time::Duration;

use tokio::sync::watch;

use crate::ids::GroupId;
use crate::node::leaders::Lead;
use crate::time::MonotonicMs;

use super::{ATTEMPT_MS_MAX, Call, RouterParts};

/// Waits between attempts: from, to. News of a leader cuts a wait short.
const BACKOFF_MS: (u64, u64) = (2, 50);

/// The attempts of one call.
pub(super) struct Attempts<'a> {
    parts: &'a RouterParts,
    call: &'a Call,
    count: u32,
    news: Option<watch::Receiver<u64>>,
    /// What an answered STALE_ROUTE has told: tried next, at once.
    hint: Option<(GroupId, Lead)>,
    /// Whether the hint has not been tried yet.
    fresh: bool,
    hints: u32,
    began: MonotonicMs,
}

/// How long a call waits for better news at a node that hears too few others for anything to be decided; then its client had
/// better ask another node.
const ISOLATED_MS_MAX: u64 = 100;

/// Corrections that are followed at once; after that it is waited between attempts, so that two nodes which name each other
/// don't keep us busy.
const HINTS_MAX: u32 = 3;

impl<'a> Attempts<'a> {
    pub(super) fn new(parts: &'a RouterParts, call: &'a Call) -> Self {
        Self { parts, call, count: 0, news: None, hint: None, fresh: false, hints: 0, began: parts.clock.monotonic() }
    }

    /// Those after a first one that brought nothing; `told`: who was wrong, and who leads instead, from a STALE_ROUTE.
    pub(super) fn after_first(
        parts: &'a RouterParts,
        call: &'a Call,
        group: GroupId,
        told: Option<(Lead, Option<Lead>)>,
    ) -> Self {
        let mut attempts = Self { count: 1, ..Self::new(parts, call) };
        if let Some((wrong, better)) = told {
            attempts.corrected(group, wrong, better);
        }
        attempts
    }

    /// Attempts that have begun before this one.
    pub(super) fn count(&self) -> u32 {
        self.count.saturating_sub(1)
    }

    /// Whom the last STALE_ROUTE named.
    pub(super) fn hint(&self, group: GroupId) -> Option<Lead> {
        self.hint.filter(|(of, _)| *of == group).map(|(_, lead)| lead)
    }

    /// Takes in what a STALE_ROUTE says: `wrong` doesn't lead, `better` may.
    pub(super) fn corrected(&mut self, group: GroupId, wrong: Lead, better: Option<Lead>) {
        self.hints += 1;
        let better = better.filter(|better| *better != wrong && self.hints <= HINTS_MAX);
        self.hint = better.map(|lead| (group, lead));
        self.fresh = self.hint.is_some();
    }

    /// Waits as needed; how long the next attempt may take, or `None` when the deadline has passed.
    pub(super) async fn next(&mut self) -> Option<Duration> {
        if self.count > 0 {
            self.parts.metrics.route_retries.inc();
            // A hint may not be usable (it names this node, which doesn't know of it yet, or one that is silent): at once it is
            // tried once.
            if !std::mem::take(&mut self.fresh) {
                self.wait().await;
            }
        }
        self.count += 1;
        if self.news.is_none() && self.count > 1 {
            self.news = Some(self.parts.leaders.changes());
        }
        match self.left_ms() {
            0 => None,
            _ if self.count > 1 && self.is_hopeless() => None,
            left => Some(Duration::from_millis(left.min(ATTEMPT_MS_MAX))),
        }
    }

    fn is_hopeless(&self) -> bool {
        self.parts.clock.monotonic().since(self.began) >= ISOLATED_MS_MAX && self.parts.ear.is_isolated()
    }

    fn left_ms(&self) -> u64 {
        self.call.deadline.since(self.parts.clock.monotonic())
    }

    async fn wait(&mut self) {
        self.hint = None;
        let (least, most) = BACKOFF_MS;
        let wait = (least << (self.count - 1).min(5)).min(most).min(self.left_ms());
        let sleep = tokio::time::sleep(Duration::from_millis(wait));
        match &mut self.news {
            Some(news) => {
                tokio::select! {
                    () = sleep => {}
                    _ = news.changed() => {}
                }
            }
            None => sleep.await,
        }
    }
}
