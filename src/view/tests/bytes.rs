//! Bytes that must stay as they are, and bytes that are none of ours.

use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sample() -> Shard {
    let mut shard = Shard::new(Settings::default());
    let start = StartView { position_ms: Some(10 * MINUTE), ..start("v1", "tv", film("heat")) };
    let request = Envelope::request(request("r1"), account("a"), AccountCommand::StartView(start));
    shard.apply(at(0), &request);
    shard.progress(at(MINUTE), report("v1", 1, 11 * MINUTE));
    shard
}

fn parked() -> Parked {
    let stop = ParkedStop { failed: true, request_id: Some(request("r2")), fingerprint: 9 };
    Parked {
        view: view("v1"),
        start: Some(ParkedStart {
            start: start("v1", "tv", film("heat")),
            position_ms: Some(5),
            request_id: Some(request("r1")),
            age_ms: 6,
        }),
        told: Some(ParkedTold {
            sequence: Some(7),
            position_ms: Some(8),
            state: PlayState::Paused,
            played: vec![Played { from_ms: 1, to_ms: 2 }],
            seeked: true,
            age_ms: 3,
            stop: Some(stop),
        }),
    }
}

fn all_commands() -> Vec<Command> {
    let own = |command| Command::Account(account("a"), command);
    let next = NextView { view: view("v2"), media: film("ran"), position_ms: Some(1) };
    let play = ImportPlay {
        profile: profile("ann"),
        title: title("heat"),
        title_type: TitleType::Episode,
        device: device("tv"),
        kind: ViewKind::Offline,
        start: WallMs(1000),
        elapsed_ms: 2000,
        position_ms: Some(3000),
        duration_ms: None,
    };
    vec![
        Command::Tick,
        Command::UpdateSettings(Settings::default()),
        own(AccountCommand::StartView(StartView {
            on_limit: OnLimit::EndNamed(view("v0")),
            ..start("v1", "tv", Media { credits_ms: Some(5), ..film("heat") })
        })),
        own(AccountCommand::ReportProgress(ReportProgress {
            view: view("v1"),
            sequence: 7,
            position_ms: Some(60_000),
            state: PlayState::Paused,
            played: vec![Played { from_ms: 1, to_ms: 2 }],
            seeked: true,
        })),
        own(AccountCommand::StopView(StopView {
            view: view("v1"),
            sequence: Some(8),
            position_ms: None,
            played: Vec::new(),
            failed: true,
            next: Some(next),
        })),
        own(AccountCommand::EndView(EndView { view: view("v1"), by: Some(device("pad")) })),
        own(AccountCommand::ImportHistory(ImportHistory { plays: vec![play] })),
        own(AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(3))),
        Command::Adopt(ClusterVersion(2)),
        own(AccountCommand::UpdateStreamPolicy(StreamPolicy { fail_closed: true, ..StreamPolicy::streams(3) })),
        own(AccountCommand::HandOff(HandOff { views: vec![parked()] })),
        Command::Stretch(Stretch(8)),
    ]
}

#[test]
fn commands_keep_their_bytes() {
    let golden = include_str!("golden/commands.txt");
    let mut written = String::new();
    for command in all_commands() {
        let envelope = Envelope {
            request_id: Some(request("r1")),
            first_sent: Some(FirstSent::At(LogicalMs(99))),
            ..Envelope::plain(command)
        };
        assert_eq!(Envelope::from_bytes(&envelope.to_bytes()).unwrap(), envelope);
        written += &format!("{}\n", hex(&envelope.to_bytes()));
    }
    assert_eq!(written, golden, "commands in logs could not be read any more");
}

#[test]
fn rows_images_and_headers_keep_their_bytes() {
    let golden = include_str!("golden/stored.txt");
    let mut shard = sample();
    shard.checkpoint();
    let mut written = format!("header {}\n", hex(&shard.header));
    for (key, image) in &shard.images {
        written += &format!("image {} {}\n", hex(key), hex(image));
    }
    shard.stop(at(2 * MINUTE), "v1", 12 * MINUTE);
    shard.checkpoint();
    for (key, row) in &shard.store {
        written += &format!("row {} {}\n", hex(key), hex(row));
    }
    assert_eq!(written, golden, "what is stored could not be read any more");
}

