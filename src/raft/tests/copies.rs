//! Snapshots that take long, of a shard that is written to meanwhile.

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
        let config = GroupConfig {
            snapshot_piece_bytes: 1,
            snapshot_pieces_in_flight: 1,
            snapshot_lease_ms: LEASE_MS,
            ..config
        };
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
