//! What callers note.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A name that a caller gave: an account, a view, a device, a title (with its profile).
pub type Name = Arc<str>;

/// What holds in the cluster that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The limit of streams of an account that has set none.
    pub limit: u16,
    /// A view that is silent for so long may have expired: the silence that the cluster's settings allow, less what the clocks of
    /// history and cluster may differ by.
    pub silence_us: u64,
    /// So much played time is believed of a view however little time has passed; beyond it the least is known only.
    pub believed_ms: u64,
    /// By how much an answer's age, or a staleness asked for, may be wrong by the clock of the history: what the clocks of
    /// different machines may differ by, and the time for which the cluster can't tell.
    pub slack_us: u64,
    /// Whether nodes accept writes while a shard has no leader: a write whose outcome is unknown may then be one that is handed
    /// off later, as an accepted one is.
    pub hints: bool,
}

impl Default for Rules {
    /// As a new cluster's settings are: four streams, two and a half minutes of which four fifths are counted on.
    fn default() -> Self {
        Self { limit: 4, silence_us: 120_000_000, believed_ms: 5_000, slack_us: 100_000, hints: false }
    }
}

/// What callers noted, by account.
#[derive(Clone, Debug, Default)]
pub struct History {
    rules: Rules,
    accounts: BTreeMap<Name, Vec<Op>>,
}

impl History {
    /// Nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, accounts: BTreeMap::new() }
    }

    /// Notes an operation that has ended. Operations may be noted in any order.
    pub fn note(&mut self, account: impl Into<Name>, op: Op) {
        self.accounts.entry(account.into()).or_default().push(op);
    }

    /// Takes in what another one noted by the same clock.
    pub fn take_in(&mut self, other: Self) {
        for (account, ops) in other.accounts {
            self.accounts.entry(account).or_default().extend(ops);
        }
    }

    /// What holds in the cluster.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The operations of each account.
    pub fn accounts(&self) -> impl Iterator<Item = (&Name, &[Op])> {
        self.accounts.iter().map(|(account, ops)| (account, ops.as_slice()))
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.accounts.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}

/// An operation: one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Who called.
    pub client: u32,
    /// When the call was made, in microseconds of the history's clock.
    pub invoked_us: u64,
    /// When the answer came, or the caller gave up.
    pub returned_us: u64,
    /// What it was.
    pub what: What,
}

/// What an operation was, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A write.
    Write(Action, Outcome),
    /// A read that was answered. One that wasn't says nothing.
    Read {
        /// How fresh it had to be. Of a read that asked for *strong, else stale*, the mode that the answer says.
        mode: Mode,
        /// The answer.
        seen: Seen,
        /// What the answer says about itself.
        info: Info,
    },
}

/// What a write asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A device starts a view.
    Start {
        /// The view.
        view: Name,
        /// The device. What it plays already is replaced.
        device: Name,
        /// The title, with its profile.
        title: Name,
        /// Where it begins; none: where the cluster knows that it was left, which is then not compared.
        position_ms: Option<u64>,
        /// Whether it takes a stream (downloads don't).
        takes_stream: bool,
        /// What to do where the limit is reached.
        on_limit: OnLimit,
    },
    /// A report.
    Progress {
        /// The view.
        view: Name,
        /// Its sequence, 1 or more.
        sequence: u64,
        /// The position.
        position_ms: Option<u64>,
        /// How much it says was played: a stretch that only this sequence of this view ever says.
        played_ms: u64,
    },
    /// The device ends its view.
    Stop {
        /// The view.
        view: Name,
        /// Its sequence; none: newer than all.
        sequence: Option<u64>,
        /// The position.
        position_ms: Option<u64>,
        /// As for a report.
        played_ms: u64,
    },
    /// Somebody ends a view from elsewhere.
    End {
        /// The view.
        view: Name,
    },
    /// The account gets a limit of its own.
    SetLimit {
        /// How many streams.
        streams: u16,
    },
}

/// What to do where the limit is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnLimit {
    /// Refuse.
    Reject,
    /// End the view that started first.
    EndOldest,
    /// End this one.
    EndNamed(Name),
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged, with this answer.
    Committed(Answer, Option<Revision>),
    /// The cluster decided against it, and it changed nothing.
    Refused(Refusal, Option<Revision>),
    /// It surely never reached the log: no leader, overload, a full disk.
    Unavailable,
    /// Nobody knows.
    Unknown,
    /// It was *accepted* as a hint: kept, not committed.
    Accepted,
}

