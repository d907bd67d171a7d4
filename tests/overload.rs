//! A node that is asked for more than it may do: what is important is done, the rest is refused, and nothing acknowledged is lost.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use playhead::client::{Client, Error, StreamOptions};
use playhead::proto::v1;
use support::{Cluster, Result, film, playing, process};

const VIEWS: usize = 40;

/// How many commands of a priority a node has refused, by its metrics.
async fn shed(cluster: &Cluster, priority: &str) -> Result<u64> {
    let address = cluster.local.endpoints("n1").ok_or("a node without endpoints")?.metrics.clone();
    let page = process::metrics(&address).await?;
    assert!(page.contains("playhead_shed"), "{page}");
    let label = format!("priority=\"{priority}\"");
    let rows = page.lines().filter(|line| line.starts_with("playhead_shed") && line.contains(&label));
    Ok(rows.filter_map(|row| row.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
}

/// The newest acknowledged sequence of each account, and how many reports were refused for load.
async fn storm(client: &Client, rounds: u64) -> Result<(BTreeMap<String, u64>, usize)> {
    let stream = client.progress_stream(StreamOptions { window: 64 });
    let mut pending = Vec::new();
    for sequence in 1..=rounds {
        let reports: Vec<_> = (0..VIEWS).map(|n| playing(&format!("member-{n}"), "v", sequence)).collect();
        pending.push((sequence, stream.send(reports).await?));
    }
    let (mut acknowledged, mut refused) = (BTreeMap::new(), 0);
    for (sequence, answer) in pending {
        for (n, outcome) in answer.await?.into_iter().enumerate() {
            match outcome {
                Ok(_) => {
                    let newest = acknowledged.entry(format!("member-{n}")).or_insert(0);
                    *newest = sequence.max(*newest);
                }
                Err(Error::Unavailable { reason: v1::ErrorReason::Overloaded, .. }) => refused += 1,
                Err(Error::Unavailable { .. } | Error::Unknown { .. }) => {}
                Err(error) => return Err(format!("report {sequence} of member-{n}: {error}").into()),
            }
        }
    }
    Ok((acknowledged, refused))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_progress_is_refused_and_starts_and_stops_are_not_and_what_was_acknowledged_stays() -> Result<()> {
    let cluster = Cluster::start(1, 4, &["--limits-node-per-second", "100"]).await?;
    let patient = cluster.client(Duration::from_secs(60))?;
    for n in 0..VIEWS {
        patient.start_view(film(&format!("member-{n}"), "v")).await?;
    }
    // Its reports come again by themselves: they have a second.
    let devices = cluster.client(Duration::from_secs(1))?;
    let starts = async {
        for n in 0..5 {
            let account = format!("late-{n}");
            patient.start_view(film(&account, "v")).await?;
            let stop = v1::StopViewRequest { account_id: account, view_id: "v".into(), ..Default::default() };
            patient.stop_view(stop).await?;
        }
        Ok::<_, Error>(())
    };
    let (storm, started) = tokio::join!(storm(&devices, 64), starts);
    started?;
    let (acknowledged, refused) = storm?;
    assert!(refused > 0, "2,560 reports at once, and none was refused at a hundred a second");
    assert!(!acknowledged.is_empty(), "none was taken");
    assert!(shed(&cluster, "report").await? > 0);
    assert_eq!(shed(&cluster, "prompt").await?, 0, "starts and stops go first");
    for (account_id, sequence) in acknowledged {
        let request = v1::GetViewRequest { account_id, view_id: "v".into(), ..Default::default() };
        let Some(v1::get_view_response::Status::Active(view)) = patient.get_view(request).await?.status else {
            return Err("a view that was reported is gone".into());
        };
        assert!(view.sequence >= sequence, "{} was acknowledged, {} is there", sequence, view.sequence);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_sends_too_much_is_refused_and_its_neighbours_are_not() -> Result<()> {
    let cluster = Cluster::start(1, 1, &["--limits-account-per-second", "1"]).await?;
    let patient = cluster.client(Duration::from_secs(60))?;
    patient.start_view(film("greedy", "v")).await?;
    patient.start_view(film("modest", "v")).await?;
    let hasty = cluster.client(Duration::from_millis(150))?;
    let mut refused = None;
    for sequence in 1..=20 {
        refused = hasty.report(playing("greedy", "v", sequence)).await.err().or(refused);
    }
    assert!(matches!(refused, Some(Error::Unavailable { reason: v1::ErrorReason::Overloaded, .. })), "{refused:?}");
    assert!(patient.report(playing("modest", "v", 1)).await?.applied);
    Ok(())
}
