//! What a shard adopts, and what that changes: nothing of what members see, and for whom it is too new.

use proptest::prelude::*;

use super::*;

const FIRST: ClusterVersion = ClusterVersion::FIRST;
const SECOND: ClusterVersion = ClusterVersion(2);

fn adopt(version: ClusterVersion) -> Envelope {
    Envelope::plain(Command::Adopt(version))
}

/// As it stands in the store, in a build that speaks up to `known`.
fn restored(shard: &Shard, known: ClusterVersion) -> Result<State, RestoreError> {
    State::restore(&shard.header, shard.images.clone(), known)
}

#[test]
fn a_shard_adopts_what_its_log_says_and_never_goes_back() {
    let mut shard = Shard::new(Settings::default());
    assert_eq!(shard.state.version(), FIRST);
    assert_eq!(shard.apply(at(0), &adopt(SECOND)).answer, Answer::Adopted(SECOND));
    assert_eq!(shard.apply(at(1), &adopt(FIRST)).answer, Answer::Adopted(SECOND));
    assert_eq!(shard.state.version(), SECOND);
}

#[test]
fn the_header_of_a_state_is_of_the_first_version_until_it_adopts_another_one() {
    let mut shard = Shard::new(Settings::default());
    shard.start(at(0), start("v1", "tv", film("heat")));
    shard.apply(at(1), &adopt(FIRST));
    shard.checkpoint();
    assert_eq!((shard.header[0], shard.header[1]), (0x86, 1), "an array of six, of version 1");
    assert_eq!(restored(&shard, FIRST).map(|state| state.version()), Ok(FIRST));
    shard.apply(at(2), &adopt(SECOND));
    shard.checkpoint();
    assert_eq!((shard.header[0], shard.header[1], shard.header.last()), (0x87, 2, Some(&2)));
    assert_eq!(restored(&shard, SECOND).map(|state| state.version()), Ok(SECOND));
}

#[test]
fn a_build_that_does_not_speak_the_adopted_version_restores_no_such_state() {
    let mut shard = Shard::new(Settings::default());
    shard.apply(at(0), &adopt(SECOND));
    shard.checkpoint();
    assert!(matches!(restored(&shard, FIRST), Err(RestoreError::Version { found: 2, known: 1 })));
    // A later version with the same header.
    let adopted = shard.header.len() - 1;
    shard.header[adopted] = 3;
    let later = RestoreError::Rules { found: ClusterVersion(3), known: SECOND };
    assert_eq!(restored(&shard, SECOND).map(|_| ()), Err(later));
    shard.header[adopted] = 1;
    assert!(matches!(restored(&shard, SECOND), Err(RestoreError::Header(_))), "a second header of the first version");
    // A header of later still, of which nothing is looked at but its version.
    let strange = [&[0x82, 9][..], &[0xff; 9]].concat();
    let refused = State::restore(&strange, [], SECOND).map(|_| ());
    assert_eq!(refused, Err(RestoreError::Version { found: 9, known: 2 }));
}

#[test]
fn a_build_that_does_not_speak_a_version_stops_at_its_adoption_and_changes_nothing() {
    for (known, version) in [(FIRST, SECOND), (SECOND, ClusterVersion(3))] {
        let mut state = State::new(Settings::default()).knowing(known);
        let envelope = adopt(version);
        assert!(matches!(state.missing(at(0), &envelope), Err(Stop::NotUnderstood(_))));
        assert!(matches!(state.apply(at(0), &envelope), Err(Stop::NotUnderstood(_))));
        assert!(!state.permits(&envelope));
        assert_eq!((state.revision().0, state.version()), (0, FIRST));
    }
}

