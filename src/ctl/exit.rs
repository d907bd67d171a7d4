//! How a command fails, and the exit code for it.

use std::fmt;
use std::process::ExitCode;

use super::import::Stopped;
use crate::client;
use crate::local::LocalError;
use crate::proto::v1;

/// Why a command did not end with 0.
#[derive(Debug)]
pub(super) enum Failure {
    /// It went wrong: exit code 1.
    Error(anyhow::Error),
    /// A value is wrong: exit code 2.
    Usage(String),
    /// It was done and the cluster is degraded, or it was not, because the cluster is degraded: exit code 3.
    Degraded(String),
    /// Nobody answered: exit code 4.
    Unreachable(String),
}

impl Failure {
    /// Something went wrong.
    pub(super) fn error(message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self::Error(anyhow::Error::msg(message))
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Error(_) => 1,
            Self::Usage(_) => 2,
            Self::Degraded(_) => 3,
            Self::Unreachable(_) => 4,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // With the whole chain of causes.
            Self::Error(e) => write!(f, "{e:#}"),
            Self::Usage(message) => write!(f, "{message}"),
            Self::Degraded(message) => write!(f, "degraded: {message}"),
            Self::Unreachable(message) => write!(f, "unreachable: {message}"),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(e: client::Error) -> Self {
        match &e {
            client::Error::Unavailable { reason, .. } if is_of_the_cluster(*reason) => {
                Self::Degraded(format!("{e}; nothing was changed"))
            }
            client::Error::Unavailable { .. } => Self::Unreachable(e.to_string()),
            client::Error::Rejected(rejection) if !rejection.violations.is_empty() => {
                let fields = rejection.violations.iter().map(|v| format!("{} {}", v.field, v.description));
                Self::Usage(fields.collect::<Vec<_>>().join("; "))
            }
            client::Error::Rejected(_) => Self::Error(e.into()),
            client::Error::Unknown { .. } => {
                Self::error(format!("{e}; look whether it was done before you do it again"))
            }
        }
    }
}

impl From<Stopped> for Failure {
    fn from(e: Stopped) -> Self {
        let again = "repeat it, nothing is added twice";
        match &e.error {
            client::Error::Unavailable { reason, .. } if is_of_the_cluster(*reason) => {
                Self::Degraded(format!("{e}; {again}"))
            }
            client::Error::Unavailable { .. } => Self::Unreachable(format!("{e}; {again}")),
            // Also where a value is wrong: plays before it may be in the cluster, so this is never "nothing was done".
            client::Error::Rejected(_) => Self::error(e),
            client::Error::Unknown { .. } => Self::Error(anyhow::anyhow!("{e}; {again}")),
        }
    }
}

/// Whether a node was reached and said that the cluster can't do it now.
fn is_of_the_cluster(reason: v1::ErrorReason) -> bool {
    use v1::ErrorReason as R;
    matches!(reason, R::NoLeader | R::ShardMoving | R::NoCluster | R::Overloaded)
}

impl From<client::InvalidClient> for Failure {
    fn from(e: client::InvalidClient) -> Self {
        Self::Usage(e.to_string())
    }
}

impl From<LocalError> for Failure {
    fn from(e: LocalError) -> Self {
        match &e {
            LocalError::Nodes(_) | LocalError::Unknown { .. } => Self::Usage(e.to_string()),
            _ => Self::Error(e.into()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Error(e.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::Error(e)
    }
}
