//! Around every call: its id for log lines, its span, and the counters.
//!
//! The id is the client's (`x-request-id`) or a fresh one; services find it among the request's extensions, and every answer
//! carries it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tonic::Code;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument as _;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::telemetry::trace::{METADATA_KEY, TraceId};
use crate::telemetry::{CallLabels, Metrics};

/// The methods that are counted by name; all else is `other`.
const METHODS: [&str; 24] = [
    "StartView",
    "ReportProgress",
    "ReportProgressStream",
    "StopView",
    "EndView",
    "GetView",
    "ListActiveViews",
    "GetResumePoint",
    "BatchGetResumePoints",
    "ListContinueWatching",
    "ListHistory",
    "BatchImportHistory",
    "GetStreamPolicy",
    "UpdateStreamPolicy",
    "GetAccount",
    "Bootstrap",
    "GetClusterStatus",
    "ListShards",
    "GetShard",
    "GetRing",
    "TransferLeader",
    "ReplaceReplica",
    "GetSettings",
    "UpdateSettings",
];

/// Puts [`Tally`] around a service.
#[derive(Clone)]
pub(super) struct TallyLayer(Arc<Shared>);

struct Shared {
    metrics: Arc<Metrics>,
    seed: u64,
    calls: AtomicU64,
}

impl TallyLayer {
    pub(super) fn new(metrics: Arc<Metrics>, seed: u64) -> Self {
        Self(Arc::new(Shared { metrics, seed, calls: AtomicU64::new(0) }))
    }
}

impl<S> Layer<S> for TallyLayer {
    type Service = Tally<S>;

    fn layer(&self, inner: S) -> Tally<S> {
        Tally { shared: self.0.clone(), inner }
    }
}

#[derive(Clone)]
pub(super) struct Tally<S> {
    shared: Arc<Shared>,
    inner: S,
}

/// Counts a call as being worked on for as long as it lives: a caller may go away at any time.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: Arc<Shared>) -> Self {
        shared.metrics.calls_in_flight.inc();
        Self(shared)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.calls_in_flight.dec();
    }
}

impl<S, Q, A> Service<Request<Q>> for Tally<S>
where
    S: Service<Request<Q>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        let method = METHODS.iter().find(|known| **known == name).copied().unwrap_or("other");
        let trace = self.shared.trace(request.headers().get(METADATA_KEY));
        let span = tracing::debug_span!("call", method, request = %trace);
        request.extensions_mut().insert(trace.clone());
        let in_flight = InFlight::new(self.shared.clone());
        let began = tokio::time::Instant::now();
        let answer = self.inner.call(request).instrument(span);
        Box::pin(async move {
            let mut answer = answer.await;
            let metrics = &in_flight.0.metrics;
            metrics.call_seconds.observe(began.elapsed().as_secs_f64());
            metrics.calls.get_or_create(&CallLabels { method, code: code(answer.as_ref().ok()) }).inc();
            if let (Ok(answer), Ok(value)) = (&mut answer, HeaderValue::from_str(trace.as_str())) {
                answer.headers_mut().insert(METADATA_KEY, value);
            }
            answer
        })
    }
}

impl Shared {
    fn trace(&self, given: Option<&HeaderValue>) -> TraceId {
        let given = given.and_then(|value| value.to_str().ok()).and_then(TraceId::from_client);
        given.unwrap_or_else(|| {
            let nth = self.calls.fetch_add(1, Ordering::Relaxed);
            TraceId::from_random(xxh3_64_with_seed(&nth.to_be_bytes(), self.seed))
        })
    }
}

/// The code of an answer, in words. An error without a message body tells it in the headers.
fn code<A>(answer: Option<&Response<A>>) -> &'static str {
    let Some(answer) = answer else { return "BROKEN" };
    let code = answer.headers().get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()));
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::METHODS;

    #[test]
    fn every_method_of_the_services_is_counted_by_its_name() {
        let protos = [
            include_str!("../../proto/playhead/v1/account.proto"),
            include_str!("../../proto/playhead/v1/admin.proto"),
            include_str!("../../proto/playhead/v1/collection.proto"),
            include_str!("../../proto/playhead/v1/history.proto"),
            include_str!("../../proto/playhead/v1/progress.proto"),
        ];
        let line = |line: &'static str| line.trim().strip_prefix("rpc ")?.split('(').next();
        let served: Vec<&str> = protos.iter().flat_map(|proto| proto.lines()).filter_map(line).collect();
        assert!(served.len() > 20, "{served:?}");
        for method in served {
            assert!(METHODS.contains(&method), "{method}");
        }
    }
}
