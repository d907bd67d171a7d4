use super::*;
use crate::node::meta::{ACCOUNT_PER_SECOND_MAX, COPIES_BYTES_PER_SECOND_MAX, COPIES_BYTES_PER_SECOND_MIN};

fn sources(environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    Sources {
        file: None,
        environment: environment.iter().map(|(k, v)| (k.into(), v.into())).collect(),
        flags: flags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
    }
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "pulse_ms = 20\n[node]\nzone = \"a\"\nname = \"x\"\nweight = 3\n").unwrap();
    let mut sources = sources(&[("PLAYHEAD_NODE_ZONE", "b"), ("PLAYHEAD_NODE_NAME", "y")], &[("node-zone", "c")]);
    sources.file = Some(file);
    let config = load(&sources).unwrap();
    assert_eq!((config.node_zone.as_str(), config.node_name.as_str()), ("c", "y"));
    assert_eq!((config.node_weight, config.pulse_ms), (3, 20));
}

#[test]
fn all_mistakes_are_told_at_once_with_field_place_and_what_is_accepted() {
    let given = sources(
        &[("PLAYHEAD_PULSE_MS", "soon"), ("PLAYHEAD_LISTEN_CLEINT", "x"), ("OTHER", "x"), ("PLAYHEAD_TEST_SEED", "1")],
        &[("node-weight", "0"), ("nonsense", "1"), ("seeds", "a:1,b"), ("log-filter", "a=b=c=,,[")],
    );
    let told = load(&given).unwrap_err().to_string();
    for part in [
        "pulse_ms (in the environment, PLAYHEAD_PULSE_MS) is \"soon\": accepted is a whole number from 10 to 10000",
        "PLAYHEAD_LISTEN_CLEINT (in the environment, PLAYHEAD_LISTEN_CLEINT) is not a setting; did you mean PLAYHEAD_LISTEN_CLIENT?",
        "node.weight (by --node-weight) is \"0\"",
        "nonsense (by --nonsense) is not a setting",
        "seeds (by --seeds)",
        "log.filter (by --log-filter)",
    ] {
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
    assert_eq!(told.lines().count(), 7, "{told}");
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    let given = sources(
        &[],
        &[
            ("raft-heartbeat-ms", "400"),
            ("raft-election-max-ms", "300"),
            ("link-tls-key", "k"),
            ("client-tls-certificate", "c"),
            ("listen-link", "0.0.0.0:0"),
        ],
    );
    let told = load(&given).unwrap_err().to_string();
    for part in ["raft.election_min_ms", "raft.election_max_ms", "link.tls", "client.tls", "advertise.link"] {
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
}

#[test]
fn limits_by_rule_are_what_a_node_may_be_set_to() {
    let (least, most) = (COPIES_BYTES_PER_SECOND_MIN, COPIES_BYTES_PER_SECOND_MAX);
    let takes = |rate: u64| load(&sources(&[], &[("snapshots-bytes-per-second", &rate.to_string())])).is_ok();
    assert_eq!([0, least, most].map(takes), [true; 3]);
    assert_eq!([1, least - 1, most + 1].map(takes), [false; 3]);
    let takes = |rate: u32| load(&sources(&[], &[("limits-account-per-second", &rate.to_string())])).is_ok();
    let most = ACCOUNT_PER_SECOND_MAX;
    assert_eq!([0, 1, most, most + 1].map(takes), [true, true, true, false]);
}

#[test]
fn a_dump_read_as_a_file_gives_the_same_configuration() {
    let given = sources(&[], &[("seeds", "a:1,[::1]:2"), ("log-format", "json"), ("data-dir", "/x \"y\"")]);
    let config = load(&given).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump.toml");
    std::fs::write(&file, config.dump()).unwrap();
    assert_eq!(load(&Sources { file: Some(file), ..Sources::default() }).unwrap(), config);
}

#[test]
fn the_documentation_has_the_same_table() {
    let mut table = String::from("| setting | default | accepted | what it does |\n|---|---|---|---|\n");
    for field in FIELDS {
        let default = if field.default.is_empty() { String::new() } else { format!("`{}`", field.default) };
        table.push_str(&format!("| `{}` | {default} | {} | {} |\n", field.name, field.accepted, field.doc));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap();
    assert!(document.contains(&table), "docs/configuration.md should have this table:\n{table}");
}
