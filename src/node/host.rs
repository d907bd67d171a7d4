//! Following the meta state: opening, initializing and destroying this node's replicas as it says, knowing whom to talk to, and keeping to
//! its limits.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Epoch, GroupId, ReplicaId};
use crate::planted;
use crate::raft::Load;
use crate::telemetry::trace::TraceId;
use crate::time::MonotonicMs;

use super::core::Inner;
use super::link::{Pace, introduce};
use super::meta::{Command, MetaState};
use super::router::Call;
use super::shards::Wanted;

/// How often it is looked without being told to.
const LOOK: Duration = Duration::from_millis(500);
/// How long the meta state may stand still while others have a newer one, before they are asked.
const STILL_MS: u64 = 1000;
/// How long a command for the meta group may take before it is left for the next round.
const META_MS_MAX: u64 = 2000;
/// How often unknown or silent nodes are looked for at the seeds.
const SEEK: Duration = Duration::from_secs(1);

impl Inner {
    /// Shows a newer meta state to everybody on this node.
    fn show_meta(&self, state: Arc<MetaState>) {
        self.me.versions.hear(state.cluster_version);
        if !self.me.versions.spoken().speaks(state.cluster_version) {
            // The node is about to stop; it does nothing by what it may not understand.
            return;
        }
        let begun = state.cluster.is_some() && !self.is_leaving();
        if state.is_removed(self.me.node) {
            // Nothing of it is of use any more; it stops with the reason.
            self.me.removed_told.send_replace(true);
        }
        let removed = state.removed();
        self.me.removed.send_if_modified(|known| {
            *known != removed && {
                *known = removed;
                true
            }
        });
        self.shards.see_recoveries(&state, !self.may_have_recovered(&state));
        planted::tell_streams(state.settings.policy.max_streams);
        self.meta.now.store(state);
        self.meta.changes.send_replace(());
        self.ready.send_if_modified(|ready| std::mem::replace(ready, begun) != begun);
        self.look.notify_one();
    }

    /// A call of the node itself.
    pub(super) fn own_call(&self, ms: u64) -> Call {
        Call { trace: TraceId::from_random(self.me.node.0), deadline: self.clock.monotonic().plus(ms) }
    }
}

