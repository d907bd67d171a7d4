//! The dialling side of one lane to one node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::ids::NodeId;
use crate::proto::link::v1 as wire;
use crate::raft::LinkError;
use crate::telemetry::Metrics;
use crate::versions::{ClusterVersion, Spoken};

use super::handshake;
use super::transport::{CONNECT_TIMEOUT, chain, connect};
use super::{Book, Gone, Lane, LinkConfig};

/// Bytes that may wait on one lane to one node.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Frames and bytes after which a message is full.
const MESSAGE_FRAMES_MAX: usize = 1024;
const MESSAGE_BYTES: usize = 1 << 20;
/// Waits before connecting again: from, to.
const BACKOFF_MS: (u64, u64) = (50, 1000);

/// How long it may take to find out that nothing listens.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// Why an answer will not come.
type Broken = Arc<str>;

/// Something to be sent.
pub(super) struct Outgoing {
    pub(super) frame: Bytes,
    /// Where the answer goes; `None` when there is none.
    pub(super) answer: Option<oneshot::Sender<Result<Bytes, Broken>>>,
}

/// What waits to be sent on a lane.
pub(super) struct Queue {
    sender: mpsc::Sender<Outgoing>,
    bytes: AtomicUsize,
    up: AtomicBool,
}

pub(super) fn queue(frames_max: usize) -> (Arc<Queue>, mpsc::Receiver<Outgoing>) {
    let (sender, receiver) = mpsc::channel(frames_max);
    (Arc::new(Queue { sender, bytes: AtomicUsize::new(0), up: AtomicBool::new(false) }), receiver)
}

impl Queue {
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Queues it, unless that would leave less than the `eighths` of the places that are kept for others.
    pub(super) fn push(&self, to: NodeId, eighths: usize, outgoing: Outgoing) -> Result<(), LinkError> {
        if !self.is_up() {
            return Err(LinkError::Unreachable { node: to, why: "the lane is not connected".to_string() });
        }
        if eighths > 0 && self.sender.capacity() <= self.sender.max_capacity() / 8 * eighths {
            return Err(LinkError::Overloaded { node: to });
        }
        let bytes = outgoing.frame.len();
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(LinkError::Overloaded { node: to });
        }
        self.sender.try_send(outgoing).map_err(|error| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => LinkError::Overloaded { node: to },
                mpsc::error::TrySendError::Closed(_) => {
                    LinkError::Unreachable { node: to, why: "the lane is closed".to_string() }
                }
            }
        })
    }
}

/// Requests that wait for their answers.
type Pending = Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, Broken>>>>;

/// Keeps one lane connected.
pub(super) struct Dialer {
    pub(super) config: LinkConfig,
    pub(super) book: Arc<Book>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) node: NodeId,
    pub(super) lane: Lane,
    pub(super) queue: Arc<Queue>,
    /// Where it is told that nothing listens there.
    pub(super) gone: Arc<Gone>,
}

/// A lane after its handshake.
struct Open {
    sender: mpsc::Sender<wire::LaneMessage>,
    answers: Streaming<wire::LaneMessage>,
    /// What the other node speaks.
    spoken: Spoken,
}

