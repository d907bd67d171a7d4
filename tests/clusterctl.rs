//! `clusterctl`, the program, against a cluster of one process.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/program.rs"]
mod program;
#[path = "support/solo.rs"]
mod solo;

use std::fs;
use std::sync::atomic::Ordering;

use program::run;
use serde_json::Value;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/sample/ViewingActivity.csv");

async fn json(connection: &str, arguments: &[&str]) -> Value {
    program::json(connection, arguments, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_a_table_that_fits_or_a_json_document() {
    let serving = solo::serve().await;
    let connection = serving.connection();
    for arguments in [
        &["status"][..],
        &["node", "list"],
        &["shard", "list"],
        &["shard", "show", "3"],
        &["shard", "show", "--account", "ann"],
        &["shard", "replace", "3", "--replica", "2", "--dry-run"],
        &["ring", "show"],
        &["account", "show", "ann"],
        &["bootstrap"],
    ] {
        let table = run(&connection, arguments).await;
        assert_eq!((table.code, table.err.as_str()), (0, ""), "{arguments:?}: {}", table.out);
        assert!(!table.out.trim().is_empty());
        assert!(json(&connection, arguments).await.is_object() || arguments[1..] == ["list"], "{arguments:?}");
    }
    let status = json(&connection, &["status"]).await;
    assert_eq!((status["shards_led"].as_u64(), status["healthy"].as_bool()), (Some(8), Some(true)));
    let ring = json(&connection, &["ring", "show", "--points"]).await;
    assert_eq!(ring["points"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_replaced_only_with_yes_and_a_refusal_is_1_with_the_reason() {
    let serving = solo::serve().await;
    let connection = serving.connection();
    let asked = ["shard", "replace", "3", "--replica", "2"];
    let only_asked = run(&connection, &asked).await;
    assert_eq!((only_asked.code, only_asked.out.as_str()), (2, ""));
    assert!(
        only_asked.err.contains("is replaced by a fresh one") && only_asked.err.contains("add --yes"),
        "{}",
        only_asked.err
    );
    assert_eq!(json(&connection, &[&asked[..], &["--dry-run"]].concat()).await["fresh_replica_id"], Value::Null);
    let done = json(&connection, &[&asked[..], &["--yes"]].concat()).await;
    assert_eq!((done["fresh_replica_id"].as_u64(), done["voters_alive"].as_u64()), (Some(40), Some(2)));
    let refused = run(&connection, &["shard", "replace", "3", "--replica", "1", "--yes"]).await;
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert!(refused.err.contains("are a quorum"), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_degraded_cluster_is_3_and_says_what_is_missing() {
    let serving = solo::serve().await;
    serving.solo.refuse_next.store(1, Ordering::Relaxed);
    let run = run(&serving.connection(), &["status"]).await;
    assert_eq!(run.code, 3);
    assert!(run.out.contains("5 of 8"), "{}", run.out);
    assert!(run.err.contains("3 of 8 shards have no leader") && run.err.contains("not alive: other"), "{}", run.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_4() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let connection = format!("127.0.0.1:{port};admin=127.0.0.1:{port}");
    for arguments in [&["status"][..], &["account", "show", "ann"]] {
        let run = run(&connection, &[arguments, &["--timeout", "300ms"]].concat()).await;
        assert_eq!((run.code, run.out.as_str()), (4, ""), "{}", run.err);
        assert!(run.err.starts_with("clusterctl: unreachable:"), "{}", run.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_calls_and_never_answers_leaves_time_to_ask_another() {
    let serving = solo::serve().await;
    // The system takes the connections; nobody reads them.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (hung, well) = (format!("http://{}", hung.local_addr().unwrap()), &serving.client_endpoint);
    for clients in [format!("{hung},{well}"), format!("{well},{hung}")] {
        let connection = format!("{clients};admin={}", serving.admin_endpoint);
        let run = run(&connection, &["account", "show", "ann", "--timeout", "30s"]).await;
        assert_eq!(run.code, 0, "{}", run.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_2_and_changes_nothing() {
    let serving = solo::serve().await;
    let long = "x".repeat(129);
    for arguments in [
        &["status", "--output", "xml"][..],
        &["frobnicate"],
        &["account", "show", ""],
        &["account", "show", &long],
        &["account", "show", "a\tb"],
        &["shard", "show", "99999999999"],
        &["shard", "show"],
        &["shard", "replace", "3"],
        &["shard", "replace", "3", "--replica", "two"],
        &["bootstrap", "--shards", "63"],
        &["import", "netflix", SAMPLE],
        &["import", "netflix", SAMPLE, "--account", ""],
        &["import", "netflix", SAMPLE, "--account", "a", "--dry-run", "--verify"],
        &["status", "--endpoints", "nowhere"],
        &["local", "kill"],
    ] {
        let run = run(&serving.connection(), arguments).await;
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{arguments:?}: {}", run.err);
        assert!(!run.err.is_empty(), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_adds_what_is_new_and_a_second_one_nothing() {
    let serving = solo::serve().await;
    let connection = serving.connection();
    let first = json(&connection, &["import", "netflix", SAMPLE, "--account", "ann"]).await;
    assert_eq!((first["added"].as_u64(), first["unchanged"].as_u64()), (Some(307), Some(1)));
    assert_eq!((first["refused"].as_u64(), first["previews"].as_u64()), (Some(0), Some(155)));
    let again = run(&connection, &["import", "netflix", SAMPLE, "--account", "ann"]).await;
    assert_eq!(again.out.trim(), "0 added, 308 unchanged, 0 refused; 155 previews left out");
    let account = json(&connection, &["account", "show", "ann"]).await;
    assert_eq!(account["profiles"].as_array().map(Vec::len), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_verified_compares_everything() {
    let serving = solo::serve().await;
    let connection = serving.connection();
    let arguments = ["import", "netflix", SAMPLE, "--account", "ann", "--verify"];
    let verified = run(&connection, &arguments).await;
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    assert!(
        verified.out.contains("second import: 0 added") && verified.out.contains("mismatches: 0"),
        "{}",
        verified.out
    );
    serving.solo.lie.store(true, Ordering::Relaxed);
    let spoilt = run(&connection, &arguments).await;
    assert_eq!(spoilt.code, 1);
    assert!(spoilt.err.contains("140 mismatches"), "{}", spoilt.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_are_told_by_line_and_reason_and_the_others_are_imported() {
    let serving = solo::serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.csv");
    let sample = fs::read_to_string(SAMPLE).unwrap();
    let mut lines: Vec<&str> = sample.lines().take(8).collect();
    lines.insert(3, "Kids,2024-13-01 10:00:00,00:10:00,,Wool,,TV,00:10:00,00:10:00,PT");
    lines.insert(4, "Kids,2024-03-01 10:00:00,721:00:00,,Wool,,TV,00:10:00,00:10:00,PT");
    // The file cannot know what is in the future for the cluster.
    lines.insert(5, "Kids,9999-03-01 10:00:00,00:10:00,,Wool,,TV,00:10:00,00:10:00,PT");
    lines.push("Kids,2024-03-01 10:0");
    fs::write(&file, lines.join("\n")).unwrap();
    let arguments = ["import", "netflix", file.to_str().unwrap(), "--account", "ann"];
    let refused = run(&serving.connection(), &arguments).await;
    assert_eq!(refused.code, 1, "{}", refused.err);
    let told = &refused.out;
    assert!(told.contains("refused: line 4: Start Time \"2024-13-01 10:00:00\" is not a time"), "{told}");
    assert!(told.contains("refused: line 5: Duration \"721:00:00\" is not a duration"), "{told}");
    assert!(told.contains("refused: line 6: it ends more than 5 minutes in the future"), "{told}");
    assert!(told.contains("refused: line 12: has 2 columns") && told.contains(", 4 refused;"), "{told}");
    let last = refused.err.trim().lines().last().unwrap();
    assert_eq!(last, "clusterctl: 4 rows were refused, the others were taken; --allow-refused makes this no failure");
    let again = run(&serving.connection(), &[&arguments[..], &["--allow-refused"]].concat()).await;
    assert_eq!((again.code, again.err.as_str()), (0, ""));
    assert!(again.out.contains("0 added"), "{}", again.out);
    let dry = run(&serving.connection(), &[&arguments[..], &["--dry-run"]].concat()).await;
    assert_eq!(dry.code, 1);
    assert!(dry.err.contains("3 rows were refused, the others would be taken"), "{}", dry.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_stops_half_way_says_how_far_it_came_and_can_be_repeated() {
    let serving = solo::serve().await;
    serving.solo.full_after.store(1, Ordering::Relaxed);
    let arguments = ["import", "netflix", SAMPLE, "--account", "ann"];
    let stopped = run(&serving.connection(), &arguments).await;
    assert_eq!(stopped.code, 1, "{}", stopped.err);
    assert!(stopped.err.contains("the import stopped after 250 of 308 plays (2"), "{}", stopped.err);
    serving.solo.full_after.store(u32::MAX, Ordering::Relaxed);
    let whole = json(&serving.connection(), &arguments).await;
    assert_eq!(whole["added"].as_u64().unwrap() + whole["unchanged"].as_u64().unwrap(), 308);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_history_are_1_and_change_nothing() {
    let serving = solo::serve().await;
    let folder = tempfile::tempdir().unwrap();
    let binary: Vec<u8> = (0..=255u8).cycle().take(4096).collect();
    for (name, bytes, told) in [
        ("empty.csv", &b""[..], "is empty"),
        ("binary.csv", &binary, "a binary file"),
        ("archive.csv", b"PK\x03\x04", "a zip archive"),
        ("words.csv", b"these are words\n", "is not a viewing activity"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        let run = run(&serving.connection(), &["import", "netflix", file.to_str().unwrap(), "--account", "ann"]).await;
        assert_eq!((run.code, run.out.as_str()), (1, ""), "{name}");
        assert!(run.err.contains(name) && run.err.contains(told), "{}", run.err);
    }
    let missing = run(&serving.connection(), &["import", "netflix", "no/such/file.csv", "--account", "ann"]).await;
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("no/such/file.csv: No such file"), "{}", missing.err);
    let account = json(&serving.connection(), &["account", "show", "ann"]).await;
    assert_eq!(account["profiles"].as_array().map(Vec::len), Some(0));
}
