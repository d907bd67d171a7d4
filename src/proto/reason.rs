//! The reasons of errors by name, and short ways to say how to read.

use super::v1::{ErrorReason, ReadMode, ReadOptions};

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
    /// Linearizable.
    pub fn strong() -> Self {
        Self { mode: ReadMode::Strong.into() }
    }

    /// From the leader under its lease.
    pub fn lease() -> Self {
        Self { mode: ReadMode::Lease.into() }
    }

    /// From whatever replica is nearest, however old.
    pub fn any() -> Self {
        Self { mode: ReadMode::Any.into() }
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
