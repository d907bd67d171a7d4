//! What every store must do, whoever implements it. `conformance!(factory)` makes one test of each function here.

mod exports;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub(super) use exports::*;

use super::*;
use crate::time::{Clock, MonotonicMs, WallMs};

/// A store that can be opened again and again on the same disk.
pub(super) trait Rig {
    fn open(&mut self, known: &[CheckpointRecord]) -> (Arc<dyn Store>, Vec<(ReplicaId, Verdict)>);
    fn clock(&self) -> Arc<TestClock>;
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub(super) struct TestClock(AtomicU64);

impl TestClock {
    pub(super) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> MonotonicMs {
        MonotonicMs(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> WallMs {
        WallMs(0)
    }
}

macro_rules! conformance {
    ($rig:expr) => {
        $crate::store::suite::conformance!(@each $rig;
            a_checkpoint_is_read_back_and_survives_reopening,
            tombstones_hide_what_was_there,
            what_is_out_of_bounds_is_refused_and_changes_nothing,
            values_of_all_sizes_are_kept,
            images_come_in_chunks,
            scans_are_bounded_and_go_on_where_they_ended,
            replicas_do_not_see_each_other,
            checkpoints_share_a_call_and_fail_apart,
            a_dropped_replica_is_gone_for_good,
            an_install_shows_all_or_nothing,
            an_abandoned_install_leaves_no_trace,
            an_install_refuses_rows_that_do_not_ascend,
            an_export_is_of_one_checkpoint_and_holds_off_the_next,
            an_export_that_outlasts_its_lease_loses_it,
            an_export_lasts_as_long_as_its_reader_goes_on,
            an_urgent_checkpoint_goes_ahead_of_an_export,
            an_export_installs_as_the_same_replica,
            verdicts_compare_with_the_records,
            a_random_history_reads_like_a_plain_map,
            the_handle_answers_from_its_threads,
        );
    };
    (@each $rig:expr; $($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                $crate::store::suite::$name(&mut $rig);
            }
        )*
    };
}
pub(super) use conformance;

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);

fn key(text: &str) -> Key {
    text.as_bytes().to_vec()
}

fn put(k: &str, v: &str) -> (Key, Option<Value>) {
    (key(k), Some(key(v)))
}

fn pair(k: &str, v: &str) -> Pair {
    (key(k), key(v))
}

fn rows(generation: u64, rows: Vec<(Key, Option<Value>)>) -> Arc<Checkpoint> {
    Arc::new(Checkpoint { generation, header: format!("h{generation}").into_bytes(), rows, images: Vec::new() })
}

fn write(store: &dyn Store, replica: ReplicaId, checkpoint: Arc<Checkpoint>) -> Result<Checkpointed, WriteError> {
    let mut answers = store.checkpoint(vec![(replica, checkpoint, Haste::Patient)]);
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn record(replica: ReplicaId, done: Checkpointed) -> CheckpointRecord {
    CheckpointRecord { replica, generation: done.generation, checksum: done.checksum }
}

fn all_rows(store: &dyn Store, replica: ReplicaId) -> Vec<Pair> {
    let (mut found, mut from) = (Vec::new(), Some(Vec::new()));
    while let Some(next) = from {
        let scan = store.scan(replica, &next, b"", 7).unwrap();
        found.extend(scan.rows);
        from = scan.next;
    }
    found
}

fn all_images(store: &dyn Store, replica: ReplicaId) -> Vec<Pair> {
    let (mut found, mut after) = (Vec::<Pair>::new(), None);
    loop {
        let chunk = store.images(replica, after.as_deref(), 1).unwrap();
        found.extend(chunk.pairs);
        if !chunk.more {
            return found;
        }
        after = found.last().map(|(key, _)| key.clone());
    }
}

pub(super) fn a_checkpoint_is_read_back_and_survives_reopening(rig: &mut impl Rig) {
    let (store, verdicts) = rig.open(&[]);
    assert_eq!((verdicts, store.replicas()), (vec![], vec![]));
    store.create(A).unwrap();
    assert_eq!(store.create(A), Err(WriteError::Exists(A)));
    assert_eq!(store.header(A), Ok(None));
    let images = vec![put("i1", "views"), put("i2", "more")];
    let checkpoint = Checkpoint { generation: 1, header: key("head"), images, rows: vec![put("r", "row")] };
    let done = write(&*store, A, Arc::new(checkpoint)).unwrap();
    let check = |store: &dyn Store| {
        let header = store.header(A).unwrap().unwrap();
        assert_eq!(header, Header { generation: 1, checksum: done.checksum, bytes: key("head") });
        assert_eq!(all_images(store, A), vec![pair("i1", "views"), pair("i2", "more")]);
        let found = store.get(A, &[key("x"), key("r"), key("i1")]).unwrap();
        assert_eq!(found, vec![None, Some(key("row")), None]);
        assert_eq!(all_rows(store, A), vec![pair("r", "row")]);
    };
    check(&*store);
    drop(store);
    let (store, verdicts) = rig.open(&[record(A, done)]);
    assert_eq!(verdicts, vec![(A, Verdict::Sound { generation: Some(1) })]);
    check(&*store);
}

pub(super) fn tombstones_hide_what_was_there(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    write(&*store, A, rows(1, vec![put("a", "1"), put("b", "2"), put("c", "3")])).unwrap();
    for generation in 2..9 {
        // Whether "b" is in the archive meanwhile or not makes no difference.
        write(&*store, A, rows(generation, vec![])).unwrap();
        store.cool(A, CoolBudget::default()).unwrap();
    }
    write(&*store, A, rows(9, vec![(key("b"), None), (key("never"), None)])).unwrap();
    for generation in 10..16 {
        assert_eq!(all_rows(&*store, A), vec![pair("a", "1"), pair("c", "3")]);
        assert_eq!(store.get(A, &[key("b"), key("c")]), Ok(vec![None, Some(key("3"))]));
        store.cool(A, CoolBudget::default()).unwrap();
        write(&*store, A, rows(generation, vec![])).unwrap();
    }
    write(&*store, A, rows(16, vec![put("b", "again")])).unwrap();
    assert_eq!(all_rows(&*store, A), vec![pair("a", "1"), pair("b", "again"), pair("c", "3")]);
    let image = |generation, value: Option<Value>| Checkpoint {
        generation,
        images: vec![(key("i"), value)],
        ..Checkpoint::default()
    };
    write(&*store, A, Arc::new(image(17, Some(key("x"))))).unwrap();
    let with = store.header(A).unwrap();
    write(&*store, A, Arc::new(image(18, None))).unwrap();
    assert_eq!(all_images(&*store, A), vec![]);
    assert_ne!(store.header(A).unwrap().map(|h| h.checksum), with.map(|h| h.checksum));
}

pub(super) fn what_is_out_of_bounds_is_refused_and_changes_nothing(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    let unknown = ReadError::UnknownReplica(A);
    assert_eq!(write(&*store, A, rows(1, vec![])), Err(unknown.clone().into()));
    assert_eq!((store.header(A), store.get(A, &[]).err()), (Err(unknown.clone()), Some(unknown.clone())));
    assert_eq!(store.cool(A, CoolBudget::default()), Err(unknown.into()));
    store.create(A).unwrap();
    write(&*store, A, rows(5, vec![put("a", "1")])).unwrap();
    let stale = |given| Err(WriteError::StaleGeneration { replica: A, given, last: 5 });
    assert_eq!(write(&*store, A, rows(5, vec![put("a", "2")])), stale(5));
    assert_eq!(write(&*store, A, rows(4, vec![put("a", "2")])), stale(4));
    let empty = Err(WriteError::BadKey { replica: A, what: "a key is empty" });
    assert_eq!(write(&*store, A, rows(6, vec![put("a", "2"), put("", "x")])), empty);
    let twice = write(&*store, A, rows(6, vec![put("b", "2"), put("a", "2"), put("b", "3")]));
    assert!(matches!(twice, Err(WriteError::BadKey { .. })), "{twice:?}");
    let long = vec![(vec![1; Limits::KEY_BYTES + 1], Some(vec![]))];
    assert!(matches!(write(&*store, A, rows(6, long)), Err(WriteError::OutOfBounds { value: 1025, max: 1024, .. })));
    let big = vec![put("a", "2"), (key("big"), Some(vec![1; Limits::VALUE_BYTES + 1]))];
    assert!(matches!(write(&*store, A, rows(6, big)), Err(WriteError::OutOfBounds { .. })));
    let many = vec![key("a"); Limits::KEYS_A_GET + 1];
    assert!(matches!(store.get(A, &many), Err(ReadError::OutOfBounds { .. })));
    assert_eq!(all_rows(&*store, A), vec![pair("a", "1")]);
    assert_eq!(store.header(A).unwrap().map(|h| h.generation), Some(5));
}

pub(super) fn values_of_all_sizes_are_kept(rig: &mut impl Rig) {
    let (mut store, _) = rig.open(&[]);
    store.create(A).unwrap();
    let long_key = vec![b'k'; Limits::KEY_BYTES];
    let mut generation = 0;
    // Growing, shrinking and vanishing again, live and archived.
    for len in [0, 1, 4_000, 6_000, 200_000, Limits::VALUE_BYTES, 9_000, 5_121, 5_120, 10, 70_000, 0] {
        generation += 1;
        let value: Vec<u8> = (0..len).map(|i| (i * 31 + len) as u8).collect();
        let changes = vec![(key("a"), Some(value.clone())), (long_key.clone(), Some(value.clone()))];
        let images = vec![(key("i"), Some(value.clone()))];
        let checkpoint = Checkpoint { generation, header: value.clone(), images, rows: changes };
        let done = write(&*store, A, Arc::new(checkpoint)).unwrap();
        if usize::is_multiple_of(len, 2) {
            for _ in 0..5 {
                generation += 1;
                let checkpoint = Checkpoint { generation, header: value.clone(), ..Checkpoint::default() };
                write(&*store, A, Arc::new(checkpoint)).unwrap();
                store.cool(A, CoolBudget::default()).unwrap();
            }
        }
        drop(store);
        let verdicts;
        (store, verdicts) = rig.open(&[record(A, done)]);
        assert_eq!(verdicts, vec![(A, Verdict::Sound { generation: Some(generation) })]);
        assert_eq!(store.get(A, &[key("a"), long_key.clone()]), Ok(vec![Some(value.clone()); 2]), "{len}");
        assert_eq!(all_rows(&*store, A), vec![(key("a"), value.clone()), (long_key.clone(), value.clone())]);
        assert_eq!(all_images(&*store, A), vec![(key("i"), value.clone())]);
        assert_eq!(store.header(A).unwrap().map(|h| h.bytes), Some(value));
    }
}

pub(super) fn images_come_in_chunks(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    let images: Vec<_> = (0..100).map(|n| (format!("i{n:03}").into_bytes(), Some(vec![n; 1000]))).collect();
    let checkpoint = Checkpoint { generation: 1, images, rows: vec![put("i0", "row")], ..Checkpoint::default() };
    write(&*store, A, Arc::new(checkpoint)).unwrap();
    let first = store.images(A, None, 10_000).unwrap();
    assert!(first.more && (5..=15).contains(&first.pairs.len()), "{}", first.pairs.len());
    let images = all_images(&*store, A);
    assert_eq!(images.len(), 100);
    assert!(images.is_sorted() && images[..first.pairs.len()] == first.pairs[..]);
    assert!(!store.images(A, None, 1 << 20).unwrap().more);
}

pub(super) fn scans_are_bounded_and_go_on_where_they_ended(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    assert_eq!(store.scan(A, b"", b"", 10), Ok(Scan::default()));
    write(&*store, A, rows(3, (0..20).map(|n| put(&format!("k{n:02}"), "v")).collect())).unwrap();
    let scan = store.scan(A, b"k05", b"k10", 3).unwrap();
    assert_eq!(scan.rows, vec![pair("k05", "v"), pair("k06", "v"), pair("k07", "v")]);
    assert_eq!((scan.generation, scan.next), (3, Some(key("k08"))));
    let scan = store.scan(A, b"k08", b"k10", 3).unwrap();
    assert_eq!((scan.rows.len(), scan.next), (2, None));
    assert_eq!(store.scan(A, b"k1", b"k1", 3).unwrap().rows, vec![]);
    assert_eq!(store.scan(A, b"z", b"a", 3).unwrap().rows, vec![]);
    let big = (0..40).map(|n| (format!("k{n:02}").into_bytes(), Some(vec![0; 100_000]))).collect();
    write(&*store, A, rows(4, big)).unwrap();
    let scan = store.scan(A, b"", b"", 1000).unwrap();
    assert!((10..=12).contains(&scan.rows.len()) && scan.next.is_some(), "{}", scan.rows.len());
}

pub(super) fn replicas_do_not_see_each_other(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(B).unwrap();
    store.create(A).unwrap();
    write(&*store, A, rows(1, vec![put("k", "of a")])).unwrap();
    write(&*store, B, rows(7, vec![put("k", "of b"), put("l", "of b")])).unwrap();
    assert_eq!(store.replicas(), vec![A, B]);
    assert_eq!(all_rows(&*store, A), vec![pair("k", "of a")]);
    assert_eq!(store.get(B, &[key("k")]), Ok(vec![Some(key("of b"))]));
    assert_eq!(store.header(B).unwrap().map(|h| h.generation), Some(7));
}

pub(super) fn checkpoints_share_a_call_and_fail_apart(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    store.create(B).unwrap();
    let group = |checkpoints: Vec<(ReplicaId, Arc<Checkpoint>)>| {
        store.checkpoint(checkpoints.into_iter().map(|(replica, new)| (replica, new, Haste::Patient)).collect())
    };
    let answers = group(vec![(A, rows(1, vec![put("a", "1")])), (ReplicaId(9), rows(1, vec![])), (B, rows(0, vec![]))]);
    assert_eq!(answers[0].as_ref().map(|done| done.generation), Ok(1));
    assert_eq!(answers[1], Err(ReadError::UnknownReplica(ReplicaId(9)).into()));
    assert!(matches!(answers[2], Err(WriteError::StaleGeneration { .. })));
    let answers = group(vec![(B, rows(1, vec![put("b", "1")])), (A, rows(2, vec![put("a", "2")]))]);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(all_rows(&*store, A), vec![pair("a", "2")]);
    assert_eq!(all_rows(&*store, B), vec![pair("b", "1")]);
    assert!(group(vec![(A, rows(3, vec![])); Limits::CHECKPOINTS_A_CALL + 1]).iter().all(Result::is_err));
}

pub(super) fn a_dropped_replica_is_gone_for_good(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    store.create(B).unwrap();
    write(&*store, A, rows(1, vec![put("a", "1")])).unwrap();
    let kept = write(&*store, B, rows(1, vec![put("b", "1")])).unwrap();
    store.drop_replica(A).unwrap();
    store.drop_replica(A).unwrap();
    assert_eq!(store.get(A, &[key("a")]), Err(ReadError::UnknownReplica(A)));
    drop(store);
    let (store, verdicts) = rig.open(&[record(B, kept)]);
    assert_eq!(verdicts, vec![(B, Verdict::Sound { generation: Some(1) })]);
    assert_eq!(store.replicas(), vec![B]);
    assert_eq!(all_rows(&*store, B), vec![pair("b", "1")]);
}

pub(super) fn an_install_shows_all_or_nothing(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    write(&*store, A, rows(9, vec![put("old", "1"), put("r1", "old")])).unwrap();
    for replica in [A, B] {
        let mut install = store.begin_install(replica).unwrap();
        install.put(vec![pair("i1", "x")], vec![pair("r1", "1"), pair("r2", "2")]).unwrap();
        install.put(vec![pair("i2", "y")], vec![pair("r3", "3")]).unwrap();
        if replica == A {
            assert_eq!(all_rows(&*store, A), vec![pair("old", "1"), pair("r1", "old")]);
        }
        if replica == A {
            let stale = install.finish(9, key("installed"));
            assert!(matches!(stale, Err(WriteError::StaleGeneration { given: 9, last: 9, .. })), "{stale:?}");
            install = store.begin_install(replica).unwrap();
            install.put(vec![pair("i2", "y"), pair("i1", "x")], vec![pair("r1", "1")]).unwrap();
            install.put(vec![], vec![pair("r2", "2"), pair("r3", "3")]).unwrap();
        }
        let done = install.finish(10, key("installed")).unwrap();
        assert_eq!(done.generation, 10);
    }
    let check = |store: &dyn Store, replica| {
        assert_eq!(all_rows(store, replica), vec![pair("r1", "1"), pair("r2", "2"), pair("r3", "3")]);
        assert_eq!(all_images(store, replica), vec![pair("i1", "x"), pair("i2", "y")]);
        assert_eq!(store.get(replica, &[key("r2"), key("old")]), Ok(vec![Some(key("2")), None]));
        assert_eq!(store.header(replica).unwrap().map(|h| (h.generation, h.bytes)), Some((10, key("installed"))));
    };
    check(&*store, A);
    check(&*store, B);
    write(&*store, B, rows(11, vec![(key("r2"), None), put("r4", "4")])).unwrap();
    let known = [A, B].map(|replica| {
        let header = store.header(replica).unwrap().unwrap();
        CheckpointRecord { replica, generation: header.generation, checksum: header.checksum }
    });
    drop(store);
    let (store, verdicts) = rig.open(&known);
    assert!(verdicts.iter().all(|(_, verdict)| matches!(verdict, Verdict::Sound { .. })), "{verdicts:?}");
    check(&*store, A);
    assert_eq!(all_rows(&*store, B), vec![pair("r1", "1"), pair("r3", "3"), pair("r4", "4")]);
}

pub(super) fn an_abandoned_install_leaves_no_trace(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    write(&*store, A, rows(1, vec![put("a", "1")])).unwrap();
    for replica in [A, B] {
        let mut install = store.begin_install(replica).unwrap();
        install.put(vec![], vec![pair("x", "1")]).unwrap();
    }
    assert_eq!(store.replicas(), vec![A]);
    assert_eq!(all_rows(&*store, A), vec![pair("a", "1")]);
    let mut install = store.begin_install(B).unwrap();
    install.put(vec![], vec![pair("y", "1")]).unwrap();
    install.finish(1, vec![]).unwrap();
    assert_eq!(all_rows(&*store, B), vec![pair("y", "1")]);
    drop(store);
    let (store, _) = rig.open(&[]);
    assert_eq!(all_rows(&*store, A), vec![pair("a", "1")]);
    assert_eq!(all_rows(&*store, B), vec![pair("y", "1")]);
}

pub(super) fn an_install_refuses_rows_that_do_not_ascend(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    let refused = |puts: Vec<Vec<Pair>>| {
        let mut install = store.begin_install(A).unwrap();
        puts.into_iter().map(|rows| install.put(vec![], rows)).any(|put| matches!(put, Err(WriteError::BadKey { .. })))
    };
    assert!(refused(vec![vec![pair("b", "1"), pair("a", "1")]]));
    assert!(refused(vec![vec![pair("b", "1")], vec![pair("b", "1")]]));
    assert!(!refused(vec![vec![pair("b", "1")], vec![], vec![pair("c", "1")]]));
}

pub(super) fn verdicts_compare_with_the_records(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    for replica in 1..=5 {
        store.create(ReplicaId(replica)).unwrap();
    }
    let done: Vec<_> = (1..=4)
        .map(|n| record(ReplicaId(n), write(&*store, ReplicaId(n), rows(5, vec![put("a", "1")])).unwrap()))
        .collect();
    drop(store);
    let known = [
        done[0],
        CheckpointRecord { generation: 6, ..done[1] },
        CheckpointRecord { checksum: done[2].checksum ^ 1, ..done[2] },
        CheckpointRecord { generation: 4, checksum: 0, ..done[3] },
        CheckpointRecord { replica: ReplicaId(6), generation: 1, checksum: 1 },
    ];
    let (store, verdicts) = rig.open(&known);
    let verdicts: BTreeMap<_, _> = verdicts.into_iter().collect();
    let sound = |generation| Verdict::Sound { generation };
    assert_eq!(verdicts[&ReplicaId(1)], sound(Some(5)));
    assert_eq!(verdicts[&ReplicaId(2)], Verdict::Retired(Retirement::Older { found: 5, recorded: 6 }));
    assert!(matches!(verdicts[&ReplicaId(3)], Verdict::Retired(Retirement::ChecksumMismatch { generation: 5, .. })));
    assert_eq!(verdicts[&ReplicaId(4)], sound(Some(5)));
    assert_eq!(verdicts.get(&ReplicaId(5)), Some(&sound(None)));
    let missing = Retirement::Missing { recorded: 1 };
    assert_eq!(verdicts[&ReplicaId(6)], Verdict::Retired(missing.clone()));
    let retired = ReadError::Retired { replica: ReplicaId(6), reason: missing };
    assert_eq!(store.get(ReplicaId(6), &[]), Err(retired.clone()));
    assert_eq!(store.create(ReplicaId(6)), Err(retired.into()));
    assert!(matches!(store.header(ReplicaId(2)), Err(ReadError::Retired { .. })));
    assert!(store.begin_install(ReplicaId(2)).is_err());
    assert_eq!(store.replicas().len(), 6);
    store.drop_replica(ReplicaId(2)).unwrap();
    store.drop_replica(ReplicaId(6)).unwrap();
    assert_eq!(store.replicas().len(), 4);
    assert_eq!(all_rows(&*store, ReplicaId(1)), vec![pair("a", "1")]);
}

pub(super) fn a_random_history_reads_like_a_plain_map(rig: &mut impl Rig) {
    for seed in 0..4 {
        println!("seed {seed}");
        random_history(rig, ReplicaId(100 + seed), &mut StdRng::seed_from_u64(seed));
    }
}

fn random_history(rig: &mut impl Rig, replica: ReplicaId, rng: &mut StdRng) {
    let mut model = BTreeMap::<Key, Value>::new();
    let (mut store, _) = rig.open(&[]);
    store.create(replica).unwrap();
    let mut known = None;
    let spread = 40 * rng.random_range(1..20_u32);
    for generation in 1..60 {
        let mut changes = BTreeMap::new();
        for _ in 0..rng.random_range(0..60) {
            let key = format!("{:05}", rng.random_range(0..spread)).into_bytes();
            let len = [10, 100, 900, 3000, 7000][rng.random_range(0..5)];
            let value = rng.random_bool(0.8).then(|| vec![rng.random::<u8>(); rng.random_range(0..len)]);
            change_model(&mut model, &key, value.as_ref());
            changes.insert(key, value);
        }
        let done = write(&*store, replica, rows(generation, changes.into_iter().collect())).unwrap();
        known = Some(record(replica, done));
        for _ in 0..rng.random_range(0..3) {
            let budget = CoolBudget { bytes_moved_max: rng.random_range(1..60_000) };
            store.cool(replica, budget).unwrap();
        }
        if rng.random_bool(0.1) {
            drop(store);
            let verdicts;
            (store, verdicts) = rig.open(known.as_slice());
            assert!(verdicts.contains(&(replica, Verdict::Sound { generation: Some(generation) })), "{verdicts:?}");
        }
        let expected: Vec<Pair> = model.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(all_rows(&*store, replica), expected, "generation {generation}");
        let asked: Vec<Key> = (0..50).map(|_| format!("{:05}", rng.random_range(0..spread)).into_bytes()).collect();
        let expected: Vec<_> = asked.iter().map(|key| model.get(key).cloned()).collect();
        assert_eq!(store.get(replica, &asked).unwrap(), expected, "generation {generation}");
    }
    assert!(known.is_some());
}

fn change_model(model: &mut BTreeMap<Key, Value>, key: &Key, value: Option<&Value>) {
    match value {
        Some(value) => model.insert(key.clone(), value.clone()),
        None => model.remove(key),
    };
}

pub(super) fn the_handle_answers_from_its_threads(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    let (handle, threads) =
        StoreHandle::spawn(Arc::clone(&store), Queues::default(), Arc::new(|why| panic!("{why}"))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for replica in [A, B] {
            handle.create(replica).await.unwrap();
        }
        let writes = (1..=20_u64).map(|n| {
            let handle = handle.clone();
            async move {
                let replica = ReplicaId(1 + n % 2);
                let text = n.to_string();
                handle.checkpoint(replica, rows(n, vec![put(&text, &text)]), Haste::Patient).await
            }
        });
        for done in futures::future::join_all(writes).await {
            done.unwrap();
        }
        assert_eq!(handle.scan(A, vec![], vec![], 100).await.unwrap().rows.len(), 10);
        assert_eq!(handle.get(B, vec![key("1")]).await, Ok(vec![Some(key("1"))]));
        let mut export = handle.export(A, 1000).await.unwrap();
        let mut install = handle.begin_install(ReplicaId(3)).await.unwrap();
        while let Some(next) = export.next(10).await.unwrap() {
            if let Exported::Rows(rows) = next {
                install.put(vec![], rows).await.unwrap();
            }
        }
        install.finish(export.header().generation, vec![]).await.unwrap();
        assert_eq!(handle.replicas().await, Ok(vec![A, B, ReplicaId(3)]));
        handle.drop_replica(B).await.unwrap();
        assert_eq!(handle.header(B).await, Err(ReadError::UnknownReplica(B)));
        assert!(handle.space().await.unwrap().free_bytes > 0);
        assert_eq!(handle.usage().await.unwrap().replicas.len(), 2);
    });
    drop(runtime);
    drop(handle);
    threads.join();
}
