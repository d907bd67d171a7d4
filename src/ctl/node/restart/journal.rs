//! What has been done so far, told as it happens and kept for the end.

use parking_lot::Mutex;
use serde::Serialize;

use super::super::super::Output;
use super::super::super::context::Context;
use super::super::super::exit::Failure;
use super::super::super::output::span;
use super::super::super::text::{short, wrapped};
use crate::time::MonotonicMs;

/// What a line has beside its last column.
const DETAIL_WIDTH: usize = 46;

/// Something that is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    /// Waiting until all is well.
    WellBefore,
    /// Handing its leads over.
    HandOver,
    /// Restarting it.
    Restart,
    /// Waiting for its next process.
    Back,
    /// Waiting until all is well again.
    WellAfter,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::WellBefore => "all well",
            Self::HandOver => "hand over",
            Self::Restart => "restart",
            Self::Back => "back",
            Self::WellAfter => "well again",
        }
    }
}

/// One of them, done.
#[derive(Clone, Debug, Serialize)]
struct Step {
    node: String,
    step: Work,
    took_ms: u64,
    detail: String,
}

#[derive(Debug, Default)]
struct Kept {
    steps: Vec<Step>,
    /// What is under way, and since when.
    now: Option<(String, Work, MonotonicMs)>,
    /// The last thing that was said to be waited for.
    said: String,
    restarted: Vec<String>,
}

/// The whole of it.
#[derive(Debug)]
pub(super) struct Journal<'a> {
    context: &'a Context,
    kept: Mutex<Kept>,
}

/// The whole of it, for programs.
#[derive(Debug, Serialize)]
struct Document<'a> {
    /// Every node that was asked for is restarted and all is well.
    done: bool,
    /// Nodes whose new process serves and after which all was well.
    restarted: Vec<String>,
    /// The node that it stopped at.
    stopped_at: Option<String>,
    /// Nodes that were asked for and that nothing was done to.
    untouched: Vec<String>,
    /// Why it stopped.
    why: Option<String>,
    took_ms: u64,
    steps: &'a [Step],
}

impl<'a> Journal<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, kept: Mutex::default() }
    }

    /// A step begins.
    pub(super) fn begin(&self, node: &str, step: Work) {
        let mut kept = self.kept.lock();
        kept.now = Some((node.to_string(), step, self.context.clock.monotonic()));
        kept.said.clear();
    }

    /// The step that is under way waits, for this; said once.
    pub(super) fn waits(&self, why: &str) {
        let mut kept = self.kept.lock();
        let Some((node, ..)) = &kept.now else { return };
        if kept.said != why {
            self.context.note(&format!("{node}: waits: {why}"));
            kept.said = why.to_string();
        }
    }

    /// The step that was under way is done.
    pub(super) fn done(&self, detail: String) -> Result<(), Failure> {
        let mut kept = self.kept.lock();
        let Some((node, work, since)) = kept.now.take() else { return Ok(()) };
        let took_ms = self.context.clock.monotonic().since(since);
        if work == Work::WellAfter {
            kept.restarted.push(node.clone());
        }
        if self.context.output == Output::Table {
            let mut lines = wrapped(&detail, DETAIL_WIDTH).into_iter();
            let (name, work, took) = (short(&node, 12), work.name(), span(took_ms));
            self.context.print(&format!("{name:<12} {work:<10} {took:>7}  {}", lines.next().unwrap_or_default()))?;
            for line in lines {
                self.context.print(&format!("{:<32}{line}", ""))?;
            }
        }
        kept.steps.push(Step { node, step: work, took_ms, detail });
        Ok(())
    }

    /// What is under way.
    pub(super) fn now(&self) -> Option<(String, Work)> {
        self.kept.lock().now.clone().map(|(node, step, _)| (node, step))
    }

    /// Says how it ended.
    pub(super) fn end(&self, asked: &[String], took_ms: u64, ended: Result<(), Failure>) -> Result<(), Failure> {
        let kept = self.kept.lock();
        let stopped_at = kept.now.as_ref().map(|(node, ..)| node.clone());
        let touched = |node: &&String| kept.restarted.contains(node) || stopped_at.as_ref() == Some(*node);
        let untouched: Vec<String> = asked.iter().filter(|node| !touched(node)).cloned().collect();
        let why = ended.as_ref().err().map(ToString::to_string);
        let document = Document {
            done: ended.is_ok(),
            restarted: kept.restarted.clone(),
            stopped_at,
            untouched: untouched.clone(),
            why,
            took_ms,
            steps: &kept.steps,
        };
        match (self.context.output, &ended) {
            (Output::Json, _) => self.context.answer(&document, String::new)?,
            (Output::Table, Ok(())) => {
                let number = kept.restarted.len();
                let s = if number == 1 { "" } else { "s" };
                self.context.print(&format!("{number} node{s} restarted in {}, all is well", span(took_ms)))?;
            }
            (Output::Table, Err(_)) if !untouched.is_empty() => {
                self.context.note(&format!("nothing was done to {}", untouched.join(", ")));
            }
            (Output::Table, Err(_)) => {}
        }
        ended
    }
}
