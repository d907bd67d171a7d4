//! Handing hints off to their shards, once these have a leader.
//!
//! Each shard goes by itself, one account after the other, so that a leader that hangs holds up its own shards only. A shard that didn't
//! take something rests, longer each time, until another leads it, or it is found to be led again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Hints, Shared};
use crate::ids::{AccountId, ShardId, ViewId};
use crate::node::leaders::Lead;
use crate::node::router::{Call, Proposed, RouteError, Router};
use crate::telemetry::trace::TraceId;
use crate::time::MonotonicMs;
use crate::versions::Feature;
use crate::view::{AccountCommand, Answer, Command, Envelope, HANDOFF_VIEWS_MAX, HandOff, Handed};

/// How often it is looked for what can be handed off.
const LOOK: Duration = Duration::from_millis(250);
/// How often it is looked for what is too old.
const EXPIRE_MS: u64 = 10_000;
/// How long one handing off may take.
const ATTEMPT_MS: u64 = 2_000;
/// Shards at a time, with one account each: members who are there now go first.
const SHARDS_AT_A_TIME: usize = 32;
/// Accounts of a shard that are taken up at once.
const ROUND: usize = 256;
/// Waits before a shard is tried again, and what it didn't take: from, to.
const REST_MS: (u64, u64) = (500, 5_000);
const BACKOFF_MS: (u64, u64) = (500, 30_000);
/// Where the shard doesn't know the view it is waited for its start, longer.
const UNKNOWN_MS: (u64, u64) = (5_000, 300_000);

/// A shard that didn't take something.
#[derive(Debug)]
struct Rest {
    until: MonotonicMs,
    times: u32,
    /// Who led it then, as far as was known.
    lead: Option<Lead>,
}

/// Which shards are at work, and which rest.
#[derive(Debug, Default)]
struct Turns {
    busy: BTreeSet<ShardId>,
    rests: BTreeMap<ShardId, Rest>,
}

impl Turns {
    /// Forgets the rests of shards that another leads now, or nobody, and says which.
    fn wake(&mut self, lead: impl Fn(ShardId) -> Option<Lead>) -> BTreeSet<ShardId> {
        let is_over = |shard: &ShardId, rest: &Rest| {
            let now = lead(*shard);
            now.is_none() || now != rest.lead
        };
        let woken: BTreeSet<ShardId> =
            self.rests.iter().filter(|(shard, rest)| is_over(shard, rest)).map(|(shard, _)| *shard).collect();
        self.rests.retain(|shard, _| !woken.contains(shard));
        woken
    }

    /// Whether something of a shard may be taken up now.
    fn may_go(&self, shard: ShardId, now: MonotonicMs) -> bool {
        !self.busy.contains(&shard) && self.rests.get(&shard).is_none_or(|rest| rest.until <= now)
    }

    fn begin(&mut self, shard: ShardId) {
        self.busy.insert(shard);
    }

    /// A shard is done: it took all, or didn't, when that one led it.
    fn end(&mut self, shard: ShardId, took_all: bool, lead: Option<Lead>, now: MonotonicMs) {
        self.busy.remove(&shard);
        if took_all {
            // Single views may wait still, and are woken by another leader.
            self.rests.entry(shard).and_modify(|rest| (rest.times, rest.until) = (0, now));
            return;
        }
        let times = self.rests.get(&shard).map_or(1, |rest| rest.times.saturating_add(1));
        let until = now.plus(pause(REST_MS, times, &shard.0.to_be_bytes()));
        self.rests.insert(shard, Rest { until, times, lead });
    }
}

/// How long it is waited after so many failures, each at a moment of its own.
fn pause((least, most): (u64, u64), times: u32, whose: &[u8]) -> u64 {
    let wait = (least << times.saturating_sub(1).min(10)).min(most);
    wait / 2 + xxh3_64_with_seed(whose, u64::from(times)) % (wait / 2 + 1)
}

