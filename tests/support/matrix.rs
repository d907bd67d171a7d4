//! Every command of `clusterctl`, in a table and in JSON, against a cluster that lacks something: the right exit code, the
//! right kind of message, and no hang past `--timeout`.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::time::Duration;

use futures::StreamExt as _;

use super::program::{Run, run};

/// A command and its exit codes. `{account}` is an account with an active view `v1`, another one each time.
struct Row {
    arguments: &'static [&'static str],
    /// One of three nodes, n3, is down.
    one_down: i32,
    /// Only n1 is up.
    no_quorum: i32,
}

/// 0 or 3, as the moment is.
const EITHER: i32 = -3;
/// A write without a quorum: refused with 3, or, where a leader took it that has lost its quorum, unknown with 1.
const OPEN: i32 = -1;
/// Refused, as a cluster is there or the thing isn't: 1 and the reason; 3 if nobody can say.
const TAKEN: i32 = -2;
/// 3, or 4 where only nodes that are silent could tell.
const REFUSED: i32 = -4;

const fn row(one_down: i32, no_quorum: i32, arguments: &'static [&'static str]) -> Row {
    Row { arguments, one_down, no_quorum }
}

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/sample/ViewingActivity.csv");

const ROWS: &[Row] = &[
    row(3, 3, &["status"]),
    row(3, 3, &["status", "--wait"]),
    row(3, 3, &["top", "--count", "1", "--every", "200ms"]),
    row(3, 3, &["node", "list"]),
    // It lives, and its replicas follow whom they elect as long as there is a quorum; without one they seek one.
    row(0, EITHER, &["node", "show", "n1"]),
    row(3, 3, &["node", "show", "n3"]),
    row(3, 3, &["shard", "list"]),
    row(3, 3, &["shard", "show", "0"]),
    row(3, 3, &["shard", "show", "--account", "ann"]),
    row(3, 3, &["shard", "check", "0"]),
    row(0, 0, &["ring", "show"]),
    row(0, 0, &["ring", "plan", "--add", "n4"]),
    row(0, 3, &["account", "show", "ann"]),
    row(0, 3, &["account", "active", "ann"]),
    row(0, 3, &["account", "history", "ann"]),
    row(0, 3, &["account", "resume", "ann"]),
    // What is old is answered, and degraded once it may be older than 5 s.
    row(0, EITHER, &["account", "active", "ann", "--read", "any"]),
    row(0, EITHER, &["account", "history", "ann", "--read", "any"]),
    row(0, OPEN, &["view", "end", "{account}", "v1", "--yes"]),
    row(0, 3, &["policy", "get", "ann"]),
    row(0, OPEN, &["policy", "set", "ann", "--max-streams", "3", "--yes"]),
    row(0, 0, &["settings", "get"]),
    row(0, OPEN, &["settings", "set", "interval_ms={interval}", "--yes"]),
    row(3, 3, &["raft", "show", "meta"]),
    row(3, 3, &["raft", "show", "0"]),
    row(3, 3, &["doctor"]),
    row(0, 0, &["node", "hand-over", "n1", "--for", "1s", "--yes"]),
    row(3, REFUSED, &["node", "restart-safe", "n1", "--wait", "1s", "--yes"]),
    // Nobody is there to be let in, three nodes are no more than a shard has copies, and nothing is to be changed.
    row(TAKEN, TAKEN, &["node", "add", "127.0.0.1:1", "--dry-run"]),
    row(TAKEN, TAKEN, &["node", "drain", "n1", "--dry-run"]),
    row(TAKEN, TAKEN, &["node", "remove", "n1", "--dry-run"]),
    row(TAKEN, TAKEN, &["node", "replace", "n3", "--by", "127.0.0.1:1", "--dry-run"]),
    row(TAKEN, TAKEN, &["node", "give-up", "n3", "--dry-run"]),
    row(TAKEN, TAKEN, &["node", "forget", "n1", "--yes"]),
    row(0, 0, &["node", "update", "n1", "--weight", "2", "--dry-run"]),
    row(0, 0, &["plan", "show"]),
    row(TAKEN, TAKEN, &["plan", "apply", "--yes"]),
    row(TAKEN, TAKEN, &["plan", "pause", "--yes"]),
    row(TAKEN, TAKEN, &["plan", "resume", "--yes"]),
    row(TAKEN, TAKEN, &["plan", "cancel", "--yes"]),
    row(TAKEN, TAKEN, &["shard", "move", "0", "--from", "nobody", "--to", "n1", "--dry-run"]),
    row(0, 0, &["ring", "rules", "--slack-permille", "60", "--dry-run"]),
    row(0, 0, &["ring", "rules", "--copies-kib-per-second", "8192", "--dry-run"]),
    // Every shard is led with one node down; without a quorum none may be recovered while the others are only silent.
    row(TAKEN, TAKEN, &["recover", "shard", "0", "--dry-run"]),
    row(0, TAKEN, &["recover", "shards", "--all", "--dry-run"]),
    row(3, 3, &["upgrade", "show"]),
    // A new cluster is of the newest version: there is nothing to be done, and nobody need be asked.
    row(0, 0, &["upgrade", "finish", "--yes"]),
    row(3, 3, &["shard", "transfer-leader", "0", "--to", "n3", "--yes"]),
    row(TAKEN, TAKEN, &["shard", "replace", "0", "--replica", "1000000", "--dry-run"]),
    row(TAKEN, TAKEN, &["bootstrap", "--shards", "16"]),
    row(3, 3, &["health"]),
    // With one node down everything is acknowledged, and the verdict is the cluster's; without leaders nothing is offered.
    row(3, 3, &["bench", "--rate", "10", "--for", "1s", "--households", "5"]),
    row(0, OPEN, &["import", "netflix", SAMPLE, "--account", "{account}"]),
];

