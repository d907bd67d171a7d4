//! Standing for election: quick where the leader is gone, and without a trace where it is not.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::VoteRequest;

use super::{Group, Members};
use crate::ids::ReplicaId;
use crate::raft::machine::Machine;
use crate::raft::outcome::Role;
use crate::raft::types::{Types, Vote};

/// How long the others are waited for when they are asked: at first, and at most.
const ASK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));
/// Between two times that they are asked: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(64));
/// How long an election may take before it is begun anew.
const ELECTION: Duration = Duration::from_millis(150);

impl<M: Machine> Group<M> {
    /// Stands for election without waiting for its own timer, until there is a newer leader or `patience` is over; says whether this
    /// replica leads then. Begins when it owes its leader nothing any more, and so much `later`: all replicas come to that moment
    /// together, and two that stand at once take each other's votes away.
    ///
    /// First the others are asked whether they would vote for it. They would not as long as they owe their leader anything, and
    /// unless a quorum would, nothing happens: no term is raised, and a leader that lives is not disturbed.
    pub async fn stand(&self, later: Duration, patience: Duration) -> bool {
        let _ = tokio::time::timeout(patience, self.stand_until_led(later)).await;
        self.leadership().0 == Role::Leader
    }

    async fn stand_until_led(&self, later: Duration) {
        let (_, before, _) = self.leadership();
        let (mut ask, mut again) = (ASK.0, AGAIN.0);
        tokio::time::sleep(self.inner.promise.holds_for() + later).await;
        while self.may_stand(before) {
            let owed = self.inner.promise.holds_for();
            if !owed.is_zero() {
                tokio::time::sleep(owed).await;
                continue;
            }
            let (switchboard, replica) = (&self.inner.parts.switchboard, self.replica());
            if self.would_win(ask).await && switchboard.stand(replica).await {
                self.wait_leader_after(before).await;
            } else {
                tokio::time::sleep(again).await;
            }
            (ask, again) = ((ask * 2).min(ASK.1), (again * 2).min(AGAIN.1));
        }
    }

    /// Whether there is still nobody who leads after the term `before`, and this replica may.
    fn may_stand(&self, before: u64) -> bool {
        match self.leadership() {
            (Role::Leader | Role::Learner | Role::Stopped, ..) => false,
            (_, term, leader) => term <= before || leader.is_none(),
        }
    }

    async fn wait_leader_after(&self, before: u64) {
        let mut changes = self.changes();
        let led = async { while self.may_stand(before) && changes.changed().await {} };
        let _ = tokio::time::timeout(ELECTION, led).await;
    }

    /// Asks the other voters whether they would vote for this replica now.
    async fn would_win(&self, within: Duration) -> bool {
        let (me, members) = (self.replica(), self.members());
        if !members.is_voter(me) {
            return false;
        }
        let mut granted = BTreeSet::from([me]);
        if is_quorum(&members, &granted) {
            return true;
        }
        let request = self.vote_request();
        let voters: BTreeSet<ReplicaId> = members.voters.iter().flatten().copied().collect();
        let others = voters.into_iter().filter(|voter| *voter != me);
        let mut asked: FuturesUnordered<_> = others
            .filter_map(|voter| Some((voter, *members.nodes.get(&voter)?)))
            .map(|(voter, node)| {
                let request = &request;
                async move { (voter, self.inner.peers.would_vote(voter, node, request, within).await) }
            })
            .collect();
        while let Some((voter, answer)) = asked.next().await {
            if answer.is_some_and(|answer| answer.vote_granted) {
                granted.insert(voter);
                if is_quorum(&members, &granted) {
                    return true;
                }
            }
        }
        false
    }

    /// Raises the term and asks for votes, whatever is owed to whom.
    #[cfg(test)]
    pub(crate) async fn elect_at_once(&self) {
        let _ = self.inner.raft.trigger().elect(false).await;
    }

    fn vote_request(&self) -> VoteRequest<Types> {
        let term = self.inner.raft.server_metrics().borrow_watched().vote.leader_id.term;
        let last = self.inner.raft.data_metrics().borrow_watched().last_log;
        VoteRequest::new(Vote::new(term + 1, self.replica().0), last)
    }
}

/// Whether these replicas can decide alone.
fn is_quorum(members: &Members, replicas: &BTreeSet<ReplicaId>) -> bool {
    let decides = |voters: &Vec<ReplicaId>| voters.iter().filter(|v| replicas.contains(v)).count() > voters.len() / 2;
    members.voters.iter().all(decides)
}
