//! `clusterctl local down|kill|start|restart|wipe`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::{Named, Root};
use crate::local::{LocalCluster, Stopped};

pub(super) async fn down(context: &Context, root: Root) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(root.root)?;
    let stopped = cluster.stop_all().await?;
    say(context, &mut cluster, "stopped; the data stays: `up` starts them again, `wipe` removes it")?;
    let badly: Vec<String> = stopped.iter().filter(|(_, how)| !how.is_well()).map(told).collect();
    // What has ended before may have been killed by hand: it is said, and no failure of this command.
    let failed = stopped.iter().any(|(_, how)| matches!(how, Stopped::Badly(_) | Stopped::Killed));
    if failed {
        return Err(Failure::error(format!("{}: see its log", badly.join("; "))));
    }
    if !badly.is_empty() {
        context.note(&badly.join("; "));
    }
    Ok(())
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
    let stopped = cluster.restart(&node.name).await?;
    if !stopped.is_well() {
        context.note(&told(&(node.name.clone(), stopped)));
    }
    say(context, &mut cluster, &format!("{} serves again", node.name))
}

pub(super) fn wipe(context: &Context, root: Root) -> Result<(), Failure> {
    let cluster = LocalCluster::open(&root.root)?;
    cluster.wipe()?;
    context.answer(&serde_json::json!({ "wiped": root.root }), || format!("{} is wiped", root.root.display()))
}

/// How a node ended, in words.
fn told((name, how): &(String, Stopped)) -> String {
    format!("{name} {how}")
}

fn say(context: &Context, cluster: &mut LocalCluster, text: &str) -> Result<(), Failure> {
    context.answer(&serde_json::json!({ "nodes": cluster.states() }), || text.to_string())
}
