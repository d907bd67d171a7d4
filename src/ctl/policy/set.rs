//! `clusterctl policy set`.

use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::text::{plain, short};
use super::SetOptions;
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Set {
    account_id: String,
    max_streams: u32,
    max_streams_before: u32,
    fail_closed: bool,
    revision: String,
}

pub(super) async fn run(context: &Context, options: SetOptions) -> Result<(), Failure> {
    let (account_id, max_streams) = (options.account.to_string(), options.max_streams);
    let request = v1::GetStreamPolicyRequest { account_id: account_id.clone(), read_options: None };
    let before = context.read(context.asking()?.get_stream_policy(request)).await?;
    let before = before.policy.unwrap_or_default();
    let max_streams_before = before.max_streams;
    let fail_closed = options.fail_closed.unwrap_or(before.fail_closed);
    let name = short(&account_id, 60);
    let closed = match (before.fail_closed, fail_closed) {
        (false, true) => ", and its views are refused while its shard has no leader",
        (true, false) => ", and its views are let in while its shard has no leader",
        _ => "",
    };
    let what = format!("Account {name} may have {max_streams} streams at once instead of {max_streams_before}{closed}");
    let context = permission(context, &what).await?;
    let policy = Some(v1::StreamPolicy { max_streams, fail_closed });
    let request = v1::UpdateStreamPolicyRequest { account_id: account_id.clone(), policy, ..Default::default() };
    let answer = context.asking()?.update_stream_policy(request).await?;
    let set = Set {
        account_id,
        max_streams: answer.policy.unwrap_or_default().max_streams,
        max_streams_before,
        fail_closed: answer.policy.unwrap_or_default().fail_closed,
        revision: plain(&answer.write_info.unwrap_or_default().revision),
    };
    context.answer(&set, || {
        format!("account {name}: at most {} streams, before {}", set.max_streams, set.max_streams_before)
    })
}
