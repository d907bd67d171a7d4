//! The search for an order.

use std::collections::BTreeSet;
use std::hash::Hash;

use xxhash_rust::xxh3::Xxh3;

use super::history::{Action, Mode, Names, Op, Outcome, Revision, Rules, What};
use super::model::{Around, State};

/// How much may be spent on one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Operations tried.
    pub steps_max: u64,
    /// Configurations remembered, of 16 bytes and their place in a tree each.
    pub memory_max: usize,
}

impl Default for Bounds {
    /// A few seconds and a few tens of megabytes.
    fn default() -> Self {
        Self { steps_max: 2_000_000, memory_max: 400_000 }
    }
}

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// An order.
    Order,
    /// That there is none.
    None(Stuck),
    /// Nothing within the bounds.
    TooMuch,
}

/// How far the search came.
#[derive(Clone, Debug, Default)]
pub(super) struct Stuck {
    /// The most operations that any order explained.
    pub(super) explained: usize,
    /// The account after them.
    pub(super) state: String,
    /// The operations, of those handed in, any of which would have had to be next.
    pub(super) next: Vec<usize>,
}

/// An operation with the bounds of its moment.
#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    op: &'a Op,
    /// Its place among those handed in.
    at: usize,
    from_us: u64,
    /// [`u64::MAX`]: it may never happen.
    to_us: u64,
    /// Where it stands by its revision: nothing of a higher key before it.
    key: Option<u64>,
    /// It has to wait for lower keys, too.
    exact: bool,
}

impl Item<'_> {
    fn has_to_be(&self) -> bool {
        self.to_us != u64::MAX
    }

    /// It may happen or not, and once it has happened it changes nothing any more.
    fn comes_once(&self) -> bool {
        let idempotent =
            |action: &Action| matches!(action, Action::Progress { .. } | Action::Stop { sequence: Some(_), .. });
        !self.has_to_be() && matches!(&self.op.what, What::Write(action, _) if idempotent(action))
    }

    /// It changes nothing in whatever state. (A write that changes nothing here may do so elsewhere.)
    fn is_harmless(&self) -> bool {
        matches!(self.op.what, What::Read { .. } | What::Write(_, Outcome::Refused(..)))
    }
}

fn item<'a>(rules: &Rules, at: usize, op: &'a Op) -> Option<Item<'a>> {
    let never = u64::MAX;
    let by = |revision: Option<Revision>| match revision {
        Some(Revision::Exact(n)) => (Some(2 * n), true),
        Some(Revision::By(n)) => (Some(2 * n), false),
        None => (None, false),
    };
    let (from_us, to_us, (key, exact)) = match &op.what {
        What::Write(_, Outcome::Unavailable) => return None,
        What::Write(_, Outcome::Unknown | Outcome::Accepted) => (op.invoked_us, never, (None, false)),
        What::Write(_, Outcome::Committed(_, revision) | Outcome::Refused(_, revision)) => {
            (op.invoked_us, op.returned_us, by(*revision))
        }
        What::Read { mode, info, .. } => {
            let back = |ms: u64| op.invoked_us.saturating_sub(ms.saturating_mul(1000).saturating_add(rules.slack_us));
            let by_mode = match mode {
                Mode::Strong | Mode::Lease => op.invoked_us,
                Mode::Bounded(ms) => back(*ms),
                Mode::Session(_) | Mode::Any => 0,
            };
            let from_us = by_mode.max(info.age_ms.map_or(0, back));
            (from_us, op.returned_us, (info.revision.map(|n| 2 * n + 1), true))
        }
    };
    Some(Item { op, at, from_us, to_us, key, exact })
}

/// Looks for an order of the operations of one account; what was found, and in how many steps.
pub(super) fn search(rules: &Rules, names: &Names, ops: &[&Op], bounds: &Bounds) -> (Found, u64) {
    let mut items: Vec<Item<'_>> = ops.iter().enumerate().filter_map(|(at, op)| item(rules, at, op)).collect();
    items.sort_by_key(|item| (item.from_us, item.to_us, item.at));
    let may_not_be = items.iter().any(|item| !item.has_to_be());
    // Nearly always what may happen or not needs to happen only where something else has to be explained by it.
    let bounds_of_lazy = Bounds { steps_max: bounds.steps_max / 4, ..*bounds };
    let (mut found, mut steps) = (None, 0);
    if may_not_be {
        let lazy = Search::new(rules, names, items.clone(), true).run(&bounds_of_lazy, &mut steps);
        found = matches!(lazy, Found::Order).then_some(lazy);
    }
    let found = found.unwrap_or_else(|| Search::new(rules, names, items, false).run(bounds, &mut steps));
    (found, steps)
}

struct Search<'a> {
    rules: &'a Rules,
    names: &'a Names,
    /// What may happen or not is tried only where something that has to happen can't.
    lazy: bool,
    /// By the beginning of their moments.
    items: Vec<Item<'a>>,
    /// The items that have a key, by it.
    by_key: Vec<usize>,
    /// A bit for each item.
    done: Vec<u64>,
    /// The items of which it matters, beside the state, whether they are done.
    telling: Vec<u64>,
    /// How many have still to be done.
    left: usize,
    /// Digests of configurations that were looked at.
    seen: BTreeSet<u128>,
    stuck: Stuck,
}

/// A configuration on the way, and where one can go from it.
struct Frame {
    /// Below it everything is done.
    first: usize,
    /// The same in the order of keys.
    first_key: usize,
    /// What was done to come here.
    by: Option<usize>,
    ways: Vec<(usize, State)>,
}

