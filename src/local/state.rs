//! What an invocation leaves for the next one: `cluster.json` in the cluster's folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::Identity;

/// The most bytes that a file which we read back may have.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where a node listens, as it says itself in `endpoints.json` in its data folder once it serves. `host:port` each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// For clients.
    pub client: String,
    /// For the other nodes.
    pub link: String,
    /// For operators.
    pub admin: String,
    /// For Prometheus.
    #[serde(default)]
    pub metrics: String,
}

/// A local cluster, as it stands in `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) binary: PathBuf,
    pub(super) flags: Vec<String>,
    pub(super) nodes: Vec<SavedNode>,
}

/// One node of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedNode {
    pub(super) name: String,
    /// Where it listened last.
    pub(super) endpoints: Option<Endpoints>,
    /// Its process, if it was not stopped.
    pub(super) process: Option<Identity>,
}

fn path(root: &Path) -> PathBuf {
    root.join("cluster.json")
}

/// Reads the cluster of a folder; `None` if there is none.
pub(super) fn load(root: &Path) -> io::Result<Option<Saved>> {
    read_json(&path(root))
}

/// Writes it: whole or not at all.
pub(super) fn save(root: &Path, saved: &Saved) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(saved)?;
    let fresh = root.join("cluster.json.new");
    fs::write(&fresh, text)?;
    fs::rename(fresh, path(root))
}

/// Removes it.
pub(super) fn remove(root: &Path) -> io::Result<()> {
    match fs::remove_file(path(root)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Reads a JSON file; `None` if it is not there, or is being written.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return Err(io::Error::other("is too large")),
        Ok(_) => {}
    }
    let bytes = fs::read(path)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_nothing_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(load(root.path()).unwrap(), None);
        let endpoints = Endpoints { client: "c".into(), link: "l".into(), admin: "a".into(), metrics: "m".into() };
        let saved = Saved {
            binary: "/bin/true".into(),
            flags: vec!["--x".into()],
            nodes: vec![SavedNode {
                name: "n1".into(),
                endpoints: Some(endpoints),
                process: Some(Identity { pid: 7, started_ticks: 9 }),
            }],
        };
        save(root.path(), &saved).unwrap();
        assert_eq!(load(root.path()).unwrap(), Some(saved));
        remove(root.path()).unwrap();
        remove(root.path()).unwrap();
        assert_eq!(load(root.path()).unwrap(), None);
    }

    #[test]
    fn a_damaged_file_is_an_error_not_an_empty_cluster() {
        let root = tempfile::tempdir().unwrap();
        fs::write(path(root.path()), "{\"nodes\":").unwrap();
        assert!(load(root.path()).is_err());
    }
}
