//! The rules, and what breaks them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::paths::{Named, named};
use crate::sources::Source;
use crate::table::Table;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    UnlistedModule,
    UpwardImport,
    ModuleCycle,
    OpaqueImport,
    GroundAsync,
    GroundIo,
    GroundClock,
    GroundRandom,
    GroundUnordered,
    GroundCrate,
    GeneratedType,
}

impl Rule {
    pub(crate) const ALL: &[Self] = &[
        Self::UnlistedModule,
        Self::UpwardImport,
        Self::ModuleCycle,
        Self::OpaqueImport,
        Self::GroundAsync,
        Self::GroundIo,
        Self::GroundClock,
        Self::GroundRandom,
        Self::GroundUnordered,
        Self::GroundCrate,
        Self::GeneratedType,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UnlistedModule => "unlisted-module",
            Self::UpwardImport => "upward-import",
            Self::ModuleCycle => "module-cycle",
            Self::OpaqueImport => "opaque-import",
            Self::GroundAsync => "ground-async",
            Self::GroundIo => "ground-io",
            Self::GroundClock => "ground-clock",
            Self::GroundRandom => "ground-random",
            Self::GroundUnordered => "ground-unordered",
            Self::GroundCrate => "ground-crate",
            Self::GeneratedType => "generated-type",
        }
    }
}

/// The highest floor that has to be pure.
const PURE_FLOOR_MAX: usize = 1;

/// What the pure floors may use of other crates: encodings, derives, hashes. None of them does anything by itself.
const PURE_CRATES: &[&str] = &["minicbor", "thiserror", "serde", "hashring", "xxhash_rust"];

/// Paths that pure modules may not name, by their beginning.
const IMPURE: &[(Rule, &[&str])] = &[
    (Rule::GroundAsync, &["tokio", "tokio_stream", "tokio_util", "futures", "async_trait"]),
    (
        Rule::GroundIo,
        &["std::fs", "std::net", "std::thread", "std::io", "std::process", "std::env", "std::os", "rustix"],
    ),
    (Rule::GroundClock, &["std::time::Instant", "std::time::SystemTime", "jiff"]),
    (Rule::GroundRandom, &["rand", "uuid", "getrandom", "std::hash::RandomState", "std::hash::DefaultHasher"]),
    (
        Rule::GroundUnordered,
        &["std::collections::HashMap", "std::collections::HashSet", "std::collections::hash_map", "hashbrown"],
    ),
];

/// Where types of the wire may be named.
const EDGES: &[&str] = &["proto", "net", "rpc", "client", "node::link", "ctl", "device"];

/// Paths of the wire.
const GENERATED: &[&str] = &[
    "crate::proto::v1",
    "crate::proto::link",
    "crate::proto::generated",
    "tonic",
    "tonic_health",
    "tonic_prost",
    "tonic_reflection",
    "tonic_types",
    "prost",
    "prost_types",
];

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Report {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}: {}", self.file, self.line, self.rule.name(), self.what)
    }
}

/// All that is broken, in the order of files and lines.
pub(crate) fn check(table: &Table, sources: &[Source], dependencies: &BTreeSet<String>) -> Vec<Report> {
    let mut reports = unlisted(table, sources);
    let mut imports: BTreeMap<(String, String), (String, usize)> = BTreeMap::new();
    for source in sources {
        let Some(top) = source.top() else { continue };
        for named in named(source) {
            let mut found: Vec<(Rule, String)> = Vec::new();
            found.extend(opaque(&named));
            if let Some(to) = imported(&named, sources).filter(|to| to != top) {
                found.extend(upward(table, top, &to));
                imports.entry((top.to_string(), to)).or_insert((source.file.clone(), named.line));
            }
            let pure = table.place(top).is_some_and(|(floor, _)| floor <= PURE_FLOOR_MAX);
            if pure && !named.test {
                found.extend(impure(&named, dependencies));
            }
            if !named.test && !at_edge(source) {
                found.extend(generated(&named));
            }
            let (file, line) = (&source.file, named.line);
            found.retain(|(rule, _)| !named.by_use.is_some_and(|line| excused(*rule, source, line)));
            reports.extend(found.into_iter().map(|(rule, what)| Report { file: file.clone(), line, rule, what }));
        }
    }
    reports.extend(cycles(&imports));
    reports.retain(|report| {
        let source = sources.iter().find(|s| s.file == report.file);
        !source.is_some_and(|source| excused(report.rule, source, report.line))
    });
    reports.sort();
    reports.dedup_by_key(|r| (r.file.clone(), r.line, r.rule));
    reports
}

