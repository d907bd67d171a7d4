//! Reading the sources, and finding every mistake in them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Config, FIELDS, Field};

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the file.
    File(PathBuf),
    /// In this variable.
    Variable(String),
    /// By this flag.
    Flag(String),
    /// By several fields together.
    Together,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "in the environment, {name}"),
            Self::Flag(flag) => write!(f, "by --{flag}"),
            Self::Together => write!(f, "together with the other fields"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// The file can't be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nothing has this name.
    #[error("{name} ({source_}) is not a setting{}", hint.as_ref().map(|h| format!("; did you mean {h}?")).unwrap_or_default())]
    Unknown {
        /// What was said.
        name: String,
        /// Where.
        source_: Source,
        /// The setting whose name is nearest.
        hint: Option<String>,
    },
    /// A setting's value is not acceptable.
    #[error("{name} ({source_}) is {value:?}: accepted is {accepted}")]
    Value {
        /// Which setting.
        name: String,
        /// What it was set to.
        value: String,
        /// Where.
        source_: Source,
        /// What would have been fine.
        accepted: String,
    },
}

/// All that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Mistake>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in the configuration:", if self.0.len() == 1 { "a mistake" } else { "mistakes" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

/// What the process was given; made by the binary, so that tests give their own.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file to read, if any.
    pub file: Option<PathBuf>,
    /// The environment; only names with the prefix matter.
    pub environment: BTreeMap<OsString, OsString>,
    /// Flags by name, without dashes; only those that were given.
    pub flags: BTreeMap<String, String>,
}

const PREFIX: &str = "PLAYHEAD_";

/// Variables with our prefix that are not settings of a node.
fn is_foreign(name: &str) -> bool {
    name.starts_with("PLAYHEAD_TEST_")
        || matches!(
            name,
            "PLAYHEAD_REAL_HISTORY"
                | "PLAYHEAD_CONFIG"
                | "PLAYHEAD_ENDPOINTS"
                | "PLAYHEAD_ADMIN"
                | "PLAYHEAD_AUTHORITY"
        )
}

struct Reader {
    config: Config,
    mistakes: Vec<Mistake>,
}

/// Reads all sources; all mistakes at once.
pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
    let mut reader = Reader { config: Config::default(), mistakes: Vec::new() };
    if let Some(path) = &sources.file {
        reader.file(path);
    }
    for (name, value) in &sources.environment {
        reader.variable(name, value);
    }
    for (flag, value) in &sources.flags {
        let field = FIELDS.iter().find(|field| field.flag() == *flag);
        reader.value(field, flag, value, Source::Flag(flag.clone()));
    }
    if reader.mistakes.is_empty() {
        reader.together();
    }
    if reader.mistakes.is_empty() { Ok(reader.config) } else { Err(ConfigErrors(reader.mistakes)) }
}

impl Reader {
    fn file(&mut self, path: &Path) {
        let read = std::fs::read_to_string(path).map_err(|e| e.to_string());
        let table = read.and_then(|text| text.parse::<toml::Table>().map_err(|e| e.to_string()));
        match table {
            Ok(table) => self.table(path, "", &table),
            Err(reason) => self.mistakes.push(Mistake::File { path: path.to_path_buf(), reason }),
        }
    }

    fn table(&mut self, path: &Path, prefix: &str, table: &toml::Table) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            let text = match value {
                toml::Value::Table(inner) => {
                    self.table(path, &name, inner);
                    continue;
                }
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(items) => {
                    let texts = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_string));
                    texts.collect::<Vec<_>>().join(",")
                }
                other => other.to_string(),
            };
            let field = FIELDS.iter().find(|field| field.name == name);
            self.value(field, &name, &text, Source::File(path.to_path_buf()));
        }
    }

    fn variable(&mut self, name: &OsString, value: &OsString) {
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) || is_foreign(&name) {
            return;
        }
        let field = FIELDS.iter().find(|field| field.variable() == name);
        self.value(field, &name, &value.to_string_lossy(), Source::Variable(name.to_string()));
    }

    fn value(&mut self, field: Option<&Field>, name: &str, value: &str, source: Source) {
        match field {
            None => {
                let hint = nearest(name, &source);
                self.mistakes.push(Mistake::Unknown { name: name.to_string(), source_: source, hint });
            }
            Some(field) if !(field.set)(&mut self.config, value) => self.mistakes.push(Mistake::Value {
                name: field.name.to_string(),
                value: value.chars().take(200).collect(),
                source_: source,
                accepted: field.accepted.to_string(),
            }),
            Some(_) => {}
        }
    }

    /// What no field can tell alone.
    fn together(&mut self) {
        let config = self.config.clone();
        let mut refuse = |name: &str, value: String, accepted: &str| {
            self.mistakes.push(Mistake::Value {
                name: name.to_string(),
                value,
                source_: Source::Together,
                accepted: accepted.to_string(),
            });
        };
        if config.raft_election_min_ms < 3 * config.raft_heartbeat_ms {
            let accepted = "at least three times raft.heartbeat_ms";
            refuse("raft.election_min_ms", config.raft_election_min_ms.to_string(), accepted);
        }
        if config.raft_election_max_ms <= config.raft_election_min_ms {
            let accepted = "more than raft.election_min_ms";
            refuse("raft.election_max_ms", config.raft_election_max_ms.to_string(), accepted);
        }
        let tls = [&config.link_tls_certificate, &config.link_tls_key, &config.link_tls_authority];
        if tls.iter().any(|path| path.is_some()) && config.link_tls().is_none() {
            refuse("link.tls", "only some of its files".to_string(), "all three of certificate, key and authority");
        }
        if config.client_tls_certificate.is_some() != config.client_tls_key.is_some() {
            refuse("client.tls", "only one of its files".to_string(), "both of certificate and key");
        }
        let told = [
            ("advertise.client", &config.listen_client, &config.advertise_client),
            ("advertise.link", &config.listen_link, &config.advertise_link),
            ("advertise.admin", &config.listen_admin, &config.advertise_admin),
        ];
        for (name, listen, advertise) in told {
            if listen.is_unspecified() && advertise.is_none() {
                refuse(
                    name,
                    String::new(),
                    "HOST:PORT that others can connect to, since the node listens on all addresses",
                );
            }
        }
    }
}

/// The setting whose name is most like `name`, if one is like it at all.
fn nearest(name: &str, source: &Source) -> Option<String> {
    let spelt = |field: &Field| match source {
        Source::Variable(_) => field.variable(),
        Source::Flag(_) => field.flag(),
        _ => field.name.to_string(),
    };
    let (distance, best) = FIELDS.iter().map(|f| (distance(name, &spelt(f)), spelt(f))).min()?;
    (distance <= 3).then_some(best)
}

/// How many letters must change to get from `a` to `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(200).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