/// Hands off until the node stops.
pub(in crate::node) async fn run(hints: Hints, router: Router) {
    let (shared, router) = (&hints.shared, &router);
    let mut expired_at = MonotonicMs(0);
    let mut turns = Turns::default();
    let mut working = FuturesUnordered::new();
    loop {
        let now = shared.clock.monotonic();
        if now.since(expired_at) >= EXPIRE_MS {
            expired_at = now;
            expire(shared);
            let oldest_ms = shared.state.lock().book.oldest_ms(now);
            shared.metrics.hints_oldest_seconds.set(i64::try_from(oldest_ms / 1000).unwrap_or(i64::MAX));
        }
        router.look_who_is_led();
        for (shard, accounts) in next(shared, router, &mut turns, now) {
            turns.begin(shard);
            working.push(hand_off_all(shared, router, shard, accounts));
        }
        tokio::select! {
            Some((shard, took_all, lead)) = working.next() => {
                turns.end(shard, took_all, lead, shared.clock.monotonic());
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What is taken up now, by shard.
fn next(shared: &Shared, router: &Router, turns: &mut Turns, now: MonotonicMs) -> BTreeMap<ShardId, Vec<AccountId>> {
    let (mut due, meta) = (BTreeMap::new(), router.meta());
    let free = SHARDS_AT_A_TIME.saturating_sub(turns.busy.len());
    let Some(count) = meta.shard_count.filter(|_| meta.cluster_version.has(Feature::Hints)) else { return due };
    if free == 0 || shared.state.lock().book.count() == 0 {
        return due;
    }
    // One that nobody leads rests no longer than until somebody does.
    let woken = turns.wake(|shard| router.lead(shard.into()).filter(|_| router.is_led(shard)));
    let of = |account: &AccountId| router.shard_of(account).ok();
    // Asked before the lock is taken, since others are for that.
    let open: BTreeSet<ShardId> =
        (0..count.get()).map(ShardId).filter(|shard| turns.may_go(*shard, now) && router.is_led(*shard)).collect();
    let mut state = shared.state.lock();
    if !woken.is_empty() {
        state.book.wake(|account| of(account).is_some_and(|shard| woken.contains(&shard)));
    }
    for account in state.book.due(now) {
        let Some(shard) = of(account).filter(|shard| open.contains(shard)) else { continue };
        if due.len() == free && !due.contains_key(&shard) {
            continue;
        }
        let accounts: &mut Vec<AccountId> = due.entry(shard).or_default();
        if accounts.len() < ROUND {
            accounts.push(account.clone());
        }
    }
    due
}

/// Hands off what there is of these accounts, until their shard doesn't take something; whether it took all, and who led it.
async fn hand_off_all(
    shared: &Arc<Shared>,
    router: &Router,
    shard: ShardId,
    accounts: Vec<AccountId>,
) -> (ShardId, bool, Option<Lead>) {
    let lead = router.lead(shard.into());
    for account in accounts {
        if !hand_off(shared, router, account).await {
            return (shard, false, lead);
        }
    }
    (shard, true, lead)
}

/// Drops what is too old.
fn expire(shared: &Shared) {
    let old = shared.state.lock().book.expired(shared.clock.monotonic(), ROUND);
    for (account, view, number) in old {
        if shared.forget(&account, &view, number) {
            tracing::error!(%account, %view, "a hint is dropped: its shard has not taken it in 24 hours");
            shared.count("expired");
            shared.dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Hands off what there is of one account; whether its shard answers.
async fn hand_off(shared: &Arc<Shared>, router: &Router, account: AccountId) -> bool {
    let now = shared.clock.monotonic();
    let parked = shared.state.lock().book.of(&account, now, HANDOFF_VIEWS_MAX);
    let (views, numbers): (Vec<_>, Vec<u64>) = parked.into_iter().unzip();
    if views.is_empty() {
        return true;
    }
    let ids: Vec<(ViewId, u64)> = views.iter().map(|parked| parked.view.clone()).zip(numbers).collect();
    let command = AccountCommand::HandOff(HandOff { views });
    let envelope = Envelope::plain(Command::Account(account.clone(), command));
    let call = Call { trace: TraceId::default(), deadline: now.plus(ATTEMPT_MS) };
    let committed = match router.propose(envelope, &call).await {
        Proposed::Committed(committed) => committed,
        how => {
            // Of what is too large others of the shard are no worse.
            again(shared, &account, &ids, BACKOFF_MS);
            return matches!(how, Proposed::Rejected(RouteError::TooLarge { .. }));
        }
    };
    match committed.answer {
        Answer::HandedOff(handed) if handed.len() == ids.len() => {
            ids.iter().zip(handed).for_each(|((view, number), how)| take(shared, &account, view, *number, how));
        }
        answer => {
            tracing::warn!(%account, ?answer, "a shard doesn't take what is handed off");
            again(shared, &account, &ids, UNKNOWN_MS);
        }
    }
    true
}

fn take(shared: &Shared, account: &AccountId, view: &ViewId, number: u64, how: Handed) {
    let outcome = match how {
        Handed::Taken => "handed_off",
        Handed::Older => "overtaken",
        Handed::OverLimit => "over_limit",
        Handed::Refused => {
            tracing::warn!(%account, %view, "a shard refuses a hint: the view's id is in use, or a bound is reached");
            shared.dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            "refused_by_shard"
        }
        Handed::Unknown => return again(shared, account, &[(view.clone(), number)], UNKNOWN_MS),
    };
    shared.forget(account, view, number);
    shared.count(outcome);
}

/// Tries again later, each view and node at a moment of its own.
fn again(shared: &Shared, account: &AccountId, views: &[(ViewId, u64)], between: (u64, u64)) {
    let now = shared.clock.monotonic();
    let mut state = shared.state.lock();
    for (view, number) in views {
        state.book.wait(account, view, *number, |tries| now.plus(pause(between, tries, view.as_str().as_bytes())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, ReplicaId};

    const HUNG: ShardId = ShardId(1);
    const OTHER: ShardId = ShardId(2);

    fn led(term: u64) -> Option<Lead> {
        Some(Lead { term, replica: ReplicaId(1), node: NodeId(1) })
    }

    #[test]
    fn a_shard_that_takes_nothing_holds_up_no_other_and_rests_until_another_leads_it() {
        let (mut turns, now) = (Turns::default(), MonotonicMs(10));
        turns.begin(HUNG);
        assert!(!turns.may_go(HUNG, now) && turns.may_go(OTHER, now));
        turns.end(HUNG, false, led(1), now);
        assert!(!turns.may_go(HUNG, now) && turns.may_go(OTHER, now));
        assert!(turns.wake(|_| led(1)).is_empty());
        assert!(turns.may_go(HUNG, now.plus(REST_MS.0)));
        assert_eq!(turns.wake(|_| led(2)), [HUNG].into());
        assert!(turns.may_go(HUNG, now));
    }

    #[test]
    fn a_shard_that_nobody_led_is_tried_as_soon_as_somebody_does() {
        let (mut turns, now) = (Turns::default(), MonotonicMs(10));
        turns.end(HUNG, false, led(1), now);
        assert_eq!(turns.wake(|_| None), [HUNG].into());
        assert!(turns.may_go(HUNG, now));
    }

    #[test]
    fn single_views_that_wait_are_woken_by_another_leader_though_others_were_taken_since() {
        let (mut turns, now) = (Turns::default(), MonotonicMs(10));
        turns.end(HUNG, false, led(1), now);
        turns.end(HUNG, true, led(1), now);
        assert!(turns.may_go(HUNG, now) && turns.wake(|_| led(1)).is_empty());
        assert_eq!(turns.wake(|_| led(2)), [HUNG].into());
    }
}