/// Where in the shard's order a write stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// It took effect as this one.
    Exact(u64),
    /// It had taken effect by this one: what a repeated request, or a batch, knows.
    By(u64),
}

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Action::Start`].
    Started {
        /// The views that it has ended, in any order.
        ended: Vec<Name>,
        /// The view ran already.
        repeated: bool,
        /// It was let in without having been counted.
        degraded: bool,
    },
    /// To [`Action::Progress`].
    Progressed {
        /// It is the newest, now or since before.
        applied: bool,
    },
    /// To the others.
    Done,
}

/// Why the cluster decided against a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The limit is reached by these views.
    StreamLimit(Vec<Name>),
    /// The view has ended, has expired, or was never there. Also a report whose answer is to stop.
    NotActive,
    /// The view's id is another's.
    IdInUse,
    /// The view to end holds no stream.
    NamedUnknown,
    /// Something that the model doesn't have: compared with nothing.
    Other,
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// By a round of the quorum.
    Strong,
    /// By a lease. Checked as strong.
    Lease,
    /// Not older than this revision of the shard.
    Session(u64),
    /// Not staler than so many milliseconds.
    Bounded(u64),
    /// However old.
    Any,
}

/// What an answer says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Who answered.
    pub by: Option<Name>,
    /// The state that was read.
    pub revision: Option<u64>,
    /// It may be older than it should be.
    pub degraded: bool,
    /// How old it says it is at most.
    pub age_ms: Option<u64>,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All active views, the one that started first in front.
    Active(Vec<SeenView>),
    /// One view, if it is active.
    View(Name, Option<SeenView>),
    /// Where a title was left.
    Left {
        /// The title, with its profile.
        title: Name,
        /// The last position that is known.
        position_ms: Option<u64>,
    },
    /// All views that have ended and stand in the history, with their positions, in any order.
    Ended(Vec<(Name, Option<u64>)>),
    /// The limit of streams.
    Limit(u16),
}

/// An active view as a read saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenView {
    /// Its id.
    pub view: Name,
    /// Its device.
    pub device: Name,
    /// Its newest sequence.
    pub sequence: u64,
    /// Where it is.
    pub position_ms: Option<u64>,
    /// How much of it was played; none: not compared.
    pub watched_ms: Option<u64>,
    /// Whether it takes a stream.
    pub holds_stream: bool,
    /// It was let in without having been counted.
    pub degraded: bool,
}

/// How much there is of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accounts.
    pub accounts: u64,
    /// Writes that were acknowledged.
    pub committed: u64,
    /// Writes that the cluster decided against.
    pub refused: u64,
    /// Writes that never reached the log.
    pub unavailable: u64,
    /// Writes of which nobody knows.
    pub unknown: u64,
    /// Writes that were only accepted.
    pub accepted: u64,
    /// Reads by a quorum or a lease.
    pub strong: u64,
    /// All other reads.
    pub stale: u64,
    /// Those of them that say of themselves that they are degraded.
    pub degraded: u64,
}

impl Counts {
    pub(super) fn note(&mut self, ops: &[Op]) {
        self.accounts += 1;
        for op in ops {
            *match &op.what {
                What::Write(_, Outcome::Committed(..)) => &mut self.committed,
                What::Write(_, Outcome::Refused(..)) => &mut self.refused,
                What::Write(_, Outcome::Unavailable) => &mut self.unavailable,
                What::Write(_, Outcome::Unknown) => &mut self.unknown,
                What::Write(_, Outcome::Accepted) => &mut self.accepted,
                What::Read { mode: Mode::Strong | Mode::Lease, .. } => &mut self.strong,
                What::Read { info, .. } => {
                    self.degraded += u64::from(info.degraded);
                    &mut self.stale
                }
            } += 1;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accounts, committed, refused, unavailable, unknown, accepted, strong, stale, degraded } = self;
        write!(
            f,
            "{accounts} accounts; writes: {committed} committed, {refused} refused, {unavailable} unavailable, "
        )?;
        write!(f, "{unknown} unknown, {accepted} accepted; reads: {strong} strong, {stale} stale ({degraded} degraded)")
    }
}

/// Numbers in place of names: the model is compared and copied often.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: BTreeMap<Name, u32>,
    names: Vec<Name>,
}

impl Names {
    pub(super) fn of(ops: &[&Op]) -> Self {
        let mut names = Self::default();
        for op in ops {
            names.note(&op.what);
        }
        names
    }

    fn note(&mut self, what: &What) {
        match what {
            What::Write(action, outcome) => {
                match action {
                    Action::Start { view, device, title, on_limit, .. } => {
                        [view, device, title].into_iter().for_each(|name| self.add(name));
                        if let OnLimit::EndNamed(view) = on_limit {
                            self.add(view);
                        }
                    }
                    Action::Progress { view, .. } | Action::Stop { view, .. } | Action::End { view } => self.add(view),
                    Action::SetLimit { .. } => {}
                }
                if let Outcome::Committed(Answer::Started { ended: views, .. }, _)
                | Outcome::Refused(Refusal::StreamLimit(views), _) = outcome
                {
                    views.iter().for_each(|view| self.add(view));
                }
            }
            What::Read { seen, .. } => match seen {
                Seen::Active(views) => views.iter().for_each(|view| self.note_seen(view)),
                Seen::View(view, seen) => {
                    self.add(view);
                    seen.iter().for_each(|view| self.note_seen(view));
                }
                Seen::Left { title, .. } => self.add(title),
                Seen::Ended(views) => views.iter().for_each(|(view, _)| self.add(view)),
                Seen::Limit(_) => {}
            },
        }
    }

    fn note_seen(&mut self, view: &SeenView) {
        self.add(&view.view);
        self.add(&view.device);
    }

    fn add(&mut self, name: &Name) {
        if !self.numbers.contains_key(name) {
            self.numbers.insert(name.clone(), u32::try_from(self.names.len()).unwrap_or(u32::MAX));
            self.names.push(name.clone());
        }
    }

    /// The number of a name that [`Self::of`] has seen.
    pub(super) fn number(&self, name: &Name) -> u32 {
        self.numbers.get(name).copied().unwrap_or(u32::MAX)
    }

    pub(super) fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("?", |name| name)
    }
}
