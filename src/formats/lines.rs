//! Lines of bounded length out of a reader, and fields out of a line.
//!
//! Each row of the formats here stands on one line. Reading line by line rather than by a general CSV parser means that a
//! forgotten quote spoils its own row only, that line numbers are right, and that no row can grow without bound.

use std::io::{self, BufRead};

/// What came of asking for a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// There is none left.
    End,
    /// A line, without its end (LF or CR LF); `complete` is false when the file ended before the line did.
    Whole {
        /// Whether an end of line was seen.
        complete: bool,
    },
    /// A line of more than the allowed bytes, which has been skipped.
    TooLong,
}

/// Reads one line into `into`, holding at most `bytes_max` of it; adds what it took from the reader to `taken`.
pub(super) fn next_line(
    input: &mut impl BufRead,
    into: &mut Vec<u8>,
    bytes_max: usize,
    taken: &mut u64,
) -> io::Result<Line> {
    into.clear();
    let mut too_long = false;
    let mut any = false;
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if chunk.is_empty() {
            return Ok(match (any, too_long) {
                (false, _) => Line::End,
                (true, true) => Line::TooLong,
                (true, false) => Line::Whole { complete: false },
            });
        }
        any = true;
        let end = chunk.iter().position(|b| *b == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        if into.len() + part.len() > bytes_max {
            too_long = true;
        } else {
            into.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        *taken += used as u64;
        if end.is_some() {
            if into.last() == Some(&b'\r') {
                into.pop();
            }
            return Ok(if too_long { Line::TooLong } else { Line::Whole { complete: true } });
        }
    }
}

/// Why a line is not a row of comma-separated fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SplitError {
    #[error("field {field} opens a quote that is not closed on this line")]
    OpenQuote { field: usize },
    #[error("field {field} goes on after its closing quote: a quote inside a quoted field is written twice")]
    AfterQuote { field: usize },
    #[error("has more than {max} fields")]
    TooMany { max: usize },
}

/// Splits a line at its commas as RFC 4180 says; a quote inside a field that does not begin with one is an ordinary
/// character. Reuses the strings of `fields`; returns how many are filled.
pub(super) fn split(line: &str, fields: &mut Vec<String>, fields_max: usize) -> Result<usize, SplitError> {
    let mut count = 0;
    let mut rest = Some(line);
    while let Some(text) = rest {
        if count == fields_max {
            return Err(SplitError::TooMany { max: fields_max });
        }
        if fields.len() == count {
            fields.push(String::new());
        }
        let field = &mut fields[count];
        field.clear();
        count += 1;
        rest = match text.strip_prefix('"') {
            None => match text.split_once(',') {
                Some((before, after)) => {
                    field.push_str(before);
                    Some(after)
                }
                None => {
                    field.push_str(text);
                    None
                }
            },
            Some(quoted) => unquote(quoted, field, count)?,
        };
    }
    Ok(count)
}

/// Takes a quoted field, whose opening quote is gone, and returns what follows its comma.
fn unquote<'a>(mut text: &'a str, field: &mut String, number: usize) -> Result<Option<&'a str>, SplitError> {
    loop {
        let Some((before, after)) = text.split_once('"') else { return Err(SplitError::OpenQuote { field: number }) };
        field.push_str(before);
        if let Some(after) = after.strip_prefix('"') {
            field.push('"');
            text = after;
        } else if after.is_empty() {
            return Ok(None);
        } else if let Some(after) = after.strip_prefix(',') {
            return Ok(Some(after));
        } else {
            return Err(SplitError::AfterQuote { field: number });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(line: &str) -> Result<Vec<String>, SplitError> {
        let mut fields = Vec::new();
        let count = split(line, &mut fields, 8)?;
        fields.truncate(count);
        Ok(fields)
    }

    #[test]
    fn fields_are_split_at_commas_outside_of_quotes() {
        assert_eq!(fields(r#"a,"b, ""c""",,5" tall"#).unwrap(), ["a", r#"b, "c""#, "", r#"5" tall"#]);
        assert_eq!(fields("").unwrap(), [""]);
        assert_eq!(fields("a,").unwrap(), ["a", ""]);
    }

    #[test]
    fn broken_quotes_are_told_by_their_field() {
        assert_eq!(fields(r#"a,"b"#), Err(SplitError::OpenQuote { field: 2 }));
        assert_eq!(fields(r#"a,"b"c,d"#), Err(SplitError::AfterQuote { field: 2 }));
        assert_eq!(fields(",,,,,,,,"), Err(SplitError::TooMany { max: 8 }));
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_one_is_read() {
        let text = b"short\r\nthis one is too long\nlast";
        let mut input = io::BufReader::with_capacity(4, &text[..]);
        let (mut line, mut taken) = (Vec::new(), 0);
        assert_eq!(next_line(&mut input, &mut line, 8, &mut taken).unwrap(), Line::Whole { complete: true });
        assert_eq!(line, b"short");
        assert_eq!(next_line(&mut input, &mut line, 8, &mut taken).unwrap(), Line::TooLong);
        assert_eq!(next_line(&mut input, &mut line, 8, &mut taken).unwrap(), Line::Whole { complete: false });
        assert_eq!(line, b"last");
        assert_eq!(next_line(&mut input, &mut line, 8, &mut taken).unwrap(), Line::End);
        assert_eq!(taken, text.len() as u64);
    }
}
