//! Histories by hand and by chance.

mod made;
mod random;
mod stories;

use super::*;

pub(super) fn name(text: &str) -> Name {
    Name::from(text)
}

/// A write called at the first and answered at the second, in milliseconds.
pub(super) fn write(from_ms: u64, to_ms: u64, action: Action, outcome: Outcome) -> Op {
    Op { client: 1, invoked_us: from_ms * 1000, returned_us: to_ms * 1000, what: What::Write(action, outcome) }
}

pub(super) fn read(from_ms: u64, to_ms: u64, mode: Mode, seen: Seen) -> Op {
    let what = What::Read { mode, seen, info: Info::default() };
    Op { client: 2, invoked_us: from_ms * 1000, returned_us: to_ms * 1000, what }
}

pub(super) fn start(view: &str, device: &str) -> Action {
    Action::Start {
        view: name(view),
        device: name(device),
        title: name(&format!("p/{device}")),
        position_ms: Some(0),
        takes_stream: true,
        on_limit: OnLimit::Reject,
    }
}

pub(super) fn progress(view: &str, sequence: u64, position_ms: u64) -> Action {
    Action::Progress { view: name(view), sequence, position_ms: Some(position_ms), played_ms: 100 }
}

pub(super) fn stop(view: &str, position_ms: u64) -> Action {
    Action::Stop { view: name(view), sequence: None, position_ms: Some(position_ms), played_ms: 100 }
}

pub(super) fn started() -> Outcome {
    Outcome::Committed(Answer::Started { ended: Vec::new(), repeated: false, degraded: false }, None)
}

pub(super) fn applied() -> Outcome {
    Outcome::Committed(Answer::Progressed { applied: true }, None)
}

pub(super) fn done() -> Outcome {
    Outcome::Committed(Answer::Done, None)
}

/// The view of device `d` as a read sees it.
pub(super) fn seen_view(view: &str, device: &str, sequence: u64, position_ms: u64) -> SeenView {
    SeenView {
        view: name(view),
        device: name(device),
        sequence,
        position_ms: Some(position_ms),
        watched_ms: None,
        holds_stream: true,
        degraded: false,
    }
}

pub(super) fn active(views: &[(&str, &str, u64, u64)]) -> Seen {
    Seen::Active(views.iter().map(|(view, device, sequence, at)| seen_view(view, device, *sequence, *at)).collect())
}

pub(super) fn verdict(ops: &[Op]) -> Verdict {
    check_account(&Rules::default(), &name("a"), ops, &Bounds::default())
}

#[track_caller]
pub(super) fn assert_right(ops: &[Op]) {
    match verdict(ops) {
        Verdict::Right => {}
        Verdict::Wrong(story) => panic!("{story}"),
        Verdict::GaveUp { steps } => panic!("gave up after {steps} steps"),
    }
}

#[track_caller]
pub(super) fn assert_wrong(ops: &[Op]) -> Story {
    match verdict(ops) {
        Verdict::Wrong(story) => *story,
        other => panic!("{other:?}"),
    }
}
