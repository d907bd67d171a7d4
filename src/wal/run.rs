//! Who steps the writer: a thread, or a task where there are none.

use std::sync::Arc;

use super::engine::{Engine, Progress};
use crate::threads::{Pace, Turns};

/// The writer thread: steps until the log is closed or has failed.
pub(super) fn run(mut engine: Engine, turns: &Turns) {
    let mut taker = turns.taker();
    loop {
        taker.look();
        match engine.step() {
            Ok(Progress::Wrote) => {}
            Ok(Progress::Idle) => engine.shared.wait_for_work(),
            // The failure has been handled where it was found.
            Ok(Progress::Closed) | Err(_) => return,
        }
    }
}

/// The writer as a task: each batch takes a while, in which more is queued, or all is lost.
pub(super) async fn run_paced(mut engine: Engine, pace: Arc<dyn Pace>) {
    loop {
        match engine.step() {
            Ok(Progress::Wrote) => {}
            Ok(Progress::Idle) => engine.shared.news.notified().await,
            Ok(Progress::Closed) | Err(_) => return,
        }
        tokio::time::sleep(pace.next()).await;
    }
}
