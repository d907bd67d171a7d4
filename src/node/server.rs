//! The listeners that the node serves by itself: the link's and the metrics'.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::ids::NodeId;
use crate::net::Listener;

use super::core::Inner;
use super::folder::Charter;
use super::gossip::Gossip;
use super::link::{self, Lane, Peer, Receive};

/// What the link hands on.
struct Inbox(Arc<Inner>);

impl Receive for Inbox {
    fn serve(&self, from: Peer, lane: Lane, frame: Bytes) -> BoxFuture<'static, Bytes> {
        if lane == Lane::Snapshot {
            self.0.metrics.snapshot_bytes_received.inc_by(frame.len() as u64);
        }
        match lane {
            Lane::Forward => self.0.router.clone().serve(from, frame).boxed(),
            Lane::Control | Lane::Append | Lane::Snapshot => self.0.shards.switchboard().serve(frame),
            // Nothing on it is answered.
            Lane::Pulse => futures::future::ready(Bytes::new()).boxed(),
        }
    }

    fn cast(&self, from: Peer, lane: Lane, frame: Bytes) {
        if lane == Lane::Pulse {
            return super::failover::hear(&self.0, from);
        }
        match minicbor::decode::<Gossip>(&frame) {
            Ok(gossip) => super::pulse::hear(&self.0, from, gossip),
            Err(error) => tracing::debug!(from = %from.node, %error, "a pulse makes no sense to this node"),
        }
    }

    fn founding(&self) -> Option<Charter> {
        self.0.folder.lock().identity().held().cloned()
    }

    fn offer(&self, founding: Charter) -> BoxFuture<'static, Result<Charter, String>> {
        self.0.clone().offer(founding).boxed()
    }

    fn found(&self, founding: Charter, members: BTreeMap<NodeId, String>) -> BoxFuture<'static, Result<(), String>> {
        match members.is_empty() {
            true => self.0.clone().found(founding).boxed(),
            false => self.0.clone().join(founding, members).boxed(),
        }
    }

    fn join(&self, address: String) -> BoxFuture<'static, Result<(), String>> {
        self.0.clone().asked_to_let_in(address).boxed()
    }
}

/// Serves the node link. Fails only on what is wrong with `link.tls`.
pub(super) fn serve_link(inner: &Arc<Inner>, listener: Listener) -> std::io::Result<()> {
    let inbox = Arc::new(Inbox(inner.clone()));
    let (me, book) = (inner.me.clone(), inner.link.book().clone());
    let runtimes = inner.link.runtimes().clone();
    let service = link::service(me, book, inner.metrics.clone(), inbox, runtimes.clone(), inner.stop.clone());
    let serving = link::listen(listener, service, inner.config.link_tls().as_ref())?;
    inner.spawn_on(&runtimes.groups, async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the link's listener has failed");
        }
    });
    Ok(())
}

/// Serves Prometheus.
pub(super) fn serve_metrics(inner: &Arc<Inner>, listener: Listener) {
    let scraped = inner.clone();
    let scrape = move || async move {
        scraped.observe().await;
        let content = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        (content, scraped.metrics.encode())
    };
    let app = axum::Router::new().route("/metrics", axum::routing::get(scrape));
    inner.spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the metrics' listener has failed");
        }
    });
}

impl Inner {
    /// Brings the gauges up to date.
    async fn observe(&self) {
        let m = &self.metrics;
        let set = |gauge: &prometheus_client::metrics::gauge::Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&m.groups_hosted, self.shards.all().len() as u64);
        set(&m.groups_led, self.shards.led_with_quorum().len() as u64);
        set(&m.groups_failed, self.shards.failed().len() as u64);
        set(&m.meta_epoch, self.meta.now.load().epoch.0);
        set(&m.uptime_seconds, self.clock.monotonic().since(self.started_at) / 1000);
        set(&m.process_resident_bytes, resident_bytes());
        let log = self.wal.stats();
        set(&m.log_bytes, log.log_bytes);
        set(&m.log_flushes, log.syncs);
        set(&m.log_batches, log.batches);
        set(&m.log_appended_bytes, log.bytes_written);
        let views = self.shards.led().iter().map(|(hosted, _)| hosted.report().active_views).sum();
        set(&m.active_views, views);
        if let Ok(usage) = self.store.usage().await {
            set(&m.store_bytes, usage.live_bytes + usage.archive_bytes);
        }
        for (name, value) in self.store.counters().await.unwrap_or_default() {
            match name {
                "checkpoints" => set(&m.store_checkpoints, value),
                "exports_broken_off" => set(&m.snapshots_broken_off, value),
                _ => {}
            }
        }
    }
}

/// Resident memory of this process; 0 where the system doesn't tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib << 10
}
