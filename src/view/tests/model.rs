//! The real state against the plain reference, with the store playing its tricks in between, and the events folded beside.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::reference::{Reference, Seen};
use super::*;
use crate::time::testing::tries;

const ACCOUNTS: [&str; 2] = ["a", "b"];
const PROFILES: [&str; 2] = ["ann", "bob"];
const DEVICES: [&str; 3] = ["tv1", "tv2", "pad"];
const TITLES: [&str; 4] = ["film", "epis", "tiny", "free"];

#[derive(Clone, Debug)]
enum Step {
    Apply(Stamp, Box<Envelope>),
    Evict(usize),
    Freeze,
    Write,
    Thaw,
    Restart,
}

#[derive(Clone, Debug)]
struct Model {
    reference: Reference,
    now: Stamp,
    said: Option<Answer>,
}

fn media(at: usize) -> Media {
    let (title_type, duration_s, credits_s) = [
        (TitleType::Film, Some(6000), None),
        (TitleType::Episode, Some(1500), Some(1400)),
        (TitleType::Episode, Some(240), None),
        (TitleType::Other, None, None),
    ][at];
    let ms = |s: Option<u64>| s.map(|s| s * 1000);
    Media { title: title(TITLES[at]), title_type, duration_ms: ms(duration_s), credits_ms: ms(credits_s) }
}

/// A time in a title: often near a border of the rules.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![
        prop::sample::select(vec![0, 119, 120, 121, 215, 216, 1320, 1321, 1399, 1400, 5399, 5400, 179, 180]),
        (0..60u64).prop_map(|m| m * 100)
    ]
    .prop_map(|s| s * 1000)
}

fn view_id() -> impl Strategy<Value = ViewId> {
    (0..6usize).prop_map(|n| view(&format!("v{n}")))
}

fn kind() -> impl Strategy<Value = ViewKind> {
    prop_oneof![8 => Just(ViewKind::Full), 1 => Just(ViewKind::Preview), 1 => Just(ViewKind::Live), 1 => Just(ViewKind::Offline)]
}

fn played() -> impl Strategy<Value = Vec<Played>> {
    let range = (position(), 1..3000u64).prop_map(|(from_ms, len)| Played { from_ms, to_ms: from_ms + len * 1000 });
    prop::collection::vec(range, 0..3)
}

fn start_view() -> impl Strategy<Value = AccountCommand> {
    let on_limit = prop_oneof![
        3 => Just(OnLimit::Reject),
        1 => Just(OnLimit::EndOldest),
        1 => view_id().prop_map(OnLimit::EndNamed)
    ];
    let what = (0..2usize, 0..3usize, 0..4usize, kind(), prop::option::of(position()), on_limit);
    (view_id(), what).prop_map(|(view, (who, on, what, kind, position_ms, on_limit))| {
        let (profile, device, media) = (profile(PROFILES[who]), device(DEVICES[on]), media(what));
        AccountCommand::StartView(StartView { view, profile, device, media, kind, position_ms, on_limit })
    })
}

fn report_progress() -> impl Strategy<Value = AccountCommand> {
    let state =
        prop::sample::select(vec![PlayState::Playing, PlayState::Playing, PlayState::Paused, PlayState::Buffering]);
    let what =
        (view_id(), 0..30u64, prop::option::weighted(0.9, position()), state, played(), prop::bool::weighted(0.2));
    what.prop_map(|(view, sequence, position_ms, state, played, seeked)| {
        AccountCommand::ReportProgress(ReportProgress { view, sequence, position_ms, state, played, seeked })
    })
}

fn stop_view() -> impl Strategy<Value = AccountCommand> {
    let next = (view_id(), 0..4usize, prop::option::of(position())).prop_map(|(view, what, position_ms)| NextView {
        view,
        media: media(what),
        position_ms,
    });
    let told = (prop::option::of(1..30u64), prop::option::of(position()), played());
    (view_id(), told, prop::bool::weighted(0.1), prop::option::weighted(0.3, next)).prop_map(
        |(view, (sequence, position_ms, played), failed, next)| {
            AccountCommand::StopView(StopView { view, sequence, position_ms, played, failed, next })
        },
    )
}

fn import() -> impl Strategy<Value = AccountCommand> {
    let whose = (0..2usize, 0..3usize, 0..4usize, kind());
    let when = (0..40u64, 0..100u64, prop::option::of(position()), any::<bool>());
    let play = (whose, when).prop_map(|((who, on, what, kind), (start, elapsed, position_ms, knows))| ImportPlay {
        profile: profile(PROFILES[who]),
        title: title(TITLES[what]),
        title_type: media(what).title_type,
        device: device(DEVICES[on]),
        kind,
        start: WallMs(WALL - 40 * 30 * MINUTE + start * 30 * MINUTE),
        elapsed_ms: elapsed * MINUTE,
        position_ms,
        duration_ms: media(what).duration_ms.filter(|_| knows),
    });
    prop::collection::vec(play, 1..8).prop_map(|plays| AccountCommand::ImportHistory(ImportHistory { plays }))
}

