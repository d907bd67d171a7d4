//! `clusterctl bench` against a real node: what is offered by the clock is told, also what a node that stands still makes wait.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::time::Duration;

use playhead::proto::v1;
use program::run;
use serde_json::Value;
use support::{Cluster, Result};

fn connection(cluster: &Cluster) -> String {
    let list = |endpoints: Vec<String>| endpoints.join(",");
    format!("{};admin={}", list(cluster.local.client_endpoints()), list(cluster.local.admin_endpoints()))
}

fn count(document: &Value, name: &str) -> u64 {
    document[name].as_u64().unwrap_or_else(|| panic!("{name} in {document}"))
}

async fn active_views(cluster: &Cluster) -> Result<u64> {
    let admin = cluster.admin(Duration::from_secs(10))?;
    let status = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
    Ok(status.cluster.unwrap_or_default().active_views)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_offered_is_acknowledged_read_back_and_cleared_away() -> Result<()> {
    let cluster = Cluster::start(1, 4, &[]).await?;
    let at = connection(&cluster);
    for way in ["calls", "streams"] {
        let arguments = ["bench", "--rate", "100", "--for", "2s", "--households", "50", "--seed", "7", "--way", way];
        let table = run(&at, &arguments).await;
        assert_eq!(table.code, 0, "{}{}", table.out, table.err);
        table.assert_fits();
        // The same seed again: what the first has left is not taken for a mistake.
        let json = run(&at, &[&arguments[..], &["-o", "json"]].concat()).await;
        let summary = json.json();
        assert_eq!(
            (json.code, count(&summary, "offered"), count(&summary, "acknowledged")),
            (0, 200, 200),
            "{summary}"
        );
        assert_eq!((count(&summary["devices"], "mismatches"), count(&summary, "given_up")), (0, 0));
        let bars = summary["histogram"].as_array().unwrap();
        assert_eq!(bars.iter().map(|bar| count(bar, "reports")).sum::<u64>(), 200, "{summary}");
        assert!(count(&summary, "views_ended") > 0 && summary["accounts"].as_str().unwrap().starts_with("bench-"));
    }
    while active_views(&cluster).await? > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let too_many = run(&at, &["bench", "--rate", "1", "--households", "61"]).await;
    assert!(too_many.code == 2 && too_many.err.contains("--households 61"), "{}", too_many.err);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_were_due_while_a_node_stood_still_count_with_all_their_wait() -> Result<()> {
    let mut cluster = Cluster::start(1, 4, &[]).await?;
    let at = connection(&cluster);
    let bench = tokio::spawn({
        let at = at.clone();
        async move { run(&at, &["bench", "--rate", "100", "--for", "5s", "--households", "20", "-o", "json"]).await }
    });
    while active_views(&cluster).await? < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.local.pause("n1", true)?;
    // Not to wait for something: for so long the node shall answer nothing.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.local.pause("n1", false)?;
    let bench = bench.await?;
    let summary = bench.json();
    assert_eq!(count(&summary, "offered"), 500, "{summary}");
    // Whoever waits for an answer before it asks again would have sent 20 slow reports.
    let bars = summary["histogram"].as_array().unwrap();
    let slow: u64 = bars.iter().filter(|bar| count(bar, "up_to_us") > 524_288).map(|bar| count(bar, "reports")).sum();
    assert!(slow > 60, "{summary}");
    cluster.local.kill("n1").await?;
    let nobody = run(&at, &["bench", "--for", "1s", "--timeout", "1s"]).await;
    assert_eq!((nobody.code, nobody.out.as_str()), (4, ""), "{}", nobody.err);
    Ok(())
}
