//! The meta group goes on with one replica that is left, when most of its voters are gone for good.
//!
//! No meta group can decide that, so an operator does, at the folder of a node that doesn't run.
//!
//! # Contract
//!
//! [`MetaLeft::open`] takes a stopped node's folder (its lock says that it is stopped) and tells where its meta log ends;
//! [`MetaLeft::go_on_alone`] writes into that log that its replica is the only voter, and that the meta group was recovered. The node
//! then leads it, and the others listen to it under fresh ids.
//!
//! # Caveats
//!
//! Of several folders that are left the one whose log ends last must be taken, and only one: nobody can check that, and two that were
//! recovered don't tell each other apart. Voters that were left out and come back refuse themselves only when they hear of it: wipe them.
//! Replicas of shards that the lost group had given out without this replica are not opened by the nodes that have them.

use std::sync::Arc;

use crate::ids::{NodeId, ReplicaId};
use crate::raft::{SoleError, end_of_log, make_sole_voter_of_meta};
use crate::time::Clock;
use crate::versions::{ClusterVersion, Feature, Spoken};
use crate::wal::Wal;

use super::config::Config;
use super::core::Seeds;
use super::folder::{DataFolder, FolderError, RecordError};
use super::link::Book;
use super::meta::{Command, Replicated};
use super::storage::{self, StorageError};
use super::surroundings::Surroundings;

/// Why a folder's meta replica doesn't go on alone. Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum NotRecovered {
    /// The folder; in use when its node runs.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A small file in it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The log.
    #[error(transparent)]
    Log(#[from] StorageError),
    /// It is of no cluster.
    #[error("this folder belongs to no cluster")]
    NoCluster,
    /// The cluster's version knows no recoveries.
    #[error("the cluster has version {found}, and recoveries came with version {needed}")]
    TooEarly {
        /// Its version.
        found: ClusterVersion,
        /// The one that it takes.
        needed: ClusterVersion,
    },
    /// It has no replica of the meta group that can be trusted.
    #[error("this folder has no replica of the meta group with a log that can be trusted: take another one")]
    NothingLeft,
    /// Its log can't be written.
    #[error(transparent)]
    Sole(#[from] SoleError),
}

/// What a stopped node has of the meta group.
pub struct MetaLeft {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: String,
    /// Its replica.
    pub replica: ReplicaId,
    /// The term and the index of the last entry of its log: of two folders the one with the higher term goes further, then the longer
    /// log.
    pub end: (u64, u64),
    /// The other nodes that it knows, and where they listened for nodes.
    pub others: Vec<(String, String)>,
    clock: Arc<dyn Clock>,
    wal: Wal,
    // Keeps the folder from being taken.
    _folder: DataFolder,
}

impl MetaLeft {
    /// Looks into the folder. Blocks.
    pub fn open(config: &Config, clock: Arc<dyn Clock>, seeds: Seeds) -> Result<Self, NotRecovered> {
        let surroundings = Surroundings::machine(&config.data_dir, clock.clone(), seeds);
        let spoken = Spoken::BUILD.at_most(config.compat_version_max);
        let folder = DataFolder::begin_process(surroundings.disk.take()?, seeds.node, spoken)?;
        let identity = folder.identity();
        let charter = identity.charter.as_ref().ok_or(NotRecovered::NoCluster)?;
        let (found, needed) = (identity.cluster_version(), Feature::Recovery.since());
        if !found.has(Feature::Recovery) {
            return Err(NotRecovered::TooEarly { found, needed });
        }
        let kept = folder.meta_replicas()?;
        let replicas = kept.unwrap_or_else(|| charter.meta_replica_of(identity.node).into_iter().collect());
        let (wal, trusted) = storage::open_log_alone(folder.fs().clone(), identity.node, config, &surroundings)?;
        let left = replicas.into_iter().filter(|replica| trusted.contains(replica) && !wal.is_forgotten(*replica));
        let left = left.filter_map(|replica| Some((end_of_log(&wal, replica)?, replica))).max();
        let Some((end, replica)) = left else {
            wal.close();
            return Err(NotRecovered::NothingLeft);
        };
        let (node, cluster) = (identity.node, charter.cluster.to_string());
        let book = Book::open(folder.fs().clone())?;
        super::belonging::learn_founders(&book, charter);
        let others = book.nodes().into_iter().filter(|other| *other != node);
        let others = others.filter_map(|other| Some((format!("node {other}"), book.link_address(other)?))).collect();
        Ok(Self { node, cluster, replica, end, others, clock, wal, _folder: folder })
    }

    /// Has the replica lead alone when its node is started next. Done again before that it changes nothing.
    pub async fn go_on_alone(&self) -> Result<(), NotRecovered> {
        let command = Command::RecoverMeta { survivor: self.replica }.to_bytes();
        let said = (command.into(), self.clock.wall());
        make_sole_voter_of_meta::<Replicated>(&self.wal, self.replica, self.node, said).await?;
        Ok(())
    }

    /// Lets go of the folder. Blocks.
    pub fn close(self) {
        self.wal.close();
    }
}
