//! What every store must do for readers of whole checkpoints.

use super::*;

fn read_all(export: &mut dyn Export) -> Result<(Vec<Pair>, Vec<Pair>), ExportError> {
    let (mut images, mut rows) = (Vec::new(), Vec::new());
    while let Some(next) = export.next(30)? {
        match next {
            Exported::Images(pairs) => images.extend(pairs),
            Exported::Rows(pairs) => rows.extend(pairs),
        }
    }
    Ok((images, rows))
}

pub(in crate::store) fn an_export_is_of_one_checkpoint_and_holds_off_the_next(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    store.create(B).unwrap();
    assert_eq!(store.export(A, 100).err(), Some(ExportError::Empty(A)));
    let images = (0..9).map(|n| put(&format!("i{n}"), "x")).collect();
    let rows_1 = (0..20).map(|n| put(&format!("k{n:02}"), "v")).collect();
    let first = Checkpoint { generation: 1, header: key("h"), images, rows: rows_1 };
    write(&*store, A, Arc::new(first)).unwrap();
    let mut export = store.export(A, 100).unwrap();
    assert_eq!((export.header().generation, &export.header().bytes), (1, &key("h")));
    assert_eq!(store.export(A, 100).err(), Some(ExportError::Busy(A)));
    assert_eq!(write(&*store, A, rows(2, vec![put("k00", "new")])), Err(WriteError::Busy(A)));
    write(&*store, B, rows(1, vec![])).unwrap();
    let (images, found) = read_all(&mut *export).unwrap();
    assert_eq!((images.len(), found.len()), (9, 20));
    assert!(images.is_sorted() && found.is_sorted() && found.contains(&pair("k00", "v")));
    drop(export);
    write(&*store, A, rows(2, vec![put("k00", "new")])).unwrap();
    assert_eq!(store.export(A, 100).unwrap().header().generation, 2);
}

pub(in crate::store) fn an_export_that_outlasts_its_lease_loses_it(rig: &mut impl Rig) {
    let clock = rig.clock();
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    write(&*store, A, rows(1, (0..20).map(|n| put(&format!("k{n:02}"), "v")).collect())).unwrap();
    let mut export = store.export(A, 100).unwrap();
    export.next(1).unwrap();
    clock.advance(100);
    // Nobody has asked for a checkpoint yet: going on is harmless.
    export.next(1).unwrap();
    clock.advance(99);
    assert_eq!(write(&*store, A, rows(2, vec![])), Err(WriteError::Busy(A)), "it went on");
    clock.advance(1);
    write(&*store, A, rows(2, vec![])).unwrap();
    assert_eq!(export.next(1), Err(ExportError::LeaseLost(A)));
    let mut second = store.export(A, 100).unwrap();
    drop(export);
    assert_eq!(write(&*store, A, rows(3, vec![])), Err(WriteError::Busy(A)));
    assert_eq!(read_all(&mut *second).unwrap().1.len(), 20);
    drop(second);
    assert!(matches!(store.export(A, 100), Err(ExportError::Busy(A))), "a checkpoint waits");
    write(&*store, A, rows(3, vec![])).unwrap();
    let mut third = store.export(A, 100).unwrap();
    store.drop_replica(A).unwrap();
    assert!(third.next(1).is_err());
}

pub(in crate::store) fn an_export_installs_as_the_same_replica(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    for generation in 1..12_u64 {
        let changes = (0..200_u64).filter(|n| (n + generation).is_multiple_of(7)).map(|n| {
            let value = (!(n + generation).is_multiple_of(21)).then(|| vec![generation as u8; 300]);
            (format!("k{n:03}").into_bytes(), value)
        });
        let images = vec![put(&format!("i{}", generation % 3), &format!("{generation}"))];
        let checkpoint = Checkpoint { generation, header: vec![], images, rows: changes.collect() };
        write(&*store, A, Arc::new(checkpoint)).unwrap();
        store.cool(A, CoolBudget::default()).unwrap();
    }
    let mut export = store.export(A, 1000).unwrap();
    let mut install = store.begin_install(B).unwrap();
    while let Some(next) = export.next(2000).unwrap() {
        match next {
            Exported::Images(images) => install.put(images, vec![]).unwrap(),
            Exported::Rows(rows) => install.put(vec![], rows).unwrap(),
        }
    }
    install.finish(export.header().generation, export.header().bytes.clone()).unwrap();
    assert!(!all_rows(&*store, A).is_empty());
    assert_eq!(all_rows(&*store, A), all_rows(&*store, B));
    assert_eq!(all_images(&*store, A), all_images(&*store, B));
}

fn broken_off(store: &dyn Store) -> u64 {
    store.counters().into_iter().find(|(name, _)| *name == "exports_broken_off").unwrap().1
}

pub(in crate::store) fn an_export_lasts_as_long_as_its_reader_goes_on(rig: &mut impl Rig) {
    let clock = rig.clock();
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    write(&*store, A, rows(1, (0..50).map(|n| put(&format!("k{n:02}"), "v")).collect())).unwrap();
    let mut export = store.export(A, 100).unwrap();
    let mut pieces = 0;
    while export.next(1).unwrap().is_some() {
        pieces += 1;
        clock.advance(99);
        assert_eq!(write(&*store, A, rows(2, vec![])), Err(WriteError::Busy(A)), "piece {pieces}");
    }
    assert!(pieces > 40, "{pieces}");
    // Whoever has read all of it and still needs it where it is goes on asking.
    for _ in 0..10 {
        clock.advance(99);
        assert_eq!(export.next(1), Ok(None));
        assert_eq!(write(&*store, A, rows(2, vec![])), Err(WriteError::Busy(A)));
    }
    clock.advance(100);
    write(&*store, A, rows(2, vec![])).unwrap();
    assert_eq!(export.next(1), Ok(None), "what was read to its end is whole");
    assert_eq!(broken_off(&*store), 0);
}

pub(in crate::store) fn an_urgent_checkpoint_goes_ahead_of_an_export(rig: &mut impl Rig) {
    let (store, _) = rig.open(&[]);
    store.create(A).unwrap();
    write(&*store, A, rows(1, (0..20).map(|n| put(&format!("k{n:02}"), "v")).collect())).unwrap();
    let urgent = |generation| {
        let answers = store.checkpoint(vec![(A, rows(generation, vec![put("k00", "new")]), Haste::Urgent)]);
        answers.into_iter().next().unwrap().map(|done| done.generation)
    };
    let mut export = store.export(A, 100).unwrap();
    export.next(1).unwrap();
    assert!(matches!(urgent(1), Err(WriteError::StaleGeneration { .. })));
    export.next(1).unwrap();
    assert_eq!(urgent(2), Ok(2));
    assert_eq!(export.next(1), Err(ExportError::LeaseLost(A)));
    assert_eq!(broken_off(&*store), 1);
    drop(export);
    assert!(matches!(store.export(A, 100), Err(ExportError::Busy(A))), "what follows comes first");
    write(&*store, A, rows(3, vec![put("k01", "new")])).unwrap();
    let mut export = store.export(A, 100).unwrap();
    assert_eq!(export.header().generation, 3);
    let (_, found) = read_all(&mut *export).unwrap();
    assert_eq!(found[..3], [pair("k00", "new"), pair("k01", "new"), pair("k02", "v")]);
    assert_eq!(urgent(4), Ok(4));
    assert_eq!(export.next(1), Ok(None), "what was read to its end is whole");
    assert_eq!(broken_off(&*store), 1);
}