impl<'a> Search<'a> {
    fn new(rules: &'a Rules, names: &'a Names, items: Vec<Item<'a>>, lazy: bool) -> Self {
        let mut by_key: Vec<usize> = (0..items.len()).filter(|n| items[*n].key.is_some()).collect();
        by_key.sort_by_key(|n| items[*n].key);
        let left = items.iter().filter(|item| item.has_to_be()).count();
        let done = vec![0; items.len().div_ceil(64)];
        let mut telling = done.clone();
        let tells = items.iter().enumerate().filter(|(_, item)| !item.comes_once());
        tells.for_each(|(n, _)| telling[n / 64] |= 1 << (n % 64));
        let (seen, stuck) = Default::default();
        Self { rules, names, lazy, items, by_key, done, telling, left, seen, stuck }
    }

    fn run(&mut self, bounds: &Bounds, steps: &mut u64) -> Found {
        let mut frames = vec![self.frame(State::new(self.rules), 0, 0, None, steps)];
        while let Some(frame) = frames.last_mut() {
            if self.left == 0 {
                return Found::Order;
            }
            let Some((item, state)) = frame.ways.pop() else {
                if let Some(item) = frames.pop().and_then(|frame| frame.by) {
                    self.set(item, false);
                }
                continue;
            };
            let (first, first_key) = (frame.first, frame.first_key);
            self.set(item, true);
            if !self.seen.insert(self.digest(&state)) {
                self.set(item, false);
                continue;
            }
            if *steps >= bounds.steps_max || self.seen.len() >= bounds.memory_max {
                return Found::TooMuch;
            }
            let next = self.frame(state, first, first_key, Some(item), steps);
            frames.push(next);
        }
        Found::None(std::mem::take(&mut self.stuck))
    }

    fn is_done(&self, item: usize) -> bool {
        self.done[item / 64] & (1 << (item % 64)) != 0
    }

    fn set(&mut self, item: usize, done: bool) {
        self.done[item / 64] ^= 1 << (item % 64);
        if self.items[item].has_to_be() {
            self.left = if done { self.left - 1 } else { self.left + 1 };
        }
    }

    /// What is done, and the state: all that decides how it can go on.
    fn digest(&self, state: &State) -> u128 {
        let mut digest = Xxh3::new();
        let telling = self.done.iter().zip(&self.telling).map(|(done, telling)| done & telling);
        telling.for_each(|word| digest.update(&word.to_le_bytes()));
        state.hash(&mut digest);
        digest.digest128()
    }

    fn frame(&mut self, state: State, first: usize, first_key: usize, by: Option<usize>, steps: &mut u64) -> Frame {
        let first = (first..self.items.len()).find(|n| !self.is_done(*n)).unwrap_or(self.items.len());
        let is_open = |n: &usize| !self.is_done(self.by_key[*n]);
        let first_key = (first_key..self.by_key.len()).find(is_open).unwrap_or(self.by_key.len());
        let ways = self.ways(&state, first, first_key, steps);
        if ways.is_empty() && self.left > 0 {
            self.note_stuck(&state, first);
        }
        Frame { first, first_key, by, ways }
    }

    /// The operations that can be next, the likeliest last.
    fn ways(&self, state: &State, first: usize, first_key: usize, steps: &mut u64) -> Vec<(usize, State)> {
        let least_key = self.by_key.get(first_key).and_then(|n| self.items[*n].key);
        let (open, until_us) = self.open(first);
        let around = Around { rules: self.rules, names: self.names, until_us };
        let mut ways = Vec::new();
        let mut blocked = false;
        let (must, may): (Vec<usize>, Vec<usize>) = open.into_iter().partition(|n| self.items[*n].has_to_be());
        for n in must {
            let item = &self.items[n];
            if item.exact && item.key > least_key {
                continue;
            }
            *steps += 1;
            let states = state.after(&around, item.op);
            if item.is_harmless() && states.first() == Some(state) {
                // It fits, and changes nothing wherever it stands: so it can be first.
                return vec![(n, state.clone())];
            }
            blocked |= states.is_empty();
            ways.extend(states.into_iter().rev().map(|after| (n, after)));
        }
        if !self.lazy || blocked || ways.is_empty() {
            for n in may {
                *steps += 1;
                // What changes nothing doesn't have to happen here.
                let states = state.after(&around, self.items[n].op).into_iter().filter(|after| after != state);
                ways.extend(states.collect::<Vec<_>>().into_iter().rev().map(|after| (n, after)));
            }
        }
        ways.sort_by_key(|(n, _)| std::cmp::Reverse((self.items[*n].to_us, *n)));
        ways
    }

    /// The operations that nothing else has to precede by time, and by when the next has to be done.
    fn open(&self, first: usize) -> (Vec<usize>, u64) {
        let (mut open, mut until_us) = (Vec::new(), u64::MAX);
        for n in first..self.items.len() {
            let item = &self.items[n];
            if item.from_us > until_us {
                break;
            }
            if !self.is_done(n) {
                open.push(n);
                until_us = until_us.min(item.to_us);
            }
        }
        open.retain(|n| self.items[*n].from_us <= until_us);
        (open, until_us)
    }

    /// Notes how far the search has come, where that is further than before.
    fn note_stuck(&mut self, state: &State, first: usize) {
        let explained = self.items.len() - self.left;
        if explained > self.stuck.explained || self.stuck.next.is_empty() {
            let (open, _) = self.open(first);
            let next = open.into_iter().filter(|n| self.items[*n].has_to_be()).map(|n| self.items[n].at).collect();
            self.stuck = Stuck { explained, state: state.describe(self.names), next };
        }
    }
}
