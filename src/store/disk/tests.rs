//! The suite on sled, and what only the store on disk can show.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::store::suite::{Rig, TestClock, conformance};
use crate::store::{CheckpointRecord, Verdict};

struct DiskRig {
    folder: TempDir,
    clock: Arc<TestClock>,
}

impl DiskRig {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::default() }
    }

    fn options(&self) -> Options {
        Options { reserve_bytes: 0, ..Options::new(self.folder.path().join("a/store")) }
    }
}

impl Rig for DiskRig {
    fn open(&mut self, known: &[CheckpointRecord]) -> (Arc<dyn Store>, Vec<(ReplicaId, Verdict)>) {
        let opened = DiskStore::open(self.options(), self.clock.clone(), known).unwrap();
        (Arc::new(opened.store), opened.verdicts)
    }

    fn clock(&self) -> Arc<TestClock> {
        self.clock.clone()
    }
}

conformance!(DiskRig::new());

fn open(rig: &DiskRig, known: &[CheckpointRecord]) -> (DiskStore, BTreeMap<ReplicaId, Verdict>) {
    let opened = DiskStore::open(rig.options(), rig.clock.clone(), known).unwrap();
    (opened.store, opened.verdicts.into_iter().collect())
}

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);

fn checkpoint(store: &DiskStore, replica: ReplicaId, generation: u64, rows: std::ops::Range<u32>) -> CheckpointRecord {
    let rows = rows.map(|n| (format!("row{n:06}").into_bytes(), Some(vec![n as u8; 100]))).collect();
    let images = vec![(b"image".to_vec(), Some(generation.to_be_bytes().to_vec()))];
    let new = Checkpoint { generation, header: b"header".to_vec(), images, rows };
    let done = store.checkpoint(vec![(replica, Arc::new(new), Haste::Patient)]).remove(0).unwrap();
    CheckpointRecord { replica, generation: done.generation, checksum: done.checksum }
}

/// Leaves all rows in the archive only.
fn cool_all(store: &DiskStore, replica: ReplicaId, generation: u64) -> CheckpointRecord {
    checkpoint(store, replica, generation, 0..0)
}

fn raw(tree: &sled::Tree, class: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
    tree.scan_prefix([class]).map(|pair| pair.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn trees(store: &DiskStore, replica: ReplicaId) -> (sled::Tree, Option<sled::Tree>) {
    let replica = store.inner.sound(replica).unwrap();
    let view = replica.view.read();
    (view.live.sled.clone(), view.archive.as_ref().map(|tree| tree.sled.clone()))
}

fn retired(verdict: &Verdict) -> &Retirement {
    match verdict {
        Verdict::Retired(reason) => reason,
        other => panic!("expected to be retired: {other:?}"),
    }
}

#[test]
fn live_holds_what_the_newest_checkpoint_has_changed_and_the_archive_the_rest() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    checkpoint(&store, A, 1, 0..2000);
    let (live, archive) = trees(&store, A);
    assert_eq!((raw(&live, codec::CLASS_ROW).is_empty(), archive.is_some()), (false, false));
    let part = store.cool(A, CoolBudget { bytes_moved_max: 50_000 }).unwrap();
    assert!(!part.done && part.rows_moved < 1000, "{part:?}");
    assert!(store.cool(A, CoolBudget::default()).unwrap().done);
    assert_eq!(store.cool(A, CoolBudget::default()).unwrap().rows_moved, 0);
    assert!(!raw(&live, codec::CLASS_ROW).is_empty());
    checkpoint(&store, A, 2, 7..8);
    assert_eq!(raw(&live, codec::CLASS_ROW).len(), 1);
    let pages = raw(&trees(&store, A).1.unwrap(), codec::CLASS_ROW);
    assert_eq!(store.usage().unwrap().replicas[&A].archived_rows, 2000);
    assert!(pages.iter().all(|(_, page)| page.len() < 4300), "{} pages", pages.len());
    assert!(pages.len() < 2000 * 117 / 2048, "{} pages", pages.len());
    checkpoint(&store, A, 3, 0..0);
    assert_eq!(raw(&live, codec::CLASS_ROW).len(), 0);
    assert_eq!(store.usage().unwrap().replicas[&A].archived_rows, 2000);
}

#[test]
fn long_values_leave_no_pieces_and_no_files_behind() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    for generation in 1..40_u64 {
        let rows = (0..40_u64).map(|n| {
            let len = usize::try_from((n * 7919 + generation * 104_729) % 30_000).unwrap();
            (n.to_be_bytes().to_vec(), (!len.is_multiple_of(5)).then(|| vec![n as u8; len]))
        });
        let new = Checkpoint { generation, rows: rows.collect(), ..Checkpoint::default() };
        store.checkpoint(vec![(A, Arc::new(new), Haste::Patient)]).remove(0).unwrap();
        store.cool(A, CoolBudget::default()).unwrap();
    }
    for database in ["live", "archive"] {
        assert_eq!(fs::read_dir(rig.options().path.join(database).join("blobs")).unwrap().count(), 0);
    }
    let (live, _) = trees(&store, A);
    let expected = Writer::load(&Tree { sled: live.clone() }).unwrap();
    assert!(!raw(&live, codec::CLASS_PIECE).is_empty());
    checkpoint(&store, A, 40, 0..1);
    assert_eq!(raw(&live, codec::CLASS_PIECE), vec![], "{expected:?}");
}

