//! The store of hints, over a disk that lies.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::format::{self, Record};
use super::*;
use crate::fs::{Fault, LyingFs};
use crate::ids::{DeviceId, ProfileId, TitleId};
use crate::raft::RoomLevel;
use crate::time::{MonotonicMs, WallMs};
use crate::view::{Media, OnLimit, Parked, ParkedTold, PlayState, Played, TitleType, ViewKind};

#[derive(Debug, Default)]
struct Hands {
    now: AtomicU64,
}

impl Hands {
    fn pass(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn monotonic(&self) -> MonotonicMs {
        MonotonicMs(self.now.load(Ordering::Relaxed))
    }

    fn wall(&self) -> WallMs {
        WallMs(1_000_000 + self.now.load(Ordering::Relaxed))
    }
}

fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

fn view(name: &str) -> ViewId {
    ViewId::new(name).unwrap()
}

fn report(view_id: &str, sequence: u64, position_ms: u64) -> ReportProgress {
    let played = vec![Played { from_ms: sequence * 10, to_ms: sequence * 10 + 5 }];
    let state = PlayState::Playing;
    ReportProgress { view: view(view_id), sequence, position_ms: Some(position_ms), state, played, seeked: false }
}

fn stop(view_id: &str, position_ms: u64) -> StopView {
    let (sequence, position_ms) = (None, Some(position_ms));
    StopView { view: view(view_id), sequence, position_ms, played: Vec::new(), failed: false, next: None }
}

fn start(view_id: &str) -> StartView {
    let title = TitleId::new("heat").unwrap();
    StartView {
        view: view(view_id),
        profile: ProfileId::new("ann").unwrap(),
        device: DeviceId::new("tv").unwrap(),
        media: Media { title, title_type: TitleType::Film, duration_ms: None, credits_ms: None },
        kind: ViewKind::Full,
        position_ms: None,
        on_limit: OnLimit::Reject,
    }
}

const BOUNDS: Bounds = Bounds { views: 5, bytes: 10_000, account_views: 3, keep_ms: KEEP_MS };

/// A node's hints, with a writer that goes when it is told.
struct Node {
    fs: LyingFs,
    clock: Arc<Hands>,
    room: Arc<Room>,
    hints: Hints,
    writer: Writer,
}

impl Node {
    fn on(fs: LyingFs, clock: Arc<Hands>) -> Self {
        let (room, metrics) = (Arc::new(Room::default()), Arc::new(Metrics::new()));
        let opened = Hints::open(Arc::new(fs.clone()), BOUNDS, clock.clone(), room.clone(), metrics);
        let (hints, writer) = opened.unwrap();
        Self { fs, clock, room, hints, writer }
    }

    fn new() -> Self {
        Self::on(LyingFs::new(7), Arc::default())
    }

    /// One write of everything that waits.
    fn write(&mut self) -> io::Result<()> {
        let (work, waiting) = self.writer.next();
        let done = match work {
            None => return Ok(()),
            Some(Work::Append(bodies)) => self.writer.journal.append(&bodies),
            Some(Work::Replace(bodies)) => {
                let keep_old = std::mem::take(&mut self.writer.keep_old);
                self.writer.journal.replace(&bodies, keep_old)
            }
        };
        self.writer.shared.state.lock().broken = done.is_err();
        let told = if done.is_ok() { Ok(()) } else { Err(NotKept::Unknown) };
        for tell in waiting {
            let _ = tell.send(told);
        }
        done
    }

    fn keep_report(&mut self, whose: &str, report: &ReportProgress) -> Result<bool, NotKept> {
        let said = Said::Report(report.clone());
        let (wall, now) = (self.clock.wall(), self.clock.monotonic());
        let noted = self.hints.note(Growth::Little, |book| book.said(&account(whose), &said, wall, now));
        let (is_latest, mut written) = noted?;
        let _ = self.write();
        written.try_recv().unwrap().map(|()| is_latest)
    }

