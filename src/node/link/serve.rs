//! The listening side of all lanes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::ids::NodeId;
use crate::node::folder::Charter;
use crate::node::join::MEMBERS_TOLD_MAX;
use crate::proto::link::v1 as wire;
use crate::proto::link::v1::link_service_server::{LinkService, LinkServiceServer};
use crate::telemetry::{Metrics, OutcomeLabels};

use super::handshake::{WIRE_VERSION, endpoints, judge, spoken};
use super::transport::MESSAGE_BYTES_MAX;
use super::{Book, Lane, Me, Peer, Receive, Runtimes};

/// Requests of one lane that may be worked on at once; more are not read until some are answered.
const IN_FLIGHT_MAX: usize = 8192;
/// Answers in one message.
const ANSWERS_MAX: usize = 1024;
const ANSWER_BYTES: usize = 1 << 20;
/// How long a caller may take for its first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// The gRPC service that the link's listener serves. Its streams end when `stop` is cancelled.
pub fn service<R: Receive>(
    me: Arc<Me>,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    receive: Arc<R>,
    runtimes: Runtimes,
    stop: CancellationToken,
) -> LinkServiceServer<impl LinkService> {
    LinkServiceServer::new(Service { me, book, metrics, receive, runtimes, stop })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

struct Service<R> {
    me: Arc<Me>,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    receive: Arc<R>,
    runtimes: Runtimes,
    stop: CancellationToken,
}

impl<R> Service<R> {
    /// The founding record of a request that is meant for this node.
    #[allow(clippy::result_large_err, reason = "it is the service's own error")]
    fn founding_of(&self, wire_version: u32, node_id: u64, founding: &[u8]) -> Result<Charter, Status> {
        if wire_version != WIRE_VERSION {
            return Err(Status::failed_precondition(format!("this node speaks wire version {WIRE_VERSION}")));
        }
        if node_id != self.me.node.0 {
            return Err(Status::failed_precondition(format!("this is node {}", self.me.node)));
        }
        minicbor::decode(founding)
            .map_err(|e| Status::invalid_argument(format!("founding: is not a founding record: {e}")))
    }
}

#[tonic::async_trait]
impl<R: Receive> LinkService for Service<R> {
    async fn introduce(&self, _: Request<wire::IntroduceRequest>) -> Result<Response<wire::IntroduceResponse>, Status> {
        let founding = self.receive.founding();
        let encoded = |founding| minicbor::to_vec(founding).expect("writing to a vector doesn't fail");
        Ok(Response::new(wire::IntroduceResponse {
            node: Some(self.me.card()),
            cluster_id: self.me.cluster.get().map(ToString::to_string).unwrap_or_default(),
            wire_version: WIRE_VERSION,
            founding: founding.as_ref().map(encoded).unwrap_or_default().into(),
        }))
    }

    async fn offer(&self, request: Request<wire::OfferRequest>) -> Result<Response<wire::OfferResponse>, Status> {
        let wire::OfferRequest { wire_version, node_id, founding } = request.into_inner();
        let founding = self.founding_of(wire_version, node_id, &founding)?;
        let held = self.receive.offer(founding).await.map_err(Status::failed_precondition)?;
        let founding = minicbor::to_vec(&held).expect("writing to a vector doesn't fail").into();
        Ok(Response::new(wire::OfferResponse { founding }))
    }

    async fn found(&self, request: Request<wire::FoundRequest>) -> Result<Response<wire::FoundResponse>, Status> {
        let wire::FoundRequest { wire_version, node_id, founding, members } = request.into_inner();
        let founding = self.founding_of(wire_version, node_id, &founding)?;
        if members.len() > MEMBERS_TOLD_MAX {
            return Err(Status::invalid_argument(format!("members: at most {MEMBERS_TOLD_MAX} are accepted")));
        }
        let members = members.into_iter().map(|member| (NodeId(member.node_id), member.link)).collect();
        self.receive.found(founding, members).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(wire::FoundResponse {}))
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinResponse>, Status> {
        let wire::JoinRequest { wire_version, node } = request.into_inner();
        if wire_version != WIRE_VERSION {
            return Err(Status::failed_precondition(format!("this node speaks wire version {WIRE_VERSION}")));
        }
        let endpoints = endpoints(node.unwrap_or_default().addresses);
        if !endpoints.is_sound() {
            return Err(Status::invalid_argument("node.addresses: no sound addresses"));
        }
        self.receive.join(endpoints.link).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(wire::JoinResponse {}))
    }

    type LaneStream = Pin<Box<dyn Stream<Item = Result<wire::LaneMessage, Status>> + Send>>;

    async fn lane(&self, request: Request<Streaming<wire::LaneMessage>>) -> Result<Response<Self::LaneStream>, Status> {
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello in time"))??.unwrap_or_default();
        let seen = |node| self.book.generation(node);
        let hello = first.hello.unwrap_or_default();
        let judged = judge(&self.me, seen, &hello);
        let outcome = judged.as_ref().map_or_else(|refused| refused.label(), |_| "welcome");
        self.metrics.link_handshakes.get_or_create(&OutcomeLabels { outcome }).inc();
        let (sender, receiver) = mpsc::channel(2);
        match judged {
            Ok((peer, lane, endpoints)) => {
                self.book.learn(peer.node, peer.generation, &endpoints);
                let welcome = wire::Welcome {
                    node_id: self.me.node.0,
                    generation: self.me.generation.0,
                    cluster_version: self.me.versions.cluster().0,
                    cluster_version_oldest: self.me.versions.spoken().oldest.0,
                    cluster_version_newest: self.me.versions.spoken().newest.0,
                };
                let message = wire::LaneMessage { welcome: Some(welcome), ..Default::default() };
                let _ = sender.try_send(Ok(message));
                let serving = Serving {
                    peer,
                    lane,
                    book: self.book.clone(),
                    metrics: self.metrics.clone(),
                    receive: self.receive.clone(),
                };
                let (stop, me, spoken) = (self.stop.clone(), self.me.clone(), spoken(&hello));
                self.runtimes.serving(lane).spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        // Its next call is refused, and told why.
                        () = me.versions.outgrows(spoken) => {}
                        () = me.removes(peer.node) => {}
                        () = serving.run(requests, sender) => {}
                    }
                });
            }
            Err(refused) => {
                tracing::debug!(%refused, "a lane was refused");
                let message = wire::LaneMessage { refusal: Some(refused.to_wire()), ..Default::default() };
                let _ = sender.try_send(Ok(message));
            }
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One lane after its handshake.
struct Serving<R> {
    peer: Peer,
    lane: Lane,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    receive: Arc<R>,
}

