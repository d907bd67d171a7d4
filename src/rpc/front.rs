//! What all services for clients share: the backend, the bounds, and how a command or query goes there and back.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::backend::{Backend, Cluster, Failure, Read, Served, Within, Write};
use super::convert;
use super::fault::{self, Fault};
use super::limits::Limits;
use super::spread::Spread;
use super::wish::{self, Wish, revision_text};
use crate::ids::{AccountId, RequestId};
use crate::proto::{REQUEST_AGE, v1};
use crate::telemetry::trace::TraceId;
use crate::time::{Clock, WallMs};
use crate::view::{AccountCommand, Answer, Command, Envelope, FirstSent, Query, Reply};

/// Shared by the services for clients.
pub(super) struct Front {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) limits: Limits,
    pub(super) clock: Arc<dyn Clock>,
    /// When refused callers are to come back.
    pub(super) spread: Arc<Spread>,
    random: Mutex<StdRng>,
}

/// A committed write whose answer is no rejection.
pub(super) struct Done {
    pub(super) answer: Answer,
    pub(super) info: v1::WriteInfo,
    hint: Option<super::Hint>,
    cluster: Cluster,
}

impl Done {
    /// The response, with the hint in its metadata.
    pub(super) fn respond<M>(&self, message: M) -> Response<M> {
        let mut response = Response::new(message);
        if let Some(hint) = &self.hint {
            fault::tell(response.metadata_mut(), hint, Some(self.cluster.shards));
        } else if self.info.standing() == v1::WriteStanding::Accepted {
            fault::tell_no_leader(response.metadata_mut(), self.info.shard, self.cluster.shards);
        }
        response
    }
}

/// An answered query.
pub(super) struct Seen {
    pub(super) reply: Reply,
    pub(super) info: v1::ReadInfo,
    hint: Option<super::Hint>,
    cluster: Cluster,
}

impl Seen {
    /// The response, with the hint in its metadata.
    pub(super) fn respond<M>(&self, message: M) -> Response<M> {
        let mut response = Response::new(message);
        if let Some(hint) = &self.hint {
            fault::tell(response.metadata_mut(), hint, Some(self.cluster.shards));
        }
        response
    }
}

