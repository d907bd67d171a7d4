//! Many founding calls at once, over nodes that lose requests, answers and themselves at any step. Every run is given by its
//! seed.

use std::collections::BTreeMap;

use futures::executor::block_on;
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::ids::{Generation, NodeId};
use crate::node::folder::Identity;
use crate::node::link::{Endpoints, Me};
use crate::ring::{Weight, Zone};
use crate::versions::{ClusterVersion, Spoken};

/// The nodes as they are on disk, and a network that does what it likes.
struct World {
    nodes: Mutex<BTreeMap<NodeId, Identity>>,
    random: Mutex<SmallRng>,
    /// Of a hundred requests, how many are lost, and as many answers; what is lost may still arrive later.
    lost_percent: Mutex<u32>,
    /// What may still arrive.
    late: Mutex<Vec<(NodeId, Late)>>,
}

#[derive(Clone)]
enum Late {
    Offer(Charter),
    Begin(Charter),
}

/// Lets the others have a turn.
async fn step() {
    let mut had_one = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut had_one, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

fn address(node: NodeId) -> String {
    format!("127.0.0.1:{node}")
}

fn introduction(identity: &Identity) -> Introduction {
    Introduction {
        node: identity.node,
        generation: identity.generation,
        name: format!("n{}", identity.node),
        zone: Zone::default(),
        weight: Weight::default(),
        endpoints: Endpoints { link: address(identity.node), ..Endpoints::default() },
        cluster: identity.charter.as_ref().map(|charter| charter.cluster.clone()),
        founding: identity.held().cloned(),
        spoken: Spoken::BUILD,
    }
}

impl World {
    fn new(seed: u64, nodes: u64, lost_percent: u32) -> Self {
        let (generation, charter, offered, cluster_version) = (Generation(1), None, None, None);
        let identity =
            |node| Identity { node, generation, charter: charter.clone(), offered: offered.clone(), cluster_version };
        Self {
            nodes: Mutex::new((1..=nodes).map(NodeId).map(|node| (node, identity(node))).collect()),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            lost_percent: Mutex::new(lost_percent),
            late: Mutex::default(),
        }
    }

    fn draw(&self, below: u32) -> u32 {
        self.random.lock().random_range(0..below)
    }

    /// Lets the others go on for a while; some of what was lost arrives meanwhile.
    async fn pause(&self) {
        for _ in 0..self.draw(4) {
            step().await;
        }
        if self.draw(3) == 0 {
            let mut late = self.late.lock();
            if !late.is_empty() {
                let at = self.draw(late.len() as u32) as usize;
                let (node, what) = late.swap_remove(at);
                drop(late);
                self.arrive(node, what);
            }
        }
    }

    fn arrive(&self, node: NodeId, what: Late) -> Option<Charter> {
        let mut nodes = self.nodes.lock();
        let identity = nodes.get_mut(&node)?;
        match what {
            Late::Offer(charter) => Some(identity.offer(charter).clone()),
            Late::Begin(charter) => identity.begin(&charter).is_ok().then_some(charter),
        }
    }

    async fn send(&self, node: NodeId, what: Late) -> Result<Charter, String> {
        self.pause().await;
        let lost_percent = *self.lost_percent.lock();
        if self.draw(100) < lost_percent {
            if self.draw(2) == 0 {
                self.late.lock().push((node, what));
            }
            return Err("the request was lost".to_string());
        }
        let answer = self.arrive(node, what);
        self.pause().await;
        if self.draw(100) < lost_percent {
            return Err("the answer was lost".to_string());
        }
        answer.ok_or_else(|| "the node refuses".to_string())
    }

    /// One node asks what became of what it was offered.
    async fn settle(&self, node: NodeId) {
        self.pause().await;
        let Some(offered) = self.nodes.lock()[&node].offered.clone() else { return };
        let fate = fate_of(&self, node, &offered).await;
        let mut nodes = self.nodes.lock();
        let identity = nodes.get_mut(&node).unwrap();
        match fate {
            Fate::Begun => drop(identity.begin(&offered)),
            Fate::Dead => drop(identity.withdraw(&offered)),
            Fate::Open => {}
        }
    }

    /// No node begins before all founders hold its charter: so no two clusters share a node.
    fn check(&self, told: &str) {
        let nodes = self.nodes.lock();
        for identity in nodes.values() {
            let Some(charter) = &identity.charter else { continue };
            for founder in &charter.founders {
                let held = nodes[&founder.node].held();
                assert_eq!(
                    held,
                    Some(charter),
                    "{told}: {} has begun, {} does not hold it",
                    identity.node,
                    founder.node
                );
            }
        }
    }

    fn begun(&self) -> Vec<Option<Charter>> {
        self.nodes.lock().values().map(|identity| identity.charter.clone()).collect()
    }
}

#[async_trait]
impl Ways for &World {
    async fn introduce(&self, address: &str) -> Result<Introduction, String> {
        self.pause().await;
        let node = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).map(NodeId).unwrap();
        let told = self.nodes.lock().get(&node).map(introduction);
        self.pause().await;
        told.filter(|_| self.draw(100) >= *self.lost_percent.lock()).ok_or_else(|| format!("{address} is silent"))
    }

    async fn offer(&self, to: &Introduction, charter: &Charter) -> Result<Charter, String> {
        self.send(to.node, Late::Offer(charter.clone())).await
    }

    async fn begin(&self, to: &Introduction, charter: &Charter) -> Result<(), String> {
        self.send(to.node, Late::Begin(charter.clone())).await.map(|_| ())
    }
}

