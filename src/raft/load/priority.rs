//! What comes first.

use crate::view::Query;

/// What a command or a query is worth when there is more to do than can be done, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// What the cluster itself needs: expiry, settings, versions. Little, and never refused for load.
    Own = 0,
    /// A member waits for it, or it makes an end of something: starts, stops, ends, policies.
    Prompt = 1,
    /// It comes again by itself, or is asked beside a start: progress, single look-ups.
    Report = 2,
    /// It reads much: listings.
    Listing = 3,
    /// It can wait: imports and exports.
    Bulk = 4,
}

impl Priority {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// All of them, the most important first.
    pub const ALL: [Self; Self::COUNT] = [Self::Own, Self::Prompt, Self::Report, Self::Listing, Self::Bulk];

    /// What a query is worth.
    pub fn of_query(query: &Query) -> Self {
        match query {
            Query::ListContinueWatching(..) | Query::ListHistory(..) => Self::Listing,
            Query::GetView(..)
            | Query::ListActiveViews(_)
            | Query::GetResumePoints(..)
            | Query::GetAccount(_)
            | Query::GetStreamPolicy(_) => Self::Report,
        }
    }

    /// As metrics call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Prompt => "prompt",
            Self::Report => "report",
            Self::Listing => "listing",
            Self::Bulk => "bulk",
        }
    }

    /// How many eighths of a bounded number of places are kept for what is more important than this.
    pub const fn kept_eighths(self) -> usize {
        match self {
            Self::Own | Self::Prompt => 0,
            Self::Report => 1,
            Self::Listing => 4,
            Self::Bulk => 6,
        }
    }

    /// How long something of this priority may wait for its turn, in milliseconds, before more of it is refused: a part of the second
    /// within which a stream's message is answered.
    pub(crate) const fn wait_ms_max(self) -> u64 {
        match self {
            Self::Own => u64::MAX,
            Self::Prompt => 300,
            Self::Report => 200,
            Self::Listing | Self::Bulk => 100,
        }
    }
}
