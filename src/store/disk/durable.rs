//! What sled calls stable is made durable.
//!
//! sled 0.34 writes a buffer of its log, calls `sync_file_range` and takes the buffer for stable; from then on it reuses the
//! segments whose content the buffer replaces. `sync_file_range` writes neither the file's length nor its extents and
//! does not flush the disk's cache, so after a power cut the new place can be gone and the old one overwritten: data of
//! *earlier, acknowledged* checkpoints is lost. Syncing after the batch comes too late for that. So the symbol that sled
//! calls is defined here, and syncs for good.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

/// How often sled's buffers were synced through here in this process.
pub(super) fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Whether a sync has ever failed in this process. sled may not see it: it looks at `errno`, which is not ours to set, and where it
/// reads `ENOSYS` there it syncs once more, which succeeds although the pages are gone.
pub(super) fn has_failed() -> bool {
    FAILED.load(Ordering::Acquire)
}

/// Takes the place of libc's function of this name for all that is linked into this program (only sled calls it).
#[allow(unsafe_code, reason = "the only way to make sled 0.34.7 sync before it reuses what it has replaced")]
#[cfg(target_os = "linux")]
// SAFETY: the signature is that of libc's function, whose contract (what was written is on its way to the disk) is kept.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(fd: i32, _offset: i64, _bytes: i64, _flags: u32) -> i32 {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller's descriptor is open for the time of the call; it is not kept.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    match rustix::fs::fdatasync(file) {
        Ok(()) => 0,
        Err(_) => {
            FAILED.store(true, Ordering::Release);
            -1
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::AsRawFd;

    use super::super::db::{Bad, Database};
    use super::*;

    const CHILD: &str = "PLAYHEAD_TEST_SYNC_FAILS";

    #[test]
    fn a_sync_that_failed_once_fails_every_database_for_good() {
        if std::env::var_os(CHILD).is_some() {
            let folder = tempfile::tempdir().unwrap();
            let db = Database::open(&folder.path().join("live"), 1 << 20, 500).unwrap();
            assert_eq!(db.sync(), Ok(()));
            // Pipes can't be synced.
            let (pipe, _) = std::io::pipe().unwrap();
            assert_eq!(sync_file_range(pipe.as_raw_fd(), 0, 0, 0), -1);
            assert!(matches!(db.sync(), Err(Bad::Failed(_))));
            assert!(matches!(db.read(|| Ok(())), Err(Bad::Failed(_))));
            return;
        }
        // A process of its own: no other test shall meet it.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "store::disk::durable::tests::a_sync_that_failed_once_fails_every_database_for_good";
        assert!(child.args(["--exact", name]).env(CHILD, "1").status().unwrap().success());
    }
}
