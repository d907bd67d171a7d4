//! From what is wanted and what is observed to the next step of each shard.
//!
//! The meta group commits what is *wanted* (the [`Placement`](crate::ring::Placement)) and what has been *decided* on the
//! way there ([`Recorded`]); the shards' leaders and the nodes tell what *is* ([`Observed`]). [`next()`] compares the three
//! and answers with one [`Step`] for a group, or why it has to wait. Whoever carries the step out chooses nothing: it
//! does it, observes again and asks again. A step that was carried out twice, or by a planner that has been replaced,
//! does no harm: each names what it relies on, and is refused where that is no longer so.
//!
//! # Who does what
//!
//! | | where | by |
//! |---|---|---|
//! | [`Step`], any | the node of the group's leader: only the leader knows the committed membership and who has caught up | `node::reconciler` |
//! | [`Duty::Found`] | the node of the meta group's leader, for all groups at once | `node::reconciler::found` |
//! | [`Duty::Create`], [`Duty::Initialize`], [`Duty::Destroy`] | the node that the replica was given to, by the meta state alone: it needs no leader, and there may be none | `node::host`, `node::shards` |
//!
//! A duty is never carried out by whoever plans it; a plan that comes to one waits for it. A dismissed replica whose node is
//! alive or may come back is destroyed and reported by that node ([`Duty::Destroy`]); of a node that an operator
//! has removed for good nobody waits for a word, so the leader has it forgotten ([`Step::Forget`]).
//!
//! # The life of a replica
//!
//! ```text
//! Found ───────────► Create ─► (Initialize, on the founder) ─► voter
//! Allot ─► Create ─► AddLearner ─► caught up ─► ChangeVoters ─► voter
//! voter ─► ChangeVoters without it ─► RecordMembership ─► Dismiss ─► Destroy, or Forget where its node is removed
//! ```
//!
//! A voter that an operator wants replaced ([`Recorded::replace`]) goes on voting until its successor on the same node, given out
//! with the wish, has caught up and takes its vote; if it leads, it hands the lead over before.
//!
//! # From one placement to another
//!
//! When nodes come and go, the meta group holds a *target* beside the placement. [`rollout`] says which shards may go over to it
//! next; each is then brought there by [`next()`] like any other. What it does is held in bounds, stops after any stage, and keeps
//! zones at every stage.
//!
//! # Invariants
//!
//! - A group's first replica set is written once, and initialized on its founder only.
//! - A replica id is given out by the meta group, used once, and never stands on another node.
//! - No step leads to a membership without a live quorum while the present one has one.
//! - A replica is destroyed only after a *committed* membership without it is recorded in the meta group.
//! - An observation older than the newest recorded membership is not obeyed.
//! - Who is to take a voter's place is let go of only when that voter's node has said that the voter is sound.
//!
//! # Caveats
//!
//! A group whose founder is lost for good before it was initialized stays as it is: nobody can know that it never was.
//! A group that has lost its quorum for good waits too; giving up its data is an operator's decision ([`Recovery`]), never a plan's.

pub mod balance;
mod membership;
mod next;
mod observed;
mod recorded;
mod recovery;
pub mod rollout;
mod step;
#[cfg(test)]
mod tests;

pub use membership::{Membership, MembershipId};
pub use next::next;
pub use observed::{Leadership, Observed, Sighting};
pub use recorded::{Allotted, Founding, NotReplaced, REPLICAS_MAX, Recorded};
pub use recovery::Recovery;
pub use step::{Duty, Limits, Next, Step, Wait};
