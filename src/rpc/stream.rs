//! The stream of progress reports: the hot path.
//!
//! A stream is one reader and one worker for each message at work, at most [`Limits::stream_messages`](super::Limits); then the
//! reader stops reading, and HTTP/2's flow control stops the sender. A message's reports go to the backend together, so that
//! those of one shard share an entry of its log, and are answered by one message. Answers leave in the order in which the
//! messages are done.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::backend::{Cluster, Failure, Within, Write};
use super::convert;
use super::fault::Fault;
use super::fields::Path;
use super::front::{Front, mismatch, standing};
use super::spread::Stretch;
use super::wish::revision_text;
use crate::ids::{AccountId, Revision, ShardId};
use crate::proto::{BATCH_ITEMS_MAX, v1};
use crate::telemetry::trace::TraceId;
use crate::view::{Answer, Envelope};

/// The answers of a stream.
pub(super) type Answers = Pin<Box<ReceiverStream<Result<v1::ReportProgressStreamResponse, Status>>>>;

/// All progress streams of a node.
pub(super) struct Streams {
    front: Arc<Front>,
    streams: Arc<Semaphore>,
    reports: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Streams {
    pub(super) fn new(front: Arc<Front>, stop: CancellationToken) -> Self {
        let streams = Arc::new(Semaphore::new(front.limits.streams));
        let reports = Arc::new(Semaphore::new(front.limits.stream_reports));
        Self { front, streams, reports, stop }
    }

    /// Takes a stream into work, or refuses it.
    pub(super) fn open(
        &self,
        messages: Streaming<v1::ReportProgressStreamRequest>,
        trace: TraceId,
    ) -> Result<Answers, Status> {
        let full = |_| Fault::overloaded("too many progress streams are open on this node");
        let place = self.streams.clone().try_acquire_owned().map_err(full)?;
        let (answers, out) = mpsc::channel(self.front.limits.stream_messages);
        let reader = Reader {
            front: self.front.clone(),
            reports: self.reports.clone(),
            messages: Arc::new(Semaphore::new(self.front.limits.stream_messages)),
            stop: self.stop.clone(),
            answers,
            within: Within { timeout: self.front.limits.stream_deadline, trace, age_ms: None },
        };
        tokio::spawn(reader.run(messages, place));
        Ok(Box::pin(ReceiverStream::new(out)))
    }
}

type Answered = Result<v1::ReportProgressStreamResponse, Status>;

struct Reader {
    front: Arc<Front>,
    reports: Arc<Semaphore>,
    messages: Arc<Semaphore>,
    stop: CancellationToken,
    answers: mpsc::Sender<Answered>,
    /// Of each message.
    within: Within,
}

impl Reader {
    /// Reads until the client ends the stream, goes away, or the node stops. Messages at work are still answered.
    async fn run(self, mut messages: Streaming<v1::ReportProgressStreamRequest>, _place: OwnedSemaphorePermit) {
        loop {
            let Ok(place) = self.messages.clone().acquire_owned().await else { return };
            let message = tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.answers.closed() => return,
                message = messages.message() => message,
            };
            match message {
                Ok(Some(message)) => self.take(message, place).await,
                Ok(None) => return,
                Err(status) => {
                    // What can't be decoded ends the stream; the client may be gone already.
                    let _ = self.answers.send(Err(status)).await;
                    return;
                }
            }
        }
    }

    async fn take(&self, message: v1::ReportProgressStreamRequest, place: OwnedSemaphorePermit) {
        let batch_id = message.batch_id;
        match self.check(&message) {
            Ok(reports) => {
                let (front, answers, within) = (self.front.clone(), self.answers.clone(), self.within.clone());
                tokio::spawn(async move {
                    let answer = work(&front, message, within).await;
                    // A client that doesn't read its answers keeps its own places only, not everybody's.
                    drop(reports);
                    // The client may be gone.
                    let _ = answers.send(Ok(answer)).await;
                    drop(place);
                });
            }
            Err(fault) => {
                if fault.is_overload() {
                    self.front.spread.note(message.reports.len(), 0);
                }
                let fault = fault.spread(self.front.spread.draw());
                let answer =
                    v1::ReportProgressStreamResponse { batch_id, error: Some(fault.into_item()), ..Default::default() };
                let _ = self.answers.send(Ok(answer)).await;
            }
        }
    }

