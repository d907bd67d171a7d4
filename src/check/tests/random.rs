//! Histories by chance: those that the real state machine gives are right, and a lie in them is found.

use proptest::prelude::*;

use super::made::{Chances, Maker};
use super::*;
use crate::time::testing::tries;

fn chances() -> impl Strategy<Value = Chances> {
    (0..10u64, 10..60u64, 0..12u64, any::<bool>()).prop_map(|(unknown, reads, wide_ms, revisions)| Chances {
        unknown,
        reads,
        wide_ms,
        revisions,
        accepted: 0,
    })
}

/// The verdict after not too long.
fn quick(ops: &[Op]) -> Verdict {
    let bounds = Bounds { steps_max: 20_000, ..Bounds::default() };
    check_account(&Rules::default(), &name("a"), ops, &bounds)
}

/// A right history, and a strong read of it that is replaced by what `lie` makes of it; none where there is no such read.
fn spoiled(seed: u64, chances: Chances, lie: impl Fn(&Seen) -> Option<Seen>) -> Option<Vec<Op>> {
    let mut ops = Maker::new(seed, chances).run(60);
    let lies: Vec<(usize, Seen)> = ops
        .iter()
        .enumerate()
        .filter_map(|(at, op)| match &op.what {
            What::Read { mode: Mode::Strong, seen, .. } => Some((at, lie(seen)?)),
            _ => None,
        })
        .collect();
    let (at, lie) = lies.get(usize::try_from(seed).unwrap_or(0) % lies.len().max(1))?.clone();
    if let What::Read { seen, .. } = &mut ops[at].what {
        *seen = lie;
    }
    Some(ops)
}

fn of_active(seen: &Seen, lie: impl Fn(&mut Vec<SeenView>) -> bool) -> Option<Seen> {
    let Seen::Active(views) = seen else { return None };
    let mut views = views.clone();
    lie(&mut views).then_some(Seen::Active(views))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: tries(24), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_state_machine_answers_is_right(seed in any::<u64>(), chances in chances(), ops in 1..120usize) {
        let ops = Maker::new(seed, chances).run(ops);
        let verdict = quick(&ops);
        // Many unknown writes at once may be too much; that is said, and is no mistake.
        let few = chances.unknown < 5 || ops.len() < 40;
        if let Verdict::Wrong(story) = &verdict {
            prop_assert!(false, "{story}");
        }
        prop_assert!(!few || verdict == Verdict::Right, "{verdict:?}");
    }

    #[test]
    fn what_the_state_machine_makes_of_what_was_handed_off_is_right(
        seed in any::<u64>(),
        chances in chances(),
        accepted in 1..60u64,
        ops in 1..100usize,
    ) {
        let ops = Maker::new(seed, Chances { unknown: 0, accepted, ..chances }).run(ops);
        if let Verdict::Wrong(story) = quick(&ops) {
            prop_assert!(false, "{story}");
        }
    }

    #[test]
    fn a_position_that_was_never_told_is_found(seed in any::<u64>(), chances in chances()) {
        let lie = |seen: &Seen| of_active(seen, |views| match views.last_mut() {
            Some(view) => { view.position_ms = Some(123_456_789); true }
            None => false,
        });
        if let Some(ops) = spoiled(seed, chances, lie) {
            prop_assert!(quick(&ops) != Verdict::Right);
        }
    }

    #[test]
    fn a_play_that_is_missing_from_the_history_is_found(seed in any::<u64>(), chances in chances()) {
        let chances = Chances { unknown: 0, ..chances };
        let mut ops = Maker::new(seed, chances).run(60);
        let last = ops.iter_mut().rev().find_map(|op| match &mut op.what {
            What::Read { mode: Mode::Strong, seen: Seen::Ended(views), .. } => Some(views),
            _ => None,
        });
        let views = last.unwrap();
        // Views that run may be missing; of all others none.
        let all = views.clone();
        views.clear();
        prop_assert!(all.len() <= 6 || quick(&ops) != Verdict::Right);
    }

    #[test]
    fn a_view_that_nobody_started_and_one_that_is_missing_are_found(seed in any::<u64>(), chances in chances()) {
        let chances = Chances { unknown: 0, ..chances };
        let invent = |seen: &Seen| of_active(seen, |views| {
            views.push(seen_view("v999", "d9", 1, 1));
            true
        });
        if let Some(ops) = spoiled(seed, chances, invent) {
            prop_assert!(quick(&ops) != Verdict::Right);
        }
        // At the end nothing is under way any more.
        let mut ops = Maker::new(seed, chances).run(60);
        let last = ops.iter_mut().rev().find_map(|op| match &mut op.what {
            What::Read { mode: Mode::Strong, seen: Seen::Active(views), .. } => Some(views.pop()),
            _ => None,
        });
        if last.flatten().is_some() {
            prop_assert!(quick(&ops) != Verdict::Right);
        }
    }

    #[test]
    fn a_lost_write_is_found_by_what_was_read_after_it(seed in any::<u64>(), chances in chances()) {
        // The last report of a view that still runs is acknowledged, and gone.
        let chances = Chances { unknown: 0, ..chances };
        let mut ops = Maker::new(seed, chances).run(80);
        let running = ops.iter().rev().find_map(|op| match &op.what {
            What::Read { mode: Mode::Strong, seen: Seen::Active(views), .. } => {
                Some(views.iter().find(|v| v.sequence > 1).cloned())
            }
            _ => None,
        });
        let Some(running) = running.flatten() else { return Ok(()) };
        for op in &mut ops {
            if let What::Read { mode: Mode::Strong, seen: Seen::Active(views), .. } = &mut op.what
                && op.invoked_us > 10_000_000
            {
                for view in views.iter_mut().filter(|view| view.view == running.view) {
                    (view.sequence, view.position_ms) = (running.sequence - 1, Some((running.sequence - 1) * 1000));
                    view.watched_ms = view.watched_ms.map(|ms| ms.saturating_sub(100));
                }
            }
        }
        prop_assert!(quick(&ops) != Verdict::Right);
    }
}

#[test]
fn ten_thousand_operations_of_many_accounts_are_all_decided() {
    let chances = Chances { unknown: 2, reads: 30, wide_ms: 20, revisions: true, accepted: 0 };
    let mut history = History::new(Rules::default());
    for account in 0..100u64 {
        for op in Maker::new(account, chances).run(90) {
            history.note(format!("a{account}"), op);
        }
    }
    assert!(history.len() >= 10_000);
    let report = check(&history, &Bounds::default());
    assert!(report.is_right(), "{report}");
    assert_eq!(report.counts.accounts, 100);
}

#[test]
fn a_long_history_of_one_account_is_decided_too() {
    for revisions in [true, false] {
        let chances = Chances { unknown: 0, reads: 30, wide_ms: 10, revisions, accepted: 0 };
        let ops = Maker::new(7, chances).run(1_000);
        assert_eq!(check_account(&Rules::default(), &name("a"), &ops, &Bounds::default()), Verdict::Right);
    }
}
