use std::io;

use super::*;
use crate::fs::{Fault, Fs};

/// A log whose failures are counted.
fn observed() -> (Config, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let config = Config {
        on_fatal: {
            let count = Arc::clone(&count);
            Arc::new(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            })
        },
        ..small()
    };
    (config, count)
}

#[test]
fn a_failed_write_or_sync_is_fatal_never_retried_and_never_acknowledged() {
    for fault in [Fault::Write(1), Fault::Sync(1)] {
        let fs = LyingFs::new(9);
        let (config, fatals) = observed();
        let (wal, mut engine, _) = Wal::open_stepped(Arc::new(fs.clone()), config).unwrap();
        let acks = Acks::default();
        wal.append(A, vec![record(1, 0, b"safe")], acks.done()).unwrap();
        drain(&mut engine);
        fs.fail(fault);
        wal.append(A, vec![record(1, 1, b"lost")], acks.done()).unwrap();
        let mut vote = wal.save_vote(A, Bytes::from_static(b"lost")).unwrap();
        assert!(engine.step().is_err());
        assert_eq!((fatals.load(Ordering::SeqCst), acks.count(), vote.try_get()), (1, 1, Some(Err(Stopped))));
        let syncs = fs.syncs();
        assert_eq!(wal.save_vote(A, Bytes::new()).unwrap_err(), WriteError::Stopped(Stopped));
        assert_eq!(engine.step().unwrap(), Progress::Closed);
        assert_eq!(fs.syncs(), syncs, "nothing is tried again");
        fs.crash();
        let (wal, _engine, recovery) = open(&fs);
        assert!(recovery.rot.is_empty());
        assert_eq!(entries(&wal, A)[0], record(1, 0, b"safe"));
    }
}

#[test]
fn the_writer_thread_ends_after_a_failure_and_tells_everybody() {
    let fs = LyingFs::new(10);
    let (config, fatals) = observed();
    let (wal, _) = Wal::open(Arc::new(fs.clone()), config).unwrap();
    wal.save_vote(A, Bytes::from_static(b"one")).unwrap().wait().unwrap();
    fs.fail(Fault::Sync(1));
    let two = wal.save_vote(A, Bytes::from_static(b"two")).unwrap();
    assert_eq!(two.wait(), Err(Stopped));
    wal.close();
    assert_eq!(fatals.load(Ordering::SeqCst), 1);
    assert!(wal.flush().is_err());
}

#[test]
fn what_a_failed_sync_has_dropped_is_written_again_when_it_is_found() {
    // After a failed sync the kernel may hold as clean what isn't on the disk. A process that finds it there and builds on
    // it must write it again.
    for seed in 0..200 {
        let fs = LyingFs::new(seed);
        let (wal, mut engine, _) = open(&fs);
        wal.append(A, (0..5).map(|i| record(1, i, &[1; 600])).collect(), ignore()).unwrap();
        fs.fail(Fault::Sync(1));
        assert!(engine.step().is_err());
        fs.kill();
        let (wal, mut engine, recovery) = open(&fs);
        assert!(recovery.rot.is_empty());
        let found = entries(&wal, A);
        drop(wal.save_vote(A, Bytes::from_static(b"on top of it")).unwrap());
        drain(&mut engine);
        fs.crash();
        let (wal, _engine, recovery) = open(&fs);
        assert!(recovery.rot.is_empty(), "seed {seed}: {recovery:?}");
        assert_eq!(entries(&wal, A), found, "seed {seed}");
    }
}

#[test]
fn a_full_disk_is_seen_ahead_ends_the_process_late_and_loses_nothing() {
    let fs = LyingFs::new(11);
    let (config, fatals) = observed();
    let (wal, mut engine, _) = Wal::open_stepped(Arc::new(fs.clone()), config).unwrap();
    fs.set_capacity(Some(3 * (64 << 10) + 1000));
    let acks = Acks::default();
    let (mut warned_at, mut written) = (None, 0);
    for index in 0..1000 {
        wal.append(A, vec![record(1, index, &[7; 1000])], acks.done()).unwrap();
        if engine.step().is_err() {
            break;
        }
        written = index + 1;
        if wal.stats().segments_spare == 0 && wal.stats().segments == 3 && warned_at.is_none() {
            warned_at = Some(index);
        }
    }
    assert_eq!(fatals.load(Ordering::SeqCst), 1);
    assert!(warned_at.is_some_and(|at| at + 20 < written), "{warned_at:?} {written}");
    assert_eq!(acks.count() as u64, written);
    fs.kill();
    let refused = Wal::open_stepped(Arc::new(fs.clone()), small()).map(|_| ());
    let Err(OpenError::Io { source, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    fs.set_capacity(None);
    let (wal, _engine, recovery) = open(&fs);
    assert!(recovery.rot.is_empty());
    assert_eq!(entries(&wal, A).len() as u64, written);
}

#[test]
fn an_entry_that_rots_while_the_log_runs_is_reported_when_it_is_read() {
    let fs = LyingFs::new(12);
    let (wal, mut engine, _) = open(&fs);
    wal.append(A, vec![record(1, 0, &[0x77; 6000])], ignore()).unwrap();
    for index in 0..40 {
        wal.append(B, vec![record(1, index, &[1; 1000])], ignore()).unwrap();
        drain(&mut engine);
    }
    assert_eq!(entries(&wal, A).len(), 1);
    let name = fs.list().unwrap().into_iter().next().unwrap();
    let mut bytes = fs.content(&name).unwrap();
    let at = bytes.windows(100).position(|w| w == [0x77; 100]).unwrap();
    bytes[at + 50] = 0;
    fs.put(&name, &bytes);
    let read = wal.read_blocking(A, 0..1, 1);
    assert!(matches!(read, Err(ReadError::Rot { replica: A, index: 0, .. })), "{read:?}");
    // Its segment can't be emptied: it stays, the log goes on.
    for index in 40..300 {
        wal.append(B, vec![record(1, index, &[1; 1000])], ignore()).unwrap();
        drop(wal.purge(B, id(1, index)).unwrap());
        drain(&mut engine);
    }
    assert_eq!(wal.pinning()[0].replica, A);
    drop(wal.forget(A).unwrap());
    drain(&mut engine);
    drop(wal.save_vote(B, Bytes::new()).unwrap());
    drain(&mut engine);
    assert!(wal.stats().segments <= 2, "{:?}", wal.stats());
}
