//! What is worked on first, and what is not worked on at all when more comes than can be done.
//!
//! # The measure
//!
//! Queueing time, as in CoDel (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012) and in WeChat's DAGOR (Zhou
//! et al., "Overload Control for Scaling WeChat Microservices", SoCC 2018), not processors: a queue that is emptied by each entry is
//! no overload, however long it was for a moment, and one that is not emptied tells by its own speed how long a newcomer would
//! wait. See docs/decisions/ and docs/overload.md.
//!
//! # Contract
//!
//! - [`Priority`]: what a command or query is worth. The batcher takes the higher first, and one command in eight of the lower
//!   ones that wait, in turn, so that nothing waits for ever.
//! - [`Flow`]: how fast a replica's queue goes, and so how many more may wait. What could not be proposed within its time is refused when it
//!   comes, before anything was done for it, and never after it was handed to consensus (invariant raft/4).
//! - [`Accounts`]: how much of a leader one account may have.
//! - [`Pacer`]: how much of its machine a node may use, where an operator bounds it; turns go by priority over all groups.
//!
//! # Caveats
//!
//! All of it is a leader's own and is forgotten with the lead. Reads by followers know nothing of their leader's queue.

mod accounts;
mod flow;
mod pacer;
mod priority;

pub use pacer::Pacer;
pub use priority::Priority;

pub(crate) use accounts::Accounts;
pub use flow::Pressure;
pub(crate) use flow::{Counts, Flow};

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::telemetry::{Shed, ShedLabels};
use crate::time::Clock;

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It would have waited longer than it may.
    Queue,
    /// It has waited longer than it may.
    Stale,
    /// Its account has had its share.
    Account,
}

impl Why {
    fn label(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Stale => "stale",
            Self::Account => "account",
        }
    }
}

/// What the groups of a node share of this.
#[derive(Debug)]
pub struct Load {
    /// The node's bound.
    pub pacer: Pacer,
    account_per_second: AtomicU32,
    shed: Shed,
}

impl Load {
    /// Bounds for the groups of a node: commands a second of the node, and of one account, each 0 for none.
    pub fn new((node_per_second, account_per_second): (u32, u32), clock: Arc<dyn Clock>, shed: Shed) -> Self {
        Self { pacer: Pacer::new(node_per_second, clock), account_per_second: account_per_second.into(), shed }
    }

    /// Commands a second of one account that a leader takes; 0: any number.
    pub fn account_per_second(&self) -> u32 {
        self.account_per_second.load(Ordering::Relaxed)
    }

    /// It is this from now on. Whether that is another than before.
    pub fn set_account_per_second(&self, account_per_second: u32) -> bool {
        self.account_per_second.swap(account_per_second, Ordering::Relaxed) != account_per_second
    }

    /// So many were refused.
    pub(crate) fn refused(&self, priority: Priority, why: Why, count: usize) {
        if count > 0 {
            let labels = ShedLabels { priority: priority.label(), why: why.label() };
            self.shed.get_or_create(&labels).inc_by(count as u64);
        }
    }
}
