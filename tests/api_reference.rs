//! `docs/api.md`, the reference of the gRPC surface, made from the comments in `proto/playhead/v1`. The test holds it to that;
//! with `PLAYHEAD_WRITE_MANUAL` set it writes the file instead.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};

const PACKAGE: &str = ".playhead.v1.";
/// In which order a reader wants them; a file that is missing here is refused.
const ORDER: [&str; 7] = [
    "collection.proto",
    "progress.proto",
    "history.proto",
    "account.proto",
    "admin.proto",
    "common.proto",
    "errors.proto",
];

const HEAD: &str = "\
# The gRPC surface

<!-- Made from the comments in proto/playhead/v1 by `PLAYHEAD_WRITE_MANUAL=1 cargo test --test api_reference`; edit those. -->

Package `playhead.v1`. Every call of an account names the account; any node takes it. How an error looks, and its reasons, is
under [ErrorReason](#errorreason); how fresh an answer is, under [ReadInfo](#readinfo). Types that begin with `google.` are the well-known
ones. Fields of messages are optional on the wire as in any proto3 file: what must be there is said with the field.

";

/// The numbers by which `SourceCodeInfo` names parts of a file.
mod part {
    pub(crate) const MESSAGE: i32 = 4;
    pub(crate) const ENUM: i32 = 5;
    pub(crate) const SERVICE: i32 = 6;
    /// Within a message.
    pub(crate) const FIELD: i32 = 2;
    pub(crate) const NESTED: i32 = 3;
    pub(crate) const NESTED_ENUM: i32 = 4;
    /// Within an enum and a service.
    pub(crate) const MEMBER: i32 = 2;
}

/// A file with what is written beside its parts.
struct Source {
    file: FileDescriptorProto,
    comments: BTreeMap<Vec<i32>, String>,
}

impl Source {
    fn new(file: FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comments = locations.filter_map(|at| Some((at.path.clone(), at.leading_comments.clone()?))).collect();
        Self { file, comments }
    }

    fn comment(&self, path: &[i32]) -> String {
        let lines = self.comments.get(path).map(String::as_str).unwrap_or_default().lines();
        lines.map(str::trim).collect::<Vec<_>>().join("\n").trim().to_string()
    }

    /// The same on one line, for a table.
    fn cell(&self, path: &[i32], what: &str) -> String {
        let comment = self.comment(path).replace('\n', " ").replace('|', "\\|");
        assert!(!comment.is_empty(), "{}: {what} has no comment", self.file.name());
        comment
    }
}

fn index(at: usize) -> i32 {
    i32::try_from(at).unwrap()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = protox::Compiler::new([&root]).unwrap();
    compiler.include_source_info(true);
    let folder = std::fs::read_dir(root.join("playhead/v1")).unwrap();
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.sort_by_key(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        ORDER.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name} is not in ORDER"))
    });
    for path in &paths {
        compiler.open_file(path).unwrap();
    }
    let mut files: BTreeMap<String, FileDescriptorProto> =
        compiler.file_descriptor_set().file.into_iter().map(|file| (file.name().to_string(), file)).collect();
    let named = paths.iter().map(|path| format!("playhead/v1/{}", path.file_name().unwrap().to_string_lossy()));
    named.map(|name| Source::new(files.remove(&name).unwrap())).collect()
}

/// A type of ours as a link, others by name.
fn linked(name: &str) -> String {
    match name.strip_prefix(PACKAGE) {
        Some(ours) => format!("[{ours}](#{})", ours.to_lowercase().replace('.', "")),
        None => format!("`{}`", name.trim_start_matches('.')),
    }
}

fn type_of(field: &FieldDescriptorProto, within: &DescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => {
            let entry = within.nested_type.iter().find(|nested| {
                nested.options.as_ref().is_some_and(|options| options.map_entry())
                    && field.type_name().ends_with(&format!(".{}", nested.name()))
            });
            if let Some(entry) = entry {
                let [key, value] = &entry.field[..] else { panic!("{} is no map", field.name()) };
                return format!("map of {} to {}", type_of(key, entry), type_of(value, entry));
            }
            linked(field.type_name())
        }
        scalar => format!("`{}`", scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()),
    };
    match field.label() {
        Label::Repeated => format!("repeated {name}"),
        _ if field.proto3_optional() => format!("optional {name}"),
        _ => name,
    }
}

