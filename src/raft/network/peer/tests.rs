//! What goes to a peer, and what doesn't.

use futures::FutureExt;

use super::super::wire::{Request, decode_frame};
use super::*;
use crate::raft::types::{Batch, Entry, Payload, log_id};
use crate::store::{Checkpoint, Haste, MemDisk, MemStore, StoreHandle, WriteError};
use crate::time::{Clock, MonotonicMs, Stamp, WallMs};
use crate::versions::ClusterVersion;

/// Counts what it is given.
#[derive(Default)]
struct Counting(AtomicU64);

impl Link for Counting {
    fn call(&self, to: NodeId, _: Lane, _: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Err(LinkError::Unreachable { node: to, why: "nobody is there".to_string() })))
    }
}

fn peers(link: Arc<dyn Link>, copying: Arc<Copying>) -> Peers {
    Peers {
        link,
        group: GroupId(1),
        from: ReplicaId(1),
        config: Arc::new(GroupConfig::default()),
        known: Arc::new(KnownVersion::new(ClusterVersion::FIRST)),
        transfers: Arc::default(),
        acknowledged: Arc::default(),
        copying,
    }
}

#[tokio::test]
async fn a_frame_beyond_the_bound_is_not_sent() {
    let link = Arc::new(Counting::default());
    let peer = peers(link.clone(), Copying::new(0)).peer(2, &Member::default(), Lane::Append);
    for (bytes, sent) in [(1000, 1), (super::super::FRAME_BYTES_MAX, 1), (1000, 2)] {
        let batch = Batch::new(Stamp::default(), 1, vec![0; bytes].into());
        let entries = vec![Entry { log_id: log_id(1, 1), payload: Payload::Normal(batch) }];
        let request = AppendEntriesRequest { vote: Vote::new(1, 1), prev_log_id: None, entries, leader_commit: None };
        let answer = peer.append(&request, Duration::from_secs(1)).await;
        assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
        assert_eq!(link.0.load(Ordering::Relaxed), sent);
    }
}

/// Has whatever it is asked for, and says which entries came.
#[derive(Default)]
struct Agreeing(Mutex<Vec<usize>>);

impl Link for Agreeing {
    fn call(&self, _: NodeId, _: Lane, frame: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let Request::Append { request, .. } = decode_frame(&frame).expect("a frame").request else {
            panic!("appends are sent")
        };
        self.0.lock().push(request.entries.len());
        Box::pin(std::future::ready(Ok(Response::Append(AppendRepr::Success).encode())))
    }
}

#[tokio::test]
async fn what_is_asked_first_goes_without_its_entries_and_counts_for_no_more_than_what_is_before_them() {
    let request = |prev: u64| {
        let batch = Batch::new(Stamp::default(), 1, vec![0; 100].into());
        let entries = vec![Entry { log_id: log_id(1, prev + 1), payload: Payload::Normal(batch) }];
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, prev)),
            entries,
            leader_commit: None,
        }
    };
    let link = Arc::new(Agreeing::default());
    let mut peer = peers(link.clone(), Copying::with_learners(100)).peer(2, &Member::default(), Lane::Append);
    // A stream without an end, though openraft asks with such as have one.
    let mut told = Vec::new();
    for prevs in [vec![4, 5], vec![4, 5]] {
        let input = futures::stream::iter(prevs).map(request).chain(futures::stream::pending());
        let option = RPCOption::new(Duration::from_secs(60));
        let mut answers = peer.stream_append(Box::pin(input), option).await.expect("a stream");
        while let Some(answer) = answers.next().now_or_never() {
            told.push(answer.map(|answer| answer.expect("an answer").expect("it has it")));
            if told.last() == Some(&None) {
                break;
            }
        }
    }
    let at = |index| Some(Some(log_id(1, index)));
    assert_eq!(
        told,
        [at(4), None, at(5), at(6)],
        "the question ends its stream, and what was answered is not asked again"
    );
    assert_eq!(*link.0.lock(), [0, 1, 1]);
    // A short one goes as it is.
    let mut peer = peers(link.clone(), Copying::with_learners(101)).peer(3, &Member::default(), Lane::Append);
    let input = Box::pin(futures::stream::iter([4]).map(request));
    let answers = peer.stream_append(input, RPCOption::new(Duration::from_secs(60))).await.expect("a stream");
    assert_eq!(answers.count().await, 1);
    assert_eq!(*link.0.lock(), [0, 1, 1, 1]);
}

/// Goes on by nine milliseconds whenever it is asked.
#[derive(Debug, Default)]
struct Leaping(AtomicU64);

impl Clock for Leaping {
    fn monotonic(&self) -> MonotonicMs {
        MonotonicMs(self.0.fetch_add(9, Ordering::Relaxed))
    }

    fn wall(&self) -> WallMs {
        WallMs(0)
    }
}

#[tokio::test]
async fn a_snapshot_stays_in_its_place_until_the_other_side_has_installed_it() {
    const A: ReplicaId = ReplicaId(1);
    let clock = Arc::new(Leaping::default());
    let (store, _) = MemStore::open(&MemDisk::new(), clock.clone(), &[]);
    let store = StoreHandle::inline(Arc::new(store));
    store.create(A).await.expect("made");
    let checkpoint = |generation| Arc::new(Checkpoint { generation, ..Checkpoint::default() });
    store.checkpoint(A, checkpoint(1), Haste::Patient).await.expect("kept");
    let mut export = store.export(A, 10).await.expect("nobody else reads");
    assert_eq!(export.next(1).await, Ok(None));
    let many_leases_later = async {
        while clock.0.load(Ordering::Relaxed) < 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let kept = tokio::time::timeout(Duration::from_secs(30), keeping(&mut export, 2, many_leases_later)).await;
    kept.expect("it asks as long as it waits");
    assert_eq!(store.checkpoint(A, checkpoint(2), Haste::Patient).await, Err(WriteError::Busy(A)));
    drop(export);
    store.checkpoint(A, checkpoint(2), Haste::Patient).await.expect("kept");
}
