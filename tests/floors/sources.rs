//! The source files, and which modules they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One parsed file.
pub(crate) struct Source {
    /// Relative to `src`, with `/`.
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
    /// `["view", "state"]` for `view/state.rs` and `view/state/mod.rs`; empty for `lib.rs`.
    pub(crate) module: Vec<String>,
    /// Whether it, or a module that it is in, is declared under `#[cfg(test)]`.
    pub(crate) test: bool,
}

impl Source {
    /// The module of `lib.rs` that the file belongs to.
    pub(crate) fn top(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }
}

/// All files under `src` but `src/bin`, in the order of their names.
pub(crate) fn read(src: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    walk(src, &mut files);
    files.sort();
    let mut sources: Vec<Source> = files
        .iter()
        .map(|path| {
            let file: Vec<String> =
                path.strip_prefix(src).unwrap().iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let text = std::fs::read_to_string(path).unwrap();
            let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            Source { module: module(&file), file: file.join("/"), text, syntax, test: false }
        })
        .collect();
    let mut tests = BTreeSet::new();
    for source in &sources {
        test_modules(&source.syntax.items, &source.module, &mut tests);
    }
    for source in &mut sources {
        source.test = (1..=source.module.len()).any(|n| tests.contains(&source.module[..n]));
    }
    sources
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "bin") {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn module(file: &[String]) -> Vec<String> {
    let mut module: Vec<String> = file.iter().map(|part| part.trim_end_matches(".rs").to_string()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

/// Notes the modules that `#[cfg(test)] mod name;` declares.
fn test_modules(items: &[syn::Item], module: &[String], tests: &mut BTreeSet<Vec<String>>) {
    for item in items {
        let syn::Item::Mod(item) = item else { continue };
        let inner: Vec<String> = module.iter().cloned().chain([item.ident.to_string()]).collect();
        if is_test(&item.attrs) {
            tests.insert(inner);
        } else if let Some((_, items)) = &item.content {
            test_modules(items, &inner, tests);
        }
    }
}

/// Whether an item is there for tests only: `#[cfg(test)]`, `#[cfg(all(test, ...))]`, `#[test]`.
pub(crate) fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let tokens = list.tokens.to_string();
            tokens == "test" || (tokens.starts_with("all") && tokens.contains("test") && !tokens.contains("not"))
        }
        _ => false,
    })
}
