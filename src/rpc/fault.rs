//! The one map from everything that can go wrong to what the caller is told.

use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::pb;

use super::backend::{Failure, Hint};
use super::convert;
use super::spread::Stretch;
use crate::ids::AccountId;
use crate::proto::v1::ErrorReason;
use crate::proto::{ERROR_DOMAIN, metadata, v1};
use crate::ring::ShardCount;
use crate::versions::ClusterVersion;
use crate::view::{EndedView, Rejection};

/// The most bytes of one list in an error's details: they travel as base64 in trailers, which many clients bound to 8 KiB.
const DETAIL_BYTES_MAX: usize = 3_000;
/// The longest message.
const MESSAGE_BYTES_MAX: usize = 1_000;
/// How long to wait when a shard has no leader: about an election.
const RETRY_NO_LEADER: Duration = Duration::from_millis(100);
/// How long to wait when the node has too much to do.
const RETRY_OVERLOADED: Duration = Duration::from_millis(200);
/// How long to wait when a shard moves.
const RETRY_MOVING: Duration = Duration::from_millis(50);
/// How long to wait before asking what became of a write.
const RETRY_UNKNOWN: Duration = Duration::from_millis(100);
/// How long to wait when the node does not know its cluster: about a start.
const RETRY_NO_CLUSTER: Duration = Duration::from_millis(200);
/// How long to wait when the disk is full.
const RETRY_DISK_FULL: Duration = Duration::from_secs(10);

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) field: String,
    pub(super) description: String,
}

/// An error as the caller is told it.
#[derive(Clone, Debug)]
pub struct Fault(Box<Told>);

#[derive(Clone, Debug)]
struct Told {
    code: Code,
    reason: ErrorReason,
    message: String,
    retry_after: Option<Duration>,
    violations: Vec<Violation>,
    detail: Option<Any>,
    hint: Option<(Hint, Option<ShardCount>)>,
}

