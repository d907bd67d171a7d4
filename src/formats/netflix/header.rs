//! Which column stands where.

use super::value;

/// The columns of the export, in Netflix's own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Profile,
    Start,
    Duration,
    Attributes,
    Title,
    Kind,
    Device,
    Bookmark,
    LatestBookmark,
    Country,
}

impl Column {
    pub(super) const ALL: [Self; 10] = [
        Self::Profile,
        Self::Start,
        Self::Duration,
        Self::Attributes,
        Self::Title,
        Self::Kind,
        Self::Device,
        Self::Bookmark,
        Self::LatestBookmark,
        Self::Country,
    ];

    /// The name as Netflix writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Profile => "Profile Name",
            Self::Start => "Start Time",
            Self::Duration => "Duration",
            Self::Attributes => "Attributes",
            Self::Title => "Title",
            Self::Kind => "Supplemental Video Type",
            Self::Device => "Device Type",
            Self::Bookmark => "Bookmark",
            Self::LatestBookmark => "Latest Bookmark",
            Self::Country => "Country",
        }
    }

    fn needed(self) -> bool {
        matches!(self, Self::Profile | Self::Start | Self::Duration | Self::Title)
    }

    /// The column of a name as somebody writes it: only letters count, and not their case; a note in brackets does not.
    fn named(text: &str) -> Option<Self> {
        let text = text.split_once('(').map_or(text, |(before, _)| before);
        let letters: String = text.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
        Some(match letters.strip_suffix("utc").unwrap_or(&letters) {
            "profilename" | "profile" => Self::Profile,
            "starttime" | "start" => Self::Start,
            "duration" => Self::Duration,
            "attributes" => Self::Attributes,
            "title" => Self::Title,
            "supplementalvideotype" => Self::Kind,
            "devicetype" | "device" => Self::Device,
            "bookmark" => Self::Bookmark,
            "latestbookmark" => Self::LatestBookmark,
            "country" => Self::Country,
            _ => return None,
        })
    }
}

/// Why the first line tells nothing of the columns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first line is longer than a line may be.
    #[error("is not a viewing activity: its first line has more than {} bytes", super::LINE_BYTES_MAX)]
    TooLong,
    /// The first line is not UTF-8.
    #[error("is not UTF-8: byte {at} of its first line; save it as UTF-8")]
    NotUtf8 {
        /// Where, from 0.
        at: usize,
    },
    /// The first line's quotes are broken.
    #[error("is not a viewing activity: its first line {0}")]
    Fields(String),
    /// The website's short list.
    #[error(
        "is the short list of titles and dates, which has no times: ask Netflix for \"all of your data\", \
         and give its CONTENT_INTERACTION/ViewingActivity.csv"
    )]
    ShortList,
    /// A header, but not all of it.
    #[error("has no column {missing:?}: Profile Name, Start Time, Duration and Title are needed")]
    Missing {
        /// The first column that is not there.
        missing: &'static str,
    },
    /// Two columns of one name.
    #[error("has two columns {column:?}")]
    Twice {
        /// The column.
        column: &'static str,
    },
    /// Neither names of columns nor a row.
    #[error(
        "is not a viewing activity: its first line has neither the names of columns (Profile Name, Start Time, Duration, \
         Title...) nor a row of 5 to 10 columns in that export's order"
    )]
    Unknown,
}

/// Where each column stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    at: [Option<usize>; Column::ALL.len()],
    /// How many columns a row has, those that nobody knows too.
    pub(super) count: usize,
}

impl Columns {
    /// From the fields of the first line; and whether that line was a header, not a row.
    pub(super) fn find(fields: &[String]) -> Result<(Self, bool), HeaderError> {
        let mut columns = Self { at: Default::default(), count: fields.len() };
        let mut known = 0;
        for (at, field) in fields.iter().enumerate() {
            let Some(column) = Column::named(field) else { continue };
            if columns.at[column as usize].replace(at).is_some() {
                return Err(HeaderError::Twice { column: column.name() });
            }
            known += 1;
        }
        // A row can hold a word or two that are a column's name: a profile called "Title".
        if Self::is_row(fields) {
            for (slot, at) in columns.at.iter_mut().enumerate() {
                *at = (slot < fields.len()).then_some(slot);
            }
            return Ok((columns, false));
        }
        if known == 0 {
            return Err(HeaderError::Unknown);
        }
        let short_list =
            columns.at(Column::Title).is_some() && columns.at(Column::Start).is_none() && fields.len() == 2;
        if short_list {
            return Err(HeaderError::ShortList);
        }
        match Column::ALL.into_iter().find(|c| c.needed() && columns.at(*c).is_none()) {
            Some(missing) => Err(HeaderError::Missing { missing: missing.name() }),
            None => Ok((columns, true)),
        }
    }

    /// Where a column stands, from 0.
    pub(super) fn at(&self, column: Column) -> Option<usize> {
        self.at[column as usize]
    }

    /// Whether these are the fields of a row in Netflix's order.
    fn is_row(fields: &[String]) -> bool {
        (5..=Column::ALL.len()).contains(&fields.len())
            && value::start(fields[Column::Start as usize].trim()).is_ok()
            && value::duration(fields[Column::Duration as usize].trim()).is_ok()
    }
}
