//! The data folder: who this node is, and that no other process is it at the same time.
//!
//! ```text
//! DATA_DIR/
//!   LOCK             held by the process (flock), never deleted
//!   identity         node id, generation, founding record, the newest cluster version that there is proof of
//!   meta             this node's replicas of the meta group
//!   peers            where the other nodes were last reached
//!   log-lost         only after the log was lost: which replicas must not go on
//!   endpoints.json   where this process listens, for scripts
//!   log/ store/      the write-ahead log and the store
//! ```
//!
//! **Contract.** [`DataFolder::open`] gives the folder to one process at a time; each opening raises the *generation*
//! durably before it returns, so that whatever a node says can be told from what its earlier process said. The node id
//! is made once. A node belongs to no cluster until it is *offered* a [`Charter`] and then told that all founders hold it; it never
//! changes its cluster after. Of two charters that are offered it keeps the first, and answers every offer with the one it holds.
//!
//! **Caveats.** The lock is advisory and holds on one machine: a folder on a network file system may be opened twice. A
//! copy of a folder is a second node with the same id: the link refuses the older generation, so don't start it.

mod charter;
mod record;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::Fs;
use crate::ids::{Generation, NodeId, ReplicaId};
use crate::versions::{ClusterVersion, Spoken};

use super::surroundings::{Disk, Lock, MachineDisk, Taken};
pub(crate) use charter::{FOUNDERS_MAX, meta_voters_of};

pub use charter::{Charter, CharterError, ClusterId, Founder};
pub use record::{RecordError, read_record, write_record};
use record::{read_up_to, write_as};

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error("the data folder {} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("the data folder {}: {what}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// One of our own files is not sound.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It was last in a cluster of a version that this build doesn't speak. Nothing was changed.
    #[error(
        "the data folder {} was last in a cluster of version {found}, and this build ({build}) speaks {spoken}: {advice}. Nothing was changed",
        path.display()
    )]
    Version {
        /// The folder.
        path: PathBuf,
        /// The cluster's version.
        found: ClusterVersion,
        /// What this node speaks.
        spoken: Spoken,
        /// The build.
        build: String,
        /// What to do.
        advice: &'static str,
    },
    /// The node belongs to a cluster already.
    #[error("this node belongs to the cluster {have} and can't take part in founding {new}")]
    OtherCluster {
        /// Its cluster.
        have: ClusterId,
        /// The one it was to join.
        new: ClusterId,
    },
    /// It was never offered the charter that it is told to begin with.
    #[error("this node was not offered the founding record of {cluster}")]
    NotOffered {
        /// The cluster that it was to begin.
        cluster: ClusterId,
    },
}

/// What the file `identity` holds.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Identity {
    /// The node, for ever.
    #[n(0)]
    pub node: NodeId,
    /// How often a process has started on this folder, this one included.
    #[n(1)]
    pub generation: Generation,
    /// The cluster's founding record; `None` before there is a cluster.
    #[n(2)]
    pub charter: Option<Charter>,
    /// A founding record that it holds for a cluster that is not known to have begun: not all founders may hold it yet.
    #[n(3)]
    pub offered: Option<Charter>,
    /// The newest version of its cluster that it has proof of; `None`: the first, or as its founding record says.
    #[n(4)]
    pub cluster_version: Option<ClusterVersion>,
}

impl Identity {
    /// The founding record that this node holds, of a cluster that has begun or not.
    pub fn held(&self) -> Option<&Charter> {
        self.charter.as_ref().or(self.offered.as_ref())
    }

    /// The newest version that the node's cluster is known to have. An offer says nothing of it: it may be withdrawn, and the node
    /// become one of another cluster.
    pub fn cluster_version(&self) -> ClusterVersion {
        self.charter.iter().map(Charter::version).chain(self.cluster_version).max().unwrap_or_default()
    }

    /// The newest cluster version that the folder has to do with.
    pub fn newest_version(&self) -> ClusterVersion {
        self.offered.iter().map(Charter::version).fold(self.cluster_version(), ClusterVersion::max)
    }

    /// Whether a build that speaks these versions may go on with the folder.
    fn check(&self, spoken: Spoken) -> Result<(), (ClusterVersion, &'static str)> {
        let found = self.newest_version();
        if found > spoken.newest {
            return Err((found, "start a build that speaks it, or lift compat.version_max if that is set"));
        }
        // What stands in its log may be as old.
        if self.charter.is_some() && found < spoken.oldest {
            return Err((found, "first start the build before, and finish the upgrade with it"));
        }
        Ok(())
    }

    /// Takes an offered record, if it holds none; answers the one that it holds then.
    pub(crate) fn offer(&mut self, charter: Charter) -> &Charter {
        match self.charter {
            Some(ref begun) => begun,
            None => self.offered.get_or_insert(charter),
        }
    }

    /// Every founder holds `charter`: the node is one of the cluster from now on. Says whether that is news.
    pub(crate) fn begin(&mut self, charter: &Charter) -> Result<bool, FolderError> {
        match (&self.charter, &self.offered) {
            (Some(have), _) if have == charter => Ok(false),
            (Some(have), _) => {
                Err(FolderError::OtherCluster { have: have.cluster.clone(), new: charter.cluster.clone() })
            }
            (None, Some(offered)) if offered == charter => {
                self.charter = self.offered.take();
                Ok(true)
            }
            (None, _) => Err(FolderError::NotOffered { cluster: charter.cluster.clone() }),
        }
    }