impl Fault {
    fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Told {
            code,
            reason,
            message,
            retry_after: None,
            violations: Vec::new(),
            detail: None,
            hint: None,
        }))
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub(super) fn detail(mut self, name: &str, message: &impl prost::Message) -> Self {
        self.0.detail = Some(any(name, message));
        self
    }

    /// Fields are wrong.
    pub(super) fn fields(violations: Vec<Violation>, more: usize) -> Self {
        let all = violations.iter().map(|v| format!("{} {}", v.field, v.description)).collect::<Vec<_>>().join("; ");
        let message = if more == 0 { all } else { format!("{all}; and {more} more") };
        let mut fault = Self::new(Code::InvalidArgument, ErrorReason::BadField, message);
        fault.0.violations = violations;
        fault
    }

    /// One field is wrong.
    pub fn field(field: &str, description: impl Into<String>) -> Self {
        Self::fields(vec![Violation { field: field.into(), description: description.into() }], 0)
    }

    /// There is no such thing: `what` names it.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, ErrorReason::NotFound, format!("there is no {what}"))
    }

    /// The cluster's state does not allow it.
    pub fn cluster_state(why: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, ErrorReason::ClusterState, why)
    }

    /// It belongs to a version that the cluster doesn't have yet.
    pub(super) fn too_early(needed: ClusterVersion, version: ClusterVersion) -> Self {
        Self::field_too_early("this", needed, version)
    }

    /// As [`Self::too_early`], of one field that the request might do without.
    pub(super) fn field_too_early(field: &str, needed: ClusterVersion, version: ClusterVersion) -> Self {
        let how = "finish the upgrade first (clusterctl upgrade)";
        Self::cluster_state(format!("{field} needs cluster version {needed}, and the cluster has {version}: {how}"))
    }

    /// Somebody else has changed the thing in the meantime.
    pub fn conflict(why: impl Into<String>) -> Self {
        Self::new(Code::Aborted, ErrorReason::Conflict, why)
    }

    /// This node can't do that.
    pub fn unsupported(why: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, ErrorReason::Unsupported, why)
    }

    /// More is at work than the bounds of the services allow.
    pub(super) fn overloaded(why: &str) -> Self {
        Self::new(Code::ResourceExhausted, ErrorReason::Overloaded, why).retry_after(RETRY_OVERLOADED)
    }

    /// Tells when to come back as it was drawn, not as everybody is told.
    pub(super) fn spread(mut self, stretch: Stretch) -> Self {
        let times = if self.is_overload() { stretch.overloaded } else { stretch.other };
        self.0.retry_after = self.0.retry_after.map(|wait| Stretch::of(wait, times));
        self
    }

    /// Whether it was refused for load.
    pub(super) fn is_overload(&self) -> bool {
        self.0.reason == ErrorReason::Overloaded
    }

    /// Nothing is known of a view.
    pub(super) fn view_unknown(view: &str) -> Self {
        let message = format!("view {view} is not known on this account: start it again with the same id");
        Self::new(Code::NotFound, ErrorReason::ViewExpired, message)
    }

    /// A mistake of ours.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        tracing::error!(%why, "a call failed by a mistake of this node");
        Self::new(Code::Internal, ErrorReason::Internal, format!("internal error: {why}"))
    }

    /// Says beside a leader how many shards there are, so that the caller can remember it by shard.
    pub(super) fn of(mut self, shards: Option<ShardCount>) -> Self {
        if let Some((_, count)) = &mut self.0.hint {
            *count = shards;
        }
        self
    }

    /// What came of a write that the rules refused.
    pub(super) fn rejected(account: &AccountId, rejection: &Rejection) -> Self {
        use ErrorReason as R;
        let message = rejection.to_string();
        match rejection {
            Rejection::StreamLimit { limit, views } => {
                let views = views.iter().map(|v| convert::view(account, v));
                let detail = v1::StreamLimitReached { max_streams: (*limit).into(), active_views: cut(views) };
                Self::new(Code::ResourceExhausted, R::StreamLimit, message)
                    .detail("playhead.v1.StreamLimitReached", &detail)
            }
            Rejection::ViewEnded(ended) => Self::ended(Code::FailedPrecondition, R::ViewEnded, message, ended),
            Rejection::ViewExpired(ended) => Self::ended(Code::NotFound, R::ViewExpired, message, ended),
            Rejection::ViewUnknown(view) => Self::view_unknown(view.as_str()),
            Rejection::ViewIdInUse(_) => Self::new(Code::AlreadyExists, R::ViewIdTaken, message),
            Rejection::NamedViewUnknown(_) => {
                Self::new(Code::NotFound, R::NamedViewUnknown, format!("end_view_id: {message}"))
            }
            Rejection::TooManyViews { .. } | Rejection::TooManyProfiles { .. } => {
                Self::new(Code::ResourceExhausted, R::BoundReached, message)
            }
            Rejection::RequestTooOld { .. } => Self::new(Code::OutOfRange, R::RequestTooOld, message),
            Rejection::RequestIdReused => Self::new(Code::Aborted, R::RequestIdReused, message),
            Rejection::Invalid { field, accepted } => Self::field(field, accepted.to_string()),
            Rejection::SettingsOlder { .. } => Self::conflict(message),
        }
    }

    fn ended(code: Code, reason: ErrorReason, message: String, ended: &EndedView) -> Self {
        Self::new(code, reason, message).detail("playhead.v1.ViewEnded", &convert::ended(ended))
    }

    /// As the error of one item of a batch.
    pub(super) fn into_item(self) -> v1::ItemError {
        let Told { code, reason, message, retry_after, .. } = *self.0;
        let retry_after_ms = retry_after.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        v1::ItemError { code: code.into(), reason: reason.into(), message, retry_after_ms }
    }
}

