//! The founding record of this node: offered, begun with, let go of.

use std::sync::Arc;

use crate::ids::Generation;

use super::core::Inner;
use super::folder::{Charter, DataFolder, FolderError};
use super::link::{Book, Endpoints};

impl Inner {
    /// The founding record that it was offered, while its cluster is not known to have begun.
    pub(super) fn offered(&self) -> Option<Charter> {
        self.folder.lock().identity().offered.clone()
    }

    /// Changes the folder where that may block.
    pub(super) async fn change_folder<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut DataFolder) -> Result<T, FolderError> + Send + 'static,
    ) -> Result<T, String> {
        let folder = self.folder.clone();
        let changed = self.threads.blocking(move || change(&mut folder.lock())).await;
        changed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    /// Keeps an offered founding record if it holds none, and answers the one that it holds.
    pub(super) async fn offer(self: Arc<Self>, charter: Charter) -> Result<Charter, String> {
        if charter.meta_replica_of(self.me.node).is_none() {
            return Err(format!("the founding record doesn't name this node, {}", self.me.node));
        }
        if !self.me.versions.spoken().speaks(charter.version()) {
            let (version, spoken) = (charter.version(), self.me.versions.spoken());
            return Err(format!("the cluster would begin with version {version}, and this node speaks {spoken}"));
        }
        self.change_folder(move |folder| folder.offer(charter)).await
    }

    /// Begins to be one of the cluster: every founder holds its record.
    pub(super) async fn found(self: Arc<Self>, charter: Charter) -> Result<(), String> {
        let begun = charter.clone();
        self.change_folder(move |folder| folder.begin(&begun)).await?;
        self.begin_with(charter);
        Ok(())
    }

    /// The node is one of the cluster from now on.
    pub(super) fn begin_with(&self, charter: Charter) {
        learn_founders(self.link.book(), &charter);
        self.me.versions.hear(charter.version());
        let _ = self.me.cluster.set(charter.cluster);
        self.look.notify_one();
    }

    /// Lets go of an offered founding record whose cluster can never begin.
    pub(super) async fn withdraw(&self, charter: Charter) -> Result<(), String> {
        self.change_folder(move |folder| folder.withdraw(&charter)).await
    }
}

/// The addresses of a charter are where the founders were when it was written; whatever was heard since is better.
pub(super) fn learn_founders(book: &Book, charter: &Charter) {
    for founder in &charter.founders {
        if book.get(founder.node).is_none() {
            let endpoints = Endpoints { link: founder.link.clone(), ..Endpoints::default() };
            book.learn(founder.node, Generation(0), &endpoints);
        }
    }
}
