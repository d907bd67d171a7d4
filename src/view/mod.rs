//! The viewing domain: commands, state and rules of one shard.

mod answer;
mod command;
mod entry;
mod event;
mod key;
mod query;
mod settings;
mod state;

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
