use super::*;
use crate::fs::DiskFs;

#[test]
fn entries_are_readable_at_once_and_acknowledged_once_durable() {
    let fs = LyingFs::new(1);
    let (wal, mut engine, recovery) = open(&fs);
    assert_eq!(recovery, Recovery::default());
    let acks = Acks::default();
    let records: Vec<Record> = (0..5).map(|i| record(1, i, &[i as u8; 20])).collect();
    wal.append(A, records.clone(), acks.done()).unwrap();
    assert_eq!(entries(&wal, A), records);
    assert_eq!(wal.read_cached(A, 1..3).unwrap(), records[1..3]);
    assert_eq!(wal.replica_state(A).unwrap().last, Some(id(1, 4)));
    assert_eq!(acks.count(), 0);
    let syncs = fs.syncs();
    wal.append(B, vec![record(3, 9, b"x")], acks.done()).unwrap();
    let mut vote = wal.save_vote(B, Bytes::from_static(b"vote")).unwrap();
    assert_eq!(vote.try_get(), None);
    assert_eq!(engine.step().unwrap(), Progress::Wrote);
    assert_eq!(fs.syncs(), syncs + 1, "one sync for all");
    assert_eq!(acks.count(), 2);
    assert_eq!(vote.try_get(), Some(Ok(())));
    assert_eq!(engine.step().unwrap(), Progress::Idle);
}

#[test]
fn a_restart_finds_everything_that_was_acknowledged() {
    let fs = LyingFs::new(2);
    let (wal, mut engine, _) = open(&fs);
    let records: Vec<Record> = (0..50).map(|i| record(1 + i / 20, i, &vec![i as u8; 600])).collect();
    wal.append(A, records.clone(), ignore()).unwrap();
    drop(wal.save_vote(A, Bytes::from_static(b"first")).unwrap());
    drop(wal.save_vote(A, Bytes::from_static(b"second")).unwrap());
    let checkpoint = CheckpointRecord { generation: 4, applied: Some(id(1, 3)), checksum: 99 };
    drop(wal.checkpoint(A, checkpoint).unwrap());
    drop(wal.purge(A, id(1, 3)).unwrap());
    drop(wal.truncate_after(A, Some(id(3, 40))).unwrap());
    drop(wal.forget(B).unwrap());
    wal.save_committed(A, Some(id(1, 5))).unwrap();
    drain(&mut engine);
    wal.save_committed(A, Some(id(1, 7))).unwrap();
    wal.append(A, vec![record(4, 41, b"new")], ignore()).unwrap();
    drain(&mut engine);
    let before = wal.replica_state(A).unwrap();
    for _ in 0..3 {
        fs.crash();
        let (wal, _engine, recovery) = open(&fs);
        assert_eq!(recovery.replicas, [A]);
        assert!(recovery.rot.is_empty() && recovery.trusts(A));
        assert_eq!(wal.replica_state(A).unwrap(), before);
        assert_eq!(before.checkpoint, Some(checkpoint));
        assert_eq!(before.vote.as_deref(), Some(&b"second"[..]));
        assert_eq!(
            (before.last_purged, before.last, before.committed),
            (Some(id(1, 3)), Some(id(4, 41)), Some(id(1, 7)))
        );
        let mut expected = records[4..41].to_vec();
        expected.push(record(4, 41, b"new"));
        assert_eq!(entries(&wal, A), expected);
        assert_eq!(wal.log_id(A, 39), Some(id(2, 39)));
        assert_eq!((wal.log_id(A, 3), wal.log_id(A, 2), wal.log_id(A, 42)), (Some(id(1, 3)), None, None));
        assert!(wal.is_forgotten(B));
    }
}