fn parked() -> impl Strategy<Value = Parked> {
    let id = || prop::option::weighted(0.7, (0..8usize).prop_map(|n| request(&format!("r{n}"))));
    let age =
        || prop::sample::select(vec![0u64, 1, 10, 60, 100, 149, 150, 151, 600, 4000, 90_000]).prop_map(|s| s * 1000);
    let start = (start_view(), prop::option::of(position()), id(), age()).prop_map(
        |(start, position_ms, request_id, age_ms)| {
            let AccountCommand::StartView(start) = start else { unreachable!() };
            ParkedStart { start, position_ms, request_id, age_ms }
        },
    );
    let told =
        (report_progress(), prop::option::weighted(0.4, (prop::bool::weighted(0.2), id(), any::<bool>())), age())
            .prop_map(|(report, stop, age_ms)| {
                let AccountCommand::ReportProgress(r) = report else { unreachable!() };
                let unnumbered = stop.as_ref().is_some_and(|(.., unnumbered)| *unnumbered);
                // The command that the stop's request named.
                let command = super::stop(r.view.as_str(), r.position_ms);
                let stop = stop.map(|(failed, request_id, _)| ParkedStop {
                    failed,
                    request_id,
                    fingerprint: command.fingerprint(),
                });
                let sequence = Some(r.sequence).filter(|_| !unnumbered);
                let ReportProgress { position_ms, state, played, seeked, .. } = r;
                (r.view, ParkedTold { sequence, position_ms, state, played, seeked, age_ms, stop })
            });
    (prop::option::of(start), prop::option::weighted(0.8, told), view_id()).prop_map(|(start, told, view)| {
        let view =
            start.as_ref().map(|s| s.start.view.clone()).or(told.as_ref().map(|(v, _)| v.clone())).unwrap_or(view);
        let told = told.map(|(_, told)| ParkedTold {
            stop: told.stop.map(|stop| {
                let fingerprint = super::stop(view.as_str(), told.position_ms).fingerprint();
                ParkedStop { fingerprint, ..stop }
            }),
            ..told
        });
        Parked { view, start, told }
    })
}

fn account_command() -> impl Strategy<Value = AccountCommand> {
    prop_oneof![
        6 => start_view(),
        8 => report_progress(),
        4 => stop_view(),
        1 => (view_id(), prop::option::of(Just(device("pad"))))
            .prop_map(|(view, by)| AccountCommand::EndView(EndView { view, by })),
        2 => import(),
        3 => prop::collection::vec(parked(), 1..4).prop_map(|views| AccountCommand::HandOff(HandOff { views })),
        1 => (1..4u16).prop_map(|max_streams| AccountCommand::UpdateStreamPolicy(StreamPolicy::streams(max_streams))),
    ]
}

fn settings(version: u64) -> Settings {
    Settings { version, policy: StreamPolicy::streams(2), ..Settings::default() }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self { reference: Reference::new(settings(0)), now: at(0), said: None }).boxed()
    }

    fn transitions(model: &Self) -> BoxedStrategy<Step> {
        let now = model.now;
        let later = prop::sample::select(vec![0, 0, 10, 30, 60, 60, 60, 149, 150, 300, 301, 700, 1800, 3600, 90_000]);
        let id = prop::option::weighted(0.6, (0..8usize).prop_map(|n| request(&format!("r{n}"))));
        let issued = prop::option::weighted(0.3, 0..100_000u64);
        let command = (0..2usize, account_command(), id, issued).prop_map(move |(whose, command, id, age)| {
            let account = account(ACCOUNTS[whose]);
            let first_sent = age.map(|age| FirstSent::At(LogicalMs(now.logical.0.saturating_sub(age * 1000))));
            Envelope { request_id: id, first_sent, ..Envelope::plain(Command::Account(account, command)) }
        });
        let envelope = prop_oneof![
            20 => command,
            3 => Just(Envelope::plain(Command::Tick)),
            2 => (1..=6u32).prop_map(|version| Envelope::plain(Command::Adopt(ClusterVersion(version)))),
            1 => (0..190u8).prop_map(|by| Envelope::plain(Command::Stretch(Stretch(by)))),
            1 => (0..4u64, 20..60u64).prop_map(|(version, interval)| {
                Envelope::plain(Command::UpdateSettings(Settings { interval_ms: interval * 1000, ..settings(version) }))
            }),
        ];
        // Now and then the calendar jumps; the shard's time never does.
        let jump = prop_oneof![30 => Just(0i64), 1 => -7200..7200i64];
        prop_oneof![
            20 => (later, jump, envelope).prop_map(move |(later, jump, envelope)| {
                let logical = now.logical.plus(later * 1000);
                let wall = WallMs(now.wall.0.saturating_add_signed((later as i64 + jump) * 1000));
                Step::Apply(Stamp { logical, wall }, Box::new(envelope))
            }),
            2 => prop::sample::select(vec![0usize, 300, 2000]).prop_map(Step::Evict),
            1 => Just(Step::Freeze),
            1 => Just(Step::Write),
            1 => Just(Step::Thaw),
            1 => Just(Step::Restart),
        ]
        .boxed()
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.said = None;
        if let Step::Apply(stamp, envelope) = step {
            model.said = Some(model.reference.apply(*stamp, envelope));
            model.now = *stamp;
        }
        model
    }
}

