//! What a replica owes the leader that it has heard: to help nobody else to the lead for the time of a lease.
//!
//! LEASE reads rest on it. A leader answers one while a quorum has answered something that it sent less than nine tenths of a
//! lease ago; whoever answered had heard it by then, and keeps its promise for a whole lease from that moment on. Any other
//! leader needs the vote of one of them, so it begins later than the last such read.
//!
//! The promise is our own, beside openraft's. openraft has one too, as long as the longest election time, and knows nothing of
//! this one; when ours has lapsed a vote is handed to it as one that its lease doesn't bind (as in a transfer of the lead), and
//! while ours holds it refuses by itself, since its own holds longer. Standing for election is voting for oneself, and goes
//! through the same gate in the same order: see [`super::inbound`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::raft::GroupConfig;

/// See the [module](self). Counted by the clock that openraft counts its leases by.
#[derive(Debug)]
pub(crate) struct Promise {
    owed: Mutex<Owed>,
    untold: Duration,
}

#[derive(Debug)]
struct Owed {
    until: Instant,
    /// What the leader asked for last.
    lease: Duration,
    /// When a leader was heard last.
    heard: Option<Instant>,
}

impl Promise {
    /// Nothing is owed: the node makes no replica before what the process before it owed has lapsed.
    pub(crate) fn new(config: &Arc<GroupConfig>) -> Self {
        let untold = config.lease_untold();
        Self { owed: Mutex::new(Owed { until: Instant::now(), lease: untold, heard: None }), untold }
    }

    /// A leader is heard that asks for a lease of so many milliseconds; `None`: it doesn't say how long. To be told before the
    /// replica answers it.
    pub(super) fn heard(&self, lease_ms: Option<u64>) {
        self.owe(lease_ms.map_or(self.untold, Duration::from_millis), Instant::now());
    }

    /// A leader is heard that asks for what the last one asked for.
    pub(super) fn heard_again(&self) {
        let lease = self.owed.lock().lease;
        self.owe(lease, Instant::now());
    }

    fn owe(&self, lease: Duration, now: Instant) {
        let mut owed = self.owed.lock();
        owed.lease = lease;
        owed.heard = Some(now);
        owed.until = owed.until.max(now + lease);
    }

    /// How long ago a leader was heard last; `None`: not since the replica was opened.
    pub(crate) fn heard_ms_ago(&self) -> Option<u64> {
        let heard = self.owed.lock().heard?;
        Some(u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// For how much longer the replica helps nobody else.
    pub(crate) fn holds_for(&self) -> Duration {
        self.left(Instant::now())
    }

    fn left(&self, now: Instant) -> Duration {
        self.owed.lock().until.saturating_duration_since(now)
    }

    pub(super) fn has_lapsed(&self) -> bool {
        self.holds_for().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_to_one_leader_stays_owed_when_another_asks_for_less() {
        let promise = Promise::new(&Arc::new(GroupConfig { election_ms_max: 500, ..GroupConfig::default() }));
        assert!(promise.has_lapsed());
        let ms = Duration::from_millis;
        let begin = Instant::now();
        promise.owe(ms(200), begin);
        assert_eq!(promise.left(begin + ms(50)), ms(150));
        promise.owe(promise.untold, begin);
        assert_eq!(promise.left(begin), ms(500), "whoever doesn't say may count on the longest election time");
        promise.owe(ms(200), begin + ms(100));
        assert_eq!(promise.left(begin + ms(100)), ms(400));
        promise.owe(ms(200), begin + ms(400));
        assert_eq!(promise.left(begin + ms(400)), ms(200));
        assert_eq!(promise.left(begin + ms(600)), ms(0));
    }
}
