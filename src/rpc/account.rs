//! Accounts.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::fields::Fields;
use super::front::{Front, mismatch};
use super::wish::Wish;
use crate::proto::v1;
use crate::proto::v1::account_service_server::AccountService;
use crate::view::{Answer, Query, Reply};

pub(super) struct Account(pub(super) Arc<Front>);

#[async_trait::async_trait]
impl AccountService for Account {
    async fn get_stream_policy(
        &self,
        request: Request<v1::GetStreamPolicyRequest>,
    ) -> Result<Response<v1::GetStreamPolicyResponse>, Status> {
        let (within, request) = self.0.within(request)?;
        let mut fields = Fields::default();
        let account = convert::account(&mut fields, request.account_id);
        let wish = Wish::new(&mut fields, request.read_options);
        let account = fields.with(account)?;
        let seen = self.0.read(within, Query::GetStreamPolicy(account), wish).await?;
        let Reply::StreamPolicy(policy) = &seen.reply else { return Err(mismatch("GetStreamPolicy")) };
        let policy = Some(convert::stream_policy(*policy));
        Ok(seen.respond(v1::GetStreamPolicyResponse { policy, read_info: Some(seen.info.clone()) }))
    }

    async fn update_stream_policy(
        &self,
        request: Request<v1::UpdateStreamPolicyRequest>,
    ) -> Result<Response<v1::UpdateStreamPolicyResponse>, Status> {
        let (within, request) = self.0.within(request)?;
        let (_, done) = self.0.write(within, convert::update_stream_policy(request)?).await?;
        let Answer::PolicyUpdated(policy) = &done.answer else { return Err(mismatch("UpdateStreamPolicy")) };
        let policy = Some(convert::stream_policy(*policy));
        Ok(done.respond(v1::UpdateStreamPolicyResponse { policy, write_info: Some(done.info.clone()) }))
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        let (within, request) = self.0.within(request)?;
        let mut fields = Fields::default();
        let account = convert::account(&mut fields, request.account_id);
        let wish = Wish::new(&mut fields, request.read_options);
        let account = fields.with(account)?;
        let seen = self.0.read(within, Query::GetAccount(account.clone()), wish).await?;
        let Reply::Account(summary) = &seen.reply else { return Err(mismatch("GetAccount")) };
        let message = v1::GetAccountResponse {
            account: Some(convert::account_summary(&account, summary)),
            read_info: Some(seen.info.clone()),
        };
        Ok(seen.respond(message))
    }
}