#[test]
fn a_rotten_page_is_found_when_it_is_read_and_retires_its_replica_only() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    for replica in [A, B] {
        store.create(replica).unwrap();
        checkpoint(&store, replica, 1, 0..10);
    }
    checkpoint(&store, A, 2, 1000..1001);
    let archive = trees(&store, A).1.unwrap();
    let key = codec::physical(codec::CLASS_ROW, b"row000000");
    let mut value = archive.get(&key).unwrap().unwrap().to_vec();
    value[20] ^= 1;
    archive.insert(key, value).unwrap();
    assert!(store.get(A, &[b"row001000".to_vec()]).is_ok());
    assert!(matches!(store.get(A, &[b"row000003".to_vec()]), Err(ReadError::Corrupt { replica: A, .. })));
    assert!(matches!(store.get(A, &[b"row001000".to_vec()]), Err(ReadError::Retired { replica: A, .. })));
    assert_eq!(store.scan(B, b"", b"", 100).unwrap().rows.len(), 10);
    checkpoint(&store, B, 2, 0..1);
    store.drop_replica(A).unwrap();
    assert_eq!(store.inner.live.sled().tree_names().len(), 2);
}

#[test]
fn a_lost_row_of_the_newest_checkpoint_is_missed_when_the_store_is_opened() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    let known = [checkpoint(&store, A, 1, 0..100)];
    let (live, _) = trees(&store, A);
    let (label, _) = raw(&live, codec::CLASS_ROW).remove(1);
    live.remove(label).unwrap();
    drop((store, live));
    let (_store, verdicts) = open(&rig, &known);
    assert!(matches!(retired(&verdicts[&A]), Retirement::Corrupt(_)), "{verdicts:?}");
}

#[test]
fn a_rotten_image_is_found_when_the_store_is_opened() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    store.create(B).unwrap();
    let known = [checkpoint(&store, A, 1, 0..3), checkpoint(&store, B, 1, 0..3)];
    let (live, _) = trees(&store, A);
    let key = codec::physical(codec::CLASS_IMAGE, b"image");
    // Sound by its own checksum, but not the one that the header tells of.
    live.insert(&*key, codec::encode(&key, 1, Some(b"other")).value).unwrap();
    drop((store, live));
    let (store, verdicts) = open(&rig, &known);
    assert!(matches!(retired(&verdicts[&A]), Retirement::Corrupt(_)), "{verdicts:?}");
    assert_eq!(verdicts[&B], Verdict::Sound { generation: Some(1) });
    assert!(matches!(store.header(A), Err(ReadError::Retired { .. })));
    assert_eq!(fs::read_dir(rig.options().path.join("evidence")).unwrap().count(), 1);
    store.drop_replica(A).unwrap();
    drop(store);
    let (_store, verdicts) = open(&rig, &known[1..]);
    assert_eq!(verdicts.into_keys().collect::<Vec<_>>(), vec![B]);
    assert_eq!(fs::read_dir(rig.options().path.join("evidence")).unwrap().count(), 1);
}

