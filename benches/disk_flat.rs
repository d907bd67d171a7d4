//! Disk use over 40 checkpoint cycles while history grows: live must stay flat, the archive may grow with what is in it.
//!
//! Each cycle rewrites all images of all replicas, adds history to each and changes some of the old rows, then moves them to the archive.
//! `PLAYHEAD_CYCLES` (40), `PLAYHEAD_CYCLE_MS` (500: sled collects its garbage meanwhile), `PLAYHEAD_REPLICAS` (8), and of each
//! `PLAYHEAD_IMAGES` (480, 3 KB each), `PLAYHEAD_NEW_ROWS` (400), `PLAYHEAD_CHANGED_ROWS` (200). Ends with 1 if live grew by more
//! than half after the tenth cycle.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use playhead::ambient::SystemClock;
use playhead::ids::ReplicaId;
use playhead::store::{Checkpoint, CoolBudget, DiskStore, Haste, Options, Store, rewrite};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn bytes(rng: &mut StdRng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.random()).collect()
}

/// Rows of a replica: the key and the value's length.
type Rows = BTreeMap<Vec<u8>, usize>;

fn checkpoint(rng: &mut StdRng, generation: u64, rows: &mut Rows) -> Checkpoint {
    let images =
        (0..number("PLAYHEAD_IMAGES", 480)).map(|n| (n.to_be_bytes().to_vec(), Some(bytes(rng, 3000)))).collect();
    let mut changes = BTreeMap::new();
    let old: Vec<Vec<u8>> = rows.keys().cloned().collect();
    let (new, changed) = (number("PLAYHEAD_NEW_ROWS", 400), number("PLAYHEAD_CHANGED_ROWS", 200));
    for n in 0..new + changed {
        let key = match old.is_empty() || n < new {
            // Of some account, newest first: anywhere in the key space.
            true => [rng.random::<u64>().to_be_bytes(), (u64::MAX - generation).to_be_bytes()].concat(),
            false => old[rng.random_range(0..old.len())].clone(),
        };
        let len = rng.random_range(60..400);
        rows.insert(key.clone(), len);
        changes.insert(key, Some(bytes(rng, len)));
    }
    Checkpoint { generation, header: vec![0; 200], images, rows: changes.into_iter().collect() }
}

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = Options::new(folder.path().join("store"));
    let store = DiskStore::open(options.clone(), Arc::new(SystemClock::new()), &[]).unwrap().store;
    let mut rng = StdRng::seed_from_u64(1);
    let replicas = number("PLAYHEAD_REPLICAS", 8);
    let mut model: BTreeMap<u64, Rows> = (1..=replicas).map(|replica| (replica, Rows::new())).collect();
    for replica in model.keys() {
        store.create(ReplicaId(*replica)).unwrap();
    }
    println!(
        "cycle  live MB  archive MB | images MB  rows MB  rows archived | live/images  archive/rows  batch+sync ms"
    );
    let images = (replicas * number("PLAYHEAD_IMAGES", 480) * 3008) as f64;
    let (mut tenth, mut last) = (0, 0);
    for cycle in 1..=number("PLAYHEAD_CYCLES", 40) {
        let begun = Instant::now();
        let mut spent = Duration::ZERO;
        for (replica, rows) in &mut model {
            let new = Arc::new(checkpoint(&mut rng, cycle, rows));
            let started = Instant::now();
            store.checkpoint(vec![(ReplicaId(*replica), new, Haste::Patient)]).remove(0).unwrap();
            spent += started.elapsed();
            while !store.cool(ReplicaId(*replica), CoolBudget::default()).unwrap().done {}
        }
        let pause = Duration::from_millis(number("PLAYHEAD_CYCLE_MS", 500));
        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
        let usage = store.usage().unwrap();
        let rows: usize = model.values().flatten().map(|(key, len)| key.len() + len).sum();
        let archived: u64 = usage.replicas.values().map(|replica| replica.archived_rows).sum();
        let mb = |bytes: f64| bytes / 1e6;
        println!(
            "{cycle:5} {:8.1} {:11.1} | {:9.1} {:8.1} {archived:14} | {:11.2} {:13.2} {:14.1}",
            mb(usage.live_bytes as f64),
            mb(usage.archive_bytes as f64),
            mb(images),
            mb(rows as f64),
            usage.live_bytes as f64 / images,
            usage.archive_bytes as f64 / rows.max(1) as f64,
            spent.as_secs_f64() * 1e3 / replicas as f64,
        );
        last = usage.live_bytes;
        if cycle == 10 {
            tenth = last;
        }
    }
    drop(store);
    let (before, after) = rewrite(&options).unwrap();
    println!("rewritten: {:.1} MB -> {:.1} MB", before as f64 / 1e6, after as f64 / 1e6);
    if tenth > 0 && last > tenth + tenth / 2 {
        println!("live is not flat: {tenth} bytes after 10 cycles, {last} at the end");
        std::process::exit(1);
    }
}