    fn restart(self) -> Self {
        Self::on(self.fs, self.clock)
    }

    fn of(&self, whose: &str) -> Vec<Parked> {
        let state = self.hints.shared.state.lock();
        let all = state.book.of(&account(whose), self.clock.monotonic(), 100);
        all.into_iter().map(|(parked, _)| parked).collect()
    }

    fn told(&self, whose: &str) -> ParkedTold {
        self.of(whose).remove(0).told.unwrap()
    }
}

#[test]
fn the_bytes_on_the_disk_stay_as_they_are() {
    let parked = Parked { view: view("v"), start: None, told: None };
    let put = Record::Put { account: account("a"), at: WallMs(5), parked };
    let mut bytes = format::header(3);
    format::write(&mut bytes, 3, 0, &[format::body(&put).unwrap()]);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let (header, record) = hex.split_at(64);
    assert_eq!(header, include_str!("golden.txt").lines().next().unwrap());
    assert_eq!(record, include_str!("golden.txt").lines().nth(1).unwrap());
    assert_eq!(format::read(3, &bytes).records, [put]);
    // At another place, or in another file, it is nothing.
    assert_eq!(format::read(4, &bytes).records, []);
    bytes.splice(32..32, [0; 4]);
    assert_eq!(format::read(3, &bytes).records, []);
}

#[test]
fn what_was_answered_survives_a_restart_with_its_age_and_everything_of_it() {
    let mut node = Node::new();
    let kept = node.hints.note(Growth::Much, |book| {
        let parked = ParkedStart { start: start("v1"), position_ms: Some(9), request_id: None, age_ms: 0 };
        Ok(book.start(&account("a"), parked, WallMs(1_000_000), MonotonicMs(0))?.0)
    });
    assert!(kept.is_ok());
    node.clock.pass(1_000);
    assert_eq!(node.keep_report("a", &report("v1", 1, 500)), Ok(true));
    node.clock.pass(60_000);
    let node = node.restart();
    let parked = node.of("a").remove(0);
    let (start, told) = (parked.start.unwrap(), parked.told.unwrap());
    assert_eq!((start.position_ms, start.age_ms), (Some(9), 61_000));
    assert_eq!((told.sequence, told.position_ms, told.age_ms), (Some(1), Some(500), 60_000));
}

#[test]
fn of_each_view_the_latest_is_kept_with_the_stretches_of_those_before() {
    let mut node = Node::new();
    assert_eq!(node.keep_report("a", &report("v1", 2, 200)), Ok(true));
    assert_eq!(node.keep_report("a", &report("v1", 1, 900)), Ok(false));
    let told = node.told("a");
    assert_eq!((told.sequence, told.position_ms, told.played.len()), (Some(2), Some(200), 2));
    // One that doesn't know where it is leaves the position as it was.
    assert_eq!(node.keep_report("a", &ReportProgress { position_ms: None, ..report("v1", 3, 0) }), Ok(true));
    assert_eq!(node.keep_report("a", &report("v1", 4, 0)), Ok(true));
    let told = node.told("a");
    assert_eq!((told.sequence, told.position_ms, told.played.len()), (Some(4), Some(200), 4));
    for sequence in 5..60 {
        assert_eq!(node.keep_report("a", &report("v1", sequence, 300)), Ok(true));
    }
    assert_eq!(node.told("a").played.len(), crate::view::PLAYED_RANGES_MAX);
}

#[test]
fn a_stop_without_a_number_is_newer_than_all_reports_before_and_after() {
    let mut node = Node::new();
    node.keep_report("a", &report("v1", 2, 200)).unwrap();
    let parked = ParkedStop { failed: false, request_id: None, fingerprint: 1 };
    let said = Said::Stop(stop("v1", 300), parked);
    let noted = node.hints.note(Growth::None, |book| book.said(&account("a"), &said, WallMs(0), MonotonicMs(0)));
    assert!(noted.unwrap().0);
    assert_eq!(node.keep_report("a", &report("v1", 3, 250)), Ok(false));
    let told = node.told("a");
    assert!(told.stop.is_some() && told.position_ms == Some(300) && told.sequence.is_none());
}

#[test]
fn a_stop_stays_whatever_its_number_is_beside_those_of_the_reports() {
    for (number, position_ms) in [(1, 200), (2, 300), (3, 300)] {
        let mut node = Node::new();
        node.keep_report("a", &report("v1", 2, 200)).unwrap();
        let said = Said::Stop(
            StopView { sequence: Some(number), ..stop("v1", 300) },
            ParkedStop { failed: false, request_id: None, fingerprint: 1 },
        );
        node.hints.note(Growth::None, |book| book.said(&account("a"), &said, WallMs(0), MonotonicMs(0))).unwrap();
        let told = node.told("a");
        assert!(told.stop.is_some(), "{number}");
        assert_eq!((told.sequence, told.position_ms), (Some(number.max(2)), Some(position_ms)));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_what_is_kept_stays() {
    let mut node = Node::new();
    for at in 0..3 {
        assert_eq!(node.keep_report("a", &report(&format!("v{at}"), 1, 1)), Ok(true));
    }
    assert_eq!(node.keep_report("a", &report("v3", 1, 1)), Err(NotKept::Full), "of one account");
    assert_eq!(node.keep_report("b", &report("v1", 1, 1)), Ok(true));
    assert_eq!(node.keep_report("b", &report("v2", 1, 1)), Ok(true));
    assert_eq!(node.keep_report("c", &report("v1", 1, 1)), Err(NotKept::Full), "of the node");
    assert_eq!(node.keep_report("b", &report("v2", 2, 2)), Ok(true), "a view that is known takes no more room");
    node.room.set(RoomLevel::Scarce);
    assert_eq!(node.keep_report("b", &report("v2", 3, 3)), Err(NotKept::Full), "of the disk");
    assert_eq!(node.restart().hints.status().waiting, 5);
}

#[test]
fn a_failed_write_is_unknown_and_nothing_is_taken_before_everything_is_written_anew() {
    for fault in [Fault::Write(1), Fault::Sync(1)] {
        let mut node = Node::new();
        node.keep_report("a", &report("v1", 1, 1)).unwrap();
        node.fs.fail(fault);
        assert_eq!(node.keep_report("a", &report("v2", 1, 1)), Err(NotKept::Unknown));
        assert_eq!(node.keep_report("a", &report("v3", 1, 1)), Err(NotKept::Broken));
        assert!(node.hints.status().broken);
        node.write().unwrap();
        assert_eq!(node.keep_report("a", &report("v3", 1, 1)), Ok(true));
        node.fs.crash();
        assert_eq!(node.restart().of("a").len(), 3);
    }
}

#[test]
fn damage_is_told_kept_aside_and_costs_what_it_hit() {
    let mut node = Node::new();
    for at in 0..3 {
        node.keep_report(["a", "b", "c"][at], &report("v1", 1, 1)).unwrap();
    }
    let name = node.fs.list().unwrap().remove(0);
    let mut bytes = node.fs.content(&name).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    node.fs.kill();
    node.fs.put(&name, &bytes);
    let mut node = node.restart();
    let status = node.hints.status();
    assert_eq!((status.waiting, status.damaged), (2, 1));
    assert_eq!((node.of("a").len(), node.of("b").len(), node.of("c").len()), (1, 0, 1));
    node.keep_report("a", &report("v1", 2, 2)).unwrap();
    assert_eq!(node.fs.content("hints.damaged"), Some(bytes));
    assert_eq!(node.restart().hints.status().damaged, 0);
}

#[test]
fn what_was_handed_off_is_forgotten_unless_something_came_since() {
    let mut node = Node::new();
    node.keep_report("a", &report("v1", 1, 1)).unwrap();
    let number = node.hints.shared.state.lock().book.get(&account("a"), &view("v1")).unwrap().number;
    node.keep_report("a", &report("v1", 2, 2)).unwrap();
    assert!(!node.hints.shared.forget(&account("a"), &view("v1"), number));
    let number = node.hints.shared.state.lock().book.get(&account("a"), &view("v1")).unwrap().number;
    assert!(node.hints.shared.forget(&account("a"), &view("v1"), number));
    node.write().unwrap();
    assert_eq!(node.restart().hints.status(), HintsStatus::default());
}

#[test]
fn hints_expire_after_a_day_of_the_nodes_own_time() {
    let mut node = Node::new();
    node.keep_report("a", &report("v1", 1, 1)).unwrap();
    node.clock.pass(KEEP_MS);
    let expired = |node: &Node| node.hints.shared.state.lock().book.expired(node.clock.monotonic(), 9).len();
    assert_eq!(expired(&node), 0);
    node.clock.pass(1);
    assert_eq!(expired(&node), 1);
    assert_eq!(expired(&node.restart()), 1);
}

#[derive(Clone, Debug)]
enum Act {
    Report(usize, u64),
    Forget(usize),
    Crash,
    Kill,
    Fail(bool),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn through_crashes_nothing_that_was_answered_is_lost_and_nothing_is_invented(
        seed in any::<u64>(),
        acts in prop::collection::vec(
            prop_oneof![
                8 => (0..4usize, 1..1000u64).prop_map(|(view, n)| Act::Report(view, n)),
                2 => (0..4usize).prop_map(Act::Forget),
                1 => Just(Act::Crash),
                1 => Just(Act::Kill),
                1 => any::<bool>().prop_map(Act::Fail),
            ],
            1..60
        ),
    ) {
        let mut node = Node::on(LyingFs::new(seed), Arc::default());
        // By view: the newest that was answered, and all that was ever said.
        let mut answered: BTreeMap<usize, u64> = BTreeMap::new();
        let mut said: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Report(at, sequence) => {
                    said.entry(at).or_default().push(sequence);
                    if node.keep_report(&format!("a{at}"), &report("v", sequence, sequence)).is_ok() {
                        let newest = answered.entry(at).or_default();
                        *newest = sequence.max(*newest);
                    }
                }
                Act::Forget(at) => {
                    let whose = account(&format!("a{at}"));
                    let number = node.hints.shared.state.lock().book.get(&whose, &view("v")).map(|held| held.number);
                    if number.is_some_and(|number| node.hints.shared.forget(&whose, &view("v"), number)) {
                        answered.remove(&at);
                    }
                    let _ = node.write();
                }
                Act::Crash => {
                    node.fs.crash();
                    node = node.restart();
                }
                Act::Kill => {
                    node.fs.kill();
                    node = node.restart();
                }
                Act::Fail(write) => {
                    node.fs.fail(if write { Fault::Write(1) } else { Fault::Sync(1) });
                }
            }
            prop_assert_eq!(node.hints.status().damaged, 0);
            for at in 0..4 {
                let found = node.of(&format!("a{at}")).pop().and_then(|parked| parked.told).and_then(|told| told.sequence);
                let known = answered.get(&at).copied();
                prop_assert!(found >= known, "view {}: {:?} was answered, {:?} is there", at, known, found);
                let ever = said.get(&at).cloned().unwrap_or_default();
                prop_assert!(found.is_none_or(|found| ever.contains(&found)), "{:?} was never said", found);
            }
        }
    }
}

#[test]
fn a_start_that_is_said_again_is_answered_once_it_is_written_and_stays_as_it_was() {
    let mut node = Node::new();
    let let_in = |node: &Node, id: &str| {
        let request_id = Some(RequestId::new(id).unwrap());
        let parked = ParkedStart { start: start("v1"), position_ms: Some(9), request_id, age_ms: 0 };
        let (wall, now) = (node.clock.wall(), node.clock.monotonic());
        let mut how = None;
        let noted = node.hints.note(Growth::Much, |book| {
            let (noted, let_in) = book.start(&account("a"), parked, wall, now)?;
            how = Some(let_in);
            Ok(noted)
        });
        noted.map(|(_, written)| (how.unwrap(), written))
    };
    let ((_, repeated), mut first) = let_in(&node, "r1").unwrap();
    assert!(!repeated && first.try_recv().is_err());
    node.clock.pass(50);
    let ((kept, repeated), mut again) = let_in(&node, "r2").unwrap();
    assert!(repeated && again.try_recv().is_err(), "it is not on the disk yet");
    assert_eq!((kept.age_ms, kept.request_id), (50, Some(RequestId::new("r1").unwrap())));
    node.fs.fail(Fault::Sync(1));
    node.write().unwrap_err();
    assert_eq!((first.try_recv(), again.try_recv()), (Ok(Err(NotKept::Unknown)), Ok(Err(NotKept::Unknown))));
    assert_eq!(let_in(&node, "r1").unwrap_err(), NotKept::Broken, "and nothing is answered from memory");
    node.write().unwrap();
    let (_, mut written) = let_in(&node, "r1").unwrap();
    node.write().unwrap();
    assert_eq!(written.try_recv(), Ok(Ok(())));
    node.clock.pass(1_000);
    assert_eq!(node.restart().of("a")[0].start.as_ref().unwrap().age_ms, 1_050);
}

#[test]
fn no_start_takes_the_place_of_another_or_of_a_stop() {
    let mut node = Node::new();
    let now = MonotonicMs(0);
    let let_in = |node: &Node, start: StartView| {
        let parked = ParkedStart { start, position_ms: None, request_id: None, age_ms: 0 };
        let noted = node.hints.note(Growth::Much, |book| Ok(book.start(&account("a"), parked, WallMs(0), now)?.0));
        noted.map(drop)
    };
    let_in(&node, start("v1")).unwrap();
    let another = StartView { kind: ViewKind::Live, ..start("v1") };
    assert_eq!(let_in(&node, another), Err(NotKept::Taken));
    assert_eq!(node.of("a")[0].start.as_ref().unwrap().start, start("v1"));
    node.keep_report("a", &report("v2", 1, 5)).unwrap();
    let_in(&node, start("v2")).unwrap();
    for view in ["v1", "v3"] {
        let parked = ParkedStop { failed: false, request_id: None, fingerprint: 1 };
        let said = Said::Stop(stop(view, 300), parked);
        node.hints.note(Growth::None, |book| book.said(&account("a"), &said, WallMs(0), now)).unwrap();
        assert_eq!(let_in(&node, start(view)), Err(NotKept::Taken));
    }
}

#[test]
fn a_file_that_the_disk_does_not_give_ends_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let fs: Arc<dyn Fs> = Arc::new(crate::fs::DiskFs::open(folder.path()).unwrap());
    let name = "0000000000000001.hints";
    // Longer than any that is written; it takes no room.
    std::fs::File::create(folder.path().join(name)).unwrap().set_len((1 << 30) + 1).unwrap();
    let error = Journal::open(fs.clone()).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
    assert_eq!(fs.list().unwrap(), [name], "and is left as it is");
}

#[test]
fn a_file_is_begun_anew_before_it_is_too_long_to_be_read() {
    let fs = LyingFs::new(1);
    let (mut journal, _) = Journal::open(Arc::new(fs)).unwrap();
    journal.replace(&[], false).unwrap();
    assert!(!journal.is_due(journal::LIVE_BYTES_MAX));
    journal.lengthen(1 << 30);
    assert!(journal.is_due(journal::LIVE_BYTES_MAX));
}
