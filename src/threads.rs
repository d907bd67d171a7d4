//! Who does what would block: threads of its own, or, in a simulation, the one runtime that there is.
//!
//! A node has threads for its log, its store and its groups, and lets blocking work run apart from what must not wait. A
//! simulation has one thread, and everything on it happens in an order that its seed decides. So whoever starts a thread takes
//! a [`Threads`], as it takes a clock.
//!
//! **Contract.** Work that was handed over is carried out to its end, also when nobody waits for it any more.
//!
//! **Caveats.** As tasks nothing runs at the same time as anything else: what only goes wrong between two threads stays hidden.

mod turns;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};

#[cfg(test)]
pub(crate) use turns::are_short_here;
pub(crate) use turns::as_usual;
pub use turns::{Taker, Turns};

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