/// What events alone give.
#[derive(Debug, Default)]
struct Fold {
    active: BTreeMap<(AccountId, ViewId), ActiveView>,
    titles: BTreeMap<(AccountId, ProfileId, TitleId), TitleState>,
    entries: BTreeMap<(AccountId, ProfileId, TitleId, DeviceId, WallMs), HistoryEntry>,
    policies: BTreeMap<AccountId, StreamPolicy>,
    settings: Option<Settings>,
}

impl Fold {
    fn take(&mut self, event: &Event) {
        let whose = event.account.clone();
        let account = || whose.clone().expect("facts about accounts name them");
        match &event.fact {
            Fact::Started { view, .. } => {
                self.active.insert((account(), view.view.clone()), view.clone());
            }
            Fact::Stopped(end) | Fact::Expired(end) | Fact::Ended(end) => {
                assert!(self.active.remove(&(account(), end.view.view.clone())).is_some());
            }
            Fact::Watched { .. } => {}
            Fact::ResumePointMoved { profile, state } => {
                self.titles.insert((account(), profile.clone(), state.title.clone()), state.clone());
            }
            Fact::EntryRemoved { profile, title, device, start } => {
                let key = (account(), profile.clone(), title.clone(), device.clone(), *start);
                assert!(self.entries.remove(&key).is_some());
            }
            Fact::EntryPut { profile, entry } => {
                let key = (account(), profile.clone(), entry.title.clone(), entry.device.clone(), entry.start);
                self.entries.insert(key, entry.clone());
            }
            Fact::PolicyChanged(policy) => {
                self.policies.insert(account(), *policy);
            }
            Fact::SettingsChanged(settings) => self.settings = Some(settings.clone()),
        }
    }

    /// Compares with what the reference says that members see.
    fn check(&self, now: LogicalMs, whose: &AccountId, who: &ProfileId, seen: &Seen) {
        let own = self.active.iter().filter(|((a, _), _)| a == whose);
        let mut active: Vec<_> =
            own.map(|(_, v)| (v.view.clone(), v.started_at, v.media.clone(), v.device.clone())).collect();
        let mut expected: Vec<_> =
            seen.active.iter().map(|v| (v.view.clone(), v.started_at, v.media.clone(), v.device.clone())).collect();
        active.sort_by_key(|v| v.0.clone());
        expected.sort_by_key(|v| v.0.clone());
        assert_eq!(active, expected);
        for state in &seen.stored_titles {
            let folded = self.titles.get(&(whose.clone(), who.clone(), state.title.clone())).cloned().map(|mut t| {
                t.alternate = t.alternate.filter(|a| now < a.until);
                t
            });
            match folded {
                Some(folded) => assert_eq!(&folded, state),
                None => assert_eq!((&state.last, state.play_count, &state.alternate), (&None, 0, &None)),
            }
        }
        let own = self.entries.iter().filter(|((a, p, ..), _)| a == whose && p == who);
        let mut history: Vec<HistoryEntry> = own.map(|(_, e)| e.clone()).collect();
        history.sort_by_key(|e| (std::cmp::Reverse(e.start), e.title.clone(), e.device.clone()));
        assert_eq!(history, seen.history);
    }
}

struct Real {
    shard: Shard,
    fold: Fold,
    revision: u64,
}

/// Refusals of invalid input are compared by field only.
fn without_texts(answer: Answer) -> Answer {
    match answer {
        Answer::Rejected(Rejection::Invalid { field, .. }) => {
            Answer::Rejected(Rejection::Invalid { field, accepted: "".into() })
        }
        other => other,
    }
}

