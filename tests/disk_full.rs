//! A node whose reserve of disk space is touched refuses what adds data, says so, and goes on with the rest.

mod support;

use std::time::Duration;

use playhead::client::Error;
use playhead::proto::v1;
use support::{Cluster, Result};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_reserve_refuses_what_adds_data_and_answers_the_rest() -> Result<()> {
    // More than any disk here has free: as if another program had filled it.
    let cluster = Cluster::start(1, 4, &["--disk-reserve-mib", "1048576"]).await?;
    let admin = cluster.admin(Duration::from_secs(5))?;
    let told = async {
        loop {
            let answer = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
            if answer.nodes.iter().any(|node| node.disk_full) {
                return Ok::<(), Error>(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await??;
    let client = cluster.client(Duration::from_secs(3))?;
    let start = v1::StartViewRequest {
        account_id: "a".into(),
        view_id: "v".into(),
        profile_id: "p".into(),
        device_id: "d".into(),
        title_id: "t".into(),
        ..Default::default()
    };
    let refused = client.start_view(start).await.map(|_| ()).map_err(|error| error.reason());
    assert_eq!(refused, Err(Some(v1::ErrorReason::DiskFull)));
    let active = v1::ListActiveViewsRequest { account_id: "a".into(), ..Default::default() };
    assert_eq!(client.list_active_views(active).await?.views, []);
    let stop = v1::StopViewRequest { account_id: "a".into(), view_id: "v".into(), ..Default::default() };
    let reason = client.stop_view(stop).await.map(|_| ()).map_err(|error| error.reason());
    assert_eq!(reason, Err(Some(v1::ErrorReason::ViewExpired)), "it was taken, and there is no such view");
    Ok(())
}
