//! Asking until the cluster has decided.

use std::time::Duration;

use super::household::Household;
use crate::client::Error;

/// How often a write with an unknown outcome, or one that nobody took, is asked again.
const ATTEMPTS_MAX: usize = 20;
/// Wait before it is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// How a write ended.
pub(super) enum Outcome<T> {
    /// Acknowledged.
    Done(T),
    /// The cluster decided against it.
    Refused(Error),
    /// It may have happened; all attempts to learn it failed.
    Unresolved,
    /// It has not happened.
    Undone,
}

impl Household {
    /// Asks until the cluster has decided, a bounded number of times.
    pub(super) async fn insist<T, F>(&self, mut ask: impl FnMut() -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let stats = &self.around.stats;
        let mut may_be_done = false;
        for _ in 0..ATTEMPTS_MAX {
            let ended = match ask().await {
                Ok(answer) => Some(Outcome::Done(answer)),
                Err(error @ Error::Rejected(_)) if super::is_decided(&error) => Some(Outcome::Refused(error)),
                Err(Error::Rejected(_) | Error::Unavailable { .. }) => {
                    stats.unavailable();
                    None
                }
                Err(Error::Unknown { .. }) if may_be_done => None,
                Err(Error::Unknown { .. }) => {
                    may_be_done = true;
                    stats.unknown();
                    None
                }
            };
            if let Some(outcome) = ended {
                if may_be_done {
                    stats.no_longer_asked(true);
                }
                return outcome;
            }
            if self.around.stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        match may_be_done {
            true => {
                stats.no_longer_asked(false);
                Outcome::Unresolved
            }
            false => Outcome::Undone,
        }
    }
}
