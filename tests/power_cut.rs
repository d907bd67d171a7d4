//! Power cuts under continuous checkpoints, for real: an ext4 file system on a loop device is shut down (as root, by its own
//! ioctl: nothing more reaches the disk, the journal is not flushed) while a child process checkpoints; then it is mounted
//! again, the store opened, and compared with what the child had been told was durable.
//!
//! `PLAYHEAD_POWER_CUTS` cuts (66), `PLAYHEAD_POWER_CUT_GROUP` checkpoints to a sync (16), `PLAYHEAD_SEED` (1). Checkpoints have 55 KB
//! in the first half of the cuts and 1.1 MB in the second, where sled reuses space between two syncs (decision
//! 0004); `PLAYHEAD_POWER_CUT_SCALE` times 55 KB in all of them, if it is given. Where it cannot run it says `skipped`; with
//! `PLAYHEAD_REQUIRE_FAULTS=1` that is a failure.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use playhead::ambient::SystemClock;
use playhead::ids::ReplicaId;
use playhead::store::{
    Checkpoint, CheckpointRecord, Checkpointed, CoolBudget, DiskStore, ExportError, Exported, Haste, Options, Queues,
    Store, StoreHandle, Verdict,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const REPLICAS: u64 = 6;
/// Replicas from here on are made by snapshots.
const INSTALLED: u64 = 1000;
const CHILD: &str = "PLAYHEAD_POWER_CUT_CHILD";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// How many times 55 KB a checkpoint has now.
static SCALE: AtomicU64 = AtomicU64::new(1);

fn scale() -> u64 {
    SCALE.load(Ordering::Relaxed)
}

fn options(path: &Path) -> Options {
    Options { reserve_bytes: 0, live_cache_bytes: 16 << 20, archive_cache_bytes: 8 << 20, ..Options::new(path) }
}

fn mix(a: u64, b: u64, c: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f) ^ c;
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

/// What generation `g` makes of a row: unchanged (`None`), gone, or a value.
#[allow(clippy::option_option, reason = "a change to nothing is not no change")]
fn row_at(replica: u64, g: u64, n: u64) -> Option<Option<Vec<u8>>> {
    let h = mix(replica, g, n);
    match h % 16 {
        0 => Some(None),
        1 | 2 => Some(Some([g.to_be_bytes().to_vec(), vec![n as u8; (h >> 8) as usize % 600]].concat())),
        3 if n.is_multiple_of(50) => Some(Some(vec![g as u8; 9_000 + (h >> 8) as usize % 9_000])),
        _ => None,
    }
}

fn image_at(replica: u64, g: u64, n: u64) -> Option<Vec<u8>> {
    let h = mix(replica, g, n + 1_000_000);
    h.is_multiple_of(3).then(|| [g.to_be_bytes().to_vec(), vec![n as u8; 2000 + (h >> 8) as usize % 2000]].concat())
}

fn checkpoint(replica: u64, g: u64) -> Checkpoint {
    let key = |n: u64| mix(n, 7, 7).to_be_bytes().to_vec();
    Checkpoint {
        generation: g,
        header: format!("{replica} at {g}").into_bytes(),
        images: (0..30 * scale()).filter_map(|n| Some((key(n), Some(image_at(replica, g, n)?)))).collect(),
        rows: (0..400 * scale()).filter_map(|n| Some((key(n), row_at(replica, g, n)?))).collect(),
    }
}

type Content = (BTreeMap<Vec<u8>, Vec<u8>>, BTreeMap<Vec<u8>, Vec<u8>>);

/// All that a replica must hold at a generation.
fn content_at(replica: u64, generation: u64) -> Content {
    let (mut images, mut rows) = Content::default();
    for g in 1..=generation {
        let new = checkpoint(replica, g);
        for (map, changes) in [(&mut images, new.images), (&mut rows, new.rows)] {
            for (key, value) in changes {
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
        }
    }
    (images, rows)
}

fn content_of(store: &dyn Store, replica: ReplicaId) -> Result<Content, ExportError> {
    let mut content = Content::default();
    if store.header(replica)?.is_some() {
        let mut export = store.export(replica, 60_000)?;
        while let Some(next) = export.next(1 << 16)? {
            match next {
                Exported::Images(images) => content.0.extend(images),
                Exported::Rows(rows) => content.1.extend(rows),
            }
        }
    }
    Ok(content)
}

fn say(line: &str) {
    // One write: the pipe keeps it whole, and it is there before the next step is taken.
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

fn say_done(what: &str, replica: u64, done: Checkpointed) {
    say(&format!("@ {what} {replica} {} {}", done.generation, done.checksum));
}

/// The process whose power is cut: does nothing unless it is started by the test below.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    SCALE.store(number("PLAYHEAD_POWER_CUT_SCALE", 1), Ordering::Relaxed);
    let opened = DiskStore::open(options(Path::new(&path)), Arc::new(SystemClock::new()), &[]).unwrap();
    let queues =
        Queues { checkpoints_a_sync_max: number("PLAYHEAD_POWER_CUT_GROUP", 16) as usize, ..Queues::default() };
    // What fails after the power was cut is seen by whoever waits for it.
    let on_fatal = Arc::new(|why: &str| eprintln!("the store has failed: {why}"));
    let (handle, _threads) = StoreHandle::spawn(Arc::new(opened.store), queues, on_fatal).unwrap();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let present = handle.replicas().await.unwrap();
        let writers = (1..=REPLICAS).map(|n| write_for_ever(handle.clone(), n, present.contains(&ReplicaId(n))));
        let installs = install_for_ever(handle.clone(), present.last().map_or(INSTALLED, |last| last.0.max(INSTALLED)));
        futures::future::join(futures::future::join_all(writers), installs).await;
    });
}

