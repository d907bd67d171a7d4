//! The calls, one a method.

use super::call::{Call, Core, Kind};
use super::{Client, Error, ReportOutcome, Reported};
use crate::proto::MESSAGE_BYTES_MAX;
use crate::proto::v1;
use crate::proto::v1::account_service_client::AccountServiceClient;
use crate::proto::v1::collection_service_client::CollectionServiceClient;
use crate::proto::v1::history_service_client::HistoryServiceClient;
use crate::proto::v1::progress_service_client::ProgressServiceClient;
use crate::time::MonotonicMs;

/// Whose call it is, and what there is to fill in before it goes out for the first time.
trait Outgoing: Clone {
    fn account(&self) -> &str;
    /// Of a read: how it wants to be answered.
    fn reading(&mut self) -> Option<&mut Option<v1::ReadOptions>> {
        None
    }
    fn request_id(&mut self) -> Option<&mut String> {
        None
    }
}

macro_rules! outgoing {
    (read $($request:ident),* $(,)?) => {$(
        impl Outgoing for v1::$request {
            fn account(&self) -> &str {
                &self.account_id
            }
            fn reading(&mut self) -> Option<&mut Option<v1::ReadOptions>> {
                Some(&mut self.read_options)
            }
        }
    )*};
    (write $($request:ident),* $(,)?) => {$(
        impl Outgoing for v1::$request {
            fn account(&self) -> &str {
                &self.account_id
            }
            fn request_id(&mut self) -> Option<&mut String> {
                Some(&mut self.request_id)
            }
        }
    )*};
}

outgoing!(read GetViewRequest, ListActiveViewsRequest, GetResumePointRequest, BatchGetResumePointsRequest);
outgoing!(read ListContinueWatchingRequest, ListHistoryRequest, GetStreamPolicyRequest, GetAccountRequest);
outgoing!(write StartViewRequest, StopViewRequest, EndViewRequest, BatchImportHistoryRequest, UpdateStreamPolicyRequest);

fn account_of(report: Option<&v1::ProgressReport>) -> &str {
    report.map_or("", |r| &r.account_id)
}

impl Outgoing for v1::ReportProgressRequest {
    fn account(&self) -> &str {
        account_of(self.report.as_ref())
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $kind:ident $service:ident $method:ident($request:ident) -> $answer:ident;)*) => {
        impl Client {$(
            $(#[$doc])*
            pub async fn $method(&self, mut request: v1::$request) -> Result<v1::$answer, Error> {
                let began = self.core.clock.monotonic();
                let (id, age_ms) = self.identify(Outgoing::request_id(&mut request));
                let first_sent = MonotonicMs(began.0.saturating_sub(age_ms));
                let own = Own { core: &self.core, id, first_sent };
                let led = self.prepare(request.reading());
                let account = request.account().to_string();
                let call = Call { account: Some(account.as_str()).filter(|_| led), kind: Kind::$kind, deadline_ms: self.deadline_ms, age_ms };
                let ended = self.core
                    .call(call, request, |channel, request| async move {
                        $service::new(channel)
                            .max_decoding_message_size(MESSAGE_BYTES_MAX)
                            .max_encoding_message_size(MESSAGE_BYTES_MAX)
                            .$method(request)
                            .await
                    })
                    .await;
                own.ended(&ended);
                ended
            }
        )*}
    };
}

/// A write under its caller's own request id, who may send it again. Dropped before it ended, it is as one that ended unknown.
struct Own<'a> {
    core: &'a Core,
    id: Option<String>,
    first_sent: MonotonicMs,
}

impl Own<'_> {
    fn ended<A>(mut self, ended: &Result<A, Error>) {
        let known = !matches!(ended, Err(Error::Unknown { .. }));
        if let (true, Some(id)) = (known, &self.id) {
            self.core.sent.lock().ended(id);
            self.id = None;
        }
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.core.sent.lock().ended_unknown(id, self.first_sent);
        }
    }
}

