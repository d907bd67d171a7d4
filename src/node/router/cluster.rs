//! What concerns the cluster itself: commands of the meta group, and moving leaders.

use std::time::Duration;

use bytes::Bytes;

use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::node::link::Lane;
use crate::node::meta::{self, MetaState};
use crate::raft::Outcome;

use super::attempt::Attempts;
use super::wire::{self, Ended, Told};
use super::{Call, RouteError, Router, Sent, Target};

/// Why a lead was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTransferred {
    /// Why it was not, for people.
    #[error("{0}")]
    Refused(String),
    /// The leader was asked, and didn't answer: it may have handed over.
    #[error("no answer came in time: the lead may have been handed over, or may be still")]
    Unknown,
}

/// How one attempt at a command of the meta group ended.
#[derive(Debug, PartialEq, Eq)]
enum MetaEnd {
    Answered(Vec<u8>),
    NotProposed,
    Unknown,
}

fn of_outcome(outcome: Option<Outcome<Bytes>>) -> MetaEnd {
    match outcome {
        Some(Outcome::Committed(answer)) => MetaEnd::Answered(answer.to_vec()),
        Some(Outcome::Rejected(_)) => MetaEnd::NotProposed,
        Some(Outcome::Unknown) | None => MetaEnd::Unknown,
    }
}

fn of_sent(sent: Sent) -> MetaEnd {
    match sent {
        Sent::Told(Told::Meta(answer)) => MetaEnd::Answered(answer),
        Sent::NothingDone | Sent::Full | Sent::Told(Told::Stale { .. } | Told::Malformed(_)) => MetaEnd::NotProposed,
        // Of all ends that are no commit, only this one leaves it open.
        Sent::Told(Told::Ended(ended)) if ended != Ended::Unknown => MetaEnd::NotProposed,
        Sent::Told(_) | Sent::Unknown => MetaEnd::Unknown,
    }
}

impl Router {
    /// Proposes a command to the meta group. Most commands of meta are fenced by what they were decided on, so that trying again is
    /// safe; the others aren't tried again once they may have been proposed. Of attempts that may have been proposed and told
    /// nothing, a later refusal says nothing either: it may be the earlier one itself that stands in its way.
    pub async fn propose_meta(&self, command: &meta::Command, call: &Call) -> Result<meta::Answer, RouteError> {
        let bytes = Bytes::from(command.to_bytes());
        let mut attempts = Attempts::new(self.parts(), call);
        let mut unknown = false;
        while let Some(timeout) = attempts.next().await {
            let ended = match self.target(GroupId::META, &attempts) {
                Some(Target::Here(hosted)) => match hosted.meta() {
                    Some(group) => of_outcome(group.propose(vec![bytes.clone()], timeout).await.pop()),
                    None => MetaEnd::NotProposed,
                },
                Some(Target::There(lead)) => {
                    let route = self.route(GroupId::META, Some(lead.replica), timeout, call);
                    let frame = wire::encode_meta(&route, &bytes);
                    of_sent(self.forward(lead, GroupId::META, frame, 1, timeout, &mut attempts).await)
                }
                None => MetaEnd::NotProposed,
            };
            match ended {
                MetaEnd::Answered(answer) => {
                    return match meta::Answer::from_bytes(&answer) {
                        Ok(meta::Answer::Refused { .. }) if unknown => Err(RouteError::Unknown),
                        Ok(answer) => Ok(answer),
                        Err(error) => Err(RouteError::Failed(error.to_string())),
                    };
                }
                MetaEnd::NotProposed => {}
                MetaEnd::Unknown if !command.may_be_repeated() => return Err(RouteError::Unknown),
                MetaEnd::Unknown => unknown = true,
            }
        }
        Err(if unknown { RouteError::Unknown } else { RouteError::NoMetaLeader })
    }

    /// Has the leader of a group hand over to another replica.
    pub async fn transfer(&self, group: GroupId, to: ReplicaId, call: &Call) -> Result<(), NotTransferred> {
        let mut attempts = Attempts::new(self.parts(), call);
        while let Some(timeout) = attempts.next().await {
            match self.target(group, &attempts) {
                Some(Target::Here(hosted)) if hosted.replica == to => return Ok(()),
                Some(Target::Here(hosted)) => {
                    return hosted
                        .transfer_leader(to, timeout)
                        .await
                        .map_err(|e| NotTransferred::Refused(e.to_string()));
                }
                Some(Target::There(lead)) if lead.replica == to => return Ok(()),
                Some(Target::There(lead)) => {
                    let frame = wire::encode_transfer(&self.route(group, Some(lead.replica), timeout, call), to);
                    match self.forward(lead, group, frame, 1, timeout, &mut attempts).await {
                        Sent::Told(Told::Transferred(how)) => return how.map_err(NotTransferred::Refused),
                        Sent::Unknown => return Err(NotTransferred::Unknown),
                        _ => {}
                    }
                }
                None => {}
            }
        }
        Err(NotTransferred::Refused("no leader that could hand over was reached in time".to_string()))
    }

    /// Asks another node what the cluster is.
    pub(crate) async fn fetch_meta(&self, node: NodeId, call: &Call) -> Option<MetaState> {
        let left = Duration::from_millis(call.deadline.since(self.clock().monotonic()));
        let frame = wire::encode_meta_state(&self.route(GroupId::META, None, left, call));
        let answer = self.parts().link.call(node, Lane::Forward, Bytes::from(frame));
        let answer = tokio::time::timeout(left, answer).await.ok()?.ok()?;
        match minicbor::decode(&answer).ok()? {
            Told::MetaState(state) => Some(*state),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Rejected;

    #[test]
    fn a_meta_command_that_may_have_been_proposed_is_unknown_and_one_that_was_not_is_tried_again() {
        assert_eq!(of_outcome(Some(Outcome::Unknown)), MetaEnd::Unknown);
        assert_eq!(of_outcome(Some(Outcome::Rejected(Rejected::Overloaded))), MetaEnd::NotProposed);
        assert_eq!(of_sent(Sent::Unknown), MetaEnd::Unknown);
        assert_eq!(of_sent(Sent::Told(Told::Ended(Ended::Unknown))), MetaEnd::Unknown);
        for not_proposed in [Ended::NotLeader, Ended::Overloaded, Ended::DeadlineExceeded, Ended::TooLarge(2, 1)] {
            assert_eq!(of_sent(Sent::Told(Told::Ended(not_proposed))), MetaEnd::NotProposed);
        }
        assert_eq!(of_sent(Sent::NothingDone), MetaEnd::NotProposed);
        assert_eq!(of_sent(Sent::Told(Told::Meta(vec![1]))), MetaEnd::Answered(vec![1]));
    }
}
