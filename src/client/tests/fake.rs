//! A server that answers as it is told, on a free port.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::ambient::SystemClock;
use crate::client::{Builder, Client};
use crate::net::{Accept, Net, Wire, Wires};
use crate::proto::v1::collection_service_server::{CollectionService, CollectionServiceServer};
use crate::proto::{ERROR_DOMAIN, REQUEST_AGE, metadata, v1};

/// What to do with a call.
#[derive(Clone)]
pub(super) enum Reply {
    Ok,
    /// Answer, and name the leader of the only shard.
    Hint(String),
    Fail(Status),
    Hang,
}

/// What to do with a stream's message.
pub(super) enum StreamReply {
    Answer(Vec<v1::ReportProgressStreamResponse>),
    /// End the stream.
    End,
    /// End the stream with an error.
    Break(Status),
}

pub(super) type OnMessage = Box<dyn FnMut(v1::ReportProgressStreamRequest) -> StreamReply + Send>;

/// What a fake server does and has seen.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    replies: VecDeque<Reply>,
    request_ids: Vec<String>,
    ages: Vec<Option<u64>>,
    on_message: Option<OnMessage>,
    streams: usize,
}

impl Script {
    /// These replies in turn; the last one for ever.
    pub(super) fn replies(replies: impl IntoIterator<Item = Reply>) -> Self {
        let script = Self::default();
        script.0.lock().replies.extend(replies);
        script
    }

    /// From now on these replies in turn; the last one for ever.
    pub(super) fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        self.0.lock().replies = replies.into_iter().collect();
    }

    pub(super) fn on_message(f: impl FnMut(v1::ReportProgressStreamRequest) -> StreamReply + Send + 'static) -> Self {
        let script = Self::default();
        script.0.lock().on_message = Some(Box::new(f));
        script
    }

    /// The request ids of the calls so far (of a read: empty).
    pub(super) fn seen(&self) -> Vec<String> {
        self.0.lock().request_ids.clone()
    }

    /// The ages that the starts so far have given.
    pub(super) fn ages(&self) -> Vec<Option<u64>> {
        self.0.lock().ages.clone()
    }

    /// Streams opened so far.
    pub(super) fn streams(&self) -> usize {
        self.0.lock().streams
    }

    async fn reply<M: Default>(&self, request_id: &str) -> Result<Response<M>, Status> {
        let reply = {
            let mut inner = self.0.lock();
            inner.request_ids.push(request_id.into());
            if inner.replies.len() > 1 { inner.replies.pop_front() } else { inner.replies.front().cloned() }
        };
        match reply {
            None | Some(Reply::Ok) => Ok(Response::new(M::default())),
            Some(Reply::Hint(leader)) => {
                let mut response = Response::new(M::default());
                response.metadata_mut().insert(metadata::LEADER, leader.parse().unwrap());
                response.metadata_mut().insert(metadata::SHARD, "0/1".parse().unwrap());
                Ok(response)
            }
            Some(Reply::Fail(status)) => Err(status),
            Some(Reply::Hang) => std::future::pending().await,
        }
    }
}

#[async_trait::async_trait]
impl CollectionService for Script {
    type ReportProgressStreamStream = ReceiverStream<Result<v1::ReportProgressStreamResponse, Status>>;

    async fn start_view(
        &self,
        request: Request<v1::StartViewRequest>,
    ) -> Result<Response<v1::StartViewResponse>, Status> {
        let age = request.metadata().get(REQUEST_AGE).map(|age| age.to_str().unwrap().parse().unwrap());
        self.0.lock().ages.push(age);
        self.reply(&request.get_ref().request_id).await
    }

    async fn report_progress(
        &self,
        _: Request<v1::ReportProgressRequest>,
    ) -> Result<Response<v1::ReportProgressResponse>, Status> {
        self.reply("").await
    }

