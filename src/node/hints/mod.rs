//! Hints: what devices said, and views that were let in, while their shard had no leader. Kept durably on the node that took it, and
//! handed off to the shard once it has a leader again.
//!
//! # Contract
//!
//! - What [`Hints::said`] and [`Hints::start`] have answered `Ok` survives this node's crash and restart, and is handed off (`handoff`)
//!   until the shard has taken it, for 24 h. It doesn't survive the loss of this node's disk: that is why it is *accepted*, not committed.
//! - Of each view the latest is kept, with the played stretches of those before it.
//! - What doesn't fit the bounds is refused before anything is written. After a write that failed nobody knows
//!   ([`NotKept::Unknown`]).
//! - Handing off is done until it is answered, and may be done twice: the shard tells by the view's sequence, by why it ended,
//!   and by request ids. So a record that is lost or comes back after damage does no more than that.
//!
//! # Invariants
//!
//! - Memory holds everything that the file does, so the file can be begun anew at any time.
//! - Records stand in the file in the order in which memory has changed: both are done under one lock.
//! - A damaged file never stops the node: what can be read is taken, the rest is told and kept aside. One that the disk doesn't give
//!   ends the start: it may be whole.
//! - A start that is said again is answered when it is on the disk, like the first time. Whether it is the same, and whether the view was
//!   stopped since, is decided under that lock.
//!
//! # Caveats
//!
//! Ages are counted by the process's stopwatch, and over a restart by the node's calendar: a calendar that jumps in between makes
//! hints older or younger. Where it goes back they are as new as can be.

mod book;
mod format;
pub(super) mod handoff;
mod journal;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::fs::Fs;
use crate::ids::{AccountId, RequestId, ViewId};
use crate::node::config::Config;
use crate::node::router::{Accepting, Patience};
use crate::raft::{Growth, Room};
use crate::telemetry::{Metrics, OutcomeLabels};
use crate::threads::Threads;
use crate::time::Clock;
use crate::view::{AccountCommand, ParkedStart, ParkedStop, ReportProgress, StartView, StopView};

use book::{Book, Full, Noted, Said};
use journal::{Journal, Opened};

pub use book::Bounds;

/// The most views of one account.
pub const ACCOUNT_VIEWS_MAX: usize = 64;
/// How long a hint is kept, in ms.
pub const KEEP_MS: u64 = 24 * 3600 * 1000;
/// Bytes that may wait to be written.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// After a failed write it is waited so long before a new file is tried.
const MEND: Duration = Duration::from_secs(2);

/// Why a hint was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// Too much is kept already, or the disk has no room: nothing was kept.
    Full,
    /// The disk doesn't take it: nothing was kept.
    Broken,
    /// The write failed, or the node stops: it may be kept.
    Unknown,
    /// A start of a view that was stopped, or by the name of another one: nothing was kept.
    Taken,
}

impl From<Full> for NotKept {
    fn from(why: Full) -> Self {
        match why {
            Full::Node | Full::Account => Self::Full,
            Full::Taken => Self::Taken,
        }
    }
}

/// What is kept here, for operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct HintsStatus {
    /// Views that wait to be handed off.
    #[n(0)]
    pub waiting: u64,
    /// How long ago the oldest of them came, in ms.
    #[n(1)]
    pub oldest_ms: u64,
    /// Places in the file that could not be read when this process began.
    #[n(2)]
    pub damaged: u64,
    /// Views whose hints were dropped since then: too old, or refused by their shard.
    #[n(3)]
    pub dropped: u64,
    /// The disk doesn't take hints.
    #[n(4)]
    pub broken: bool,
}

type Waits = oneshot::Sender<Result<(), NotKept>>;

struct State {
    book: Book,
    /// What waits to be written, in order.
    queue: Vec<(Vec<u8>, Option<Waits>)>,
    queued_bytes: usize,
    /// The last write failed.
    broken: bool,
}

struct Shared {
    state: Mutex<State>,
    news: Notify,
    clock: Arc<dyn Clock>,
    room: Arc<Room>,
    metrics: Arc<Metrics>,
    damaged: AtomicU64,
    dropped: AtomicU64,
}

/// The hints of a node. Cheap to clone.
#[derive(Clone)]
pub struct Hints {
    shared: Arc<Shared>,
}

/// Writes what is kept; to be run as one of the node's tasks.
pub(super) struct Writer {
    shared: Arc<Shared>,
    journal: Journal,
    keep_old: bool,
}

