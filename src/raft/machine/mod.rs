//! What a group replicates, as a trait, and what carries it out.
//!
//! A [`Machine`] is pure: it takes commands and rows and gives answers and rows; it never waits. Around it stands the
//! [`replica`](self) code that waits: it fetches the rows that a command needs before the command is applied, freezes the
//! changed rows between two entries and hands them to the store, and restores the machine from what the store has.

mod body;
mod core;
mod decoded;
mod digests;
mod header;
mod marks;
mod meta;
mod replica;
mod shard;

pub use body::encode_commands;
pub use meta::{MetaMachine, MetaState};
pub use shard::{RowsShare, ShardMachine};

pub(crate) use self::core::{ApplyError, Core};
pub use self::core::{Broken, Cause};
pub(crate) use body::{decode, push};
pub(crate) use decoded::{Piece, Pieces};
pub(crate) use header::Header;
pub(crate) use replica::{Replica, SnapshotData, restore};

use super::load::Priority;
use super::room::Growth;
use crate::ids::Revision;
use crate::store::{Key, Pair, Value};
use crate::time::{LogicalMs, Stamp};

/// Why a machine can't go on. Every replica with the same log stops at the same place; nothing is skipped, ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state machine stops: {0}")]
pub struct Stop(pub String);

/// Rows that a command needs and that are not resident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing<F> {
    /// To be handed to [`Machine::admit`] with what the store says, which must be read after this.
    pub fence: F,
    /// The rows, at least one.
    pub keys: Vec<Key>,
}

/// Everything that has changed since the checkpoint before, as the store takes it.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The machine's own header: whatever [`Machine::restore`] needs besides images.
    pub header: Vec<u8>,
    /// Changed images; `None`: deleted.
    pub images: Vec<(Key, Option<Value>)>,
    /// Changed rows; `None`: deleted.
    pub rows: Vec<(Key, Option<Value>)>,
}

/// What came of trying to apply a command: its answer, or what it misses.
pub(super) type Tried<M> = Result<<M as Machine>::Answer, Missing<<M as Machine>::Fence>>;

/// A replicated state machine without waiting and without side effects.
pub trait Machine: Send + Sync + Sized + 'static {
    /// What is proposed.
    type Command: Clone + Send + Sync + 'static;
    /// What a command gives.
    type Answer: Send + Sync + 'static;
    /// A moment between two checkpoints.
    type Fence: Copy + Send + 'static;
    /// What was set aside for a checkpoint.
    type Frozen: Send + Sync + 'static;

    /// Appends the command's encoding to `out`.
    fn encode(command: &Self::Command, out: &mut Vec<u8>);

    /// Decodes what [`Machine::encode`] has written. An error stops every replica that has it in its log.
    fn decode(bytes: &[u8]) -> Result<Self::Command, Stop>;

    /// The rows that must be resident before `command` may be applied and are not; `None`: it may. May name more after these
    /// are admitted.
    fn missing(&self, stamp: Stamp, command: &Self::Command) -> Result<Option<Missing<Self::Fence>>, Stop>;

    /// Whether to look ahead for what `command` may miss. Not for what hardly ever misses anything: it is then found when it
    /// is applied.
    fn looks_ahead(_: &Self::Command) -> bool {
        true
    }

    /// Makes a row resident, as the store has it. `false`: a checkpoint came between, ask again what is missing.
    fn admit(&mut self, fence: Self::Fence, key: &[u8], value: Option<&[u8]>) -> bool;

    /// Carries a command out. What it gives and does may depend on nothing but the commands and stamps before it.
    fn apply(&mut self, stamp: Stamp, command: &Self::Command) -> Result<Self::Answer, Stop>;

    /// [`Machine::apply`] if all that `command` needs is resident; otherwise what is missing, and nothing is changed. For
    /// machines that find out on the way, so that they needn't look twice.
    fn try_apply(&mut self, stamp: Stamp, command: &Self::Command) -> Result<Tried<Self>, Stop> {
        match self.missing(stamp, command)? {
            Some(missing) => Ok(Err(missing)),
            None => Ok(Ok(self.apply(stamp, command)?)),
        }
    }

    /// What a command adds: when room is short, what adds is not proposed. Nothing else depends on it.
    fn growth(command: &Self::Command) -> Growth {
        let _ = command;
        Growth::None
    }

    /// What a command is worth when there is more to do than can be done. Nothing else depends on it.
    fn priority(command: &Self::Command) -> Priority {
        let _ = command;
        Priority::Own
    }

    /// Whose command it is, as a hash: nobody gets more of a leader than an account's share.
    fn account(command: &Self::Command) -> Option<u64> {
        let _ = command;
        None
    }

    /// Whether [`Machine::permits`] has to be asked before `command` is proposed.
    fn is_gated(_: &Self::Command) -> bool {
        false
    }

    /// Whether `command` may be proposed by the rules that this state has come to. What a leader's state permits, every replica's
    /// permits when it comes there.
    fn permits(&self, command: &Self::Command) -> bool {
        let _ = command;
        true
    }

    /// The greatest logical time that was applied.
    fn logical(&self) -> LogicalMs;

    /// How many commands were applied.
    fn revision(&self) -> Revision;

    /// A digest of all that was applied, equal on every replica after the same entry; `None` for a machine that keeps none.
    fn digest(&self) -> Option<u64> {
        None
    }

    /// When the machine wants [`Machine::tick`]: at or before `now` means at once, later means not before; `None` never.
    fn next_due(&mut self, now: LogicalMs) -> Option<LogicalMs>;

    /// Whether [`Machine::date`] has anything to do.
    fn has_age(_: &Self::Command) -> bool {
        false
    }

    /// Called by the leader with its time before a command goes into the log: an age becomes a time.
    fn date(command: &mut Self::Command, now: impl FnOnce() -> LogicalMs) {
        let _ = (command, now);
    }

    /// The command that lets time pass, if the machine has one.
    fn tick() -> Option<Self::Command>;

    /// Sets all changes since the last call aside; `None` while those of the last call are not yet durable.
    fn freeze(&mut self) -> Option<Self::Frozen>;

    /// What was set aside, as the store takes it. May take its time: it is called on a thread for such work.
    fn changes(frozen: &Self::Frozen) -> Changes;

    /// Whether this state may be written down on this node by now.
    fn may_be_written(&self) -> bool {
        true
    }

    /// The same of a state that was frozen on another node with `header`; an error: it is none that this build restores.
    fn may_be_installed(&self, header: &[u8]) -> Result<bool, Stop> {
        let _ = header;
        Ok(true)
    }

    /// Says that what was frozen is durable.
    fn thawed(&mut self);

    /// About how many bytes wait for the next checkpoint.
    fn dirty_bytes(&self) -> usize;

    /// Lets go of what the store has as well, when more is held than should be. Changes no answer.
    fn trim(&mut self);

    /// The machine at its beginning, with the same rules as this one.
    fn empty(&self) -> Self;

    /// Takes the place of `before` in a running replica: what was read from the store for that one is worthless for this one,
    /// so a fence of `before` must not be taken for one of this machine.
    fn follow(&mut self, before: &Self) {
        let _ = before;
    }

    /// The machine as it was when it was frozen with `header`; `images` are all that the store has.
    fn restore(&self, header: &[u8], images: Vec<Pair>) -> Result<Self, Stop>;
}
