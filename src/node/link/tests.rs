//! Links over real sockets of this process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::*;
use crate::node::folder::ClusterId;
use crate::node::versions::Versions;
use crate::versions::{ClusterVersion, Spoken};

/// Answers a request by its bytes in reverse, and keeps what is cast.
#[derive(Default)]
struct Echo {
    cast: Mutex<Vec<(NodeId, Lane, Bytes)>>,
    /// Requests that begin with this byte are never answered.
    silent_on: Option<u8>,
}

impl Receive for Echo {
    fn serve(&self, _: Peer, _: Lane, frame: Bytes) -> BoxFuture<'static, Bytes> {
        if self.silent_on.is_some() && frame.first().copied() == self.silent_on {
            return std::future::pending().boxed();
        }
        async move { frame.iter().rev().copied().collect() }.boxed()
    }

    fn cast(&self, from: Peer, lane: Lane, frame: Bytes) {
        self.cast.lock().push((from.node, lane, frame));
    }

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

struct End {
    link: Link,
    inbox: Arc<Echo>,
    stop: CancellationToken,
}

async fn end(node: u64, generation: u64, cluster: u64, silent_on: Option<u8>) -> End {
    end_speaking(Versions::default(), node, generation, cluster, silent_on).await
}

async fn end_speaking(versions: Versions, node: u64, generation: u64, cluster: u64, silent_on: Option<u8>) -> End {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let me = Arc::new(Me {
        node: NodeId(node),
        generation: Generation(generation),
        name: format!("n{node}"),
        zone: "default".to_string(),
        weight: 1,
        endpoints: Endpoints { link: address, ..Endpoints::default() },
        cluster: Default::default(),
        versions,
        removed: Default::default(),
        removed_told: Default::default(),
    });
    me.cluster.set(ClusterId::from_random(cluster, 0)).unwrap();
    let book = Arc::new(Book::open(Arc::new(crate::fs::LyingFs::new(1))).unwrap());
    let config = LinkConfig { me: me.clone(), dialling: Dialling::default(), queue_frames_max: 1000, seed: node };
    let metrics = Arc::new(Metrics::new());
    let link = Link::new(config, book.clone(), metrics.clone(), Runtimes::current());
    let inbox = Arc::new(Echo { silent_on, ..Echo::default() });
    let stop = CancellationToken::new();
    let service = service(me, book, metrics, inbox.clone(), Runtimes::current(), stop.clone());
    let serving = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            _ = serving => {}
        }
    });
    End { link, inbox, stop }
}

fn introduce(a: &End, b: &End) {
    let me = b.link.me();
    a.link.book().learn(me.node, me.generation, &me.endpoints);
    a.link.keep(&[me.node].into());
}

/// Looks until it is so; the test fails by its runner's patience otherwise.
async fn until(is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking).await.expect("it was not so in time");
}

#[tokio::test]
async fn requests_are_answered_on_every_lane_and_casts_arrive_in_order() {
    let (a, b) = (end(1, 1, 9, None).await, end(2, 1, 9, None).await);
    introduce(&a, &b);
    for lane in Lane::ALL {
        until(|| a.link.is_up(NodeId(2), lane)).await;
        let calls = (0..100_u8).map(|i| a.link.call(NodeId(2), lane, Bytes::from(vec![i, 255])));
        let answers = futures::future::join_all(calls).await;
        for (i, answer) in (0..100_u8).zip(answers) {
            assert_eq!(answer, Ok(Bytes::from(vec![255, i])), "{lane:?}");
        }
    }
    for i in 0..100_u8 {
        a.link.cast(NodeId(2), Lane::Control, Bytes::from(vec![i])).unwrap();
    }
    until(|| b.inbox.cast.lock().len() == 100).await;
    let in_order = b.inbox.cast.lock().iter().enumerate().all(|(i, (_, _, frame))| frame[..] == [i as u8]);
    assert!(in_order);
    // Whoever is dialled learns where the dialler is.
    assert_eq!(b.link.book().link_address(NodeId(1)), Some(a.link.me().endpoints.link.clone()));
}

