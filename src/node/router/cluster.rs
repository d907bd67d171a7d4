//! What concerns the cluster itself: commands of the meta group, and moving leaders.

use std::time::Duration;

use bytes::Bytes;

use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::node::link::Lane;
use crate::node::meta::{self, MetaState};
use crate::raft::Outcome;

use super::attempt::Attempts;
use super::wire::{self, Told};
use super::{Call, RouteError, Router, Sent, Target};

impl Router {
    /// Proposes a command to the meta group. Commands of meta are fenced by what they were decided on, so that trying again is
    /// safe.
    pub async fn propose_meta(&self, command: &meta::Command, call: &Call) -> Result<meta::Answer, RouteError> {
        let bytes = Bytes::from(command.to_bytes());
        let mut attempts = Attempts::new(self.parts(), call);
        while let Some(timeout) = attempts.next().await {
            let answer = match self.target(GroupId::META, &attempts) {
                Some(Target::Here(hosted)) => {
                    let Some(group) = hosted.meta() else { continue };
                    match group.propose(vec![bytes.clone()], timeout).await.pop() {
                        Some(Outcome::Committed(answer)) => answer.to_vec(),
                        _ => continue,
                    }
                }
                Some(Target::There(lead)) => {
                    let route = self.route(GroupId::META, Some(lead.replica), timeout, call);
                    let frame = wire::encode_meta(&route, &bytes);
                    match self.forward(lead, GroupId::META, frame, 1, timeout, &mut attempts).await {
                        Sent::Told(Told::Meta(answer)) => answer,
                        _ => continue,
                    }
                }
                None => continue,
            };
            return meta::Answer::from_bytes(&answer).map_err(|e| RouteError::Failed(e.to_string()));
        }
        Err(RouteError::NoMetaLeader)
    }

    /// Has the leader of a group hand over to another replica. An error says why not, for people.
    pub async fn transfer(&self, group: GroupId, to: ReplicaId, call: &Call) -> Result<(), String> {
        let mut attempts = Attempts::new(self.parts(), call);
        while let Some(timeout) = attempts.next().await {
            match self.target(group, &attempts) {
                Some(Target::Here(hosted)) if hosted.replica == to => return Ok(()),
                Some(Target::Here(hosted)) => {
                    return hosted.transfer_leader(to, timeout).await.map_err(|e| e.to_string());
                }
                Some(Target::There(lead)) if lead.replica == to => return Ok(()),
                Some(Target::There(lead)) => {
                    let frame = wire::encode_transfer(&self.route(group, Some(lead.replica), timeout, call), to);
                    match self.forward(lead, group, frame, 1, timeout, &mut attempts).await {
                        Sent::Told(Told::Transferred(how)) => return how,
                        Sent::Unknown => return Err("it is not known whether the lead was handed over".to_string()),
                        _ => {}
                    }
                }
                None => {}
            }
        }
        Err("no leader that could hand over was reached in time".to_string())
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
