//! The thread that groups run on.
//!
//! One current-thread runtime for all groups of a node: openraft spawns its tasks on the runtime that a group is started
//! on, and with up to some tens of active groups one thread beats many (no stealing, no wake-ups across cores). Nothing on
//! it may block; nothing on it calls the store or the disk.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::raft::ticks;
use crate::threads::{self, Threads};

/// The thread of all groups of one node. Cheap to clone; ends with [`RaftThread::end`].
#[derive(Clone, Debug)]
pub struct RaftThread {
    handle: Handle,
    owner: Arc<Mutex<Option<Owner>>>,
}

#[derive(Debug)]
struct Owner {
    stop: oneshot::Sender<()>,
    join: std::thread::JoinHandle<()>,
}

impl RaftThread {
    /// Starts the thread under `name`. Groups on it tick together, once in `heartbeat`; when that is zero, as each of them likes.
    pub fn spawn(name: &str, heartbeat: Duration) -> io::Result<Self> {
        // Of the threads on which it lets block what may.
        let runtime = Builder::new_current_thread().enable_all().on_thread_start(threads::as_usual).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let join = std::thread::Builder::new().name(name.to_string()).spawn(move || {
            ticks::together_here(heartbeat);
            // Also ends when the owner is gone without having said so.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { handle, owner: Arc::new(Mutex::new(Some(Owner { stop, join }))) })
    }

    /// Starts the thread under `name` as [`Self::spawn`] does, or stays on the calling runtime where there are no threads.
    pub fn start(name: &str, threads: &Threads, heartbeat: Duration) -> io::Result<Self> {
        match threads {
            Threads::Own => Self::spawn(name, heartbeat),
            Threads::Tasks(_) => Ok(Self::current()),
        }
    }

    /// Groups on the runtime that calls this: for simulations, where all is one thread.
    pub fn current() -> Self {
        Self { handle: Handle::current(), owner: Arc::new(Mutex::new(None)) }
    }

    /// The runtime.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `work` on the thread and gives its result here; `None` when the thread has ended.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.handle.spawn(work).await.ok()
    }

    /// Ends the thread; what still runs on it is dropped. Blocks until it has ended: not for runtime threads.
    pub fn end(&self) {
        let owner = self.owner.lock().take();
        if let Some(owner) = owner {
            let _ = owner.stop.send(());
            // A panic there was told where it happened.
            let _ = owner.join.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::{Turns, are_short_here};

    #[tokio::test]
    async fn the_threads_that_it_lets_block_take_usual_turns_while_its_own_are_short() {
        let thread = RaftThread::spawn("groups", Duration::ZERO).unwrap();
        let turns = Turns::of_threads();
        turns.set_short(true);
        let looked = thread.run(async move {
            turns.taker().look();
            (are_short_here(), tokio::task::spawn_blocking(are_short_here).await.unwrap())
        });
        let (here, blocking) = looked.await.unwrap();
        assert_ne!((here, blocking), (Some(true), Some(true)));
        assert_eq!(here.is_some(), blocking.is_some());
        assert_ne!(here, Some(false));
        tokio::task::spawn_blocking(move || thread.end()).await.unwrap();
    }
}