impl Front {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        limits: Limits,
        clock: Arc<dyn Clock>,
        spread: Arc<Spread>,
        seed: u64,
    ) -> Self {
        Self { backend, limits, clock, spread, random: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    /// What one caller is told of a failure.
    fn fault(&self, failure: Failure, cluster: Cluster) -> Fault {
        let fault = Fault::from(failure).of(Some(cluster.shards));
        self.spread.note(usize::from(fault.is_overload()), 0);
        fault.spread(self.spread.draw())
    }

    /// Within what a request must be answered, and its message.
    pub(super) fn within<M>(&self, request: Request<M>) -> Result<(Within, M), Fault> {
        let (metadata, extensions, message) = request.into_parts();
        let trace = extensions.get::<TraceId>().cloned().unwrap_or_default();
        let age_ms = request_age(&metadata)?;
        Ok((Within { timeout: self.limits.timeout(&metadata), trace, age_ms }, message))
    }

    fn cluster(&self) -> Result<Cluster, Fault> {
        self.backend.cluster().ok_or_else(|| Failure::NoCluster.into())
    }

    fn fresh_request_id(&self) -> RequestId {
        let id = format!("node-{:032x}", self.random.lock().random::<u128>());
        RequestId::new(id).expect("hexadecimal digits are an id")
    }

    /// Has a command of an account done under its request id; one is made where the caller gave none.
    pub(super) async fn write(
        &self,
        within: Within,
        asked: (AccountId, Option<RequestId>, AccountCommand),
    ) -> Result<(AccountId, Done), Status> {
        let (account, request_id, command) = asked;
        let request_id = request_id.unwrap_or_else(|| self.fresh_request_id());
        tracing::debug!(%account, %request_id, command = command_name(&command), "write");
        let mut envelope = Envelope::request(request_id, account.clone(), command);
        envelope.first_sent = within.age_ms.map(FirstSent::AgoMs);
        Ok((account, self.write_envelope(within, envelope).await?))
    }

    /// Has one envelope done.
    pub(super) async fn write_envelope(&self, within: Within, envelope: Envelope) -> Result<Done, Status> {
        let cluster = self.cluster()?;
        let account = match &envelope.command {
            Command::Account(account, _) => account.clone(),
            Command::Tick | Command::UpdateSettings(_) | Command::Adopt(_) | Command::Stretch(_) => {
                return Err(Fault::internal("no account's command").into());
            }
        };
        let needed = envelope.command.needs();
        if needed > cluster.version {
            return Err(Fault::too_early(needed, cluster.version).into());
        }
        let outcomes = self.backend.propose(vec![envelope], within).await;
        let outcome = outcomes.into_iter().next().unwrap_or(Err(Failure::Unknown));
        let Write { answer, shard, revision, accepted, hint } =
            outcome.map_err(|failure| self.fault(failure, cluster))?;
        self.spread.note(0, 1);
        if let Answer::Rejected(rejection) = &answer {
            return Err(Fault::rejected(&account, rejection).into());
        }
        let revision = if accepted { String::new() } else { revision_text(cluster, shard, revision) };
        let info = v1::WriteInfo { revision, shard: shard.0, standing: standing(accepted).into() };
        Ok(Done { answer, info, hint, cluster })
    }

    /// Asks the account's shard.
    pub(super) async fn read(&self, within: Within, query: Query, wish: Wish) -> Result<Seen, Status> {
        let cluster = self.cluster()?;
        let reading = wish.of(cluster, query.account())?;
        // A strong answer sees everything acknowledged before the call began, and perhaps nothing after.
        let asked = self.clock.wall();
        let read = self.backend.query(query, reading, within).await;
        let Read { reply, served, hint } = read.map_err(|failure| self.fault(failure, cluster))?;
        self.spread.note(0, 1);
        if let Reply::Invalid { field, accepted } = &reply {
            return Err(Fault::field(field, accepted.to_string()).into());
        }
        let info = read_info(cluster, asked, &served);
        Ok(Seen { reply, info, hint, cluster })
    }
}

fn read_info(cluster: Cluster, asked: WallMs, served: &Served) -> v1::ReadInfo {
    // Confirmed within this call: never older than its beginning.
    let age_ms = if served.mode.needs_leader() { Some(0) } else { served.age_ms };
    // An age counts from the answer, which was after the beginning: so this is rather too old than too young.
    let as_of = age_ms.map_or(served.as_of, |age_ms| WallMs(asked.0.saturating_sub(age_ms)));
    v1::ReadInfo {
        served_by: served.node.to_string(),
        role: convert::role(served.role).into(),
        as_of_time: Some(convert::timestamp(as_of)),
        revision: revision_text(cluster, served.shard, served.revision),
        degraded: served.degraded,
        shard: served.shard.0,
        age_ms: age_ms.map(convert::ms),
        mode: wish::told(served.mode).into(),
    }
}

/// What an answer is worth.
pub(super) fn standing(accepted: bool) -> v1::WriteStanding {
    if accepted { v1::WriteStanding::Accepted } else { v1::WriteStanding::Committed }
}

/// How long ago the request was sent for the first time: [`REQUEST_AGE`].
fn request_age(metadata: &MetadataMap) -> Result<Option<u64>, Fault> {
    let Some(value) = metadata.get(REQUEST_AGE) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let digits = !text.is_empty() && text.len() <= 15 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(age) if digits => Ok(Some(age)),
        _ => Err(Fault::field(REQUEST_AGE, "must be a number of milliseconds of 1 to 15 digits")),
    }
}

/// A reply that does not fit its query: the backend's mistake.
pub(super) fn mismatch(what: &str) -> Status {
    Fault::internal(format!("an answer that does not fit {what}")).into()
}

fn command_name(command: &AccountCommand) -> &'static str {
    match command {
        AccountCommand::StartView(_) => "StartView",
        AccountCommand::ReportProgress(_) => "ReportProgress",
        AccountCommand::StopView(_) => "StopView",
        AccountCommand::EndView(_) => "EndView",
        AccountCommand::ImportHistory(_) => "ImportHistory",
        AccountCommand::UpdateStreamPolicy(_) => "UpdateStreamPolicy",
        AccountCommand::HandOff(_) => "HandOff",
    }
}
