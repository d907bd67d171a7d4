//! What a recovery asks of this node: the survivor goes on alone, others of its group rest; and no votes before that can be known.
//!
//! # Contract
//!
//! Done again at every step: the survivor's log says whether it is done, so that a process which ends in the middle of it goes on with it.

use crate::ids::{GroupId, ReplicaId};
use crate::node::meta::MetaState;
use crate::plan::Recovery;
use crate::raft::make_sole_voter;

use super::{Shards, Wanted};

impl Shards {
    /// What is known of recoveries now. To be told before anything is opened by that meta state; `is_proven`: it is as new as this
    /// process, or the cluster knows no recoveries.
    pub fn see_recoveries(&self, meta: &MetaState, is_proven: bool) {
        let switchboard = &self.parts.switchboard;
        switchboard.admit_only(meta.recovered());
        if !is_proven {
            switchboard.hold_votes();
        }
    }

    /// Votes are given from now on: what the meta group had committed when this process began is known.
    pub fn give_votes(&self) {
        let switchboard = &self.parts.switchboard;
        switchboard.give_votes();
        self.all().iter().for_each(|hosted| hosted.let_stand(true));
    }

    /// Whether they are.
    pub fn gives_votes(&self) -> bool {
        self.parts.switchboard.gives_votes()
    }

    /// Stops what a recovery has left behind. What it has stays where it is, until the survivor leads.
    pub async fn rest(&self, wanted: &Wanted) {
        for (replica, group) in &wanted.rest {
            let Some(hosted) = self.exactly(*group, *replica) else { continue };
            let shard = group.shard().map(|shard| shard.0);
            tracing::warn!(%group, shard, %replica, "a replica is stopped: its group goes on with another one alone");
            self.remove(*group, *replica);
            self.end(hosted).await;
        }
    }

    /// Makes survivors go on alone that are here and don't yet.
    pub async fn go_on_alone(&self, meta: &MetaState) {
        for (group, replica) in meta.to_go_on_alone(self.parts.node) {
            let Some(recovery) = meta.groups.get(&group).and_then(|record| record.recovery.clone()) else { continue };
            self.go_on(group, replica, &recovery).await;
        }
    }

    async fn go_on(&self, group: GroupId, replica: ReplicaId, recovery: &Recovery) {
        // One that can't be opened can't stand for its group either.
        let Some(hosted) = self.exactly(group, replica) else { return };
        // Where all voters are of after the recovery it has gone on, whatever the meta state says that this was decided by: alone again,
        // it would lead beside those that it has made its equals since.
        let members = hosted.status().members;
        let has_gone_on = members.voters.iter().flatten().all(|voter| recovery.admits(*voter));
        if self.is_stopping() || (has_gone_on && !members.voters.is_empty()) {
            return;
        }
        let shard = group.shard().map(|shard| shard.0);
        self.remove(group, replica);
        self.end(hosted).await;
        if self.is_ending(replica) || self.is_stopping() {
            return;
        }
        match make_sole_voter(&self.parts.wal, replica, self.parts.node).await {
            Ok(at) => {
                let index = at.index;
                tracing::warn!(%group, shard, %replica, index, "a replica goes on alone: an operator has given up the others");
            }
            Err(error) => tracing::error!(%group, shard, %replica, %error, "a replica can't go on alone"),
        }
        self.open_one(group, replica).await;
    }
}
