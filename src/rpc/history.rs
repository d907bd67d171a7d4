//! What members have watched.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::fields::Fields;
use super::front::{Front, mismatch};
use super::page::List;
use super::wish::Wish;
use crate::proto::v1;
use crate::proto::v1::history_service_server::HistoryService;
use crate::time::WallMs;
use crate::view::{Answer, Page, Query, Reply};

pub(super) struct History(pub(super) Arc<Front>);

#[async_trait::async_trait]
impl HistoryService for History {
    async fn list_history(
        &self,
        request: Request<v1::ListHistoryRequest>,
    ) -> Result<Response<v1::ListHistoryResponse>, Status> {
        let (within, mut request) = self.0.within(request)?;
        let mut fields = Fields::default();
        let titled = !request.title_id.is_empty();
        let wanted = convert::list_history(&mut fields, &mut request);
        let wish = Wish::new(&mut fields, request.read_options);
        let list = {
            let text = |id: Option<&str>| id.unwrap_or_default().as_bytes().to_vec();
            let time = |time: Option<WallMs>| time.map(|t| t.0.to_be_bytes().to_vec()).unwrap_or_default();
            let parts = [
                text(wanted.account.as_ref().map(AsRef::as_ref)),
                text(wanted.profile.as_ref().map(AsRef::as_ref)),
                text(wanted.filter.title.as_ref().map(AsRef::as_ref)),
                time(wanted.filter.from),
                time(wanted.filter.to),
            ];
            List::new("history", &parts.each_ref().map(Vec::as_slice))
        };
        // Of a request that is wrong otherwise, the token can't be judged: it belongs to the right one.
        let filter = &wanted.filter;
        let judged = wanted.account.is_some()
            && wanted.profile.is_some()
            && filter.title.is_some() == titled
            && filter.from.is_some() == request.start_time_min.is_some()
            && filter.to.is_some() == request.start_time_max.is_some();
        let after = if judged { list.place(&mut fields, "page_token", &request.page_token) } else { None };
        let (account, profile) = fields.with(wanted.account.zip(wanted.profile))?;
        let page = Page { items_max: wanted.items_max, bytes_max: Some(wanted.bytes_max), after };
        let query = Query::ListHistory(account, profile.clone(), wanted.filter, page);
        let seen = self.0.read(within, query, wish).await?;
        let Reply::History { entries, next } = &seen.reply else { return Err(mismatch("ListHistory")) };
        let message = v1::ListHistoryResponse {
            entries: entries.iter().map(|e| convert::entry(&profile, e, request.include_plays)).collect(),
            next_page_token: next.as_ref().map(|place| list.token(place)).unwrap_or_default(),
            read_info: Some(seen.info.clone()),
        };
        Ok(seen.respond(message))
    }

    async fn batch_import_history(
        &self,
        request: Request<v1::BatchImportHistoryRequest>,
    ) -> Result<Response<v1::BatchImportHistoryResponse>, Status> {
        let (within, request) = self.0.within(request)?;
        let (_, done) = self.0.write(within, convert::import(request)?).await?;
        let Answer::Imported(imported) = &done.answer else { return Err(mismatch("BatchImportHistory")) };
        let write_info = Some(done.info.clone());
        Ok(done.respond(v1::BatchImportHistoryResponse { write_info, ..convert::imported(imported) }))
    }
}
