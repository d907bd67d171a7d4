//! Every metric of a node, in one struct.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::lately::Lately;

/// A call's name: `StartView`, `ReportProgress`, ...
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// The method, without its service.
    pub method: &'static str,
    /// gRPC's code of the answer, in words.
    pub code: &'static str,
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// In one word; a fixed set for each metric.
    pub outcome: &'static str,
}

/// A lane of the node link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneLabels {
    /// `control`, `append`, `snapshot` or `forward`.
    pub lane: &'static str,
}

/// A shard; as many as the cluster has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShardLabels {
    /// Its number.
    pub shard: u32,
}

/// What was refused for load.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShedLabels {
    /// What it was worth: `prompt`, `report`, `listing`, `bulk`.
    pub priority: &'static str,
    /// `queue`, `stale`, `account` or `calls`.
    pub why: &'static str,
}

/// What was refused for load, counted.
pub type Shed = Family<ShedLabels, Counter>;

/// One line of the table in the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The whole name, as Prometheus shows it (without suffixes such as `_total`).
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static str,
    /// What it tells.
    pub help: &'static str,
}

/// Buckets of everything that is a duration in seconds: 50 us to about 50 s, each twice the last.
fn seconds() -> Histogram {
    Histogram::new((0..21).map(|power| 50e-6 * f64::from(1_u32 << power)))
}

struct Builder {
    registry: Registry,
    table: Vec<Described>,
}

impl Builder {
    fn add<M: Metric + Clone>(
        &mut self,
        metric: M,
        kind: &'static str,
        name: &str,
        labels: &'static str,
        help: &'static str,
    ) -> M {
        self.registry.register(name, help.trim_end_matches('.'), metric.clone());
        self.table.push(Described { name: format!("playhead_{name}"), kind, labels, help });
        metric
    }

    fn counter(&mut self, name: &str, help: &'static str) -> Counter {
        self.add(Counter::default(), "counter", name, "", help)
    }

    fn gauge(&mut self, name: &str, help: &'static str) -> Gauge {
        self.add(Gauge::default(), "gauge", name, "", help)
    }

    fn seconds(&mut self, name: &str, help: &'static str) -> Seconds {
        self.add(Seconds::default(), "gauge", name, "", help)
    }

    fn real(&mut self, name: &str, help: &'static str) -> Real {
        self.add(Real::default(), "gauge", name, "", help)
    }

    fn histogram(&mut self, name: &str, help: &'static str) -> Histogram {
        self.add(seconds(), "histogram", name, "", help)
    }
}

/// A gauge of a duration in seconds.
type Seconds = Real;

/// A gauge of any number.
type Real = Gauge<f64, std::sync::atomic::AtomicU64>;

/// A family of counters by one kind of labels.
type Counters<L> = Family<L, Counter>;