fn paged(
    shard: &mut Shard,
    now: Stamp,
    whose: &AccountId,
    who: &ProfileId,
    title: Option<&TitleId>,
) -> Vec<HistoryEntry> {
    let (mut all, mut after) = (Vec::new(), None);
    let filter = HistoryFilter { title: title.cloned(), from: None, to: None };
    loop {
        let page = Page { items_max: 3, bytes_max: Some(200), after };
        match shard.ask(now, &Query::ListHistory(whose.clone(), who.clone(), filter.clone(), page)) {
            Reply::History { entries, next } => {
                assert!(next.is_none() || !entries.is_empty());
                all.extend(entries);
                after = next;
            }
            other => panic!("{other:?}"),
        }
        if after.is_none() {
            return all;
        }
    }
}

fn paged_row(shard: &mut Shard, now: Stamp, whose: &AccountId, who: &ProfileId) -> Vec<ContinueItem> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = Page { items_max: 1, bytes_max: None, after };
        match shard.ask(now, &Query::ListContinueWatching(whose.clone(), who.clone(), page)) {
            Reply::ContinueWatching { items, next } => {
                all.extend(items);
                after = next;
            }
            other => panic!("{other:?}"),
        }
        if after.is_none() {
            return all;
        }
    }
}

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        Self { shard: Shard::new(settings(0)), fold: Fold::default(), revision: 0 }
    }

    fn apply(mut real: Self, model: &Model, step: Step) -> Self {
        match step {
            Step::Apply(stamp, envelope) => {
                let bytes = envelope.to_bytes();
                assert_eq!(Envelope::from_bytes(&bytes).unwrap(), *envelope);
                let due = real.shard.state.next_due(stamp.logical);
                let applied = real.shard.apply(stamp, &envelope);
                real.revision += 1;
                assert_eq!(applied.revision.0, real.revision);
                if let (Command::Tick, Answer::Ticked(ticked)) = (&envelope.command, &applied.answer) {
                    let was_due = due.is_some_and(|due| due <= real.shard.state.logical());
                    assert_eq!(ticked.expired > 0, was_due, "next_due said {due:?}");
                }
                let answer: Answer = minicbor::decode(&minicbor::to_vec(&applied.answer).unwrap()).unwrap();
                assert_eq!(Some(without_texts(answer)), model.said);
                for event in &applied.events {
                    let copy: Event = minicbor::decode(&minicbor::to_vec(event).unwrap()).unwrap();
                    real.fold.take(&copy);
                }
            }
            Step::Evict(bytes) => real.shard.state.evict(bytes),
            Step::Freeze => real.shard.freeze(),
            Step::Write => real.shard.write(),
            Step::Thaw => real.shard.thaw(),
            Step::Restart => real.shard.restart(),
        }
        real
    }

    fn check_invariants(real: &Self, model: &Model) {
        let mut shard = real.shard.copy();
        let titles: Vec<TitleId> = TITLES.iter().map(|t| title(t)).collect();
        for (whose, who) in ACCOUNTS.iter().flat_map(|a| PROFILES.iter().map(|p| (account(a), profile(p)))) {
            let seen = model.reference.sees(model.now, &whose, &who, &titles);
            real.fold.check(model.reference.logical, &whose, &who, &seen);
            let now = model.now;
            assert_eq!(shard.ask(now, &Query::ListActiveViews(whose.clone())), Reply::ActiveViews(seen.active.clone()));
            let points = Query::GetResumePoints(whose.clone(), who.clone(), titles.clone());
            assert_eq!(shard.ask(now, &points), Reply::ResumePoints(seen.titles.clone()));
            assert_eq!(paged(&mut shard, now, &whose, &who, None), seen.history);
            for title in &titles {
                let of_title: Vec<_> = seen.history.iter().filter(|e| e.title == *title).cloned().collect();
                assert_eq!(paged(&mut shard, now, &whose, &who, Some(title)), of_title);
            }
            assert_eq!(paged_row(&mut shard, now, &whose, &who), seen.row);
            match shard.ask(now, &Query::GetAccount(whose.clone())) {
                Reply::Account(summary) => {
                    assert_eq!((summary.policy, &summary.profiles), (seen.policy, &seen.profiles));
                    assert_eq!(summary.active_views as usize, seen.active.len());
                    assert_eq!(summary.streams as usize, seen.active.iter().filter(|v| v.holds_stream).count());
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(real.fold.settings.clone().unwrap_or(settings(0)), model.reference.settings);
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: tries(48), max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_state_does_what_the_reference_does_whatever_is_resident(sequential 1..80 => Real);
}
