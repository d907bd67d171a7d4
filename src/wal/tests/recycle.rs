use super::*;
use crate::fs::Fs;

/// A payload that names its entry.
fn named(index: u64) -> Vec<u8> {
    index.to_be_bytes().repeat(100)
}

#[test]
fn recycled_segments_never_bring_back_what_they_held() {
    for seed in seeds(40) {
        let fs = LyingFs::new(seed);
        let mut next = 0u64;
        let acks = Acks::default();
        for life in 0..6 {
            let (wal, mut engine, recovery) = open(&fs);
            assert!(recovery.rot.is_empty(), "seed {seed}: {recovery:?}");
            let last = wal.replica_state(A).and_then(|state| state.last).map_or(0, |last| last.index + 1);
            assert!(last >= acks.count() as u64 && last <= next, "seed {seed}: {last} of {next}");
            for found in entries(&wal, A) {
                assert_eq!(found.payload, named(found.id.index), "seed {seed}");
            }
            acks.0.store(last as usize, Ordering::SeqCst);
            next = last;
            for _ in 0..100 + 13 * life {
                // The same bytes at the same places, segment after segment: only the numbers differ.
                wal.append(A, vec![record(1, next, &named(next))], acks.done()).unwrap();
                next += 1;
                if next.is_multiple_of(3) {
                    drop(wal.purge(A, id(1, next - 2)).unwrap());
                }
                if next.is_multiple_of(2) {
                    engine.step().unwrap();
                }
            }
            assert!(fs.list().unwrap().len() <= 6, "{:?}", fs.list());
            fs.crash();
        }
    }
}

#[test]
fn the_entries_of_a_quiet_replica_move_out_of_the_way() {
    let fs = LyingFs::new(2);
    let (wal, mut engine, _) = open(&fs);
    let quiet: Vec<Record> = (0..6).map(|i| record(1, i, &[9; 500])).collect();
    wal.append(B, quiet.clone(), ignore()).unwrap();
    drop(wal.save_vote(B, Bytes::from_static(b"quiet vote")).unwrap());
    drop(wal.purge(B, id(1, 1)).unwrap());
    for index in 0..1500 {
        wal.append(A, vec![record(1, index, &named(index))], ignore()).unwrap();
        drop(wal.purge(A, id(1, index)).unwrap());
        drain(&mut engine);
    }
    let stats = wal.stats();
    assert!(stats.segments <= 4, "{stats:?}");
    assert!(stats.entries_moved >= 40, "{stats:?}");
    assert_eq!(entries(&wal, B), quiet[2..]);
    fs.crash();
    let (wal, mut engine, recovery) = open(&fs);
    assert!(recovery.distrusted.is_empty());
    assert_eq!(entries(&wal, B), quiet[2..]);
    assert_eq!(wal.replica_state(B).unwrap().vote.as_deref(), Some(&b"quiet vote"[..]));
    // And it can still be written.
    drop(wal.truncate_after(B, Some(id(1, 3))).unwrap());
    wal.append(B, vec![record(2, 4, b"new")], ignore()).unwrap();
    drain(&mut engine);
    fs.crash();
    let (wal, _engine, _) = open(&fs);
    assert_eq!(entries(&wal, B), [quiet[2].clone(), quiet[3].clone(), record(2, 4, b"new")]);
}

#[test]
fn a_segment_is_not_recycled_under_a_reader() {
    let fs = LyingFs::new(3);
    let (wal, mut engine, _) = open(&fs);
    let records: Vec<Record> = (0..20).map(|i| record(1, i, &named(i))).collect();
    wal.append(A, records.clone(), ignore()).unwrap();
    for index in 20..60 {
        wal.append(A, vec![record(1, index, &named(index))], ignore()).unwrap();
        drain(&mut engine);
    }
    let plan = wal.plan(A, 0..20, usize::MAX).unwrap();
    assert!(!plan.is_in_memory());
    let first = fs.list().unwrap().into_iter().next().unwrap();
    for index in 60..600 {
        wal.append(A, vec![record(1, index, &named(index))], ignore()).unwrap();
        drop(wal.purge(A, id(1, index)).unwrap());
        drain(&mut engine);
    }
    assert!(fs.list().unwrap().contains(&first));
    assert_eq!(plan.run().unwrap(), records);
    drop(wal.save_vote(A, Bytes::new()).unwrap());
    drain(&mut engine);
    assert!(!fs.list().unwrap().contains(&first));
}

#[test]
fn many_restarts_do_not_pile_up_segments() {
    let fs = LyingFs::new(4);
    for i in 0..50 {
        let (wal, mut engine, _) = open(&fs);
        wal.append(A, vec![record(1, i, b"a little each time")], ignore()).unwrap();
        drain(&mut engine);
        fs.crash();
    }
    let (wal, _engine, _) = open(&fs);
    assert_eq!(entries(&wal, A).len(), 50);
    assert!(fs.list().unwrap().len() <= 6, "{:?}", fs.list());
}

#[test]
fn moves_get_on_however_little_room_a_segment_has_left() {
    // The quiet replica's entries begin to move when a segment has some bytes left, every number of them in turn.
    for filler in (0..1200).step_by(40) {
        let fs = LyingFs::new(5);
        let (wal, mut engine, _) = open(&fs);
        let quiet: Vec<Record> = (0..6).map(|i| record(1, i, &[9; 700])).collect();
        wal.append(B, quiet.clone(), ignore()).unwrap();
        for index in 0..300 {
            let bytes = if index % 5 == 0 { filler } else { 900 };
            wal.append(A, vec![record(1, index, &vec![0; bytes])], ignore()).unwrap();
            drop(wal.purge(A, id(1, index)).unwrap());
            let steps = (0..20).take_while(|_| engine.step().unwrap() == Progress::Wrote).count();
            assert!(steps < 20, "the writer turns in circles");
        }
        assert_eq!(entries(&wal, B), quiet);
    }
}

#[test]
fn an_entry_that_is_larger_than_what_a_batch_moves_moves_alone() {
    let fs = LyingFs::new(6);
    let config = Config {
        segment_bytes: 4 << 20,
        batch_bytes_max: 512 << 10,
        queue_bytes_max: 4 << 20,
        memory_bytes_max: 1 << 20,
        move_bytes_max: 1 << 20,
        ..small()
    };
    let open = |fs: &LyingFs| Wal::open_stepped(Arc::new(fs.clone()), config.clone()).unwrap();
    let (wal, mut engine, _) = open(&fs);
    let quiet: Vec<Record> = [300, 700].iter().zip(0..).map(|(kib, i)| record(1, i, &vec![9; kib << 10])).collect();
    wal.append(B, quiet.clone(), ignore()).unwrap();
    for index in 0..60 {
        wal.append(A, vec![record(1, index, &vec![0; 200 << 10])], ignore()).unwrap();
        drop(wal.purge(A, id(1, index)).unwrap());
        let steps = (0..20).take_while(|_| engine.step().unwrap() == Progress::Wrote).count();
        assert!(steps < 20, "the writer turns in circles");
    }
    let stats = wal.stats();
    assert!(stats.entries_moved >= 2 && stats.segments <= 3, "{stats:?}");
    assert_eq!(entries(&wal, B), quiet);
    fs.crash();
    assert_eq!(entries(&open(&fs).0, B), quiet);
}