/// Shows what the local meta replica has applied to everybody on this node.
pub(super) async fn follow_meta(inner: Arc<Inner>) {
    loop {
        let Some(hosted) = inner.shards.get(GroupId::META) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Some(group) = hosted.meta() else { return };
        let mut revisions = group.revisions();
        loop {
            let state = group.peek(|replicated| replicated.state().clone());
            // A fresh replica that still catches up knows less than what was fetched from another node.
            if state.revision > inner.meta.now.load().revision {
                inner.show_meta(state);
            }
            // A replica that was replaced has no more news; its successor is asked.
            if !matches!(tokio::time::timeout(LOOK, revisions.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        // One that has ended is not asked again at once.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Keeps the pace of copies and the bound of each account at what the cluster's rules say, or at what this node has set where they say nothing.
pub(super) async fn follow_limits(inner: Arc<Inner>, pace: Arc<Pace>, load: Arc<Load>) {
    let (own_copies, own_account) = (inner.config.snapshots_rate(1), inner.config.limits_account_per_second);
    let mut changes = inner.meta.changes.subscribe();
    loop {
        let (copies, account) = {
            let meta = inner.meta.now.load();
            (meta.copies_bytes_per_second(), meta.account_per_second())
        };
        // First: `playhead_copies_bytes_per_second` tells that both hold.
        let per_second = account.unwrap_or(own_account);
        if load.set_account_per_second(per_second) {
            tracing::info!(
                per_second,
                by_rule = account.is_some(),
                "what leaders here take of one account has changed"
            );
        }
        let bytes_per_second = copies.unwrap_or(own_copies);
        if pace.set(bytes_per_second) {
            tracing::info!(
                bytes_per_second,
                by_rule = copies.is_some(),
                "what copies may take of this node has changed"
            );
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Makes this node run what it should.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut losses = inner.store.losses();
    let mut progress = Progress::default();
    loop {
        let meta = inner.meta.now.load_full();
        let left_behind = progress.is_left_behind(&meta, inner.ear.newest_epoch(), inner.clock.monotonic());
        let nodes = inner.nodes();
        inner.link.keep(&nodes);
        inner.ear.keep(nodes.iter().copied().filter(|node| *node != inner.me.node), inner.clock.monotonic());
        inner.ear.give_up(meta.without_part());
        keep_meta_replicas(&inner, &meta).await;
        let wanted = Wanted::of(&meta, inner.me.node, &inner.first_meta());
        losses.mark_unchanged();
        let had = inner.shards.ids();
        inner.shards.mend(&inner.ear.forsworn()).await;
        inner.shards.rest(&wanted).await;
        inner.shards.open(&wanted, &meta).await;
        if inner.shards.gives_votes() {
            // As it is now: what came before this may have taken long.
            inner.shards.go_on_alone(&inner.meta.now.load_full()).await;
        }
        begin_meta(&inner).await;
        inner.shards.initialize(&meta).await;
        // A fresh meta replica learns nothing before the group has taken it in; one that was voted out learns nothing any more, not
        // even that.
        if left_behind || inner.shards.get(GroupId::META).is_none_or(|hosted| !hosted.has_members()) {
            fetch_meta(&inner).await;
        }
        for (group, replica) in inner.shards.destroy(&wanted).await {
            let forget = Command::Forget { group, replica };
            if let Err(error) = inner.router.propose_meta(&forget, &inner.own_call(META_MS_MAX)).await {
                tracing::debug!(%group, %replica, %error, "a destroyed replica is not forgotten yet");
            }
        }
        if inner.shards.ids() != had {
            inner.told_soon.notify_one();
        }
        tokio::select! {
            () = inner.look.notified() => {}
            _ = losses.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Whether the meta state moves on here as it does elsewhere.
#[derive(Debug, Default)]
struct Progress {
    /// The revision, and since when it is that.
    seen: Option<(u64, MonotonicMs)>,
}

impl Progress {
    /// Whether others have told of a newer epoch than this state's, and it has stood still for longer than news take; or of one that it can
    /// never come to by itself.
    fn is_left_behind(&mut self, meta: &MetaState, told: Epoch, now: MonotonicMs) -> bool {
        let (_, since) = match self.seen {
            Some(seen) if seen.0 == meta.revision => seen,
            _ => *self.seen.insert((meta.revision, now)),
        };
        meta.is_of_before(told) || (told > meta.epoch && now.since(since) >= STILL_MS)
    }
}

/// Keeps in the folder which replicas of the meta group are here: the next process opens them before it knows anything else.
async fn keep_meta_replicas(inner: &Arc<Inner>, meta: &MetaState) {
    if meta.cluster.is_none() {
        return;
    }
    let here = meta.hosted_by(inner.me.node).filter(|(group, _)| *group == GroupId::META);
    let here: Vec<ReplicaId> = here.map(|(_, replica)| replica).collect();
    if inner.meta_replicas.lock().as_ref() == Some(&here) {
        return;
    }
    let (folder, kept) = (inner.folder.clone(), here.clone());
    match inner.threads.blocking(move || folder.lock().keep_meta_replicas(&kept)).await {
        Ok(Ok(())) => *inner.meta_replicas.lock() = Some(here),
        Ok(Err(error)) => tracing::error!(%error, "which meta replicas are here can't be kept on disk"),
        Err(_) => {}
    }
}

/// A node whose meta replica is gone asks the others what the cluster is, and so learns of its fresh one.
async fn fetch_meta(inner: &Inner) {
    for node in inner.ear.alive() {
        let fetched = inner.router.fetch_meta(node, &inner.own_call(META_MS_MAX)).await;
        if let Some(state) = fetched
            && state.cluster.as_ref() == inner.me.cluster.get()
            && state.revision > inner.meta.now.load().revision
        {
            inner.show_meta(Arc::new(state));
            return;
        }
    }
}

/// Before there is a meta state, the charter says who begins the meta group.
async fn begin_meta(inner: &Inner) {
    if inner.meta.now.load().cluster.is_some() {
        return;
    }
    let Some(charter) = inner.charter() else { return };
    let voters = charter.meta_voters();
    inner.shards.initialize_one(GroupId::META, voters[0].0, voters.into_iter().collect()).await;
}

/// Asks the other founders what became of an offered founding record, while nobody has told; and asks seeds and last known
/// addresses who is there, while a node of the cluster can't be reached.
pub(super) async fn seek(inner: Arc<Inner>) {
    let dialling = inner.dialling();
    loop {
        tokio::time::sleep(SEEK).await;
        super::bootstrap::settle_offer(&inner).await;
        let peers = inner.link.peers();
        let missing = peers.iter().any(|node| !inner.link.is_up(*node, super::link::Lane::Control));
        if !missing {
            continue;
        }
        for seed in &inner.config.seeds {
            if let Ok(found) = introduce(&seed.to_string(), &dialling).await
                && found.node != inner.me.node
                && found.cluster.as_ref() == inner.me.cluster.get()
                && peers.contains(&found.node)
            {
                inner.link.book().learn(found.node, found.generation, &found.endpoints);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meta replica that was voted out while its node was away hears of nothing any more.
    #[test]
    fn a_node_whose_meta_state_stands_still_while_others_tell_of_newer_epochs_is_left_behind() {
        let meta = |revision, epoch| MetaState { revision, epoch: Epoch(epoch), ..MetaState::default() };
        let (mut progress, at) = (Progress::default(), MonotonicMs);
        assert!(!progress.is_left_behind(&meta(7, 3), Epoch(3), at(100)));
        assert!(!progress.is_left_behind(&meta(7, 3), Epoch(3), at(9000)), "nobody knows of anything newer");
        assert!(!progress.is_left_behind(&meta(8, 3), Epoch(4), at(9100)), "it moves on");
        assert!(!progress.is_left_behind(&meta(8, 3), Epoch(4), at(9500)));
        assert!(progress.is_left_behind(&meta(8, 3), Epoch(4), at(10_100)));
        assert!(!progress.is_left_behind(&meta(9, 4), Epoch(4), at(10_200)));
        assert!(progress.is_left_behind(&meta(9, 4), Epoch(4 + (1 << 20)), at(10_300)), "of another meta group");
    }
}