async fn write_for_ever(handle: StoreHandle, n: u64, present: bool) {
    let replica = ReplicaId(n);
    if !present {
        handle.create(replica).await.unwrap();
    }
    let mut generation = handle.header(replica).await.unwrap().map_or(0, |header| header.generation);
    loop {
        generation += 1;
        let new = Arc::new(checkpoint(n, generation));
        let done = loop {
            match handle.checkpoint(replica, Arc::clone(&new), Haste::Patient).await {
                Err(playhead::store::WriteError::Busy(_)) => tokio::task::yield_now().await,
                other => break other.unwrap(),
            }
        };
        say_done("checkpoint", n, done);
        handle.cool(replica, CoolBudget { bytes_moved_max: 10_000 }).await.unwrap();
    }
}

/// Copies the first replica to ever new ones; the one before the last is dropped.
async fn install_for_ever(handle: StoreHandle, last: u64) {
    for n in last + 1.. {
        let mut export = loop {
            match handle.export(ReplicaId(1), 60_000).await {
                Ok(export) => break export,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut install = handle.begin_install(ReplicaId(n)).await.unwrap();
        while let Some(next) = export.next(1 << 16).await.unwrap() {
            match next {
                Exported::Images(images) => install.put(images, Vec::new()).await.unwrap(),
                Exported::Rows(rows) => install.put(Vec::new(), rows).await.unwrap(),
            }
        }
        let (generation, header) = (export.header().generation, export.header().bytes.clone());
        drop(export);
        say_done("install", n, install.finish(generation, header).await.unwrap());
        say(&format!("@ drop {} 0 0", n - 1));
        handle.drop_replica(ReplicaId(n - 1)).await.unwrap();
    }
}

/// A file system that can lose its power.
struct Disk {
    image: PathBuf,
    mountpoint: PathBuf,
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {text}")) }
}

impl Disk {
    fn make(folder: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_string());
        }
        let disk = Self { image: folder.join("disk.img"), mountpoint: folder.join("disk") };
        File::create(&disk.image).and_then(|file| file.set_len(1 << 30)).map_err(|e| e.to_string())?;
        fs::create_dir(&disk.mountpoint).map_err(|e| e.to_string())?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mountpoint))
    }

    fn unmount(&self) -> Result<(), String> {
        run(Command::new("umount").arg(&self.mountpoint))
    }

    /// EXT4_IOC_SHUTDOWN without flushing the journal.
    #[allow(unsafe_code, reason = "the ioctl has no safe binding")]
    fn cut_power(&self) {
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(&self.mountpoint).unwrap();
        // SAFETY: the ioctl reads one u32 through the pointer, which `Setter` points at its own.
        unsafe {
            let ioctl = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH);
            rustix::ioctl::ioctl(&root, ioctl).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Best effort: whatever failed has been told already.
        let _ = self.unmount();
    }
}

/// Newest durable checkpoint by replica, as the child was told.
type Told = Arc<Mutex<BTreeMap<u64, CheckpointRecord>>>;

