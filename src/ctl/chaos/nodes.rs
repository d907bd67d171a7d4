//! The nodes to which faults are done, and who has to be brought back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::connect::Connection;
use super::super::context::Context;
use super::super::exit::Failure;
use super::super::status::Status;
use crate::client::AdminClient;
use crate::local::{LocalCluster, LocalError};
use crate::proto::v1;

/// How long one node may take to say how it sees the cluster.
const PATIENCE: Duration = Duration::from_secs(2);

/// The processes. Dropped, those of a cluster of our own are killed, standing still or not; one that was there before is left
/// with none that stands still.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) local: LocalCluster,
    /// Started by us, to be stopped by us.
    pub(super) own: bool,
    /// Who stands still.
    paused: BTreeSet<String>,
    /// What was found wrong with the processes: a node has ended that nobody here has ended.
    troubles: BTreeSet<String>,
}

impl Nodes {
    pub(super) fn new(local: LocalCluster, own: bool) -> Self {
        Self { local, own, paused: BTreeSet::new(), troubles: BTreeSet::new() }
    }

    /// The name of the node with this number.
    pub(super) fn name(&self, number: usize) -> String {
        let names = self.local.names();
        names[number % names.len().max(1)].clone()
    }

    pub(super) fn pause(&mut self, name: &str) -> Result<(), LocalError> {
        // Noted first: whatever comes between, it is let go on.
        self.paused.insert(name.to_string());
        self.local.pause(name, true)
    }

    pub(super) fn resume(&mut self, name: &str) -> Result<(), LocalError> {
        self.local.pause(name, false)?;
        self.paused.remove(name);
        Ok(())
    }

    /// Lets all go on that stand still, and starts all that are dead.
    pub(super) async fn heal(&mut self) -> Result<(), LocalError> {
        for name in std::mem::take(&mut self.paused) {
            self.local.pause(&name, false)?;
        }
        self.start_all().await
    }

    /// Starts all that are dead; who was neither stopped nor killed here is remembered as a trouble.
    pub(super) async fn start_all(&mut self) -> Result<(), LocalError> {
        self.look();
        self.local.start_all().await
    }

    /// Looks for nodes that have ended by themselves.
    pub(super) fn look(&mut self) {
        self.troubles.extend(self.local.fallen().into_iter().map(|(name, how)| format!("{name} {how}")));
    }

    /// What was found since the last call.
    pub(super) fn take_troubles(&mut self) -> Vec<String> {
        std::mem::take(&mut self.troubles).into_iter().collect()
    }

    /// Every node's own services for operators.
    pub(super) fn admins(&self, context: &Context) -> Result<Vec<(String, AdminClient)>, Failure> {
        let mut admins = Vec::new();
        for name in self.local.names() {
            if let Some(endpoints) = self.local.endpoints(&name) {
                let admin = context.admin_of(&format!("http://{}", endpoints.admin), PATIENCE)?;
                admins.push((name, admin));
            }
        }
        Ok(admins)
    }

    /// Where they are.
    pub(super) fn connection(&self) -> Connection {
        Connection::new(self.local.client_endpoints(), self.local.admin_endpoints())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for name in std::mem::take(&mut self.paused) {
            let _ = self.local.pause(&name, false);
        }
    }
}

/// What every node says is wrong with the cluster; nothing if all say that all is well.
pub(super) async fn complaints(admins: &[(String, AdminClient)]) -> Vec<String> {
    let asked =
        admins.iter().map(async |(name, admin)| match admin.get_cluster_status(v1::GetClusterStatusRequest {}).await {
            Ok(answer) => {
                // What was accepted is to be seen before anything is compared.
                let waiting = answer.nodes.iter().filter(|node| node.hints_waiting > 0);
                let waiting = waiting.map(|node| format!("{} has {} hints to hand off", node.node, node.hints_waiting));
                let waiting: Vec<String> = waiting.collect();
                let status = Status::from(answer).complaints().into_iter().chain(waiting);
                status.map(|what| format!("{name}: {what}")).collect()
            }
            Err(e) => vec![format!("{name}: {e}")],
        });
    futures::future::join_all(asked).await.concat()
}

/// Whether others have noticed that `silent` is not there: one of them does not take it for alive, or has another leader in a
/// higher term for one of the shards that it led.
pub(super) async fn is_noticed(admins: &[(String, AdminClient)], silent: &str, led: &Led) -> bool {
    for (_, admin) in admins.iter().filter(|(name, _)| name != silent) {
        let Ok(status) = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await else { continue };
        let status = Status::from(status);
        if status.nodes.iter().any(|node| node.node == silent && node.liveness != "alive") {
            return true;
        }
        let Ok(shards) = admin.all_shards().await else { continue };
        if shards.iter().any(|shard| has_moved(shard, silent, led)) {
            return true;
        }
    }
    false
}

/// Shards with the term in which they were led.
pub(super) type Led = BTreeMap<u32, u64>;

fn has_moved(shard: &v1::ShardStatus, silent: &str, led: &Led) -> bool {
    let is_later = led.get(&shard.shard).is_some_and(|term| shard.term > *term);
    is_later && !shard.leader.is_empty() && shard.leader != silent
}

/// The shards that these nodes lead, as the first that answers knows.
pub(super) async fn led_by(admins: &[(String, AdminClient)], nodes: &[String]) -> Led {
    for (_, admin) in admins {
        if let Ok(shards) = admin.all_shards().await {
            return shards.into_iter().filter(|s| nodes.contains(&s.leader)).map(|s| (s.shard, s.term)).collect();
        }
    }
    Led::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_has_moved_only_to_another_leader_in_a_later_term() {
        let led = Led::from([(7, 3)]);
        let told =
            |shard, leader: &str, term| v1::ShardStatus { shard, leader: leader.into(), term, ..Default::default() };
        assert!(has_moved(&told(7, "n2", 4), "n1", &led));
        assert!(!has_moved(&told(7, "n2", 3), "n1", &led), "an answer from before");
        assert!(!has_moved(&told(7, "n1", 4), "n1", &led) && !has_moved(&told(7, "", 4), "n1", &led));
        assert!(!has_moved(&told(8, "n2", 4), "n1", &led), "it did not lead this one");
    }
}
