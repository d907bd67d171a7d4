//! Showing the same answer again and again.

use std::time::Duration;

use clap::Args;

use super::context::{Context, Screen};
use super::exit::Failure;
use super::live::Live;
use super::output::{clock_time, span_of};
use super::text::harmless;
use super::{Output, connect};

/// Whether, how often and how many times.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Repeat {
    /// Show it again and again (every 2s unless said): in a terminal in place, with `--output json` one document a line
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        default_missing_value = "2s",
        value_parser = connect::duration
    )]
    watch: Option<Duration>,
    /// End after so many times; otherwise ctrl-C ends it
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
}

/// Shows what `look` finds: once, or again and again.
///
/// The first look has to succeed; a later one that fails is told and does not end it, because whoever watches wants to see
/// the cluster come back. The last look says how it went, unless somebody interrupts: then it went well.
pub(super) async fn run(
    context: &Context,
    options: &Repeat,
    look: impl AsyncFn(&Context) -> Result<Screen, Failure>,
) -> Result<(), Failure> {
    let Some(every) = options.watch else { return context.show(look(context).await?) };
    let watching = watching(context, options.count, every, look);
    tokio::select! {
        ended = watching => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

async fn watching(
    context: &Context,
    count: Option<u32>,
    every: Duration,
    look: impl AsyncFn(&Context) -> Result<Screen, Failure>,
) -> Result<(), Failure> {
    let mut shown = Shown { context, every, live: Live::new(), last: String::new() };
    let mut verdict = Ok(());
    for time in 1u32.. {
        verdict = match look(&context.one_of_many()).await {
            Ok(screen) => match shown.show(&screen.text)? {
                true => screen.verdict,
                false => return screen.verdict,
            },
            Err(failure) if time == 1 => return Err(failure),
            Err(failure) => {
                shown.failed(&failure)?;
                Err(failure)
            }
        };
        if count.is_some_and(|count| time >= count) {
            break;
        }
        tokio::time::sleep(every).await;
    }
    verdict
}

/// What stands on the screen.
struct Shown<'a> {
    context: &'a Context,
    every: Duration,
    live: Live,
    last: String,
}

impl Shown<'_> {
    /// Shows a text; whether anybody reads on.
    fn show(&mut self, text: &str) -> Result<bool, Failure> {
        if !self.in_place() {
            let blank = if self.context.output == Output::Table && !self.last.is_empty() { "\n" } else { "" };
            self.last = text.to_string();
            return self.context.print(&format!("{blank}{text}"));
        }
        self.last = text.to_string();
        self.draw(None)?;
        Ok(true)
    }

    fn failed(&mut self, failure: &Failure) -> Result<(), Failure> {
        match self.in_place() {
            true => self.draw(Some(failure)),
            false => {
                self.context.note(&failure.to_string());
                Ok(())
            }
        }
    }

    fn in_place(&self) -> bool {
        self.context.output == Output::Table && self.live.in_terminal()
    }

    fn draw(&mut self, failure: Option<&Failure>) -> Result<(), Failure> {
        let now = clock_time(self.context.clock.wall());
        let mut lines = vec![format!("{now} UTC, every {} (ctrl-C ends)", span_of(self.every)), String::new()];
        if let Some(failure) = failure {
            lines.push(harmless(&format!("{failure}; what follows is older")));
            lines.push(String::new());
        }
        lines.extend(self.last.lines().map(str::to_string));
        Ok(self.live.show(&lines)?)
    }
}
