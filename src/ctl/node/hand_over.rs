//! `clusterctl node hand-over`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tonic::Code;

use super::super::ask::permission;
use super::super::connect;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{number, span};
use super::super::status::Status;
use super::super::text::plain;
use super::{Node, node_name, show};
use crate::client::Error;
use crate::proto::v1;

/// The longest that a node stays without leads.
const HOLD_MAX: Duration = Duration::from_secs(3_600);

/// Which node, and for how long.
#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// The node's name
    #[arg(value_name = "NAME", value_parser = node_name)]
    node: String,
    /// For how long it stays without leads, up to an hour
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = hold)]
    hold: Duration,
    /// Let it take leads again at once
    #[arg(long, conflicts_with = "hold")]
    end: bool,
}

fn hold(text: &str) -> Result<Duration, String> {
    let hold = connect::duration(text)?;
    (hold <= HOLD_MAX).then_some(hold).ok_or_else(|| format!("{text:?} is more than 1h"))
}

/// What a node says of its leads.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HandedOver {
    pub(super) node: String,
    /// Leads that others took.
    pub(super) handed_over: u32,
    /// Leads that it still has, the meta group's included.
    pub(super) leads: u32,
    /// For how much longer it stays without, milliseconds.
    pub(super) hold_ms: u32,
    /// Which of its processes says so.
    pub(super) generation: u64,
}

/// Has a node hand over its leads and stay without for `hold`; zero: it takes leads again. `None`: its version can't.
pub(super) async fn hand_over(context: &Context, node: &Node, hold: Duration) -> Result<Option<HandedOver>, Failure> {
    let hold_ms = u32::try_from(hold.min(HOLD_MAX).as_millis()).unwrap_or(u32::MAX);
    let request = v1::HandOverRequest { node: node.node.clone(), hold_ms };
    match context.admin_of(&node.admin_endpoint, context.left())?.hand_over(request).await {
        Ok(answer) => Ok(Some(HandedOver {
            node: plain(&answer.node),
            handed_over: answer.handed_over,
            leads: answer.leads,
            hold_ms: answer.hold_ms,
            generation: answer.generation,
        })),
        Err(Error::Rejected(rejection)) if rejection.code == Code::Unimplemented => Ok(None),
        // Asked again it does the same: that it may have been done already harms nothing.
        Err(error @ Error::Unknown { .. }) => Err(Failure::Unreachable(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let admin = context.admin()?;
    let status = Status::from(context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?);
    let Some(node) = status.nodes.iter().find(|node| node.node == options.node) else {
        return Err(show::unknown(&options.node, &status.nodes));
    };
    let name = &node.node;
    let hold = if options.end { Duration::ZERO } else { options.hold };
    let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
    let what = match options.end {
        true => format!("{name} takes leads again"),
        false => format!("{name} hands its {} leads over and takes none for {}", node.shards_led, span(hold_ms)),
    };
    let context = permission(context, &what).await?;
    let Some(done) = hand_over(&context, node, hold).await? else {
        return Err(Failure::error(format!("{name} runs a version that can't hand over: stopping it does")));
    };
    let left = done.leads;
    let verdict = match (options.end, left) {
        (true, _) | (false, 0) => Ok(()),
        (false, some) => Err(Failure::Degraded(format!("{name} still leads {some} groups: nobody else can yet"))),
    };
    let text = || match options.end {
        true => format!("{name} takes leads again; they come by themselves once all is well"),
        false => {
            let handed = number(done.handed_over.into());
            format!(
                "{name} has handed over {handed} leads, has {left}, and takes none for {}",
                span(done.hold_ms.into())
            )
        }
    };
    context.show(context.screen(&done, text, verdict)?)
}
