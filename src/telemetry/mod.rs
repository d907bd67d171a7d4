//! Tracing and metrics: how a node tells people and machines what it does.
//!
//! **Log lines** go to standard error through `tracing`, as text or as a JSON object a line ([`init`]). Fields have the
//! same names everywhere: `node shard term index account view`, and `request` for the id that follows one client's
//! call over all nodes ([`trace`]). ERROR means that a human must look.
//!
//! **Metrics** are made in one place, [`Metrics::new`], under the prefix `playhead_`; whoever counts is handed the struct. The
//! table in `docs/metrics.md` is held equal to the registry by a test. Labels are few and bounded: never an account.
//!
//! **Panics**: [`install_panic_hook`] logs a panic at ERROR; on a thread whose loss would leave a node that looks alive but isn't
//! (the log's writer, the groups' runtime), it ends the process, so that the other nodes take over at once.

mod lately;
mod logging;
mod metrics;
mod panics;
pub mod trace;

pub use lately::{Lately, Times};
pub use logging::{InitError, init};
pub use metrics::{CallLabels, Described, LaneLabels, Metrics, OutcomeLabels, ShardLabels, Shed, ShedLabels};
pub use panics::install_panic_hook;
