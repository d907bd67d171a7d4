//! Handing hints off to their shards, once these have a leader.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Hints, Shared};
use crate::ids::{AccountId, ViewId};
use crate::node::router::{Call, Proposed, Router};
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
/// Accounts at a time: members who are there now go first.
const AT_A_TIME: usize = 8;
/// Accounts that are looked at in one round.
const ROUND: usize = 256;
/// Waits before the same is tried again: from, to. Where the shard doesn't know the view it is waited for its start, longer.
const BACKOFF_MS: (u64, u64) = (500, 30_000);
const UNKNOWN_MS: (u64, u64) = (5_000, 300_000);

/// Hands off until the node stops.
pub(in crate::node) async fn run(hints: Hints, router: Router) {
    let mut after: Option<AccountId> = None;
    let mut expired_at = MonotonicMs(0);
    loop {
        let shared = &hints.shared;
        let now = shared.clock.monotonic();
        if now.since(expired_at) >= EXPIRE_MS {
            expired_at = now;
            expire(shared);
            let oldest_ms = shared.state.lock().book.oldest_ms(now);
            shared.metrics.hints_oldest_seconds.set(i64::try_from(oldest_ms / 1000).unwrap_or(i64::MAX));
        }
        let due = match router.meta().cluster_version.has(Feature::Hints) {
            true => shared.state.lock().book.due(after.as_ref(), now, ROUND),
            false => Vec::new(),
        };
        after = due.last().filter(|_| due.len() == ROUND).cloned();
        let led: Vec<AccountId> = due.into_iter().filter(|account| router.may_be_led(account)).collect();
        stream::iter(led).for_each_concurrent(AT_A_TIME, |account| hand_off(shared, &router, account)).await;
        if after.is_none() {
            tokio::time::sleep(LOOK).await;
        }
    }
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

/// Hands off what there is of one account.
async fn hand_off(shared: &Arc<Shared>, router: &Router, account: AccountId) {
    let now = shared.clock.monotonic();
    let parked = shared.state.lock().book.of(&account, now, HANDOFF_VIEWS_MAX);
    let (views, numbers): (Vec<_>, Vec<u64>) = parked.into_iter().unzip();
    if views.is_empty() {
        return;
    }
    let ids: Vec<(ViewId, u64)> = views.iter().map(|parked| parked.view.clone()).zip(numbers).collect();
    let command = AccountCommand::HandOff(HandOff { views });
    let envelope = Envelope::plain(Command::Account(account.clone(), command));
    let call = Call { trace: TraceId::default(), deadline: now.plus(ATTEMPT_MS) };
    match router.propose(envelope, &call).await {
        Proposed::Committed(committed) => match committed.answer {
            Answer::HandedOff(handed) if handed.len() == ids.len() => {
                ids.iter().zip(handed).for_each(|((view, number), how)| take(shared, &account, view, *number, how));
            }
            answer => {
                tracing::warn!(%account, ?answer, "a shard doesn't take what is handed off");
                again(shared, &account, &ids, UNKNOWN_MS);
            }
        },
        Proposed::Accepted(_) | Proposed::Rejected(_) | Proposed::Unknown => again(shared, &account, &ids, BACKOFF_MS),
    }
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
fn again(shared: &Shared, account: &AccountId, views: &[(ViewId, u64)], (least, most): (u64, u64)) {
    let now = shared.clock.monotonic();
    let mut state = shared.state.lock();
    for (view, number) in views {
        let until = |tries: u32| {
            let wait = (least << tries.saturating_sub(1).min(10)).min(most);
            now.plus(wait / 2 + xxh3_64_with_seed(view.as_str().as_bytes(), u64::from(tries)) % (wait / 2 + 1))
        };
        state.book.wait(account, view, *number, until);
    }
}