    async fn report_progress_stream(
        &self,
        request: Request<Streaming<v1::ReportProgressStreamRequest>>,
    ) -> Result<Response<Self::ReportProgressStreamStream>, Status> {
        self.0.lock().streams += 1;
        let script = self.clone();
        let mut messages = request.into_inner();
        let (answers, out) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let reply = script.0.lock().on_message.as_mut().map(|f| f(message));
                match reply {
                    None | Some(StreamReply::End) => return,
                    Some(StreamReply::Break(status)) => {
                        let _ = answers.send(Err(status)).await;
                        return;
                    }
                    Some(StreamReply::Answer(all)) => {
                        for answer in all {
                            let _ = answers.send(Ok(answer)).await;
                        }
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn stop_view(&self, request: Request<v1::StopViewRequest>) -> Result<Response<v1::StopViewResponse>, Status> {
        self.reply(&request.get_ref().request_id).await
    }

    async fn end_view(&self, request: Request<v1::EndViewRequest>) -> Result<Response<v1::EndViewResponse>, Status> {
        self.reply(&request.get_ref().request_id).await
    }

    async fn get_view(&self, _: Request<v1::GetViewRequest>) -> Result<Response<v1::GetViewResponse>, Status> {
        self.reply("").await
    }

    async fn list_active_views(
        &self,
        _: Request<v1::ListActiveViewsRequest>,
    ) -> Result<Response<v1::ListActiveViewsResponse>, Status> {
        self.reply("").await
    }
}

/// Serves a script until the guard is dropped; the endpoint.
pub(super) async fn serve(script: &Script) -> (String, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let server = tonic::transport::Server::builder()
        .add_service(CollectionServiceServer::new(script.clone()))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.clone().cancelled_owned());
    tokio::spawn(server);
    (endpoint, stop.drop_guard())
}

/// An endpoint at which nobody listens.
pub(super) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A network on which no connection ever comes to be, and nobody says so.
#[derive(Debug)]
struct Void;

impl Wires for Void {
    fn listen(&self, _: &str, _: u16) -> io::Result<Box<dyn Accept>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn dial(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        Box::pin(std::future::pending())
    }
}

/// A network on which no connection ever comes to be.
pub(super) fn void() -> Net {
    Net::Other(Arc::new(Void))
}

pub(super) fn builder(endpoints: &[&str]) -> Builder {
    Client::builder(Arc::new(SystemClock::new()), 7).endpoints(endpoints.iter().copied())
}

/// A client that gives up soon.
pub(super) fn hasty(endpoints: &[&str]) -> Client {
    builder(endpoints).deadline(Duration::from_millis(300)).attempt(Duration::from_millis(100)).build().unwrap()
}

/// A client that doesn't give up within a test.
pub(super) fn patient(endpoints: &[&str]) -> Client {
    builder(endpoints).deadline(Duration::from_secs(60)).build().unwrap()
}

/// An error as our services tell it.
pub(super) fn told(code: Code, reason: v1::ErrorReason, retry: Option<Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason.name(), ERROR_DOMAIN, std::collections::HashMap::new());
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, "as the test wants it", details)
}

/// STREAM_LIMIT with one view in the way.
pub(super) fn stream_limit(view: &str) -> Status {
    use tonic_types::pb;
    let any = |name: &str, value: Vec<u8>| prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value };
    let info = pb::ErrorInfo { reason: "STREAM_LIMIT".into(), domain: ERROR_DOMAIN.into(), ..Default::default() };
    let active_views = vec![v1::View { view_id: view.into(), ..Default::default() }];
    let limit = v1::StreamLimitReached { max_streams: 1, active_views };
    let status = pb::Status {
        code: Code::ResourceExhausted.into(),
        message: "full".into(),
        details: vec![
            any("google.rpc.ErrorInfo", info.encode_to_vec()),
            any("playhead.v1.StreamLimitReached", limit.encode_to_vec()),
        ],
    };
    Status::with_details(Code::ResourceExhausted, "full", status.encode_to_vec().into())
}
