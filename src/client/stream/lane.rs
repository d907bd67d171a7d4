//! The task behind a stream: one gRPC stream at a time, to whichever node serves it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::super::call::Core;
use super::super::endpoints::Node;
use super::Batch;
use super::open::Open;
use crate::proto::v1::collection_service_client::CollectionServiceClient;
use crate::proto::{MESSAGE_BYTES_MAX, v1};
use crate::time::MonotonicMs;

/// A connected gRPC stream.
struct Link {
    node: Arc<Node>,
    out: mpsc::Sender<v1::ReportProgressStreamRequest>,
    answers: Streaming<v1::ReportProgressStreamResponse>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Link, (Arc<Node>, Status)>> + Send>>;

enum Wire {
    /// Nothing to send, or waiting to try again.
    Down {
        until: MonotonicMs,
    },
    Connecting(Connecting),
    Up(Box<Link>),
}

/// What woke the lane.
enum Woken {
    Batch(Option<Batch>),
    Connected(Result<Link, (Arc<Node>, Status)>),
    Answer(Result<Option<v1::ReportProgressStreamResponse>, Status>),
    Timer,
}

pub(super) struct Lane {
    core: Arc<Core>,
    incoming: mpsc::Receiver<Batch>,
    window: usize,
    /// No more batches will come.
    closed: bool,
    open: BTreeMap<u64, Open>,
    next_id: u64,
    wire: Wire,
    avoid: Option<usize>,
    failures: u32,
}

impl Lane {
    pub(super) fn new(core: Arc<Core>, incoming: mpsc::Receiver<Batch>, window: usize) -> Self {
        let wire = Wire::Down { until: MonotonicMs(0) };
        Self {
            core,
            incoming,
            window,
            closed: false,
            open: BTreeMap::new(),
            next_id: 1,
            wire,
            avoid: None,
            failures: 0,
        }
    }

    pub(super) async fn run(mut self) {
        while !(self.closed && self.open.is_empty()) {
            let sleep = self.step(self.core.clock.monotonic());
            match self.woken(sleep).await {
                Woken::Batch(Some(batch)) => {
                    let open = Open::new(batch, self.core.clock.monotonic());
                    self.open.insert(self.next_id, open);
                    self.next_id += 1;
                }
                Woken::Batch(None) => self.closed = true,
                Woken::Connected(Ok(link)) => self.wire = Wire::Up(Box::new(link)),
                Woken::Connected(Err((node, status))) => self.broken(&node, &status.to_string()),
                Woken::Answer(Ok(Some(answer))) => self.answered(answer),
                Woken::Answer(ended) => {
                    let why = ended.map_or_else(|status| status.to_string(), |_| "the node ended the stream".into());
                    if let Wire::Up(link) = &self.wire {
                        let node = link.node.clone();
                        self.broken(&node, &why);
                    }
                }
                Woken::Timer => {}
            }
        }
    }

    /// Does everything that is due, and says how long nothing more will be.
    fn step(&mut self, now: MonotonicMs) -> Duration {
        let late: Vec<u64> = self.open.iter().filter(|(_, o)| o.deadline() <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(open) = self.open.remove(&id) {
                open.finish();
            }
        }
        self.break_if_silent(now);
        match &self.wire {
            Wire::Down { until } if !self.open.is_empty() && *until <= now => self.connect(now),
            Wire::Up(_) => self.send_due(now),
            Wire::Down { .. } | Wire::Connecting(_) => {}
        }
        self.sleep(now)
    }

    fn sleep(&self, now: MonotonicMs) -> Duration {
        let silence = |open: &Open| match (&self.wire, open.sent_at()) {
            (Wire::Up(_), Some(sent)) => sent.plus(self.core.attempt_ms),
            (Wire::Up(_), None) => open.again_at,
            _ => open.deadline(),
        };
        let open = self.open.values().map(|o| o.deadline().min(silence(o))).min();
        let down = match &self.wire {
            Wire::Down { until } if !self.open.is_empty() => Some(*until),
            _ => None,
        };
        let next = open.into_iter().chain(down).min();
        // Waiting a millisecond at least keeps a coarse clock from making this spin.
        Duration::from_millis(next.map_or(3_600_000, |at| at.since(now).max(1)))
    }

    async fn woken(&mut self, sleep: Duration) -> Woken {
        let more = !self.closed;
        let wire = async {
            match &mut self.wire {
                Wire::Down { .. } => std::future::pending().await,
                Wire::Connecting(connecting) => Woken::Connected(connecting.await),
                Wire::Up(link) => Woken::Answer(link.answers.message().await),
            }
        };
        tokio::select! {
            woken = wire => woken,
            batch = self.incoming.recv(), if more => Woken::Batch(batch),
            () = tokio::time::sleep(sleep) => Woken::Timer,
        }
    }

    fn connect(&mut self, now: MonotonicMs) {
        let node = self.core.endpoints.pick(None, self.avoid, now);
        let (out, messages) = mpsc::channel(2 * self.window);
        let limit = Duration::from_millis(self.core.attempt_ms);
        self.wire = Wire::Connecting(Box::pin(async move {
            let mut client = CollectionServiceClient::new(node.channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let call = client.report_progress_stream(ReceiverStream::new(messages));
            match tokio::time::timeout(limit, call).await {
                Ok(Ok(answers)) => Ok(Link { node, out, answers: answers.into_inner() }),
                Ok(Err(status)) => Err((node, status)),
                Err(_) => Err((node, Status::unavailable("no stream in time"))),
            }
        }));
    }

    fn send_due(&mut self, now: MonotonicMs) {
        let Wire::Up(link) = &self.wire else { return };
        for (id, open) in self.open.iter_mut().filter(|(_, o)| o.is_due(now)) {
            let Ok(place) = link.out.try_reserve() else {
                // More than two windows wait to be sent: the node has stopped reading, and silence will break the stream.
                open.again_at = now.plus(self.core.attempt_ms);
                continue;
            };
            place.send(open.message(*id, now));
        }
    }

    fn answered(&mut self, answer: v1::ReportProgressStreamResponse) {
        if let Wire::Up(link) = &self.wire {
            link.node.is_well();
        }
        self.failures = 0;
        self.avoid = None;
        let now = self.core.clock.monotonic();
        let id = answer.batch_id;
        // An answer to a batch whose deadline has passed is nobody's.
        let Some(open) = self.open.get_mut(&id) else { return };
        if open.answered(&self.core, answer, now)
            && let Some(open) = self.open.remove(&id)
        {
            open.finish();
        }
    }

    fn break_if_silent(&mut self, now: MonotonicMs) {
        let Wire::Up(link) = &self.wire else { return };
        let oldest = self.open.values().filter_map(Open::sent_at).min();
        if oldest.is_some_and(|sent| now.since(sent) >= self.core.attempt_ms) {
            let node = link.node.clone();
            self.broken(&node, "the node did not answer in time");
        }
    }

    /// Leaves the node, and marks what was out to be sent again.
    fn broken(&mut self, node: &Arc<Node>, why: &str) {
        let now = self.core.clock.monotonic();
        node.is_sick(now);
        self.avoid = Some(node.index());
        self.failures = self.failures.saturating_add(1);
        self.open.values_mut().for_each(|open| open.lost(why));
        let others = (self.failures as usize) < self.core.endpoints.len();
        let wait_ms = if others { 0 } else { self.core.wait_ms(None, self.failures) };
        self.wire = Wire::Down { until: now.plus(wait_ms) };
    }
}
