//! What is wrong with a cluster, by what its nodes say. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::super::each::Said;
use super::super::output::{number, ranges, span};
use super::super::plan::Leads;
use super::super::shard::{DIFFER, Replica, Shard};
use super::super::status::Status;
use super::super::upgrade::Versions;
use super::Finding;

/// How far a replica may be behind before it is worth a word, entries: far more than a moment's work.
pub(super) const LAG_MAX: u64 = 10_000;
/// How far apart the nodes' clocks may be, milliseconds.
const CLOCKS_APART_MS_MAX: u64 = 1_000;
/// For how long hints may wait before it is worth a word, milliseconds: longer than an election and the longest wait between two attempts.
pub(super) const HINTS_WAIT_MS_MAX: u64 = 60_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// Members notice, or data is in doubt.
    Critical,
    /// Nobody notices yet.
    Warning,
}

/// What was heard.
#[derive(Debug)]
pub(super) struct Heard {
    /// What one node says of all.
    pub(super) status: Status,
    /// The same of the shards.
    pub(super) shards: Vec<Shard>,
    /// What every node says of itself.
    pub(super) said: Vec<Said<Own>>,
    /// What one node says of versions, if its build knows of any.
    pub(super) versions: Option<Versions>,
    /// What one node says of how leads are balanced, if its build tells.
    pub(super) leads: Option<Leads>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    pub(super) answered_by: String,
    pub(super) cluster_id: String,
    pub(super) epoch: u64,
    pub(super) version: String,
    /// By how much its clock is ahead of ours, give or take half of `round_trip_ms`.
    pub(super) ahead_ms: Option<i64>,
    pub(super) round_trip_ms: u64,
    /// How it sees the nodes.
    pub(super) sees: Vec<(String, &'static str)>,
}

/// What is wrong, the worst first.
pub(super) fn judge(heard: &Heard) -> Vec<Finding> {
    if heard.status.cluster_id.is_empty() {
        return vec![Finding {
            severity: Severity::Critical,
            kind: "no-cluster",
            what: format!("{} belongs to no cluster", heard.status.answered_by),
            why: "nothing can be reported or read before there is one".into(),
            advice: "name where the nodes serve each other, once".into(),
            run: "clusterctl bootstrap HOST:PORT HOST:PORT HOST:PORT".into(),
        }];
    }
    let mut findings = Vec::new();
    let side = side(heard);
    if side != Side::Majority {
        findings.push(cut_off(heard, &side));
    }
    nodes(heard, &mut findings);
    strangers(heard, &mut findings);
    epochs(heard, &mut findings);
    // What a node that is cut off can't see, others do.
    if !matches!(side, Side::CutOff { .. }) {
        meta(heard, &mut findings);
        quorums(heard, &mut findings);
    }
    replicas(heard, &mut findings);
    states(heard, &mut findings);
    disks(heard, &mut findings);
    hints(heard, &mut findings);
    places(heard, &mut findings);
    leaders(heard, &mut findings);
    versions(heard, &mut findings);
    upgrade(heard, &mut findings);
    clocks(heard, &mut findings);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn warning(kind: &'static str, what: String, why: &str, advice: &str, run: String) -> Finding {
    Finding { severity: Severity::Warning, kind, what, why: why.into(), advice: advice.into(), run }
}

fn critical(kind: &'static str, what: String, why: &str, advice: &str, run: String) -> Finding {
    Finding { severity: Severity::Critical, ..warning(kind, what, why, advice, run) }
}

/// Whether the answering node sees a node alive.
fn is_alive(heard: &Heard, name: &str) -> bool {
    heard.status.nodes.iter().any(|node| node.node == name && node.liveness == "alive")
}

/// The answers of nodes that answered.
fn answers(heard: &Heard) -> impl Iterator<Item = (&str, &Own)> {
    heard.said.iter().filter_map(|said| Some((said.node.as_str(), said.answer.as_ref().ok()?)))
}

/// How much of the cluster the answering node hears.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    /// A majority of the nodes.
    Majority,
    /// Too few, and these answer us and hear a majority.
    CutOff { from: Vec<&'a str> },
    /// Too few, and nobody else who answers hears more.
    Unknown,
}

fn is_majority(alive: usize, all: usize) -> bool {
    2 * alive > all
}

fn side(heard: &Heard) -> Side<'_> {
    let nodes = heard.status.nodes.iter().filter(|node| node.intent != "removed");
    let (all, alive) = (nodes.clone().count(), nodes.filter(|node| node.liveness == "alive").count());
    if is_majority(alive, all) {
        return Side::Majority;
    }
    let hears = |own: &Own| is_majority(own.sees.iter().filter(|(_, seen)| *seen == "alive").count(), own.sees.len());
    let others = answers(heard).filter(|(name, _)| *name != heard.status.answered_by);
    let from: Vec<&str> = others.filter(|(_, own)| hears(own)).map(|(name, _)| name).collect();
    if from.is_empty() { Side::Unknown } else { Side::CutOff { from } }
}

/// The answering node hears too few for anything to be decided where it is, whatever goes on elsewhere.
fn cut_off(heard: &Heard, side: &Side<'_>) -> Finding {
    let asked = &heard.status.answered_by;
    let hears = |node: &str| node == asked || is_alive(heard, node);
    let nodes = heard.status.nodes.iter().filter(|node| node.intent != "removed").map(|node| node.node.as_str());
    let (heard_of, unheard): (Vec<&str>, Vec<&str>) = nodes.partition(|node| hears(node));
    let (why, to_ask, advice) = match side {
        Side::CutOff { from } => (
            "the others hear each other and may serve; what this node says of shards is old, or true of its side only",
            from.clone(),
            format!("ask another: {}. Then look at the network between {asked} and them", from.join(", ")),
        ),
        _ => (
            "the others may serve without it or be dead, which cannot be told from here: all that follows is its side only",
            unheard.clone(),
            format!(
                "ask another, from where it answers; if none does, start them: {}. Keep their folders",
                unheard.join(", ")
            ),
        ),
    };
    let count = heard_of.len() + unheard.len();
    let run = match to_ask.first() {
        Some(first) => format!("clusterctl doctor --endpoints ';admin={}'", admin_of(heard, first)),
        None => "clusterctl node list".into(),
    };
    let what = format!("{asked}, which was asked, hears no majority: {} of {count} nodes with itself", heard_of.len());
    critical("no-majority-heard", what, why, &advice, run)
}

/// Nodes that are silent, to the cluster or to us, or to one of the others.
fn nodes(heard: &Heard, findings: &mut Vec<Finding>) {
    for said in &heard.said {
        let name = &said.node;
        let seen = heard.status.nodes.iter().find(|node| node.node == *name).map_or("unheard", |node| node.liveness);
        match (&said.answer, seen) {
            (Ok(_), "alive") => {}
            (Err(why), "alive") => findings.push(warning(
                "node-unreachable",
                format!("the admin port of {name} does not answer here, though the cluster hears the node: {why}"),
                "it cannot be operated from here",
                "look for a firewall between here and the node, and at the node's log",
                format!("clusterctl node show {name}"),
            )),
            (Ok(_), seen) => findings.push(warning(
                "node-unheard",
                format!("{name} answers here, and {} sees it {seen}", heard.status.answered_by),
                "nodes that do not hear each other hand over leaders and cannot catch up",
                "look at the network between the nodes, and whether it has only just started",
                format!("clusterctl node show {name}"),
            )),
            (Err(why), seen) => findings.push(warning(
                "node-down",
                format!("{name} is {seen}, and does not answer: {why}"),
                "its replicas do not follow: one more failure may leave shards without a quorum",
                "start its process again on its machine; it catches up by itself. Keep its folder",
                "clusterctl status --wait --timeout 5m".into(),
            )),
        }
    }
    for (name, own) in answers(heard) {
        let deaf = own.sees.iter().filter(|(other, seen)| *seen != "alive" && is_alive(heard, other));
        let deaf: Vec<&str> = deaf.filter(|(other, _)| other != name).map(|(other, _)| other.as_str()).collect();
        if !deaf.is_empty() {
            findings.push(warning(
                "node-deaf",
                format!("{name} does not hear {}, which {} hears", deaf.join(", "), heard.status.answered_by),
                "a network that is cut in one place makes elections and slow writes",
                "look at the network between these nodes",
                format!("clusterctl node list --endpoints ';admin={}'", admin_of(heard, name)),
            ));
        }
    }
}

fn admin_of(heard: &Heard, name: &str) -> String {
    let node = heard.status.nodes.iter().find(|node| node.node == name);
    node.map(|node| node.admin_endpoint.trim_start_matches("http://").to_string()).unwrap_or_default()
}

/// Answers that come from somebody else.
fn strangers(heard: &Heard, findings: &mut Vec<Finding>) {
    for (name, own) in answers(heard) {
        if own.cluster_id != heard.status.cluster_id || own.answered_by != name {
            let is = if own.cluster_id.is_empty() { "of no cluster" } else { "of another cluster, or another node" };
            findings.push(critical(
                "node-mistaken",
                format!("where {name} should serve, {:?} answers, {is}", own.answered_by),
                "what operators do there is done to the wrong node",
                "look at the configured addresses of both",
                format!("clusterctl status --endpoints ';admin={}'", admin_of(heard, name)),
            ));
        }
    }
}

/// The meta group.
fn meta(heard: &Heard, findings: &mut Vec<Finding>) {
    if heard.status.meta_leader.is_empty() {
        findings.push(critical(
            "meta-without-leader",
            "the meta group has no leader".into(),
            "placement, membership and settings cannot change; shards go on",
            "start the nodes that hold its other replicas",
            "clusterctl raft show meta".into(),
        ));
    }
}

/// Who has not heard what the meta group decided.
fn epochs(heard: &Heard, findings: &mut Vec<Finding>) {
    let newest = answers(heard).map(|(_, own)| own.epoch).max().unwrap_or_default();
    let behind: Vec<&str> = answers(heard).filter(|(_, own)| own.epoch < newest).map(|(name, _)| name).collect();
    if !behind.is_empty() {
        findings.push(warning(
            "epoch-behind",
            format!("{} have not applied placement {newest} yet", behind.join(", ")),
            "they route by an old map; they are corrected, and that takes time",
            "ask again in a moment; if it stays, look whether these nodes reach the meta group's leader",
            "clusterctl raft show meta".into(),
        ));
    }
}

/// Shards that cannot take writes.
fn quorums(heard: &Heard, findings: &mut Vec<Finding>) {
    let works = |replica: &&Replica| {
        matches!(replica.role, "leader" | "follower" | "candidate") && is_alive(heard, &replica.node)
    };
    let mut without_quorum = Vec::new();
    let mut without_leader = Vec::new();
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for shard in &heard.shards {
        let expected = shard.replicas.len().max(shard.placement.len());
        if shard.replicas.iter().filter(works).count() * 2 <= expected {
            without_quorum.push(shard.shard);
            needed.extend(shard.replicas.iter().filter(|r| !works(r)).map(|r| r.node.as_str()));
        } else if shard.leader.as_deref().is_none_or(|leader| !is_alive(heard, leader)) {
            without_leader.push(shard.shard);
        }
    }
    if let Some(first) = without_quorum.first() {
        let (count, which) = (without_quorum.len(), ranges(without_quorum.iter().copied()));
        let needed = needed.into_iter().collect::<Vec<_>>().join(", ");
        findings.push(critical(
            "shard-without-quorum",
            format!("{count} shards have no quorum: {which}"),
            "their accounts read only what may be old (--read any); what they report is accepted at best, and handed off later",
            &format!("bring back nodes that hold their other replicas: {needed}. Keep the folders of all"),
            format!("clusterctl shard show {first}"),
        ));
    }
    if let Some(first) = without_leader.first() {
        let (count, which) = (without_leader.len(), ranges(without_leader.iter().copied()));
        findings.push(critical(
            "shard-without-leader",
            format!("{count} shards have a quorum and no leader: {which}"),
            "their accounts can report nothing until one is elected, which takes a moment",
            "ask again; if it stays, look at the terms: replicas that cannot win keep standing",
            format!("clusterctl raft show {first}"),
        ));
    }
}

/// Replicas of nodes that live, which do not follow.
fn replicas(heard: &Heard, findings: &mut Vec<Finding>) {
    let mut troubled: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    let mut behind: BTreeMap<&str, (u64, Vec<u32>)> = BTreeMap::new();
    for shard in &heard.shards {
        for replica in shard.replicas.iter().filter(|replica| is_alive(heard, &replica.node)) {
            if matches!(replica.role, "failed" | "retired" | "stopped" | "unheard") {
                troubled.entry((&replica.node, replica.role)).or_default().push(shard.shard);
            } else if replica.lag > LAG_MAX {
                let (most, shards) = behind.entry(&replica.node).or_default();
                *most = replica.lag.max(*most);
                shards.push(shard.shard);
            }
        }
    }
    for ((node, role), shards) in troubled {
        let which = ranges(shards.iter().copied());
        let (kind, advice): (&'static str, &str) = match role {
            "failed" => {
                ("replica-failed", "the node's log says why; it is tried again by itself, at growing distances")
            }
            "retired" => ("replica-retired", "it is replaced by itself while its shard has a quorum; look again later"),
            "stopped" => ("replica-stopped", "the node's log says why; restart the node if it stays"),
            _ => ("replica-unheard", "it may be opening; if it stays, the node's log says why"),
        };
        findings.push(warning(
            kind,
            format!("{} replicas of {node} are {role}: of shards {which}", shards.len()),
            "these shards stand one failure less",
            advice,
            format!("clusterctl node show {node}"),
        ));
    }
    for (node, (most, shards)) in behind {
        let which = ranges(shards.iter().copied());
        findings.push(warning(
            "replica-behind",
            format!("{} replicas of {node} are up to {} entries behind: of shards {which}", shards.len(), number(most)),
            "they cannot lead soon, and answer old things to --read any",
            "look whether it shrinks; a disk or a network that is too slow makes it grow",
            "clusterctl shard list --troubled --watch".into(),
        ));
    }
}

/// Shards whose replicas have different states.
fn states(heard: &Heard, findings: &mut Vec<Finding>) {
    let differ: Vec<u32> = heard.shards.iter().filter(|s| s.digests == DIFFER).map(|s| s.shard).collect();
    if let Some(first) = differ.first() {
        findings.push(critical(
            "states-differ",
            format!("replicas of {} shards have different states: {}", differ.len(), ranges(differ.iter().copied())),
            "one of them is wrong: a mistake of the cluster or of a machine, and answers depend on who leads",
            "keep the folders of all its replicas, and replace none before it is known which is right",
            format!("clusterctl shard check {first}"),
        ));
    }
}

/// Nodes whose reserve of disk space is touched.
fn disks(heard: &Heard, findings: &mut Vec<Finding>) {
    for node in heard.status.nodes.iter().filter(|node| node.disk_full && node.liveness == "alive") {
        findings.push(critical(
            "disk-full",
            format!("the disk of {} is full up to its reserve", node.node),
            "the shards that it leads refuse starts and imports, and all writes when half the reserve is gone",
            "make room on its disk or give it a larger one; until then hand its leaders to nodes with room",
            format!("clusterctl node show {}", node.node),
        ));
    }
}

/// What nodes have accepted for shards without a leader, and can't hand off, have lost or can't keep.
fn hints(heard: &Heard, findings: &mut Vec<Finding>) {
    for node in heard.status.nodes.iter().filter(|node| node.liveness == "alive") {
        let name = &node.node;
        if node.hints_waiting > 0 && node.hints_oldest_ms > HINTS_WAIT_MS_MAX {
            let (views, oldest) = (number(node.hints_waiting), span(node.hints_oldest_ms));
            findings.push(warning(
                "hints-waiting",
                format!("{name} has not handed off what {views} views said, the oldest for {oldest}"),
                "no read shows it yet; it is lost with the disk of this node, and dropped when it is 24 h old",
                "shards without a leader come first; else look whether the node reaches the leaders, and at its log. \
                 What belongs to a view that no shard knows waits its 24 h",
                format!("clusterctl node show {name}"),
            ));
        }
        if node.hints_damaged > 0 || node.hints_dropped > 0 {
            let (damaged, dropped) = (number(node.hints_damaged), number(node.hints_dropped));
            findings.push(warning(
                "hints-lost",
                format!("{name} has dropped the hints of {dropped} views, and could not read {damaged} places of their file"),
                "what devices said while their shards had no leader may be lost: positions may be older than members remember",
                "nothing can be done for what is lost; the node's log names it, and hints.damaged in its folder is what was found. \
                 A restart of the node ends this finding",
                format!("clusterctl node show {name}"),
            ));
        }
        if node.hints_broken {
            findings.push(warning(
                "hints-broken",
                format!("the disk of {name} takes no hints"),
                "while a shard has no leader, nothing is accepted for it there",
                "the node's log says why; look at its disk",
                format!("clusterctl node show {name}"),
            ));
        }
    }
}

/// Shards whose replicas do not stand where they should.
fn places(heard: &Heard, findings: &mut Vec<Finding>) {
    let misplaced = heard.shards.iter().filter(|shard| {
        let stand: BTreeSet<&str> = shard.replicas.iter().map(|replica| replica.node.as_str()).collect();
        let should: BTreeSet<&str> = shard.placement.iter().map(String::as_str).collect();
        stand != should || shard.replicas.len() != shard.placement.len()
    });
    let misplaced: Vec<u32> = misplaced.map(|shard| shard.shard).collect();
    if let Some(first) = misplaced.first() {
        findings.push(warning(
            "placement-not-reached",
            format!("{} shards do not stand where they should: {}", misplaced.len(), ranges(misplaced.iter().copied())),
            "replicas are being moved or replaced, or cannot be",
            "look whether it shrinks; a move waits for a quorum and for nodes that live",
            format!("clusterctl shard show {first}"),
        ));
    }
}

/// Nodes that lead many more shards than they should.
fn leaders(heard: &Heard, findings: &mut Vec<Finding>) {
    let mut led: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for shard in &heard.shards {
        if let Some(leader) = &shard.leader {
            led.entry(leader).or_default().0 += 1;
        }
        if let Some(preferred) = shard.placement.first() {
            led.entry(preferred).or_default().1 += 1;
        }
    }
    // A quarter more than it should, and not only one or two.
    let overloaded = |(leads, should): (u32, u32)| leads > should + (should / 4).max(2);
    let burdened: Vec<&str> = led.iter().filter(|(_, counts)| overloaded(**counts)).map(|(node, _)| *node).collect();
    if burdened.is_empty() {
        return;
    }
    let each: Vec<String> =
        led.iter().map(|(node, (leads, should))| format!("{node} leads {leads} (should {should})")).collect();
    let movable = heard.shards.iter().find(|shard| {
        let leads = shard.leader.as_deref().is_some_and(|leader| burdened.contains(&leader));
        let preferred = shard.placement.first();
        leads && preferred.is_some_and(|node| Some(node) != shard.leader.as_ref() && is_alive(heard, node))
    });
    findings.push(warning(
        "leaders-uneven",
        format!("leaders are uneven: {}", each.join(", ")),
        "the node that leads takes all writes of its shards",
        "where the preferred node lives, hand leaders back to it, shard by shard",
        match movable {
            Some(shard) => format!("clusterctl shard transfer-leader {}", shard.shard),
            None => "clusterctl shard list".into(),
        },
    ));
}

fn versions(heard: &Heard, findings: &mut Vec<Finding>) {
    let mut versions: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    match &heard.versions {
        Some(told) => told.builds().for_each(|(name, build)| versions.entry(build).or_default().push(name)),
        None => answers(heard)
            .filter(|(_, own)| !own.version.is_empty())
            .for_each(|(name, own)| versions.entry(own.version.clone()).or_default().push(name)),
    }
    if versions.len() > 1 {
        let each = versions.iter().map(|(version, nodes)| format!("{version} on {}", nodes.join(", ")));
        findings.push(warning(
            "versions-differ",
            format!("nodes run different versions: {}", each.collect::<Vec<_>>().join("; ")),
            "new commands and formats wait until all nodes run the new version",
            "bring all nodes to one version, one after the other",
            "clusterctl upgrade show".into(),
        ));
    }
}

/// An upgrade that only has to be finished.
fn upgrade(heard: &Heard, findings: &mut Vec<Finding>) {
    let Some((cluster, next)) = heard.versions.as_ref().and_then(|told| Some((told.cluster(), told.next()?))) else {
        return;
    };
    findings.push(warning(
        "upgrade-unfinished",
        format!("all nodes speak version {next}, and the cluster has version {cluster}"),
        "what the newer version brings is not switched on; until then the way back to the build before is open",
        "when the new build has proved itself, finish the upgrade; it cannot be undone",
        "clusterctl upgrade finish".into(),
    ));
}

/// Clocks that are certainly apart, whatever the network's delays were.
fn clocks(heard: &Heard, findings: &mut Vec<Finding>) {
    let bounds = answers(heard).filter_map(|(name, own)| {
        let half = i64::try_from(own.round_trip_ms / 2 + 1).unwrap_or(i64::MAX);
        let ahead = own.ahead_ms?;
        Some((name, ahead.saturating_sub(half), ahead.saturating_add(half)))
    });
    let bounds: Vec<(&str, i64, i64)> = bounds.collect();
    let first = bounds.iter().min_by_key(|(_, _, most)| *most);
    let last = bounds.iter().max_by_key(|(_, least, _)| *least);
    let (Some((slow, _, most)), Some((fast, least, _))) = (first, last) else { return };
    let apart = u64::try_from(least.saturating_sub(*most)).unwrap_or_default();
    if apart > CLOCKS_APART_MS_MAX {
        findings.push(warning(
            "clocks-apart",
            format!("the clock of {fast} is {} or more ahead of that of {slow}", span(apart)),
            "times in histories and rows come from the clock of whoever led: their order may be wrong",
            "let both machines set their clocks (NTP)",
            format!("clusterctl node show {fast}"),
        ));
    }
}
