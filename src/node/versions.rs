//! Which cluster versions this node speaks, which its cluster has, and what becomes of the node when the two part.
//!
//! # Contract
//!
//! The newest cluster version that was heard of (from the meta state, or from whoever answers on the link) is kept in the data folder
//! before the node does anything by it. A node that doesn't speak it stops, with the reason; its folder is refused at the next start
//! unless the build speaks that version, before anything in it is touched.
//!
//! # Caveats
//!
//! A replica may get commands of a newer version before its node hears of that version. It stops by itself then, and is not given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

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
    heard: watch::Sender<ClusterVersion>,
    kept: watch::Sender<ClusterVersion>,
}

impl Versions {
    /// Of a node on a folder that says `kept`.
    pub fn new(spoken: Spoken, kept: ClusterVersion) -> Self {
        Self { spoken, heard: watch::Sender::new(kept), kept: watch::Sender::new(kept) }
    }

    /// What the node speaks.
    pub fn spoken(&self) -> Spoken {
        self.spoken
    }

    /// The newest version of the cluster that was heard of.
    pub fn cluster(&self) -> ClusterVersion {
        *self.heard.borrow()
    }

    /// The newest that is durable in the folder: what the node may write by.
    pub fn kept(&self) -> ClusterVersion {
        *self.kept.borrow()
    }

    /// Somebody who knows says that the cluster has this version. It never goes back.
    pub fn hear(&self, version: ClusterVersion) {
        self.heard.send_if_modified(|heard| {
            let news = version > *heard;
            *heard = version.max(*heard);
            news
        });
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

/// Keeps what is heard, and stops the node when it doesn't speak that.
pub(super) async fn run(inner: Arc<Inner>) {
    let versions = &inner.me.versions;
    let mut heard = versions.heard.subscribe();
    loop {
        let version = *heard.borrow_and_update();
        let mut kept = true;
        if version > versions.kept() {
            match inner.change_folder(move |folder| folder.keep_version(version)).await {
                Ok(()) => drop(versions.kept.send_replace(version)),
                Err(error) => {
                    tracing::error!(%version, error, "the cluster's version can't be kept on disk");
                    kept = false;
                }
            }
        }
        if !versions.spoken.speaks(version) {
            let name = build();
            inner.halt(format!(
                "the cluster has version {version}, and this build ({name}) speaks {}: start a build that speaks {version}",
                versions.spoken
            ));
        }
        if kept {
            // The sender lives as long as the node does.
            let _ = heard.changed().await;
        } else {
            tokio::time::sleep(RETRY).await;
        }
    }
}
