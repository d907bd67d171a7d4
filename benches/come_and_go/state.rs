//! Fills shards with history.

use playhead::client::Client;
use playhead::proto::v1;
use prost_types::Timestamp;
use tokio::task::JoinSet;

use crate::support::Result;

/// What one play of `play()` takes in a snapshot, about.
const PLAY_BYTES: u64 = 620;
/// Plays of one account.
const ACCOUNT_PLAYS: u64 = 2_000;
/// Plays of one call.
const CALL_PLAYS: u64 = 500;
/// Calls at a time.
const AT_ONCE: usize = 16;

/// A title that nobody has seen before, with a long name, so that few plays make much state.
fn play(number: u64) -> v1::ImportPlay {
    let seconds = 1_600_000_000 + i64::try_from(number).unwrap_or(0) * 4_000;
    v1::ImportPlay {
        profile_id: "p".into(),
        title_id: format!("{number:0>480}"),
        title_type: v1::TitleType::Film.into(),
        device_id: "tv".into(),
        start_time: Some(Timestamp { seconds, nanos: 0 }),
        elapsed_ms: 3_000_000,
        duration_ms: Some(6_000_000),
        ..Default::default()
    }
}

/// Imports about so many MiB of history, spread over accounts.
pub(crate) async fn fill(client: &Client, mib: u64) -> Result<()> {
    let calls = mib * 1_048_576 / PLAY_BYTES / CALL_PLAYS;
    let begun = std::time::Instant::now();
    let mut running: JoinSet<Result<()>> = JoinSet::new();
    for call in 0..calls {
        if running.len() >= AT_ONCE
            && let Some(ended) = running.join_next().await
        {
            ended??;
        }
        let client = client.clone();
        running.spawn(async move {
            let per_account = ACCOUNT_PLAYS / CALL_PLAYS;
            let first = call % per_account * CALL_PLAYS;
            let request = v1::BatchImportHistoryRequest {
                account_id: format!("filled-{}", call / per_account),
                request_id: format!("fill-{call}"),
                plays: (first..first + CALL_PLAYS).map(play).collect(),
            };
            let answer = client.batch_import_history(request).await?;
            match answer.results.iter().all(|result| result.outcome() != v1::ImportOutcome::Refused) {
                true => Ok(()),
                false => Err("a play was refused".into()),
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    if calls > 0 {
        println!("filled: {} plays in {:.0} s", calls * CALL_PLAYS, begun.elapsed().as_secs_f64());
    }
    Ok(())
}
