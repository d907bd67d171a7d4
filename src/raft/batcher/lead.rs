//! Who leads, and a leader's clock.
//!
//! A shard's time is the last stamp plus the leader's monotonic time since it took over: time without a leader doesn't
//! count, and no calendar can move it. A leader begins to stamp when it has applied its own first entry, for then it has
//! applied all stamps of the leaders before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;

use crate::ids::ReplicaId;
use crate::raft::machine::{Core, Machine};
use crate::raft::outcome::{LeaderHint, Rejected, Role};
use crate::raft::types::{Member, ServerMetrics};
use crate::time::{Clock, LogicalMs, MonotonicMs, Stamp};

/// A leader's hint, as openraft tells it.
pub(crate) fn hint(leader: Option<u64>, member: Option<Member>) -> Option<LeaderHint> {
    Some(LeaderHint { replica: ReplicaId(leader?), node: member?.node })
}

#[derive(Clone, Copy, Debug)]
struct Reign {
    term: u64,
    base: LogicalMs,
    since: MonotonicMs,
}

/// What this replica knows of its group's leader.
pub(crate) struct Lead {
    replica: ReplicaId,
    clock: Arc<dyn Clock>,
    metrics: ServerMetrics,
    reign: Mutex<Option<Reign>>,
    /// The term in which this replica was last seen to lead, and when for the first time.
    seen: Mutex<Option<(u64, MonotonicMs)>>,
    stopped: AtomicBool,
}

impl Lead {
    pub(crate) fn new(replica: ReplicaId, clock: Arc<dyn Clock>, metrics: ServerMetrics) -> Self {
        Self {
            replica,
            clock,
            metrics,
            reign: Mutex::new(None),
            seen: Mutex::new(None),
            stopped: AtomicBool::new(false),
        }
    }

    /// The replica has stopped, or failed: openraft itself would go on naming its last role.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Role, term and leader now.
    pub(crate) fn now(&self) -> (Role, u64, Option<LeaderHint>) {
        let metrics = self.metrics.borrow_watched();
        if self.stopped.load(Ordering::Acquire) {
            return (Role::Stopped, metrics.vote.leader_id.term, None);
        }
        let role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let leader = metrics.current_leader;
        let member = leader.and_then(|id| metrics.membership_config.get_node(&id).copied());
        (role, metrics.vote.leader_id.term, hint(leader, member))
    }

    /// For how long this replica has led in its term, as far as it was looked at, milliseconds; `None`: it does not lead.
    pub(crate) fn led_ms(&self) -> Option<u64> {
        let (role, term, _) = self.now();
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock();
        if role != Role::Leader {
            *seen = None;
            return None;
        }
        let (_, since) = *seen.filter(|(of, _)| *of == term).get_or_insert((term, now));
        *seen = Some((term, since));
        Some(now.since(since))
    }

    /// Tells role and leader whenever they change.
    pub(crate) fn watch(&self) -> ServerMetrics {
        self.metrics.clone()
    }

    /// The term that this replica leads, or why it does not.
    pub(crate) fn term(&self) -> Result<u64, Rejected> {
        match self.now() {
            (Role::Leader, term, _) => Ok(term),
            (Role::Stopped, ..) => Err(Rejected::Stopped),
            (_, _, leader) => {
                // It can't be this one: what it knows is about to change.
                let leader = leader.filter(|leader| leader.replica != self.replica);
                Err(Rejected::NotLeader { leader })
            }
        }
    }

    /// Waits until this replica may stamp entries; an error when it does not lead.
    pub(super) async fn take_over<M: Machine>(&self, core: &Core<M>) -> Result<(), Rejected> {
        let mut applied = core.applied();
        let mut metrics = self.metrics.clone();
        loop {
            let term = self.term()?;
            if self.reign.lock().is_some_and(|reign| reign.term == term) {
                return Ok(());
            }
            metrics.borrow_and_update();
            if applied.borrow_and_update().log_id.is_some_and(|id| id.leader_id.term == term) {
                let base = core.look(|machine, _| machine.logical());
                *self.reign.lock() = Some(Reign { term, base, since: self.clock.monotonic() });
                return Ok(());
            }
            // Its own first entry is on its way; the lead may be lost before it comes back.
            tokio::select! {
                changed = applied.changed() => changed.map_err(|_| Rejected::Stopped)?,
                changed = metrics.changed() => changed.map_err(|_| Rejected::Stopped)?,
            }
        }
    }

    /// The leader's time now; without a reign, of the calendar only.
    pub(crate) fn stamp(&self) -> Stamp {
        let logical =
            self.reign.lock().map_or(LogicalMs(0), |reign| reign.base.plus(self.clock.monotonic().since(reign.since)));
        Stamp { logical, wall: self.clock.wall() }
    }

    /// The time by the best knowledge of this replica: its own reign's, if it leads, and never before `state`.
    pub(crate) fn best_now(&self, state: LogicalMs) -> Stamp {
        let leads = self.term().ok();
        let reigns = self.reign.lock().filter(|reign| leads == Some(reign.term));
        let stamp = self.stamp();
        match reigns {
            Some(_) => Stamp { logical: stamp.logical.max(state), wall: stamp.wall },
            None => Stamp { logical: state, wall: stamp.wall },
        }
    }
}
