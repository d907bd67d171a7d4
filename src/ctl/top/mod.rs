//! `clusterctl top`: the cluster, live.
//!
//! Looking is done here. What follows from two looks (rates, what has happened, what is moving) is in `model`, how it is drawn in
//! `draw`: both are functions of what was heard. In a terminal it takes the whole screen and obeys some keys; elsewhere it
//! writes one screen of 80 columns after the other, and with `--output json` one document a line.

mod draw;
mod model;
mod terminal;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::context::Context;
use super::exit::Failure;
use super::output::span_of;
use super::shard::{self, Shard};
use super::status::Status;
use super::{Output, connect};
use crate::client::{AdminClient, Error};
use crate::proto::v1;
use model::Model;
use terminal::{Asked, Terminal};

/// How wide and high a screen is that nobody looks at in a terminal.
const PLAIN: (u16, u16) = (80, 40);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// How often it is looked
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = every)]
    every: Duration,
    /// End after so many screens; otherwise `q` or ctrl-C ends it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
}

/// 100 ms to an hour.
fn every(text: &str) -> Result<Duration, String> {
    let time = connect::duration(text)?;
    let fits = (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&time);
    fits.then_some(time).ok_or_else(|| "100ms to 60m are accepted".into())
}

/// What was heard in one look.
#[derive(Clone, Debug)]
struct Look {
    status: Status,
    shards: Vec<Shard>,
}

/// Asks one node for all of it, since what nodes know of each other is of different ages: the one that answered last, `from`, if it
/// still does.
async fn look(context: &Context, from: &mut usize) -> Result<Look, Failure> {
    let context = context.one_of_many();
    let endpoints = &context.connection.admin;
    let mut failure =
        Failure::Usage("--endpoints names no admin endpoint: HOST:PORT,..;admin=HOST:PORT,.. is accepted".into());
    for left in (1..=endpoints.len()).rev() {
        let patience = context.left() / u32::try_from(left).unwrap_or(u32::MAX);
        let one = context.admin_of(&endpoints[*from % endpoints.len()], patience)?;
        match tokio::time::timeout(patience, look_through(&one)).await {
            Ok(Ok(look)) => return look,
            Ok(Err(error)) => failure = error.into(),
            Err(_) => failure = Failure::Unreachable(format!("no answer within {}", span_of(patience))),
        }
        *from += 1;
    }
    Err(failure)
}

async fn look_through(one: &AdminClient) -> Result<Result<Look, Failure>, Error> {
    let status = Status::from(one.get_cluster_status(v1::GetClusterStatusRequest {}).await?);
    if status.cluster_id.is_empty() {
        return Ok(Err(Failure::Degraded(status.complaints().join("; "))));
    }
    let shards = one.all_shards().await?;
    let silent = shard::silent(&status.nodes);
    let shards = shards.into_iter().map(|shard| Shard::from(shard).without(&silent)).collect();
    Ok(Ok(Look { status, shards }))
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let (mut model, mut from) = (Model::default(), 0);
    // Before the screen is taken: whoever can't be reached is told of as by any other command.
    model.take(look(context, &mut from).await?, context.clock.wall());
    if context.output == Output::Table && std::io::stdout().is_terminal() {
        return in_terminal(context, &options, model, from).await;
    }
    tokio::select! {
        ended = in_lines(context, &options, model, from) => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// One screen, or one document, after the other.
async fn in_lines(context: &Context, options: &Options, mut model: Model, mut from: usize) -> Result<(), Failure> {
    let mut verdict = Ok(());
    for time in 1u32.. {
        // Rates need two looks.
        tokio::time::sleep(options.every).await;
        verdict = match look(context, &mut from).await {
            Ok(look) => {
                let top = model.take(look, context.clock.wall());
                let table = || draw::plain(&top, PLAIN);
                let screen = context.one_of_many().screen(&top, table, top.verdict())?;
                let blank = if context.output == Output::Table && time > 1 { "\n" } else { "" };
                if !context.print(&format!("{blank}{}", screen.text))? {
                    return screen.verdict;
                }
                screen.verdict
            }
            Err(failure) => {
                context.note(&failure.to_string());
                Err(failure)
            }
        };
        if options.count.is_some_and(|count| time >= count) {
            break;
        }
    }
    verdict
}

/// On the whole screen, until somebody has seen enough.
async fn in_terminal(context: &Context, options: &Options, mut model: Model, from: usize) -> Result<(), Failure> {
    let mut terminal = Terminal::enter()?;
    let (sender, mut looks) = mpsc::channel(1);
    let mut looking = JoinSet::new();
    looking.spawn(look_on(context.clone(), options.every, from, sender));
    let hint = format!("every {}   q quits   p holds", span_of(options.every));
    let (mut held, mut screens) = (None, 0);
    loop {
        match &held {
            Some(top) => terminal.draw(|area, buffer| draw::screen(top, area, buffer, "HELD   q quits   p goes on"))?,
            None => terminal.draw(|area, buffer| draw::screen(model.top(), area, buffer, &hint))?,
        }
        let verdict = tokio::select! {
            asked = terminal.next() => match asked? {
                Asked::Quit => return Ok(()),
                Asked::Hold => {
                    held = if held.is_some() { None } else { Some(model.top().clone()) };
                    continue;
                }
                Asked::Redraw => continue,
            },
            Some(looked) = looks.recv() => match looked {
                Ok(look) => model.take(look, context.clock.wall()).verdict(),
                Err(failure) => {
                    model.miss(&failure.to_string());
                    Err(failure)
                }
            },
        };
        screens += 1;
        if options.count.is_some_and(|count| screens >= count) {
            return verdict;
        }
    }
}

/// Looks again and again, as long as anybody wants to know.
async fn look_on(context: Context, every: Duration, mut from: usize, sender: mpsc::Sender<Result<Look, Failure>>) {
    loop {
        tokio::time::sleep(every).await;
        if sender.send(look(&context, &mut from).await).await.is_err() {
            return;
        }
    }
}