#[test]
fn a_database_that_is_gone_or_empty_is_missed() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    store.create(B).unwrap();
    checkpoint(&store, A, 1, 0..50);
    let known = [cool_all(&store, A, 2), checkpoint(&store, B, 1, 0..3)];
    drop(store);
    fs::remove_dir_all(rig.options().path.join("archive")).unwrap();
    let (store, verdicts) = open(&rig, &known);
    assert_eq!(*retired(&verdicts[&A]), Retirement::ArchiveOlder { found: 0, relied_on: 1 });
    assert_eq!(verdicts[&B], Verdict::Sound { generation: Some(1) });
    drop(store);
    fs::remove_dir_all(rig.options().path.join("live")).unwrap();
    let (_store, verdicts) = open(&rig, &known);
    assert_eq!(*retired(&verdicts[&A]), Retirement::Missing { recorded: 2 });
    assert_eq!(*retired(&verdicts[&B]), Retirement::Missing { recorded: 1 });
}

#[test]
fn a_damaged_database_is_moved_aside_and_retires_what_was_in_it() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    let known = [checkpoint(&store, A, 1, 0..5000)];
    drop(store);
    let mut outcomes = 0;
    for damage in 0..6_usize {
        let folder = rig.options().path.join("live");
        let kept = fs::read(folder.join("db")).unwrap();
        let snap = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let snap =
            snap.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap")).collect::<Vec<_>>();
        let snaps: Vec<_> = snap.iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        let mut bytes = kept.clone();
        match damage {
            0 => bytes.truncate(bytes.len() / 2 + 11),
            1 => bytes.iter_mut().for_each(|byte| *byte = 0xff),
            2 => bytes.iter_mut().skip(100).step_by(1000).for_each(|byte| *byte ^= 0x55),
            3 => bytes.truncate(0),
            4 => snap.iter().for_each(|path| fs::write(path, b"rubbish").unwrap()),
            _ => fs::write(folder.join("conf"), b"rubbish that is long enough").unwrap(),
        }
        fs::write(folder.join("db"), bytes).unwrap();
        let (store, verdicts) = open(&rig, &known);
        // Whatever sled makes of it, the node runs, and either the replica is whole or it is not served.
        match &verdicts[&A] {
            Verdict::Sound { .. } => match store.scan(A, b"", b"", 10_000) {
                Ok(scan) => assert_eq!(scan.rows.len(), 5000),
                Err(error) => assert!(matches!(error, ReadError::Corrupt { .. }), "{error}"),
            },
            Verdict::Retired(_) | Verdict::Unclear(_) => outcomes += 1,
        }
        store.create(B).unwrap();
        checkpoint(&store, B, 1, 0..3);
        drop(store);
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("db"), kept).unwrap();
        for (path, bytes) in snaps {
            fs::write(path, bytes).unwrap();
        }
        let (_store, verdicts) = open(&rig, &known);
        assert_eq!(verdicts[&A], Verdict::Sound { generation: Some(1) }, "restored after damage {damage}");
    }
    assert!(outcomes >= 3, "{outcomes}");
}

#[test]
fn a_byte_of_the_archive_that_flipped_does_not_keep_the_store_from_opening() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    checkpoint(&store, A, 1, 0..2000);
    let known = [cool_all(&store, A, 2)];
    drop(store);
    let file = rig.options().path.join("archive").join("db");
    let (folder, kept) = (file.parent().unwrap().to_path_buf(), rig.options().path.join("kept"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let _ = fs::remove_dir_all(to);
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        fs::create_dir(to.join("blobs")).unwrap();
    };
    copy(&folder, &kept);
    let bytes = fs::read(&file).unwrap();
    for nth in 0..40 {
        copy(&kept, &folder);
        let _ = fs::remove_dir_all(rig.options().path.join("archive.damaged"));
        let mut bytes = bytes.clone();
        let at = (bytes.len() / 40 * nth + nth * 97) % bytes.len().min(100_000);
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        // The helper fails the test where the store does not open.
        let (store, verdicts) = open(&rig, &known);
        match &verdicts[&A] {
            Verdict::Sound { .. } => match store.scan(A, b"", b"", 10_000) {
                Ok(scan) => assert_eq!(scan.rows.len(), 2000),
                Err(error) => {
                    assert!(matches!(error, ReadError::Corrupt { .. } | ReadError::Unclear { .. }), "{error}")
                }
            },
            Verdict::Retired(_) | Verdict::Unclear(_) => {}
        }
    }
}

