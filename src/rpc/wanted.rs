//! Checks of the requests that change what nodes there are and where replicas stand.

use super::admin::{address, node_text};
use super::fault::Fault;
use super::fields::Fields;
use crate::node::meta::{
    ACCOUNT_PER_SECOND_MAX, COPIES_BYTES_PER_SECOND_MAX, COPIES_BYTES_PER_SECOND_MIN, GRACE_MS_MAX, GRACE_MS_MIN,
};
use crate::proto::v1;
use crate::ring::{Slack, Weight, Zone};

/// A node's name, which must be there.
fn name(fields: &mut Fields, path: &str, text: &str) {
    match text {
        "" => fields.bad(path, "is missing: a node's name is accepted"),
        text => node_text(fields, path.into(), text),
    }
}

fn zone(fields: &mut Fields, text: &str) {
    if let Err(error) = Zone::new(text) {
        fields.bad("zone", error.to_string());
    }
}

fn weight(fields: &mut Fields, weight: u32) {
    if let Err(error) = Weight::new(weight) {
        fields.bad("weight", format!("is {weight}: {} to {} are accepted", error.min, error.max));
    }
}

/// Of a node that comes: an address, and zone and weight unless they are left to its configuration.
fn newcomer(fields: &mut Fields, endpoint: &str, its_zone: &str, its_weight: u32) {
    address(fields, "node_endpoint".into(), endpoint);
    if !its_zone.is_empty() {
        zone(fields, its_zone);
    }
    if its_weight != 0 {
        weight(fields, its_weight);
    }
}

pub(super) fn add_node(request: &v1::AddNodeRequest) -> Result<(), Fault> {
    let mut fields = Fields::default();
    newcomer(&mut fields, &request.node_endpoint, &request.zone, request.weight);
    fields.finish()
}

pub(super) fn replace_node(request: &v1::ReplaceNodeRequest) -> Result<(), Fault> {
    let mut fields = Fields::default();
    name(&mut fields, "node", &request.node);
    newcomer(&mut fields, &request.node_endpoint, &request.zone, request.weight);
    fields.finish()
}

fn only_name(text: &str) -> Result<(), Fault> {
    let mut fields = Fields::default();
    name(&mut fields, "node", text);
    fields.finish()
}

pub(super) fn drain_node(request: &v1::DrainNodeRequest) -> Result<(), Fault> {
    only_name(&request.node)
}

pub(super) fn remove_node(request: &v1::RemoveNodeRequest) -> Result<(), Fault> {
    only_name(&request.node)
}

pub(super) fn forget_node(request: &v1::ForgetNodeRequest) -> Result<(), Fault> {
    only_name(&request.node)
}

pub(super) fn give_up_node(request: &v1::GiveUpNodeRequest) -> Result<(), Fault> {
    only_name(&request.node)
}

pub(super) fn update_node(request: &v1::UpdateNodeRequest) -> Result<(), Fault> {
    let mut fields = Fields::default();
    name(&mut fields, "node", &request.node);
    if let Some(text) = &request.zone {
        zone(&mut fields, text);
    }
    if let Some(number) = request.weight {
        weight(&mut fields, number);
    }
    fields.finish()
}

pub(super) fn update_rules(request: &v1::UpdateRulesRequest) -> Result<(), Fault> {
    let mut fields = Fields::default();
    if let Some(count) = request.replication_factor.filter(|count| ![1, 3, 5].contains(count)) {
        fields.bad("replication_factor", format!("is {count}: 1, 3 or 5 is accepted"));
    }
    if let Some(slack) = request.slack_permille.filter(|slack| Slack::new(*slack).is_err()) {
        fields.bad("slack_permille", format!("is {slack}: {} to {} are accepted", Slack::MIN, Slack::MAX));
    }
    if let Some(ms) = request.grace_ms.filter(|ms| !(GRACE_MS_MIN..=GRACE_MS_MAX).contains(ms)) {
        fields.bad("grace_ms", format!("is {ms}: {GRACE_MS_MIN} to {GRACE_MS_MAX} are accepted"));
    }
    let copies = COPIES_BYTES_PER_SECOND_MIN..=COPIES_BYTES_PER_SECOND_MAX;
    if let Some(rate) = request.copies_bytes_per_second.filter(|rate| *rate != 0 && !copies.contains(rate)) {
        let accepted = format!("0, or {} to {} bytes are accepted", copies.start(), copies.end());
        fields.bad("copies_bytes_per_second", format!("is {rate}: {accepted}"));
    }
    if let Some(rate) = request.account_per_second.filter(|rate| *rate > ACCOUNT_PER_SECOND_MAX) {
        let accepted = format!("0, or 1 to {ACCOUNT_PER_SECOND_MAX} are accepted");
        fields.bad("account_per_second", format!("is {rate}: {accepted}"));
    }
    fields.finish()
}

pub(super) fn move_replica(request: &v1::MoveReplicaRequest) -> Result<(), Fault> {
    let mut fields = Fields::default();
    name(&mut fields, "from_node", &request.from_node);
    name(&mut fields, "to_node", &request.to_node);
    fields.finish()
}

pub(super) fn recover_shard(request: &v1::RecoverShardRequest) -> Result<(), Fault> {
    let mut fields = Fields::default();
    name(&mut fields, "from_node", &request.from_node);
    fields.finish()
}
