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
            client::Error::Unavailable { reason, .. } => match of_the_cluster(*reason) {
                Some(why) => Self::Degraded(format!("{why}: {e}; nothing was changed")),
                None => Self::Unreachable(e.to_string()),
            },
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
            client::Error::Unavailable { reason, .. } => match of_the_cluster(*reason) {
                Some(why) => Self::Degraded(format!("{why}: {e}; {again}")),
                None => Self::Unreachable(format!("{e}; {again}")),
            },
            // Also where a value is wrong: plays before it may be in the cluster, so this is never "nothing was done".
            client::Error::Rejected(_) => Self::error(e),
            client::Error::Unknown { .. } => Self::Error(anyhow::anyhow!("{e}; {again}")),
        }
    }
}

/// Why the cluster can't do it now, if a node was reached that said so; what went wrong last may be another node's silence.
fn of_the_cluster(reason: v1::ErrorReason) -> Option<&'static str> {
    use v1::ErrorReason as R;
    match reason {
        R::NoLeader => Some("no leader can be reached"),
        R::ShardMoving => Some("the shard is moving, and has no leader"),
        R::NoCluster => Some("there is no cluster, or it is not known yet"),
        R::Overloaded => Some("the cluster has more to do than it can"),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_said_as_unknown_and_never_as_not_done() {
        let failure = Failure::from(client::Error::Unknown { attempts: 3, last: "no answer".into() });
        let told = failure.to_string();
        assert!(told.contains("the outcome is unknown") && told.contains("look whether it was done"), "{told}");
        assert!(!told.contains("nothing was changed"), "{told}");
        assert_eq!(format!("{:?}", failure.exit_code()), format!("{:?}", ExitCode::from(1)));
    }
}
