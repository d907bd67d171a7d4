//! Every command of `clusterctl` against a served cluster of one process: tables, JSON, exit codes, and what asks first.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/program.rs"]
mod program;
#[path = "support/solo.rs"]
mod solo;

use playhead::client::Client;
use playhead::proto::v1;
use program::{json, run};

/// Has bob watch something on two devices, after he watched something else.
async fn watching(client: &Client) {
    for (view, device, title, stop) in [
        ("v0", "tv", "film-0", true),
        ("v1", "tv", "film-1", true),
        ("v2", "tv", "film-2", false),
        ("v3", "pad", "film-3", false),
    ] {
        let request = v1::StartViewRequest {
            account_id: "bob".into(),
            view_id: view.into(),
            profile_id: "p".into(),
            device_id: device.into(),
            title_id: title.into(),
            title_type: v1::TitleType::Film.into(),
            position_ms: Some(0),
            duration_ms: Some(6_000_000),
            ..Default::default()
        };
        client.start_view(request).await.unwrap();
        if stop {
            let position_ms = Some(1_200_000);
            let (account_id, view_id) = ("bob".into(), view.into());
            let request = v1::StopViewRequest { account_id, view_id, position_ms, ..Default::default() };
            client.stop_view(request).await.unwrap();
        }
    }
}

/// All that only look, on a cluster that is well.
const LOOKS: &[&[&str]] = &[
    &["status"],
    &["node", "list"],
    &["node", "show", "other"],
    &["shard", "list"],
    &["shard", "show", "3"],
    &["shard", "check", "3"],
    &["shard", "check", "--all"],
    &["shard", "transfer-leader", "3"],
    &["ring", "show"],
    &["ring", "plan", "--add", "third"],
    &["ring", "plan", "--add", "third:b:2", "--remove", "other"],
    &["account", "show", "bob"],
    &["account", "active", "bob"],
    &["account", "active", "nobody"],
    &["account", "history", "bob"],
    &["account", "history", "bob", "--profile", "p", "--title", "film-1", "--limit", "1", "--read", "any"],
    &["account", "history", "nobody", "--profile", "p"],
    &["account", "resume", "bob"],
    &["account", "resume", "bob", "film-1", "film-9", "--profile", "p"],
    &["policy", "get", "bob"],
    &["settings", "get"],
    &["raft", "show", "meta"],
    &["raft", "show", "3"],
    &["bootstrap"],
];

