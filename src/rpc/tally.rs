//! Around every call: its id for log lines, its span, its place among the calls at work, and the counters.
//!
//! The id is the client's (`x-request-id`) or a fresh one; services find it among the request's extensions, and every answer
//! carries it.
//!
//! A single call takes its place before anything of its body is read, so that the places bound what bodies take, too. Whoever
//! sends no body gives the place back when the longest time of a call is over. The last places are for what is more important: an
//! eighth for starts and stops alone, and listings get none of the second half.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::backend::Failure;
use super::fault::Fault;
use super::limits::Limits;
use super::spread::Spread;
use crate::raft::Priority;
use crate::telemetry::trace::{METADATA_KEY, TraceId};
use crate::telemetry::{CallLabels, Metrics, ShedLabels};

/// Health, reflection, and what is served by nobody.
const OTHER: &str = "other";
/// Open for as long as its caller likes.
const STREAM: &str = "ReportProgressStream";
/// How long a body may take to come.
const BODY_MAX: Duration = Duration::from_secs(10);

/// The methods that are counted by name; all else is `other`.
const METHODS: [&str; 43] = [
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
    "GetRaftState",
    "TransferLeader",
    "HandOver",
    "ReplaceReplica",
    "GetSettings",
    "UpdateSettings",
    "GetVersions",
    "RaiseClusterVersion",
    "AddNode",
    "DrainNode",
    "RemoveNode",
    "ReplaceNode",
    "ForgetNode",
    "GiveUpNode",
    "UpdateNode",
    "UpdateRules",
    "GetPlan",
    "ApplyPlan",
    "PausePlan",
    "ResumePlan",
    "CancelPlan",
    "MoveReplica",
    "RecoverShard",
];

/// Puts [`Tally`] around a service.
#[derive(Clone)]
pub(super) struct TallyLayer(Arc<Shared>);

struct Shared {
    metrics: Arc<Metrics>,
    seed: u64,
    calls: AtomicU64,
    /// For single calls; streams are bounded where they are served.
    places: Arc<Semaphore>,
    /// How many there are.
    places_max: usize,
    /// When those that find none are to come back.
    spread: Arc<Spread>,
    /// How long a single call may take with its body.
    call_max: Duration,
}

