//! The reasons of errors by name, and short ways to say how to read.

use std::time::Duration;

use super::v1::{ErrorReason, ReadInfo, ReadMode, ReadOptions};

const PREFIX: &str = "ERROR_REASON_";

impl ErrorReason {
    /// The name that `google.rpc.ErrorInfo` carries: `STREAM_LIMIT`.
    pub fn name(self) -> &'static str {
        self.as_str_name().strip_prefix(PREFIX).unwrap_or("UNSPECIFIED")
    }

    /// The reason of that name; `None` for one that this version does not know.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_str_name(&format!("{PREFIX}{name}"))
    }
}

impl ReadOptions {
    fn of(mode: ReadMode) -> Self {
        Self { mode: mode.into(), ..Self::default() }
    }

    /// Linearizable.
    pub fn strong() -> Self {
        Self::of(ReadMode::Strong)
    }

    /// From the leader under its lease.
    pub fn lease() -> Self {
        Self::of(ReadMode::Lease)
    }

    /// From whatever replica is nearest, however old.
    pub fn any() -> Self {
        Self::of(ReadMode::Any)
    }

    /// With the write in it that answered with this revision ([`WriteInfo::revision`](super::v1::WriteInfo::revision)).
    pub fn session(min_revision: impl Into<String>) -> Self {
        Self { min_revision: min_revision.into(), ..Self::of(ReadMode::Session) }
    }

    /// With everything in it that was acknowledged longer ago than this: at least a millisecond.
    pub fn bounded(max_staleness: Duration) -> Self {
        Self { max_staleness_ms: millis(max_staleness), ..Self::of(ReadMode::Bounded) }
    }

    /// When that can't be had for so long, whatever any replica has: at least a millisecond.
    pub fn or_stale_after(self, wait: Duration) -> Self {
        Self { stale_after_ms: millis(wait), ..self }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

impl ReadInfo {
    /// How old the answer was at most when the call began; `None`: nobody can say.
    pub fn age_at_most(&self) -> Option<Duration> {
        self.age_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_go_by_their_names() {
        assert_eq!(ErrorReason::StreamLimit.name(), "STREAM_LIMIT");
        assert_eq!(ErrorReason::from_name("NO_LEADER"), Some(ErrorReason::NoLeader));
        assert_eq!(ErrorReason::from_name("NO_SUCH"), None);
    }
}