#[test]
fn writes_that_make_no_sense_are_refused_and_change_nothing() {
    let fs = LyingFs::new(3);
    let (wal, mut engine, _) = open(&fs);
    wal.append(A, vec![record(1, 5, b"x")], ignore()).unwrap();
    let hole = wal.append(A, vec![record(1, 7, b"x")], ignore());
    assert_eq!(hole, Err(WriteError::Hole { replica: A, expected: 6, got: 7 }));
    assert!(wal.append(A, vec![record(1, 5, b"x")], ignore()).is_err(), "overwriting needs a truncation");
    assert!(wal.append(A, vec![record(1, 6, b"x"), record(1, 8, b"x")], ignore()).is_err());
    let max = wal.payload_bytes_max();
    assert!(matches!(wal.append(A, vec![record(1, 6, &vec![0; max + 1])], ignore()), Err(WriteError::TooLarge { .. })));
    wal.append(A, vec![record(1, 6, &vec![0; max])], ignore()).unwrap();
    assert!(matches!(wal.save_vote(A, vec![0; 257].into()), Err(WriteError::TooLarge { .. })));
    drop(wal.forget(B).unwrap());
    assert_eq!(wal.append(B, vec![record(1, 0, b"x")], ignore()), Err(WriteError::Forgotten { replica: B }));
    assert_eq!(wal.read_blocking(B, 0..9, 9), Err(ReadError::Unknown { replica: B }));
    for n in 10..33 {
        assert!(wal.save_vote(ReplicaId(n), Bytes::new()).is_ok(), "{n}");
    }
    assert_eq!(
        wal.save_vote(ReplicaId(33), Bytes::new()).unwrap_err(),
        WriteError::TooManyReplicas { replica: ReplicaId(33), max: 24 }
    );
    drain(&mut engine);
    assert_eq!(entries(&wal, A).len(), 2);
    close(&wal, &mut engine);
    assert_eq!(wal.save_vote(A, Bytes::new()).unwrap_err(), WriteError::Stopped(Stopped));
}

#[test]
fn truncation_and_purge_meet_all_edges() {
    let fs = LyingFs::new(4);
    let (wal, mut engine, _) = open(&fs);
    let ten = |term| (0..10).map(|i| record(term, i, b"p")).collect::<Vec<_>>();
    wal.append(A, ten(1), ignore()).unwrap();
    drop(wal.truncate_after(A, Some(id(1, 30))).unwrap());
    assert_eq!(entries(&wal, A).len(), 10, "nothing is there to cut");
    drop(wal.truncate_after(A, None).unwrap());
    assert_eq!((entries(&wal, A).len(), wal.replica_state(A).unwrap().last), (0, None));
    wal.append(A, ten(2), ignore()).unwrap();
    drop(wal.purge(A, id(2, 4)).unwrap());
    drop(wal.purge(A, id(2, 2)).unwrap());
    drop(wal.truncate_after(A, None).unwrap());
    assert_eq!(wal.replica_state(A).unwrap().last, Some(id(2, 4)), "what is purged stays purged");
    drop(wal.purge(A, id(5, 100)).unwrap());
    assert!(wal.append(A, vec![record(5, 100, b"x")], ignore()).is_err());
    wal.append(A, vec![record(5, 101, b"y")], ignore()).unwrap();
    drain(&mut engine);
    let state = wal.replica_state(A).unwrap();
    assert_eq!((state.last_purged, state.last), (Some(id(5, 100)), Some(id(5, 101))));
    fs.crash();
    let (wal, _engine, _) = open(&fs);
    assert_eq!(wal.replica_state(A).unwrap(), state);
    assert_eq!(entries(&wal, A), [record(5, 101, b"y")]);
}

