//! The nodes that a client knows: their channels, how they feel, and who leads which shard.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use crate::ids::AccountId;
use crate::net::Net;
use crate::proto::metadata;
use crate::ring::{ShardCount, Token};
use crate::time::MonotonicMs;

/// The most endpoints that a caller may name.
pub(super) const CONFIGURED_MAX: usize = 64;
/// The most endpoints that a client knows, learned ones included.
const KNOWN_MAX: usize = 512;
/// How long a node is left alone after its first failure in a row; doubles with each.
const REST_MS_MIN: u64 = 100;
/// The longest that a node is left alone.
const REST_MS_MAX: u64 = 3_000;
/// While a node accepts what a shard without a leader is told, another one is asked so often whether it knows a leader.
const PROBE_MS: u64 = 1_000;

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    index: usize,
    uri: String,
    pub(super) channel: Channel,
    /// Not to be asked before this time, if another one can be.
    rests_until: AtomicU64,
    /// Failures in a row.
    failures: AtomicU32,
}

impl Node {
    fn new(index: usize, endpoint: &Endpoint, net: &Net) -> Arc<Self> {
        Arc::new(Self {
            index,
            uri: normal(&endpoint.uri().to_string()),
            channel: net.connect_lazy(endpoint),
            rests_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
        })
    }

    /// It has answered, whatever it said.
    pub(super) fn is_well(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.rests_until.store(0, Ordering::Relaxed);
        }
    }

    /// It has not answered: leave it alone for a while.
    pub(super) fn is_sick(&self, now: MonotonicMs) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let rest_ms = (REST_MS_MIN << before).min(REST_MS_MAX);
        self.rests_until.store(now.plus(rest_ms).0, Ordering::Relaxed);
    }

    /// Its place among the known nodes.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    fn rests_at(&self, now: MonotonicMs) -> bool {
        self.rests_until.load(Ordering::Relaxed) > now.0
    }
}

fn normal(uri: &str) -> String {
    uri.trim_end_matches('/').to_string()
}

type Make = Box<dyn Fn(&str) -> Option<Endpoint> + Send + Sync>;

/// Who leads: one entry a shard, from what answers said.
#[derive(Debug, Default)]
struct Leaders {
    shards: Option<ShardCount>,
    node_of: Vec<Option<u16>>,
    /// The shards of which a node has found no leader, and accepts what is written: that node, and when another one is asked.
    /// What is accepted of a view had better lie on one node; but that one may be cut off from a leader that others reach.
    accepting: BTreeMap<usize, (u16, MonotonicMs)>,
}

impl Leaders {
    fn of(&mut self, shards: ShardCount) -> &mut Self {
        if self.shards != Some(shards) {
            let node_of = vec![None; shards.get() as usize];
            *self = Self { shards: Some(shards), node_of, accepting: BTreeMap::new() };
        }
        self
    }
}

/// The nodes and who leads.
pub(super) struct Endpoints {
    nodes: RwLock<Vec<Arc<Node>>>,
    leaders: RwLock<Leaders>,
    next: AtomicUsize,
    follow_hints: bool,
    make: Make,
    net: Net,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.nodes.read().iter().map(|n| n.uri.clone()).collect();
        f.debug_struct("Endpoints").field("nodes", &nodes).finish_non_exhaustive()
    }
}

impl Endpoints {
    /// `make` turns a learned address into an endpoint, with the same deadlines as the given ones.
    pub(super) fn new(given: Vec<Endpoint>, follow_hints: bool, make: Make, net: Net) -> Self {
        let nodes = given.iter().enumerate().map(|(i, e)| Node::new(i, e, &net)).collect();
        Self {
            nodes: RwLock::new(nodes),
            leaders: RwLock::default(),
            next: AtomicUsize::new(0),
            follow_hints,
            make,
            net,
        }
    }

    /// How many nodes are known.
    pub(super) fn len(&self) -> usize {
        self.nodes.read().len()
    }

