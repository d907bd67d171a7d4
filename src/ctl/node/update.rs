//! `clusterctl node update`.

use clap::Args;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::plan::{How, change};
use super::node_name;
use crate::client::AdminClient;
use crate::proto::v1;

/// Which node, and what of it changes.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["zone", "weight", "hold", "release"])]
pub(in crate::ctl) struct Options {
    /// The node's name
    #[arg(value_name = "NAME", value_parser = node_name)]
    node: String,
    /// What it fails together with
    #[arg(long)]
    zone: Option<String>,
    /// Its share, 1 to 100
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    weight: Option<u32>,
    /// Never give it up, however long it is dead
    #[arg(long)]
    hold: bool,
    /// Give it up again when it is dead for too long
    #[arg(long, conflicts_with = "hold")]
    release: bool,
    #[command(flatten)]
    how: How,
}

impl Options {
    fn held(&self) -> Option<bool> {
        (self.hold || self.release).then_some(self.hold)
    }

    fn sentence(&self) -> String {
        let zone = self.zone.as_ref().map(|zone| format!("zone {zone}"));
        let weight = self.weight.map(|weight| format!("weight {weight}"));
        let held = self.held().map(|held| if held { "is held".to_string() } else { "is held no more".to_string() });
        let what: Vec<String> = zone.into_iter().chain(weight).chain(held).collect();
        format!("Node {}: {}", self.node, what.join(", "))
    }
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    change(context, options.how, async |admin: AdminClient, validate_only| {
        let (node, zone, weight) = (options.node.clone(), options.zone.clone(), options.weight);
        let request = v1::UpdateNodeRequest { node, zone, weight, held: options.held(), validate_only };
        Ok((options.sentence(), admin.update_node(request).await?.plan))
    })
    .await
}