impl TallyLayer {
    pub(super) fn new(metrics: Arc<Metrics>, spread: Arc<Spread>, seed: u64, limits: &Limits) -> Self {
        let (places, places_max) = (Arc::new(Semaphore::new(limits.calls)), limits.calls);
        let call_max = limits.deadline_max.saturating_add(BODY_MAX);
        Self(Arc::new(Shared { metrics, seed, calls: AtomicU64::new(0), places, places_max, spread, call_max }))
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
    A: Default,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        let method = METHODS.iter().find(|known| **known == name).copied().unwrap_or(OTHER);
        let trace = self.shared.trace(request.headers().get(METADATA_KEY));
        let span = tracing::debug_span!("call", method, request = %trace);
        request.extensions_mut().insert(trace.clone());
        let in_flight = InFlight::new(self.shared.clone());
        let began = tokio::time::Instant::now();
        let working = self.shared.place(method).map(|place| (place, self.inner.call(request).instrument(span)));
        Box::pin(async move {
            let mut answer = match working {
                Ok((Some(_place), work)) => {
                    tokio::time::timeout(in_flight.0.call_max, work).await.unwrap_or_else(too_long)
                }
                Ok((None, work)) => work.await,
                Err(full) => Ok(Status::from(full).into_http()),
            };
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

/// A call that took longer than one may. What it asked for may have been done.
fn too_long<A: Default, E>(_: tokio::time::error::Elapsed) -> Result<Response<A>, E> {
    Ok(Status::from(Fault::from(Failure::Unknown)).into_http())
}

impl Shared {
    /// A place among the calls at work for as long as the call lives, or OVERLOADED. `None`: the method needs none.
    fn place(&self, method: &str) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        if method == STREAM || method == OTHER {
            return Ok(None);
        }
        let priority = priority_of(method);
        let kept = self.places_max / 8 * priority.kept_eighths();
        let place = match self.places.available_permits() > kept {
            true => self.places.clone().try_acquire_owned().ok(),
            false => None,
        };
        place.map(Some).ok_or_else(|| {
            let labels = ShedLabels { priority: priority.label(), why: "calls" };
            self.metrics.shed.get_or_create(&labels).inc();
            self.spread.note(1, 0);
            Fault::overloaded("too many calls are at work on this node").spread(self.spread.draw())
        })
    }

    fn trace(&self, given: Option<&HeaderValue>) -> TraceId {
        let given = given.and_then(|value| value.to_str().ok()).and_then(TraceId::from_client);
        given.unwrap_or_else(|| {
            let nth = self.calls.fetch_add(1, Ordering::Relaxed);
            TraceId::from_random(xxh3_64_with_seed(&nth.to_be_bytes(), self.seed))
        })
    }
}

/// What a call is worth, by its method: nothing else is known of it before its body is read.
fn priority_of(method: &str) -> Priority {
    match method {
        "ReportProgress"
        | "GetView"
        | "ListActiveViews"
        | "GetResumePoint"
        | "BatchGetResumePoints"
        | "GetStreamPolicy"
        | "GetAccount" => Priority::Report,
        "ListContinueWatching" | "ListHistory" => Priority::Listing,
        "BatchImportHistory" => Priority::Bulk,
        // Starts and stops; and what operators do, who have places of their own.
        _ => Priority::Prompt,
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
    use std::convert::Infallible;
    use std::future::{Pending, pending};

    use super::*;

    /// Never answers; counts its calls.
    struct Hanging(usize);

    impl Service<Request<()>> for Hanging {
        type Response = Response<()>;
        type Error = Infallible;
        type Future = Pending<Result<Response<()>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            self.0 += 1;
            pending()
        }
    }

    fn request(method: &str) -> Request<()> {
        Request::builder().uri(format!("/playhead.v1.Service/{method}")).body(()).unwrap()
    }

    fn one_place() -> Tally<Hanging> {
        places(1)
    }

    fn spread() -> Arc<Spread> {
        Arc::new(Spread::new(Arc::new(crate::ambient::SystemClock::new()), 1))
    }

    fn places(calls: usize) -> Tally<Hanging> {
        TallyLayer::new(Arc::default(), spread(), 1, &Limits { calls, ..Limits::default() }).layer(Hanging(0))
    }

    #[tokio::test]
    async fn the_last_places_are_for_starts_and_stops_and_listings_have_the_first_half() {
        let mut service = places(16);
        let refused = |service: &mut Tally<Hanging>, method| {
            let before = service.inner.0;
            let call = service.call(request(method));
            (service.inner.0 == before, call)
        };
        let mut at_work = Vec::new();
        let mut fill = |service: &mut Tally<Hanging>, method| {
            let mut taken = 0;
            loop {
                match refused(service, method) {
                    (false, call) => at_work.push(call),
                    (true, _) => return taken,
                }
                taken += 1;
            }
        };
        let taken = ["BatchImportHistory", "ListHistory", "ReportProgress", "StopView"].map(|m| fill(&mut service, m));
        assert_eq!(taken, [4, 4, 6, 2]);
    }

    #[tokio::test]
    async fn a_single_call_has_a_place_before_its_body_is_read_and_gives_it_back_when_it_is_dropped() {
        let mut service = one_place();
        let first = service.call(request("StartView"));
        let refused = service.call(request("StopView")).await.unwrap();
        assert_eq!(refused.headers()["grpc-status"], "8");
        assert_eq!(service.inner.0, 1, "the refused call has not reached what reads its body");
        let streams = [service.call(request(STREAM)), service.call(request("Watch"))];
        assert_eq!(service.inner.0, 3);
        drop(first);
        let next = service.call(request("StopView"));
        assert_eq!(service.inner.0, 4);
        drop((next, streams));
    }

    #[tokio::test]
    async fn a_call_whose_body_never_comes_ends_as_unknown_and_gives_its_place_back() {
        let (metrics, places) = (Arc::default(), Arc::new(Semaphore::new(1)));
        let (calls, call_max) = (AtomicU64::new(0), Duration::from_millis(1));
        let shared = Shared { metrics, seed: 1, calls, places, places_max: 1, spread: spread(), call_max };
        let mut service = Tally { shared: Arc::new(shared), inner: Hanging(0) };
        let ended = service.call(request("StartView")).await.unwrap();
        let status = Status::from_header_map(ended.headers()).unwrap();
        let told = <Status as tonic_types::StatusExt>::get_details_error_info(&status).unwrap();
        assert_eq!(told.reason, "OUTCOME_UNKNOWN");
        drop(service.call(request("StartView")));
        assert_eq!(service.inner.0, 2);
    }

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
