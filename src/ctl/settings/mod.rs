//! `clusterctl settings`: the figures that every shard works by.

mod get;
mod set;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::output::{number, span};
use super::text::plain;

/// The most figures of one change, and the most that are shown.
const FIGURES_MAX: usize = 256;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The figures that every shard works by
    Get,
    /// Change figures: they are written to every shard's log within moments
    Set(SetOptions),
}

#[derive(Debug, Args)]
pub(super) struct SetOptions {
    /// What changes; times are in milliseconds
    #[arg(value_name = "NAME=VALUE", required = true, num_args = 1..=FIGURES_MAX, value_parser = figure)]
    figures: Vec<(String, u64)>,
}

/// A figure with its value, as it is typed.
fn figure(text: &str) -> Result<(String, u64), String> {
    let refused = || format!("{:?} is no figure: NAME=VALUE with a whole number is accepted", plain(text));
    let (name, value) = text.split_once('=').ok_or_else(refused)?;
    let fits = (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    match (fits, value.replace('_', "").parse()) {
        (true, Ok(value)) => Ok((name.to_string(), value)),
        _ => Err(refused()),
    }
}

/// The settings.
#[derive(Debug, Serialize)]
struct Settings {
    version: u64,
    figures: BTreeMap<String, u64>,
}

impl Settings {
    fn new(version: u64, figures: HashMap<String, u64>) -> Self {
        let figures = figures.into_iter().take(FIGURES_MAX).map(|(name, value)| (plain(&name), value));
        Self { version, figures: figures.collect() }
    }
}

/// A figure's value as people read it.
fn read(name: &str, value: u64) -> String {
    match name.rsplit('_').next() {
        Some("ms") => span(value),
        Some("percent") => format!("{value} %"),
        Some("permille") => format!("{}.{} %", value / 10, value % 10),
        _ => number(value),
    }
}

/// How long a view may be silent by the cluster's settings.
pub(super) async fn silence(context: &Context) -> Result<Duration, Failure> {
    let figures = get::settings(context, &context.admin()?).await?.figures;
    match (figures.get("interval_ms"), figures.get("silence_percent")) {
        (Some(interval_ms), Some(percent)) => Ok(Duration::from_millis(interval_ms.saturating_mul(*percent) / 100)),
        _ => Err(Failure::error("the cluster does not say how long a view may be silent")),
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Get => get::run(context).await,
        Command::Set(options) => set::run(context, options).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_names_with_whole_numbers() {
        assert_eq!(figure("interval_ms=15_000"), Ok(("interval_ms".into(), 15_000)));
        assert_eq!(figure("policy.max_streams=4"), Ok(("policy.max_streams".into(), 4)));
        for text in ["", "a", "=1", "a=", "a=-1", "a=1.5", "a=x", "a b=1", "a\u{7}=1", "a=99999999999999999999"] {
            assert!(figure(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn values_are_read_by_their_units() {
        assert_eq!([read("a_ms", 90_000), read("a_percent", 95), read("a_permille", 25)], ["90 s", "95 %", "2.5 %"]);
        assert_eq!(read("policy.max_streams", 4_000), "4,000");
    }
}