#[test]
fn a_command_of_another_version_is_unknown_and_not_merely_damaged() {
    let plain = Envelope::plain(Command::Tick);
    let mut bytes = plain.to_bytes();
    assert_eq!((plain.version, Envelope::from_bytes(&bytes)), (COMMAND_VERSION_MIN, Ok(plain.clone())));
    // The version stands first, the command's tag in front of its (empty) fields last.
    for version in [COMMAND_VERSION_MIN - 1, COMMAND_VERSION + 1] {
        let other = Envelope { version, ..plain.clone() }.to_bytes();
        let unknown = DecodeError::Unknown { version: Some(version), known: COMMAND_VERSION };
        assert_eq!(Envelope::from_bytes(&other), Err(unknown));
    }
    let tag = bytes.len() - 2;
    assert_eq!(bytes[tag], 0);
    bytes[tag] = 23;
    assert_eq!(
        Envelope::from_bytes(&bytes),
        Err(DecodeError::Unknown { version: Some(plain.version), known: COMMAND_VERSION })
    );
    assert!(matches!(Envelope::from_bytes(b"nonsense"), Err(DecodeError::Damaged(_))));
    assert!(matches!(Envelope::from_bytes(&[]), Err(DecodeError::Damaged(_))));
}

#[test]
fn a_row_of_a_newer_version_stops_the_replica() {
    let mut shard = sample();
    shard.checkpoint();
    shard.state.evict(0);
    let key = shard.store.keys().find(|k| k[0] == RowClass::Account as u8).unwrap().clone();
    shard.store.get_mut(&key).unwrap()[0] = 2;
    let envelope = Envelope::plain(Command::Account(account("a"), stop("v1", None)));
    let missing = shard.state.missing(at(0), &envelope).unwrap().unwrap();
    shard.admit(missing);
    assert!(matches!(shard.state.missing(at(0), &envelope), Err(Stop::DamagedRow { .. })));
}

#[test]
fn rows_that_were_read_for_another_state_are_refused_by_the_one_that_took_its_place() {
    let (mut before, mut after) = (sample(), sample());
    before.state = State::new(Settings::default());
    after.state = State::new(Settings::default());
    let fence = before.state.fence();
    assert_eq!(fence, after.state.fence(), "both are at their beginning");
    after.state.follow(&before.state);
    assert!(!after.state.admit(fence, RowKey::from_bytes(b"row"), None));
    assert!(after.state.admit(after.state.fence(), RowKey::from_bytes(b"row"), None));
}

proptest! {
    #[test]
    fn damaged_images_and_headers_are_told_and_nothing_panics(
        at_share in 0.0..1.0f64, value: u8, cut in any::<bool>(), in_header in any::<bool>()
    ) {
        let mut shard = sample();
        shard.checkpoint();
        let (key, image) = shard.images.iter().next().map(|(k, v)| (k.clone(), v.clone())).unwrap();
        let mut bytes = if in_header { shard.header.clone() } else { image.clone() };
        let at = (at_share * bytes.len() as f64) as usize;
        if cut { bytes.truncate(at) } else { bytes[at] = value }
        let (header, image) = if in_header { (bytes, image) } else { (shard.header.clone(), bytes) };
        if let Ok(state) = State::restore(&header, [(key, image)], Spoken::BUILD.newest) {
            state.query(&Query::ListActiveViews(account("a")), super::at(0));
        }
    }

    #[test]
    fn any_bytes_are_a_command_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), at: u8, value: u8) {
        let _ = Envelope::from_bytes(&bytes);
        for command in all_commands() {
            let mut bytes = Envelope::plain(command).to_bytes();
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
            if let Ok(envelope) = Envelope::from_bytes(&bytes) {
                let mut shard = sample();
                if !matches!(shard.state.missing(super::at(0), &envelope), Err(Stop::NotUnderstood(_))) {
                    shard.apply(super::at(0), &envelope);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_row_or_a_stop(bytes in prop::collection::vec(any::<u8>(), 0..100), which in 0..8usize) {
        let mut shard = sample();
        shard.stop(at(MINUTE), "v1", 12 * MINUTE);
        shard.checkpoint();
        shard.state.evict(0);
        let key = shard.store.keys().nth(which % shard.store.len()).unwrap().clone();
        let mut value = vec![1];
        value.extend(bytes);
        shard.state.admit(shard.state.fence(), RowKey::from_bytes(&key), Some(&value));
        let envelope = Envelope::plain(Command::Account(account("a"), AccountCommand::StartView(start("v2", "tv", film("heat")))));
        for _ in 0..4 {
            match shard.state.missing(at(2 * MINUTE), &envelope) {
                Ok(Some(missing)) => shard.admit(missing),
                _ => break,
            }
        }
        let _ = shard.state.apply(at(2 * MINUTE), &envelope);
    }
}
