//! `clusterctl upgrade finish`.

use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::{FinishOptions, Info, versions};
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Raised {
    version_before: u32,
    version: u32,
    /// Whether anything was changed.
    raised: bool,
    switched_on: Vec<Info>,
}

impl Raised {
    fn new(answer: v1::RaiseClusterVersionResponse, done: bool) -> Self {
        Self {
            version_before: answer.version_before,
            version: answer.version,
            raised: done && answer.version > answer.version_before,
            switched_on: answer.switched_on.into_iter().map(Info::from).collect(),
        }
    }

    /// What is to be done, without its full stop.
    fn sentence(&self) -> String {
        let Self { version_before, version, .. } = self;
        format!(
            "The cluster goes from version {version_before} to {version}, for good: builds that don't speak it can't take part any more"
        )
    }

    fn text(&self) -> String {
        let news = self.switched_on.iter().map(|info| format!("\n  version {}: {}", info.version, info.what));
        let news: String = news.collect();
        let Self { version_before, version, .. } = self;
        match (version == version_before, self.raised) {
            (true, _) => format!("the cluster has version {version} already: nothing is to be done"),
            (false, true) => format!(
                "the cluster has version {version}, before {version_before}; the shards adopt it within moments:\n\
                 `clusterctl upgrade show` tells how many have. It switches on{news}"
            ),
            (false, false) => {
                format!("{}. It would switch on{news}\n\nnothing was done: this was a dry run", self.sentence())
            }
        }
    }
}

pub(super) async fn run(context: &Context, options: FinishOptions) -> Result<(), Failure> {
    // Somebody who knows of versions answers first: the others can't be asked to raise one.
    versions(context).await?;
    let request = v1::RaiseClusterVersionRequest { version: options.version, validate_only: true };
    let would = Raised::new(context.patient_admin().await?.raise_cluster_version(request).await?, false);
    if options.dry_run || would.version == would.version_before {
        return context.answer(&would, || would.text());
    }
    let context = permission(context, &would.sentence()).await?;
    let request = v1::RaiseClusterVersionRequest { version: would.version, validate_only: false };
    let done = Raised::new(context.patient_admin().await?.raise_cluster_version(request).await?, true);
    context.answer(&done, || done.text())
}