fn listen(child: &mut Child, told: Told) -> std::thread::JoinHandle<u64> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        let mut heard = 0;
        for line in lines.map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            let ["@", what, replica, generation, checksum] = words[..] else { continue };
            let [id, generation, checksum] = [replica, generation, checksum].map(|word| word.parse::<u64>().unwrap());
            let mut told = told.lock().unwrap();
            if what == "drop" {
                told.remove(&id);
            } else {
                told.insert(id, CheckpointRecord { replica: ReplicaId(id), generation, checksum });
                heard += 1;
            }
        }
        heard
    })
}

/// Compares the store with what was told; what is wrong, if anything.
fn check(folder: &Path, told: &Told) -> Result<usize, String> {
    let known: Vec<_> = told.lock().unwrap().values().copied().collect();
    let opened = DiskStore::open(options(folder), Arc::new(SystemClock::new()), &known).map_err(|e| e.to_string())?;
    let mut ahead = 0;
    for (replica, verdict) in opened.verdicts {
        let Verdict::Sound { generation } = verdict else { return Err(format!("{replica}: {verdict:?}")) };
        let generation = generation.unwrap_or(0);
        let record = told.lock().unwrap().get(&replica.0).copied();
        ahead += usize::from(record.is_some_and(|record| generation > record.generation));
        let source = if replica.0 > INSTALLED { 1 } else { replica.0 };
        let found = content_of(&opened.store, replica).map_err(|e| format!("{replica} at {generation}: {e}"))?;
        if found != content_at(source, generation) {
            return Err(format!("{replica} is not what it was at {generation}"));
        }
    }
    Ok(ahead)
}

#[test]
fn acknowledged_checkpoints_survive_power_cuts() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = match Disk::make(folder.path()) {
        Ok(disk) => disk,
        Err(reason) => {
            assert_ne!(number("PLAYHEAD_REQUIRE_FAULTS", 0), 1, "cannot run here: {reason}");
            println!("skipped ({reason})");
            return;
        }
    };
    let (cuts, seed) = (number("PLAYHEAD_POWER_CUTS", 66), number("PLAYHEAD_SEED", 1));
    println!("seed {seed}: PLAYHEAD_SEED={seed} PLAYHEAD_POWER_CUTS={cuts} cargo test --test power_cut -- --nocapture");
    let mut rng = StdRng::seed_from_u64(seed);
    let told = Told::default();
    let (mut bad, mut acknowledged, mut ahead, mut life) = (Vec::new(), 0, 0, 0);
    for cut in 1..=cuts {
        let wanted = number("PLAYHEAD_POWER_CUT_SCALE", if cut * 2 <= cuts { 1 } else { 20 });
        if SCALE.swap(wanted, Ordering::Relaxed) != wanted {
            // What was written so far can't be computed with another scale.
            told.lock().unwrap().clear();
            life += 1;
        }
        let store = disk.mountpoint.join(format!("node{life}/store"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, &store)
            .env("PLAYHEAD_POWER_CUT_SCALE", wanted.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let before: BTreeMap<_, _> = told.lock().unwrap().clone();
        let listener = listen(&mut child, Arc::clone(&told));
        while *told.lock().unwrap() == before && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        // When the power goes is what the seed decides, as far as it can.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..700_000)));
        disk.cut_power();
        let _ = child.kill();
        child.wait().unwrap();
        acknowledged += listener.join().unwrap();
        disk.unmount().unwrap();
        disk.mount().unwrap();
        match check(&store, &told) {
            Ok(more) => ahead += more,
            Err(what) => {
                println!("cut {cut}: {what}");
                bad.push((cut, what));
                told.lock().unwrap().clear();
                fs::remove_dir_all(&store).unwrap();
                life += 1;
            }
        }
        // Content is computed from the first generation on, so do not let it grow without end.
        if told.lock().unwrap().values().any(|record| record.generation > 400 / scale()) {
            told.lock().unwrap().clear();
            fs::remove_dir_all(&store).unwrap();
            life += 1;
        }
    }
    println!(
        "{cuts} power cuts, {acknowledged} checkpoints acknowledged, {ahead} found that were not yet; {} cuts bad",
        bad.len()
    );
    assert!(bad.is_empty(), "{bad:?}");
    assert!(acknowledged > cuts, "{acknowledged} checkpoints in {cuts} cuts");
}