/// Commands that need more than a cluster that is there, by the test that runs them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("chaos", "chaos.rs"),
    ("local up", "local.rs"),
    ("local down", "local.rs"),
    ("local status", "local.rs"),
    ("local kill", "local.rs"),
    ("local start", "local.rs"),
    ("local restart", "local.rs"),
    ("local wipe", "local.rs"),
    ("local env", "local.rs"),
    ("local demo", "local.rs"),
    ("completion", "ctl_commands.rs"),
];

/// For what has to succeed on a busy machine, for what can't, and for what nobody is there to answer.
const PATIENCE_S: [u64; 3] = [10, 3, 1];
/// A program that takes so much longer has not obeyed `--timeout`, however busy the machine is.
const LATER: Duration = Duration::from_secs(4);

/// What the cluster lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    OneNode,
    Quorum,
    Everything,
}

impl Lack {
    /// Commands at once: the more, the more of them only wait.
    fn at_once(self) -> usize {
        match self {
            Self::OneNode => 6,
            Self::Quorum => 10,
            Self::Everything => 16,
        }
    }

    /// A setting that is another one each time, so that there is something to be changed.
    fn interval_ms(self) -> &'static str {
        match self {
            Self::OneNode => "25000",
            Self::Quorum => "26000",
            Self::Everything => "27000",
        }
    }
}

/// The accounts that the matrix needs, with a view each.
pub fn accounts() -> impl Iterator<Item = String> {
    (0..ROWS.len() * 2).map(|n| format!("matrix-{n}"))
}

/// Runs every command, in a table and then in JSON, and returns what is not as it should be.
pub async fn contradictions(connection: &str, lack: Lack) -> Vec<String> {
    let accounts: Vec<String> = accounts().collect();
    let running = ROWS.iter().zip(accounts.chunks(2)).map(|(row, accounts)| async move {
        let mut wrong = Vec::new();
        for (account, output) in accounts.iter().zip(["table", "json"]) {
            wrong.extend(contradiction(connection, lack, row, account, output).await);
        }
        futures::stream::iter(wrong)
    });
    futures::stream::iter(running).buffer_unordered(lack.at_once()).flatten().collect().await
}