fn services(out: &mut String, source: &Source) {
    for (s, service) in source.file.service.iter().enumerate() {
        let path = [part::SERVICE, index(s)];
        let _ = write!(out, "## {}\n\n{}\n\n", service.name(), source.comment(&path));
        out.push_str("| call | asks | answers | |\n|---|---|---|---|\n");
        for (m, method) in service.method.iter().enumerate() {
            let comment = source.cell(&[path[0], path[1], part::MEMBER, index(m)], method.name());
            let stream = |is: bool| if is { "stream of " } else { "" };
            let (asks, answers) = (linked(method.input_type()), linked(method.output_type()));
            let (to, from) = (stream(method.client_streaming()), stream(method.server_streaming()));
            let _ = writeln!(out, "| `{}` | {to}{asks} | {from}{answers} | {comment} |", method.name());
        }
        out.push('\n');
    }
}

fn message(out: &mut String, source: &Source, message: &DescriptorProto, path: &[i32], outer: &str) {
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    let name = format!("{outer}{}", message.name());
    let _ = write!(out, "### {name}\n\n{}\n\n", source.comment(path));
    if !message.field.is_empty() {
        out.push_str("| field | type | |\n|---|---|---|\n");
    }
    for (f, field) in message.field.iter().enumerate() {
        let at = [path, &[part::FIELD, index(f)]].concat();
        let comment = source.cell(&at, &format!("{name}.{}", field.name()));
        let choice = field.oneof_index.filter(|_| !field.proto3_optional());
        let choice = choice.and_then(|at| message.oneof_decl.get(usize::try_from(at).unwrap()));
        let choice = choice.map_or_else(String::new, |one| format!("one of `{}`: ", one.name()));
        let _ = writeln!(out, "| `{}` | {choice}{} | {comment} |", field.name(), type_of(field, message));
    }
    if !message.field.is_empty() {
        out.push('\n');
    }
    let inner = format!("{name}.");
    for (n, nested) in message.nested_type.iter().enumerate() {
        self::message(out, source, nested, &[path, &[part::NESTED, index(n)]].concat(), &inner);
    }
    for (n, nested) in message.enum_type.iter().enumerate() {
        enumeration(out, source, nested, &[path, &[part::NESTED_ENUM, index(n)]].concat(), &inner);
    }
}

fn enumeration(out: &mut String, source: &Source, one: &EnumDescriptorProto, path: &[i32], outer: &str) {
    let name = format!("{outer}{}", one.name());
    let _ = write!(out, "### {name}\n\n{}\n\n| value | number | |\n|---|---|---|\n", source.comment(path));
    for (v, value) in one.value.iter().enumerate() {
        let comment = source.cell(&[path, &[part::MEMBER, index(v)]].concat(), value.name());
        let _ = writeln!(out, "| `{}` | {} | {comment} |", value.name(), value.number());
    }
    out.push('\n');
}

fn reference() -> String {
    let mut out = HEAD.to_string();
    let sources = sources();
    for source in &sources {
        services(&mut out, source);
    }
    out.push_str("## Messages\n\n");
    for source in &sources {
        for (m, one) in source.file.message_type.iter().enumerate() {
            message(&mut out, source, one, &[part::MESSAGE, index(m)], "");
        }
        for (e, one) in source.file.enum_type.iter().enumerate() {
            enumeration(&mut out, source, one, &[part::ENUM, index(e)], "");
        }
    }
    format!("{}\n", out.trim_end())
}

#[test]
fn the_reference_says_what_the_proto_files_say_and_all_its_links_lead_somewhere() {
    let reference = reference();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md");
    if std::env::var_os("PLAYHEAD_WRITE_MANUAL").is_some() {
        std::fs::write(file, &reference).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    let line = reference.lines().zip(written.lines()).position(|(made, is)| made != is).map(|at| at + 1);
    let again = "PLAYHEAD_WRITE_MANUAL=1 cargo test --test api_reference";
    assert!(reference == written, "docs/api.md differs from line {line:?} on: make it anew with `{again}`");
    let headings: Vec<String> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(|name| name.to_lowercase().replace('.', ""))
        .collect();
    for link in reference.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(
            headings.iter().any(|heading| heading == link),
            "a link leads to #{link}, and there is no such heading"
        );
    }
}
