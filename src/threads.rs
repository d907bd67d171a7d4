//! Who does what would block: threads of its own, or, in a simulation, the one runtime that there is.
//!
//! A node has threads for its log, its store and its groups, and lets blocking work run apart from what must not wait. A
//! simulation has one thread, and everything on it happens in an order that its seed decides. So whoever starts a thread takes
//! a [`Threads`], as it takes a clock.
//!
//! **Contract.** Work that was handed over is carried out to its end, also when nobody waits for it any more.
//!
//! **Caveats.** As tasks nothing runs at the same time as anything else: what only goes wrong between two threads stays hidden.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};

/// How long what would block takes where nothing blocks.
pub trait Pace: Send + Sync + fmt::Debug {
    /// How long the next piece of work takes.
    fn next(&self) -> Duration;
}

/// Who does what would block.
#[derive(Clone, Debug, Default)]
pub enum Threads {
    /// Threads of its own.
    #[default]
    Own,
    /// Tasks of the runtime that asks, each piece of work after a while: for simulations.
    Tasks(Arc<dyn Pace>),
}

impl Threads {
    /// Has work done that may block. Needs a tokio runtime.
    pub fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        match self {
            Self::Own => tokio::task::spawn_blocking(work),
            Self::Tasks(pace) => {
                let wait = pace.next();
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    work()
                })
            }
        }
    }
}

/// How long a thread that [runs promptly](run_promptly) asks to run on before another's turn comes, in nanoseconds.
#[cfg(target_os = "linux")]
const PROMPT_SLICE_NS: u64 = 200_000;

/// Has the calling thread run sooner after it is woken, for turns that are shorter: for threads that others wait for, and that have little to
/// do at a time. It gets no more of a processor than it would, and takes it from nobody for longer.
///
/// Linux lets a thread choose its slice from 6.12 on (`sched_runtime` of `sched_setattr(2)`, and `Documentation/scheduler/sched-eevdf.rst`
/// there), to 0.1 ms, where it is some milliseconds else. Elsewhere, and where it is refused, all stays as it was.
pub fn run_promptly() {
    #[cfg(target_os = "linux")]
    if let Err(error) = scheduled::choose_slice(PROMPT_SLICE_NS) {
        tracing::debug!(%error, "a thread could not choose its slice of the processor");
    }
}

/// How the system schedules the calling thread.
#[cfg(target_os = "linux")]
mod scheduled {
    use std::io;

    /// `sched_attr`, as the kernel has had it from the beginning.
    const SIZE: u32 = size_of::<libc::sched_attr>() as u32;

    pub(super) const RESET_ON_FORK: u64 = libc::SCHED_FLAG_RESET_ON_FORK as u64;

    fn succeeded(answer: libc::c_long) -> io::Result<()> {
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[allow(unsafe_code, reason = "neither the standard library nor rustix has this call")]
    pub(super) fn attributes() -> io::Result<libc::sched_attr> {
        let mut attributes = libc::sched_attr {
            size: SIZE,
            sched_policy: 0,
            sched_flags: 0,
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: 0,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: of the calling thread (0), into a struct of the size that is told, which outlives the call.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) })?;
        Ok(attributes)
    }

    /// Leaves policy and niceness as they are, and threads that this one starts have no slice of their choice. A kernel that knows no slices
    /// takes no notice.
    #[allow(unsafe_code, reason = "neither the standard library nor rustix has this call")]
    pub(super) fn choose_slice(nanoseconds: u64) -> io::Result<()> {
        let mut attributes = attributes()?;
        attributes.sched_runtime = nanoseconds;
        attributes.sched_flags |= RESET_ON_FORK;
        // SAFETY: of the calling thread (0), from a struct of the size that it names, which outlives the call.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
    }
}

/// What one node has done apart from those of its threads that must not wait. Clones share its turns.
#[derive(Clone, Debug)]
pub struct Apart {
    threads: Threads,
    turn: Arc<Semaphore>,
}

impl Apart {
    /// By these threads.
    pub fn new(threads: Threads) -> Self {
        Self { threads, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Who does it.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Has work done that may block. Needs a tokio runtime.
    pub fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.threads.blocking(work)
    }

    /// Has work done that would keep a thread of calls or groups for long: one piece after the other, so that all of it together takes
    /// no more than one processor from them. Fails only where the work panics or the runtime ends.
    pub async fn long<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        // Never closed.
        let turn = Arc::clone(&self.turn).acquire_owned().await.ok();
        let in_turn = move || {
            // Kept to the end of the work, also when nobody waits for it any more.
            let _turn = turn;
            work()
        };
        self.threads.blocking(in_turn).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Counted(AtomicU64);

    impl Pace for Counted {
        fn next(&self) -> Duration {
            self.0.fetch_add(1, Ordering::Relaxed);
            Duration::ZERO
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_runs_promptly_has_a_short_slice_and_is_otherwise_what_it_was() {
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let rest = |of: &libc::sched_attr| (of.sched_policy, of.sched_nice, of.sched_priority);
                let before = scheduled::attributes().expect("read");
                assert_ne!(before.sched_runtime, PROMPT_SLICE_NS);
                scheduled::choose_slice(PROMPT_SLICE_NS).expect("chosen");
                let after = scheduled::attributes().expect("read");
                assert_eq!(rest(&after), rest(&before));
                // 0: a kernel before 6.12, which has no slices to choose.
                assert!(
                    [before.sched_runtime, PROMPT_SLICE_NS].contains(&after.sched_runtime),
                    "{}",
                    after.sched_runtime
                );
                assert!(after.sched_runtime == PROMPT_SLICE_NS || before.sched_runtime == 0);
                assert_eq!(after.sched_flags, before.sched_flags | scheduled::RESET_ON_FORK);
                let of_another =
                    std::thread::spawn(|| scheduled::attributes().expect("read")).join().expect("no panic");
                assert_eq!(rest(&of_another), rest(&before));
                assert_eq!(of_another.sched_runtime, before.sched_runtime, "whom it starts is scheduled as it was");
            });
        });
    }

    #[tokio::test]
    async fn as_a_task_work_stays_on_the_runtime_and_is_done_though_nobody_waits() {
        let pace = Arc::new(Counted::default());
        let threads = Threads::Tasks(pace.clone());
        let here = std::thread::current().id();
        let there = |threads: &Threads| threads.blocking(|| std::thread::current().id());
        assert_eq!(there(&threads).await.unwrap(), here);
        assert_ne!(there(&Threads::Own).await.unwrap(), here);
        let (tell, told) = tokio::sync::oneshot::channel();
        drop(threads.blocking(move || tell.send(())));
        assert!(told.await.is_ok());
        assert_eq!(pace.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn long_work_is_done_one_piece_after_the_other_also_when_nobody_waits_for_it() {
        let (apart, running) = (Apart::new(Threads::Own), Arc::new(AtomicU64::new(0)));
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let count = Arc::clone(&running);
        let mut first = Box::pin(apart.long(move || {
            count.fetch_add(1, Ordering::SeqCst);
            gone.recv().ok();
            count.fetch_sub(1, Ordering::SeqCst);
        }));
        assert!(futures::poll!(&mut first).is_pending());
        // It goes on by itself.
        drop(first);
        let count = Arc::clone(&running);
        let other = apart.clone();
        let second = tokio::spawn(async move { other.long(move || count.load(Ordering::SeqCst)).await });
        go.send(()).expect("the first one waits for it");
        assert_eq!(second.await.expect("a task").expect("done"), 0);
    }
}
