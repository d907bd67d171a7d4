//! What a call ends with when it fails, and what is read out of a status.

use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::proto::{ERROR_DOMAIN, v1};

/// How a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The cluster has decided: no. Nothing was changed, and asking again changes nothing. Only of a report that was refused because
    /// its view has ended nobody can say so for certain: an attempt whose answer was lost may have come while the view lived, and
    /// shows in its history then.
    #[error("{0}")]
    Rejected(Box<Rejection>),
    /// Nobody decided in time. Nothing was changed.
    #[error("no answer after {attempts} attempts: {last}")]
    Unavailable {
        /// How often it was tried.
        attempts: u32,
        /// What went wrong the last time.
        last: String,
        /// What a node that could be reached gave as its reason, the last one that did; `Unspecified` when none could.
        reason: v1::ErrorReason,
    },
    /// A write was on its way and no answer came in time: it may or may not have happened, now or soon. The same call with the
    /// same request id (progress: the same sequence, while its view lives) tells which, and is safe.
    #[error("the outcome is unknown after {attempts} attempts: {last}")]
    Unknown {
        /// How often it was tried.
        attempts: u32,
        /// What went wrong the last time.
        last: String,
    },
}

impl Error {
    /// The reason, if the cluster has rejected the call.
    pub fn reason(&self) -> Option<v1::ErrorReason> {
        match self {
            Self::Rejected(rejection) => Some(rejection.reason),
            Self::Unavailable { .. } | Self::Unknown { .. } => None,
        }
    }

    /// The rejection, if it is one.
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Unavailable { .. } | Self::Unknown { .. } => None,
        }
    }

    /// A rejection that the client itself makes, of one field.
    pub(super) fn field(field: &str, description: impl Into<String>) -> Self {
        let description = description.into();
        Self::Rejected(Box::new(Rejection {
            code: Code::InvalidArgument,
            reason: v1::ErrorReason::BadField,
            message: format!("{field} {description}"),
            violations: vec![Violation { field: field.into(), description }],
            stream_limit: None,
            ended: None,
            retry_after: None,
        }))
    }
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its path, as in the protocol buffers.
    pub field: String,
    /// What is wrong, and what is accepted.
    pub description: String,
}

/// What the cluster said when it rejected a call.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} ({:?}): {message}", .reason.name(), .code)]
pub struct Rejection {
    /// The canonical code.
    pub code: Code,
    /// Why; `Unspecified` when the error did not come from Playhead's services.
    pub reason: v1::ErrorReason,
    /// For people.
    pub message: String,
    /// Every wrong field, with `BadField`.
    pub violations: Vec<Violation>,
    /// What is being watched, with `StreamLimit`.
    pub stream_limit: Option<v1::StreamLimitReached>,
    /// Who ended the view, with `ViewEnded`.
    pub ended: Option<v1::ViewEnded>,
    /// How long the cluster asks to wait before trying again, if trying again can help at all.
    pub retry_after: Option<Duration>,
}

impl Rejection {
    fn read(status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = details
            .error_info()
            .filter(|info| info.domain == ERROR_DOMAIN)
            .and_then(|info| v1::ErrorReason::from_name(&info.reason))
            .unwrap_or_default();
        let violations = details.bad_request().map_or_else(Vec::new, |bad| {
            let violation = |v: &tonic_types::FieldViolation| Violation {
                field: v.field.clone(),
                description: v.description.clone(),
            };
            bad.field_violations.iter().map(violation).collect()
        });
        Self {
            code: status.code(),
            reason,
            message: status.message().to_string(),
            violations,
            stream_limit: own_detail(status, "playhead.v1.StreamLimitReached"),
            ended: own_detail(status, "playhead.v1.ViewEnded"),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
        }
    }
}

/// One of our own messages among a status's details.
fn own_detail<M: prost::Message + Default>(status: &Status, name: &str) -> Option<M> {
    let all = tonic_types::pb::Status::decode(status.details()).ok()?;
    let any = all.details.iter().find(|any| any.type_url.rsplit('/').next() == Some(name))?;
    M::decode(any.value.as_slice()).ok()
}

/// What one failed attempt means.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Decided for good.
    Final(Box<Rejection>),
    /// To be tried again.
    Again {
        /// The attempt may have been executed.
        maybe_done: bool,
        /// The node did not answer properly: ask another one.
        node_sick: bool,
        /// The node has answered that it can't decide; another may.
        elsewhere: bool,
        /// How long the cluster asks to wait.
        after: Option<Duration>,
        /// What the node says; `Unspecified` when it didn't answer properly.
        reason: v1::ErrorReason,
        /// For people.
        why: String,
    },
}