    /// The node to ask: the one that leads the account's shard, else the next in turn that is well and is not `avoid`; if
    /// none is well, the one that has rested longest.
    pub(super) fn pick(&self, account: Option<&str>, avoid: Option<usize>, now: MonotonicMs) -> Arc<Node> {
        let accepts = if avoid.is_none() { self.probed(account, now) } else { None };
        let nodes = self.nodes.read();
        let fit = |node: &&Arc<Node>| Some(node.index) != avoid && !node.rests_at(now);
        let leader = || account.and_then(|a| self.leader_of(a)).and_then(|i| nodes.get(i)).filter(fit);
        if let (None, Some(leader)) = (accepts, leader()) {
            return leader.clone();
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = (0..nodes.len()).map(|k| &nodes[(start + k) % nodes.len()]);
        let elsewhere = |node: &&Arc<Node>| accepts.is_none_or(|accepts| node.index != accepts) && fit(node);
        let rested = || turn.clone().min_by_key(|n| (Some(n.index) == avoid, n.rests_until.load(Ordering::Relaxed)));
        let found = turn.clone().find(elsewhere).or_else(leader).or_else(|| turn.clone().find(fit));
        found.or_else(rested).expect("a client is built with at least one endpoint").clone()
    }

    fn leader_of(&self, account: &str) -> Option<usize> {
        if !self.follow_hints {
            return None;
        }
        let leaders = self.leaders.read();
        let shard = leaders.shards?.shard_of(Token::of(&AccountId::new(account).ok()?));
        leaders.node_of.get(shard.0 as usize).copied().flatten().map(usize::from)
    }

    /// The node that accepts what the account's shard is told, where it is time to ask another one.
    fn probed(&self, account: Option<&str>, now: MonotonicMs) -> Option<usize> {
        if self.leaders.read().accepting.is_empty() {
            return None;
        }
        let mut leaders = self.leaders.write();
        let shard = leaders.shards?.shard_of(Token::of(&AccountId::new(account?).ok()?));
        let (node, at) = leaders.accepting.get_mut(&(shard.0 as usize))?;
        let is_due = now >= *at;
        if is_due {
            *at = now.plus(PROBE_MS);
        }
        is_due.then_some(usize::from(*node))
    }

    /// Takes in what an answer or an error of a node says about who leads.
    pub(super) fn learn(&self, metadata: &MetadataMap, node: &Node, now: MonotonicMs) {
        if !self.follow_hints {
            return;
        }
        let text = |name| metadata.get(name).and_then(|v| v.to_str().ok());
        let Some((shard, shards)) = text(metadata::SHARD).and_then(parse_shard) else { return };
        match text(metadata::LEADER).map(|leader| self.known(leader)) {
            Some(Some(leader)) => {
                let mut leaders = self.leaders.write();
                let leaders = leaders.of(shards);
                leaders.node_of[shard] = Some(leader);
                leaders.accepting.remove(&shard);
            }
            Some(None) => {}
            None => {
                let Ok(node) = u16::try_from(node.index) else { return };
                let mut leaders = self.leaders.write();
                let leaders = leaders.of(shards);
                // The next call asks another one at once.
                let (node, _) = *leaders.accepting.entry(shard).or_insert((node, now));
                leaders.node_of[shard] = Some(node);
            }
        }
    }

    /// A node has answered a write of the account and named no other one: it leads.
    pub(super) fn wrote(&self, account: &str, metadata: &MetadataMap, node: &Node) {
        if metadata.contains_key(metadata::SHARD) || self.leaders.read().accepting.is_empty() {
            return;
        }
        let mut leaders = self.leaders.write();
        let (Some(shards), Ok(account), Ok(node)) =
            (leaders.shards, AccountId::new(account), u16::try_from(node.index))
        else {
            return;
        };
        let shard = shards.shard_of(Token::of(&account)).0 as usize;
        if leaders.accepting.remove(&shard).is_some() {
            leaders.node_of[shard] = Some(node);
        }
    }

    /// The index of the node at that address, which may be new.
    fn known(&self, uri: &str) -> Option<u16> {
        let uri = normal(uri);
        let position = |nodes: &[Arc<Node>]| nodes.iter().position(|n| n.uri == uri);
        let found = position(&self.nodes.read());
        let index = found.or_else(|| {
            let mut nodes = self.nodes.write();
            if let Some(index) = position(&nodes) {
                return Some(index);
            }
            if nodes.len() >= KNOWN_MAX {
                return None;
            }
            let index = nodes.len();
            nodes.push(Node::new(index, &(self.make)(&uri)?, &self.net));
            Some(index)
        })?;
        u16::try_from(index).ok()
    }
}

/// `17/64`: a shard and how many there are.
fn parse_shard(text: &str) -> Option<(usize, ShardCount)> {
    let (shard, shards) = text.split_once('/')?;
    let shards = ShardCount::new(shards.parse().ok()?).ok()?;
    let shard: u32 = shard.parse().ok()?;
    (shard < shards.get()).then_some((shard as usize, shards))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(n: u16) -> Endpoints {
        let make = |uri: &str| Endpoint::from_shared(uri.to_string()).ok();
        let given = (1..=n).filter_map(|p| make(&format!("http://127.0.0.1:{p}"))).collect();
        Endpoints::new(given, true, Box::new(make), Net::Tcp)
    }

    fn hint(leader: &str, shard: &str) -> MetadataMap {
        let mut map = MetadataMap::new();
        map.insert(metadata::LEADER, leader.parse().unwrap());
        map.insert(metadata::SHARD, shard.parse().unwrap());
        map
    }

    #[tokio::test]
    async fn calls_take_turns_until_an_answer_names_the_leader() {
        let all = endpoints(3);
        let now = MonotonicMs(0);
        let turns: Vec<usize> = (0..4).map(|_| all.pick(Some("a"), None, now).index()).collect();
        assert_eq!(turns, [0, 1, 2, 0]);
        let shard = ShardCount::DEFAULT.shard_of(Token::of(&AccountId::new("a").unwrap()));
        let told = all.pick(None, None, now);
        all.learn(&hint("http://127.0.0.1:2/", &format!("{}/64", shard.0)), &told, now);
        assert!((0..4).all(|_| all.pick(Some("a"), None, now).index() == 1));
    }

    #[tokio::test]
    async fn while_a_node_accepts_what_it_finds_no_leader_for_another_one_is_asked_now_and_then() {
        let all = endpoints(3);
        let ask = |ms| all.pick(Some("a"), None, MonotonicMs(ms));
        let shard = ShardCount::DEFAULT.shard_of(Token::of(&AccountId::new("a").unwrap()));
        let mut accepted = MetadataMap::new();
        accepted.insert(metadata::SHARD, format!("{}/64", shard.0).parse().unwrap());
        let cut_off = ask(0);
        all.learn(&accepted, &cut_off, MonotonicMs(0));
        let probed = ask(0);
        assert_ne!(probed.index(), cut_off.index());
        // It finds none either: what is written goes on to the first.
        all.learn(&accepted, &probed, MonotonicMs(10));
        assert!((10..PROBE_MS).step_by(100).all(|ms| ask(ms).index() == cut_off.index()));
        let probed = ask(PROBE_MS);
        assert_ne!(probed.index(), cut_off.index());
        all.wrote("a", &accepted, &probed);
        assert_eq!(ask(PROBE_MS).index(), cut_off.index());
        all.wrote("a", &MetadataMap::new(), &probed);
        assert!((0..9).all(|n| ask(n * PROBE_MS).index() == probed.index()), "it leads");
    }

    #[tokio::test]
    async fn a_learned_leader_may_be_a_node_that_nobody_named() {
        let all = endpoints(1);
        all.learn(&hint("http://127.0.0.1:9", "0/1"), &all.pick(None, None, MonotonicMs(0)), MonotonicMs(0));
        assert_eq!(all.len(), 2);
        assert_eq!(all.pick(Some("anybody"), None, MonotonicMs(0)).index(), 1);
    }

    #[tokio::test]
    async fn a_node_that_failed_rests_while_another_is_well() {
        let all = endpoints(2);
        all.learn(&hint("http://127.0.0.1:1", "0/1"), &all.pick(None, None, MonotonicMs(0)), MonotonicMs(0));
        let node = all.pick(Some("a"), None, MonotonicMs(0));
        node.is_sick(MonotonicMs(0));
        assert_eq!(all.pick(Some("a"), None, MonotonicMs(50)).index(), 1);
        assert_eq!(all.pick(Some("a"), None, MonotonicMs(200)).index(), 0);
    }

    #[tokio::test]
    async fn hints_that_make_no_sense_are_ignored() {
        let all = endpoints(2);
        for (leader, shard) in
            [("http://127.0.0.1:9", "64/64"), ("http://127.0.0.1:9", "x"), ("http://127.0.0.1:9", "1/3"), ("::", "0/1")]
        {
            all.learn(&hint(leader, shard), &all.pick(None, None, MonotonicMs(0)), MonotonicMs(0));
        }
        assert_eq!(all.len(), 2);
    }
}
