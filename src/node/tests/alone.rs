//! A cluster of one.

use super::*;
use crate::ids::{GroupId, NodeId, ReplicaId, ShardId};
use crate::node::StartError;
use crate::node::folder::FolderError;
use crate::node::meta::{self, Answer};
use crate::node::shards::Wanted;
use crate::ring::{Weight, Zone};
use crate::versions::{ClusterVersion, Spoken};

async fn tell_meta(node: &Node, command: meta::Command) -> Answer {
    node.router().propose_meta(&command, &call(node, 30_000)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_replica_is_opened_before_one_lease_has_passed_since_the_process_began() {
    let folder = tempfile::tempdir().unwrap();
    let first = alone(folder.path()).await;
    first.stop().await;
    drop(first);
    let times = [("raft-election-min-ms", "3000"), ("raft-election-max-ms", "6000"), ("raft-lease-ms", "3000")];
    let again = loop {
        // The last handles of the first one may be let go of a moment after it has stopped.
        let clock = Arc::new(SystemClock::new());
        match Node::start(config(folder.path(), &times), clock, Seeds { node: 7 << 32, jitter: 7 }).await {
            Ok(started) => break started.node,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    until("a replica", || !again.shards().all().is_empty()).await;
    let since = again.clock().monotonic().since(again.inner.started_at);
    assert!(since >= 3000, "a replica was open {since} ms after the process began");
    until("all groups led again", || again.shards().led().len() == 5).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dismissed_replica_of_a_removed_node_is_forgotten_by_the_leader() {
    let folder = tempfile::tempdir().unwrap();
    let node = alone(folder.path()).await;
    let (gone, group) = (NodeId(99), GroupId::from(ShardId(0)));
    let meta = || node.router().meta();
    let (name, zone, weight) = ("gone".to_string(), Zone::default(), Weight::default());
    tell_meta(&node, meta::Command::AddNode { node: gone, name, zone, weight }).await;
    // The leader may record something in between: the version is read again then.
    let fresh = loop {
        let version = meta().groups[&group].version;
        if let Answer::Done { replica: Some(fresh), .. } =
            tell_meta(&node, meta::Command::Allot { group, version, node: gone }).await
        {
            break fresh;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Nobody wants it there, so it is dismissed; its node never says that it is destroyed.
    until("its dismissal", || {
        meta().groups[&group].recorded.replicas.get(&fresh).is_some_and(|allotted| allotted.dismissed_by.is_some())
    })
    .await;
    tell_meta(&node, meta::Command::Remove { node: gone, lost: None }).await;
    until("its end", || !meta().groups[&group].recorded.replicas.contains_key(&fresh)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_initialized_only_by_its_founder_and_only_while_no_membership_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let node = alone(folder.path()).await;
    let (shards, group) = (node.shards().clone(), GroupId::from(ShardId(1)));
    until("its membership", || node.router().meta().groups[&group].recorded.membership.is_some()).await;
    // Fresh replicas of the same group on this node, as after a loss of all its data.
    let open = |replica: u64| {
        let shards = shards.clone();
        let meta = node.router().meta();
        async move {
            let wanted = Wanted { run: [(ReplicaId(replica), group)].into(), ..Wanted::default() };
            shards.open(&wanted, &meta).await;
            shards.exactly(group, ReplicaId(replica)).unwrap()
        }
    };
    let (other, founder) = (open(901).await, open(902).await);
    let begun = |hosted: &crate::node::shards::Hosted| hosted.has_members();
    let mut meta = (*node.router().meta()).clone();
    let record = meta.groups.get_mut(&group).unwrap();
    for replica in [901, 902] {
        record.recorded.replicas.insert(ReplicaId(replica), crate::plan::Allotted::on(node.id(), true));
    }
    let founding = record.recorded.founding.as_mut().unwrap();
    (founding.founder, founding.voters) = (ReplicaId(902), [ReplicaId(902)].into());
    shards.initialize(&meta).await;
    assert!(!begun(&founder) && !begun(&other), "its membership is recorded: it has begun before");
    meta.groups.get_mut(&group).unwrap().recorded.membership = None;
    shards.initialize(&meta).await;
    until("the founder begun", || begun(&founder)).await;
    assert!(!begun(&other), "the founder, and nobody else");
    node.stop().await;
}

fn wishes() -> Wishes {
    Wishes { shards: 4, replication: 1, addresses: Vec::new(), random: (1, 2) }
}

/// The versions that the shards here have adopted.
fn adopted(node: &Node) -> Vec<u32> {
    let shards = node.shards().all();
    shards.iter().filter_map(|hosted| hosted.shard().map(|group| group.peek(|state| state.version().0))).collect()
}

async fn opened(config: Config) -> Result<Node, StartError> {
    loop {
        // The last handles of a node before may be let go of a moment after it has stopped.
        let seeds = Seeds { node: 7 << 32, jitter: 7 };
        match Node::start(config.clone(), Arc::new(SystemClock::new()), seeds).await {
            Ok(started) => return Ok(started.node),
            Err(error @ StartError::Folder(FolderError::Version { .. })) => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_begins_with_the_newest_version_and_its_shards_adopt_it() {
    let folder = tempfile::tempdir().unwrap();
    let node = alone(folder.path()).await;
    assert_eq!(node.router().meta().cluster_version, Spoken::BUILD.newest);
    until("every shard's adoption", || adopted(&node) == [Spoken::BUILD.newest.0; 4]).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_brake_a_node_is_as_one_of_before_and_without_it_a_raise_reaches_every_shard() {
    let folder = tempfile::tempdir().unwrap();
    let brake = [("compat-version-max", "1")];
    let node = start(config(folder.path(), &brake)).await;
    node.bootstrap(wishes(), &call(&node, 60_000)).await.unwrap();
    until("every group led", || node.shards().led().len() == 5).await;
    assert_eq!(node.router().meta().cluster_version, ClusterVersion(1));
    node.stop().await;
    drop(node);
    let node = opened(config(folder.path(), &[])).await.unwrap();
    until("every group led again", || node.shards().led().len() == 5).await;
    assert_eq!((node.router().meta().cluster_version, adopted(&node)), (ClusterVersion(1), vec![1; 4]));
    tell_meta(&node, meta::Command::RaiseVersion { version: ClusterVersion(2) }).await;
    until("every shard's adoption", || adopted(&node) == [2; 4]).await;
    node.stop().await;
    drop(node);
    let Err(refused) = opened(config(folder.path(), &brake)).await else { panic!("it must not start") };
    assert!(refused.to_string().contains("version 2"), "{refused}");
    let node = opened(config(folder.path(), &[])).await.unwrap();
    until("every group led again", || node.shards().led().len() == 5).await;
    assert_eq!(adopted(&node), [2; 4]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_of_a_version_that_it_does_not_speak_keeps_it_and_says_that_it_can_not_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(config(folder.path(), &[("compat-version-max", "1")])).await;
    node.bootstrap(wishes(), &call(&node, 60_000)).await.unwrap();
    until("every group led", || node.shards().led().len() == 5).await;
    assert_eq!(node.why_halted(), None);
    tell_meta(&node, meta::Command::RaiseVersion { version: ClusterVersion(2) }).await;
    let why = tokio::time::timeout(PATIENCE, node.halted()).await.unwrap();
    assert!(why.contains("has version 2") && why.contains("speaks 1"), "{why}");
    assert_eq!(adopted(&node), [1; 4], "nothing was written by what it doesn't speak");
    node.stop().await;
    drop(node);
    let Err(refused) = opened(config(folder.path(), &[("compat-version-max", "1")])).await else {
        panic!("it must not start")
    };
    assert!(refused.to_string().contains("version 2"), "{refused}");
}
