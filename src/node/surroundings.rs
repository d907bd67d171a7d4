//! What a node stands on: everything that it is handed from outside.

use std::any::Any;
use std::fmt;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

use crate::fs::{DiskFs, Fs};
use crate::ids::ReplicaId;
use crate::net::Net;
use crate::raft::GroupConfig;
use crate::store::{self, CheckpointRecord, DiskStore, OnFatal, Store, Verdict};
use crate::threads::{Threads, Turns};
use crate::time::Clock;
use crate::wal;

use super::core::Seeds;
use super::folder::FolderError;

/// Everything that a node is handed: the machine's, or a simulation's.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What is random.
    pub seeds: Seeds,
    /// Who does what would block.
    pub threads: Threads,
    /// How long turns are of those of its threads that others wait for.
    pub turns: Turns,
    /// Where listeners and connections come from.
    pub net: Net,
    /// What its data stands on.
    pub disk: Arc<dyn Disk>,
    /// Sizes and times of its groups, where no setting says them.
    pub groups: GroupConfig,
}

impl Surroundings {
    /// The machine, with the data folder at `data_dir`.
    pub fn machine(data_dir: impl Into<PathBuf>, clock: Arc<dyn Clock>, seeds: Seeds) -> Self {
        let disk = Arc::new(MachineDisk { data_dir: data_dir.into() });
        let (threads, turns) = (Threads::Own, Turns::of_threads());
        Self { clock, seeds, threads, turns, net: Net::Tcp, disk, groups: GroupConfig::default() }
    }
}

/// A data folder that this process holds.
#[derive(Debug)]
pub struct Taken {
    /// The folder.
    pub fs: Arc<dyn Fs>,
    /// Where it is, for people.
    pub path: PathBuf,
    /// Keeps other processes out for as long as it lives.
    pub lock: Box<dyn Lock>,
}

/// What is held for as long as it lives.
pub trait Lock: Any + Send + Sync + fmt::Debug {}

impl<T: Any + Send + Sync + fmt::Debug> Lock for T {}

/// A store that was opened, and what it says of each replica.
pub type OpenedStore = (Arc<dyn Store>, Vec<(ReplicaId, Verdict)>);

/// What a node's data stands on. All calls block.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Takes the data folder for this process, making it if needed.
    fn take(&self) -> Result<Taken, FolderError>;

    /// The log's bounds and what is done when it fails, from what is usual for the node's settings.
    fn log(&self, usual: wal::Config) -> wal::Config;

    /// Opens the store; `known` are the newest checkpoint records of the log, `options` sizes.
    fn store(
        &self,
        options: StoreSizes,
        clock: Arc<dyn Clock>,
        known: &[CheckpointRecord],
    ) -> Result<OpenedStore, store::OpenError>;

    /// What is done when the store has failed: the process has to end.
    fn on_store_failed(&self) -> OnFatal;
}

/// What the configuration says of the store.
#[derive(Clone, Copy, Debug)]
pub struct StoreSizes {
    /// Cache of the live database and of the archive, each, in bytes.
    pub cache_bytes: u64,
    /// Room that is kept free, in bytes.
    pub reserve_bytes: u64,
}

/// The exit code of a process whose store has failed (`EX_IOERR` of sysexits.h).
pub(super) const EXIT_STORE_FAILED: i32 = 74;

/// A folder of the machine.
#[derive(Debug)]
pub(super) struct MachineDisk {
    pub(super) data_dir: PathBuf,
}

impl Disk for MachineDisk {
    fn take(&self) -> Result<Taken, FolderError> {
        let path = self.data_dir.clone();
        let io = |what| {
            let path = path.clone();
            move |source| FolderError::Io { path, what, source }
        };
        std::fs::create_dir_all(&path).map_err(io("can't be made"))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("LOCK"));
        let lock = lock.map_err(io("its LOCK can't be opened"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FolderError::InUse { path }),
            Err(errno) => return Err(io("its LOCK can't be taken")(errno.into())),
        }
        let fs = Arc::new(DiskFs::open(&path).map_err(io("can't be opened"))?);
        Ok(Taken { fs, path, lock: Box::new(lock) })
    }

    fn log(&self, usual: wal::Config) -> wal::Config {
        usual
    }

    fn store(
        &self,
        sizes: StoreSizes,
        clock: Arc<dyn Clock>,
        known: &[CheckpointRecord],
    ) -> Result<OpenedStore, store::OpenError> {
        let options = store::Options {
            live_cache_bytes: sizes.cache_bytes,
            archive_cache_bytes: sizes.cache_bytes,
            reserve_bytes: sizes.reserve_bytes,
            ..store::Options::new(self.data_dir.join("store"))
        };
        let opened = DiskStore::open(options, clock, known)?;
        Ok((Arc::new(opened.store), opened.verdicts))
    }

    /// What is on the disk isn't known any more: whoever watches the process starts it again, and the next opening tells which
    /// replicas may go on.
    fn on_store_failed(&self) -> OnFatal {
        Arc::new(|why| {
            tracing::error!(why, code = EXIT_STORE_FAILED, "the store has failed, the process ends");
            std::process::exit(EXIT_STORE_FAILED)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = "PLAYHEAD_TEST_STORE_FAILS";

    #[test]
    fn a_failed_store_ends_the_process_with_its_own_code() {
        if std::env::var_os(CHILD).is_some() {
            MachineDisk { data_dir: PathBuf::new() }.on_store_failed()("the test says so");
        }
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "node::surroundings::tests::a_failed_store_ends_the_process_with_its_own_code";
        child.args(["--exact", name]).env(CHILD, "1").stdout(std::process::Stdio::null());
        assert_eq!(child.status().unwrap().code(), Some(EXIT_STORE_FAILED));
    }
}
