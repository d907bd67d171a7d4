//! Snapshots that take long, of a shard that is written to meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{LONG, Tally, TestCluster, TestNode, config, eventually};
use crate::raft::{Gate, Group, GroupConfig};

/// So long that only a test's own clock uses it up.
const LEASE_MS: u64 = 3_600_000;
/// More pieces than any snapshot here has.
const ALL: usize = 10_000;

/// A shard with one voter, and a learner that the log no longer reaches: the first piece of its snapshot waits at the gate.
struct Copying {
    cluster: TestCluster,
    fresh: TestNode,
    gate: Arc<Gate>,
}

impl Copying {
    async fn begin(config: GroupConfig) -> Self {
        let (copying, ()) = Self::asked(config, |_| ()).await;
        eventually("the first piece comes", || (copying.gate.came() == 1).then_some(())).await;
        copying
    }

    /// The learner is there, and before it `first` was done at the gate.
    async fn asked<T>(config: GroupConfig, first: impl FnOnce(&Gate) -> T) -> (Self, T) {
        Self::begun(GroupConfig { snapshot_piece_bytes: 1, ..config }, first).await
    }

    /// The same, with pieces as large as they are set.
    async fn begun<T>(config: GroupConfig, first: impl FnOnce(&Gate) -> T) -> (Self, T) {
        let config = GroupConfig { snapshot_pieces_in_flight: 1, snapshot_lease_ms: LEASE_MS, ..config };
        let cluster = TestCluster::<Tally>::form(1, config.clone()).await;
        for command in 0..32 {
            cluster.commit(command).await;
        }
        let group = cluster.nodes[&1].group();
        group.trim_log();
        eventually("the log is purged", || group.status().purged.filter(|purged| *purged >= 32)).await;
        let gate = cluster.net.gate();
        let done = first(&gate);
        let mut fresh = TestNode::<Tally>::new(&cluster.net, 2, 12, config);
        fresh.start().await;
        group.add_learner(fresh.replica, fresh.id, group.members().id).await.expect("a learner");
        (Self { cluster, fresh, gate }, done)
    }

    fn group(&self) -> Group<Tally> {
        self.cluster.nodes[&1].group()
    }

    /// A counter of the sender's store.
    async fn counted(&self, name: &str) -> u64 {
        let counters = self.cluster.nodes[&1].store().counters().await.expect("counted");
        counters.into_iter().find(|(found, _)| *found == name).expect("a counter").1
    }

