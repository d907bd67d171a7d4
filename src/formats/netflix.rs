//! The viewing activity that Netflix gives a member who asks for their data: `ViewingActivity.csv`.
//!
//! One row a play, newest first. Columns are matched by name, in any order; the names may be written `Start Time (UTC)`,
//! `StartTime` or `start_time`. A file without a header is taken when its columns stand in Netflix's own order.
//!
//! | column | accepted | needed |
//! |---|---|---|
//! | Profile Name | text | yes |
//! | Start Time | UTC: `2022-07-28 04:22:00`, `2022-07-28T04:22:00Z`, `7/28/2022 4:22` (month first); 1970 to 9999 | yes |
//! | Duration | `H:MM:SS` or `HH:MM:SS`, up to 30 days (720 hours), as in the cluster | yes |
//! | Title | text; see [`super::text_id`] | yes |
//! | Supplemental Video Type | empty: a real play; anything else: a preview | no |
//! | Device Type | text | no |
//! | Bookmark, Latest Bookmark | as Duration; or empty, or `Not latest view` | no |
//! | Attributes, Country and any other | anything; not read | no |
//!
//! Two plays may well share profile, title, start and device: only rows that are equal in duration and bookmark, too, are the
//! same play twice. Columns that are not read make no difference: rows that differ in nothing else are one play.
//!
//! Not taken: the short list `Title,Date` that the website offers (it has no times), and files that are not UTF-8.

mod header;
mod value;

#[cfg(test)]
mod tests;

use std::io::{self, BufRead};

use header::{Column, Columns, HeaderError};

use super::lines::{Line, SplitError, next_line, split};
use super::text_id;
use crate::ids::{DeviceId, InvalidId, ProfileId, TitleId};
use crate::time::WallMs;

/// The most bytes that a line may have.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// The most bytes that a file may have.
pub const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The most lines that a file may have.
pub const LINES_MAX: u64 = 2_000_000;
/// The most columns that a line may have.
const FIELDS_MAX: usize = 64;
/// The device of a row that names none.
const NO_DEVICE: &str = "unknown";

/// What was played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The title itself: `Supplemental Video Type` is empty.
    Title,
    /// A trailer, a hook, a recap...: everything that has a `Supplemental Video Type`.
    Preview,
}

/// What the column `Latest Bookmark` says of a play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LatestBookmark {
    /// The file doesn't say.
    Unknown,
    /// A later play of the same title by the same profile moved on from here.
    NotLatest,
    /// The title was left here, in milliseconds from its beginning.
    At(u64),
}

/// One row that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    /// The line of the file, from 1.
    pub line: u64,
    /// Who played.
    pub profile: ProfileId,
    /// What was played: the title's text.
    pub title: TitleId,
    /// On what; `unknown` if the file doesn't say.
    pub device: DeviceId,
    /// The title itself, or a preview.
    pub kind: Kind,
    /// When it began.
    pub start: WallMs,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Where it stopped, in milliseconds from the title's beginning.
    pub bookmark_ms: Option<u64>,
    /// Where the title was left at last.
    pub latest_bookmark: LatestBookmark,
}

impl Play {
    /// Whether the title is an episode, which Netflix writes as `Series: Season 1: Name (Episode 3)`.
    pub fn is_episode(&self) -> bool {
        self.title.as_str().contains("(Episode ")
    }

    /// When it ended.
    pub fn end(&self) -> WallMs {
        self.start.plus(self.duration_ms)
    }
}

/// A row that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Refused {
    /// The line of the file, from 1.
    pub line: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a row is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// More bytes than a line may have.
    #[error("is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("is not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// Where, from 0.
        at: usize,
    },
    /// A NUL byte: this is no text.
    #[error("has a NUL byte: this is no text")]
    Binary,
    /// Quotes or commas.
    #[error("{0}")]
    Fields(String),
    /// Too many or too few columns.
    #[error("has {found} columns where {expected} are expected{hint}")]
    Columns {
        /// Columns that the row has.
        found: usize,
        /// Columns that the file has.
        expected: usize,
        /// What may be the cause.
        hint: &'static str,
    },
    /// A time that is none.
    #[error("{column} {value:?} {why}")]
    Value {
        /// The column.
        column: &'static str,
        /// What it holds, cut to 40 characters.
        value: String,
        /// What is wrong, and what is accepted.
        why: &'static str,
    },
    /// An id that is none.
    #[error("{column} {why}")]
    Id {
        /// The column.
        column: &'static str,
        /// What is wrong, and what is accepted.
        why: InvalidId,
    },
}

