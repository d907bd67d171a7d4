//! Running until told to stop, and stopping gracefully.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::core::Node;
use super::supervisor::Supervisor;

/// Runs until SIGTERM or SIGINT, then stops: no new calls, leaders handed over, calls at work drained, everything closed, and the
/// supervisor told so. A second signal ends the process at once. `faces` end when [`Node::closing`] is cancelled and their calls
/// are done; if they end before, that is an error. A node that can't go on is stopped in the same way: [`Node::why_halted`] says
/// why.
pub async fn run_until_signal<E>(
    node: &Node,
    supervisor: &Supervisor,
    faces: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let asked = async {
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            tracing::error!("signals can't be heard: the node can only be killed");
            return std::future::pending().await;
        };
        let which = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
            _ = node.halted() => "none: the node can't go on",
        };
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            tracing::warn!("a second signal: the process ends at once");
            std::process::exit(130);
        });
        which
    };
    let mut faces = std::pin::pin!(faces);
    let which = tokio::select! {
        which = asked => which,
        ended = &mut faces => return ended,
    };
    tracing::info!(signal = which, "stopping: leaders are handed over first");
    let drain_ms = node.config().shutdown_drain_ms;
    let end = node.clock().monotonic().plus(drain_ms);
    let mut handing = std::pin::pin!(async {
        supervisor.stopping(Duration::from_millis(drain_ms)).await;
        node.unready();
        node.hand_over(Duration::from_millis(drain_ms / 4 * 3)).await;
    });
    // The faces go on meanwhile: calls and connections that come now are served while leaders move.
    let ended = tokio::select! {
        () = &mut handing => None,
        ended = &mut faces => Some(ended),
    };
    if let Some(ended) = ended {
        handing.await;
        node.close();
        node.stop().await;
        return ended;
    }
    node.close();
    let left = Duration::from_millis(end.since(node.clock().monotonic()));
    let drained = tokio::select! {
        drained = tokio::time::timeout(left, faces) => drained,
        () = node.stay_without_leads() => Ok(Ok(())),
    };
    if drained.is_err() {
        tracing::warn!("some calls were not done in time");
    }
    node.stop().await;
    tracing::info!("stopped");
    drained.unwrap_or(Ok(()))
}
