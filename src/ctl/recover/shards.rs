//! `clusterctl recover shard` and `shards`.
//!
//! Every node that lives is asked for its own replica: the longest log of a voter that is left has all that any of those that are left
//! has. What only those had that are gone nobody can tell, and it is said so before anything is done.

use std::cmp::Reverse;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::each::each;
use super::super::exit::Failure;
use super::super::node::{Node, node_name};
use super::super::output::{number, right, span, table, text};
use super::super::shard::shards;
use super::super::text::{plain, short, wrapped};
use crate::client::AdminClient;
use crate::proto::v1::{self, get_raft_state_request, get_shard_request::Of};

/// How often it is looked whether a shard is led.
const LOOK: Duration = Duration::from_millis(200);
/// The most shards whose reasons are told in full.
const REASONS_MAX: usize = 8;

/// Which shard.
#[derive(Debug, Args)]
pub(in crate::ctl) struct One {
    /// The shard's number
    shard: u32,
    /// The node whose replica goes on; none: the one with the longest log
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    from: Option<String>,
    /// Only say what would be done, or why it is refused
    #[arg(long)]
    dry_run: bool,
}

/// All that have no leader.
#[derive(Debug, Args)]
pub(in crate::ctl) struct All {
    /// All shards without a leader
    #[arg(long, required = true)]
    all: bool,
    /// Only say what would be done, or why it is refused
    #[arg(long)]
    dry_run: bool,
}

/// A replica that is left, by its own node's word.
#[derive(Clone, Debug, Serialize)]
struct Left {
    node: String,
    replica_id: u64,
    last_log_term: u64,
    last_log_index: u64,
    applied_index: Option<u64>,
    /// Null: not since it was opened.
    leader_heard_ms_ago: Option<u64>,
    goes_on: bool,
}

/// A shard that goes on with one replica, or would.
#[derive(Debug, Serialize)]
struct Recovered {
    shard: u32,
    from_node: String,
    replica_id: u64,
    voters: Vec<String>,
    /// Those of them that are removed or given up.
    gone: Vec<String>,
    left: Vec<Left>,
    /// Of all shards, on nodes that live.
    hints_waiting: u64,
    done: bool,
    /// Null: none yet.
    leader: Option<String>,
}

/// A shard that can't.
#[derive(Debug, Serialize)]
struct Refused {
    shard: u32,
    why: String,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    recovered: Vec<Recovered>,
    refused: Vec<Refused>,
}

pub(super) async fn one(context: &Context, options: One) -> Result<(), Failure> {
    let (nodes, admin) = (living(context).await?, context.patient_admin().await?);
    let recovered = look(context, &nodes, &admin, options.shard, options.from.as_deref()).await?;
    carry_out(context, Answer { recovered: vec![recovered], refused: Vec::new() }, options.dry_run).await
}

pub(super) async fn all(context: &Context, options: All) -> Result<(), Failure> {
    let (nodes, admin) = (living(context).await?, context.patient_admin().await?);
    let mut answer = Answer::default();
    for shard in shards(context, None).await?.into_iter().filter(|shard| shard.leader.is_none()) {
        match look(&context.again(), &nodes, &admin, shard.shard, None).await {
            Ok(recovered) => answer.recovered.push(recovered),
            Err(failure @ Failure::Unreachable(_)) => return Err(failure),
            Err(failure) => answer.refused.push(Refused { shard: shard.shard, why: plain(&failure.to_string()) }),
        }
    }
    carry_out(context, answer, options.dry_run || !options.all).await
}

async fn living(context: &Context) -> Result<Vec<Node>, Failure> {
    let admin = context.admin()?;
    let status = context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?;
    Ok(status.nodes.into_iter().map(Node::from).filter(|node| node.liveness == "alive").collect())
}