/// Every metric of a node. Cheap to share by `Arc`; each part is counted with atomics.
#[allow(missing_docs, reason = "each metric is documented once, where it is made")]
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    table: Vec<Described>,
    pub calls: Counters<CallLabels>,
    pub call_seconds: Histogram,
    pub calls_in_flight: Gauge,
    pub proposals: Counters<OutcomeLabels>,
    /// Hints, by what became of them.
    pub hints: Counters<OutcomeLabels>,
    /// Views with hints that wait to be handed off.
    pub hints_waiting: Gauge,
    /// Their bytes.
    pub hints_bytes: Gauge,
    pub hints_oldest_seconds: Gauge,
    pub queries: Counters<OutcomeLabels>,
    pub forwards: Counters<OutcomeLabels>,
    pub forwarded_items: Counter,
    pub route_retries: Counter,
    pub shed: Shed,
    pub queue_delay_seconds: Seconds,
    pub interval_stretch_percent: Gauge,
    pub route_no_leader: Counter,
    pub link_frames_sent: Counters<LaneLabels>,
    pub link_messages_sent: Counters<LaneLabels>,
    pub link_frames_received: Counters<LaneLabels>,
    pub link_refused_full: Counters<LaneLabels>,
    pub link_handshakes: Counters<OutcomeLabels>,
    pub link_lanes_up: Gauge,
    pub pulses_sent: Counter,
    pub pulses_received: Counter,
    pub snapshot_bytes_received: Counter,
    pub snapshot_bytes_taken: Counter,
    pub log_bytes_copied: Counter,
    pub copies_bytes_per_second: Gauge,
    pub groups_late_seconds: Seconds,
    pub snapshots_broken_off: Gauge,
    pub suspicions: Counters<OutcomeLabels>,
    pub elections: Counters<OutcomeLabels>,
    pub groups_hosted: Gauge,
    pub groups_led: Gauge,
    pub groups_failed: Gauge,
    pub meta_epoch: Gauge,
    pub leader_transfers: Counters<OutcomeLabels>,
    pub replica_steps: Counters<OutcomeLabels>,
    pub uptime_seconds: Gauge,
    pub process_resident_bytes: Gauge,
    pub log_bytes: Gauge,
    pub log_flushes: Gauge,
    pub log_batches: Gauge,
    pub log_appended_bytes: Gauge,
    pub log_trims: Counter,
    pub disk_free_bytes: Gauge,
    pub disk_short: Gauge,
    pub store_bytes: Gauge,
    pub store_checkpoints: Gauge,
    pub active_views: Gauge,
    pub heat_moves: Counter,
    pub hottest_node: Real,
    pub shard_requests: Counters<ShardLabels>,
    pub shard_bytes: Counters<ShardLabels>,
    pub shard_active_views: Family<ShardLabels, Gauge>,
    pub shard_cost: Family<ShardLabels, Real>,
    pub command_p50_seconds: Seconds,
    pub command_p99_seconds: Seconds,
    /// What the last two are made of.
    pub commands: Lately,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut b = Builder { registry: Registry::with_prefix("playhead"), table: Vec::new() };
        let outcome = "outcome";
        let lane = "lane";
        Self {
            calls: b.add(
                Family::default(),
                "counter",
                "calls",
                "method, code",
                "Calls answered, by method and gRPC code.",
            ),
            call_seconds: b.histogram("call_seconds", "Time from a call's arrival to its answer."),
            calls_in_flight: b.gauge("calls_in_flight", "Calls being worked on."),
            hints: b.add(
                Family::default(),
                "counter",
                "hints",
                outcome,
                "Reports, stops and starts while their shard had no leader: kept (accepted), refused (no room), unknown (the write failed); and views handed off: handed_off, overtaken (something newer was there), over_limit (handed off, and ended), refused_by_shard, expired (dropped after 24 h).",
            ),
            hints_waiting: b.gauge("hints_waiting", "Views with hints here that wait to be handed off to their shard."),
            hints_bytes: b.gauge("hints_bytes", "Bytes of these hints."),
            hints_oldest_seconds: b.gauge("hints_oldest_seconds", "How long ago the oldest of these hints came; looked at every 10 s."),
            proposals: b.add(
                Family::default(),
                "counter",
                "proposals",
                outcome,
                "Commands that the router brought to an end: committed, accepted, rejected, unknown, no_leader.",
            ),
            queries: b.add(
                Family::default(),
                "counter",
                "queries",
                outcome,
                "Queries that the router brought to an end: served; stale where something old had to do, as the caller allowed; no_leader where nobody answered within the deadline.",
            ),
            forwards: b.add(
                Family::default(),
                "counter",
                "forwards",
                outcome,
                "Forward frames sent to another node and how they ended: answered, unreachable, timed_out.",
            ),
            forwarded_items: b
                .counter("forwarded_items", "Commands and queries inside the forward frames that were sent."),
            route_retries: b
                .counter("route_retries", "Attempts after the first, because a leader had moved or was missing."),
            route_no_leader: b.counter("route_no_leader", "Calls that ended without a leader within their deadline."),
            shed: b.add(
                Family::default(),
                "counter",
                "shed",
                "priority, why",
                "Commands and queries refused for load, by what they are worth and why: queue (it would have waited too long), stale (it has waited too long), account (its account has had its share), calls (too many calls are at work).",
            ),
            queue_delay_seconds: b.seconds(
                "queue_delay_seconds",
                "How long commands waited lately before they were proposed, in the shard that is led here where that was longest.",
            ),
            interval_stretch_percent: b.gauge(
                "interval_stretch_percent",
                "How long devices are told to wait between reports, in percent of what the settings say, in the shard that is led here where that is longest.",
            ),
            link_frames_sent: b.add(
                Family::default(),
                "counter",
                "link_frames_sent",
                lane,
                "Frames sent to other nodes.",
            ),
            link_messages_sent: b.add(
                Family::default(),
                "counter",
                "link_messages_sent",
                lane,
                "gRPC messages that carried them.",
            ),
            link_frames_received: b.add(
                Family::default(),
                "counter",
                "link_frames_received",
                lane,
                "Frames received from other nodes.",
            ),
            link_refused_full: b.add(
                Family::default(),
                "counter",
                "link_refused_full",
                lane,
                "Frames not taken because the queue was full.",
            ),
            link_handshakes: b.add(
                Family::default(),
                "counter",
                "link_handshakes",
                outcome,
                "Handshakes answered: welcome, wire_version, wrong_cluster, wrong_node, old_generation, cluster_version, removed, bad_hello.",
            ),
            link_lanes_up: b
                .gauge("link_lanes_up", "Lanes to other nodes that are connected; five for each other node."),
            pulses_sent: b.counter("pulses_sent", "Pulses sent to other nodes."),
            pulses_received: b.counter("pulses_received", "Pulses received from other nodes."),
            snapshot_bytes_received: b.counter(
                "snapshot_bytes_received",
                "Bytes of snapshots received from other nodes, those that came to nothing included."
            ),
            snapshot_bytes_taken: b.counter(
                "snapshot_bytes_taken",
                "Keys and values of snapshots that this node sent, of those that other replicas have taken over whole."
            ),
            log_bytes_copied: b.counter(
                "log_bytes_copied",
                "Bytes of entries that went, or waited to go, to replicas that are being made: in messages of at least 16 KiB, written before their copy began."
            ),
            copies_bytes_per_second: b.gauge(
                "copies_bytes_per_second",
                "What copies may send now, and take in: what the cluster's rule says, else snapshots.bytes_per_second, or a part of it while the node is late."
            ),
            groups_late_seconds: b.seconds(
                "groups_late_seconds",
                "How late the thread of all groups comes to what is due there, on average over a quarter of a second."
            ),
            snapshots_broken_off: b.gauge(
                "snapshots_broken_off",
                "Snapshots to other replicas, since the process began, that have to begin again: the log or the memory needed their shard's next checkpoint, or nothing moved for a minute."
            ),
            suspicions: b.add(
                Family::default(),
                "counter",
                "suspicions",
                outcome,
                "Times that another node became suspect: silent, gone (it refused connections).",
            ),
            elections: b.add(
                Family::default(),
                "counter",
                "elections",
                outcome,
                "Times that a replica here stood for election because its leader was silent, gone or unknown: won, not_won.",
            ),
            groups_hosted: b.gauge("groups_hosted", "Replicas that run on this node, the meta group's included."),
            groups_led: b.gauge("groups_led", "Of these, the leaders."),
            groups_failed: b
                .gauge("groups_failed", "Replicas that stopped, or could not be opened, and wait to be replaced."),
            meta_epoch: b.gauge("meta_epoch", "The epoch of the placement that this node has applied."),
            leader_transfers: b.add(
                Family::default(),
                "counter",
                "leader_transfers",
                outcome,
                "Leaders handed over: preferred, replaced, stopping, failed.",
            ),
            replica_steps: b.add(
                Family::default(),
                "counter",
                "replica_steps",
                outcome,
                "Steps of replacing a replica: learner_added, membership_changed, recorded, forgotten, failed.",
            ),
            uptime_seconds: b.gauge("uptime_seconds", "Seconds since the process began."),
            process_resident_bytes: b.gauge("process_resident_bytes", "Resident memory of the process."),
            log_bytes: b.gauge("log_bytes", "Bytes of the log's segments on disk."),
            log_flushes: b.gauge("log_flushes", "fdatasync calls of the log since the process began."),
            log_batches: b.gauge("log_batches", "Batches the log has written since the process began."),
            log_appended_bytes: b.gauge("log_appended_bytes", "Bytes appended to the log since the process began."),
            log_trims: b.counter("log_trims", "Shards that were checkpointed because they held back too much of the log."),
            disk_free_bytes: b.gauge("disk_free_bytes", "Bytes that are free on the disk of the data folder."),
            disk_short: b.gauge(
                "disk_short",
                "0: there is room on the disk; 1: the reserve is touched, starts and imports are refused; 2: only stops and expiry are taken.",
            ),
            store_bytes: b.gauge("store_bytes", "Bytes of the store's files on disk."),
            store_checkpoints: b.gauge("store_checkpoints", "Checkpoints of shards since the process began."),
            active_views: b.gauge("active_views", "Active views in the shards that this node leads."),
            heat_moves: b.counter(
                "heat_moves",
                "Leads that were given to another node by what shards cost; counted where the meta group is led.",
            ),
            hottest_node: b.real(
                "hottest_node",
                "What the shards cost that the hottest node should lead, beside the mean of all by weight, when it was last looked; 0 elsewhere than where the meta group is led, and before that.",
            ),
            shard_requests: b.add(
                Family::default(),
                "counter",
                "shard_requests",
                "shard",
                "Commands committed and queries answered of each shard while it was led here; counted once a second.",
            ),
            shard_bytes: b.add(
                Family::default(),
                "counter",
                "shard_bytes",
                "shard",
                "Bytes of these commands, and of these queries with their answers.",
            ),
            shard_active_views: b.add(
                Family::default(),
                "gauge",
                "shard_active_views",
                "shard",
                "Active views of each shard that is led here.",
            ),
            shard_cost: b.add(
                Family::default(),
                "gauge",
                "shard_cost",
                "shard",
                "What each shard that is led here costs, averaged (`heat.average_ms`), in requests a second: leads are moved by it (docs/balance.md).",
            ),
            command_p50_seconds: b.seconds(
                "command_p50_seconds",
                "Half of the commands that came in here in the last 10 seconds, each of a stream's too, ended within this time.",
            ),
            command_p99_seconds: b.seconds("command_p99_seconds", "99 of 100 of them ended within this time."),
            commands: Lately::new(),
            registry: b.registry,
            table: b.table,
        }
    }

    /// The text that Prometheus scrapes.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string doesn't fail");
        text
    }

    /// Every metric, in the order of the table.
    pub fn table(&self) -> &[Described] {
        &self.table
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_exactly_the_metrics_of_the_registry() {
        let mut table = String::from("| metric | kind | labels | what it tells |\n|---|---|---|---|\n");
        for line in Metrics::new().table() {
            table.push_str(&format!("| `{}` | {} | {} | {} |\n", line.name, line.kind, line.labels, line.help));
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let document = std::fs::read_to_string(path).unwrap();
        let begin = document.find("| metric |").unwrap_or(0);
        assert_eq!(
            document[begin..].trim_end(),
            table.trim_end(),
            "docs/metrics.md should end with this table:\n{table}"
        );
    }

    #[test]
    fn what_is_counted_is_scraped_under_its_documented_name() {
        let metrics = Metrics::new();
        metrics.pulses_sent.inc();
        metrics.calls.get_or_create(&CallLabels { method: "StartView", code: "OK" }).inc();
        let text = metrics.encode();
        assert!(text.contains("playhead_pulses_sent_total 1"), "{text}");
        assert!(text.contains("playhead_calls_total{method=\"StartView\",code=\"OK\"} 1"), "{text}");
    }
}
