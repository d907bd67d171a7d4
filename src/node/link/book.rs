//! Where the other nodes were last reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::fs::Fs;
use crate::ids::{Generation, NodeId};
use crate::node::folder::{RecordError, read_record, write_record};
use crate::threads::Threads;

const FILE: &str = "peers";
const MAGIC: &[u8; 8] = b"PLAYHDPR";
/// The most nodes that are remembered.
const NODES_MAX: usize = 1024;
/// The most bytes of an address.
pub(crate) const ADDRESS_BYTES_MAX: usize = 270;

/// Where a node listens, each `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Endpoints {
    /// For other nodes.
    #[n(0)]
    pub link: String,
    /// For clients.
    #[n(1)]
    pub client: String,
    /// For operators.
    #[n(2)]
    pub admin: String,
}

impl Endpoints {
    /// Whether every address has an acceptable length and no control character.
    pub fn is_sound(&self) -> bool {
        let sound = |text: &String| text.len() <= ADDRESS_BYTES_MAX && !text.chars().any(char::is_control);
        [&self.link, &self.client, &self.admin].into_iter().all(sound) && !self.link.is_empty()
    }
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Known {
    /// Its newest process that was heard.
    #[n(0)]
    pub generation: Generation,
    /// Where that listens.
    #[n(1)]
    pub endpoints: Endpoints,
}

/// All that is known, kept in the data folder.
#[derive(Debug)]
pub struct Book {
    folder: Arc<dyn Fs>,
    known: RwLock<BTreeMap<NodeId, Known>>,
    changed: Notify,
    /// One writes at a time.
    saving: tokio::sync::Mutex<()>,
}

impl Book {
    /// Reads what an earlier process knew. A file that is damaged is as good as none: it is hearsay, and will be heard again from
    /// the seeds and from whoever calls.
    pub fn open(folder: Arc<dyn Fs>) -> Result<Self, RecordError> {
        let known = match read_record(&*folder, FILE, MAGIC) {
            Err(error @ RecordError::Damaged { .. }) => {
                tracing::warn!(%error, "where the other nodes were is forgotten");
                BTreeMap::new()
            }
            known => known?.unwrap_or_default(),
        };
        Ok(Self { folder, known: RwLock::new(known), changed: Notify::new(), saving: Default::default() })
    }

    /// Takes in what a node says of itself; whatever an older process of it said is ignored. Answers whether it was news.
    pub fn learn(&self, node: NodeId, generation: Generation, endpoints: &Endpoints) -> bool {
        if !endpoints.is_sound() {
            return false;
        }
        let same = |known: &Known| {
            known.generation > generation || (known.generation == generation && known.endpoints == *endpoints)
        };
        if self.known.read().get(&node).is_some_and(same) {
            return false;
        }
        let mut known = self.known.write();
        if known.len() >= NODES_MAX && !known.contains_key(&node) {
            return false;
        }
        known.insert(node, Known { generation, endpoints: endpoints.clone() });
        drop(known);
        self.changed.notify_one();
        true
    }

    /// What is known of a node.
    pub fn get(&self, node: NodeId) -> Option<Known> {
        self.known.read().get(&node).cloned()
    }

    /// All nodes that something is known of.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.known.read().keys().copied().collect()
    }

    /// Where a node's link listens.
    pub fn link_address(&self, node: NodeId) -> Option<String> {
        self.known.read().get(&node).map(|known| known.endpoints.link.clone())
    }

    /// The newest generation of a node that was heard.
    pub fn generation(&self, node: NodeId) -> Option<Generation> {
        self.known.read().get(&node).map(|known| known.generation)
    }

    /// Writes every change to disk, until dropped. A change is lost if the process dies within moments; it will be heard
    /// again.
    pub async fn save_changes(self: Arc<Self>, threads: Threads) {
        loop {
            self.changed.notified().await;
            if let Err(error) = self.save(&threads).await {
                tracing::warn!(error, "the addresses of other nodes can't be kept on disk");
            }
        }
    }

    /// Writes what is known to disk now.
    pub async fn save(&self, threads: &Threads) -> Result<(), String> {
        let _one = self.saving.lock().await;
        let known = self.known.read().clone();
        let folder = self.folder.clone();
        let written = threads.blocking(move || write_record(&*folder, FILE, MAGIC, &known)).await;
        written.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{LyingFs, replace_file};

    #[test]
    fn a_damaged_file_of_addresses_is_forgotten_and_one_of_a_newer_build_is_not() {
        let fs: Arc<dyn Fs> = Arc::new(LyingFs::new(1));
        let known =
            Known { generation: Generation(3), endpoints: Endpoints { link: "a:1".into(), ..Endpoints::default() } };
        write_record(&*fs, FILE, MAGIC, &BTreeMap::from([(NodeId(7), known)])).unwrap();
        assert!(Book::open(fs.clone()).unwrap().get(NodeId(7)).is_some());
        let mut bytes = crate::fs::read_file(&*fs, FILE, 1 << 16).unwrap().unwrap();
        *bytes.last_mut().unwrap() ^= 0xff;
        replace_file(&*fs, FILE, &bytes).unwrap();
        assert!(Book::open(fs.clone()).unwrap().get(NodeId(7)).is_none());
        bytes[8..12].copy_from_slice(&9u32.to_be_bytes());
        replace_file(&*fs, FILE, &bytes).unwrap();
        assert!(matches!(Book::open(fs), Err(RecordError::TooNew { .. })));
    }
}
