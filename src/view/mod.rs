//! The viewing domain: commands, state and rules of one shard.

mod account;
mod answer;
mod command;
mod decide;
mod entry;
mod event;
mod key;
mod live;
mod query;
mod ranges;
mod read;
mod record;
mod rows;
mod rules;
mod settings;
mod state;
mod title;
mod txn;

pub use account::{ACCOUNT_VIEWS_MAX, ENDED_VIEWS_MAX, PROFILES_MAX, REQUESTS_MAX};
pub use answer::{
    Answer, Applied, Directive, EndReason, EndedView, ImportResult, Imported, Outcome, Progressed, Rejection, Started,
    Stopped, Ticked,
};
pub use command::{
    AccountCommand, COMMAND_VERSION, Caller, Command, DecodeError, EndView, Envelope, IMPORT_PLAYS_MAX, ImportHistory,
    ImportPlay, MEDIA_MS_MAX, Media, NextView, OnLimit, PLAYED_RANGES_MAX, PlayState, Played, ReportProgress,
    StartView, StopView, StreamPolicy, TitleType, ViewKind,
};
pub use entry::{ENTRY_PLAYS_MAX, HistoryEntry, Play};
pub use event::{Event, Fact, ViewEnd};
pub use key::{RowClass, RowKey};
pub use query::{
    AccountSummary, ActiveView, Alternate, ContinueItem, HistoryFilter, PAGE_ITEMS_MAX, Page, ProfileSummary, Query,
    RESUME_POINTS_MAX, Reply, ResumePoint, TitleState, ViewStatus,
};
pub use settings::Settings;
pub use state::{Counts, Fence, Frozen, Lookup, Missing, RestoreError, Scan, State, Stop, TICK_EXPIRIES_MAX};

#[cfg(test)]
mod tests;
