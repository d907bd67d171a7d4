//! From what is wanted and what is observed to the next step of each shard.
//!
//! The meta group commits what is *wanted* (the [`Placement`](crate::ring::Placement)) and what has been *decided* on the
//! way there ([`Recorded`]); the shards' leaders and the nodes tell what *is* ([`Observed`]). [`next()`] compares the three
//! and answers with one [`Step`] for a group, or why it has to wait. Whoever carries the step out chooses nothing: it
//! does it, observes again and asks again. A step that was carried out twice, or by a planner that has been replaced,
//! does no harm: each names what it relies on, and is refused where that is no longer so.
//!
//! # The life of a replica
//!
//! ```text
//! Found ───────────► Create ─► (Initialize, on the founder) ─► voter
//! Allot ─► Create ─► AddLearner ─► caught up ─► ChangeVoters ─► voter
//! voter ─► ChangeVoters without it ─► RecordMembership ─► Dismiss ─► Destroy
//! ```
//!
//! # Invariants
//!
//! - A group's first replica set is written once, and initialized on its founder only.
//! - A replica id is given out by the meta group, used once, and never stands on another node.
//! - No step leads to a membership without a live quorum while the present one has one.
//! - A replica is destroyed only after a *committed* membership without it is recorded in the meta group.
//! - An observation older than the newest recorded membership is not obeyed.
//!
//! # Caveats
//!
//! A group whose founder is lost for good before it was initialized stays as it is: nobody can know that it never was.
//! A group that has lost its quorum for good waits too; giving up its data is an operator's decision, never a plan's.

mod membership;
mod next;
mod observed;
#[cfg(test)]
mod properties;
mod recorded;
mod step;

pub use membership::{Membership, MembershipId};
pub use next::next;
pub use observed::{Leadership, Observed, Sighting};
pub use recorded::{Allotted, Founding, REPLICAS_MAX, Recorded};
pub use step::{Limits, Next, Step, Wait};