    /// Waits until a checkpoint has been held off from now on.
    async fn held_off(&self) {
        let before = self.counted("checkpoints_held_off").await;
        let wait = async {
            while self.counted("checkpoints_held_off").await == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("a checkpoint is held off");
    }

    /// Lets everything through, and waits until the copy has all that the original has.
    async fn has_all(&self) {
        self.gate.let_through(ALL);
        let (from, to) = (self.group(), self.fresh.group());
        let applied = |group: &Group<Tally>| group.look(|tally| tally.applied.clone());
        eventually("the copy has all", || (applied(&from) == applied(&to)).then_some(())).await;
    }

    async fn end(mut self) {
        self.has_all().await;
        self.fresh.end().await;
        self.cluster.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_goes_on_ends_however_long_it_takes_and_however_much_is_written_meanwhile() {
    let copying = Copying::begin(config()).await;
    let group = copying.group();
    let before = group.status().checkpointed;
    copying.cluster.commit(100).await;
    let checkpoint = tokio::spawn({
        let group = group.clone();
        async move { group.checkpoint_now().await }
    });
    for piece in 2..=12 {
        copying.cluster.commit(100 + piece).await;
        copying.cluster.nodes[&1].clock.put_forward(LEASE_MS * 9 / 10);
        copying.held_off().await;
        copying.gate.let_through(1);
        eventually("the next piece comes", || (copying.gate.came() == piece).then_some(())).await;
    }
    assert_eq!(group.status().checkpointed, before, "ten leases have passed");
    copying.gate.let_through(ALL);
    checkpoint.await.expect("no panic").expect("a checkpoint, when all was read");
    let (exports, broken_off) = (copying.counted("exports").await, copying.counted("exports_broken_off").await);
    assert_eq!((exports, broken_off), (1, 0));
    assert_eq!(copying.gate.broken_off(), 0, "nobody has to hurry");
    copying.has_all().await;
    assert!(copying.gate.taken() > 0, "what comes waits for its pace, too");
    copying.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_broken_off_where_the_log_needs_the_room_and_begins_again() {
    let copying = Copying::begin(config()).await;
    let group = copying.group();
    copying.cluster.commit(100).await;
    // One that was begun in peace, and that comes to be in the way of the next.
    let checkpoint = tokio::spawn({
        let group = group.clone();
        async move { group.checkpoint_now().await }
    });
    copying.held_off().await;
    for command in 101..150 {
        copying.cluster.commit(command).await;
    }
    let applied = group.status().applied;
    group.trim_log();
    eventually("the log is purged", || (group.status().purged >= applied).then_some(())).await;
    checkpoint.await.expect("no panic").expect("a checkpoint");
    copying.gate.let_through(1);
    eventually("the copy begins again", || (copying.gate.came() == 2).then_some(())).await;
    let (exports, broken_off) = (copying.counted("exports").await, copying.counted("exports_broken_off").await);
    assert_eq!((exports, broken_off), (2, 1));
    assert_eq!(copying.gate.broken_off(), 2, "both sides are to hurry");
    copying.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_broken_off_where_too_much_gathers_in_memory() {
    // 32 times as much may gather: 12 rows of the machine's.
    let copying = Copying::begin(GroupConfig { checkpoint_log_bytes: 4, ..config() }).await;
    let group = copying.group();
    let before = group.status().checkpointed;
    for command in 100..102 {
        copying.cluster.commit(command).await;
    }
    copying.held_off().await;
    assert_eq!(group.status().checkpointed, before, "it isn't much yet");
    for command in 102..116 {
        copying.cluster.commit(command).await;
    }
    eventually("a checkpoint is made", || (group.status().checkpointed > before).then_some(())).await;
    copying.gate.let_through(1);
    eventually("the copy begins again", || (copying.gate.came() > 1).then_some(())).await;
    assert!(copying.counted("exports_broken_off").await >= 1);
    copying.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_has_waited_for_its_place_is_sent_once() {
    let (copying, places) = Copying::asked(config(), Gate::take_places).await;
    let places = places.expect("nobody has one");
    eventually("the copy waits for a place", || (copying.gate.asked() == 1).then_some(())).await;
    // What it was to be sent is old by then, and the log after it gone.
    for command in 100..150 {
        copying.cluster.commit(command).await;
    }
    let group = copying.group();
    let applied = group.status().applied;
    group.trim_log();
    eventually("the log is purged", || (group.status().purged >= applied).then_some(())).await;
    drop(places);
    copying.has_all().await;
    let (asked, pieces, rows) =
        (copying.gate.asked(), copying.gate.came(), group.look(|tally| tally.applied.len()) as u64);
    assert_eq!(asked, 1, "it has kept its place");
    assert!(pieces < rows * 2, "{pieces} pieces of {rows} rows: it was sent again");
    copying.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_a_snapshot_was_sent_waits_for_nothing() {
    let copying = Copying::begin(GroupConfig { long_entry_bytes: 1, ..config() }).await;
    for command in 100..110 {
        copying.cluster.commit(command).await;
    }
    copying.has_all().await;
    assert_eq!(copying.gate.entries_came(), 0);
    copying.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_came_waits_for_its_pace_only_for_so_long() {
    let pieces = GroupConfig { snapshot_piece_ms_max: 2_000, ..config() };
    let (copying, ()) = Copying::begun(pieces, Gate::take_nothing).await;
    copying.gate.let_through(ALL);
    eventually("a piece is there", || (copying.gate.taken() > 0).then_some(())).await;
    copying.end().await;
}

/// Some voters, and a learner that the log reaches: the first message of entries to it waits at the gate.
async fn copied_by_the_log(voters: u64) -> (TestCluster, TestNode, Arc<Gate>) {
    let config = GroupConfig { long_entry_bytes: 1, ..config() };
    let mut cluster = TestCluster::<Tally>::form(voters, config.clone()).await;
    for command in 0..32 {
        cluster.commit(command).await;
    }
    let gate = cluster.net.gate();
    gate.let_through(ALL);
    let leader = cluster.leader().await;
    if let Some(behind) = (1..=voters).find(|id| *id != leader) {
        cluster.node(behind).crash().await;
        cluster.commit(32).await;
        cluster.net.heal();
        cluster.node(behind).start().await;
        cluster.all_have(&(0..=32).collect::<Vec<_>>()).await;
        assert_eq!(gate.entries_came(), 0, "who votes waits for nothing");
    }
    let mut fresh = TestNode::<Tally>::new(&cluster.net, 4, 14, config);
    fresh.start().await;
    let group = cluster.nodes[&cluster.leader().await].group();
    group.add_learner(fresh.replica, fresh.id, group.members().id).await.expect("a learner");
    eventually("a message of the log comes", || (gate.entries_came() > 0).then_some(())).await;
    (cluster, fresh, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_by_the_log_waits_for_its_pace_until_the_log_is_needed() {
    let (cluster, mut fresh, gate) = copied_by_the_log(3).await;
    for command in 33..100 {
        cluster.commit(command).await;
    }
    let commands: Vec<u64> = (0..100).collect();
    cluster.all_have(&commands).await;
    assert!(fresh.applied().is_empty(), "{:?} of {} messages", fresh.applied(), gate.entries_came());
    let purged = cluster.nodes.values().map(|node| node.group().status().purged).max();
    // As the log's budget does again and again, whoever leads.
    let let_go = || cluster.nodes.values().for_each(|node| node.group().trim_log());
    eventually("the copy has all", || {
        let_go();
        (fresh.applied() == commands).then_some(())
    })
    .await;
    let now = || cluster.nodes.values().map(|node| node.group().status().purged).min();
    eventually("the log is let go of", || (now() > purged).then_some(())).await;
    fresh.end().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_vote_while_its_copy_waits_for_its_pace_waits_no_longer() {
    let (cluster, mut fresh, _) = copied_by_the_log(1).await;
    let group = cluster.nodes[&1].group();
    assert!(fresh.applied().is_empty());
    // Of two that vote both have to have the entry that says so.
    let voters = vec![cluster.nodes[&1].replica, fresh.replica];
    group.change_voters(voters, group.members().id).await.expect("two vote");
    eventually("the copy has all", || (fresh.applied() == cluster.nodes[&1].applied()).then_some(())).await;
    fresh.end().await;
    cluster.end().await;
}

/// A replica comes that has nothing, to voters of which one was behind for a while: where their logs begin then, and how many snapshots
/// were begun to be sent.
async fn snapshots_for_a_new_one(whole_log_bytes_max: u64) -> (BTreeSet<Option<u64>>, u64) {
    let config = GroupConfig { whole_log_bytes_max, log_keep_bytes: u64::MAX, long_entry_bytes: 1, ..config() };
    let mut cluster = TestCluster::<Tally>::form(3, config.clone()).await;
    for command in 0..16 {
        cluster.commit(command).await;
    }
    let leader = cluster.leader().await;
    let behind = (1..=3).find(|id| *id != leader).expect("two follow");
    cluster.all_have(&(0..16).collect::<Vec<_>>()).await;
    cluster.node(behind).crash().await;
    for command in 16..32 {
        cluster.commit(command).await;
    }
    checkpoint_all(&cluster, behind, whole_log_bytes_max == 0).await;
    cluster.net.heal();
    cluster.node(behind).start().await;
    cluster.all_have(&(0..32).collect::<Vec<_>>()).await;
    assert_eq!(exports(&cluster).await, 0, "who was behind follows by the log");
    checkpoint_all(&cluster, 0, whole_log_bytes_max == 0).await;
    // What is asked of who has nothing carries no entries, which would wait there.
    let gate = (whole_log_bytes_max == 0).then(|| cluster.net.gate());
    gate.iter().for_each(|gate| gate.let_through(ALL));
    let mut fresh = TestNode::<Tally>::new(&cluster.net, 4, 14, config);
    fresh.start().await;
    let group = cluster.nodes[&cluster.leader().await].group();
    group.add_learner(fresh.replica, fresh.id, group.members().id).await.expect("a learner");
    eventually("the copy has all", || (fresh.applied() == (0..32).collect::<Vec<_>>()).then_some(())).await;
    let snapshots = exports(&cluster).await;
    assert_eq!(gate.map_or(0, |gate| gate.entries_came()), 0);
    let purged: BTreeSet<_> = cluster.nodes.values().map(|node| node.group().status().purged).collect();
    fresh.end().await;
    cluster.end().await;
    (purged, snapshots)
}

/// All but one, so that it doesn't matter who leads. `purges`: until something has left their logs.
async fn checkpoint_all(cluster: &TestCluster<Tally>, but: u64, purges: bool) {
    for node in cluster.nodes.values().filter(|node| node.id.0 != but) {
        let group = node.group();
        group.checkpoint_now().await.expect("a checkpoint");
        if purges {
            eventually("something leaves the log", || group.status().purged).await;
        }
    }
}

/// Snapshots that were begun to be sent.
async fn exports(cluster: &TestCluster<Tally>) -> u64 {
    let mut exports = 0;
    for node in cluster.nodes.values() {
        let counters = node.store().counters().await.expect("counted");
        exports += counters.into_iter().find(|(found, _)| *found == "exports").expect("a counter").1;
    }
    exports
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_nothing_is_made_by_the_log_only_where_all_of_it_is_little() {
    assert_eq!(snapshots_for_a_new_one(u64::MAX).await, (BTreeSet::from([None]), 0));
    let (purged, snapshots) = snapshots_for_a_new_one(0).await;
    assert_eq!(purged, BTreeSet::from([Some(0)]), "no more than the beginning goes");
    assert!(snapshots >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_leader_forgets_how_far_it_is_goes_on_from_there() {
    let config = GroupConfig { long_entry_bytes: 1, ..config() };
    let mut cluster = TestCluster::<Tally>::form(1, config.clone()).await;
    let mut fresh = TestNode::<Tally>::new(&cluster.net, 4, 14, config);
    fresh.start().await;
    let group = cluster.nodes[&1].group();
    group.add_learner(fresh.replica, fresh.id, group.members().id).await.expect("a learner");
    // So far from the end that openraft asks for what it doesn't have, and for what it has, before it goes on.
    for (has, written) in [(1, 40), (50, 60), (100, 300)] {
        let before = cluster.nodes[&1].applied().len() as u64;
        for command in before..has {
            cluster.commit(command).await;
        }
        let applied = |node: &TestNode<Tally>| node.applied();
        eventually("the copy has all", || (applied(&fresh) == applied(&cluster.nodes[&1])).then_some(())).await;
        fresh.crash().await;
        for command in has..written {
            cluster.commit(command).await;
        }
        cluster.node(1).crash().await;
        cluster.net.heal();
        cluster.node(1).start().await;
        fresh.start().await;
        eventually("the copy has all", || (fresh.applied() == (0..written).collect::<Vec<_>>()).then_some(())).await;
        assert_eq!(exports(&cluster).await, 0, "all of it by the log");
    }
    fresh.end().await;
    cluster.end().await;
}
