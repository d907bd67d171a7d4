//! The configuration as the node uses it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{FIELDS, Field};

/// Everything that an operator can set. The documentation of each field stands in [`FIELDS`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each field is documented once, in the table of fields")]
pub struct Config {
    pub data_dir: PathBuf,
    pub node_name: String,
    pub node_zone: String,
    pub node_weight: u32,
    pub listen_client: Address,
    pub listen_link: Address,
    pub listen_admin: Address,
    pub listen_metrics: Address,
    pub advertise_client: Option<Address>,
    pub advertise_link: Option<Address>,
    pub advertise_admin: Option<Address>,
    pub seeds: Vec<Address>,
    /// `cluster.join`.
    pub cluster_join: Vec<Address>,
    pub raft_heartbeat_ms: u64,
    pub raft_election_min_ms: u64,
    pub raft_election_max_ms: u64,
    pub raft_lease_ms: u64,
    pub raft_batch_items_max: u32,
    pub pulse_ms: u64,
    pub failover_pulse_ms: u64,
    pub failover_suspect_ms: u64,
    pub failover_hang_ms: u64,
    pub memory_log_entries_mib: u64,
    pub memory_rows_mib: u64,
    pub memory_store_cache_mib: u64,
    pub disk_log_mib: u64,
    pub disk_reserve_mib: u64,
    pub log_format: LogFormat,
    pub log_filter: String,
    pub limits_message_kib: u64,
    pub limits_calls_max: u32,
    pub limits_forward_queue_max: u32,
    pub limits_call_ms_max: u64,
    pub limits_account_per_second: u32,
    pub limits_node_per_second: u32,
    pub link_tls_certificate: Option<PathBuf>,
    pub link_tls_key: Option<PathBuf>,
    pub link_tls_authority: Option<PathBuf>,
    pub client_tls_certificate: Option<PathBuf>,
    pub client_tls_key: Option<PathBuf>,
    pub shutdown_drain_ms: u64,
    pub compat_version_max: u32,
    /// `hints.enabled`.
    pub hints_enabled: bool,
    /// `hints.progress_wait_ms`.
    pub hints_progress_wait_ms: u64,
    /// `hints.start_wait_ms`.
    pub hints_start_wait_ms: u64,
    /// `hints.views_max`.
    pub hints_views_max: u32,
    /// `hints.max_mib`.
    pub hints_max_mib: u64,
    /// `snapshots.bytes_per_second`; see [`snapshots_rate`](Self::snapshots_rate).
    pub snapshots_bytes_per_second: u64,
    pub leaders_balance: bool,
    /// `heat.average_ms`.
    pub heat_average_ms: u64,
    /// `heat.look_ms`.
    pub heat_look_ms: u64,
    /// `heat.rest_ms`.
    pub heat_rest_ms: u64,
}

/// The three files that switch the node link to mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This node's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authority that signed every node's certificate, PEM.
    pub authority: PathBuf,
}

/// The two files that switch the clients' listener to TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// The certificate chain that clients are shown, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

impl Config {
    /// How many commands a second are worked on of this node, and of one account; 0 for any number.
    pub fn load_bounds(&self) -> (u32, u32) {
        (self.limits_node_per_second, self.limits_account_per_second)
    }

    /// How many bytes of snapshots a second are sent: as set, or by how many processors the machine has, so that the processors
    /// are left to members (decision 0016).
    pub fn snapshots_rate(&self, processors: usize) -> u64 {
        match self.snapshots_bytes_per_second {
            0 => (u64::try_from(processors).unwrap_or(u64::MAX).saturating_mul(2)).clamp(4, 64) << 20,
            set => set,
        }
    }

    /// The files of the clients' TLS, when it is switched on.
    pub fn client_tls(&self) -> Option<ServerFiles> {
        Some(ServerFiles { certificate: self.client_tls_certificate.clone()?, key: self.client_tls_key.clone()? })
    }

    /// The files of the link's TLS, when it is switched on.
    pub fn link_tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.link_tls_certificate.clone()?,
            key: self.link_tls_key.clone()?,
            authority: self.link_tls_authority.clone()?,
        })
    }

    /// The configuration as a file: every field with its documentation, readable by `--config`.
    pub fn dump(&self) -> String {
        let mut text =
            String::from("# Every setting of this node, as it came out of defaults, file, environment and flags.\n");
        let section = |field: &Field| field.name.rsplit_once('.').map_or("", |(section, _)| section);
        let (top, sections): (Vec<&Field>, Vec<&Field>) = FIELDS.iter().partition(|field| section(field).is_empty());
        let mut last = "";
        for field in top.into_iter().chain(sections) {
            if section(field) != last {
                last = section(field);
                text.push_str(&format!("\n[{last}]\n"));
            }
            let value = (field.get)(self);
            let bare = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
            let value = if bare { value } else { toml::Value::String(value).to_string() };
            let key = field.name.rsplit('.').next().unwrap_or(field.name);
            text.push_str(&format!("# {} ({})\n{key} = {value}\n", field.doc, field.accepted));
        }
        text
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: an object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// `host:port`; the host is a name or an address (IPv6 in brackets). Resolved when it is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

/// The most bytes that a host may have.
const HOST_BYTES_MAX: usize = 255;

impl Address {
    /// The host, without the brackets of IPv6.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port; 0 asks the system for a free one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it means "every address of this machine", which nobody can be told to connect to.
    pub fn is_unspecified(&self) -> bool {
        self.host().parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }

    /// The same host at `port`.
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }
}

impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let port = port.parse().map_err(|_| ())?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let sound = !host.is_empty()
            && host.len() <= HOST_BYTES_MAX
            && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._[]:%".contains(c))
            && (bracketed || !host.contains(':'));
        if !sound {
            return Err(());
        }
        Ok(Self { host: host.to_string(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
