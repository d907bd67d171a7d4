//! The rows as they are shown: the running one is renewed in place in a terminal; elsewhere each is written when it has ended.

use std::io::Write as _;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::Output;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::live::Live;
use super::super::output::{clock, number, paint};
use super::super::text::harmless;
use super::row::{HEADER, Row};
use crate::device::Snapshot;
use crate::time::MonotonicMs;

/// What stands on the screen.
pub(super) struct View {
    live: Live,
    /// Rows are for people.
    shown: bool,
    begun: MonotonicMs,
    /// How long it goes on, in words.
    until: String,
    /// Writes acknowledged, and when that was.
    last: (u64, MonotonicMs),
    rate: u64,
    /// Somebody has interrupted.
    stop: CancellationToken,
}

impl View {
    /// How often it is renewed.
    pub(super) const RENEW: Duration = Duration::from_millis(500);

    pub(super) fn new(context: &Context, begun: MonotonicMs, until: String, stop: CancellationToken) -> Self {
        let shown = context.output == Output::Table;
        Self { live: Live::new(), shown, begun, until, last: (0, begun), rate: 0, stop }
    }

    /// Says something above the rows to come.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        if self.shown {
            self.live.clear()?;
            writeln!(std::io::stdout().lock(), "{}", harmless(text))?;
        }
        Ok(())
    }

    pub(super) fn header(&mut self) -> Result<(), Failure> {
        self.say(&paint(HEADER, 1))
    }

    /// A row that has ended stays.
    pub(super) fn ended(&mut self, row: &Row) -> Result<(), Failure> {
        self.say(&row.text())
    }

    /// Shows how it goes, where that can be renewed.
    pub(super) fn draw(&mut self, row: Option<&Row>, counters: &Snapshot, now: MonotonicMs) -> Result<(), Failure> {
        if !self.shown || !self.live.in_terminal() {
            return Ok(());
        }
        let acknowledged = counters.reports_acknowledged + counters.writes_acknowledged;
        let (before, at) = self.last;
        if now.since(at) >= 900 {
            self.rate = (acknowledged - before) * 1_000 / now.since(at).max(1);
            self.last = (acknowledged, now);
        }
        let mut lines = Vec::new();
        if let Some(row) = row {
            let lasted_ms = row.lasted_ms.or_else(|| Some(now.since(self.begun.plus(row.at_ms))));
            lines.push(Row { lasted_ms, ..row.clone() }.line());
        }
        let elapsed = clock(i64::try_from(now.since(self.begun)).unwrap_or(i64::MAX));
        lines.push(paint(
            &format!(
                "{elapsed} {}  {} acknowledged ({}/s)  {} wrong  {}",
                self.until,
                number(acknowledged),
                number(self.rate),
                counters.mismatches,
                if self.stop.is_cancelled() { "ending; ctrl-C: at once" } else { "ctrl-C checks" },
            ),
            2,
        ));
        Ok(self.live.show(&lines)?)
    }

    /// Takes away what is renewed.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        if self.shown {
            self.live.clear()?;
        }
        Ok(())
    }
}
