//! The unit and the container file name what there is: settings, versions, times.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use playhead::node::config::FIELDS;

const UNIT: &str = include_str!("../packaging/systemd/playhead@.service");
const CONTAINER: &str = include_str!("../Containerfile");
const TOOLCHAIN: &str = include_str!("../rust-toolchain.toml");

#[test]
fn every_setting_that_they_set_is_one() {
    let known: Vec<String> =
        FIELDS.iter().map(|field| format!("PLAYHEAD_{}", field.name.replace('.', "_").to_uppercase())).collect();
    let words = UNIT.lines().chain(CONTAINER.lines()).flat_map(|line| line.split([' ', '=', '\\']));
    let set: Vec<&str> = words.filter(|word| word.starts_with("PLAYHEAD_")).collect();
    assert!(set.len() >= 8, "{set:?}");
    for name in set {
        assert!(known.iter().any(|known| known == name), "{name}");
    }
}

#[test]
fn the_image_is_built_by_the_toolchain_of_the_repository() {
    let version = TOOLCHAIN.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(CONTAINER.contains(&format!("ARG RUST_VERSION={version}\n")), "{version}");
}

#[test]
fn a_stop_fits_into_its_time() {
    let seconds = |name: &str| -> u64 {
        let line = UNIT.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
        line.parse().unwrap()
    };
    let drain = FIELDS.iter().find(|field| field.name == "shutdown.drain_ms").unwrap();
    let drain_ms: u64 = drain.default.parse().unwrap();
    // Tasks 5 s, replicas 10 s, the runtime 1 s; see `Node::stop`.
    assert!(seconds("TimeoutStopSec") * 1_000 >= drain_ms + 30_000);
    assert!(seconds("WatchdogSec") >= 10, "a busy machine is not a node that hangs");
}
