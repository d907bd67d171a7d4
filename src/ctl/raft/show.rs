//! `clusterctl raft show`.
//!
//! Every node that may have a replica is asked for its own: what one says of another is no more than its opinion.

use serde::Serialize;

use super::super::context::Context;
use super::super::each::each;
use super::super::exit::Failure;
use super::super::node::Node;
use super::super::output::{bytes, judged, number, right, span, table, text};
use super::super::shard::role;
use super::super::text::{plain, short, wrapped};
use super::{ShowOptions, Which};
use crate::proto::v1::{self, get_raft_state_request, get_shard_request};

/// How long a leader may go without an answer of a quorum, milliseconds: it leads no more, and may not know it yet.
const QUORUM_MS_MAX: u64 = 5_000;

/// A group.
#[derive(Debug, Serialize)]
struct Group {
    group: u64,
    /// Null: the meta group.
    shard: Option<u32>,
    /// The one that says itself that it leads, in the highest term.
    leader: Option<String>,
    term: u64,
    /// Who votes and who only listens, as the leader sees it; without a leader, whoever has the longest log.
    voters: Vec<Member>,
    learners: Vec<Member>,
    joint: bool,
    members_committed: bool,
    /// How long ago a quorum last answered the leader.
    quorum_ms_ago: Option<u64>,
    replicas: Vec<Replica>,
    /// Nodes that should have a replica and did not tell of one, and why.
    silent: Vec<Silent>,
}

#[derive(Clone, Debug, Serialize)]
struct Member {
    replica_id: u64,
    node: String,
    matched_index: Option<u64>,
    lag: Option<u64>,
}

/// A replica, as it sees itself.
#[derive(Debug, Serialize)]
struct Replica {
    node: String,
    replica_id: u64,
    role: &'static str,
    term: u64,
    leader: Option<String>,
    last_log_index: Option<u64>,
    applied_index: Option<u64>,
    checkpoint_index: Option<u64>,
    purged_index: Option<u64>,
    log_bytes: u64,
    queued_commands: u64,
    stopped: Option<String>,
}

#[derive(Debug, Serialize)]
struct Silent {
    node: String,
    why: String,
}

impl Replica {
    fn new(node: String, state: &v1::RaftState) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| plain(text));
        Self {
            node,
            replica_id: state.replica_id,
            role: role(state.role()),
            term: state.term,
            leader: some(&state.leader),
            last_log_index: state.last_log_index,
            applied_index: state.applied_index,
            checkpoint_index: state.checkpoint_index,
            purged_index: state.purged_index,
            log_bytes: state.log_bytes,
            queued_commands: state.queued_commands,
            stopped: some(&state.stopped),
        }
    }
}

pub(super) async fn run(context: &Context, options: ShowOptions) -> Result<(), Failure> {
    let admin = context.admin()?;
    let status = context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?;
    let mut nodes: Vec<Node> = status.nodes.into_iter().map(Node::from).collect();
    let (of, shard) = match options.of {
        Which::Meta => (get_raft_state_request::Of::Meta(true), None),
        Which::Shard(shard) => {
            let request = v1::GetShardRequest { of: Some(get_shard_request::Of::Shard(shard)) };
            let answer = context.read(admin.get_shard(request)).await?.shard.unwrap_or_default();
            let holds = |node: &Node| answer.replicas.iter().any(|replica| plain(&replica.node) == node.node);
            nodes.retain(holds);
            (get_raft_state_request::Of::Shard(shard), Some(shard))
        }
    };
    let request = v1::GetRaftStateRequest { of: Some(of) };
    let said = each(context, &nodes, async |admin| admin.get_raft_state(request).await).await;
    let (mut states, mut silent) = (Vec::new(), Vec::new());
    for said in said {
        match said.answer.map(|answer| answer.state) {
            Ok(Some(state)) => states.push((said.node, state)),
            // Not every node has a replica of the meta group.
            Ok(None) if shard.is_none() => {}
            Ok(None) => silent.push(Silent { node: said.node, why: "no replica runs there".into() }),
            Err(why) => silent.push(Silent { node: said.node, why: plain(&why) }),
        }
    }
    let group = group(shard, &states, silent);
    let verdict = group.verdict();
    context.show(context.screen(&group, || group.text(), verdict)?)
}

fn group(shard: Option<u32>, states: &[(String, v1::RaftState)], silent: Vec<Silent>) -> Group {
    let leading = states.iter().filter(|(_, state)| state.role() == v1::ReplicaRole::Leader);
    let leading = leading.max_by_key(|(_, state)| state.term);
    let knowing = leading.or_else(|| states.iter().max_by_key(|(_, state)| (state.term, state.last_log_index)));
    let known = knowing.map(|(_, state)| state.clone()).unwrap_or_default();
    let members = |voter: bool| -> Vec<Member> {
        let members = known.members.iter().filter(|member| member.voter == voter);
        let member = |member: &v1::RaftMember| Member {
            replica_id: member.replica_id,
            node: plain(&member.node),
            matched_index: member.matched_index,
            lag: member.lag,
        };
        members.map(member).collect()
    };
    Group {
        group: shard.map_or(0, |shard| u64::from(shard) + 1),
        shard,
        leader: leading.map(|(node, _)| node.clone()),
        term: states.iter().map(|(_, state)| state.term).max().unwrap_or_default(),
        voters: members(true),
        learners: members(false),
        joint: known.joint,
        members_committed: known.members_committed,
        quorum_ms_ago: known.quorum_ms_ago,
        replicas: states.iter().map(|(node, state)| Replica::new(node.clone(), state)).collect(),
        silent,
    }
}

