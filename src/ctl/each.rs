//! Asking every node for itself.

use std::time::Duration;

use futures::StreamExt as _;

use super::context::Context;
use super::exit::Failure;
use super::node::Node;
use crate::client::{AdminClient, Error};

/// How many nodes are asked at once.
const AT_ONCE: usize = 32;
/// The longest that one node is waited for.
const PATIENCE_MAX: Duration = Duration::from_secs(3);

/// What one node said, or why it said nothing.
#[derive(Debug)]
pub(super) struct Said<T> {
    pub(super) node: String,
    pub(super) answer: Result<T, String>,
}

/// Asks each of these nodes on its own port for operators, all at once; the answers come in the order of the nodes. One that
/// is silent takes no more than half of what is left of `--timeout`.
pub(super) async fn each<T>(
    context: &Context,
    nodes: &[Node],
    ask: impl AsyncFn(AdminClient) -> Result<T, Error>,
) -> Vec<Said<T>> {
    let patience = (context.left() / 2).min(PATIENCE_MAX);
    let asking = nodes.iter().map(async |node| {
        let answer = match context.admin_of(&node.admin_endpoint, patience) {
            _ if node.admin_endpoint.is_empty() => Err("nobody knows yet where its admin port is".to_string()),
            Err(failure) => Err(failure.to_string()),
            Ok(admin) => ask(admin).await.map_err(|e| why(&e)),
        };
        Said { node: node.node.clone(), answer }
    });
    futures::stream::iter(asking).buffered(AT_ONCE).collect().await
}

/// The cause alone: that it was asked once is no news.
fn why(error: &Error) -> String {
    match error {
        Error::Unavailable { last, .. } => Failure::Unreachable(last.clone()).to_string(),
        other => Failure::error(other.to_string()).to_string(),
    }
}
