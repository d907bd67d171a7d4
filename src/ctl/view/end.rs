//! `clusterctl view end`.

use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::text::{plain, short};
use super::EndOptions;
use crate::proto::v1::{self, get_view_response::Status};

/// Who ended it, as its device is told.
const ENDED_BY: &str = "clusterctl";

#[derive(Debug, Serialize)]
struct Ended {
    account_id: String,
    view_id: String,
    profile_id: String,
    device_id: String,
    title_id: String,
    revision: String,
}

pub(super) async fn run(context: &Context, options: EndOptions) -> Result<(), Failure> {
    let (account_id, view_id) = (options.account.to_string(), options.view.to_string());
    let request = v1::GetViewRequest { account_id: account_id.clone(), view_id: view_id.clone(), ..Default::default() };
    let view = match context.read(context.asking()?.get_view(request)).await?.status {
        Some(Status::Active(view)) => view,
        Some(Status::Ended(_)) | None => return Err(Failure::error(format!("view {view_id} has ended already"))),
    };
    let what = format!(
        "View {} ends: {} on {}, profile {}",
        short(&view_id, 60),
        short(&view.title_id, 60),
        short(&view.device_id, 40),
        short(&view.profile_id, 40)
    );
    let context = permission(context, &what).await?;
    let request = v1::EndViewRequest { account_id, view_id, by_device_id: ENDED_BY.into(), ..Default::default() };
    let answer = context.asking()?.end_view(request).await?;
    let ended = Ended {
        account_id: plain(&view.account_id),
        view_id: plain(&answer.view_id),
        profile_id: plain(&view.profile_id),
        device_id: plain(&view.device_id),
        title_id: plain(&view.title_id),
        revision: plain(&answer.write_info.unwrap_or_default().revision),
    };
    context.answer(&ended, || {
        format!("view {} is ended: {} on {}", ended.view_id, short(&ended.title_id, 60), ended.device_id)
    })
}
