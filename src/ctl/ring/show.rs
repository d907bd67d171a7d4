//! `clusterctl ring show`.

use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{bar, cell, number, right, table, text};
use super::super::text::plain;
use super::{ShowOptions, draw};
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Ring {
    epoch: u64,
    shards: u32,
    shares: Vec<Share>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    points: Vec<Point>,
}

#[derive(Debug, Serialize)]
struct Share {
    node: String,
    weight: u32,
    zone: String,
    vnodes: u32,
    token_share: f64,
    weight_share: f64,
    replicas: u32,
    leaders_preferred: u32,
}

#[derive(Debug, Serialize)]
struct Point {
    token: String,
    node: String,
}

pub(super) async fn run(context: &Context, options: ShowOptions) -> Result<(), Failure> {
    let mut answer = context.read(context.admin()?.get_ring(v1::GetRingRequest { include_points: true })).await?;
    answer.points.sort_by_key(|point| point.token);
    let points: Vec<(u64, String)> = answer.points.into_iter().map(|point| (point.token, plain(&point.node))).collect();
    let shown = points.iter().filter(|_| options.points);
    let ring = Ring {
        epoch: answer.epoch,
        shards: answer.shards,
        points: shown.map(|(token, node)| Point { token: format!("{token:016x}"), node: node.clone() }).collect(),
        shares: answer.shares.into_iter().map(Share::from).collect(),
    };
    context.answer(&ring, || drawn(&ring, &points))
}

impl From<v1::RingShare> for Share {
    fn from(share: v1::RingShare) -> Self {
        Self {
            node: plain(&share.node),
            weight: share.weight,
            zone: plain(&share.zone),
            vnodes: share.vnodes,
            token_share: share.token_share,
            weight_share: share.weight_share,
            replicas: share.replicas,
            leaders_preferred: share.leaders_preferred,
        }
    }
}

fn drawn(ring: &Ring, points: &[(u64, String)]) -> String {
    let number_of = |name: &str| ring.shares.iter().position(|share| share.node == name);
    let numbered: Vec<(u64, usize)> =
        points.iter().filter_map(|(token, name)| Some((*token, number_of(name)?))).collect();
    let middle = [
        format!("{} shards", ring.shards),
        format!("{} points", number(points.len() as u64)),
        format!("epoch {}", ring.epoch),
    ];
    let mut rows = table(["", "NODE", "ZONE", "WEIGHT", "POINTS", "TOKENS", "REPLICAS", "LEADS BEST", ""]);
    right(&mut rows, &[3, 4, 5, 6, 7]);
    for (at, share) in ring.shares.iter().enumerate() {
        let colour = draw::COLOURS[at % draw::COLOURS.len()];
        rows.add_row([
            cell(draw::letter(at), colour),
            share.node.clone().into(),
            share.zone.clone().into(),
            share.weight.into(),
            share.vnodes.into(),
            format!("{:.1} %", share.token_share * 100.0).into(),
            share.replicas.into(),
            share.leaders_preferred.into(),
            cell(bar(share.token_share, 12), colour),
        ]);
    }
    let circle: Vec<String> = draw::ring(&numbered, &middle).into_iter().map(|row| format!("    {row}")).collect();
    let order = "Tokens grow clockwise from the top. A shard prefers the nodes that it meets\n\
                 first; bounded load evens out what the circle gives unevenly.";
    format!("{}\n\n{}\n\n{order}", circle.join("\n"), text(&mut rows))
}