impl Verdict {
    /// What a status means, of an attempt that may have come to the node or can't have.
    pub(super) fn of(status: &Status, may_have_come: bool) -> Self {
        let rejection = Rejection::read(status);
        let why = format!("{:?}: {}", status.code(), status.message());
        Self::of_reason(rejection.reason, rejection.retry_after, why.clone()).unwrap_or_else(|| {
            if rejection.reason != v1::ErrorReason::Unspecified || !from_below(status.code()) {
                return Self::Final(Box::new(rejection));
            }
            let (maybe_done, reason) = (may_have_come, v1::ErrorReason::Unspecified);
            let after = rejection.retry_after;
            Self::Again { maybe_done, node_sick: true, elsewhere: true, after, reason, why }
        })
    }

    /// What a reason means, if it is one to try again on.
    fn of_reason(reason: v1::ErrorReason, after: Option<Duration>, why: String) -> Option<Self> {
        use v1::ErrorReason as R;
        match reason {
            // It may be cut off from the others, where there is a leader.
            R::NoLeader => {
                Some(Self::Again { maybe_done: false, node_sick: false, elsewhere: true, after, reason, why })
            }
            R::ShardMoving | R::Overloaded | R::StaleRoute | R::Deadline | R::ReadRaced => {
                Some(Self::Again { maybe_done: false, node_sick: false, elsewhere: false, after, reason, why })
            }
            // A node that has just started: others know more.
            R::NoCluster => {
                Some(Self::Again { maybe_done: false, node_sick: true, elsewhere: true, after, reason, why })
            }
            R::OutcomeUnknown => {
                Some(Self::Again { maybe_done: true, node_sick: false, elsewhere: true, after, reason, why })
            }
            R::Internal => {
                Some(Self::Again { maybe_done: true, node_sick: false, elsewhere: false, after, reason, why })
            }
            _ => None,
        }
    }

    /// What an item's error in a stream means.
    pub(super) fn of_item(error: &v1::ItemError) -> Self {
        let after = u64::try_from(error.retry_after_ms).ok().filter(|&ms| ms > 0).map(Duration::from_millis);
        let code = Code::from_i32(error.code);
        let why = format!("{code:?}: {}", error.message);
        Self::of_reason(error.reason(), after, why).unwrap_or_else(|| {
            Self::Final(Box::new(Rejection {
                code,
                reason: error.reason(),
                message: error.message.clone(),
                violations: Vec::new(),
                stream_limit: None,
                ended: None,
                retry_after: after,
            }))
        })
    }

    /// Whether it was refused because there is more to do than can be done.
    pub(super) fn is_for_load(&self) -> bool {
        matches!(self, Self::Again { reason: v1::ErrorReason::Overloaded, .. })
    }

    /// An attempt that was not answered in time, and may have come to the node or can't have.
    pub(super) fn timed_out(ms: u64, may_have_come: bool) -> Self {
        let why = match may_have_come {
            true => format!("no answer within {ms} ms"),
            false => format!("nothing could be sent within {ms} ms"),
        };
        let reason = v1::ErrorReason::Unspecified;
        Self::Again { maybe_done: may_have_come, node_sick: true, elsewhere: true, after: None, reason, why }
    }
}

/// Whether a rejection comes out of the shard's state, which has seen every attempt that was committed and would have answered
/// as the first time. Anything else may be said although an earlier attempt was done.
pub(super) fn decided_by_the_state(reason: v1::ErrorReason) -> bool {
    use v1::ErrorReason as R;
    match reason {
        R::StreamLimit | R::ViewEnded | R::ViewExpired | R::ViewIdTaken | R::BoundReached | R::NamedViewUnknown => true,
        R::Unspecified
        | R::BadField
        | R::NoLeader
        | R::ShardMoving
        | R::Overloaded
        | R::StaleRoute
        | R::Conflict
        | R::RequestIdReused
        | R::RequestTooOld
        | R::OutcomeUnknown
        | R::Deadline
        | R::RevisionNotReached
        | R::NotFound
        | R::ClusterState
        | R::NoCluster
        | R::DiskFull
        | R::Internal
        | R::ReadRaced
        | R::Unsupported => false,
    }
}

/// Codes that transports and proxies make by themselves, and that say nothing about the call.
fn from_below(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_asks_to_wait_is_kept_with_every_reason_to_try_again() {
        use v1::ErrorReason as R;
        let asked = Some(Duration::from_millis(77));
        for reason in [
            R::NoLeader,
            R::ShardMoving,
            R::Overloaded,
            R::StaleRoute,
            R::Deadline,
            R::ReadRaced,
            R::NoCluster,
            R::OutcomeUnknown,
            R::Internal,
        ] {
            let verdict = Verdict::of_reason(reason, asked, String::new());
            assert!(matches!(verdict, Some(Verdict::Again { after, .. }) if after == asked), "{reason:?}: {verdict:?}");
        }
    }
}
