//! `clusterctl upgrade`: which versions there are, and the end of an upgrade.

mod finish;
mod show;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Context;
use super::exit::Failure;
use super::node::liveness;
use super::text::plain;
use tonic::Code;

use crate::client::Error;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The cluster's version, what every node speaks, and what finishing would switch on
    Show,
    /// Raise the cluster's version to what all nodes speak. There is no way back to an earlier build after it
    Finish(FinishOptions),
}

#[derive(Debug, Args)]
pub(super) struct FinishOptions {
    /// To this version; none: to the newest that any node speaks
    #[arg(long = "to", value_name = "VERSION", default_value_t = 0, hide_default_value = true)]
    version: u32,
    /// Only say what would be done, or why it is refused
    #[arg(long)]
    dry_run: bool,
}

/// A version that a cluster can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Info {
    version: u32,
    since: String,
    what: String,
}

impl From<v1::VersionInfo> for Info {
    fn from(info: v1::VersionInfo) -> Self {
        Self { version: info.version, since: plain(&info.since), what: plain(&info.what) }
    }
}

/// A node, and what it speaks; `null`: it was not heard.
#[derive(Clone, Debug, Serialize)]
struct Node {
    node: String,
    liveness: &'static str,
    build: String,
    oldest: Option<u32>,
    newest: Option<u32>,
    replicas: u32,
    replicas_adopted: u32,
}

impl Node {
    fn speaks(&self) -> String {
        match (self.oldest, self.newest) {
            (Some(oldest), Some(newest)) if oldest == newest => newest.to_string(),
            (Some(oldest), Some(newest)) => format!("{oldest} to {newest}"),
            _ => "not heard".into(),
        }
    }
}

/// What any node says of all versions.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Versions {
    cluster_version: u32,
    newest_version: u32,
    obstacles: Vec<String>,
    nodes: Vec<Node>,
    shards: u32,
    shards_adopted: u32,
    known: Vec<Info>,
    answered_by: String,
}

impl From<v1::GetVersionsResponse> for Versions {
    fn from(answer: v1::GetVersionsResponse) -> Self {
        let node = |node: v1::NodeVersions| Node {
            node: plain(&node.node),
            liveness: liveness(node.liveness()),
            build: plain(&node.build),
            oldest: Some(node.oldest).filter(|version| *version > 0),
            newest: Some(node.newest).filter(|version| *version > 0),
            replicas: node.replicas,
            replicas_adopted: node.replicas_adopted,
        };
        Self {
            cluster_version: answer.cluster_version,
            newest_version: answer.newest_version,
            obstacles: answer.obstacles.iter().map(|why| plain(why)).collect(),
            nodes: answer.nodes.into_iter().map(node).collect(),
            shards: answer.shards,
            shards_adopted: answer.shards_adopted,
            known: answer.known.into_iter().map(Info::from).collect(),
            answered_by: plain(&answer.answered_by),
        }
    }
}

impl Versions {
    /// The cluster's version.
    pub(super) fn cluster(&self) -> u32 {
        self.cluster_version
    }

    /// What all nodes could go on to, if they all can.
    pub(super) fn next(&self) -> Option<u32> {
        (self.newest_version > self.cluster_version && self.obstacles.is_empty()).then_some(self.newest_version)
    }

    /// What a node is called among builds, and what it speaks.
    pub(super) fn builds(&self) -> impl Iterator<Item = (&str, String)> {
        let heard = self.nodes.iter().filter(|node| node.newest.is_some() && node.liveness == "alive");
        heard.map(|node| (node.node.as_str(), format!("{} (speaks {})", node.build, node.speaks())))
    }
}

/// Asks the nodes one after the other until one knows of versions: an earlier build's doesn't.
async fn versions(context: &Context) -> Result<Versions, Failure> {
    let mut of_before = None;
    for endpoint in &context.connection.admin {
        let patience = context.left() / u32::try_from(context.connection.admin.len()).unwrap_or(u32::MAX).max(1);
        match context.admin_of(endpoint, patience)?.get_versions(v1::GetVersionsRequest {}).await {
            Ok(answer) => return Ok(answer.into()),
            Err(Error::Rejected(rejection)) if rejection.code == Code::Unimplemented => {
                let why = "is of a build that knows no versions: change it, or name a node of a newer build";
                of_before = Some(Failure::error(format!("{} {why}", plain(endpoint))));
            }
            Err(Error::Unavailable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match of_before {
        Some(failure) => Err(failure),
        None => Ok(context.read(context.admin()?.get_versions(v1::GetVersionsRequest {})).await?.into()),
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Show => show::run(context).await,
        Command::Finish(options) => finish::run(context, options).await,
    }
}
