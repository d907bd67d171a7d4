//! The client library. It knows the protocol buffers and how accounts hash, nothing else of the node; everything that is not
//! the node itself (clusterctl, the device simulator, tests, benches) speaks to a cluster through it alone.
//!
//! # What it does for a caller
//!
//! - **One deadline over everything.** A call has one time to be answered in, over all its attempts. An attempt has a shorter
//!   one; and a node that hangs doesn't even get that: whoever doesn't answer a ping for 300 ms is taken for silent, and its calls
//!   go elsewhere.
//! - **The right node first.** Any node takes any call; one that had to ask another says in its answer who leads the account's
//!   shard, and the next call of that shard goes there. The memory of this is one entry a shard, at most 4,096.
//! - **Retries that are safe.** Every write has a request id, made once and kept over its attempts (a progress report has its
//!   sequence), so the cluster does it once however often it comes. What a node says in `RetryInfo` is obeyed, with jitter on
//!   top, never below it; where it says nothing the waiting doubles from 10 to 400 ms. A node that does not answer is left
//!   alone for a while.
//! - **No more than a fifth on top.** What was refused for load is tried again within a budget: a retry for five calls, and a reserve of
//!   a hundred. Beyond it the call ends as unavailable at once, so that an overload isn't made worse by being refused.
//! - **Three ends, never two.** A call that fails was [`Rejected`](Error::Rejected) (the cluster has decided, nothing changed),
//!   [`Unavailable`](Error::Unavailable) (nobody decided, nothing changed), or [`Unknown`](Error::Unknown): a write that was on
//!   its way when the time ran out, and may have happened, or may still.
//! - **Committed or accepted.** An answer to a write says what it is worth (`WriteStanding`): of a shard without a leader reports, stops and
//!   starts are *accepted*, kept on one node and handed off later ([`Reported::is_accepted`], [`is_accepted`]). That is an answer, not an
//!   error: sending again adds nothing.
//! - **Streams with a window.** A [`ProgressStream`] has a bounded number of messages unanswered, finds another node when its
//!   own goes away, and sends again what was not answered.
//!
//! # Caveats
//!
//! Channels connect when first used and live in the tokio runtime in which the client was built. The clock and the seed are
//! the caller's; two clients with one seed make the same request ids, so seed each from the machine's randomness outside of
//! simulations.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{sync::Arc, time::Duration};
//! use playhead::{ambient, client::Client, proto::v1};
//!
//! let client = Client::builder(Arc::new(ambient::SystemClock::new()), ambient::random_u64())
//!     .endpoints(["http://127.0.0.1:7101", "http://127.0.0.1:7201"])
//!     .deadline(Duration::from_secs(3))
//!     .build()?;
//! let started = client
//!     .start_view(v1::StartViewRequest {
//!         account_id: "alice".into(),
//!         view_id: "living-room-1".into(),
//!         profile_id: "kids".into(),
//!         device_id: "tv".into(),
//!         title_id: "film-17".into(),
//!         ..Default::default()
//!     })
//!     .await?;
//! println!("play from {:?} ms", started.started.and_then(|s| s.resume_position_ms));
//! # Ok(())
//! # }
//! ```

mod admin;
mod budget;
mod builder;
mod call;
mod endpoints;
mod error;
mod health;
mod methods;
mod sent;
mod stream;
#[cfg(test)]
mod tests;
mod watched;

use std::sync::Arc;
use std::time::Duration;

pub use self::admin::AdminClient;
pub use self::builder::{Builder, InvalidClient};
pub use self::error::{Error, Rejection, Violation};
pub use self::stream::{Pending, ProgressStream, ReportOutcome, Reported, StreamOptions};
use crate::proto::v1;
use crate::time::Clock;

/// A client of a cluster. Cheap to clone: clones share connections, leader hints and random numbers.
#[derive(Clone, Debug)]
pub struct Client {
    core: Arc<call::Core>,
    deadline_ms: u64,
    /// Of requests that come with an id.
    age_ms: u64,
    /// Of reads that don't say.
    reading: Option<v1::ReadOptions>,
}

impl Client {
    /// Starts to describe a client: a clock to count deadlines with, and a seed for request ids and jitter.
    pub fn builder(clock: Arc<dyn Clock>, seed: u64) -> Builder {
        Builder::new(clock, seed)
    }

    /// The same client with another deadline for each call: at least a millisecond.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline_ms: builder::millis(deadline), ..self.clone() }
    }

    /// The same client, for writes that come with a request id and were sent for the first time so long ago, by another client: one
    /// before a restart, say. The cluster refuses what it may have done and forgotten since. What ended as
    /// [`Error::Unknown`] in this client or a clone of it needs none of this.
    pub fn repeating(&self, first_sent_ago: Duration) -> Self {
        Self { age_ms: builder::millis(first_sent_ago), ..self.clone() }
    }

    /// The same client, which reads like this wherever a request says nothing about it: without this, strongly.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use playhead::proto::v1::ReadOptions;
    ///
    /// // A home page that is always there: half a second for the truth, then whatever there is, marked with its age.
    /// let home_page = ReadOptions::bounded(Duration::from_secs(5)).or_stale_after(Duration::from_millis(500));
    /// // What follows a write and must show it: `answer.write_info.revision` of that write.
    /// let after_a_write = ReadOptions::session("9f3c01aa-12-4d2");
    /// # let _ = (home_page, after_a_write);
    /// ```
    pub fn reading(&self, options: v1::ReadOptions) -> Self {
        Self { reading: Some(options), ..self.clone() }
    }

    /// A fresh request id, for callers who want to keep one over calls of their own.
    pub fn request_id(&self) -> String {
        self.core.request_id()
    }

    /// Opens a stream of progress reports.
    pub fn progress_stream(&self, options: StreamOptions) -> ProgressStream {
        ProgressStream::open(self.core.clone(), options, self.deadline_ms)
    }
}

/// Whether a write is only accepted: on the disk of the node that answered, until its shard has a leader again.
pub fn is_accepted(info: Option<&crate::proto::v1::WriteInfo>) -> bool {
    info.is_some_and(|info| info.standing() == crate::proto::v1::WriteStanding::Accepted)
}
