//! Sends plays to a cluster.

use prost_types::Timestamp;
use serde::Serialize;

use crate::client::{Client, Error};
use crate::formats::netflix::{Kind, Play};
use crate::ids::AccountId;
use crate::proto::v1;
use crate::time::WallMs;

/// Plays in a call: its log entry stays small, and a deadline of seconds is enough for it.
const BATCH: usize = 250;
/// The most refused plays that are kept with their reasons.
const REFUSALS_MAX: usize = 1_000;

/// A play that the cluster refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The line of the file, from 1.
    pub line: u64,
    /// Why.
    pub reason: String,
}

/// What became of the plays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// New in the cluster.
    pub added: u64,
    /// In the cluster already, or twice in the file.
    pub unchanged: u64,
    /// Refused by the cluster.
    pub refused: u64,
    /// Previews: never sent, as no history has them.
    pub previews: u64,
    /// Of those refused, the first 1,000.
    pub refusals: Vec<Refusal>,
}

/// Takes `plays` into `account`, the oldest first; `progress` is told after each call how many are done.
///
/// Safe to repeat after any error: what was added is unchanged the next time.
pub async fn plays(
    client: &Client,
    account: &AccountId,
    plays: &[Play],
    mut progress: impl FnMut(&Summary, usize),
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let mut real: Vec<&Play> = plays.iter().filter(|play| play.kind == Kind::Title).collect();
    summary.previews = (plays.len() - real.len()) as u64;
    real.sort_by_key(|play| (play.start, play.line));
    for (number, batch) in real.chunks(BATCH).enumerate() {
        let request = v1::BatchImportHistoryRequest {
            account_id: account.to_string(),
            request_id: client.request_id(),
            plays: batch.iter().map(|play| wire(play)).collect(),
        };
        let answer = client.batch_import_history(request).await?;
        for (play, result) in batch.iter().zip(&answer.results) {
            match result.outcome() {
                v1::ImportOutcome::Added => summary.added += 1,
                v1::ImportOutcome::Unchanged => summary.unchanged += 1,
                v1::ImportOutcome::Preview => summary.previews += 1,
                v1::ImportOutcome::Refused | v1::ImportOutcome::Unspecified => {
                    summary.refused += 1;
                    if summary.refusals.len() < REFUSALS_MAX {
                        summary.refusals.push(Refusal { line: play.line, reason: result.message.clone() });
                    }
                }
            }
        }
        progress(&summary, (number * BATCH + batch.len()).min(real.len()));
    }
    Ok(summary)
}

fn wire(play: &Play) -> v1::ImportPlay {
    v1::ImportPlay {
        profile_id: play.profile.to_string(),
        title_id: play.title.to_string(),
        title_type: match play.is_episode() {
            true => v1::TitleType::Episode.into(),
            false => v1::TitleType::Other.into(),
        },
        device_id: play.device.to_string(),
        kind: v1::ViewKind::Full.into(),
        start_time: Some(timestamp(play.start)),
        elapsed_ms: i64::try_from(play.duration_ms).unwrap_or(i64::MAX),
        position_ms: play.bookmark_ms.and_then(|ms| i64::try_from(ms).ok()),
        duration_ms: None,
    }
}

fn timestamp(at: WallMs) -> Timestamp {
    let nanos = i32::try_from(at.0 % 1_000 * 1_000_000).unwrap_or_default();
    Timestamp { seconds: i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX), nanos }
}
