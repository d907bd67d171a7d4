//! Keeps the house tidy: what no compiler and no formatter looks at. After TigerBeetle's `tidy`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines after which a file is two files.
const LINES_MAX: usize = 600;

/// Files that may be longer, each with its reason.
const LONG: &[(&str, &str)] = &[];

/// An entry in [`LONG`] of a file that has become shorter than this is stale.
const LINES_STALE: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the repository: those that git knows or would take in, or all if this is no checkout.
fn files() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let listed = git.output().ok().filter(|out| out.status.success());
    let mut files: Vec<PathBuf> = match listed {
        Some(out) => String::from_utf8_lossy(&out.stdout).lines().map(PathBuf::from).collect(),
        None => ["src", "tests", "examples", "docs", "scripts", "cluster", "proto"].map(walk).concat(),
    };
    files.retain(|file| root().join(file).is_file());
    files.sort();
    assert!(files.len() > 20, "found only {} files", files.len());
    files
}

fn walk(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

/// Every text file with its text.
fn texts() -> Vec<(String, String)> {
    let read = |file: PathBuf| {
        let text = std::fs::read(root().join(&file)).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
        Some((file.to_string_lossy().into_owned(), text))
    };
    files().into_iter().filter_map(read).collect()
}

fn rust() -> Vec<(String, String)> {
    texts().into_iter().filter(|(file, _)| file.ends_with(".rs") && !file.starts_with("tests/fixtures/")).collect()
}

#[track_caller]
fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn files_are_short_or_say_why_not() {
    let mut found = Vec::new();
    for (file, text) in rust() {
        let lines = text.lines().count();
        let listed = LONG.iter().any(|(long, _)| *long == file);
        if lines > LINES_MAX && !listed {
            found.push(format!("{file}: {lines} lines, more than {LINES_MAX}, and not in LONG"));
        } else if lines < LINES_STALE && listed {
            found.push(format!("{file}: {lines} lines are few: take it out of LONG"));
        }
    }
    for (long, reason) in LONG {
        if !root().join(long).is_file() || reason.len() < 20 {
            found.push(format!("LONG: {long} is no file, or its reason says nothing"));
        }
    }
    assert_none(found);
}

#[test]
fn every_mod_rs_says_what_it_is() {
    let modules = rust().into_iter().filter(|(file, _)| file.ends_with("mod.rs") || file.ends_with("lib.rs"));
    assert_none(modules.filter(|(_, text)| !text.starts_with("//!")).map(|(file, _)| file).collect());
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    // In parts, so that this file doesn't find itself.
    let homes = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("C:", "\\")];
    let mut found = Vec::new();
    for (file, text) in texts() {
        for (line, text) in (1..).zip(text.lines()) {
            if let Some(home) = homes.iter().find(|home| text.contains(**home)) {
                found.push(format!("{file}:{line}: {home}"));
            }
        }
    }
    assert_none(found);
}

#[test]
fn texts_end_in_one_newline_and_have_no_tabs_or_trailing_blanks() {
    let mut found = Vec::new();
    let kinds = ["rs", "md", "toml", "proto", "sh", "yml"];
    for (file, text) in texts().into_iter().filter(|(file, _)| kinds.iter().any(|k| file.ends_with(&format!(".{k}")))) {
        if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
            found.push(format!("{file}: doesn't end in one newline"));
        }
        for (line, text) in (1..).zip(text.lines()) {
            if text.ends_with([' ', '\t', '\r']) || (text.contains('\t') && file.ends_with(".rs")) {
                found.push(format!("{file}:{line}: a tab or a trailing blank"));
            }
        }
    }
    assert_none(found);
}

#[test]
fn every_decision_is_dated_and_numbered_once() {
    let decisions = files().into_iter().filter(|f| f.starts_with("docs/decisions"));
    let mut numbers = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for file in decisions {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let dated = text.lines().take(6).any(|line| line.contains("Date: 20"));
        let number = name.get(..4).and_then(|n| n.parse::<u32>().ok());
        if name != "README.md" && (number.is_none_or(|n| !numbers.insert(n)) || !dated) {
            found.push(format!("{}: needs a number of its own and a line `Date: YYYY-MM-DD`", file.display()));
        }
    }
    assert_none(found);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut found = Vec::new();
    for (file, text) in rust() {
        for (line, text) in (1..).zip(text.lines()) {
            found.extend(marks.iter().filter(|m| text.contains(**m)).map(|m| format!("{file}:{line}: {m}")));
        }
    }
    assert_none(found);
}