/// Takes up what the node's folder has, as the configuration says.
pub(super) async fn begin(
    fs: Arc<dyn Fs>,
    config: &Config,
    threads: &Threads,
    (clock, room, metrics): (Arc<dyn Clock>, Arc<Room>, Arc<Metrics>),
) -> io::Result<(Hints, Writer, Option<Accepting>)> {
    let bounds = Bounds {
        views: config.hints_views_max as usize,
        bytes: (config.hints_max_mib << 20).min(journal::LIVE_BYTES_MAX),
        account_views: ACCOUNT_VIEWS_MAX,
        keep_ms: KEEP_MS,
    };
    let opening = threads.blocking(move || Hints::open(fs.folder("hints")?, bounds, clock, room, metrics));
    let (hints, writer) = opening.await??;
    let patience = Patience { progress_ms: config.hints_progress_wait_ms, start_ms: config.hints_start_wait_ms };
    let accepting = config.hints_enabled.then(|| Accepting::new(hints.clone(), patience));
    Ok((hints, writer, accepting))
}

impl Hints {
    /// Takes up what is there. Blocks. A folder that can't be listed and a file that can't be read are errors; damage is none.
    pub(super) fn open(
        fs: Arc<dyn Fs>,
        bounds: Bounds,
        clock: Arc<dyn Clock>,
        room: Arc<Room>,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Self, Writer)> {
        let (journal, Opened { records, damaged, torn_bytes }) = Journal::open(fs)?;
        let mut book = Book::new(bounds);
        book.load(records, clock.wall(), clock.monotonic());
        if damaged > 0 {
            let waiting = book.count();
            tracing::error!(
                damaged,
                waiting,
                "the file of hints is damaged: what can be read is taken, the file kept aside"
            );
        } else if torn_bytes > 0 {
            tracing::info!(torn_bytes, "a last write of hints was not finished, and not acknowledged");
        }
        let state = State { book, queue: Vec::new(), queued_bytes: 0, broken: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            news: Notify::new(),
            clock,
            room,
            metrics,
            damaged: damaged.into(),
            dropped: 0.into(),
        });
        shared.gauge();
        let writer = Writer { shared: shared.clone(), journal, keep_old: damaged > 0 };
        Ok((Self { shared }, writer))
    }

    /// Keeps a report; whether it is the view's latest.
    pub async fn report(&self, account: &AccountId, report: &ReportProgress) -> Result<bool, NotKept> {
        self.said(account, Said::Report(report.clone())).await
    }

    /// Keeps a stop, sent under a request id.
    pub async fn stop(&self, account: &AccountId, id: Option<&RequestId>, stop: &StopView) -> Result<(), NotKept> {
        let fingerprint = AccountCommand::StopView(stop.clone()).fingerprint();
        let parked = ParkedStop { failed: stop.failed, request_id: id.cloned(), fingerprint };
        self.said(account, Said::Stop(stop.clone(), parked)).await.map(drop)
    }

    async fn said(&self, account: &AccountId, said: Said) -> Result<bool, NotKept> {
        let (wall, now) = (self.shared.clock.wall(), self.shared.clock.monotonic());
        let growth = if matches!(said, Said::Stop(..)) { Growth::None } else { Growth::Little };
        self.keep(growth, |book| book.said(account, &said, wall, now)).await
    }

    /// Keeps a view that is let in; how, and whether it had been before.
    pub async fn start(
        &self,
        account: &AccountId,
        id: Option<&RequestId>,
        start: &StartView,
        position_ms: Option<u64>,
    ) -> Result<(ParkedStart, bool), NotKept> {
        let (wall, now) = (self.shared.clock.wall(), self.shared.clock.monotonic());
        let parked = ParkedStart { start: start.clone(), position_ms, request_id: id.cloned(), age_ms: 0 };
        let mut let_in = (parked.clone(), false);
        let kept = self.keep(Growth::Much, |book| {
            let (noted, how) = book.start(account, parked, wall, now)?;
            let_in = how;
            Ok(noted)
        });
        kept.await?;
        Ok(let_in)
    }

    /// How a view was let in here that still waits to be handed off. It may not be on the disk.
    pub fn started(&self, account: &AccountId, view: &ViewId) -> Option<ParkedStart> {
        self.shared.state.lock().book.get(account, view)?.parked.start.clone()
    }

    async fn keep(&self, growth: Growth, note: impl FnOnce(&mut Book) -> Result<Noted, Full>) -> Result<bool, NotKept> {
        let kept = match self.note(growth, note) {
            Ok((is_latest, written)) => written.await.unwrap_or(Err(NotKept::Unknown)).map(|()| is_latest),
            Err(why) => Err(why),
        };
        self.shared.count(match kept {
            Ok(_) => "kept",
            Err(NotKept::Full | NotKept::Broken | NotKept::Taken) => "refused",
            Err(NotKept::Unknown) => "unknown",
        });
        kept
    }

    fn note(
        &self,
        growth: Growth,
        note: impl FnOnce(&mut Book) -> Result<Noted, Full>,
    ) -> Result<(bool, oneshot::Receiver<Result<(), NotKept>>), NotKept> {
        if !self.shared.room.level().admits(growth) {
            return Err(NotKept::Full);
        }
        let mut state = self.shared.state.lock();
        if state.broken {
            return Err(NotKept::Broken);
        }
        if state.queued_bytes > QUEUE_BYTES_MAX {
            return Err(NotKept::Full);
        }
        let noted = note(&mut state.book)?;
        let (tell, written) = oneshot::channel();
        state.queued_bytes += noted.body.len();
        state.queue.push((noted.body, Some(tell)));
        drop(state);
        self.shared.gauge();
        self.shared.news.notify_one();
        Ok((noted.is_latest, written))
    }

    /// What is kept here.
    pub fn status(&self) -> HintsStatus {
        let (state, now) = (self.shared.state.lock(), self.shared.clock.monotonic());
        HintsStatus {
            waiting: state.book.count() as u64,
            oldest_ms: state.book.oldest_ms(now),
            damaged: self.shared.damaged.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            broken: state.broken,
        }
    }
}

