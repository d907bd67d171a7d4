//! Lines that are written over themselves in a terminal; elsewhere one line once in a while.

use std::io::{self, IsTerminal as _, Write as _};

use crossterm::cursor::MoveUp;
use crossterm::terminal::{self, Clear, ClearType};
use crossterm::{QueueableCommand as _, style::Print};

/// Part of standard output that is renewed in place.
#[derive(Debug)]
pub(super) struct Live {
    in_terminal: bool,
    height: u16,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { in_terminal: io::stdout().is_terminal(), height: 0 }
    }

    /// Whether there is a terminal to draw in.
    pub(super) fn in_terminal(&self) -> bool {
        self.in_terminal
    }

    /// Shows these lines in the place of the last ones, cut to the terminal's width and height.
    pub(super) fn show(&mut self, lines: &[String]) -> io::Result<()> {
        let (width, rows) = terminal::size().unwrap_or((80, 24));
        let mut out = io::stdout().lock();
        self.rewind(&mut out)?;
        let lines = &lines[..lines.len().min(usize::from(rows.saturating_sub(1)))];
        for line in lines {
            out.queue(Print(cut(line, usize::from(width))))?.queue(Print("\r\n"))?;
        }
        self.height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        out.flush()
    }

    /// Takes the lines away.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.rewind(&mut out)?;
        out.flush()
    }

    fn rewind(&mut self, out: &mut impl io::Write) -> io::Result<()> {
        if self.height > 0 {
            out.queue(MoveUp(self.height))?.queue(Clear(ClearType::FromCursorDown))?;
            self.height = 0;
        }
        Ok(())
    }
}

/// The first `width` characters of a line; escape sequences for colours take no place and are kept.
fn cut(line: &str, width: usize) -> String {
    let (mut text, mut shown, mut in_escape) = (String::new(), 0, false);
    for c in line.chars() {
        in_escape |= c == '\u{1b}';
        if in_escape {
            text.push(c);
            in_escape = c != 'm';
        } else if shown < width {
            text.push(c);
            shown += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn lines_are_cut_by_what_is_seen_of_them() {
        assert_eq!(cut("abcdef", 3), "abc");
        assert_eq!(cut("\u{1b}[32mabcdef\u{1b}[0m", 3), "\u{1b}[32mabc\u{1b}[0m");
        assert_eq!(cut("äöü", 5), "äöü");
    }
}