#[tokio::test(flavor = "multi_thread")]
async fn every_look_is_a_table_of_80_columns_or_a_json_document() {
    let serving = solo::serve().await;
    watching(&serving.client()).await;
    let connection = serving.connection();
    for arguments in LOOKS {
        let table = run(&connection, arguments).await;
        assert_eq!((table.code, table.err.as_str()), (0, ""), "{arguments:?}: {}", table.out);
        assert!(!table.out.trim().is_empty() && !table.out.contains('\u{1b}'), "{arguments:?}: {}", table.out);
        table.assert_fits();
        let document = json(&connection, arguments, 0).await;
        assert!(document.is_object() || document.is_array(), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_watched_is_told_whole() {
    let serving = solo::serve().await;
    watching(&serving.client()).await;
    let connection = serving.connection();
    let active = json(&connection, &["account", "active", "bob"], 0).await;
    let devices: Vec<&str> =
        active["views"].as_array().unwrap().iter().filter_map(|v| v["device_id"].as_str()).collect();
    assert_eq!((devices, active["read"]["served_by"].as_str()), (vec!["tv", "pad"], Some("solo")));
    let history = json(&connection, &["account", "history", "bob", "--limit", "1"], 0).await;
    assert_eq!((history["entries"].as_array().map(Vec::len), history["more"].as_bool()), (Some(1), Some(true)));
    assert_eq!(history["profile_id"], "p", "the only profile need not be named");
    let points = json(&connection, &["account", "resume", "bob", "film-1", "film-9"], 0).await;
    assert_eq!(points["titles"][0]["position_ms"], 1_200_000);
    assert_eq!(points["titles"][1]["last_position_ms"], serde_json::Value::Null);
    let row = json(&connection, &["account", "resume", "bob"], 0).await;
    assert!(row["titles"].as_array().unwrap().iter().any(|title| title["title_id"] == "film-1"), "{row}");
    let nobody = run(&connection, &["account", "history", "nobody"]).await;
    assert!(nobody.code == 2 && nobody.err.contains("nothing was ever played"), "{}", nobody.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_without_yes_where_nobody_can_be_asked() {
    let serving = solo::serve().await;
    watching(&serving.client()).await;
    let connection = serving.connection();
    let changes: [&[&str]; 4] = [
        &["view", "end", "bob", "v2"],
        &["policy", "set", "bob", "--max-streams", "7"],
        &["settings", "set", "interval_ms=20000"],
        &["shard", "transfer-leader", "3", "--to", "other"],
    ];
    for arguments in changes {
        let refused = run(&connection, arguments).await;
        assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{arguments:?}: {}", refused.err);
        assert!(refused.err.contains("nothing was changed; add --yes"), "{}", refused.err);
    }
    assert_eq!(json(&connection, &["account", "active", "bob"], 0).await["views"].as_array().unwrap().len(), 2);
    assert_eq!(json(&connection, &["policy", "get", "bob"], 0).await["is_own"], false);
    assert_eq!(json(&connection, &["settings", "get"], 0).await["version"], 0);
    for arguments in changes {
        let done = run(&connection, &[arguments, &["--yes"]].concat()).await;
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{arguments:?}: {}", done.out);
        done.assert_fits();
    }
    let active = json(&connection, &["account", "active", "bob"], 0).await;
    assert_eq!((active["views"].as_array().unwrap().len(), &active["views"][0]["view_id"]), (1, &"v3".into()));
    let policy = json(&connection, &["policy", "get", "bob"], 0).await;
    assert_eq!((policy["max_streams"].as_u64(), policy["is_own"].as_bool()), (Some(7), Some(true)));
    let settings = json(&connection, &["settings", "get"], 0).await;
    assert_eq!((settings["version"].as_u64(), settings["figures"]["interval_ms"].as_u64()), (Some(1), Some(20_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_answer_in_json_what_was_before_and_what_is_now() {
    let serving = solo::serve().await;
    watching(&serving.client()).await;
    let connection = serving.connection();
    let ended = json(&connection, &["view", "end", "bob", "v2", "--yes"], 0).await;
    assert_eq!((&ended["title_id"], &ended["device_id"]), (&"film-2".into(), &"tv".into()));
    let again = run(&connection, &["view", "end", "bob", "v2", "--yes"]).await;
    assert!(again.code == 1 && again.err.contains("has ended already"), "{}", again.err);
    let policy = json(&connection, &["policy", "set", "bob", "--max-streams", "9", "--yes"], 0).await;
    assert!(policy["max_streams"] == 9 && policy["max_streams_before"] != 9, "{policy}");
    let set = json(&connection, &["settings", "set", "interval_ms=30000", "--yes"], 0).await;
    assert_eq!((&set["changes"][0]["after"], set["version"].as_u64()), (&30_000.into(), Some(1)));
    let same = run(&connection, &["settings", "set", "interval_ms=30000"]).await;
    assert!(same.code == 0 && same.out.contains("nothing changes"), "{}{}", same.out, same.err);
    let moved = json(&connection, &["shard", "transfer-leader", "3", "--to", "other", "--yes"], 0).await;
    assert_eq!((&moved["from"], &moved["leader"]), (&"solo".into(), &"other".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_no_cluster_has_are_2_and_name_those_that_it_has() {
    let serving = solo::serve().await;
    for (arguments, told) in [
        (&["node", "show", "third"][..], "solo, other are there"),
        (&["ring", "plan", "--remove", "third"], "holds nothing"),
        (&["ring", "plan", "--add", "other"], "is there already"),
        (&["ring", "plan", "--remove", "solo", "--remove", "other"], "no node may hold replicas"),
        (&["settings", "set", "interval=1", "--yes"], "interval_ms"),
        (&["settings", "set", "interval_ms=1", "--yes"], "interval_ms"),
        (&["shard", "transfer-leader", "3", "--to", "third", "--yes"], "solo, other do"),
    ] {
        let run = run(&serving.connection(), arguments).await;
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{arguments:?}: {}", run.err);
        assert!(run.err.contains(told), "{arguments:?}: {}", run.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_so_many_answers_and_json_is_one_document_a_line() {
    let serving = solo::serve().await;
    watching(&serving.client()).await;
    let connection = serving.connection();
    for arguments in [&["status"][..], &["node", "list"], &["shard", "list"], &["account", "active", "bob"]] {
        let often = [arguments, &["--watch", "1ms", "--count", "3"]].concat();
        let watched = run(&connection, &[&often[..], &["-o", "json"]].concat()).await;
        assert_eq!((watched.code, watched.lines().len()), (0, 3), "{arguments:?}: {}", watched.err);
        let tables = run(&connection, &often).await;
        let once = run(&connection, arguments).await;
        assert_eq!(tables.out.lines().count(), 3 * once.out.lines().count() + 2, "{}", tables.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_knows_a_node_that_answers_for_another() {
    let serving = solo::serve().await;
    // Both names lead to the one process there is.
    let diagnosis = json(&serving.connection(), &["doctor"], 3).await;
    let kinds: Vec<&str> =
        diagnosis["findings"].as_array().unwrap().iter().filter_map(|f| f["kind"].as_str()).collect();
    assert!(kinds.contains(&"node-mistaken"), "{diagnosis}");
    let table = run(&serving.connection(), &["doctor"]).await;
    assert!(table.code == 3 && table.out.contains("CRITICAL") && table.err.contains("critical"), "{}", table.err);
    table.assert_fits();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_is_a_script_for_the_shell() {
    for (shell, begins) in
        [("bash", "_clusterctl()"), ("zsh", "#compdef clusterctl"), ("fish", "function __fish_clusterctl")]
    {
        let script = run("127.0.0.1:1", &["completion", shell]).await;
        assert!(script.code == 0 && script.out.contains("transfer-leader"), "{shell}: {}", script.err);
        assert!(script.out.contains(begins), "{shell}");
        let document = json("127.0.0.1:1", &["completion", shell], 0).await;
        assert_eq!(document["script"].as_str().map(str::trim_end), Some(script.out.trim_end()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_4_for_every_command_within_its_timeout() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let connection = format!("127.0.0.1:{port};admin=127.0.0.1:{port}");
    let changes: &[&[&str]] = &[
        &["doctor"],
        &["status", "--watch"],
        &["status", "--wait"],
        &["view", "end", "bob", "v2", "--yes"],
        &["policy", "set", "bob", "--max-streams", "7", "--yes"],
        &["settings", "set", "interval_ms=20000", "--yes"],
        &["shard", "transfer-leader", "3", "--to", "other", "--yes"],
    ];
    for arguments in LOOKS.iter().chain(changes) {
        let run = run(&connection, &[arguments, &["--timeout", "200ms", "-o", "json"][..]].concat()).await;
        assert_eq!((run.code, run.out.as_str()), (4, ""), "{arguments:?}: {}", run.err);
        assert!(run.err.starts_with("clusterctl: unreachable:"), "{}", run.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_accepts_and_never_answers_does_not_hang_a_command() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connection = format!("127.0.0.1:{port};admin=127.0.0.1:{port}");
    for arguments in
        [&["doctor"][..], &["shard", "check", "--all"], &["account", "history", "bob"], &["raft", "show", "meta"]]
    {
        let run = run(&connection, &[arguments, &["--timeout", "300ms"]].concat()).await;
        assert_eq!((run.code, run.out.as_str()), (4, ""), "{arguments:?}: {}", run.err);
    }
    drop(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_to_a_node_that_answers_not_to_one_that_hangs() {
    let serving = solo::serve().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = listener.local_addr().unwrap();
    let connection = format!("{};admin={hangs},{}", serving.client_endpoint, serving.admin_endpoint);
    let timeout = ["--yes", "--timeout", "3s"];
    let set = json(&connection, &[&["settings", "set", "interval_ms=20000"], &timeout[..]].concat(), 0).await;
    assert_eq!(set["version"], 1);
    let moved = [&["shard", "transfer-leader", "3", "--to", "other"], &timeout[..]].concat();
    assert_eq!(json(&connection, &moved, 0).await["leader"], "other");
    drop(listener);
}
