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
/// do at a time. It gets no more of a processor than it would, and takes it from nobody for longer. Threads that it starts are to begin with
/// [`run_as_usual`]: they would run promptly, too.
///
/// Linux lets a thread choose its slice from 6.12 on (`sched_runtime` of `sched_setattr(2)`, and `Documentation/scheduler/sched-eevdf.rst`
/// there), to 0.1 ms, where it is 0.7 ms and more else. Elsewhere, and where it is refused, all stays as it was.
pub fn run_promptly() {
    #[cfg(target_os = "linux")]
    choose_slice(PROMPT_SLICE_NS);
}

/// Has the calling thread run for as long at a time as any does, whoever has started it.
pub fn run_as_usual() {
    #[cfg(target_os = "linux")]
    choose_slice(scheduled::USUAL_SLICE);
}

#[cfg(target_os = "linux")]
fn choose_slice(nanoseconds: u64) {
    if let Err(error) = scheduled::choose_slice(nanoseconds) {
        tracing::debug!(%error, "a thread could not choose its slice of the processor");
    }
}

/// How the system schedules the calling thread.
#[cfg(target_os = "linux")]
mod scheduled {
    use std::io;

    /// What says that a thread has no slice of its own choice.
    pub(super) const USUAL_SLICE: u64 = 0;

    /// `struct sched_attr` of `sched_setattr(2)`, as the kernel has had it from the beginning; it tells versions apart by their size.
    #[repr(C)]
    #[derive(Debug, Default)]
    pub(super) struct Attributes {
        size: u32,
        pub(super) policy: u32,
        flags: u64,
        pub(super) nice: i32,
        pub(super) priority: u32,
        /// Of a thread without a deadline: its slice in nanoseconds; 0 where the kernel knows none.
        pub(super) runtime: u64,
        deadline: u64,
        period: u64,
    }

    const SIZE: u32 = size_of::<Attributes>() as u32;
    const _: () = assert!(SIZE == 48);

    fn succeeded(answer: libc::c_long) -> io::Result<()> {
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[allow(unsafe_code, reason = "neither the standard library nor rustix has this call")]
    pub(super) fn attributes() -> io::Result<Attributes> {
        let mut attributes = Attributes { size: SIZE, ..Attributes::default() };
        // SAFETY: of the calling thread (0), into a struct of the size that is told, which outlives the call.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) })?;
        Ok(attributes)
    }

    /// Leaves policy, priority and niceness as they are. A kernel that knows no slices takes no notice.
    #[allow(unsafe_code, reason = "neither the standard library nor rustix has this call")]
    pub(super) fn choose_slice(nanoseconds: u64) -> io::Result<()> {
        let attributes = Attributes { size: SIZE, runtime: nanoseconds, ..attributes()? };
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

    /// Where the kernel lets threads choose their slice: by 6.12, for those that share the processor by their niceness.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_runs_promptly_has_a_short_slice_and_is_otherwise_what_it_was() {
        const SHARES: [u32; 2] = [libc::SCHED_OTHER as u32, libc::SCHED_BATCH as u32];
        let read = || scheduled::attributes().expect("was read before");
        let rest = |of: &scheduled::Attributes| (of.policy, of.nice, of.priority);
        let compare = || {
            let before = match scheduled::attributes() {
                Ok(before) if SHARES.contains(&before.policy) && before.runtime > 0 => before,
                none => return eprintln!("threads choose no slices here: {none:?}"),
            };
            assert_ne!(before.runtime, PROMPT_SLICE_NS);
            run_promptly();
            let after = read();
            assert_eq!((rest(&after), after.runtime), (rest(&before), PROMPT_SLICE_NS));
            let started = std::thread::spawn(move || {
                run_as_usual();
                read()
            });
            let started = started.join().expect("no panic");
            assert_eq!((rest(&started), started.runtime), (rest(&before), before.runtime));
        };
        std::thread::scope(|threads| threads.spawn(compare).join().expect("no panic"));
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
