//! What becomes of a command that is forwarded to a leader which does as the test says.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::super::wire::{Ask, Ended, Told};
use super::super::{Proposed, RouteError};
use crate::ids::{Generation, GroupId, NodeId, ReplicaId, RequestId};
use crate::node::Node;
use crate::node::folder::{Charter, ClusterId, Founder};
use crate::node::leaders::Lead;
use crate::node::link::{Book, Endpoints, Lane, Me, Peer, Receive, Runtimes, listen, service};
use crate::node::meta::{self, MetaState};
use crate::node::tests::{call, config, limit_of, start, until};
use crate::ring::{Placement, Rules, ShardCount, Weight, Zone, place};
use crate::telemetry::Metrics;
use crate::versions::ClusterVersion;
use crate::view::Envelope;

/// The node that leads everything.
pub(super) const LEADER: NodeId = NodeId(9);

/// Answers forwarded commands by its script, one entry a frame; `None` never answers. Keeps what came.
#[derive(Default)]
pub(super) struct Scripted {
    pub(super) script: Mutex<VecDeque<Option<Ended>>>,
    /// Whom it names as the leader instead of anything else.
    names: Mutex<Option<Lead>>,
    came: Mutex<Vec<Envelope>>,
}

impl Receive for Scripted {
    fn serve(&self, _: Peer, lane: Lane, frame: Bytes) -> BoxFuture<'static, Bytes> {
        let Ok(Ask::Propose(_, envelopes)) = minicbor::decode::<Ask>(&frame) else {
            return std::future::pending().boxed();
        };
        assert_eq!(lane, Lane::Forward);
        self.came.lock().extend(envelopes);
        if let Some(lead) = *self.names.lock() {
            return futures::future::ready(Told::Stale { lead: Some(lead), epoch: Default::default() }.to_bytes())
                .boxed();
        }
        match self.script.lock().pop_front().flatten() {
            Some(ended) => futures::future::ready(Told::Proposed(vec![ended]).to_bytes()).boxed(),
            None => std::future::pending().boxed(),
        }
    }

    fn cast(&self, _: Peer, _: Lane, _: Bytes) {}

    fn founding(&self) -> Option<Charter> {
        None
    }

    fn offer(&self, _: Charter) -> BoxFuture<'static, Result<Charter, String>> {
        async { Err("not here".to_string()) }.boxed()
    }

    fn found(&self, _: Charter, _: BTreeMap<NodeId, String>) -> BoxFuture<'static, Result<(), String>> {
        async { Err("not here".to_string()) }.boxed()
    }

    fn join(&self, _: String) -> BoxFuture<'static, Result<(), String>> {
        async { Err("not here".to_string()) }.boxed()
    }
}

/// A cluster that the leader alone was made of.
fn meta_of(cluster: &ClusterId, link: &str) -> MetaState {
    let (zone, weight) = (Zone::default(), Weight::default());
    let founder = Founder { node: LEADER, name: "leader".to_string(), zone, weight, link: link.to_string() };
    let shards = ShardCount::new(4).unwrap();
    let charter = Charter::new(cluster.clone(), shards, Rules::default(), vec![founder]).unwrap();
    let placement = place(&charter.members(), shards, charter.rules, &Placement::empty(shards)).unwrap();
    let mut meta = MetaState::default();
    meta.apply(meta::Command::Found { charter, placement });
    meta
}

/// A node without replicas, linked to the scripted leader; the leader goes on leading, whatever the node doubts.
pub(super) async fn linked(folder: &Path, version: ClusterVersion) -> (Node, Arc<Scripted>, CancellationToken) {
    let leader = Arc::new(Scripted::default());
    let (node, stop) = linked_to(folder, leader.clone(), version).await;
    (node, leader, stop)
}