impl Group {
    fn verdict(&self) -> Result<(), Failure> {
        let mut complaints = Vec::new();
        if self.leader.is_none() {
            complaints.push("no replica leads".to_string());
        }
        if let (Some(leader), Some(ms)) = (&self.leader, self.quorum_ms_ago.filter(|ms| *ms > QUORUM_MS_MAX)) {
            complaints.push(format!("no quorum has answered {leader}, which leads, for {}", span(ms)));
        }
        let stopped = self.replicas.iter().filter(|replica| replica.stopped.is_some());
        complaints.extend(stopped.map(|replica| format!("the replica of {} has stopped", replica.node)));
        let voters = self.voters.iter().map(|voter| voter.node.as_str());
        let missing = voters.filter(|voter| !self.replicas.iter().any(|replica| replica.node == *voter));
        complaints.extend(missing.map(|voter| format!("{voter} did not tell of its replica")));
        if complaints.is_empty() { Ok(()) } else { Err(Failure::Degraded(complaints.join("; "))) }
    }

    fn text(&self) -> String {
        let name = self.shard.map_or_else(|| "meta group".to_string(), |shard| format!("shard {shard}"));
        let leader = self.leader.as_deref().unwrap_or("none");
        let mut out = format!("{name} (group {})  leader {leader}  term {}\n", self.group, self.term);
        let names = |members: &[Member]| match members {
            [] => "none".to_string(),
            some => some.iter().map(|m| format!("{}:{}", m.node, m.replica_id)).collect::<Vec<_>>().join(" "),
        };
        out.push_str(&format!("voters {}  learners {}", names(&self.voters), names(&self.learners)));
        out.push_str(if self.joint { "  being changed" } else { "" });
        out.push_str(if self.members_committed || self.voters.is_empty() { "\n" } else { "  not yet committed\n" });
        if let Some(ms) = self.quorum_ms_ago {
            out.push_str(&format!("a quorum answered the leader {} ago\n", span(ms)));
        }
        let mut rows = table(["NODE", "ID", "ROLE", "TERM", "LAST", "APPLIED", "LAG", "SAVED", "PURGED", "UNSAVED"]);
        right(&mut rows, &[1, 3, 4, 5, 6, 7, 8, 9]);
        let index = |index: Option<u64>| index.map_or_else(|| "-".to_string(), number);
        let members = || self.voters.iter().chain(&self.learners);
        for replica in &self.replicas {
            let lag = members().find(|member| member.replica_id == replica.replica_id).and_then(|member| member.lag);
            rows.add_row([
                short(&replica.node, 12).into(),
                replica.replica_id.into(),
                judged(replica.role, matches!(replica.role, "leader" | "follower" | "learner")),
                replica.term.into(),
                index(replica.last_log_index).into(),
                index(replica.applied_index).into(),
                index(lag).into(),
                index(replica.checkpoint_index).into(),
                index(replica.purged_index).into(),
                bytes(replica.log_bytes).into(),
            ]);
        }
        out.push_str(&format!("\n{}\n", text(&mut rows)));
        let stopped = self.replicas.iter().filter_map(|r| Some((&r.node, r.stopped.as_ref()?)));
        let silent = self.silent.iter().map(|silent| (&silent.node, &silent.why));
        for (node, why) in stopped.chain(silent) {
            out.push_str(&format!("\n{}", wrapped(&format!("{node}: {why}"), 80).join("\n  ")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(role: v1::ReplicaRole, term: u64, last: u64) -> v1::RaftState {
        let members = (1..=3).map(|id| v1::RaftMember {
            replica_id: id,
            node: format!("n{id}"),
            voter: id < 3,
            ..Default::default()
        });
        v1::RaftState {
            role: role.into(),
            term,
            last_log_index: Some(last),
            members: members.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_leader_is_the_one_of_the_highest_term() {
        let leader = v1::ReplicaRole::Leader;
        // One that was cut off still thinks that it leads.
        let states = [("n1".to_string(), state(leader, 2, 90)), ("n2".to_string(), state(leader, 3, 80))];
        let found = group(Some(4), &states, Vec::new());
        assert_eq!((found.leader.as_deref(), found.term, found.group), (Some("n2"), 3, 5));
        assert_eq!((found.voters.len(), found.learners.len()), (2, 1));
        assert!(found.verdict().is_ok());
    }

    #[test]
    fn without_a_leader_or_a_voter_it_is_degraded_and_still_shown() {
        let states = [("n1".to_string(), state(v1::ReplicaRole::Candidate, 7, 90))];
        let silent = vec![Silent { node: "n2".into(), why: "connection refused".into() }];
        let found = group(None, &states, silent);
        let told = found.verdict().unwrap_err().to_string();
        assert!(told.contains("no replica leads") && told.contains("n2 did not tell"), "{told}");
        assert!(found.text().contains("n2: connection refused"), "{}", found.text());
    }
}
