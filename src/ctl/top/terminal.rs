//! The whole screen of a terminal, given back however this ends.

use std::io::{self, Stdout};

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures::StreamExt as _;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::super::output::coloured;

/// A terminal in raw mode, on its other screen.
pub(super) struct Terminal {
    terminal: ratatui::Terminal<CrosstermBackend<Stdout>>,
    events: EventStream,
    /// Polite kills, and a terminal that goes away.
    ends: [Signal; 3],
}

/// What somebody wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Quit,
    Hold,
    Redraw,
}

impl Terminal {
    pub(super) fn enter() -> io::Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        let ends = [terminate?, interrupt?, hangup?];
        // Also sees to it that a panic gives the terminal back before it is told.
        let terminal = ratatui::try_init()?;
        Ok(Self { terminal, events: EventStream::new(), ends })
    }

    /// Draws the screen anew; only what has changed is written.
    pub(super) fn draw(&mut self, draw: impl FnOnce(Rect, &mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| {
            let area = frame.area();
            draw(area, frame.buffer_mut());
            if !coloured() {
                frame.buffer_mut().set_style(area, Style::reset());
            }
        })?;
        Ok(())
    }

    /// What is asked for next; the end of the keyboard's input, and of this program's time, is `Quit`.
    pub(super) async fn next(&mut self) -> io::Result<Asked> {
        let [terminate, interrupt, hangup] = &mut self.ends;
        loop {
            let event = tokio::select! {
                event = self.events.next() => event,
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                _ = hangup.recv() => None,
            };
            match event.transpose()? {
                None => return Ok(Asked::Quit),
                Some(Event::Resize(..)) => return Ok(Asked::Redraw),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match key.code {
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(Asked::Quit),
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(Asked::Quit),
                    KeyCode::Char('p' | ' ') => return Ok(Asked::Hold),
                    _ => {}
                },
                Some(_) => {}
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Whoever took the terminal away needs it back from nobody.
        let _ = ratatui::try_restore();
    }
}
