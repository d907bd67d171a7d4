//! Whom a forwarded frame is for.

use super::super::Proposed;
use super::super::wire::{Route, Told, encode_propose};
use crate::ids::NodeId;
use crate::ids::{GroupId, ReplicaId};
use crate::node::link::Peer;
use crate::node::tests::{alone, call, limit_of};
use crate::telemetry::trace::TraceId;

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_frame_is_carried_out_by_the_replica_that_it_names_and_by_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let node = alone(folder.path()).await;
    let envelope = limit_of("ann");
    let shard = node.router().shard_of(envelope.account().unwrap()).unwrap();
    let group = GroupId::from(shard);
    let hosted = node.shards().get(group).unwrap();
    let revision = || hosted.status().revision;
    let ask = |group, replica| {
        let route = Route {
            epoch: node.router().meta().epoch,
            group,
            replica,
            timeout_ms: 2000,
            trace: TraceId::from_random(1),
        };
        let frame = encode_propose(&route, std::slice::from_ref(&envelope));
        let from = Peer { node: NodeId(9), generation: crate::ids::Generation(1) };
        let serving = node.router().clone().serve(from, frame.into());
        async move { minicbor::decode::<Told>(&serving.await).unwrap() }
    };
    let before = revision();
    for replica in [None, Some(ReplicaId(hosted.replica.0 + 100))] {
        match ask(group, replica).await {
            Told::Stale { lead: Some(lead), .. } => {
                assert_eq!((lead.node, lead.replica), (node.id(), hosted.replica), "{replica:?}");
            }
            other => panic!("{replica:?} is answered with {other:?}"),
        }
    }
    assert!(matches!(ask(GroupId(77), Some(hosted.replica)).await, Told::Stale { lead: None, .. }));
    assert_eq!(revision(), before, "nothing was done");
    assert!(matches!(ask(group, Some(hosted.replica)).await, Told::Proposed(ended) if ended.len() == 1));
    assert_eq!(revision().0, before.0 + 1);
    let own = node.router().propose(limit_of("ben"), &call(&node, 10_000)).await;
    assert!(matches!(own, Proposed::Committed(_)), "{own:?}");
    node.stop().await;
}
