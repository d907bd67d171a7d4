//! The viewing domain: what devices and members may tell a shard, what becomes of it, and what can be asked. Pure: no clock,
//! no randomness, no IO. Time comes with each command as a [`Stamp`](crate::time::Stamp), rules come as [`Settings`] through
//! the shard's own log, and what is stored comes in by hand.
//!
//! # The way of a command
//!
//! ```text
//! Envelope -> State::missing -> the store -> State::admit      until nothing is missing
//!          -> State::apply   -> Applied { revision, answer, events }
//! ```
//!
//! [`State::apply`] is decided on a transaction (`txn`), which reads what is resident and only collects what should change.
//! A row that isn't resident ends it without a trace, and [`State::missing`] is nothing but the same decision, thrown away:
//! the two cannot disagree. The handlers are in `decide/`, a file for each command; the figures they use in [`Settings`]; how
//! a play counts in `rules`. Facts about titles and history, the rows and the counts all come from one comparison of what was
//! read with what is there at the end, so no handler can forget one.
//!
//! The exception is a progress report of an active view, nearly all of the work there is: it is written in place (`live`),
//! with one look-up, no row and no allocation.
//!
//! # What is kept where
//!
//! | | in memory | stored as |
//! |---|---|---|
//! | active views | all, always (`live`, `record`) | images of 2 to 4 KiB, the chunks in memory byte for byte |
//! | an account: policy, profiles, the last requests and ended views (`account`) | when needed | row |
//! | a profile's title: where it was left, watched, a directory of its entries (`title`) | when needed | row, and pages of the directory when that is long |
//! | a history entry with its plays (`entry`) | when needed | row, newest first |
//! | the continue-watching row | when needed | row, newest first |
//! | logical time, settings, revision, counts, digest | always | header |
//!
//! Rows are looked up dirty, then frozen, then clean, then missing (`rows`). Keys ([`RowKey`]) are such that a command needs
//! point reads only and a list is one scan in key order, without a look-up for each item. A history entry *is* its place in
//! the list: the title row only knows when each began and ended, so that the play that belongs to it finds it.
//!
//! A view's play is put into the history, and moves the title's resume point, when the view ends, in whatever way. Until then
//! a report touches nothing but the view, and queries answer as if the views that run ended at their last reports.
//!
//! # Decisions that the rules leave open
//!
//! - *Which views take a stream*: full and live ones. Previews and downloads don't; the default limit is 4 streams.
//! - *A preview* replaces only previews of its device, makes no profile, no history, no resume point; in an import it is
//!   counted ([`ImportResult::Preview`]) and kept out.
//! - *A live broadcast* stands in the history and has no resume point.
//! - *A stop or report of a view that ended* is told who ended it and why; of one that expired, to start it again; a view that
//!   was stopped or ended by others cannot be started again under its id for as long as that is remembered (64 views, 24 h).
//! - *A view comes back* as a new play under its old id and sequence; the 60-minute rule makes the two plays one entry.
//! - *A view that gave its stream away* in a long pause takes one when it goes on; where none is free it ends.
//! - *Completed by a seek*: no resume point, not watched; the last position stays known.
//! - *Half of the runtime* is counted over all plays by views since the title was last watched, not over one.
//! - *An imported play* counts by itself alone: watched if its own time is half of a known runtime. What it adds to the
//!   half of a later view is nothing. Otherwise the order of imports would show.
//! - *The alternate* of two devices is kept for views, not for imports.
//! - *What was parked on a node while the shard had no leader* is taken over by its age, under the rules of an upload: a sequence that
//!   isn't newer moves nothing; of a view that has ended it makes a further play, and the later event wins the resume point. Time without a
//!   leader counts for what was played meanwhile, and for nothing else. It takes no stream back.
//! - *A view that a node let in* ([`ActiveView::degraded`]) becomes active as if it had been let in then; other views of its device end
//!   for it as always, unless they began after it. If the account then watches more than it may, the newest such view is ended first, until it
//!   doesn't: never another one. From then on it holds its stream like any view.
//! - *A rejected request* changed nothing, so it is the first to be forgotten: 98 refusals push no start out of the window.
//!
//! # Caveats
//!
//! - After [`State::apply`] a title's or account's row may be written again and again: what bounds dirty rows is the next
//!   freeze ([`State::dirty_bytes`]), what bounds clean ones is [`State::evict`]; the caller has to do both.
//! - What was played while there was no leader is told by moments before the shard's own beginning where the shard is younger than that, and
//!   then counts only in part: a shard's time doesn't go below 0.
//! - History times are the calendar's. A leader with a wrong calendar writes wrong times into the history, and a play that
//!   an import dates later than a view's wins over it; between views only the shard's time decides.
//! - An account's views of one token are never split over chunks: 128 views with the longest ids make one image of 160 KiB.
//! - Digests cover stamps, answers and events, and so every change of content, but not the layout of pages and chunks, which
//!   differs between replicas that were restored at different moments.

mod account;
mod answer;
mod command;
mod decide;
mod entry;
mod event;
mod key;
mod live;
mod parked;
mod query;
mod ranges;
mod read;
mod record;
mod rows;
mod rules;
mod settings;
mod state;
mod stretch;
mod title;
mod txn;

pub use account::{ACCOUNT_VIEWS_MAX, ENDED_VIEWS_MAX, PROFILES_MAX, REQUESTS_MAX};
pub use answer::{
    Answer, Applied, Directive, EndReason, EndedView, ImportResult, Imported, Outcome, Progressed, Rejection, Started,
    Stopped, Ticked,
};
pub use command::{
    AccountCommand, COMMAND_VERSION, COMMAND_VERSION_MIN, Caller, Command, DecodeError, EndView, Envelope, FirstSent,
    IMPORT_PLAYS_MAX, ImportHistory, ImportPlay, MEDIA_MS_MAX, Media, NextView, OnLimit, PLAYED_RANGES_MAX, PlayState,
    Played, ReportProgress, StartView, StopView, StreamPolicy, TitleType, ViewKind,
};
pub use entry::{ENTRY_PLAYS_MAX, HistoryEntry, Play};
pub use event::{Event, Fact, ViewEnd};
pub use key::{RowClass, RowKey};
pub use parked::{HANDOFF_VIEWS_MAX, HandOff, Handed, PARKED_MS_MAX, Parked, ParkedStart, ParkedStop, ParkedTold};
pub use query::{
    AccountSummary, ActiveView, Alternate, ContinueItem, HistoryFilter, PAGE_ITEMS_MAX, Page, ProfileSummary, Query,
    RESUME_POINTS_MAX, Reply, ResumePoint, TitleState, ViewStatus,
};
pub use settings::Settings;
pub use state::{
    Counts, Fence, Frozen, Image, Lookup, Missing, RestoreError, Scan, Scanned, State, Stop, TICK_EXPIRIES_MAX,
};
pub use stretch::Stretch;

#[cfg(test)]
mod tests;