#[test]
fn old_entries_are_read_from_the_segments_and_memory_stays_bounded() {
    let fs = LyingFs::new(5);
    let (wal, mut engine, _) = open(&fs);
    let mut all = Vec::new();
    for i in 0..400 {
        let records = [A, B].map(|r| record(1, i, &vec![r.0 as u8 ^ i as u8; 300 + i as usize]));
        wal.append(A, vec![records[0].clone()], ignore()).unwrap();
        wal.append(B, vec![records[1].clone()], ignore()).unwrap();
        all.push(records);
        if i.is_multiple_of(7) {
            drain(&mut engine);
        }
    }
    drain(&mut engine);
    let stats = wal.stats();
    assert!(stats.memory_bytes <= 16 << 10, "{stats:?}");
    assert_eq!(stats.entries, 800);
    assert!(stats.segments > 4);
    for (at, replica) in [(0, A), (1, B)] {
        let expected: Vec<Record> = all.iter().map(|pair| pair[at].clone()).collect();
        assert_eq!(entries(&wal, replica), expected);
        assert_eq!(wal.read_blocking(replica, 10..20, 0).unwrap(), expected[10..11], "at least one");
        let some = wal.read_blocking(replica, 10..200, 3000).unwrap();
        assert_eq!(some, expected[10..10 + some.len()]);
        assert!(some.len() < 12);
        assert_eq!(wal.read_cached(replica, 0..10), None);
        assert_eq!(wal.read_cached(replica, 399..u64::MAX).unwrap(), expected[399..]);
    }
    assert!(wal.stats().disk_reads > 0);
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    let nothing = wal.read_blocking(A, 20..10, 100);
    assert_eq!(nothing, Ok(Vec::new()));
}

#[test]
fn pins_name_the_replica_that_holds_the_log_back() {
    let fs = LyingFs::new(6);
    let (wal, mut engine, _) = open(&fs);
    wal.append(B, vec![record(1, 0, &[1; 9000]), record(1, 1, &[1; 9000])], ignore()).unwrap();
    for i in 0..200 {
        wal.append(A, vec![record(1, i, &[0; 1000])], ignore()).unwrap();
        drain(&mut engine);
        if i > 0 {
            drop(wal.purge(A, id(1, i - 1)).unwrap());
        }
    }
    drain(&mut engine);
    let pins = wal.pinning();
    assert_eq!(pins[0].replica, B);
    assert!(pins[0].pinned_bytes > 150_000 && pins[0].entry_bytes > 18_000, "{pins:?}");
    assert!(pins[1].pinned_bytes < 66_000);
    drop(wal.purge(B, id(1, 1)).unwrap());
    drain(&mut engine);
    drop(wal.flush().unwrap());
    drop(wal.save_vote(A, Bytes::new()).unwrap());
    drain(&mut engine);
    assert!(wal.stats().segments <= 2, "{:?}", wal.stats());
}

#[test]
fn the_log_of_another_node_is_refused() {
    let fs = LyingFs::new(7);
    drop(open(&fs));
    let other = Config { log_id: 8, ..small() };
    let refused = Wal::open_stepped(Arc::new(fs), other).map(|_| ());
    assert!(matches!(refused, Err(OpenError::Foreign { found: 7, expected: 8 })), "{refused:?}");
}

#[test]
fn bounds_that_cannot_work_are_refused() {
    let wrong = [
        Config { segment_bytes: 1000, ..small() },
        Config { segment_bytes: (64 << 10) + 1, ..small() },
        Config { replicas_max: 33, ..small() },
        Config { move_bytes_max: 17 << 10, ..small() },
        Config { batch_bytes_max: 1, ..small() },
        Config { queue_bytes_max: 1, ..small() },
        Config { segments_min: 1, ..small() },
    ];
    for config in wrong {
        let refused = Wal::open_stepped(Arc::new(LyingFs::new(0)), config).map(|_| ());
        assert!(matches!(refused, Err(OpenError::Config { .. })), "{refused:?}");
    }
}