    /// The node was let into a cluster that has begun without it, and takes its record, if it holds none. Says whether that is news.
    pub(crate) fn join(&mut self, charter: &Charter) -> Result<bool, FolderError> {
        match (&self.charter, &self.offered) {
            (Some(have), _) if have == charter => Ok(false),
            (Some(have), _) | (None, Some(have)) => {
                Err(FolderError::OtherCluster { have: have.cluster.clone(), new: charter.cluster.clone() })
            }
            (None, None) => {
                self.charter = Some(charter.clone());
                Ok(true)
            }
        }
    }

    /// Lets go of an offered record whose cluster can never begin. Says whether it held it.
    pub(crate) fn withdraw(&mut self, charter: &Charter) -> bool {
        let held = self.offered.as_ref() == Some(charter);
        if held {
            self.offered = None;
        }
        held
    }
}

/// The folder, held by this process until dropped.
#[derive(Debug)]
pub struct DataFolder {
    fs: Arc<dyn Fs>,
    identity: Identity,
    _lock: Box<dyn Lock>,
}

const IDENTITY: &str = "identity";
const IDENTITY_MAGIC: &[u8; 8] = b"PLAYHDID";
const META: &str = "meta";
const META_MAGIC: &[u8; 8] = b"PLAYHDMR";

/// The file's format follows the cluster's version, so that a build of before can still read it as long as it may.
fn write_identity(folder: &dyn Fs, identity: &Identity) -> Result<(), RecordError> {
    let format = identity.newest_version().formats().identity;
    write_as(folder, IDENTITY, IDENTITY_MAGIC, format, identity)
}

/// Node ids are made of 32 random bits: two nodes of one cluster with the same one are refused when they meet.
fn node_id(random: u64) -> NodeId {
    NodeId((random >> 32).max(1))
}

impl DataFolder {
    /// Takes the folder at `path`, as [`Self::begin_process`] does.
    pub fn open(path: &Path, random: u64, spoken: Spoken) -> Result<Self, FolderError> {
        Self::begin_process(MachineDisk { data_dir: path.to_path_buf() }.take()?, random, spoken)
    }

    /// Begins a new generation in a folder that was taken. `random` makes the node id of a new folder. A folder that was last in a
    /// cluster of a version that isn't `spoken` is refused as it is.
    pub fn begin_process(taken: Taken, random: u64, spoken: Spoken) -> Result<Self, FolderError> {
        let Taken { fs, path, lock } = taken;
        let known = Spoken::BUILD.newest.formats().identity;
        let found: Option<Identity> = read_up_to(&*fs, IDENTITY, IDENTITY_MAGIC, known)?;
        let mut identity = found.unwrap_or_else(|| Identity {
            node: node_id(random),
            generation: Generation(0),
            charter: None,
            offered: None,
            cluster_version: None,
        });
        identity.check(spoken).map_err(|(found, advice)| {
            let build = crate::node::versions::build();
            FolderError::Version { path, found, spoken, build, advice }
        })?;
        identity.generation.0 += 1;
        write_identity(&*fs, &identity)?;
        Ok(Self { fs, identity, _lock: lock })
    }

    /// This node's replicas of the meta group, as it knew last; `None` before it knew any, and where that is damaged: then the
    /// founding record has the first one, whose id the log knows to be used up if it was replaced, and the other nodes know the rest.
    pub fn meta_replicas(&self) -> Result<Option<Vec<ReplicaId>>, RecordError> {
        match read_record(&*self.fs, META, META_MAGIC) {
            Err(error @ RecordError::Damaged { .. }) => {
                tracing::warn!(%error, "which meta replicas are here is forgotten");
                Ok(None)
            }
            replicas => replicas,
        }
    }

    /// Remembers this node's replicas of the meta group: a starting node opens them before it knows anything else.
    pub fn keep_meta_replicas(&self, replicas: &Vec<ReplicaId>) -> Result<(), RecordError> {
        write_record(&*self.fs, META, META_MAGIC, replicas)
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The folder itself.
    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// Takes an offered founding record durably, if the node holds none; answers the one that it holds then.
    pub fn offer(&mut self, charter: Charter) -> Result<Charter, FolderError> {
        let mut identity = self.identity.clone();
        let held = identity.offer(charter).clone();
        self.keep(identity)?;
        Ok(held)
    }

    /// Makes the node one of the cluster whose record it was offered, durably: all founders hold it. The same record again
    /// changes nothing.
    pub fn begin(&mut self, charter: &Charter) -> Result<(), FolderError> {
        let mut identity = self.identity.clone();
        identity.begin(charter)?;
        self.keep(identity)
    }

    /// Makes the node one of a cluster that has begun without it, durably, if it holds no founding record.
    pub fn join(&mut self, charter: &Charter) -> Result<(), FolderError> {
        let mut identity = self.identity.clone();
        identity.join(charter)?;
        self.keep(identity)
    }

    /// Lets go of an offered record whose cluster can never begin.
    pub fn withdraw(&mut self, charter: &Charter) -> Result<(), FolderError> {
        let mut identity = self.identity.clone();
        identity.withdraw(charter);
        self.keep(identity)
    }

    /// Remembers the newest cluster version that there is proof of, durably: builds that don't speak it refuse the folder.
    pub fn keep_version(&mut self, version: ClusterVersion) -> Result<(), FolderError> {
        let mut identity = self.identity.clone();
        if version > identity.cluster_version() {
            identity.cluster_version = Some(version);
        }
        self.keep(identity)
    }

    fn keep(&mut self, identity: Identity) -> Result<(), FolderError> {
        if identity != self.identity {
            write_identity(&*self.fs, &identity)?;
            self.identity = identity;
        }
        Ok(())
    }
}
