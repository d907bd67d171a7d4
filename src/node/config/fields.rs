//! The table of fields: the one place that knows what can be set.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use super::values::{Address, Config};

/// One thing that can be set.
pub struct Field {
    /// Its key in the file, with dots: `listen.client`.
    pub name: &'static str,
    /// What it does, one sentence.
    pub doc: &'static str,
    /// What is accepted, as the error says it.
    pub accepted: &'static str,
    /// The value when nobody says anything, as text.
    pub default: &'static str,
    /// Reads text into the configuration; `false` when it is not acceptable.
    pub set: fn(&mut Config, &str) -> bool,
    /// The value as text that [`Field::set`] takes.
    pub get: fn(&Config) -> String,
}

impl Field {
    /// The environment's name for it.
    pub fn variable(&self) -> String {
        format!("PLAYHEAD_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The command line's name for it, without the dashes.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }
}

fn parse<T: FromStr>(slot: &mut T, text: &str, accept: impl Fn(&T) -> bool) -> bool {
    text.parse().ok().filter(|value| accept(value)).map(|value| *slot = value).is_some()
}

fn optional<T: FromStr>(slot: &mut Option<T>, text: &str) -> bool {
    if text.is_empty() {
        *slot = None;
        return true;
    }
    text.parse().map(|value| *slot = Some(value)).is_ok()
}

fn shown<T: Display>(value: &Option<T>) -> String {
    value.as_ref().map(T::to_string).unwrap_or_default()
}

fn path(slot: &mut Option<PathBuf>) -> String {
    slot.as_ref().map(|p| p.display().to_string()).unwrap_or_default()
}

fn list(slot: &mut Vec<Address>, text: &str) -> bool {
    let items: Result<Vec<Address>, ()> =
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::parse).collect();
    match items {
        Ok(items) if items.len() <= SEEDS_MAX => {
            *slot = items;
            true
        }
        _ => false,
    }
}

/// The most seeds that can be given.
pub(crate) const SEEDS_MAX: usize = 64;
/// The most bytes of a node's name or zone.
const LABEL_BYTES_MAX: usize = 64;

/// Whether it may be a name or a zone of a node, if it isn't empty.
pub(crate) fn label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A field that is parsed by `FromStr`, within a condition.
macro_rules! plain {
    ($name:literal, $slot:ident, $default:literal, $accepted:expr, $accept:expr, $doc:literal) => {
        Field {
            name: $name,
            doc: $doc,
            accepted: $accepted,
            default: $default,
            set: |config, text| parse(&mut config.$slot, text, $accept),
            get: |config| config.$slot.to_string(),
        }
    };
}

/// A number from `$min` to `$max`.
macro_rules! number {
    ($name:literal, $slot:ident, $default:literal, $min:literal, $max:literal, $doc:literal) => {
        plain!(
            $name,
            $slot,
            $default,
            concat!("a whole number from ", $min, " to ", $max),
            |value| ($min..=$max).contains(value),
            $doc
        )
    };
}

macro_rules! address {
    ($name:literal, $slot:ident, $default:literal, $doc:literal) => {
        plain!($name, $slot, $default, "HOST:PORT; port 0 takes a free one", |_| true, $doc)
    };
}

macro_rules! address_or_nothing {
    ($name:literal, $slot:ident, $doc:literal) => {
        Field {
            name: $name,
            doc: $doc,
            accepted: "HOST:PORT, or empty for the listening address",
            default: "",
            set: |config, text| optional(&mut config.$slot, text),
            get: |config| shown(&config.$slot),
        }
    };
}

macro_rules! file_or_nothing {
    ($name:literal, $slot:ident, $together:literal, $doc:literal) => {
        Field {
            name: $name,
            doc: $doc,
            accepted: concat!("a path, or empty; the ", $together, " fields go together"),
            default: "",
            set: |config, text| optional(&mut config.$slot, text),
            get: |config| path(&mut config.$slot.clone()),
        }
    };
}

/// Every field, in the order of the file.
pub const FIELDS: &[Field] = &[
    Field {
        name: "data_dir",
        doc: "The folder that holds all of the node's data; made at first start, never shared by two processes.",
        accepted: "a path",
        default: "playhead-data",
        set: |config, text| {
            config.data_dir = PathBuf::from(text);
            !text.is_empty()
        },
        get: |config| config.data_dir.display().to_string(),
    },
    plain!(
        "node.name",
        node_name,
        "",
        "up to 64 letters, digits, `-`, `_`, `.`; empty for one made from the node id",
        |t: &String| label(t),
        "What people call this node."
    ),
    plain!(
        "node.zone",
        node_zone,
        "default",
        "1 to 64 letters, digits, `-`, `_`, `.`",
        |t: &String| label(t) && !t.is_empty(),
        "What fails together (a rack, a building): the replicas of a shard are spread over zones."
    ),
    number!(
        "node.weight",
        node_weight,
        "1",
        1,
        100,
        "This node's share of shards and leaders, relative to the other nodes'."
    ),
    address!("listen.client", listen_client, "127.0.0.1:7400", "Where clients call."),
    address!("listen.link", listen_link, "127.0.0.1:7401", "Where the other nodes connect."),
    address!("listen.admin", listen_admin, "127.0.0.1:7402", "Where clusterctl calls."),
    address!("listen.metrics", listen_metrics, "127.0.0.1:7403", "Where Prometheus scrapes, over HTTP at /metrics."),
    address_or_nothing!(
        "advertise.client",
        advertise_client,
        "What clients are told to call; needed when listening on all addresses."
    ),
    address_or_nothing!(
        "advertise.link",
        advertise_link,
        "What other nodes are told to connect to; needed when listening on all addresses."
    ),
    address_or_nothing!(
        "advertise.admin",
        advertise_admin,
        "What operators are told to call; needed when listening on all addresses."
    ),
    Field {
        name: "seeds",
        doc: "Link addresses of other nodes, to be found again when all addresses have changed; needed by no node that has its peers on disk.",
        accepted: "up to 64 of HOST:PORT, separated by commas",
        default: "",
        set: |config, text| list(&mut config.seeds, text),
        get: |config| config.seeds.iter().map(Address::to_string).collect::<Vec<_>>().join(","),
    },
    Field {
        name: "cluster.join",
        doc: "Link addresses of nodes of a cluster that this node asks to be let in, as long as it belongs to none; of no meaning once it does.",
        accepted: "up to 64 of HOST:PORT, separated by commas",
        default: "",
        set: |config, text| list(&mut config.cluster_join, text),
        get: |config| config.cluster_join.iter().map(Address::to_string).collect::<Vec<_>>().join(","),
    },
    number!(
        "raft.heartbeat_ms",
        raft_heartbeat_ms,
        "100",
        10,
        10000,
        "How often a leader tells its followers that it is there."
    ),
    number!(
        "raft.election_min_ms",
        raft_election_min_ms,
        "500",
        30,
        60000,
        "The shortest silence after which a replica stands for election; at least three heartbeats."
    ),
    number!("raft.election_max_ms", raft_election_max_ms, "1000", 31, 120000, "The longest; more than the shortest."),
    number!(
        "raft.lease_ms",
        raft_lease_ms,
        "150",
        20,
        10000,
        "For how long a replica that has heard its leader helps nobody else to the lead: LEASE reads rest on it, and no failover is faster. The same on all nodes; more than `raft.election_max_ms` counts as that."
    ),
    number!("raft.batch_items_max", raft_batch_items_max, "512", 1, 4096, "The most commands in one log entry."),
    number!(
        "pulse_ms",
        pulse_ms,
        "100",
        10,
        10000,
        "How often a node tells the others what it leads and where it listens."
    ),
    number!("failover.pulse_ms", failover_pulse_ms, "25", 5, 1000, "How often a node tells the others that it lives."),
    number!(
        "failover.suspect_ms",
        failover_suspect_ms,
        "110",
        20,
        60000,
        "After how much silence a node counts as suspect: others stand for election in what it leads. At least four `failover.pulse_ms`."
    ),
    number!(
        "failover.hang_ms",
        failover_hang_ms,
        "1000",
        50,
        60000,
        "When a node's log or the thread of its groups has done nothing for so long, though there is work, it falls silent."
    ),
    number!(
        "memory.log_entries_mib",
        memory_log_entries_mib,
        "64",
        1,
        65536,
        "Log entries that are held in memory, of all groups together; older ones are read from disk."
    ),
    number!(
        "memory.rows_mib",
        memory_rows_mib,
        "256",
        16,
        1048576,
        "Unchanged rows that are held in memory, of all shards together."
    ),
    number!(
        "memory.store_cache_mib",
        memory_store_cache_mib,
        "128",
        16,
        1048576,
        "The store's page cache; the process needs about 150 MiB beside it."
    ),
    number!(
        "disk.log_mib",
        disk_log_mib,
        "1024",
        128,
        1048576,
        "How large the log may grow: from three quarters of it on, shards are checkpointed for its sake, and copies of them that \
         are in the way begin again."
    ),
    number!(
        "disk.reserve_mib",
        disk_reserve_mib,
        "256",
        0,
        1048576,
        "Free space under which starts and imports are refused; under half of it, all but stops and expiry."
    ),
    plain!("log.format", log_format, "text", "text or json", |_| true, "How log lines are written."),
    Field {
        name: "log.filter",
        doc: "Which log lines are written, as tracing's filter directives.",
        accepted: "directives such as `info` or `info,playhead::node=debug`, up to 1024 bytes",
        default: "info,openraft=error,openraft::core::heartbeat=off",
        set: |config, text| {
            config.log_filter = text.to_string();
            text.len() <= 1024 && tracing_subscriber::EnvFilter::try_new(text).is_ok()
        },
        get: |config| config.log_filter.clone(),
    },
    number!(
        "limits.message_kib",
        limits_message_kib,
        "4096",
        64,
        65536,
        "The largest message that is taken from a client."
    ),
    number!(
        "limits.calls_max",
        limits_calls_max,
        "16384",
        1,
        1000000,
        "Calls that are worked on at once; more are refused as OVERLOADED."
    ),
    number!(
        "limits.forward_queue_max",
        limits_forward_queue_max,
        "16384",
        16,
        1000000,
        "Frames that wait for one other node on one lane."
    ),
    number!(
        "limits.call_ms_max",
        limits_call_ms_max,
        "30000",
        100,
        600000,
        "The longest that a call may take, whatever deadline its client gives."
    ),
    number!(
        "limits.account_per_second",
        limits_account_per_second,
        "1000",
        0,
        1000000,
        "Commands a second that a leader takes of one account, twice as many at once; more are refused as OVERLOADED. 0: any number. A rule \
         of the cluster goes before it (`clusterctl ring rules`)."
    ),
    number!(
        "limits.node_per_second",
        limits_node_per_second,
        "0",
        0,
        10000000,
        "Commands and queries a second that this node works on as a leader, to leave the machine to others, or to try overload; 0: as many as it can."
    ),
    file_or_nothing!(
        "link.tls.certificate",
        link_tls_certificate,
        "three link.tls",
        "This node's certificate chain (PEM): switches the node link to mutual TLS."
    ),
    file_or_nothing!("link.tls.key", link_tls_key, "three link.tls", "Its private key (PEM)."),
    file_or_nothing!(
        "link.tls.authority",
        link_tls_authority,
        "three link.tls",
        "The authority (PEM) that signed every node's certificate; the certificates name `playhead-link`."
    ),
    file_or_nothing!(
        "client.tls.certificate",
        client_tls_certificate,
        "two client.tls",
        "The certificate chain (PEM) that clients are shown on `listen.client`: switches it to TLS. On all nodes or on none."
    ),
    file_or_nothing!("client.tls.key", client_tls_key, "two client.tls", "Its private key (PEM)."),
    number!(
        "shutdown.drain_ms",
        shutdown_drain_ms,
        "10000",
        0,
        600000,
        "How long a graceful stop may take, handing over leaders included."
    ),
    number!(
        "compat.version_max",
        compat_version_max,
        "0",
        0,
        1000000,
        "A brake for upgrades: speak at most this cluster version, as a build that knows no newer one; 0 for all that this build knows."
    ),
    plain!(
        "hints.enabled",
        hints_enabled,
        "true",
        "true or false",
        |_| true,
        "Whether progress and starts are accepted here while their shard has no leader, and handed off to it afterwards (from cluster version 4 on). What was accepted is handed off all the same."
    ),
    number!(
        "hints.progress_wait_ms",
        hints_progress_wait_ms,
        "2000",
        0,
        600000,
        "After how long without a leader of the shard, as seen from this node, progress and stops are accepted; at the latest after three quarters of the call's time."
    ),
    number!(
        "hints.start_wait_ms",
        hints_start_wait_ms,
        "5000",
        0,
        600000,
        "After how long without a leader of the shard, as seen from this node, the account's policy decides whether a view is let in as a degraded one."
    ),
    number!(
        "hints.views_max",
        hints_views_max,
        "100000",
        1,
        10000000,
        "The most views whose hints wait here; what doesn't fit is refused."
    ),
    number!(
        "hints.max_mib",
        hints_max_mib,
        "64",
        1,
        512,
        "The most bytes of hints that wait here; the file may take four times as much, and at most 1 GiB."
    ),
    plain!(
        "snapshots.bytes_per_second",
        snapshots_bytes_per_second,
        "0",
        "0, or a whole number from 65536 to 17179869184",
        |value| *value == 0 || (65_536..=17_179_869_184).contains(value),
        "The most bytes of copies that this node sends to others in a second, all together: of snapshots, and of a log from \
         before its copy began. About as much of snapshots is taken in. While the node is late it is as little as an eighth of \
         that. 0: 2 MiB for each processor, at least 4 MiB and at most 64. A rule of the cluster goes before it (`clusterctl ring \
         rules`)."
    ),
    plain!(
        "leaders.balance",
        leaders_balance,
        "true",
        "true or false",
        |_| true,
        "Whether leaders are moved, gently, to where the placement prefers them."
    ),
    number!(
        "heat.average_ms",
        heat_average_ms,
        "60000",
        1000,
        3600000,
        "Over how long the cost of each shard that is led here is averaged. The same on all nodes."
    ),
    number!(
        "heat.look_ms",
        heat_look_ms,
        "10000",
        1000,
        3600000,
        "How often the node of the meta group's leader looks whether leads should move by what shards cost."
    ),
    number!(
        "heat.rest_ms",
        heat_rest_ms,
        "300000",
        0,
        86400000,
        "For how long a shard stays where it is after its lead was moved so."
    ),
];

impl Default for Config {
    fn default() -> Self {
        let nowhere: Address = "localhost:0".parse().expect("a host and a port");
        let mut config = Self {
            data_dir: PathBuf::new(),
            node_name: String::new(),
            node_zone: String::new(),
            node_weight: 0,
            listen_client: nowhere.clone(),
            listen_link: nowhere.clone(),
            listen_admin: nowhere.clone(),
            listen_metrics: nowhere,
            advertise_client: None,
            advertise_link: None,
            advertise_admin: None,
            seeds: Vec::new(),
            cluster_join: Vec::new(),
            raft_heartbeat_ms: 0,
            raft_election_min_ms: 0,
            raft_election_max_ms: 0,
            raft_lease_ms: 0,
            raft_batch_items_max: 0,
            pulse_ms: 0,
            failover_pulse_ms: 0,
            failover_suspect_ms: 0,
            failover_hang_ms: 0,
            memory_log_entries_mib: 0,
            memory_rows_mib: 0,
            memory_store_cache_mib: 0,
            disk_log_mib: 0,
            disk_reserve_mib: 0,
            log_format: super::LogFormat::Text,
            log_filter: String::new(),
            limits_message_kib: 0,
            limits_calls_max: 0,
            limits_forward_queue_max: 0,
            limits_call_ms_max: 0,
            limits_account_per_second: 0,
            limits_node_per_second: 0,
            link_tls_certificate: None,
            link_tls_key: None,
            link_tls_authority: None,
            client_tls_certificate: None,
            client_tls_key: None,
            shutdown_drain_ms: 0,
            compat_version_max: 0,
            hints_enabled: false,
            hints_progress_wait_ms: 0,
            hints_start_wait_ms: 0,
            hints_views_max: 0,
            hints_max_mib: 0,
            snapshots_bytes_per_second: 0,
            leaders_balance: false,
            heat_average_ms: 0,
            heat_look_ms: 0,
            heat_rest_ms: 0,
        };
        for field in FIELDS {
            let sound = (field.set)(&mut config, field.default);
            debug_assert!(sound, "the default of {} is acceptable", field.name);
        }
        config
    }
}
