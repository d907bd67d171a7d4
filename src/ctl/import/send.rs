//! Sends plays to a cluster.

use prost_types::Timestamp;
use serde::Serialize;

use crate::client::{Client, Error, Violation};
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

/// An import that stopped before its end. What was acknowledged until then stays.
#[derive(Debug, thiserror::Error)]
#[error(
    "the import stopped after {done} of {of} plays ({} added, {} unchanged, {} refused): {}",
    .summary.added, .summary.unchanged, .summary.refused, told(.error, .lines)
)]
pub struct Stopped {
    /// What became of the plays that were answered.
    pub summary: Summary,
    /// How many were answered.
    pub done: usize,
    /// Of how many.
    pub of: usize,
    /// Why it stopped.
    pub error: Error,
    /// The lines of the plays that were not answered, in the order in which they were sent.
    lines: Vec<u64>,
}

/// An error in a person's words: wrong fields of plays by their lines.
fn told(error: &Error, lines: &[u64]) -> String {
    let violations = error.rejection().map_or(&[][..], |rejection| &rejection.violations);
    let told = |v: &Violation| {
        let in_play = v.field.strip_prefix("plays[").and_then(|rest| rest.split_once("]."));
        let line = in_play.and_then(|(nth, field)| Some((lines.get(nth.parse::<usize>().ok()?)?, field)));
        match line {
            Some((line, field)) => format!("line {line}: {field} {}", v.description),
            None => format!("{} {}", v.field, v.description),
        }
    };
    match violations {
        [] => error.to_string(),
        violations => violations.iter().map(told).collect::<Vec<_>>().join("; "),
    }
}

/// Takes `plays` into `account`, the oldest first; `progress` is told after each call how many are done.
///
/// Safe to repeat after any error: what was added is unchanged the next time.
pub async fn plays(
    client: &Client,
    account: &AccountId,
    plays: &[Play],
    mut progress: impl FnMut(&Summary, usize),
) -> Result<Summary, Stopped> {
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
        let answer = match client.batch_import_history(request).await {
            Ok(answer) => answer,
            Err(error) => {
                let lines = batch.iter().map(|play| play.line).collect();
                return Err(Stopped { summary, done: number * BATCH, of: real.len(), error, lines });
            }
        };
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

#[cfg(test)]
mod tests {
    use super::super::super::exit::Failure;
    use super::*;
    use crate::client::Rejection;

    #[test]
    fn an_import_that_is_refused_half_way_is_no_wrong_usage_and_says_how_far_it_came_and_which_line_it_was() {
        let violation = |field: &str| Violation { field: field.into(), description: "is odd".into() };
        let rejection = Rejection {
            code: tonic::Code::InvalidArgument,
            reason: v1::ErrorReason::BadField,
            message: "2 fields".into(),
            violations: vec![violation("plays[1].device_id"), violation("account_id")],
            stream_limit: None,
            ended: None,
            retry_after: None,
        };
        let stopped = Stopped {
            summary: Summary { added: 248, unchanged: 1, refused: 1, ..Summary::default() },
            done: 250,
            of: 308,
            error: Error::Rejected(Box::new(rejection)),
            lines: vec![70, 69],
        };
        let failure = Failure::from(stopped);
        assert!(matches!(failure, Failure::Error(_)), "{failure:?}");
        let told = failure.to_string();
        assert!(told.contains("after 250 of 308 plays (248 added, 1 unchanged, 1 refused)"), "{told}");
        assert!(told.contains("line 69: device_id is odd; account_id is odd"), "{told}");
    }
}
