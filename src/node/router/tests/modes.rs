//! How each mode of reading is asked of a node that may not know it, and what is made of its answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::super::wire::{Ask, Told, WireMode};
use super::super::{RouteError, Served};
use super::again::linked_to;
use crate::ids::{AccountId, NodeId, ReplicaId, Revision};
use crate::node::Node;
use crate::node::folder::Charter;
use crate::node::link::{Lane, Peer, Receive};
use crate::node::tests::call;
use crate::raft::{AsOf, ReadMode, Reading, Role};
use crate::time::{LogicalMs, WallMs};
use crate::versions::ClusterVersion;
use crate::view::{Query, Reply};

const BEFORE: ClusterVersion = ClusterVersion(2);
const SINCE: ClusterVersion = ClusterVersion(3);

/// What a query came as: the replica that was meant, and the tag of old or the mode of today.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Came {
    Query(bool, u8),
    Read(bool, WireMode),
}

/// Answers every query as it is told, but for STRONG ones if it is so told; keeps what came.
struct Answering {
    came: Mutex<Vec<Came>>,
    as_of: AsOf,
    /// STRONG reads are never answered: there is no quorum.
    alone: bool,
}

impl Answering {
    fn new(alone: bool) -> Arc<Self> {
        let as_of = AsOf {
            revision: Revision(5),
            logical: LogicalMs(1),
            wall: WallMs(1),
            replica: ReplicaId(1),
            role: Role::Follower,
            cut_off: false,
            age_ms: Some(700),
        };
        Arc::new(Self { came: Mutex::default(), as_of, alone })
    }
}

impl Receive for Answering {
    fn serve(&self, _: Peer, _: Lane, frame: Bytes) -> BoxFuture<'static, Bytes> {
        let (came, is_strong, as_of) = match minicbor::decode::<Ask>(&frame) {
            Ok(Ask::Query(route, _, tag)) => {
                (Came::Query(route.replica.is_some(), tag), tag == 0, AsOf { age_ms: None, ..self.as_of })
            }
            Ok(Ask::Read(route, _, mode)) => {
                (Came::Read(route.replica.is_some(), mode), mode == WireMode::Strong, self.as_of)
            }
            _ => return std::future::pending().boxed(),
        };
        self.came.lock().push(came);
        if self.alone && is_strong {
            return std::future::pending().boxed();
        }
        futures::future::ready(Told::Replied(Reply::ActiveViews(Vec::new()), (&as_of).into()).to_bytes()).boxed()
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

async fn read(node: &Node, reading: impl Into<Reading>, ms: u64) -> Result<Served, RouteError> {
    let query = Query::ListActiveViews(AccountId::new("ann").unwrap());
    node.router().query(query, reading.into(), &call(node, ms)).await
}

const MODES: [ReadMode; 5] =
    [ReadMode::Strong, ReadMode::Lease, ReadMode::Session(Revision(5)), ReadMode::Bounded(1_000), ReadMode::Any];

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_only_asked_for_what_every_build_of_the_clusters_version_knows() {
    for (version, expected) in [
        // To who doesn't know them, they are STRONG reads of exactly the leader.
        (BEFORE, [(true, 0), (true, 1), (true, 0), (true, 0), (false, 2)].map(|(named, tag)| Came::Query(named, tag))),
        (
            SINCE,
            [
                Came::Read(true, WireMode::Strong),
                Came::Read(true, WireMode::Lease),
                Came::Read(false, WireMode::Session(Revision(5))),
                Came::Read(false, WireMode::Bounded(1_000)),
                Came::Read(false, WireMode::Any),
            ],
        ),
    ] {
        let (folder, leader) = (tempfile::tempdir().unwrap(), Answering::new(false));
        let (node, stop) = linked_to(folder.path(), leader.clone(), version).await;
        for mode in MODES {
            let served = read(&node, mode, 8_000).await.unwrap();
            assert_eq!((served.mode, served.degraded), (mode, false));
            assert_eq!(served.as_of.age_ms.is_some(), version == SINCE, "nobody of before tells an age");
        }
        assert_eq!(*leader.came.lock(), expected);
        stop.cancel();
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strong_answer_without_the_revision_says_that_it_was_never_reached() {
    let (folder, leader) = (tempfile::tempdir().unwrap(), Answering::new(false));
    let (node, stop) = linked_to(folder.path(), leader, BEFORE).await;
    let told = read(&node, ReadMode::Session(Revision(6)), 8_000).await;
    assert!(matches!(told, Err(RouteError::NotReached { reached: Revision(5), .. })), "{told:?}");
    stop.cancel();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_after_the_wait_for_better_is_marked_and_without_the_wish_nothing_is() {
    let (folder, leader) = (tempfile::tempdir().unwrap(), Answering::new(true));
    let (node, stop) = linked_to(folder.path(), leader.clone(), SINCE).await;
    for wait_ms in [50, 3_600_000] {
        // Also when the wait is longer than the call: its last moments are kept for the answer. The node is suspect by then, as this
        // one never pulses, and there is no other.
        let stale_after = Some(Duration::from_millis(wait_ms));
        let served = read(&node, Reading { mode: ReadMode::Strong, stale_after }, 5_000).await.unwrap();
        assert_eq!((served.mode, served.degraded, served.as_of.age_ms), (ReadMode::Any, true, Some(700)));
    }
    let refused = read(&node, ReadMode::Strong, 300).await;
    assert!(matches!(refused, Err(RouteError::NoLeader { .. })), "{refused:?}");
    stop.cancel();
    node.stop().await;
}