impl From<SplitError> for Reason {
    fn from(e: SplitError) -> Self {
        Self::Fields(e.to_string())
    }
}

/// Why a file cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system's word.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Nothing in it.
    #[error("is empty: a ViewingActivity.csv is expected")]
    Empty,
    /// An archive or another file with NUL bytes.
    #[error("is {what}, not text: {hint}")]
    NotText {
        /// What it seems to be.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The first line is neither a header nor a row.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Too large.
    #[error("has more than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// Too many lines.
    #[error("has more than {LINES_MAX} lines")]
    TooManyLines,
}

/// One line's worth of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A play.
    Play(Play),
    /// A row that was not understood.
    Refused(Refused),
}

/// A file, read row by row: an iterator over `Result<Row, FileError>`, at whose first error it ends.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    columns: Columns,
    /// The first line, when it is a row and not a header.
    pending: bool,
    done: bool,
    line: Vec<u8>,
    fields: Vec<String>,
    header: Vec<String>,
    line_number: u64,
    complete: bool,
    bytes: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads the beginning of a file: says which column is where, or why this is no such file.
    pub fn new(input: R) -> Result<Self, FileError> {
        let mut reader = Self {
            input,
            columns: Columns::default(),
            pending: false,
            done: false,
            line: Vec::new(),
            fields: Vec::new(),
            header: Vec::new(),
            line_number: 0,
            complete: true,
            bytes: 0,
        };
        reader.begin()?;
        Ok(reader)
    }

    /// Bytes read so far, for a progress bar.
    pub fn bytes_read(&self) -> u64 {
        self.bytes
    }

    /// Lines read so far, the header's and empty ones too.
    pub fn lines_read(&self) -> u64 {
        self.line_number
    }

    /// Finds the header.
    fn begin(&mut self) -> Result<(), FileError> {
        loop {
            match self.advance()? {
                Line::End => return Err(FileError::Empty),
                Line::TooLong => return Err(HeaderError::TooLong.into()),
                Line::Whole { .. } => {}
            }
            if self.line_number == 1 {
                not_text(&self.line)?;
                if self.line.starts_with(b"\xef\xbb\xbf") {
                    self.line.drain(..3);
                }
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        let text = std::str::from_utf8(&self.line).map_err(|e| HeaderError::NotUtf8 { at: e.valid_up_to() })?;
        let count = split(text, &mut self.fields, FIELDS_MAX).map_err(|e| HeaderError::Fields(e.to_string()))?;
        let (columns, is_header) = Columns::find(&self.fields[..count])?;
        self.columns = columns;
        self.pending = !is_header;
        if is_header {
            self.header = self.fields[..count].to_vec();
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Line, FileError> {
        let line = next_line(&mut self.input, &mut self.line, LINE_BYTES_MAX, &mut self.bytes)?;
        if self.bytes > FILE_BYTES_MAX {
            return Err(FileError::TooLarge);
        }
        if line != Line::End {
            self.line_number += 1;
        }
        if self.line_number > LINES_MAX {
            return Err(FileError::TooManyLines);
        }
        self.complete = line != Line::Whole { complete: false };
        Ok(line)
    }

    /// The next row, skipping empty lines and repeated headers.
    fn row(&mut self) -> Result<Option<Row>, FileError> {
        loop {
            if !std::mem::take(&mut self.pending) {
                match self.advance()? {
                    Line::End => return Ok(None),
                    Line::TooLong => return Ok(Some(self.refused(Reason::TooLong))),
                    Line::Whole { .. } => {}
                }
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            return Ok(Some(match self.play() {
                Ok(Some(play)) => Row::Play(play),
                Ok(None) => continue,
                Err(reason) => self.refused(reason),
            }));
        }
    }

    fn refused(&self, reason: Reason) -> Row {
        Row::Refused(Refused { line: self.line_number, reason })
    }

    /// Understands the current line; `None` if it is the header once more (files that were pasted together).
    fn play(&mut self) -> Result<Option<Play>, Reason> {
        if self.line.contains(&0) {
            return Err(Reason::Binary);
        }
        let text = std::str::from_utf8(&self.line).map_err(|e| Reason::NotUtf8 { at: e.valid_up_to() })?;
        let cut_off = "; the file seems to be cut off here";
        let count = split(text, &mut self.fields, FIELDS_MAX).map_err(|e| match e {
            SplitError::OpenQuote { .. } if !self.complete => Reason::Fields(format!("{e}{cut_off}")),
            e => e.into(),
        })?;
        let fields = &self.fields[..count];
        if !self.header.is_empty() && fields == self.header {
            return Ok(None);
        }
        if count != self.columns.count {
            let hint = match count > self.columns.count {
                true => "; a title with commas must stand in quotes",
                false if !self.complete => cut_off,
                false => "",
            };
            return Err(Reason::Columns { found: count, expected: self.columns.count, hint });
        }
        let row = Cells { columns: &self.columns, fields };
        Ok(Some(row.play(self.line_number)?))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Row, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let row = self.row().transpose();
        self.done = !matches!(row, Some(Ok(_)));
        row
    }
}

/// What a whole file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// The rows that were understood, in the file's order (newest first).
    pub plays: Vec<Play>,
    /// The rows that were not.
    pub refused: Vec<Refused>,
}

/// Reads a whole file; what it holds is bounded by [`LINES_MAX`].
pub fn read(input: impl BufRead) -> Result<Export, FileError> {
    let mut export = Export::default();
    for row in Reader::new(input)? {
        match row? {
            Row::Play(play) => export.plays.push(play),
            Row::Refused(refused) => export.refused.push(refused),
        }
    }
    Ok(export)
}

/// The fields of one row, by column.
struct Cells<'a> {
    columns: &'a Columns,
    fields: &'a [String],
}

impl Cells<'_> {
    fn get(&self, column: Column) -> Option<&str> {
        let at = self.columns.at(column)?;
        self.fields.get(at).map(|field| field.trim())
    }

    fn play(&self, line: u64) -> Result<Play, Reason> {
        Ok(Play {
            line,
            profile: self.id(Column::Profile, ProfileId::BYTES_MAX, None, ProfileId::new)?,
            title: self.id(Column::Title, TitleId::BYTES_MAX, None, TitleId::new)?,
            device: self.id(Column::Device, DeviceId::BYTES_MAX, Some(NO_DEVICE), DeviceId::new)?,
            kind: match self.get(Column::Kind) {
                None | Some("") => Kind::Title,
                Some(_) => Kind::Preview,
            },
            start: self.value(Column::Start, value::start)?.unwrap_or_default(),
            duration_ms: self.value(Column::Duration, value::duration)?.unwrap_or_default(),
            bookmark_ms: self.value(Column::Bookmark, value::bookmark)?.flatten(),
            latest_bookmark: self
                .value(Column::LatestBookmark, value::latest_bookmark)?
                .unwrap_or(LatestBookmark::Unknown),
        })
    }

    fn id<T>(
        &self,
        column: Column,
        bytes_max: usize,
        default: Option<&str>,
        make: impl FnOnce(String) -> Result<T, InvalidId>,
    ) -> Result<T, Reason> {
        let mut text = text_id(self.get(column).unwrap_or_default(), bytes_max);
        if let (true, Some(default)) = (text.is_empty(), default) {
            text.push_str(default);
        }
        make(text).map_err(|why| Reason::Id { column: column.name(), why })
    }

    fn value<T>(
        &self,
        column: Column,
        understand: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Result<Option<T>, Reason> {
        let Some(text) = self.get(column) else { return Ok(None) };
        understand(text).map(Some).map_err(|why| Reason::Value {
            column: column.name(),
            value: text.chars().take(40).collect(),
            why,
        })
    }
}

/// Recognises by its first bytes what people hand in by mistake.
fn not_text(beginning: &[u8]) -> Result<(), FileError> {
    let known: [(&[u8], &str, &str); 5] = [
        (
            b"PK\x03\x04",
            "a zip archive",
            "unpack it and give CONTENT_INTERACTION/ViewingActivity.csv (a spreadsheet: save it as CSV)",
        ),
        (b"\x1f\x8b", "a gzip archive", "unpack it first"),
        (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
        (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
        (b"%PDF", "a PDF", "ask for the CSV files"),
    ];
    for (magic, what, hint) in known {
        if beginning.starts_with(magic) {
            return Err(FileError::NotText { what, hint });
        }
    }
    match beginning.contains(&0) {
        true => Err(FileError::NotText { what: "a binary file", hint: "a ViewingActivity.csv is expected" }),
        false => Ok(()),
    }
}
