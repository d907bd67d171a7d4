//! `clusterctl`, the program, run to its end.

#![allow(dead_code, reason = "every test program uses its own part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// A program that runs for so long hangs.
const HANGS: Duration = Duration::from_secs(120);
/// What a table has to fit in.
const COLUMNS: usize = 80;

/// What a run of the program gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    /// Every document of a JSON answer, one a line.
    pub fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}{}", self.out, self.err))
    }

    /// The widest line, in characters.
    pub fn width(&self) -> usize {
        self.out.lines().map(|line| line.chars().count()).max().unwrap_or_default()
    }

    #[track_caller]
    pub fn assert_fits(&self) {
        assert!(self.width() <= COLUMNS, "{} columns:\n{}", self.width(), self.out);
    }
}

/// Runs it without a terminal.
pub async fn run(connection: &str, arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterctl"));
    command.args(arguments).env("PLAYHEAD_ENDPOINTS", connection).env_remove("NO_COLOR");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(HANGS, command.output()).await.unwrap_or_else(|_| panic!("{arguments:?} hangs"));
    let output = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("it was not killed");
    assert_ne!(code, 101, "it panicked: {}", text(output.stderr.clone()));
    Run { code, out: text(output.stdout), err: text(output.stderr) }
}

/// Runs it for a JSON document, which has to come with this exit code.
pub async fn json(connection: &str, arguments: &[&str], code: i32) -> Value {
    let run = run(connection, &[arguments, &["--output", "json"]].concat()).await;
    assert_eq!(run.code, code, "{arguments:?}: {}{}", run.out, run.err);
    run.json()
}
