//! The manual, `docs/clusterctl.md`, made from the tree of commands. A test holds it to that.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clusterctl.md");
/// Set, the test writes the file instead of comparing it.
const WRITE: &str = "PLAYHEAD_WRITE_MANUAL";
const REGENERATE: &str = "PLAYHEAD_WRITE_MANUAL=1 cargo test --lib ctl::manual";

/// The whole manual.
fn manual() -> String {
    let mut root = super::Cli::command().term_width(100);
    root.build();
    let mut out = format!(
        "# clusterctl\n\n<!-- Made from the commands by `{REGENERATE}`; edit the comments in src/ctl instead. -->\n\n\
         Operates a Playhead cluster: one noun, one verb. It asks the nodes that `--endpoints` (or `PLAYHEAD_ENDPOINTS`) names,\n\
         any of which answers for the whole cluster. Answers go to standard output, everything else to standard error.\n\n"
    );
    out.push_str(EXIT_CODES);
    out.push_str("## Options of every command\n\n");
    out.push_str(&arguments(root.get_arguments().filter(|arg| arg.is_global_set())));
    for command in root.get_subcommands() {
        section(&mut out, command, 2);
    }
    format!("{}\n", out.trim_end())
}

const EXIT_CODES: &str = "\
| exit code | means |
|---|---|
| 0 | done, and all is well |
| 1 | it went wrong: refused, contradicted, a mistake of the program, or an import that stopped half-way or had refused rows |
| 2 | the command line or a value in it is wrong, or `--yes` is missing where nobody can be asked; nothing was done |
| 3 | the cluster is degraded: what was asked is shown where it can be, and a change that was not possible was not made |
| 4 | no node could be reached, or none answered within `--timeout`; nothing was changed |

";

/// A command with its usage and arguments, then the commands below it.
fn section(out: &mut String, command: &Command, depth: usize) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(out, "{} {name}\n\n{}\n\n", "#".repeat(depth), sentence(&about));
    if command.has_subcommands() {
        for below in command.get_subcommands() {
            section(out, below, depth + 1);
        }
        return;
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(out, "```text\n{usage}\n```\n\n");
    let own = arguments(command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help"));
    out.push_str(&own);
}

fn arguments<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut out = String::new();
    for arg in arguments.filter(|arg| !arg.is_hide_set()) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = write!(out, "- `{}`: {}", spelled(arg), sentence(&help));
        let values: Vec<String> = arg.get_possible_values().iter().map(value).collect();
        if !values.is_empty() && takes_value(arg) {
            let _ = write!(out, " One of {}.", values.join(", "));
        }
        let defaults: Vec<String> = arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
        if !defaults.is_empty() && !arg.is_hide_default_value_set() && takes_value(arg) {
            let _ = write!(out, " Default: `{}`.", defaults.join(" "));
        }
        if let Some(variable) = arg.get_env() {
            let _ = write!(out, " Environment: `{}`.", variable.to_string_lossy());
        }
        out.push('\n');
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// How an argument is typed.
fn spelled(arg: &Arg) -> String {
    let names: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect();
    let value = if takes_value(arg) { names.join(" ") } else { String::new() };
    let value = match arg.get_num_args() {
        Some(range) if takes_value(arg) && range.min_values() == 0 => format!("[{value}]"),
        _ => value,
    };
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    format!("{} {value}", flags.join(", ")).trim().to_string()
}

fn value(value: &clap::builder::PossibleValue) -> String {
    match value.get_help() {
        Some(help) => format!("`{}` ({})", value.get_name(), help.to_string().trim_end_matches('.')),
        None => format!("`{}`", value.get_name()),
    }
}

fn sentence(text: &str) -> String {
    if text.is_empty() || text.ends_with(['.', ')']) { text.to_string() } else { format!("{text}.") }
}

#[test]
fn the_manual_says_what_the_commands_say() {
    let manual = manual();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(FILE, &manual).expect("the manual can be written");
    }
    let written = std::fs::read_to_string(FILE).unwrap_or_default();
    let line = manual.lines().zip(written.lines()).position(|(made, is)| made != is);
    let at = line.unwrap_or_else(|| manual.lines().count().min(written.lines().count())) + 1;
    assert!(manual == written, "docs/clusterctl.md differs from line {at} on: make it anew with `{REGENERATE}`");
}
