//! A stream of progress reports with a window.
//!
//! A [`ProgressStream`] takes batches of reports and gives back what came of each report. At most a window of batches is
//! unanswered at a time; [`send`](ProgressStream::send) waits for room. Behind it a lane (one task) keeps one gRPC stream to one
//! node: when that breaks, or is silent for longer than an attempt may take, the lane finds another node and sends all
//! unanswered batches again, in order. That is safe, because a report is idempotent by its view's sequence. Reports that the
//! cluster could not take for now (no leader, overload) are sent again within the batch's deadline, too.

mod lane;
mod open;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Error;
use super::call::Core;
use crate::proto::{BATCH_ITEMS_MAX, v1};
use crate::time::MonotonicMs;

/// What came of one report.
pub type ReportOutcome = Result<Reported, Error>;

/// A report that the cluster has answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    /// The answer.
    pub result: v1::ProgressResult,
    /// An attempt before the answered one may have been taken. Then `applied: false` may only say that it was.
    pub repeated: bool,
    /// The shard's state with it in, for reads that must see it (`ReadOptions::session`); empty where the node didn't say.
    pub revision: String,
}

impl Reported {
    /// It is only accepted: on the disk of the node that answered, until its shard has a leader again. Not an error, and not to be sent again.
    pub fn is_accepted(&self) -> bool {
        self.result.standing() == v1::WriteStanding::Accepted
    }
}

impl std::ops::Deref for Reported {
    type Target = v1::ProgressResult;

    fn deref(&self) -> &v1::ProgressResult {
        &self.result
    }
}

/// The most batches that a window may have.
const WINDOW_MAX: usize = 1_024;

/// How a stream works.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// The most batches unanswered at a time, 1 to 1,024; others are brought into it. Default: 8.
    pub window: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { window: 8 }
    }
}

/// A batch on its way to the lane.
pub(super) struct Batch {
    reports: Vec<v1::ProgressReport>,
    deadline: MonotonicMs,
    answer: oneshot::Sender<Vec<ReportOutcome>>,
    /// Its place in the window, given back when it is dropped.
    _place: OwnedSemaphorePermit,
}

/// A stream of progress reports. Dropped, its lane still sees to what was sent, and ends.
#[derive(Debug)]
pub struct ProgressStream {
    core: Arc<Core>,
    deadline_ms: u64,
    batches: mpsc::Sender<Batch>,
    window: Arc<Semaphore>,
    lane: JoinHandle<()>,
}

impl ProgressStream {
    pub(super) fn open(core: Arc<Core>, options: StreamOptions, deadline_ms: u64) -> Self {
        let window = options.window.clamp(1, WINDOW_MAX);
        let (batches, incoming) = mpsc::channel(window);
        let lane = tokio::spawn(lane::Lane::new(core.clone(), incoming, window).run());
        Self { core, deadline_ms, batches, window: Arc::new(Semaphore::new(window)), lane }
    }

    /// Sends 1 to 1,000 reports as one message as soon as the window has room. The [`Pending`] answer has one outcome for each
    /// report, in order, at the latest when the client's deadline has passed since this call began; dropping it loses only the
    /// answer.
    pub async fn send(&self, reports: Vec<v1::ProgressReport>) -> Result<Pending, Error> {
        if reports.is_empty() || reports.len() > BATCH_ITEMS_MAX {
            let got = reports.len();
            return Err(Error::field("reports", format!("has {got} items: 1 to {BATCH_ITEMS_MAX} are accepted")));
        }
        self.core.budget.earn(reports.len());
        let deadline = self.core.clock.monotonic().plus(self.deadline_ms);
        let wait = std::time::Duration::from_millis(self.deadline_ms);
        let reason = v1::ErrorReason::Unspecified;
        let full = || Error::Unavailable { attempts: 0, last: "the window stayed full".into(), reason };
        let place = tokio::time::timeout(wait, self.window.clone().acquire_owned()).await.map_err(|_| full())?;
        let place = place.expect("the window's semaphore is never closed");
        let (answer, pending) = oneshot::channel();
        let batch = Batch { reports, deadline, answer, _place: place };
        self.batches.send(batch).await.map_err(|_| lane_is_gone())?;
        Ok(Pending(pending))
    }

    /// Waits until everything sent has its answer, and ends the stream.
    pub async fn close(self) {
        drop(self.batches);
        // A lane that panicked has dropped its answers already, and whoever waited for them knows.
        let _ = self.lane.await;
    }
}

fn lane_is_gone() -> Error {
    Error::Unknown { attempts: 0, last: "the stream's task ended".into() }
}

/// The answer to a batch, to be awaited.
pub struct Pending(oneshot::Receiver<Vec<ReportOutcome>>);

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

impl Future for Pending {
    type Output = Result<Vec<ReportOutcome>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| lane_is_gone())
    }
}