async fn contradiction(connection: &str, lack: Lack, row: &Row, account: &str, output: &str) -> Option<String> {
    let filled = |argument: &&str| argument.replace("{account}", account).replace("{interval}", lack.interval_ms());
    let given = row.arguments.iter().map(filled);
    let code = match lack {
        Lack::OneNode => row.one_down,
        Lack::Quorum => row.no_quorum,
        Lack::Everything => 4,
    };
    let patience_s = match (code, lack) {
        (0, _) => PATIENCE_S[0],
        (_, Lack::Everything) => PATIENCE_S[2],
        _ => PATIENCE_S[1],
    };
    let timeout = format!("{patience_s}s");
    let arguments: Vec<String> = given.chain(["--timeout", &timeout, "--output", output].map(String::from)).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let hangs = Duration::from_secs(patience_s) + LATER;
    match tokio::time::timeout(hangs, run(connection, &arguments)).await {
        Err(_) => Some(format!("{arguments:?} hangs")),
        Ok(run) => wrong(&run, code, output).map(|wrong| format!("{arguments:?}: {wrong}\n{}{}", run.out, run.err)),
    }
}

/// What is wrong with a run that should have ended with `code`.
fn wrong(run: &Run, code: i32, output: &str) -> Option<String> {
    let expected = code;
    let code = match (code, run.code) {
        (TAKEN, 1) if ["CLUSTER_STATE", "NOT_FOUND"].iter().any(|why| run.err.contains(why)) => return None,
        (TAKEN, _) => 3,
        (EITHER, code @ (0 | 3)) | (OPEN, code @ (1 | 3)) | (REFUSED, code @ (3 | 4)) => code,
        (code, _) => code,
    };
    if run.code != code {
        return Some(format!("exit code {} instead of {code}", run.code));
    }
    let begin = match code {
        0 => "",
        1 => "clusterctl: ",
        3 => "clusterctl: degraded: ",
        _ => "clusterctl: unreachable: ",
    };
    // What is told beside the answer comes before the verdict.
    let last = run.err.lines().last().unwrap_or_default();
    if !last.starts_with(begin) {
        return Some(format!("its message does not begin with {begin:?}"));
    }
    if code == 1 && !last.contains("the outcome is unknown") {
        return Some("it does not say that the outcome is unknown".into());
    }
    if code == 4 && expected == 4 && !run.out.is_empty() {
        return Some("it answers, and nobody was asked".into());
    }
    if output == "json" {
        let documents = serde_json::Deserializer::from_str(&run.out).into_iter::<serde_json::Value>();
        let documents: Result<Vec<_>, _> = documents.collect();
        return documents.is_err().then(|| "its answer is not JSON".into());
    }
    (run.width() > 80).then(|| format!("{} columns", run.width()))
}

/// Commands of the manual that are neither in the matrix nor tried elsewhere.
pub fn forgotten(manual: &str) -> Vec<String> {
    let usages = manual.split("```text\nclusterctl ").skip(1);
    let names = usages.map(|usage| {
        let words = usage.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        words.collect::<Vec<_>>().join(" ")
    });
    let names: Vec<String> = names.collect();
    assert!(names.len() > 30, "only {} commands were found in the manual", names.len());
    let begins = |row: &Row, name: &str| row.arguments.join(" ").starts_with(name);
    let here = |name: &str| ROWS.iter().any(|row| begins(row, name));
    let there = |name: &str| {
        ELSEWHERE.iter().any(|(known, test)| {
            let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(test);
            *known == name && file.is_file()
        })
    };
    names.into_iter().filter(|name| !here(name) && !there(name)).collect()
}