    /// Whether a message can be worked on now; its share of the reports at work.
    fn check(&self, message: &v1::ReportProgressStreamRequest) -> Result<OwnedSemaphorePermit, Fault> {
        let got = message.reports.len();
        if got == 0 || got > BATCH_ITEMS_MAX {
            return Err(Fault::field("reports", format!("has {got} items: 1 to {BATCH_ITEMS_MAX} are accepted")));
        }
        let share = u32::try_from(got).unwrap_or(u32::MAX);
        let full = |_| Fault::overloaded("too many reports are at work on this node");
        self.reports.clone().try_acquire_many_owned(share).map_err(full)
    }
}

/// One message: well-formed reports are proposed together, and every report has its result.
async fn work(
    front: &Front,
    message: v1::ReportProgressStreamRequest,
    within: Within,
) -> v1::ReportProgressStreamResponse {
    let batch_id = message.batch_id;
    let refuse = |fault: Fault| v1::ReportProgressStreamResponse {
        batch_id,
        error: Some(fault.into_item()),
        ..Default::default()
    };
    let Some(cluster) = front.backend.cluster() else { return refuse(Failure::NoCluster.into()) };
    let path = Path::from("reports");
    let mut results: Vec<Option<v1::ProgressResult>> = Vec::with_capacity(message.reports.len());
    let mut proposed: Vec<(usize, AccountId)> = Vec::with_capacity(message.reports.len());
    let mut envelopes: Vec<Envelope> = Vec::with_capacity(message.reports.len());
    for (i, report) in message.reports.into_iter().enumerate() {
        match convert::report(Path::At(&path, i), report) {
            Ok(envelope) => {
                proposed.extend(envelope.account().map(|account| (i, account.clone())));
                envelopes.push(envelope);
                results.push(None);
            }
            Err(fault) => results.push(Some(failed(fault))),
        }
    }
    let outcomes = if envelopes.is_empty() { Vec::new() } else { front.backend.propose(envelopes, within).await };
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(Failure::Overloaded))).count();
    front.spread.note(refused, outcomes.len() - refused);
    // The same for all that are refused of a message: they come back as one.
    let stretch = front.spread.draw();
    let mut revisions = Revisions::default();
    for ((i, account), outcome) in proposed.iter().zip(outcomes) {
        results[*i] = Some(result(&mut revisions, account, outcome, stretch));
    }
    let missing = || failed(Failure::Unknown.into());
    v1::ReportProgressStreamResponse {
        batch_id,
        results: results.into_iter().map(|r| r.unwrap_or_else(missing)).collect(),
        revisions: revisions.texts(cluster),
        error: None,
    }
}

fn failed(fault: Fault) -> v1::ProgressResult {
    v1::ProgressResult { error: Some(fault.into_item()), ..Default::default() }
}

fn result(
    revisions: &mut Revisions,
    account: &AccountId,
    outcome: Result<Write, Failure>,
    stretch: Stretch,
) -> v1::ProgressResult {
    let write = match outcome {
        Ok(write) => write,
        Err(failure) => return failed(Fault::from(failure).spread(stretch)),
    };
    match &write.answer {
        Answer::Progressed(progressed) => {
            // What is only accepted is in no state.
            let revision_index = if write.accepted { 0 } else { revisions.note(write.shard, write.revision) };
            let standing = standing(write.accepted).into();
            v1::ProgressResult { revision_index, standing, ..convert::progress_result(progressed) }
        }
        Answer::Rejected(rejection) => failed(Fault::rejected(account, rejection)),
        _ => {
            let status = mismatch("ReportProgress");
            failed(Fault::internal(status.message()))
        }
    }
}

/// The newest revision of each shard that a message touched.
#[derive(Default)]
struct Revisions {
    shards: Vec<(ShardId, Revision)>,
    index: BTreeMap<ShardId, u32>,
}

impl Revisions {
    fn note(&mut self, shard: ShardId, revision: Revision) -> u32 {
        let shards = &mut self.shards;
        let index = *self.index.entry(shard).or_insert_with(|| {
            shards.push((shard, revision));
            u32::try_from(shards.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some((_, newest)) = self.shards.get_mut(index as usize) {
            *newest = revision.max(*newest);
        }
        index
    }

    fn texts(&self, cluster: Cluster) -> Vec<String> {
        self.shards.iter().map(|(shard, revision)| revision_text(cluster, *shard, *revision)).collect()
    }
}
