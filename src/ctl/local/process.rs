//! `clusterctl local down|kill|start|restart|wipe`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::{Named, Root};
use crate::local::LocalCluster;

pub(super) async fn down(context: &Context, root: Root) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(root.root)?;
    let by_themselves = cluster.stop_all().await?;
    say(context, &mut cluster, "stopped; the data stays: `up` starts them again, `wipe` removes it")?;
    match by_themselves {
        true => Ok(()),
        false => Err(Failure::error("a node did not stop when asked, and was killed: see its log")),
    }
}

pub(super) async fn kill(context: &Context, node: Named) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(node.root.root)?;
    cluster.kill(&node.name).await?;
    say(context, &mut cluster, &format!("{} is killed", node.name))
}

pub(super) async fn start(context: &Context, node: Named) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(node.root.root)?;
    cluster.start_node(&node.name).await?;
    say(context, &mut cluster, &format!("{} serves", node.name))
}

pub(super) async fn restart(context: &Context, node: Named) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(node.root.root)?;
    cluster.restart(&node.name).await?;
    say(context, &mut cluster, &format!("{} serves again", node.name))
}

pub(super) fn wipe(context: &Context, root: Root) -> Result<(), Failure> {
    let cluster = LocalCluster::open(&root.root)?;
    cluster.wipe()?;
    context.answer(&serde_json::json!({ "wiped": root.root }), || format!("{} is wiped", root.root.display()))
}

fn say(context: &Context, cluster: &mut LocalCluster, text: &str) -> Result<(), Failure> {
    context.answer(&serde_json::json!({ "nodes": cluster.states() }), || text.to_string())
}
