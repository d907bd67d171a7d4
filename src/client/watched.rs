//! A channel that tells of one call whether its body may have reached the node.
//!
//! A request's body is first asked for when its connection stands and its headers go out; a node does nothing before it has the
//! body. A call whose body nobody asked for was never done, however it ended: refused, cut off, or out of time while the
//! connection was being made or a place on it was waited for. Who gives a call up settles it: a body that was not asked for by then is
//! never given out.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::transport::Channel;

/// Nobody has asked for the body.
const HELD: u8 = 0;
/// Somebody has.
const GIVEN: u8 = 1;
/// Nobody has, and nobody gets it any more.
const KEPT: u8 = 2;

/// What has become of a call's body.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate(Arc<AtomicU8>);

impl Fate {
    /// The call has ended without an answer: whether the node may have it. If not, it never will.
    pub(super) fn settle(&self) -> bool {
        self.0.compare_exchange(HELD, KEPT, Ordering::AcqRel, Ordering::Acquire) == Err(GIVEN)
    }

    /// The body is asked for: whether it may be given.
    fn give(&self) -> bool {
        self.0.compare_exchange(HELD, GIVEN, Ordering::AcqRel, Ordering::Acquire) != Err(KEPT)
    }
}

/// The channel of one call.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    channel: Channel,
    fate: Fate,
}

impl Watched {
    pub(super) fn new(channel: Channel, fate: Fate) -> Self {
        Self { channel, fate }
    }
}

impl Service<http::Request<Body>> for Watched {
    type Response = <Channel as Service<http::Request<Body>>>::Response;
    type Error = <Channel as Service<http::Request<Body>>>::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let fate = self.fate.clone();
        // Nobody asks for a body that has nothing.
        if http_body::Body::is_end_stream(request.body()) {
            fate.give();
        }
        Service::call(&mut self.channel, request.map(|body| Body::new(WatchedBody { body, fate })))
    }
}

/// The body of one call.
struct WatchedBody {
    body: Body,
    fate: Fate,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.fate.give() {
            return Poll::Ready(Some(Err(Status::cancelled("the call was given up"))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_given_or_the_call_is_known_never_to_come_whoever_is_first() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for given_first in [true, false] {
            let fate = Fate::default();
            let mut body = WatchedBody { body: Body::empty(), fate: fate.clone() };
            let mut poll = || http_body::Body::poll_frame(Pin::new(&mut body), &mut cx);
            if given_first {
                assert!(matches!(poll(), Poll::Ready(None)));
            }
            assert_eq!(fate.settle(), given_first);
            assert_eq!(fate.settle(), given_first);
            assert_eq!(matches!(poll(), Poll::Ready(Some(Err(_)))), !given_first);
        }
    }
}
