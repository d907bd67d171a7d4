//! How reports reach the cluster: by single calls, or through a playback gateway that gathers them into batches.

use tokio::sync::{mpsc, oneshot};

use crate::client::{Client, Error, ProgressStream, ReportOutcome, StreamOptions};
use crate::proto::v1;

/// Reports that wait for one stream.
const QUEUE_MAX: usize = 4_096;
/// Reports in a batch.
const BATCH_MAX: usize = 100;

type Answer = oneshot::Sender<ReportOutcome>;

/// A device's way to the cluster.
#[derive(Clone, Debug)]
pub(super) enum Reporter {
    Calls(Client),
    Stream(mpsc::Sender<(v1::ProgressReport, Answer)>),
}

impl Reporter {
    /// A stream of a gateway; its task ends when all its devices are gone.
    pub(super) fn stream(client: &Client, window: usize) -> Self {
        let (reports, incoming) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(gather(client.progress_stream(StreamOptions { window }), incoming));
        Self::Stream(reports)
    }

    /// Sends a report and waits for its answer.
    pub(super) async fn report(&self, report: v1::ProgressReport) -> ReportOutcome {
        match self {
            Self::Calls(client) => client.report(report).await,
            Self::Stream(reports) => {
                let (answer, outcome) = oneshot::channel();
                let sent = reports.send((report, answer)).await;
                sent.map_err(|_| Error::Unavailable {
                    attempts: 0,
                    last: "the gateway has ended".into(),
                    reason: v1::ErrorReason::Unspecified,
                })?;
                let gone = |_| Error::Unknown { attempts: 1, last: "the gateway has ended".into() };
                outcome.await.map_err(gone)?
            }
        }
    }
}

/// Takes whatever waits as one batch, as soon as the stream has room for it.
async fn gather(stream: ProgressStream, mut incoming: mpsc::Receiver<(v1::ProgressReport, Answer)>) {
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    while incoming.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        let (reports, answers): (Vec<_>, Vec<Answer>) = waiting.drain(..).unzip();
        match stream.send(reports).await {
            // Bounded by the stream's window.
            Ok(pending) => drop(tokio::spawn(async move { deliver(pending.await, answers) })),
            Err(e) => deliver(Err(e), answers),
        }
    }
    stream.close().await;
}

fn deliver(outcomes: Result<Vec<ReportOutcome>, Error>, answers: Vec<Answer>) {
    // A device that no longer waits has been stopped.
    match outcomes {
        Ok(outcomes) => outcomes.into_iter().zip(answers).for_each(|(outcome, answer)| drop(answer.send(outcome))),
        Err(e) => answers.into_iter().for_each(|answer| drop(answer.send(Err(e.clone())))),
    }
}