fn me(node: NodeId) -> Me {
    Me {
        node,
        generation: Generation(1),
        name: String::new(),
        zone: String::new(),
        weight: 100,
        endpoints: Endpoints { link: address(node), ..Endpoints::default() },
        cluster: Default::default(),
        versions: Default::default(),
        removed: Default::default(),
        removed_told: Default::default(),
    }
}

/// A call through one of the nodes.
async fn call(world: &World, list: &[u64], cluster: u64) -> Result<Bootstrapped, BootstrapError> {
    let through = NodeId(list[world.draw(list.len() as u32) as usize]);
    let wishes = Wishes { random: (cluster, 0), ..Wishes::default() };
    let addresses = list.iter().map(|node| address(NodeId(*node))).collect();
    found_together(&world, &me(through), &wishes, &addresses).await
}

/// Lets calls and settling nodes run at once; a call may die at any step.
fn run_at_once(world: &World, lists: &[&[u64]], calls: usize) -> Vec<Result<Bootstrapped, BootstrapError>> {
    let ended = Mutex::new(Vec::new());
    let mut at_once = futures::stream::FuturesUnordered::<LocalBoxFuture<'_, ()>>::new();
    for number in 0..calls {
        let list = lists[number % lists.len()];
        let (steps, ended) = (world.draw(120), &ended);
        let dies = world.draw(3) == 0;
        let calling = async move {
            let answer = call(world, list, 100 + number as u64).await;
            ended.lock().push(answer);
        };
        let dying = async move {
            for _ in 0..steps {
                step().await;
            }
            if !dies {
                std::future::pending::<()>().await;
            }
        };
        at_once.push(
            async move { drop(futures::future::select(calling.boxed_local(), dying.boxed_local()).await) }
                .boxed_local(),
        );
    }
    let nodes: Vec<NodeId> = world.nodes.lock().keys().copied().collect();
    for node in nodes {
        at_once.push(
            async move {
                for _ in 0..3 {
                    world.settle(node).await;
                }
            }
            .boxed_local(),
        );
    }
    block_on(async { while at_once.next().await.is_some() {} });
    drop(at_once);
    ended.into_inner()
}

/// One call, with nothing lost any more.
fn run_alone(world: &World, list: &[u64], cluster: u64) -> Result<Bootstrapped, BootstrapError> {
    *world.lost_percent.lock() = 0;
    block_on(call(world, list, cluster))
}

#[test]
fn calls_at_once_with_deaths_at_any_step_make_one_cluster_and_the_next_call_finishes_it() {
    let mut interrupted = 0;
    for seed in 0..3000 {
        let told = format!("seed {seed}");
        let nodes = 1 + seed % 5;
        let list: Vec<u64> = (1..=nodes).collect();
        let world = World::new(seed, nodes, [0, 5, 30][seed as usize % 3]);
        let ended = run_at_once(&world, &[&list], 1 + (seed as usize / 3) % 4);
        world.check(&told);
        let mut made: Vec<Charter> = ended.into_iter().flatten().map(|made| made.charter).collect();
        interrupted += usize::from(made.is_empty());
        made.push(run_alone(&world, &list, 7).expect(&told).charter);
        let again = run_alone(&world, &list, 8).expect(&told);
        assert!(!again.created, "{told}");
        made.push(again.charter);
        world.check(&told);
        assert!(made.windows(2).all(|pair| pair[0] == pair[1]), "{told}: two clusters were made");
        assert!(world.begun().iter().all(|charter| charter.as_ref() == made.first()), "{told}");
    }
    assert!(interrupted > 100, "only {interrupted} runs were interrupted before a cluster was made");
}