impl Dialer {
    /// Connects, carries, and connects again, until stopped.
    pub(super) async fn run(self, mut receiver: mpsc::Receiver<Outgoing>, stop: CancellationToken) {
        let seed = self.config.seed ^ self.node.0.rotate_left(16) ^ self.lane as u64;
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut failures: u32 = 0;
        let mut told = String::new();
        while !stop.is_cancelled() {
            let opened = tokio::select! {
                () = stop.cancelled() => break,
                opened = self.open() => opened,
            };
            let why = match opened {
                Ok(open) => {
                    failures = 0;
                    told.clear();
                    self.carry_until_broken(open, &mut receiver, &stop).await
                }
                Err(why) => why,
            };
            if self.lane == Lane::Control && !stop.is_cancelled() && told != why {
                tracing::info!(to = %self.node, %why, "no link to another node; it is tried again and again");
                told = why;
            }
            if matches!(self.lane, Lane::Control | Lane::Pulse) && !stop.is_cancelled() && self.is_refused().await {
                self.gone.tell(self.node);
            }
            let (least, most) = BACKOFF_MS;
            let wait = (least << failures.min(6)).min(most);
            failures += 1;
            let wait = Duration::from_millis(random.random_range(wait / 2..=wait));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        receiver.close();
        self.drop_waiting(&mut receiver, &Arc::from("the link stops"));
    }

    /// Whether nothing listens at the other node's address: its machine says so.
    async fn is_refused(&self) -> bool {
        let Some(address) = self.book.link_address(self.node) else { return false };
        let asked = self.config.dialling.net.is_refused(&address);
        tokio::time::timeout(PROBE_TIMEOUT, asked).await.unwrap_or(false)
    }

    async fn open(&self) -> Result<Open, String> {
        let address = self.book.link_address(self.node).ok_or("its address is not known")?;
        let mut client = connect(&address, &self.config.dialling).await?;
        let (sender, receiver) = mpsc::channel(2);
        let hello = self.config.me.hello(self.node, self.lane);
        let first = wire::LaneMessage { hello: Some(hello), ..Default::default() };
        sender.try_send(first).map_err(|_| "a new channel has room")?;
        let call = async {
            let mut answers = client.lane(ReceiverStream::new(receiver)).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, tonic::Status>((answers, first))
        };
        let answered = tokio::time::timeout(CONNECT_TIMEOUT, call).await;
        let answered = answered.map_err(|_| format!("{address} didn't answer the handshake in time"))?;
        let (answers, first) = answered.map_err(|status| format!("{address}: {}", chain(&status)))?;
        let first = first.unwrap_or_default();
        if let Some(refusal) = first.refusal {
            if refusal.reason() == wire::refusal::Reason::ClusterVersion {
                // Who refuses has not shown who it is: this is enough to stop for, and not to be written down.
                self.config.me.versions.be_told(ClusterVersion(refusal.cluster_version));
            }
            if refusal.reason() == wire::refusal::Reason::Removed {
                // The same holds for this.
                self.config.me.removed_told.send_replace(true);
            }
            return Err(format!("{address} refused: {}", refusal.detail.chars().take(300).collect::<String>()));
        }
        let welcome = first.welcome.ok_or_else(|| format!("{address} didn't answer the handshake"))?;
        let seen = self.book.generation(self.node);
        let spoken = handshake::judge_welcome(&self.config.me, self.node, seen, &welcome)
            .map_err(|why| format!("{address} {why}"))?;
        Ok(Open { sender, answers, spoken })
    }

    /// Gives the reason why the lane broke.
    async fn carry_until_broken(
        &self,
        open: Open,
        receiver: &mut mpsc::Receiver<Outgoing>,
        stop: &CancellationToken,
    ) -> String {
        let pending: Pending = Mutex::default();
        self.queue.up.store(true, Ordering::Relaxed);
        self.metrics.link_lanes_up.inc();
        let why = tokio::select! {
            () = stop.cancelled() => "the link stops".to_string(),
            why = self.write(open.sender, receiver, &pending) => why,
            why = self.read(open.answers, &pending) => why,
            () = self.config.me.versions.outgrows(open.spoken) => {
                format!("the cluster's version was raised, and it speaks {}", open.spoken)
            }
        };
        self.queue.up.store(false, Ordering::Relaxed);
        self.metrics.link_lanes_up.dec();
        let broken: Broken = Arc::from(format!("the lane broke: {why}"));
        let mut waiting: Vec<_> = pending.lock().drain().collect();
        // In the order in which they were asked, so that a run can be repeated.
        waiting.sort_unstable_by_key(|(id, _)| *id);
        for (_, answer) in waiting {
            let _ = answer.send(Err(broken.clone()));
        }
        self.drop_waiting(receiver, &broken);
        why
    }

    fn drop_waiting(&self, receiver: &mut mpsc::Receiver<Outgoing>, why: &Broken) {
        while let Ok(outgoing) = receiver.try_recv() {
            self.queue.bytes.fetch_sub(outgoing.frame.len(), Ordering::Relaxed);
            if let Some(answer) = outgoing.answer {
                let _ = answer.send(Err(why.clone()));
            }
        }
    }

    async fn write(
        &self,
        sender: mpsc::Sender<wire::LaneMessage>,
        receiver: &mut mpsc::Receiver<Outgoing>,
        pending: &Pending,
    ) -> String {
        let frames_sent = self.metrics.link_frames_sent.get_or_create_owned(&self.lane.labels());
        let messages_sent = self.metrics.link_messages_sent.get_or_create_owned(&self.lane.labels());
        let mut waiting = Vec::with_capacity(MESSAGE_FRAMES_MAX);
        let mut next_id: u64 = 1;
        loop {
            if receiver.recv_many(&mut waiting, MESSAGE_FRAMES_MAX).await == 0 {
                return "the link stops".to_string();
            }
            let mut waiting = waiting.drain(..).peekable();
            while waiting.peek().is_some() {
                let mut message = wire::LaneMessage::default();
                let mut bytes = 0;
                {
                    let mut pending = pending.lock();
                    while let Some(outgoing) = waiting.next_if(|o| bytes == 0 || bytes + o.frame.len() <= MESSAGE_BYTES)
                    {
                        bytes += outgoing.frame.len();
                        let id = match outgoing.answer {
                            // A caller that has gone away already is not worth sending for.
                            Some(answer) if answer.is_closed() => {
                                continue;
                            }
                            Some(answer) => {
                                next_id += 1;
                                pending.insert(next_id, answer);
                                next_id
                            }
                            None => 0,
                        };
                        message.frames.push(wire::Frame { id, payload: outgoing.frame });
                    }
                }
                frames_sent.inc_by(message.frames.len() as u64);
                messages_sent.inc();
                let sent = message.frames.is_empty() || sender.send(message).await.is_ok();
                self.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
                if !sent {
                    return "the connection is gone".to_string();
                }
            }
        }
    }

    async fn read(&self, mut answers: Streaming<wire::LaneMessage>, pending: &Pending) -> String {
        loop {
            match answers.message().await {
                Ok(Some(message)) => {
                    let mut pending = pending.lock();
                    for frame in message.frames {
                        if let Some(answer) = pending.remove(&frame.id) {
                            let _ = answer.send(Ok(frame.payload));
                        }
                    }
                }
                Ok(None) => return "the other node closed it".to_string(),
                Err(status) => return chain(&status),
            }
        }
    }
}