#[tokio::test]
async fn a_broken_lane_answers_what_was_on_it_and_comes_back() {
    let (a, b) = (end(1, 1, 9, None).await, end(2, 1, 9, Some(7)).await);
    introduce(&a, &b);
    until(|| a.link.is_up(NodeId(2), Lane::Append)).await;
    let waiting = a.link.call(NodeId(2), Lane::Append, Bytes::from_static(&[7]));
    let answered = a.link.call(NodeId(2), Lane::Append, Bytes::from_static(&[1])).await;
    assert_eq!(answered, Ok(Bytes::from_static(&[1])));
    b.stop.cancel();
    assert!(matches!(waiting.await, Err(Lost::Broken(LinkError::Unreachable { .. }))));
    until(|| !a.link.is_up(NodeId(2), Lane::Append)).await;
    let refused = a.link.call(NodeId(2), Lane::Append, Bytes::from_static(&[1])).await;
    assert!(matches!(refused, Err(Lost::NotSent(LinkError::Unreachable { .. }))));
    // The same node in its next process, at another address.
    let again = end(2, 2, 9, None).await;
    a.link.book().learn(NodeId(2), Generation(2), &again.link.me().endpoints);
    until(|| a.link.is_up(NodeId(2), Lane::Append)).await;
    let answered = a.link.call(NodeId(2), Lane::Append, Bytes::from_static(&[1, 2])).await;
    assert_eq!(answered, Ok(Bytes::from_static(&[2, 1])));
}

#[tokio::test]
async fn a_raise_cuts_the_lanes_of_who_does_not_speak_the_new_version_and_they_stay_cut() {
    let first = Versions::new(Spoken::FIRST, ClusterVersion::FIRST);
    let (a, b) = (end(1, 1, 9, None).await, end_speaking(first, 2, 1, 9, None).await);
    introduce(&a, &b);
    introduce(&b, &a);
    let up = |from: &End, to: u64| Lane::ALL.into_iter().all(|lane| from.link.is_up(NodeId(to), lane));
    let down = |from: &End, to: u64| !Lane::ALL.into_iter().any(|lane| from.link.is_up(NodeId(to), lane));
    until(|| up(&a, 2) && up(&b, 1)).await;
    a.link.me().versions.hear(ClusterVersion(2));
    until(|| down(&a, 2) && down(&b, 1)).await;
    let refused = "playhead_link_handshakes_total{outcome=\"cluster_version\"}";
    until(|| a.link.shared.metrics.encode().contains(refused)).await;
    assert!(down(&a, 2) && down(&b, 1));
    assert_eq!(b.link.me().versions.cluster(), ClusterVersion::FIRST, "what it was told is no proof");
}

#[tokio::test]
async fn nodes_of_two_clusters_never_connect() {
    let (a, b) = (end(1, 1, 9, None).await, end(2, 1, 8, None).await);
    introduce(&a, &b);
    let refused = "playhead_link_handshakes_total{outcome=\"wrong_cluster\"}";
    until(|| b.link.shared.metrics.encode().contains(refused)).await;
    assert!(Lane::ALL.into_iter().all(|lane| !a.link.is_up(NodeId(2), lane)));
    let lost = a.link.call(NodeId(2), Lane::Forward, Bytes::new()).await;
    assert!(matches!(lost, Err(Lost::NotSent(_))));
    let nobody = a.link.call(NodeId(77), Lane::Forward, Bytes::new()).await;
    assert!(matches!(nobody, Err(Lost::NotSent(_))));
}

#[tokio::test]
async fn a_full_lane_refuses_and_sends_nothing_of_what_it_refused() {
    let (a, b) = (end(1, 1, 9, None).await, end(2, 1, 9, Some(7)).await);
    introduce(&a, &b);
    until(|| a.link.is_up(NodeId(2), Lane::Snapshot)).await;
    // Nothing else runs on this thread between these, so the queue fills.
    let big = Bytes::from(vec![7; 1 << 20]);
    let calls: Vec<_> = (0..200).map(|_| a.link.call(NodeId(2), Lane::Snapshot, big.clone())).collect();
    let refused = calls.into_iter().filter_map(|call| call.now_or_never());
    let refused = refused.filter(|lost| matches!(lost, Err(Lost::NotSent(LinkError::Overloaded { .. })))).count();
    assert!((100..200).contains(&refused), "{refused}");
    a.link.stop().await;
}

#[tokio::test]
async fn a_pulse_has_no_content_and_where_nothing_listens_any_more_is_told_at_once() {
    let (a, b) = (end(1, 1, 9, None).await, end(2, 1, 9, None).await);
    introduce(&a, &b);
    until(|| a.link.is_up(NodeId(2), Lane::Pulse)).await;
    a.link.cast(NodeId(2), Lane::Pulse, Bytes::new()).unwrap();
    until(|| !b.inbox.cast.lock().is_empty()).await;
    assert_eq!(b.inbox.cast.lock()[0], (NodeId(1), Lane::Pulse, Bytes::new()));
    assert!(a.link.next_gone().now_or_never().is_none(), "it lives");
    b.stop.cancel();
    let gone = tokio::time::timeout(Duration::from_secs(60), a.link.next_gone()).await.unwrap();
    assert_eq!(gone, [NodeId(2)].into());
}