/// What the last column of a row of `docs/invariants.md` names: its number, and the names in backticks.
fn shown_by(line: &str) -> Option<(&str, Vec<&str>)> {
    let cells: Vec<&str> = line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split('|').map(str::trim).collect();
    let (number, last) = (*cells.first()?, *cells.last()?);
    number.parse::<u32>().ok()?;
    Some((number, last.split('`').skip(1).step_by(2).collect()))
}

/// Whether a name in backticks is there: a file, or a function (with `...` or `*` at its end: one that begins so). What
/// is neither a file nor the long name of a test is not looked for.
fn is_there(name: &str, files: &[String], functions: &std::collections::BTreeSet<String>) -> bool {
    let begin = name.trim_end_matches(['.', '*']);
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.ends_with(".rs") || name.ends_with('/') {
        files.iter().any(|file| file.ends_with(name) || file.contains(name))
    } else if begin.matches('_').count() < 2 || !begin.chars().all(is_word) {
        true
    } else if begin == name {
        functions.contains(name)
    } else {
        functions.iter().any(|function| function.starts_with(begin))
    }
}

#[test]
fn every_invariant_names_what_would_notice_and_every_test_named_there_exists() {
    let sources = rust();
    let files: Vec<String> = sources.iter().map(|(file, _)| file.clone()).collect();
    let words = |text: &str| -> Vec<String> {
        let after = text.split("fn ").skip(1);
        after.map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()).collect()
    };
    let functions = sources.iter().flat_map(|(_, text)| words(text)).collect();
    let text = std::fs::read_to_string(root().join("docs/invariants.md")).unwrap();
    let (mut found, mut rows, mut area) = (Vec::new(), 0, "");
    for line in text.lines() {
        area = line.strip_prefix("## ").unwrap_or(area);
        let Some((number, names)) = shown_by(line) else { continue };
        rows += 1;
        let last = line.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default().trim();
        if last.is_empty() || last == "-" {
            found.push(format!("{area}/{number}: nothing would notice"));
        }
        for name in names.into_iter().filter(|name| !is_there(name, &files, &functions)) {
            found.push(format!("{area}/{number}: there is no {name}"));
        }
    }
    assert!(rows > 80, "only {rows} invariants were read");
    assert_none(found);
    assert!(!is_there("a_test_that_was_renamed", &files, &functions) && !is_there("no/such.rs", &files, &functions));
}

/// Where a document's links lead, without what they say within a file; those to elsewhere are left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let after = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let files =
        after.filter(|target| !target.contains("://")).map(|target| target.split('#').next().unwrap_or_default());
    files.filter(|file| !file.is_empty())
}

#[test]
fn every_link_of_a_document_leads_to_a_file_and_every_test_named_in_it_exists() {
    let mut found = Vec::new();
    for (file, text) in texts().into_iter().filter(|(file, _)| file.ends_with(".md")) {
        let folder = root().join(&file).parent().unwrap().to_path_buf();
        found.extend(links(&text).filter(|to| !folder.join(to).exists()).map(|to| format!("{file}: there is no {to}")));
        let named = text.split('`').skip(1).step_by(2).filter(|word| word.starts_with("tests/") && !word.contains(' '));
        found
            .extend(named.filter(|test| !root().join(test).exists()).map(|test| format!("{file}: there is no {test}")));
    }
    for (file, text) in rust() {
        let comments = text.lines().filter(|line| line.trim_start().starts_with("//"));
        let named = comments.flat_map(|line| line.split('`').skip(1).step_by(2));
        let named = named.filter(|word| word.starts_with("tests/") && word.ends_with(".rs"));
        found
            .extend(named.filter(|test| !root().join(test).exists()).map(|test| format!("{file}: there is no {test}")));
    }
    assert_none(found);
}
