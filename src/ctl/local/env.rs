//! `clusterctl local env`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::{Root, context_of};
use crate::local::LocalCluster;

pub(super) fn run(context: &Context, root: Root) -> Result<(), Failure> {
    let cluster = LocalCluster::open(root.root)?;
    let connection = context_of(context, &cluster).connection.to_string();
    context.answer(&serde_json::json!({ "PLAYHEAD_ENDPOINTS": connection }), || {
        format!("export PLAYHEAD_ENDPOINTS='{connection}'")
    })
}
