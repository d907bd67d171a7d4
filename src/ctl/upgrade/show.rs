//! `clusterctl upgrade show`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{judged, right, table, text};
use super::super::text::wrapped;
use super::{Versions, versions};

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let versions = versions(context).await?;
    let silent: Vec<&str> =
        versions.nodes.iter().filter(|node| node.liveness != "alive").map(|node| node.node.as_str()).collect();
    let verdict = match silent.is_empty() {
        true => Ok(()),
        false => Err(Failure::Degraded(format!("not heard now: {}", silent.join(", ")))),
    };
    context.show(context.screen(&versions, || tables(&versions), verdict)?)
}

fn tables(versions: &Versions) -> String {
    let Versions { cluster_version, newest_version, shards, shards_adopted, answered_by, .. } = versions;
    let mut nodes = table(["NODE", "STATE", "BUILD", "SPEAKS", "ADOPTED"]);
    right(&mut nodes, &[4]);
    for node in &versions.nodes {
        nodes.add_row([
            node.node.clone().into(),
            judged(node.liveness, node.liveness == "alive"),
            node.build.clone().into(),
            node.speaks().into(),
            format!("{}/{}", node.replicas_adopted, node.replicas).into(),
        ]);
    }
    let mut out = format!(
        "cluster version {cluster_version}, adopted by {shards_adopted} of {shards} shards; {answered_by} says so\n\n{}",
        text(&mut nodes)
    );
    if shards_adopted < shards {
        let why = format!(
            "{} of them have not: one that stays behind for longer than some seconds after a raise has no leader, or one whose \
             folder can't be written; `clusterctl doctor` and that node's log say more",
            shards - shards_adopted
        );
        out.push_str(&format!("\n\n{}", wrapped(&why, 80).join("\n")));
    }
    let news = versions.known.iter().filter(|info| info.version > *cluster_version && info.version <= *newest_version);
    let news: Vec<String> =
        news.map(|info| wrapped(&format!("version {}: {}", info.version, info.what), 78).join("\n  ")).collect();
    if newest_version == cluster_version {
        out.push_str("\n\nnothing is to be finished: no node speaks a newer version");
        return out;
    }
    if !news.is_empty() {
        out.push_str(&format!("\n\nfinishing switches on\n  {}", news.join("\n  ")));
    }
    if versions.obstacles.is_empty() {
        out.push_str("\n\nall nodes speak it: `clusterctl upgrade finish` raises the cluster's version.\n");
        out.push_str("There is no way back to builds that don't speak it");
    } else {
        let why: Vec<String> = versions.obstacles.iter().map(|why| wrapped(why, 78).join("\n  ")).collect();
        out.push_str(&format!("\n\nnot yet, because\n  {}", why.join("\n  ")));
    }
    out
}
