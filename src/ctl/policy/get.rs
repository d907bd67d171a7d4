//! `clusterctl policy get`.

use serde::Serialize;

use super::super::account::Source;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::text::short;
use super::GetOptions;
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Policy {
    account_id: String,
    max_streams: u32,
    /// Views are refused while the account's shard has no leader.
    fail_closed: bool,
    /// It was set for this account; otherwise it is the cluster's default.
    is_own: bool,
    read: Source,
}

pub(super) async fn run(context: &Context, options: GetOptions) -> Result<(), Failure> {
    let account_id = options.account.to_string();
    // The account says, other than its policy alone, whether that is its own.
    let request = v1::GetAccountRequest { account_id: account_id.clone(), read_options: options.reading.options()? };
    let answer = context.read(context.asking()?.get_account(request)).await?;
    let account = answer.account.unwrap_or_default();
    let policy = Policy {
        account_id,
        max_streams: account.policy.unwrap_or_default().max_streams,
        fail_closed: account.policy.unwrap_or_default().fail_closed,
        is_own: account.policy_is_own,
        read: Source::from(answer.read_info),
    };
    let verdict = policy.read.verdict();
    let text = || {
        let whose = if policy.is_own { "set for this account" } else { "the cluster's default" };
        let read = policy.read.text(context.clock.wall());
        let name = short(&policy.account_id, 40);
        let closed = if policy.fail_closed { "; views are refused while its shard has no leader" } else { "" };
        format!("account {name}: at most {} streams, {whose}{closed}\n{read}", policy.max_streams)
    };
    context.show(context.screen(&policy, text, verdict)?)
}