impl Shared {
    fn count(&self, outcome: &'static str) {
        self.metrics.hints.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    fn gauge(&self) {
        let (count, bytes) = {
            let state = self.state.lock();
            (state.book.count(), state.book.bytes())
        };
        self.metrics.hints_waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.metrics.hints_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if count == 0 {
            self.metrics.hints_oldest_seconds.set(0);
        }
    }

    /// Notes that a view's hints are done with.
    fn forget(&self, account: &AccountId, view: &ViewId, number: u64) -> bool {
        let mut state = self.state.lock();
        let Some(body) = state.book.forget(account, view, number) else { return false };
        state.queued_bytes += body.len();
        state.queue.push((body, None));
        drop(state);
        self.gauge();
        self.news.notify_one();
        true
    }
}

/// How much of the queue one batch takes.
fn batch(queue: &[(Vec<u8>, Option<Waits>)]) -> usize {
    let mut bytes = 0;
    let fits = |(body, _): &&(Vec<u8>, Option<Waits>)| {
        let room = bytes < format::BATCH_BYTES_MAX;
        bytes += body.len();
        room
    };
    queue.iter().take_while(fits).count()
}

/// One write.
enum Work {
    Append(Vec<Vec<u8>>),
    /// Everything anew.
    Replace(Vec<Vec<u8>>),
}

impl Writer {
    /// Writes until the node stops: all that waits with one sync.
    pub(super) async fn run(mut self, threads: Threads) {
        loop {
            let (work, waiting) = self.next();
            let Some(work) = work else {
                self.shared.news.notified().await;
                continue;
            };
            let (keep_old, anew) = (self.keep_old, matches!(work, Work::Replace(_)));
            let mut journal = self.journal;
            let done = threads.blocking(move || {
                let done = match work {
                    Work::Append(bodies) => journal.append(&bodies),
                    Work::Replace(bodies) => journal.replace(&bodies, keep_old),
                };
                (journal, done)
            });
            let Ok((journal, done)) = done.await else { return };
            self.journal = journal;
            if anew && done.is_ok() && std::mem::take(&mut self.keep_old) {
                tracing::warn!(name = journal::DAMAGED, "the damaged file of hints is kept aside");
            }
            let failed = done.as_ref().err().map(|_| NotKept::Unknown);
            let was_broken = std::mem::replace(&mut self.shared.state.lock().broken, failed.is_some());
            match done {
                Ok(()) if was_broken => tracing::info!("hints can be kept again"),
                Ok(()) => {}
                Err(error) if was_broken => tracing::debug!(%error, "hints still can't be written"),
                Err(error) => tracing::error!(%error, "hints can't be written: none are taken until that is mended"),
            }
            for tell in waiting {
                // Whoever waits no more has been told that it is unknown.
                let _ = tell.send(failed.map_or(Ok(()), Err));
            }
            if failed.is_some() {
                tokio::time::sleep(MEND).await;
            }
        }
    }

    /// What is to be written next, and who waits for it.
    fn next(&mut self) -> (Option<Work>, Vec<Waits>) {
        let mut state = self.shared.state.lock();
        if state.queue.is_empty() && !state.broken {
            return (None, Vec::new());
        }
        let anew = state.broken || self.journal.is_due(state.book.bytes());
        let mut queue = std::mem::take(&mut state.queue);
        if !anew {
            // What one batch doesn't take waits for the next.
            state.queue = queue.split_off(batch(&queue));
        }
        let (bodies, waiting): (Vec<Vec<u8>>, Vec<Option<Waits>>) = queue.into_iter().unzip();
        let waiting = waiting.into_iter().flatten().collect();
        state.queued_bytes = state.queue.iter().map(|(body, _)| body.len()).sum();
        if anew {
            // Memory has all that waits in it already.
            let (wall, now) = (self.shared.clock.wall(), self.shared.clock.monotonic());
            return (Some(Work::Replace(state.book.bodies(wall, now))), waiting);
        }
        (Some(Work::Append(bodies)), waiting)
    }
}