/// The same with a leader of any kind, in a cluster of this version.
pub(super) async fn linked_to<R>(folder: &Path, leader: Arc<R>, version: ClusterVersion) -> (Node, CancellationToken)
where
    R: Receive,
{
    let (cluster, stop) = (ClusterId::from_random(1, 2), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = listener.local_addr().unwrap().to_string();
    let me = Arc::new(Me {
        node: LEADER,
        generation: Generation(1),
        name: "leader".to_string(),
        zone: "default".to_string(),
        weight: 100,
        endpoints: Endpoints { link: link.clone(), ..Endpoints::default() },
        cluster: cluster.clone().into(),
        versions: Default::default(),
        removed: Default::default(),
        removed_told: Default::default(),
    });
    let book = Arc::new(Book::open(Arc::new(crate::fs::LyingFs::new(1))).unwrap());
    let service = service(me, book, Arc::new(Metrics::new()), leader, Runtimes::current(), stop.clone());
    tokio::spawn(listen(listener.into(), service, None).unwrap());

    let node = start(config(&folder.join("node"), &[("pulse-ms", "1000"), ("hints-start-wait-ms", "600000")])).await;
    node.inner.me.cluster.set(cluster.clone()).unwrap();
    let endpoints = Endpoints { link: link.clone(), ..Endpoints::default() };
    node.book().learn(LEADER, Generation(1), &endpoints);
    let mut meta = meta_of(&cluster, &link);
    meta.cluster_version = version;
    node.inner.meta.now.store(Arc::new(meta));
    node.inner.look.notify_one();
    until("the lane to the leader", || node.inner.link.is_up(LEADER, Lane::Forward)).await;
    let (leaders, stopped) = (node.leaders().clone(), stop.clone());
    tokio::spawn(async move {
        while !stopped.is_cancelled() {
            for group in 1..=4 {
                leaders.hear_one(GroupId(group), Lead { term: 1, replica: ReplicaId(group), node: LEADER });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    (node, stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_tried_again_keeps_its_request_id_and_one_that_may_have_been_proposed_is_never_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let (node, leader, stop) = linked(folder.path(), ClusterVersion::FIRST).await;
    let too_large = || Some(Ended::TooLarge(2, 1));
    let run = |script: Vec<Option<Ended>>, envelope: Envelope| {
        leader.script.lock().extend(script);
        leader.came.lock().clear();
        let (node, leader) = (node.clone(), leader.clone());
        async move {
            let ended = node.router().propose(envelope, &call(&node, 8000)).await;
            let came: Vec<Envelope> = std::mem::take(&mut *leader.came.lock());
            (ended, came.into_iter().map(|envelope| envelope.request_id).collect::<Vec<Option<RequestId>>>())
        }
    };

    let (ended, ids) = run(vec![too_large()], limit_of("ann")).await;
    assert!(matches!(ended, Proposed::Rejected(RouteError::TooLarge { .. })), "told at once, and so known: {ended:?}");
    assert!(matches!(&ids[..], [Some(_)]), "the router gives an id where there is none: {ids:?}");
    let first = ids[0].clone();

    let (ended, ids) = run(vec![None, too_large()], limit_of("ann")).await;
    assert_eq!(ended, Proposed::Unknown, "the first attempt may have been committed, whatever the second is told");
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]), "one id over all attempts");
    assert!(ids[0].is_some() && ids[0] != first, "and another one for another command");

    let own = RequestId::new("from-the-client").unwrap();
    let envelope = Envelope { request_id: Some(own.clone()), ..limit_of("ann") };
    let (ended, ids) = run(vec![Some(Ended::NotLeader), Some(Ended::Unknown), too_large()], envelope).await;
    assert_eq!(ended, Proposed::Unknown);
    assert_eq!(ids, vec![Some(own); 3], "the client's own id is kept");
    stop.cancel();
    node.stop().await;
}

/// Once the caller span until its deadline, without giving way: a new leader's node is asked before it knows that it leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_be_asked_yet_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (node, leader, stop) = linked(folder.path(), ClusterVersion::FIRST).await;
    let here = Lead { term: 2, replica: ReplicaId(77), node: node.inner.me.node };
    *leader.names.lock() = Some(here);
    let tries = node.inner.metrics.route_retries.get();
    let ended = node.router().propose(limit_of("ann"), &call(&node, 500)).await;
    assert!(matches!(ended, Proposed::Rejected(RouteError::NoLeader { .. })), "{ended:?}");
    let tries = node.inner.metrics.route_retries.get() - tries;
    // Half a second has room for about thirty waits, hints and those that are cut short by news included.
    assert!((1..200).contains(&tries), "{tries}");
    stop.cancel();
    node.stop().await;
}