#[test]
fn the_writer_thread_serves_many_callers_and_is_joined_when_the_last_handle_goes() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        Config { log_id: 7, segment_bytes: 1 << 20, replicas_max: 100, move_bytes_max: 1 << 18, ..Config::default() };
    let fs = Arc::new(DiskFs::open(dir.path()).unwrap());
    let (wal, _) = Wal::open(fs.clone(), config.clone()).unwrap();
    let acks = Acks::default();
    std::thread::scope(|scope| {
        for t in 0..4u64 {
            let (wal, acks) = (wal.clone(), acks.clone());
            scope.spawn(move || {
                for i in 0..200 {
                    wal.append(ReplicaId(t), vec![record(1, i, &[t as u8; 100])], acks.done()).unwrap();
                    if i % 50 == 49 {
                        wal.save_vote(ReplicaId(t), Bytes::from(vec![i as u8])).unwrap().wait().unwrap();
                    }
                }
            });
        }
    });
    wal.flush().unwrap().wait().unwrap();
    assert_eq!(acks.count(), 800);
    drop(wal);
    let (wal, recovery) = Wal::open(fs, config).unwrap();
    assert_eq!((recovery.torn, recovery.rot.len(), recovery.replicas.len()), (None, 0, 4));
    for t in 0..4 {
        assert_eq!(entries(&wal, ReplicaId(t)).len(), 200);
        assert_eq!(wal.replica_state(ReplicaId(t)).unwrap().vote.as_deref(), Some(&[199][..]));
    }
}

#[tokio::test]
async fn room_is_waited_for_while_the_queue_is_full() {
    let fs = LyingFs::new(8);
    let config = Config { queue_bytes_max: 4096, ..small() };
    let (wal, mut engine, _) = Wal::open_stepped(Arc::new(fs), config).unwrap();
    wal.room().await;
    wal.append(A, vec![record(1, 0, &[0; 5000])], ignore()).unwrap();
    let waiter = tokio::spawn({
        let wal = wal.clone();
        async move { wal.room().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    wal.append(A, vec![record(1, 1, &[0; 12000])], ignore()).unwrap();
    let full = wal.append(A, vec![record(1, 2, &[0; 5000])], ignore());
    assert!(matches!(full, Err(WriteError::Full { .. })), "{full:?}");
    drain(&mut engine);
    waiter.await.unwrap();
    let read = wal.read(A, 0..10, usize::MAX).await.unwrap();
    assert_eq!(read.len(), 2);
}

#[derive(Debug)]
struct AtOnce;

impl crate::threads::Pace for AtOnce {
    fn next(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

#[tokio::test]
async fn without_threads_a_task_writes_until_the_log_is_closed() {
    let fs = LyingFs::new(3);
    let config = || Config { threads: crate::threads::Threads::Tasks(Arc::new(AtOnce)), ..small() };
    let (wal, _) = Wal::open(Arc::new(fs.clone()), config()).unwrap();
    for vote in [b"one", b"two"] {
        wal.save_vote(A, Bytes::from_static(vote)).unwrap().await.unwrap();
    }
    wal.close();
    assert!(wal.flush().is_err());
    fs.crash();
    let (wal, _) = Wal::open(Arc::new(fs), config()).unwrap();
    assert_eq!(wal.replica_state(A).unwrap().vote, Some(Bytes::from_static(b"two")));
}

#[tokio::test]
async fn the_writers_turns_are_short_while_the_nodes_are() {
    let turns = crate::threads::Turns::of_threads();
    let (wal, _) = Wal::open(Arc::new(LyingFs::new(3)), Config { turns: turns.clone(), ..small() }).unwrap();
    let mut index = 0;
    for short in [false, true, false] {
        turns.set_short(short);
        let mut seen = None;
        // It may have looked just before it wrote the first one; not the second.
        for _ in 0..2 {
            index += 1;
            let (tell, told) = tokio::sync::oneshot::channel();
            // Called on the writer's thread.
            let done = Box::new(move |_| {
                let _ = tell.send(crate::threads::are_short_here());
            });
            wal.append(A, vec![record(1, index, b"")], done).unwrap();
            seen = told.await.unwrap();
        }
        assert_ne!(seen, Some(!short));
    }
    wal.close();
}
