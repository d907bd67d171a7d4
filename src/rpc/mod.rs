//! The gRPC services: what clients call on the client port, and operators on the admin port.
//!
//! # The way of a call
//!
//! A service checks a request and turns it into a command or query of the domain (`convert`), hands it to the [`Backend`] (the
//! node's router, which finds the shard's leader), and turns the answer back. Nothing is decided here but what a well-formed
//! request is.
//!
//! # Contract
//!
//! - **Every bad field is named**, not only the first, each with what is accepted (`google.rpc.BadRequest`; at most 32 are
//!   listed, the others counted). A request with a bad field has changed nothing.
//! - **One map from errors to statuses**: [`Fault`]. Each has a canonical code and an `ErrorInfo`, `RetryInfo` where waiting
//!   helps. A write without an answer is `OUTCOME_UNKNOWN`, never a failure.
//! - **Everything is bounded** ([`Limits`]): bytes of a message both ways, calls at work at a time, batches of a stream at work
//!   at a time, how long a call may take (the caller's `grpc-timeout`, within a least and a most), and how long a stop waits.
//! - **The more important first.** The last places for calls are kept for starts and stops, and listings have half of them at most
//!   (`tally`); a leader does the same in its queue. Whoever is refused is told when to come back, and all of them different times
//!   (`spread`).
//! - **Page tokens are opaque**, have a checksum, and hold only for the list, account, profile and filters that they were made
//!   for.
//! - Calls answer a little before the caller's deadline, so that the caller learns what is known rather than nothing.
//!
//! # Caveats
//!
//! Details of an error travel in HTTP/2 trailers, which many clients bound to 8 KiB: lists in them are cut to fit. Stopping
//! waits for calls at work, but not longer than its bound: a stuck peer can hold a connection open for ever (hyper 4170).

mod account;
mod admin;
mod backend;
mod collection;
mod convert;
mod digests;
mod fault;
mod fields;
mod front;
mod history;
mod life;
mod limits;
mod node;
mod operator;
mod page;
mod plans;
mod progress;
mod recovery;
mod replacement;
mod routed;
mod serve;
mod spread;
mod status;
mod stream;
mod tally;
#[cfg(test)]
mod tests;
mod upgrade;
mod versions;
mod wanted;
mod wish;

pub use backend::{Backend, Cluster, Failure, Hint, Operations, Read, Served, Within, Write};
pub use fault::Fault;
pub use limits::Limits;
pub use node::{Faces, faces};
pub use operator::{Bootstrap, Founded, Operator, OperatorParts};
pub use routed::Routed;
pub use serve::{ServeError, Services, ServicesParts};