#[test]
fn calls_with_lists_that_differ_make_clusters_apart_or_are_refused_and_one_of_them_can_always_be_finished() {
    let lists: [&[&[u64]]; 4] = [
        &[&[1, 2, 3], &[2, 3, 4]],
        &[&[1, 2, 3], &[3, 4, 5]],
        &[&[1, 2], &[2, 3], &[3, 4, 5]],
        &[&[1, 2, 3], &[1, 2, 3, 4, 5]],
    ];
    let mut refused = 0;
    for seed in 0..3000 {
        let told = format!("seed {seed}");
        let lists = lists[seed as usize % lists.len()];
        let world = World::new(seed, 5, [0, 5, 30][(seed / 4) as usize % 3]);
        run_at_once(&world, lists, 2 + (seed as usize / 12) % 3);
        world.check(&told);
        let mut made = 0;
        for (number, list) in lists.iter().enumerate() {
            match run_alone(&world, list, 7 + number as u64) {
                Ok(_) => made += 1,
                Err(BootstrapError::Differ { .. } | BootstrapError::Taken(_)) => refused += 1,
                Err(other) => panic!("{told}: {other}"),
            }
            world.check(&told);
        }
        if made == 0 {
            // Each may have been held up by another that was finished only now, or by a record that is dead.
            made += usize::from(lists.iter().any(|list| run_alone(&world, list, 9).is_ok()));
        }
        assert!(made > 0, "{told}: no list can be finished");
        // Whoever holds the record of a cluster that can't begin lets go of it.
        for node in 1..=5 {
            block_on(world.settle(NodeId(node)));
        }
        world.check(&told);
    }
    assert!(refused > 1000, "only {refused} calls were refused");
}

#[test]
fn a_list_that_differs_is_refused_with_both_lists() {
    let world = World::new(1, 3, 0);
    run_alone(&world, &[1, 2], 1).unwrap();
    let told = run_alone(&world, &[2, 3], 2).unwrap_err().to_string();
    for named in ["n2 at 127.0.0.1:2, n3 at 127.0.0.1:3", "n1 at 127.0.0.1:1, n2 at 127.0.0.1:2"] {
        assert!(told.contains(named), "{told}");
    }
}

#[test]
fn a_record_is_let_go_of_only_when_one_of_its_founders_has_begun_elsewhere() {
    let world = World::new(1, 3, 0);
    let introduced: Vec<Introduction> = world.nodes.lock().values().map(introduction).collect();
    let wishes = Wishes { random: (5, 5), ..Wishes::default() };
    let three = agree::proposal(&wishes, &introduced).unwrap();
    world.arrive(NodeId(1), Late::Offer(three.clone()));
    block_on(world.settle(NodeId(1)));
    assert_eq!(world.nodes.lock()[&NodeId(1)].offered, Some(three));
    run_alone(&world, &[2, 3], 2).unwrap();
    block_on(world.settle(NodeId(1)));
    assert_eq!(world.nodes.lock()[&NodeId(1)].held(), None);
}

#[test]
fn a_cluster_begins_with_the_newest_version_that_all_its_founders_speak() {
    let identity = |node| Identity {
        node: NodeId(node),
        generation: Generation(1),
        charter: None,
        offered: None,
        cluster_version: None,
    };
    let version_of = |spoken: [Spoken; 3]| {
        let met = (1..).zip(spoken).map(|(node, spoken)| Introduction { spoken, ..introduction(&identity(node)) });
        super::agree::proposal(&Wishes::default(), &met.collect::<Vec<_>>()).map(|charter| charter.version())
    };
    let (now, before) = (Spoken::told(1, 2), Spoken::told(0, 0));
    assert_eq!(version_of([now, now, now]).unwrap(), ClusterVersion(2));
    assert_eq!(version_of([now, before, now]).unwrap(), ClusterVersion(1));
    let refused = version_of([now, before, Spoken::told(2, 3)]).unwrap_err();
    assert!(matches!(&refused, BootstrapError::Versions(told) if told.contains("n3 speaks 2 to 3")), "{refused}");
}
