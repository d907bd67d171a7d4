//! The system's clock and randomness, replaced for this whole process.
//!
//! What a library asks the system for by itself (the keys of a `HashMap`, a random election timeout, the date of an HTTP
//! answer, `Instant::now()` in a connection pool) would differ from run to run. So the two calls behind all of that are
//! answered here: the linker prefers a program's own `getrandom` and `clock_gettime` to the system's. Both are functions of the
//! seed and of virtual time.

use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

/// What the random numbers follow from.
static STATE: AtomicU64 = AtomicU64::new(0x5eed);
/// Virtual time, milliseconds.
static NOW_MS: AtomicU64 = AtomicU64::new(0);

/// The monotonic clock when virtual time is 0, seconds.
const BOOT_S: u64 = 100_000;
/// The calendar when virtual time is 0, seconds since 1970.
const EPOCH_S: u64 = 1_790_000_000;

/// From now on everything random in this process follows from `seed`.
pub(crate) fn seed(seed: u64) {
    STATE.store(seed ^ 0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
}

/// Sets virtual time, in milliseconds.
pub(crate) fn set_now(ms: u64) {
    NOW_MS.store(ms, Ordering::Relaxed);
}

/// Virtual time, in milliseconds.
pub(crate) fn now() -> u64 {
    NOW_MS.load(Ordering::Relaxed)
}

/// The calendar as it should be, in milliseconds since 1970.
pub(crate) fn wall() -> u64 {
    EPOCH_S * 1000 + now()
}

/// The machine's own stopwatch, in milliseconds: to tell how long a run took, and for nothing else.
pub(crate) fn real_ms() -> u64 {
    let mut at = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system writes into `at`, which lives until after the call.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut at) };
    u64::try_from(at.tv_sec).unwrap_or(0) * 1000 + u64::try_from(at.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The most processor time that a run may take, seconds: where virtual time stands still somebody spins.
const CPU_S_MAX: u64 = 180;

/// Has the system end this process when it has taken more than a run may.
pub(crate) fn limit_processor_time() {
    let limit = libc::rlimit { rlim_cur: CPU_S_MAX, rlim_max: CPU_S_MAX };
    // SAFETY: the system reads `limit`, which lives until after the call.
    unsafe { libc::setrlimit(libc::RLIMIT_CPU, &raw const limit) };
}

fn next_random() -> u64 {
    // SplitMix64, by Steele, Lea and Flood (2014).
    let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// In place of the system's.
///
/// # Safety
/// `buf` has room for `len` bytes, as with the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buf: *mut c_void, len: size_t, _flags: c_uint) -> ssize_t {
    let mut at = 0;
    while at < len {
        let bytes = next_random().to_le_bytes();
        let n = bytes.len().min(len - at);
        // SAFETY: `at + n <= len`, and the caller gave `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast::<u8>().add(at), n) };
        at += n;
    }
    ssize_t::try_from(len).unwrap_or(ssize_t::MAX)
}

/// In place of the system's.
///
/// # Safety
/// `at` points to a `timespec`, as with the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, at: *mut timespec) -> c_int {
    let ms = now();
    let base = if clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE { EPOCH_S } else { BOOT_S };
    // SAFETY: the caller gave a `timespec`.
    unsafe {
        (*at).tv_sec = i64::try_from(base + ms / 1000).unwrap_or(i64::MAX);
        (*at).tv_nsec = i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0);
    }
    0
}
