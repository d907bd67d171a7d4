//! Holds the floors: reads every source file with `syn` and reports what stands on the wrong one.
//!
//! The floors are read from the table in `src/lib.rs`, so that the text people read is the rule that holds. A module may
//! import what stands on a lower floor, or on its own floor to the left. Code under `#[cfg(test)]` has to keep that too, but
//! may otherwise use what it likes.
//!
//! | rule | what it reports |
//! |---|---|
//! | `unlisted-module` | a module that is not in the table, or one in the table that doesn't exist |
//! | `upward-import` | a path to a module further up, or to the right on the same floor |
//! | `module-cycle` | modules that import each other in a ring |
//! | `opaque-import` | `use crate::*`, `use crate as x`, `use std::*`, `#[path]`: what they import can't be seen |
//! | `ground-async` | tokio or futures on floors 0 and 1 |
//! | `ground-io` | files, sockets, threads, processes, the environment there |
//! | `ground-clock` | a clock there |
//! | `ground-random` | random numbers there |
//! | `ground-unordered` | a map or set there whose order differs from run to run |
//! | `ground-crate` | any other crate there that is not among the few allowed |
//! | `generated-type` | protobuf and gRPC types elsewhere than at the edges |
//!
//! One line may be excused by the comment `// floors: allow(RULE): why`, on it or above it; the reason has to be there.
//!
//! What it can't see: what a macro of another crate expands to, and what `build.rs` generates.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod paths;
mod rules;
mod sources;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rules::Report;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn check(src: &Path) -> Vec<Report> {
    let table = table::Table::read(&src.join("lib.rs"));
    let sources = sources::read(src);
    rules::check(&table, &sources, &dependencies())
}

/// The crates that `Cargo.toml` names, as code names them.
fn dependencies() -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let sections = ["dependencies", "dev-dependencies"].into_iter().filter_map(|s| manifest.get(s)?.as_table());
    sections.flat_map(|s| s.keys().map(|name| name.replace('-', "_"))).collect()
}

#[test]
fn every_module_keeps_to_its_floor() {
    let reports = check(&root().join("src"));
    let lines: Vec<String> = reports.iter().map(Report::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

/// Each line of the fixture that ends in `//~ RULE` breaks that rule (`//~^ RULE`: the line above does); no other does.
#[test]
fn each_planted_violation_is_reported_by_rule_file_and_line() {
    let src = root().join("tests/fixtures/floors/src");
    let mut planted = BTreeSet::new();
    for source in sources::read(&src) {
        for (line, text) in (1..).zip(source.text.lines()) {
            if let Some((_, mark)) = text.split_once("//~") {
                let up = mark.chars().take_while(|&c| c == '^').count();
                for rule in mark.trim_start_matches('^').split_whitespace() {
                    planted.insert((source.file.clone(), line - up, rule.to_string()));
                }
            }
        }
    }
    let reported: BTreeSet<_> = check(&src).into_iter().map(|r| (r.file, r.line, r.rule.name().to_string())).collect();
    assert_eq!(reported, planted);
    let rules: BTreeSet<_> = planted.iter().map(|(_, _, rule)| rule.as_str()).collect();
    assert_eq!(rules, rules::Rule::ALL.iter().map(|r| r.name()).collect(), "a rule without a planted violation");
}
