//! How long the machine's own disk takes for a write that must last, beside what the cluster has to say.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// From one write to the next: little beside what five nodes write.
const EVERY: Duration = Duration::from_millis(25);
const BLOCK: [u8; 4096] = [0x5a; 4096];
const MOST_US: u64 = 60_000_000;

/// Overwrites one block of one file and syncs it, again and again.
pub(crate) struct Disk {
    took: Arc<Mutex<Histogram<u64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// On a file in the folder for temporary ones, where the nodes' folders are too.
    pub(crate) fn begin() -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        write(&file)?;
        let took = Arc::new(Mutex::new(empty()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (took, stop) = (took.clone(), stop.clone());
            move || run(&file, &took, &stop)
        });
        Ok(Self { took, stop, thread: Some(thread) })
    }

    /// Microseconds of the syncs since it was asked last.
    pub(crate) fn take(&self) -> Histogram<u64> {
        std::mem::replace(&mut *self.took.lock(), empty())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the disk was not measured to the end: {panic:?}");
        }
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MOST_US, 3).unwrap_or_else(|error| unreachable!("fixed bounds: {error}"))
}

fn write(file: &File) -> io::Result<()> {
    file.write_all_at(&BLOCK, 0)?;
    file.sync_data()
}

fn run(file: &File, took: &Mutex<Histogram<u64>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        if let Err(error) = write(file) {
            eprintln!("the disk is not measured any more: {error}");
            return;
        }
        took.lock().saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(MOST_US));
        std::thread::sleep(EVERY);
    }
}