/// What recovering a shard would do, or why it is refused.
async fn look(
    context: &Context,
    nodes: &[Node],
    admin: &AdminClient,
    shard: u32,
    from: Option<&str>,
) -> Result<Recovered, Failure> {
    let of = Some(get_raft_state_request::Of::Shard(shard));
    let said = each(context, nodes, async |admin| admin.get_raft_state(v1::GetRaftStateRequest { of }).await);
    let states = said.await.into_iter().filter_map(|said| Some((said.node, said.answer.ok()?.state?)));
    let mut left: Vec<Left> = states.filter_map(|(node, state)| voter(node, &state)).collect();
    left.sort_by_key(|replica| Reverse((replica.last_log_term, replica.last_log_index)));
    let chosen = match from {
        Some(from) => from.to_string(),
        None => left.first().map(|replica| replica.node.clone()).ok_or_else(|| {
            Failure::error(format!(
                "no node that lives has a voter of shard {shard} that runs: nothing is left of it here"
            ))
        })?,
    };
    left.iter_mut().for_each(|replica| replica.goes_on = replica.node == chosen);
    let request = v1::RecoverShardRequest { shard, from_node: chosen.clone(), validate_only: true };
    let told = admin.recover_shard(request).await?;
    let names = |names: Vec<String>| -> Vec<String> { names.iter().map(|name| plain(name)).collect() };
    let (voters, gone) = (names(told.voters), names(told.gone));
    let answered = |name: &String| left.iter().any(|replica| replica.node == *name);
    let silent: Vec<&str> =
        voters.iter().filter(|name| !gone.contains(*name) && !answered(name)).map(String::as_str).collect();
    if from.is_none() && !silent.is_empty() {
        return Err(Failure::error(format!(
            "{} may have a longer log of shard {shard}, and did not tell: ask again when it does, or choose with --from",
            silent.join(", ")
        )));
    }
    Ok(Recovered {
        shard,
        from_node: chosen,
        replica_id: told.replica_id,
        voters,
        gone,
        left,
        hints_waiting: told.hints_waiting,
        done: false,
        leader: None,
    })
}

/// A replica that votes and has a log.
fn voter(node: String, state: &v1::RaftState) -> Option<Left> {
    let votes = state.members.iter().any(|member| member.voter && member.replica_id == state.replica_id);
    let last_log_index = state.last_log_index.filter(|_| votes && state.stopped.is_empty())?;
    Some(Left {
        node,
        replica_id: state.replica_id,
        last_log_term: state.last_log_term.unwrap_or_default(),
        last_log_index,
        applied_index: state.applied_index,
        leader_heard_ms_ago: state.leader_heard_ms_ago,
        goes_on: false,
    })
}

async fn carry_out(context: &Context, answer: Answer, dry_run: bool) -> Result<(), Failure> {
    if dry_run || answer.recovered.is_empty() {
        return context.show(context.screen(&answer, || answer.text(), answer.verdict())?);
    }
    if !context.yes {
        context.note(&answer.text());
    }
    let context = permission(context, &answer.sentence()).await?;
    let admin = context.patient_admin().await?;
    let Answer { recovered: asked, mut refused } = answer;
    let mut recovered = Vec::new();
    for one in asked {
        let request =
            v1::RecoverShardRequest { shard: one.shard, from_node: one.from_node.clone(), validate_only: false };
        // Whatever becomes of one, the others are done, and all of it is told.
        match admin.recover_shard(request).await {
            Ok(_) => recovered.push(Recovered { done: true, ..one }),
            Err(error) => refused.push(Refused { shard: one.shard, why: plain(&Failure::from(error).to_string()) }),
        }
    }
    let mut answer = Answer { recovered, refused };
    for recovered in &mut answer.recovered {
        recovered.leader = led(&context, recovered.shard).await?;
    }
    context.show(context.screen(&answer, || answer.text(), answer.verdict())?)
}

