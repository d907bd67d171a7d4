//! What active views cost: memory by the allocator's live bytes, and time. Run by hand, the time in a release build:
//! `cargo test --release --test view_cost -- --ignored --nocapture`.
#![allow(unsafe_code, clippy::disallowed_methods)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use playhead::ids::{AccountId, DeviceId, ProfileId, TitleId, ViewId};
use playhead::time::{LogicalMs, Stamp, WallMs};
use playhead::view::{
    AccountCommand, Answer, Command, Envelope, Media, OnLimit, PlayState, ReportProgress, Settings, StartView, State,
    TitleType, ViewKind,
};

/// Counts the bytes that are allocated and not freed.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed to the system's allocator as it came; only sums are kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const VIEWS: usize = 100_000;
const SHARDS: usize = 8;

/// Ids of 16 (account, view), 8 (profile), 12 (device) and 16 (title) bytes.
fn account(n: usize) -> AccountId {
    AccountId::new(format!("account-{n:08}")).expect("16 bytes")
}

fn view(n: usize) -> ViewId {
    ViewId::new(format!("view-id-{n:08}")).expect("16 bytes")
}

fn stamp(ms: u64) -> Stamp {
    Stamp { logical: LogicalMs(ms), wall: WallMs(1_700_000_000_000 + ms) }
}

fn start(n: usize) -> Envelope {
    let start = StartView {
        view: view(n),
        profile: ProfileId::new("profile1").expect("8 bytes"),
        device: DeviceId::new(format!("dev-{:08}", n % 1000)).expect("12 bytes"),
        media: Media {
            title: TitleId::new(format!("title-{:010}", n % 5000)).expect("16 bytes"),
            title_type: TitleType::Film,
            duration_ms: Some(6_000_000),
            credits_ms: None,
        },
        kind: ViewKind::Full,
        position_ms: None,
        on_limit: OnLimit::Reject,
    };
    Envelope::plain(Command::Account(account(n), AccountCommand::StartView(start)))
}

fn report(n: usize, sequence: u64) -> Envelope {
    let report = ReportProgress {
        view: view(n),
        sequence,
        position_ms: Some(sequence * 60_000),
        state: PlayState::Playing,
        played: Vec::new(),
        seeked: false,
    };
    Envelope::plain(Command::Account(account(n), AccountCommand::ReportProgress(report)))
}

fn apply(state: &mut State, at: u64, envelope: &Envelope) -> Answer {
    while let Some(missing) = state.missing(stamp(at), envelope).expect("rows can be read") {
        for key in missing.keys {
            state.admit(missing.fence, key, None);
        }
    }
    state.apply(stamp(at), envelope).expect("nothing is missing").answer
}

/// All written to a store, nothing of it kept in memory but the views.
fn checkpoint(state: &mut State) -> usize {
    let frozen = state.freeze().expect("no other is under way");
    let bytes = frozen.images.iter().map(|(_, image)| image.as_ref().map_or(0, |i| i.len())).sum();
    drop(frozen);
    state.thawed();
    state.evict(0);
    bytes
}

fn reports(sequence: u64) -> Vec<Vec<u8>> {
    (0..VIEWS).map(|n| report(n, sequence).to_bytes()).collect()
}

#[test]
#[ignore = "takes a while; prints figures"]
fn cost_of_active_views() {
    let empty = LIVE.load(Ordering::Relaxed);
    let mut states: Vec<State> = (0..SHARDS).map(|_| State::new(Settings::default())).collect();
    for n in 0..VIEWS {
        assert!(matches!(apply(&mut states[n % SHARDS], 0, &start(n)), Answer::Started(_)));
    }
    let _ = states.iter_mut().map(checkpoint).sum::<usize>();
    let started = LIVE.load(Ordering::Relaxed) - empty;
    for round in 1..=3 {
        for n in 0..VIEWS {
            assert!(matches!(apply(&mut states[n % SHARDS], round * 60_000, &report(n, round)), Answer::Progressed(_)));
        }
    }
    let images: usize = states.iter_mut().map(checkpoint).sum();
    let reported = LIVE.load(Ordering::Relaxed) - empty;
    println!("memory: {} B a view after its start, {} B after reports", started / VIEWS, reported / VIEWS);
    println!("images: {} B a view", images / VIEWS);
    assert!(reported / VIEWS <= 200, "the bar is 200 B a view");
    time(&mut states);
}

fn time(states: &mut [State]) {
    let decoded: Vec<Envelope> = reports(4).iter().map(|b| Envelope::from_bytes(b).expect("just encoded")).collect();
    let begun = Instant::now();
    for (n, envelope) in decoded.iter().enumerate() {
        states[n % SHARDS].apply(stamp(240_000), envelope).expect("nothing is missing");
    }
    println!("apply: {} ns a report", begun.elapsed().as_nanos() as usize / VIEWS);
    let encoded = reports(5);
    let begun = Instant::now();
    for (n, bytes) in encoded.iter().enumerate() {
        let envelope = Envelope::from_bytes(bytes).expect("just encoded");
        states[n % SHARDS].apply(stamp(300_000), &envelope).expect("nothing is missing");
    }
    println!("decode and apply: {} ns a report of {} B", begun.elapsed().as_nanos() as usize / VIEWS, encoded[0].len());
    let begun = Instant::now();
    let due: Vec<_> = states.iter_mut().map(|s| s.next_due(LogicalMs(300_000))).collect();
    println!("next_due: {} us a shard of {} views, {:?}", begun.elapsed().as_micros() / 8, VIEWS / SHARDS, due[0]);
    let begun = Instant::now();
    for state in states.iter_mut() {
        state.freeze().expect("no other is under way");
    }
    println!("freeze: {} ns a view", begun.elapsed().as_nanos() as usize / VIEWS);
}
