//! Where members left off.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::fields::Fields;
use super::front::{Front, mismatch};
use super::page::List;
use super::wish::Wish;
use crate::ids::{ProfileId, TitleId};
use crate::proto::v1;
use crate::proto::v1::progress_service_server::ProgressService;
use crate::view::{Page, Query, Reply};

/// The most items of the row on one page.
const ROW_ITEMS_MAX: u32 = 200;

pub(super) struct Progress(pub(super) Arc<Front>);

#[async_trait::async_trait]
impl ProgressService for Progress {
    async fn get_resume_point(
        &self,
        request: Request<v1::GetResumePointRequest>,
    ) -> Result<Response<v1::GetResumePointResponse>, Status> {
        let (within, request) = self.0.within(request)?;
        let mut fields = Fields::default();
        let account = convert::account(&mut fields, request.account_id);
        let profile = fields.id("profile_id", request.profile_id, ProfileId::new);
        let title = fields.id("title_id", request.title_id, TitleId::new);
        let wish = Wish::new(&mut fields, request.read_options);
        let ((account, profile), title) = fields.with(account.zip(profile).zip(title))?;
        let query = Query::GetResumePoints(account, profile.clone(), vec![title]);
        let seen = self.0.read(within, query, wish).await?;
        let Reply::ResumePoints(states) = &seen.reply else { return Err(mismatch("GetResumePoint")) };
        let resume_point = states.first().map(|state| convert::resume_point(&profile, state));
        Ok(seen.respond(v1::GetResumePointResponse { resume_point, read_info: Some(seen.info.clone()) }))
    }

    async fn batch_get_resume_points(
        &self,
        request: Request<v1::BatchGetResumePointsRequest>,
    ) -> Result<Response<v1::BatchGetResumePointsResponse>, Status> {
        let (within, request) = self.0.within(request)?;
        let mut fields = Fields::default();
        let account = convert::account(&mut fields, request.account_id);
        let profile = fields.id("profile_id", request.profile_id, ProfileId::new);
        let titles = convert::titles(&mut fields, request.title_ids);
        let wish = Wish::new(&mut fields, request.read_options);
        let (account, profile) = fields.with(account.zip(profile))?;
        let query = Query::GetResumePoints(account, profile.clone(), titles);
        let seen = self.0.read(within, query, wish).await?;
        let Reply::ResumePoints(states) = &seen.reply else { return Err(mismatch("BatchGetResumePoints")) };
        let resume_points = states.iter().map(|state| convert::resume_point(&profile, state)).collect();
        Ok(seen.respond(v1::BatchGetResumePointsResponse { resume_points, read_info: Some(seen.info.clone()) }))
    }

    async fn list_continue_watching(
        &self,
        request: Request<v1::ListContinueWatchingRequest>,
    ) -> Result<Response<v1::ListContinueWatchingResponse>, Status> {
        let (within, request) = self.0.within(request)?;
        let mut fields = Fields::default();
        let list = List::new("continue", &[request.account_id.as_bytes(), request.profile_id.as_bytes()]);
        let after = list.place(&mut fields, "page_token", &request.page_token);
        let account = convert::account(&mut fields, request.account_id);
        let profile = fields.id("profile_id", request.profile_id, ProfileId::new);
        let items_max = fields.number("page_size", request.page_size.into(), (1, ROW_ITEMS_MAX), 40);
        let wish = Wish::new(&mut fields, request.read_options);
        let (account, profile) = fields.with(account.zip(profile))?;
        let query = Query::ListContinueWatching(account, profile, Page { items_max, bytes_max: None, after });
        let seen = self.0.read(within, query, wish).await?;
        let Reply::ContinueWatching { items, next } = &seen.reply else {
            return Err(mismatch("ListContinueWatching"));
        };
        let message = v1::ListContinueWatchingResponse {
            items: items.iter().map(convert::continue_item).collect(),
            next_page_token: next.as_ref().map(|place| list.token(place)).unwrap_or_default(),
            read_info: Some(seen.info.clone()),
        };
        Ok(seen.respond(message))
    }
}