/// Waits until a shard is led, as long as `--timeout` lets it.
async fn led(context: &Context, shard: u32) -> Result<Option<String>, Failure> {
    loop {
        let found = shards(&context.again(), Some(Of::Shard(shard))).await?;
        if let Some(leader) = found.into_iter().find_map(|shard| shard.leader) {
            return Ok(Some(leader));
        }
        if context.left() <= LOOK {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Recovered {
    /// One that is left has a longer log than the one that goes on.
    fn longer(&self) -> Option<&Left> {
        let of = |replica: &Left| (replica.last_log_term, replica.last_log_index);
        let mine = self.left.iter().find(|replica| replica.goes_on).map(of);
        self.left.first().filter(|longest| mine.is_some_and(|mine| of(longest) > mine))
    }
}

impl Answer {
    /// What is to be done, without its full stop.
    fn sentence(&self) -> String {
        match self.recovered.as_slice() {
            [one] => format!(
                "Shard {} goes on with replica {} on {} alone; what only others had is lost for good",
                one.shard, one.replica_id, one.from_node
            ),
            many => {
                format!("{} shards go on with one replica each; what only others had is lost for good", many.len())
            }
        }
    }

    fn verdict(&self) -> Result<(), Failure> {
        if let Some(first) = self.refused.first() {
            let (refused, shard, why) = (self.refused.len(), first.shard, &first.why);
            return Err(Failure::error(format!("{refused} shards are not recovered; shard {shard}: {why}")));
        }
        let waits: Vec<String> = self
            .recovered
            .iter()
            .filter(|recovered| recovered.done && recovered.leader.is_none())
            .map(|recovered| recovered.shard.to_string())
            .collect();
        match waits.is_empty() {
            true => Ok(()),
            false => Err(Failure::Degraded(format!("shards without a leader so far: {}", waits.join(", ")))),
        }
    }

    fn table(&self) -> String {
        let mut rows = table(["SHARD", "NODE", "ID", "TERM", "LAST", "APPLIED", "HEARD A LEADER", ""]);
        right(&mut rows, &[0, 2, 3, 4, 5]);
        for recovered in &self.recovered {
            for replica in &recovered.left {
                let heard = replica.leader_heard_ms_ago;
                rows.add_row([
                    recovered.shard.to_string(),
                    short(&replica.node, 12),
                    replica.replica_id.to_string(),
                    replica.last_log_term.to_string(),
                    number(replica.last_log_index),
                    replica.applied_index.map_or_else(|| "-".to_string(), number),
                    heard.map_or_else(|| "not since".to_string(), |ms| format!("{} ago", span(ms))),
                    if replica.goes_on { "goes on" } else { "" }.to_string(),
                ]);
            }
        }
        text(&mut rows)
    }

    /// What may be lost.
    fn losses(&self) -> Vec<String> {
        let mut gone: Vec<&str> = self.recovered.iter().flat_map(|r| &r.gone).map(String::as_str).collect();
        gone.sort_unstable();
        gone.dedup();
        let mut told = vec![format!(
            "What was acknowledged and stands on {} only is lost, and destroyed there when they come back. How much that is nobody \
             can tell: all that the replica which goes on had not received, which may have lagged behind before its leader was \
             gone, or did not run. Be sure that no process of theirs still runs, cut off or suspended: those would go on \
             acknowledging by themselves",
            gone.join(", ")
        )];
        for recovered in &self.recovered {
            if let Some(longer) = recovered.longer() {
                let (shard, node, from) = (recovered.shard, &longer.node, &recovered.from_node);
                told.push(format!("Shard {shard}: the log on {node} is longer than that on {from}: more is lost"));
            }
        }
        let hints = self.recovered.iter().map(|recovered| recovered.hints_waiting).max().unwrap_or_default();
        if hints > 0 {
            told.push(format!(
                "Accepted writes of {hints} views wait on nodes that live, and are handed off afterwards"
            ));
        }
        told
    }

    fn text(&self) -> String {
        if self.recovered.is_empty() && self.refused.is_empty() {
            return "every shard is led: nothing is to be recovered".to_string();
        }
        let mut parts = Vec::new();
        if !self.recovered.is_empty() {
            parts.push(self.table());
        }
        let done = self.recovered.iter().any(|recovered| recovered.done);
        if !done && !self.recovered.is_empty() {
            parts.extend(self.losses().iter().map(|line| wrapped(line, 80).join("\n")));
        }
        for recovered in self.recovered.iter().filter(|recovered| recovered.done) {
            let Recovered { shard, from_node, .. } = recovered;
            parts.push(match &recovered.leader {
                Some(leader) => format!("shard {shard} is led by {leader}; its other replicas are made anew"),
                None => format!(
                    "shard {shard} is not led yet: see clusterctl shard show {shard}, and the log of {from_node}"
                ),
            });
        }
        for Refused { shard, why } in self.refused.iter().take(REASONS_MAX) {
            parts.push(wrapped(&format!("shard {shard}: {why}"), 80).join("\n  "));
        }
        if !done {
            parts.push("nothing was done yet".to_string());
        }
        parts.join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(term: u64, last: u64, votes: bool) -> v1::RaftState {
        v1::RaftState {
            replica_id: 7,
            last_log_index: Some(last),
            last_log_term: Some(term),
            members: vec![v1::RaftMember { replica_id: 7, voter: votes, ..Default::default() }],
            ..Default::default()
        }
    }

    fn recovered(from: &str) -> Recovered {
        let mut left: Vec<Left> = [("n1", 4, 90), ("n4", 5, 80)]
            .iter()
            .filter_map(|(node, term, last)| voter(node.to_string(), &state(*term, *last, true)))
            .collect();
        left.sort_by_key(|replica| Reverse((replica.last_log_term, replica.last_log_index)));
        left.iter_mut().for_each(|replica| replica.goes_on = replica.node == from);
        Recovered {
            shard: 3,
            from_node: from.to_string(),
            replica_id: 7,
            voters: ["n1", "n2", "n3", "n4", "n5"].map(String::from).to_vec(),
            gone: ["n2", "n3", "n5"].map(String::from).to_vec(),
            left,
            hints_waiting: 2,
            done: false,
            leader: None,
        }
    }

    #[test]
    fn the_log_of_the_higher_term_goes_further_and_only_voters_count() {
        assert!(voter("n1".into(), &state(9, 900, false)).is_none());
        assert_eq!(recovered("n4").left[0].node, "n4");
        assert!(recovered("n4").longer().is_none());
        assert_eq!(recovered("n1").longer().map(|left| left.node.as_str()), Some("n4"));
    }

    #[test]
    fn what_may_be_lost_is_said_before_anything_is_done_within_80_columns() {
        let answer = Answer { recovered: vec![recovered("n1")], refused: Vec::new() };
        let told = answer.text();
        assert!(told.contains("n2, n3, n5 only is lost") && told.contains("more is lost"), "{told}");
        assert!(told.contains("2 views") && told.ends_with("nothing was done yet"), "{told}");
        assert!(told.lines().all(|line| line.chars().count() <= 80), "{told}");
        assert!(answer.sentence().contains("replica 7 on n1 alone"));
    }

    #[test]
    fn what_was_refused_or_is_not_led_is_no_success() {
        let refused = Refused { shard: 5, why: "most voters may live".into() };
        let told = Answer { recovered: Vec::new(), refused: vec![refused] }.verdict().unwrap_err().to_string();
        assert!(told.contains("shard 5: most voters may live"), "{told}");
        let waits = Answer { recovered: vec![Recovered { done: true, ..recovered("n1") }], refused: Vec::new() };
        assert!(matches!(waits.verdict(), Err(Failure::Degraded(_))));
        assert!(Answer::default().verdict().is_ok());
    }
}
