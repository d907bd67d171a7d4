//! What devices send.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::fault::Fault;
use super::fields::{Fields, Path};
use super::front::{Front, mismatch};
use super::stream::{Answers, Streams};
use super::wish::Wish;
use crate::ids::ViewId;
use crate::proto::v1;
use crate::proto::v1::collection_service_server::CollectionService;
use crate::telemetry::trace::TraceId;
use crate::view::{Answer, Query, Reply, ViewStatus};

pub(super) struct Collection {
    front: Arc<Front>,
    streams: Streams,
}

impl Collection {
    /// `stop` ends the streams.
    pub(super) fn new(front: Arc<Front>, stop: CancellationToken) -> Self {
        let streams = Streams::new(front.clone(), stop);
        Self { front, streams }
    }
}

#[async_trait::async_trait]
impl CollectionService for Collection {
    type ReportProgressStreamStream = Answers;

    async fn start_view(
        &self,
        request: Request<v1::StartViewRequest>,
    ) -> Result<Response<v1::StartViewResponse>, Status> {
        let (within, request) = self.front.within(request)?;
        let (account, done) = self.front.write(within, convert::start_view(request)?).await?;
        let Answer::Started(started) = &done.answer else { return Err(mismatch("StartView")) };
        let started = Some(convert::started(&account, started));
        Ok(done.respond(v1::StartViewResponse { started, write_info: Some(done.info.clone()) }))
    }

    async fn report_progress(
        &self,
        request: Request<v1::ReportProgressRequest>,
    ) -> Result<Response<v1::ReportProgressResponse>, Status> {
        let (within, request) = self.front.within(request)?;
        let report = request.report.ok_or_else(|| Fault::field("report", "is missing"))?;
        let envelope = convert::report(Path::from("report"), report)?;
        let done = self.front.write_envelope(within, envelope).await?;
        let Answer::Progressed(progressed) = &done.answer else { return Err(mismatch("ReportProgress")) };
        let standing = done.info.standing;
        let result = Some(v1::ProgressResult { standing, ..convert::progress_result(progressed) });
        Ok(done.respond(v1::ReportProgressResponse { result, write_info: Some(done.info.clone()) }))
    }

    async fn report_progress_stream(
        &self,
        request: Request<Streaming<v1::ReportProgressStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let trace = request.extensions().get::<TraceId>().cloned().unwrap_or_default();
        Ok(Response::new(self.streams.open(request.into_inner(), trace)?))
    }

    async fn stop_view(&self, request: Request<v1::StopViewRequest>) -> Result<Response<v1::StopViewResponse>, Status> {
        let (within, request) = self.front.within(request)?;
        let (account, done) = self.front.write(within, convert::stop_view(request)?).await?;
        let Answer::Stopped(stopped) = &done.answer else { return Err(mismatch("StopView")) };
        let message =
            v1::StopViewResponse { write_info: Some(done.info.clone()), ..convert::stopped(&account, stopped) };
        Ok(done.respond(message))
    }

    async fn end_view(&self, request: Request<v1::EndViewRequest>) -> Result<Response<v1::EndViewResponse>, Status> {
        let (within, request) = self.front.within(request)?;
        let (_, done) = self.front.write(within, convert::end_view(request)?).await?;
        let Answer::Ended(view) = &done.answer else { return Err(mismatch("EndView")) };
        Ok(done.respond(v1::EndViewResponse { view_id: view.to_string(), write_info: Some(done.info.clone()) }))
    }

    async fn get_view(&self, request: Request<v1::GetViewRequest>) -> Result<Response<v1::GetViewResponse>, Status> {
        let (within, request) = self.front.within(request)?;
        let mut fields = Fields::default();
        let account = convert::account(&mut fields, request.account_id);
        let view = fields.id("view_id", request.view_id, ViewId::new);
        let wish = Wish::new(&mut fields, request.read_options);
        let (account, view) = fields.with(account.zip(view))?;
        let seen = self.front.read(within, Query::GetView(account.clone(), view.clone()), wish).await?;
        let Reply::View(status) = &seen.reply else { return Err(mismatch("GetView")) };
        let status = match status {
            ViewStatus::Active(active) => v1::get_view_response::Status::Active(convert::view(&account, active)),
            ViewStatus::Ended(ended) => v1::get_view_response::Status::Ended(convert::ended(ended)),
            // Also who is told that there is nothing has to know who says so, and how old that is.
            ViewStatus::Unknown => {
                let fault = Fault::view_unknown(view.as_str());
                return Err(fault.detail("playhead.v1.ReadInfo", &seen.info).into());
            }
        };
        Ok(seen.respond(v1::GetViewResponse { status: Some(status), read_info: Some(seen.info.clone()) }))
    }

    async fn list_active_views(
        &self,
        request: Request<v1::ListActiveViewsRequest>,
    ) -> Result<Response<v1::ListActiveViewsResponse>, Status> {
        let (within, request) = self.front.within(request)?;
        let mut fields = Fields::default();
        let account = convert::account(&mut fields, request.account_id);
        let wish = Wish::new(&mut fields, request.read_options);
        let account = fields.with(account)?;
        let seen = self.front.read(within, Query::ListActiveViews(account.clone()), wish).await?;
        let Reply::ActiveViews(views) = &seen.reply else { return Err(mismatch("ListActiveViews")) };
        let views = views.iter().map(|v| convert::view(&account, v)).collect();
        Ok(seen.respond(v1::ListActiveViewsResponse { views, read_info: Some(seen.info.clone()) }))
    }
}