fn unlisted(table: &Table, sources: &[Source]) -> Vec<Report> {
    let report = |line, what| Report { file: "lib.rs".to_string(), line, rule: Rule::UnlistedModule, what };
    let declared: BTreeMap<String, usize> = sources
        .iter()
        .filter(|s| s.module.is_empty())
        .flat_map(|s| &s.syntax.items)
        .filter_map(|item| match item {
            syn::Item::Mod(item) => Some((item.ident.to_string(), item.ident.span().start().line)),
            _ => None,
        })
        .collect();
    let unlisted = declared.iter().filter(|(name, _)| table.place(name).is_none());
    let missing = table.modules().filter(|(name, _)| !declared.contains_key(*name));
    unlisted
        .map(|(name, &line)| report(line, format!("`{name}` stands on no floor of the table")))
        .chain(missing.map(|(name, line)| report(line, format!("there is no module `{name}`"))))
        .collect()
}

/// The module of this crate that a path leads to.
fn imported(named: &Named, sources: &[Source]) -> Option<String> {
    let [first, to, ..] = &named.path[..] else { return None };
    let exists = sources.iter().any(|s| s.top() == Some(to));
    (first == "crate" && exists).then(|| to.clone())
}

fn opaque(named: &Named) -> Option<(Rule, String)> {
    let path = named.path.join("::");
    let glob = matches!(path.as_str(), "crate::*" | "std::*" | "std::collections::*" | "std::time::*");
    let renamed = named.renamed && named.path.len() == 1;
    (glob || renamed).then(|| (Rule::OpaqueImport, format!("what `{path}` brings in can't be seen")))
}

fn upward(table: &Table, from: &str, to: &str) -> Option<(Rule, String)> {
    let (here, there) = (table.place(from)?, table.place(to)?);
    let side = if here.0 == there.0 { "to its right on floor" } else { "further up, on floor" };
    (there > here).then(|| (Rule::UpwardImport, format!("`{from}` names `{to}`, which stands {side} {}", there.0)))
}

fn impure(named: &Named, dependencies: &BTreeSet<String>) -> Option<(Rule, String)> {
    let mut path = named.path.join("::");
    if named.path[0] == "core" || named.path[0] == "alloc" {
        path = path.replacen(&named.path[0], "std", 1);
    }
    let known = IMPURE.iter().find(|(_, starts)| starts.iter().any(|start| begins(&path, start)));
    if let Some((rule, _)) = known {
        return Some((*rule, format!("`{path}` in a pure module")));
    }
    let other = dependencies.contains(&named.path[0]) && !PURE_CRATES.contains(&named.path[0].as_str());
    other.then(|| (Rule::GroundCrate, format!("`{}` is not among the crates of pure modules", named.path[0])))
}

fn generated(named: &Named) -> Option<(Rule, String)> {
    let path = named.path.join("::");
    let found = GENERATED.iter().any(|start| begins(&path, start));
    found.then(|| (Rule::GeneratedType, format!("`{path}` away from the edges ({})", EDGES.join(", "))))
}

fn at_edge(source: &Source) -> bool {
    let module = source.module.join("::");
    EDGES.iter().any(|edge| begins(&module, edge))
}

fn begins(path: &str, start: &str) -> bool {
    path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Reports each import that closes a ring of modules.
fn cycles(imports: &BTreeMap<(String, String), (String, usize)>) -> Vec<Report> {
    let leads = |from: &str, to: &str| {
        let mut reached = BTreeSet::from([from]);
        let mut queue = vec![from];
        while let Some(at) = queue.pop() {
            for (a, b) in imports.keys() {
                if a == at && reached.insert(b) {
                    queue.push(b);
                }
            }
        }
        reached.contains(to)
    };
    let closing = imports.iter().filter(|((from, to), _)| leads(to, from));
    let what = |from, to| format!("`{from}` imports `{to}`, which leads back to `{from}`");
    closing
        .map(|((from, to), (file, line))| Report {
            file: file.clone(),
            line: *line,
            rule: Rule::ModuleCycle,
            what: what(from, to),
        })
        .collect()
}

/// Whether the line, or the comment above it, says that the rule doesn't hold here and why. What an excused `use` brings in
/// is excused wherever the file names it.
fn excused(rule: Rule, source: &Source, line: usize) -> bool {
    let mark = format!("// floors: allow({}): ", rule.name());
    let excuses = |line: &str| line.split_once(&mark).is_some_and(|(_, why)| why.trim().len() >= 10);
    let lines: Vec<&str> = source.text.lines().take(line).collect();
    let above = lines.iter().rev().skip(1).take_while(|line| line.trim_start().starts_with("//"));
    lines.last().into_iter().chain(above).any(|line| excuses(line))
}
