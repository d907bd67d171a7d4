//! Every path that a file names, made absolute.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::sources::{Source, is_test};

/// A path as the code means it.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// `["crate", "view", "State"]`, `["std", "fs", "read"]`. A glob ends in `*`.
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    /// Written in code for tests.
    pub(crate) test: bool,
    /// What the code calls it, if by another name (`use a as b`).
    pub(crate) renamed: bool,
    /// The line of the `use` that brought in how the path begins.
    pub(crate) by_use: Option<usize>,
}

/// All paths of a file with more than one segment, and what `use` brings in under any name.
pub(crate) fn named(source: &Source) -> Vec<Named> {
    let mut found = Finder { module: source.module.clone(), test: source.test, uses: Vec::new(), paths: Vec::new() };
    found.visit_file(&source.syntax);
    // Paths begin with a crate's name, or with one that a `use` of this file has brought in.
    let known: BTreeMap<&str, &Named> = found.uses.iter().map(|(alias, named)| (alias.as_str(), named)).collect();
    let resolve = |mut named: Named| {
        if let Some(whole) = known.get(named.path[0].as_str()).filter(|whole| whole.path[0] != named.path[0]) {
            named.path.splice(..1, whole.path.iter().cloned());
            named.by_use = Some(whole.line);
        }
        named
    };
    found.uses.iter().map(|(_, named)| resolve(named.clone())).chain(found.paths.into_iter().map(resolve)).collect()
}

struct Finder {
    /// The module that the visit is in, inline ones included.
    module: Vec<String>,
    test: bool,
    uses: Vec<(String, Named)>,
    paths: Vec<Named>,
}

impl Finder {
    /// Resolves leading `self` and `super` by the module that the visit is in.
    fn absolute(&self, path: &[String]) -> Vec<String> {
        let mut at: Option<Vec<String>> = None;
        let mut rest = path;
        while let Some((first, after)) = rest.split_first() {
            match (first.as_str(), &mut at) {
                ("self", None) => at = Some(self.module.clone()),
                ("self", Some(_)) => {}
                ("super", at) => drop(at.get_or_insert_with(|| self.module.clone()).pop()),
                _ => break,
            }
            rest = after;
        }
        match at {
            Some(module) => std::iter::once("crate".to_string()).chain(module).chain(rest.iter().cloned()).collect(),
            None => path.to_vec(),
        }
    }

    fn note(&mut self, path: &[String], line: usize) {
        if path.len() > 1 {
            let path = self.absolute(path);
            self.paths.push(Named { path, line, test: self.test, renamed: false, by_use: None });
        }
    }

    fn use_tree(&mut self, before: &mut Vec<String>, tree: &syn::UseTree) {
        let (alias, last, renamed) = match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.use_tree(before, &path.tree);
                before.pop();
                return;
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.use_tree(before, tree));
                return;
            }
            syn::UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string(), false),
            syn::UseTree::Rename(name) => (name.rename.to_string(), name.ident.to_string(), true),
            syn::UseTree::Glob(_) => ("*".to_string(), "*".to_string(), false),
        };
        let mut path = before.clone();
        let mut alias = alias;
        if last == "self" && !path.is_empty() {
            // `use a::b::{self}` brings in `b`.
            alias = if renamed { alias } else { path[path.len() - 1].clone() };
        } else {
            path.push(last);
        }
        let path = self.absolute(&path);
        let named = Named { path, line: tree.span().start().line, test: self.test, renamed, by_use: None };
        self.uses.push((alias, named));
    }

    /// Paths in the tokens of a macro, as far as they look like paths: `a::b::c`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 || path.is_empty() {
                        self.note(&std::mem::take(&mut path), line);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.note(&std::mem::take(&mut path), line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.note(&path, line);
    }

    fn within(&mut self, attributes: &[syn::Attribute], visit: impl FnOnce(&mut Self)) {
        let before = self.test;
        self.test |= is_test(attributes);
        visit(self);
        self.test = before;
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes: &[syn::Attribute] = match item {
            syn::Item::Const(i) => &i.attrs,
            syn::Item::Enum(i) => &i.attrs,
            syn::Item::Fn(i) => &i.attrs,
            syn::Item::Impl(i) => &i.attrs,
            syn::Item::Macro(i) => &i.attrs,
            syn::Item::Mod(i) => &i.attrs,
            syn::Item::Static(i) => &i.attrs,
            syn::Item::Struct(i) => &i.attrs,
            syn::Item::Trait(i) => &i.attrs,
            syn::Item::Type(i) => &i.attrs,
            syn::Item::Use(i) => &i.attrs,
            _ => &[],
        };
        self.within(attributes, |finder| visit::visit_item(finder, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.within(&item.attrs, |finder| visit::visit_impl_item_fn(finder, item));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.attrs.iter().any(|a| a.path().is_ident("path")) {
            let line = item.span().start().line;
            let path = vec!["crate".to_string(), "*".to_string()];
            self.paths.push(Named { path, line, test: self.test, renamed: false, by_use: None });
        }
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let path = vec![item.ident.to_string()];
        let alias = item.rename.as_ref().map_or(item.ident.to_string(), |(_, name)| name.to_string());
        let (line, renamed) = (item.span().start().line, item.rename.is_some());
        let named = Named { path, line, test: self.test, renamed, by_use: None };
        self.uses.push((alias, named));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.note(&segments, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {
        // `pub(in crate::x)` imports nothing.
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        // Attributes and derives name macros and lints: `#[serde(with = "...")]` is the worst that can hide here.
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}
