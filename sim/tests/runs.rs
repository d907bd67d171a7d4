//! What a run promises: the same again for the same seed, and no pass for a fault that was never there.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the simulation starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_byte_and_another_seed_does_not() {
    let folder = std::env::temp_dir().join(format!("playhead-sim-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for traces");
    let trace = |name: &str, seed: &str| {
        let path = folder.join(name);
        let output = sim(&["run", "--seed", seed, "--trace", path.to_str().expect("a path in UTF-8")]);
        (output.status.code(), std::fs::read(path).expect("a trace"))
    };
    let (first, again, other) = (trace("first", "2"), trace("again", "2"), trace("other", "7"));
    assert!(!first.1.is_empty());
    assert!(first == again, "two runs of seed 2 differ");
    assert!(first != other, "seeds 2 and 7 don't differ");
    std::fs::remove_dir_all(&folder).expect("the traces can be removed");
}

#[test]
fn a_run_in_which_a_claimed_fault_never_had_an_effect_is_rejected() {
    let output = sim(&["run", "--seed", "3", "--faults", "kill,one-way", "--hold-back", "one-way"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("rejected, as these had no effect: [OneWay]"), "{}", said(&output));
}