impl Told {
    fn details(&self) -> Vec<Any> {
        let info = pb::ErrorInfo {
            reason: self.reason.name().into(),
            domain: ERROR_DOMAIN.into(),
            metadata: std::collections::HashMap::new(),
        };
        let mut details = vec![any("google.rpc.ErrorInfo", &info)];
        if let Some(wait) = self.retry_after {
            let retry_delay = prost_types::Duration::try_from(wait).ok();
            details.push(any("google.rpc.RetryInfo", &pb::RetryInfo { retry_delay }));
        }
        if !self.violations.is_empty() {
            let violation = |v: &Violation| pb::bad_request::FieldViolation {
                field: v.field.clone(),
                description: v.description.clone(),
                ..Default::default()
            };
            let field_violations = cut(self.violations.iter().map(violation));
            details.push(any("google.rpc.BadRequest", &pb::BadRequest { field_violations }));
        }
        details.extend(self.detail.clone());
        details
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        use ErrorReason as R;
        let message = failure.to_string();
        match failure {
            Failure::NoLeader { hint, .. } => {
                let mut fault = Self::new(Code::Unavailable, R::NoLeader, message).retry_after(RETRY_NO_LEADER);
                fault.0.hint = hint.map(|h| (h, None));
                fault
            }
            Failure::NoMetaLeader => Self::new(Code::Unavailable, R::NoLeader, message).retry_after(RETRY_NO_LEADER),
            Failure::Moving(_) => Self::new(Code::Unavailable, R::ShardMoving, message).retry_after(RETRY_MOVING),
            Failure::Overloaded => Self::overloaded(&message),
            Failure::Deadline => Self::new(Code::DeadlineExceeded, R::Deadline, message),
            Failure::Unknown => Self::new(Code::Unknown, R::OutcomeUnknown, message).retry_after(RETRY_UNKNOWN),
            Failure::TooLarge => Self::new(Code::InvalidArgument, R::BadField, message),
            Failure::DiskFull => Self::new(Code::ResourceExhausted, R::DiskFull, message).retry_after(RETRY_DISK_FULL),
            Failure::Raced => Self::new(Code::Aborted, R::ReadRaced, message),
            Failure::NotReached(_) => Self::new(Code::OutOfRange, R::RevisionNotReached, message),
            Failure::NoCluster => Self::new(Code::Unavailable, R::NoCluster, message).retry_after(RETRY_NO_CLUSTER),
            Failure::Internal(why) => Self::internal(why),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let details = fault.0.details();
        let Told { code, mut message, hint, .. } = *fault.0;
        truncate(&mut message, MESSAGE_BYTES_MAX);
        let mut map = MetadataMap::new();
        if let Some((hint, shards)) = &hint {
            tell(&mut map, hint, *shards);
        }
        let status = pb::Status { code: code.into(), message: message.clone(), details };
        Self::with_details_and_metadata(code, message, status.encode_to_vec().into(), map)
    }
}

/// Puts a hint into metadata.
pub(super) fn tell(map: &mut MetadataMap, hint: &Hint, shards: Option<ShardCount>) {
    let Some(shards) = shards else { return };
    if let (Ok(leader), Ok(shard)) = (hint.leader.parse(), format!("{}/{shards}", hint.shard).parse()) {
        map.insert(metadata::LEADER, leader);
        map.insert(metadata::SHARD, shard);
    }
}

/// Says of which shard this node knows no leader: another node may.
pub(super) fn tell_no_leader(map: &mut MetadataMap, shard: u32, shards: ShardCount) {
    if let Ok(shard) = format!("{shard}/{shards}").parse() {
        map.insert(metadata::SHARD, shard);
    }
}

fn any(name: &str, message: &impl prost::Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// As many as fit; one at least.
fn cut<M: prost::Message>(items: impl Iterator<Item = M>) -> Vec<M> {
    let mut bytes = 0;
    let mut kept = Vec::new();
    for item in items {
        bytes += item.encoded_len() + 4;
        if bytes > DETAIL_BYTES_MAX && !kept.is_empty() {
            break;
        }
        kept.push(item);
    }
    kept
}

fn truncate(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}