#[test]
fn a_leader_may_propose_what_its_shard_has_adopted_and_to_adopt() {
    let mut state = State::new(Settings::default());
    // One that says so of itself stands for all.
    let later = Envelope { version: 3, ..Envelope::plain(Command::Tick) };
    assert!(state.permits(&Envelope::plain(Command::Tick)) && state.permits(&adopt(SECOND)));
    assert!(!state.permits(&later));
    // Where one is in the log all the same, every replica refuses it alike.
    let refused = state.apply(at(0), &later).unwrap().answer;
    assert!(matches!(refused, Answer::Rejected(Rejection::Invalid { .. })), "{refused:?}");
    state.apply(at(1), &adopt(SECOND)).unwrap();
    assert!(state.permits(&later));
    assert!(matches!(state.apply(at(2), &later).unwrap().answer, Answer::Ticked(_)));
}

#[test]
fn every_command_is_written_as_the_version_that_brought_it() {
    let written = |command| Envelope::plain(command).version;
    assert_eq!(written(Command::Tick), 2);
    assert_eq!(written(Command::UpdateSettings(Settings::default())), 2);
    assert_eq!(written(Command::Account(account("a"), stop("v1", None))), 2);
    assert_eq!(written(Command::Adopt(SECOND)), 3);
    let closed = StreamPolicy { fail_closed: true, ..StreamPolicy::streams(1) };
    assert_eq!(written(Command::UpdateSettings(Settings { policy: closed, ..Settings::default() })), 4);
    assert_eq!(written(Command::Account(account("a"), AccountCommand::UpdateStreamPolicy(closed))), 4);
    assert_eq!(written(Command::Account(account("a"), AccountCommand::HandOff(HandOff { views: Vec::new() }))), 4);
    assert_eq!(written(Command::Stretch(Stretch(1))), 4);
}

/// A log with an adoption somewhere.
fn log() -> impl Strategy<Value = Vec<Envelope>> {
    let of_account = |account_: usize, command| Command::Account(account(["a", "b"][account_]), command);
    let command = (0..2usize, 0..3usize, 0..3usize, 0..6u64, 0..5u8).prop_map(move |(whose, which, on, n, what)| {
        let (id, device) = (["v1", "v2", "v3"][which], ["tv", "pad", "phone"][on]);
        Envelope::plain(match what {
            0 => of_account(whose, AccountCommand::StartView(start(id, device, film(["heat", "ran", "ikiru"][which])))),
            1 | 2 => of_account(whose, report(id, n, n * MINUTE)),
            3 => of_account(whose, stop(id, Some(n * 20 * MINUTE))),
            _ => Command::Tick,
        })
    });
    (prop::collection::vec(command, 1..40), any::<prop::sample::Index>(), 1..=2u32).prop_map(
        |(mut log, at, version)| {
            log.insert(at.index(log.len() + 1), adopt(ClusterVersion(version)));
            log
        },
    )
}

fn moment(index: usize) -> Stamp {
    at(index as u64 * 40_000)
}

proptest! {
    #[test]
    fn replicas_that_took_their_snapshots_at_different_moments_come_to_the_same_state(
        log in log(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..4)
    ) {
        let mut whole = Shard::new(Settings::default());
        let mut marks = Vec::new();
        for (index, envelope) in log.iter().enumerate() {
            whole.apply(moment(index), envelope);
            marks.push((whole.state.version(), whole.state.digest(), whole.state.revision()));
        }
        for cut in cuts {
            let cut = cut.index(log.len() + 1);
            let mut part = Shard::new(Settings::default());
            for (index, envelope) in log.iter().enumerate() {
                if index == cut {
                    part.restart();
                }
                part.apply(moment(index), envelope);
                let mark = (part.state.version(), part.state.digest(), part.state.revision());
                prop_assert_eq!(mark, marks[index], "after entry {}, with a snapshot before {}", index, cut);
            }
            for shard in [&mut whole, &mut part] {
                shard.checkpoint();
            }
            prop_assert_eq!(&part.header, &whole.header);
            prop_assert_eq!(&part.store, &whole.store);
        }
    }
}