#[test]
fn what_an_interrupted_install_left_is_swept() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    checkpoint(&store, A, 1, 0..3);
    let row = |n: u32| (n.to_be_bytes().to_vec(), vec![1; 500]);
    let mut install = store.begin_install(A).unwrap();
    install.put(vec![], (0..100).map(row).collect()).unwrap();
    assert_eq!(store.inner.live.sled().tree_names().len(), 3);
    drop(install);
    store.begin_install(B).unwrap().finish(1, vec![]).unwrap();
    assert_eq!(store.inner.live.sled().tree_names().len(), 3);
    // As a crash leaves it: nothing says that it was given up.
    let mut install = store.begin_install(A).unwrap();
    install.put(vec![], (0..100).map(row).collect()).unwrap();
    std::mem::forget(install.put(vec![], vec![]));
    store.inner.sync(&store.inner.archive).unwrap();
    drop(install);
    drop(store);
    let (store, _) = open(&rig, &[]);
    assert_eq!(store.inner.live.sled().tree_names().len(), 3);
    assert_eq!(store.inner.archive.sled().tree_names().len(), 2);
    assert_eq!(store.scan(A, b"", b"", 100).unwrap().rows.len(), 3);
}

#[test]
fn what_comes_in_small_pieces_is_synced_by_the_half_mib_and_all_of_it_before_it_counts() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    let counted = |name| move |store: &DiskStore| store.counters().iter().find(|c| c.0 == name).unwrap().1;
    let syncs = counted("syncs");
    let image = |n: u32| (n.to_be_bytes().to_vec(), vec![1; 64 << 10]);
    let row = |n: u32| (n.to_be_bytes().to_vec(), vec![2; 1 << 10]);
    let mut install = store.begin_install(A).unwrap();
    let before = syncs(&store);
    // Of live and of the archive, each for itself.
    (0..6).for_each(|n| install.put(vec![image(n)], vec![]).unwrap());
    (0..3).for_each(|n| install.put(vec![], (n * 128..(n + 1) * 128).map(row).collect()).unwrap());
    assert_eq!(syncs(&store) - before, 0);
    install.put(vec![image(6)], vec![]).unwrap();
    assert_eq!(syncs(&store) - before, 1);
    install.put(vec![], (3 * 128..5 * 128).map(row).collect()).unwrap();
    assert_eq!(syncs(&store) - before, 2);
    install.put(vec![image(7)], vec![row(5 * 128)]).unwrap();
    assert_eq!(syncs(&store) - before, 2);
    install.finish(1, vec![]).unwrap();
    // The archive, live, and the pointer.
    assert_eq!(syncs(&store) - before, 5);
    assert_eq!(store.scan(A, b"", b"", 1000).unwrap().rows.len(), 5 * 128 + 1);
}

#[test]
fn a_store_that_another_has_open_is_left_alone() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    checkpoint(&store, A, 1, 0..3);
    let second = DiskStore::open(rig.options(), rig.clock.clone(), &[]);
    assert_eq!(second.err(), Some(OpenError::InUse));
    checkpoint(&store, A, 2, 0..3);
    assert!(!rig.options().path.join("live.damaged").exists());
}

#[test]
fn a_rewrite_keeps_everything_and_returns_what_was_deleted() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    store.create(B).unwrap();
    checkpoint(&store, A, 1, 0..20_000);
    checkpoint(&store, B, 1, 0..20_000);
    cool_all(&store, B, 2);
    store.drop_replica(B).unwrap();
    let known = [cool_all(&store, A, 2)];
    let rows = store.scan(A, b"", b"", 1000).unwrap();
    drop(store);
    fs::create_dir(rig.options().path.join("live.rewrite")).unwrap();
    let (before, after) = rewrite(&rig.options()).unwrap();
    assert!(after < before, "{before} -> {after}");
    let (store, verdicts) = open(&rig, &known);
    assert_eq!(verdicts.into_iter().collect::<Vec<_>>(), vec![(A, Verdict::Sound { generation: Some(2) })]);
    assert_eq!(store.scan(A, b"", b"", 1000).unwrap(), rows);
    assert!(!rig.options().path.join("live.rewrite").exists());
}

