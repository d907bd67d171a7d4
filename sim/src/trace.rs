//! What happened, one line an event: virtual time, where, what. Two runs of one seed give equal lines.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::system;

thread_local! {
    /// Whose turn it is: what is logged meanwhile is its.
    static HERE: Cell<u8> = const { Cell::new(0) };
}

/// What is run from now on, on this thread, is of this machine; 0 is the simulation itself.
pub(crate) fn here(machine: u8) {
    HERE.set(machine);
}

/// The lines. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    violations: Vec<String>,
    echo: bool,
}

fn place(machine: u8) -> String {
    match machine {
        0 => "sim".to_string(),
        100.. => format!("c{}", machine - 100),
        n => format!("n{n}"),
    }
}

impl Trace {
    /// Lines that are also printed as they come.
    pub(crate) fn echoing(echo: bool) -> Self {
        let trace = Self::default();
        trace.0.lock().echo = echo;
        trace
    }

    /// Adds a line.
    pub(crate) fn say(&self, what: fmt::Arguments<'_>) {
        let now = system::now();
        let line = format!("{:>4}.{:03} {:<4} {what}", now / 1000, now % 1000, place(HERE.get()));
        let mut lines = self.0.lock();
        if lines.echo {
            eprintln!("{line}");
        }
        lines.lines.push(line);
    }

    /// Something that must never be was seen.
    pub(crate) fn violated(&self, what: String) {
        self.say(format_args!("VIOLATED {what}"));
        self.0.lock().violations.push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.0.lock().violations.clone()
    }

    /// All lines as one text.
    pub(crate) fn text(&self) -> String {
        let lines = self.0.lock();
        lines.lines.iter().fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
    }
}

/// Adds a line to a trace, as `format!` would write it.
macro_rules! say {
    ($trace:expr, $($what:tt)*) => { $trace.say(format_args!($($what)*)) };
}
pub(crate) use say;

/// What nodes log goes into the trace.
pub(crate) struct Logged(pub(crate) Trace);

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string doesn't fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl<S: tracing::Subscriber> Layer<S> for Logged {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        say!(self.0, "{} {}{}", event.metadata().level(), text.message, text.fields);
    }
}
