//! Requests that only tell how far is committed wait a moment for entries to go with.
//!
//! When an entry is committed, openraft tells each follower so at once, in a request without entries unless the next entry is
//! there already. Nobody waits for that: a follower's state answers only reads that may be a little old. So such a
//! request is held back for a moment. What comes next on the stream goes in its place, as it says the same and more, and its
//! answer tells openraft all that the other's would have: answers are told apart by the entries that they reach.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::Sleep;

use crate::raft::types::Types;

type Request = AppendEntriesRequest<Types>;

/// A stream of requests of which those without entries are held back for at most so long.
pub(super) struct Held<S> {
    requests: S,
    hold: Duration,
    held: Option<(Request, Pin<Box<Sleep>>)>,
    ended: bool,
}

impl<S> Held<S> {
    pub(super) fn new(requests: S, hold: Duration) -> Self {
        Self { requests, hold, held: None, ended: false }
    }

    /// The request that was held, if there is one.
    fn take(&mut self) -> Option<Request> {
        self.held.take().map(|(request, _)| request)
    }
}

impl<S: Stream<Item = Request> + Unpin> Stream for Held<S> {
    type Item = Request;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let this = &mut *self;
        while !this.ended {
            match this.requests.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) if request.entries.is_empty() => match &mut this.held {
                    // The newer one says more; the wait began with the older.
                    Some((held, _)) => *held = request,
                    None => this.held = Some((request, Box::pin(tokio::time::sleep(this.hold)))),
                },
                Poll::Ready(Some(request)) => {
                    this.held = None;
                    return Poll::Ready(Some(request));
                }
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => {
                    let Some((_, wait)) = &mut this.held else { return Poll::Pending };
                    return match wait.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(this.take()),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(this.take())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;
    use crate::raft::types::{Entry, Payload, Vote, log_id};

    fn request(last: u64, entries: u64, commit: u64) -> Request {
        let entry = |index| Entry { log_id: log_id(1, index), payload: Payload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, last - entries)),
            entries: (last - entries + 1..=last).map(entry).collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    fn commit_of(request: Option<Request>) -> Option<(usize, u64)> {
        request.and_then(|request| Some((request.entries.len(), request.leader_commit?.index)))
    }

    #[tokio::test]
    async fn a_commit_goes_with_the_next_entries() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut held = Held::new(UnboundedReceiverStream::new(receiver), Duration::from_secs(3600));
        sender.send(request(5, 0, 4)).expect("the receiver lives");
        assert!(held.next().now_or_never().is_none(), "it is held");
        sender.send(request(5, 0, 5)).expect("the receiver lives");
        sender.send(request(6, 1, 5)).expect("the receiver lives");
        assert_eq!(commit_of(held.next().await), Some((1, 5)));
        sender.send(request(6, 0, 6)).expect("the receiver lives");
        drop(sender);
        assert_eq!(commit_of(held.next().now_or_never().flatten()), Some((0, 6)), "nothing can come any more");
        assert!(held.next().await.is_none());
    }

    #[tokio::test]
    async fn a_commit_goes_alone_when_its_time_is_over() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut held = Held::new(UnboundedReceiverStream::new(receiver), Duration::from_millis(1));
        sender.send(request(5, 0, 5)).expect("the receiver lives");
        assert_eq!(commit_of(held.next().await), Some((0, 5)));
    }
}