impl Client {
    /// Fills in a request id where there is none. The caller's own, and how long ago the request was sent for the first time.
    fn identify(&self, id: Option<&mut String>) -> (Option<String>, u64) {
        let Some(id) = id else { return (None, 0) };
        if id.is_empty() {
            // Nobody but this call knows it, so nobody can send it again.
            *id = self.core.request_id();
            return (None, 0);
        }
        let known = self.core.sent.lock().age_ms(id, self.core.clock.monotonic());
        // However quickly it comes again, it isn't the first.
        (Some(id.clone()), known.map_or(0, |age| age.max(1)).max(self.age_ms))
    }

    /// Fills in how to read where the caller didn't say; whether the leader is best asked first. What any replica may answer goes to the
    /// nodes in turn.
    fn prepare(&self, reading: Option<&mut Option<v1::ReadOptions>>) -> bool {
        let Some(reading) = reading else { return true };
        if reading.is_none() {
            reading.clone_from(&self.reading);
        }
        let mode = reading.as_ref().map(v1::ReadOptions::mode).unwrap_or_default();
        !matches!(mode, v1::ReadMode::Session | v1::ReadMode::Bounded | v1::ReadMode::Any)
    }

    /// Says where a view is, and tells whether an attempt before the answered one may have been taken.
    pub async fn report(&self, report: v1::ProgressReport) -> ReportOutcome {
        let account = report.account_id.clone();
        let call = Call { account: Some(&account), kind: Kind::Write, deadline_ms: self.deadline_ms, age_ms: 0 };
        let request = v1::ReportProgressRequest { report: Some(report) };
        let send =
            |channel, request| async move { CollectionServiceClient::new(channel).report_progress(request).await };
        let (answer, repeated) = self.core.call_noting(call, request, send).await?;
        let revision = answer.write_info.map(|info| info.revision).unwrap_or_default();
        Ok(Reported { result: answer.result.unwrap_or_default(), repeated, revision })
    }
}

methods! {
    /// Starts a view if the account's stream limit lets it. An empty request id is filled in and kept over all attempts, here
    /// and in every other write.
    Write CollectionServiceClient start_view(StartViewRequest) -> StartViewResponse;
    /// Says where a view is; see [`Self::report`].
    Write CollectionServiceClient report_progress(ReportProgressRequest) -> ReportProgressResponse;
    /// Ends a view with its last report; the next title may start in the same step.
    Write CollectionServiceClient stop_view(StopViewRequest) -> StopViewResponse;
    /// Ends a view of another device.
    Write CollectionServiceClient end_view(EndViewRequest) -> EndViewResponse;
    /// One view.
    Read CollectionServiceClient get_view(GetViewRequest) -> GetViewResponse;
    /// What is being watched on the account right now.
    Read CollectionServiceClient list_active_views(ListActiveViewsRequest) -> ListActiveViewsResponse;
    /// Where a profile left off in one title.
    Read ProgressServiceClient get_resume_point(GetResumePointRequest) -> GetResumePointResponse;
    /// The same for up to 1,000 titles, as of one moment.
    Read ProgressServiceClient batch_get_resume_points(BatchGetResumePointsRequest) -> BatchGetResumePointsResponse;
    /// One page of what a profile can go on watching.
    Read ProgressServiceClient list_continue_watching(ListContinueWatchingRequest) -> ListContinueWatchingResponse;
    /// One page of what a profile has watched.
    Read HistoryServiceClient list_history(ListHistoryRequest) -> ListHistoryResponse;
    /// Adds up to 1,000 plays with their own times.
    Write HistoryServiceClient batch_import_history(BatchImportHistoryRequest) -> BatchImportHistoryResponse;
    /// How many streams the account may have.
    Read AccountServiceClient get_stream_policy(GetStreamPolicyRequest) -> GetStreamPolicyResponse;
    /// Sets how many streams the account may have.
    Write AccountServiceClient update_stream_policy(UpdateStreamPolicyRequest) -> UpdateStreamPolicyResponse;
    /// The account's policy, profiles and active views.
    Read AccountServiceClient get_account(GetAccountRequest) -> GetAccountResponse;
}