type Working = FuturesUnordered<BoxFuture<'static, wire::Frame>>;

impl<R: Receive> Serving<R> {
    async fn run(
        self,
        mut requests: Streaming<wire::LaneMessage>,
        sender: mpsc::Sender<Result<wire::LaneMessage, Status>>,
    ) {
        let received = self.metrics.link_frames_received.get_or_create_owned(&self.lane.labels());
        let mut working = Working::new();
        loop {
            tokio::select! {
                Some(answer) = working.next(), if !working.is_empty() => {
                    let message = wire::LaneMessage { frames: gather(answer, &mut working), ..Default::default() };
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                message = requests.message(), if working.len() < IN_FLIGHT_MAX => {
                    // An older process than the newest that was heard is cut off, also in the middle.
                    let outdated = self.book.generation(self.peer.node).is_some_and(|g| g > self.peer.generation);
                    let Ok(Some(message)) = message else { return };
                    if outdated {
                        return;
                    }
                    received.inc_by(message.frames.len() as u64);
                    message.frames.into_iter().for_each(|frame| self.take(frame, &working));
                }
            }
        }
    }

    fn take(&self, frame: wire::Frame, working: &Working) {
        if frame.id == 0 {
            self.receive.cast(self.peer, self.lane, frame.payload);
            return;
        }
        let id = frame.id;
        let answer = self.receive.serve(self.peer, self.lane, frame.payload);
        working.push(answer.map(move |payload| wire::Frame { id, payload }).boxed());
    }
}

/// `first` and whatever else is ready, as one message's frames.
fn gather(first: wire::Frame, working: &mut Working) -> Vec<wire::Frame> {
    let mut bytes = first.payload.len();
    let mut frames = vec![first];
    while frames.len() < ANSWERS_MAX && bytes < ANSWER_BYTES {
        match working.next().now_or_never().flatten() {
            Some(frame) => {
                bytes += frame.payload.len();
                frames.push(frame);
            }
            None => break,
        }
    }
    frames
}
