//! Consensus: one replica of a group, from a caller's command to an applied entry and back.
//!
//! openraft decides; everything it touches is ours. Read from the outside in:
//!
//! ```text
//! Group            what the node holds: propose, query, members, lead, checkpoint, stop
//!   load           what comes first, and what is refused, when there is more to do than can be done
//!   batcher        many callers' commands -> one log entry, at most one entry open; stamps them with the leader's clock
//!   meter          counts what was committed and answered here by who leads
//!   read           STRONG: one ReadIndex round for all reads that wait; LEASE: the leader's lease; ANY: as it is here
//!   fresh          how old a replica's state is at most, and what counts as proof of it
//!   machine        Machine (pure: a shard's view::State, or the meta state) and the code around it that waits
//!     core           applies: fetches the rows that a command needs, then applies it, under one lock, never across a wait
//!     replica        checkpoints: frozen between two entries, one batch into the store, a record in the log, then purge
//!   log_store      openraft's log in the node's write-ahead log
//!   network        frames that name group, sender and addressee, on three lanes; snapshots in pieces
//! RaftThread       the one thread that all groups of a node run on
//! ```
//!
//! # The way of a command
//!
//! [`Group::propose`] encodes on the caller's thread, asks for rows to be prefetched, and queues. The batcher gathers what
//! waits into one `types::Batch` under one [`Stamp`](crate::time::Stamp) and gives it to openraft, which appends
//! it here and sends it to the others. On each replica the log store notices the entry as it is appended, decodes it once
//! and has missing rows prefetched. When a quorum has it durably it is applied everywhere, in order; only where it was
//! proposed somebody waits for the answers.
//!
//! # Contract
//!
//! - What ended [`Outcome::Committed`] is in the state of the group for ever; [`Outcome::Rejected`] was never proposed;
//!   [`Outcome::Unknown`] may be either. Nothing else is promised about it, and it is never told as a failure.
//! - A STRONG read sees every command that was acknowledged anywhere before the read came in, whatever clocks do.
//! - A replica applies its log completely and in order or stops with an ERROR. It never skips and never guesses.
//! - A replica whose disk has lost something that it may have promised is not opened: [`StartError::Retired`].
//!
//! The invariants are in `docs/invariants.md`.
//!
//! # What the node has to do
//!
//! 1. Open the log, then the store with the log's checkpoint records. A replica that the log's
//!    [`Recovery`](crate::wal::Recovery) does not trust, or the store calls retired, is not opened but replaced under a fresh
//!    id; [`Group::start`] finds most of these again and answers [`StartError::Retired`].
//! 2. Wait for [`GroupConfig::lease`] since the process began before it starts any group (the longest election time while the
//!    cluster's version has no told leases): a follower that has restarted has forgotten what it owes its leader.
//! 3. Make one [`RaftThread`] and one [`Switchboard`] over its [`Link`]; hand every incoming frame to
//!    [`Switchboard::serve`] in the order of arrival of its lane, and send back what the future gives.
//! 4. [`Group::start`] each replica that is placed here; [`Group::initialize`] only the one replica that the meta log names.
//! 5. Call [`Group::void_leases`] on every group when the monotonic and the boot-time clock have moved apart.
//! 6. Watch [`Group::broken`]: a replica that has stopped by itself is [`Group::stop`]ped and started anew after a while (a
//!    lease at least), or retired where its own data is not what was written ([`Cause::Lost`]).
//! 7. On leaving, hand the lead over ([`Group::transfer_leader`]), then [`Group::stop`]. A replica that was removed is
//!    stopped for good and, once the membership without it is recorded, [`destroy`]ed: one that runs on would campaign.
//!
//! # Replacing one replica
//!
//! [`Group::add_learner`] with a fresh id, [`Group::wait_caught_up`], [`Group::change_voters`] (a joint change; the old one
//! leaves with it), then stop and destroy the old one. Each step names the membership that it was decided upon and may be
//! done again.
//!
//! # Caveats
//!
//! - A leader without a quorum goes on thinking that it leads. Its reads wait, what it proposes stays unknown, and after its
//!   lease it proposes nothing; callers end by their deadlines.
//! - A failed transfer of the lead is never taken back by openraft (its issue 2088): the old leader falls silent and an
//!   election follows. Hence the look at the target's lag before.
//! - Exactly-once is the machine's: a command whose outcome is unknown is safe to repeat only under its request id.
//! - Where the store has no room for a checkpoint, the log grows; the node lowers its [`Room`] before that, and commands that add
//!   data are refused.

mod batcher;
mod codec;
mod fresh;
mod group;
mod known;
mod load;
mod log_store;
mod machine;
mod meter;
mod network;
mod outcome;
mod read;
mod room;
mod runtime;
#[cfg(test)]
mod tests;
mod ticks;
mod types;

pub use group::{
    ChangeError, Changes as GroupChanges, Group, GroupConfig, GroupParts, GroupStatus, InvalidConfig, Members,
    MembershipId, Progress, SoleError, StartError, Submitted, TransferError, destroy, end_of_log, make_sole_voter,
    make_sole_voter_of_meta,
};
pub use known::KnownVersion;
pub use load::{Load, Pacer, Pressure, Priority};
pub use machine::{
    Broken, Cause, Changes, Machine, MetaMachine, MetaState, Missing, RowsShare, ShardMachine, Stop, encode_commands,
};
pub use meter::Work;
pub use network::{FRAME_BYTES_MAX, Fate, Gate, Lane, Link, LinkError, MemoryNet, Switchboard};
pub use outcome::{Answered, AsOf, LeaderHint, Outcome, QueryError, ReadMode, Reading, Rejected, Role};
pub use room::{Growth, Room, RoomLevel};
pub use runtime::RaftThread;
pub use types::LogId;
