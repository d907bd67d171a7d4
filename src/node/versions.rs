//! Which cluster versions this node speaks, which its cluster has, and what becomes of the node when the two part.
//!
//! # Contract
//!
//! - The newest cluster version that there is proof of (it stands in the meta state that was applied here, in the founding record, or a
//!   shard here has adopted it) is kept in the data folder. A node that doesn't speak it stops, with the reason; its folder is
//!   refused at the next start unless the build speaks that version, before anything in it is touched.
//! - What another node says of the cluster's version is hearsay: a node that doesn't speak that stops as well, and neither writes it
//!   down nor tells it on.
//!
//! # Caveats
//!
//! A replica may get commands of a newer version before its node hears of that version. It stops by itself then, and is not given up.
//! Until a follower's folder is written, which is tried again until it is, its log may hold an adoption that its folder doesn't tell.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::raft::KnownVersion;
use crate::versions::{ClusterVersion, Spoken};

use super::core::{Inner, Node};

/// How long it is waited before a version that could not be kept is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What this process is called among builds: the package's version, and whatever its maker has named it by.
pub fn build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("PLAYHEAD_BUILD") {
        Some(name) if !name.is_empty() => format!("{version}+{name}"),
        _ => version.to_string(),
    }
}

/// What the node speaks, and what it has heard of its cluster.
#[derive(Debug)]
pub struct Versions {
    spoken: Spoken,
    known: Arc<KnownVersion>,
    /// The newest that others say the cluster has.
    told: watch::Sender<ClusterVersion>,
}

impl Versions {
    /// Of a node on a folder that says `kept`.
    pub fn new(spoken: Spoken, kept: ClusterVersion) -> Self {
        Self { spoken, known: Arc::new(KnownVersion::new(kept)), told: watch::Sender::new(kept) }
    }

    /// What the node speaks.
    pub fn spoken(&self) -> Spoken {
        self.spoken
    }

    /// What its replicas are told of the cluster's version, and tell of it.
    pub fn known(&self) -> &Arc<KnownVersion> {
        &self.known
    }

    /// The newest version of the cluster that there is proof of.
    pub fn cluster(&self) -> ClusterVersion {
        self.known.heard()
    }

    /// The newest that is durable in the folder: what the node may write by.
    pub fn kept(&self) -> ClusterVersion {
        self.known.kept()
    }

    /// There is proof that the cluster has this version. It never goes back.
    pub fn hear(&self, version: ClusterVersion) {
        self.known.hear(version);
    }

    /// Another node says that the cluster has this version.
    pub fn be_told(&self, version: ClusterVersion) {
        self.told.send_replace(version);
    }

    /// Why the node can't go on, if it can't.
    fn obstacle(&self) -> Option<String> {
        let (cluster, told) = (self.cluster(), *self.told.borrow());
        let (who, version) = match (self.spoken.speaks(cluster), told > self.spoken.newest) {
            (false, _) => ("the cluster has", cluster),
            (true, true) => ("another node says that the cluster has", told),
            (true, false) => return None,
        };
        let (name, spoken) = (build(), self.spoken);
        Some(format!(
            "{who} version {version}, and this build ({name}) speaks {spoken}: start a build that speaks {version}"
        ))
    }

    /// Waits until the cluster has a version that a node which speaks these doesn't.
    pub async fn outgrows(&self, spoken: Spoken) {
        let mut news = self.known.news();
        if news.wait_for(|version| !spoken.speaks(*version)).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self::new(Spoken::BUILD, ClusterVersion::FIRST)
    }
}

impl Node {
    /// The cluster versions that it speaks.
    pub fn spoken(&self) -> Spoken {
        self.inner.me.versions.spoken()
    }

    /// Waits until the node can't go on by itself, and says why: whoever runs it has to stop it then.
    pub async fn halted(&self) -> String {
        let mut halted = self.inner.halted.subscribe();
        match halted.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Why the node couldn't go on, if it couldn't.
    pub fn why_halted(&self) -> Option<String> {
        self.inner.halted.borrow().clone()
    }
}

impl Inner {
    /// The node can't go on, for this reason: whoever runs it is told. The first reason stays.
    pub(super) fn halt(&self, why: String) {
        self.halted.send_if_modified(|halted| {
            if halted.is_some() {
                return false;
            }
            tracing::error!(why, "this node can't go on");
            *halted = Some(why);
            true
        });
    }
}

/// Keeps what there is proof of, and stops the node when it doesn't speak what its cluster has.
pub(super) async fn run(inner: Arc<Inner>) {
    let versions = &inner.me.versions;
    let (mut news, mut told) = (versions.known.news(), versions.told.subscribe());
    loop {
        let version = *news.borrow_and_update();
        told.mark_unchanged();
        let kept = keep(&inner, version).await;
        if let Some(why) = versions.obstacle() {
            inner.halt(why);
        }
        if kept {
            // The senders live as long as the node does.
            tokio::select! {
                _ = news.changed() => {}
                _ = told.changed() => {}
            }
        } else {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Writes it into the folder, if that doesn't say it yet; whether it does then.
async fn keep(inner: &Inner, version: ClusterVersion) -> bool {
    let versions = &inner.me.versions;
    if version <= versions.kept() {
        return true;
    }
    match inner.change_folder(move |folder| folder.keep_version(version)).await {
        Ok(()) => {
            versions.known.keep(version);
            true
        }
        Err(error) => {
            tracing::error!(%version, error, "the cluster's version can't be kept on disk");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_says_stops_a_node_that_does_not_speak_it_and_is_neither_kept_nor_told_on() {
        let versions = Versions::new(Spoken::FIRST, ClusterVersion::FIRST);
        versions.be_told(ClusterVersion(1));
        assert_eq!(versions.obstacle(), None);
        versions.be_told(ClusterVersion(7));
        assert_eq!((versions.cluster(), versions.kept()), (ClusterVersion::FIRST, ClusterVersion::FIRST));
        let why = versions.obstacle().unwrap();
        assert!(why.contains("another node says that the cluster has version 7") && why.contains("speaks 1"), "{why}");
        versions.hear(ClusterVersion(2));
        let why = versions.obstacle().unwrap();
        assert!(why.starts_with("the cluster has version 2"), "{why}");
    }
}
