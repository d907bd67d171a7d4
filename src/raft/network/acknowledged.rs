//! What the others have acknowledged to a replica that leads, and who has gone back on it.
//!
//! A follower whose disk lost the end of its log comes back under its old id with less than it acknowledged, and maybe without
//! votes that it gave. openraft takes that for a broken rule and ends its healthy leader (in a build with debug
//! assertions), or goes on counting a copy that is gone. So it never learns of it: whoever conflicts with what it had
//! acknowledged, under the same vote and before the conflict was asked for, is *forsworn*. It is sent nothing from then on,
//! counts for nothing, and is reported as one that has to be replaced.

use std::collections::{BTreeMap, BTreeSet};

use openraft::raft::AppendEntriesResponse;
use parking_lot::Mutex;

use crate::ids::ReplicaId;
use crate::raft::types::{LogId, Types, Vote};

/// The forsworn that are remembered. Ids only grow: whoever has the smallest was replaced long ago.
const FORSWORN_MAX: usize = 64;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Under which vote this is; another begins anew.
    vote: Option<Vote>,
    upto: BTreeMap<ReplicaId, LogId>,
    forsworn: BTreeSet<ReplicaId>,
}

/// What a request asks of a follower, and what that one had acknowledged when it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    vote: Vote,
    before: Option<LogId>,
    prev: Option<LogId>,
    last: Option<LogId>,
}

impl Acknowledged {
    /// To be called when the request is sent. `None`: the follower is forsworn, and it is not to be sent.
    pub(super) fn ask(&self, to: ReplicaId, vote: Vote, prev: Option<LogId>, last: Option<LogId>) -> Option<Asked> {
        let mut inner = self.inner.lock();
        if inner.forsworn.contains(&to) {
            return None;
        }
        // What an earlier lead still asks takes nothing from this one.
        if inner.vote < Some(vote) {
            inner.vote = Some(vote);
            inner.upto.clear();
        }
        let before = inner.upto.get(&to).copied().filter(|_| inner.vote == Some(vote));
        Some(Asked { vote, before, prev, last: last.or(prev) })
    }

    /// Takes in the answer; says whether it may be believed.
    pub(super) fn answered(&self, to: ReplicaId, asked: Asked, response: &AppendEntriesResponse<Types>) -> bool {
        match response {
            AppendEntriesResponse::Success => self.reached(to, asked.vote, asked.last),
            AppendEntriesResponse::PartialSuccess(reached) => self.reached(to, asked.vote, *reached),
            AppendEntriesResponse::Conflict if asked.prev.is_some() && asked.prev <= asked.before => {
                let (acknowledged, conflict) = (asked.before, asked.prev);
                tracing::error!(replica = %to, ?acknowledged, ?conflict, "a replica lacks what it has acknowledged: it has to be replaced");
                let mut inner = self.inner.lock();
                inner.forsworn.insert(to);
                if inner.forsworn.len() > FORSWORN_MAX {
                    inner.forsworn.pop_first();
                }
                return false;
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
        }
        !self.inner.lock().forsworn.contains(&to)
    }

    /// The follower has all up to `upto`, durably.
    pub(super) fn reached(&self, to: ReplicaId, vote: Vote, upto: Option<LogId>) {
        let mut inner = self.inner.lock();
        let Some(upto) = upto.filter(|_| inner.vote == Some(vote)) else { return };
        let known = inner.upto.entry(to).or_insert(upto);
        *known = upto.max(*known);
    }

    /// Whether the follower has all up to `upto`, as far as it has said under this vote.
    pub(super) fn has(&self, to: ReplicaId, vote: Vote, upto: Option<LogId>) -> bool {
        let inner = self.inner.lock();
        let known = inner.upto.get(&to).copied().filter(|_| inner.vote == Some(vote));
        upto <= known
    }

    /// Who has gone back on what it acknowledged, as far as this process has seen.
    pub(crate) fn forsworn(&self) -> BTreeSet<ReplicaId> {
        self.inner.lock().forsworn.clone()
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftVote;

    use super::*;
    use crate::raft::types::{LeaderId, log_id};

    const TO: ReplicaId = ReplicaId(2);

    fn vote(term: u64) -> Vote {
        Vote::from_leader_id(LeaderId { term, voted_for: 1 }, true)
    }

    fn at(index: u64) -> Option<LogId> {
        Some(log_id(1, index))
    }

    #[test]
    fn who_conflicts_with_what_it_acknowledged_before_it_was_asked_is_forsworn() {
        use AppendEntriesResponse::{Conflict, Success};
        let acknowledged = Acknowledged::default();
        let ask = |prev, last| acknowledged.ask(TO, vote(1), at(prev), at(last));
        // Looking for the place where the logs part is no fault.
        let probe = ask(5, 5).expect("it may be asked");
        assert!(acknowledged.answered(TO, probe, &Conflict));
        let early = ask(7, 7).expect("it may be asked");
        let sent = ask(3, 9).expect("it may be asked");
        assert!(acknowledged.answered(TO, sent, &Success));
        assert!(acknowledged.answered(TO, early, &Conflict), "it was asked before it had acknowledged that");
        let beyond = ask(10, 10).expect("it may be asked");
        assert!(acknowledged.answered(TO, beyond, &Conflict), "it never had that");
        assert!(acknowledged.forsworn().is_empty());
        let within = ask(9, 12).expect("it may be asked");
        assert!(!acknowledged.answered(TO, within, &Conflict));
        assert!(ask(1, 1).is_none(), "it is asked nothing more");
        assert!(!acknowledged.answered(TO, beyond, &Success), "and what it still answers counts for nothing");
        assert_eq!(acknowledged.forsworn(), BTreeSet::from([TO]));
    }

    #[test]
    fn what_was_acknowledged_to_an_earlier_lead_binds_nobody_in_the_next() {
        let acknowledged = Acknowledged::default();
        let sent = acknowledged.ask(TO, vote(1), None, at(9)).expect("it may be asked");
        assert!(acknowledged.answered(TO, sent, &AppendEntriesResponse::Success));
        let later = acknowledged.ask(TO, vote(2), at(8), None).expect("it may be asked");
        assert!(acknowledged.answered(TO, sent, &AppendEntriesResponse::Success), "a late answer to the earlier lead");
        assert!(acknowledged.answered(TO, later, &AppendEntriesResponse::Conflict));
        let part = acknowledged.ask(TO, vote(2), None, at(9)).expect("it may be asked");
        assert!(acknowledged.answered(TO, part, &AppendEntriesResponse::PartialSuccess(at(4))));
        let between = acknowledged.ask(TO, vote(2), at(5), None).expect("it may be asked");
        assert!(acknowledged.answered(TO, between, &AppendEntriesResponse::Conflict), "only what was reached counts");
        acknowledged.reached(TO, vote(2), at(6));
        let between = acknowledged.ask(TO, vote(2), at(5), None).expect("it may be asked");
        assert!(acknowledged.ask(TO, vote(1), at(5), None).is_some(), "the earlier lead asks once more");
        assert!(acknowledged.has(TO, vote(2), at(6)) && !acknowledged.has(TO, vote(2), at(7)));
        assert!(!acknowledged.has(TO, vote(1), at(6)) && acknowledged.has(TO, vote(1), None));
        assert!(!acknowledged.answered(TO, between, &AppendEntriesResponse::Conflict), "a snapshot counts as well");
    }
}
