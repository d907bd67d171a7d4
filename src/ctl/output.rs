//! Tables that fit a terminal; times, sizes and numbers as people read them.

use std::io::IsTerminal as _;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};
use prost_types::Timestamp;
use serde::{Serialize, Serializer};

use crate::time::WallMs;

/// What every answer fits in.
const COLUMNS: u16 = 80;

/// Whether standard output shows colours.
pub(super) fn coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A table without borders; in a terminal it is wrapped to its width.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = bare_table();
    table.set_header(header.map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    table
}

/// A table without a header. [`text`] sees to the space between its columns.
pub(super) fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let in_terminal = std::io::stdout().is_terminal();
    table.set_content_arrangement(if in_terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
    table
}

/// How wide a column of text may be that has `at_80` where 80 columns are shown: in a wider terminal it gets its share, in
/// hundredths, of what there is more.
pub(super) fn room(at_80: usize, share: usize) -> usize {
    let shown = std::io::stdout().is_terminal().then(crossterm::terminal::size).and_then(Result::ok);
    let more = usize::from(shown.map_or(0, |(columns, _)| columns.saturating_sub(COLUMNS)));
    at_80 + more * share / 100
}

/// Sets columns of numbers to the right.
pub(super) fn right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A table's text, without the blanks at the ends of its lines.
pub(super) fn text(table: &mut Table) -> String {
    table.discover_columns();
    let last = table.column_count().saturating_sub(1);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == last { 0 } else { 2 }));
    }
    table.lines().map(|line| line.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

/// A cell that is green when all is well, red when not.
pub(super) fn judged(text: impl ToString, well: bool) -> Cell {
    let cell = Cell::new(text);
    match (coloured(), well) {
        (false, _) => cell,
        (true, true) => cell.fg(Color::Green),
        (true, false) => cell.fg(Color::Red),
    }
}

/// A cell in a colour of the terminal, if it has any.
pub(super) fn cell(text: impl ToString, ansi: u8) -> Cell {
    let cell = Cell::new(text);
    let colour = match ansi {
        31 => Color::DarkRed,
        32 => Color::DarkGreen,
        33 => Color::DarkYellow,
        34 => Color::DarkBlue,
        35 => Color::DarkMagenta,
        36 => Color::DarkCyan,
        _ => Color::Cyan,
    };
    if coloured() { cell.fg(colour) } else { cell }
}

/// Text in a colour of the terminal (an ANSI number, such as 32 for green), if it has any.
pub(super) fn paint(text: &str, ansi: u8) -> String {
    if coloured() { format!("\u{1b}[{ansi}m{text}\u{1b}[0m") } else { text.to_string() }
}

/// `1,234,567`.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.4 MiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (n as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A position or length: `0:41:05`.
pub(super) fn clock(ms: i64) -> String {
    let seconds = ms / 1_000;
    format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// A span: `45 ms`, `12 s`, `3 min`, `2 h 5 min`, `4 d 3 h`.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A span, from a duration.
pub(super) fn span_of(duration: Duration) -> String {
    span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A time on the calendar, UTC: `2024-03-01 18:04`; `-` for none.
pub(super) fn date(time: Option<&Timestamp>) -> String {
    let time = time.and_then(|t| jiff::Timestamp::new(t.seconds, t.nanos).ok());
    time.map_or_else(|| "-".into(), |t| t.strftime("%Y-%m-%d %H:%M").to_string())
}

/// The time of day, UTC: `18:04:05`.
pub(super) fn clock_time(now: WallMs) -> String {
    let seconds = now.0 / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// Numbers in order as ranges: `0-3, 7, 9-12`; `-` for none.
pub(super) fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number.checked_sub(1) == Some(*last) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): (u32, u32)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    let text = ranges.into_iter().map(range).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".into() } else { text }
}

/// How long ago a time was: `12 s ago`; `-` for none, `now` for less than a second or a clock that is ahead.
pub(super) fn ago(time: Option<&Timestamp>, now: WallMs) -> String {
    let Some(then) = time.and_then(wall) else { return "-".into() };
    match now.since(then) {
        0..=999 => "now".into(),
        ms => format!("{} ago", span(ms)),
    }
}

/// A wire time in our own unit; `None` before 1970.
pub(super) fn wall(time: &Timestamp) -> Option<WallMs> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let ms = u64::try_from(time.nanos).ok()? / 1_000_000;
    Some(WallMs(seconds.checked_mul(1_000)?.checked_add(ms)?))
}

/// A time for programs: `2024-03-01T18:04:05.123Z`, or null.
pub(super) fn rfc3339<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = time.as_ref().and_then(|t| jiff::Timestamp::new(t.seconds, t.nanos).ok()).map(|t| t.to_string());
    text.serialize(serializer)
}

/// A bar of `width` cells of which `share` (0 to 1) are full.
pub(super) fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8 - 1]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_numbers_in_a_row_are_short() {
        let at = Timestamp { seconds: 1_709_316_245, nanos: 0 };
        assert_eq!([date(Some(&at)), date(None)], ["2024-03-01 18:04", "-"]);
        assert_eq!(clock_time(WallMs(1_709_316_245_999)), "18:04:05");
        assert_eq!([ranges([0, 1, 2, 5, 7, 8]), ranges([]), ranges([u32::MAX])], ["0-2, 5, 7-8", "-", "4294967295"]);
    }

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!([number(0), number(999), number(1_000), number(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(1023), bytes(1536), bytes(3 << 30)], ["1023 B", "1.5 KiB", "3.0 GiB"]);
        assert_eq!([clock(2_465_000), clock(36_000_000)], ["0:41:05", "10:00:00"]);
        assert_eq!(
            [span(45), span(119_999), span(7_500_000), span(356_400_000)],
            ["45 ms", "119 s", "2 h 5 min", "4 d 3 h"]
        );
        assert_eq!([bar(0.5, 4), bar(0.28, 4), bar(7.0, 2)], ["██", "█▏", "██"]);
    }

    #[test]
    fn times_that_are_missing_or_ahead_are_told_as_such() {
        let now = WallMs(10_000);
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        assert_eq!([ago(None, now), ago(Some(&at(11)), now), ago(Some(&at(7)), now)], ["-", "now", "3 s ago"]);
        assert_eq!(ago(Some(&at(-1)), now), "-");
    }
}