#[test]
fn too_little_room_is_said_before_anything_is_changed() {
    let rig = DiskRig::new();
    let options = Options { reserve_bytes: u64::MAX, ..rig.options() };
    let store = DiskStore::open(options, rig.clock.clone(), &[]).unwrap().store;
    let space = store.space().unwrap();
    assert!(!space.ample() && space.free_bytes > 0);
    let room = store.inner.room_for(usize::MAX);
    assert!(matches!(room, Err(WriteError::NoSpace { .. })), "{room:?}");
}

#[test]
fn a_panic_while_reading_retires_nobody_and_leaves_the_database_in_use() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    checkpoint(&store, A, 1, 0..10);
    let read = store.inner.view(A, |_| -> Result<(), Bad> { panic!("a mistake of ours") });
    assert!(matches!(&read, Err(ReadError::Unclear { replica: A, what }) if what.contains("ours")), "{read:?}");
    let read = store.inner.view(A, |_| -> Result<(), Bad> { Err(Bad::Failed("cannot allocate".to_string())) });
    assert!(matches!(read, Err(ReadError::Unclear { .. })), "{read:?}");
    assert_eq!(store.scan(A, b"", b"", 100).unwrap().rows.len(), 10);
    checkpoint(&store, A, 2, 0..1);
}

#[test]
fn a_store_of_another_version_is_refused_as_it_is() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    let known = [checkpoint(&store, A, 1, 0..10)];
    let (live, _) = trees(&store, A);
    let sound = live.get(codec::HEADER).unwrap().unwrap();
    let header = Tree { sled: live.clone() }.get(codec::HEADER).unwrap().and_then(|stored| stored.value).unwrap();
    let later = [&header[..1], &[rules::HEADER_VERSION + 1][..], &header[2..]].concat();
    live.insert(codec::HEADER, codec::encode(codec::HEADER, 1, Some(&later)).value).unwrap();
    drop((store, live));
    let refused = DiskStore::open(rig.options(), rig.clock.clone(), &known).map(|_| ());
    assert!(matches!(&refused, Err(OpenError::Version(what)) if what.contains("version 4")), "{refused:?}");
    // The build that knows it finds everything as it was.
    let db = sled::open(rig.options().path.join("live")).unwrap();
    let tree = db.tree_names().into_iter().find(|name| codec::TreeName::parse(name).is_some()).unwrap();
    db.open_tree(tree).unwrap().insert(codec::HEADER, sound).unwrap();
    db.flush().unwrap();
    drop(db);
    let (_store, verdicts) = open(&rig, &known);
    assert_eq!(verdicts[&A], Verdict::Sound { generation: Some(1) });
}

#[test]
fn what_cannot_be_made_sense_of_at_opening_is_not_served_and_not_given_up() {
    let rig = DiskRig::new();
    let (store, _) = open(&rig, &[]);
    store.create(A).unwrap();
    store.create(B).unwrap();
    let known = [checkpoint(&store, A, 1, 0..10), checkpoint(&store, B, 1, 0..10)];
    let inner = &store.inner;
    inner.unclear.write().insert(A, "a mistake of ours".to_string());
    assert!(matches!(store.header(A), Err(ReadError::Unclear { replica: A, .. })));
    assert!(matches!(store.create(A), Err(WriteError::Read(ReadError::Unclear { .. }))));
    assert!(store.header(B).is_ok() && store.replicas() == [A, B]);
    drop(store);
    // Another build, which understands it, has all that was there.
    let (store, verdicts) = open(&rig, &known);
    assert!(verdicts.values().all(|verdict| matches!(verdict, Verdict::Sound { generation: Some(1) })), "{verdicts:?}");
    // And it can be destroyed without being understood.
    store.inner.unclear.write().insert(A, "a mistake of ours".to_string());
    store.inner.replicas.write().remove(&A);
    store.drop_replica(A).unwrap();
    assert!(matches!(store.header(A), Err(ReadError::UnknownReplica(A))));
}
