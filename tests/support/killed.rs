//! An end for what a program under test has started.

#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::path::PathBuf;

use playhead::local::LocalCluster;

/// The nodes of the cluster in this folder are killed when it is dropped, however the test ends.
pub struct KilledAtEnd(pub PathBuf);

impl Drop for KilledAtEnd {
    fn drop(&mut self) {
        let root = self.0.clone();
        let kill = async move {
            if let Ok(mut cluster) = LocalCluster::open(root) {
                let _ = cluster.kill_all().await;
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = std::thread::spawn(move || runtime.block_on(kill)).join();
    }
}
