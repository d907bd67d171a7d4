//! Log lines.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Why log lines can't be written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter is not one.
    #[error("the log filter {filter:?} is not a list of directives: {reason}")]
    Filter {
        /// What was given.
        filter: String,
        /// Why not.
        reason: String,
    },
    /// Somebody in this process was first.
    #[error("log lines are already being written in this process")]
    Twice,
}

/// Sends all log lines that pass `filter` (tracing's directives) to standard error, as JSON objects or as text.
pub fn init(json: bool, filter: &str) -> Result<(), InitError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|e| InitError::Filter { filter: filter.to_string(), reason: e.to_string() })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_target(true);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        builder.with_ansi(colours).compact().try_init()
    };
    started.map_err(|_| InitError::Twice)
}
