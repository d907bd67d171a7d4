//! Whether what clients saw can have been: histories of operations, checked account by account.
//!
//! # Contract
//!
//! A [`History`] is what callers noted: when each call was made and when it ended, what was asked, what came back. [`check`] asks
//! for every account whether there is one order of its operations, each at some moment between call and answer, in which a small
//! model of an account gives just the answers that came (Herlihy and Wing's linearizability). A write that is *unknown* may take
//! effect at any moment after its call, or never. Reads are operations whose moment may lie further back, as their mode allows:
//!
//! | mode | the moment that it shows |
//! |---|---|
//! | `STRONG`, `LEASE` | between call and answer |
//! | `SESSION(revision)` | any up to the answer; not before that revision |
//! | `BOUNDED(ms)` | not longer before the call than that, and the slack of [`Rules::slack_us`] |
//! | `ANY` | any up to the answer |
//!
//! Whatever the mode: an answer that says how old it is ([`Info::age_ms`]) may not be older, and revisions, where they are told,
//! are in the order in which the writes took effect. *Accepted* writes (hints) are counted apart, and may take effect or not, at any
//! moment after their call: on a view that runs, on one that has ended since, or, of a start, as a *degraded* view, which may be
//! ended at once. Whether they have taken effect is for whoever reads the end of the history to say.
//! The verdict of an account is right, wrong with a [`Story`], or *gave up* when a bound of [`Bounds`] was met. Gave up is not
//! right.
//!
//! # How
//!
//! The search is Wing and Gong's (*Testing and verifying concurrent objects*, 1993) with Lowe's memory of configurations
//! (*Testing for linearizability*, 2017): what is done, with the state it gave, is looked at once. Accounts are independent, so
//! each is searched by itself. Reads and refusals that fit change nothing and are taken as soon as they may be; revisions say in
//! which order most writes went; so the search branches nearly only where outcomes are unknown.
//!
//! The model is one of its own and not [`crate::view`]: a mistake there shows here, its states are small enough to be kept by the
//! hundred thousand, and no logical time has to be guessed. It has what clients are promised: which views are active, with
//! device, sequence, position and played time, in the order of their starts; where titles were left; the history; the limit.
//!
//! # Invariants
//!
//! - A history in which a right cluster could have given the answers is never called wrong.
//! - Nothing is called right that was not searched to its end.
//!
//! # Caveats
//!
//! - Not modelled: previews, pauses long enough to give the stream away, next titles of stops, imports, policies of device classes,
//!   request ids used twice for different things. A history may not have them.
//! - Two devices that report on one title of one profile within a millisecond: the cluster's tie is not the model's.
//! - A view that was silent for [`Rules::silence_us`], and a view that was admitted in a degraded way, may end at any moment.
//! - That an account was never lost as a whole shows only in reads: histories have to end with strong ones.

mod history;
mod model;
mod promises;
mod search;
mod story;

pub use history::{
    Action, Answer, History, Info, Mode, Name, OnLimit, Op, Outcome, Refusal, Revision, Rules, Seen, SeenView, What,
};
pub use search::Bounds;
pub use story::Story;

use std::fmt;

use history::{Counts, Names};

/// What came of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Right,
    /// There is none.
    Wrong(Box<Story>),
    /// It was not found out within the bounds.
    GaveUp {
        /// How many steps were made.
        steps: u64,
    },
}

/// What came of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How much there was of what.
    pub counts: Counts,
    /// The accounts that are wrong, each with what is wrong.
    pub wrong: Vec<Story>,
    /// The accounts of which nothing was found out.
    pub gave_up: Vec<Name>,
}

impl Report {
    /// Everything was found out, and is right.
    pub fn is_right(&self) -> bool {
        self.wrong.is_empty() && self.gave_up.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.counts)?;
        for story in &self.wrong {
            writeln!(f, "{story}")?;
        }
        if !self.gave_up.is_empty() {
            let some: Vec<&str> = self.gave_up.iter().take(8).map(|name| &**name).collect();
            writeln!(f, "GAVE UP on {} accounts, which says nothing of them: {}", self.gave_up.len(), some.join(", "))?;
        }
        Ok(())
    }
}

/// Checks all accounts of a history.
pub fn check(history: &History, bounds: &Bounds) -> Report {
    let mut report = Report::default();
    for (account, ops) in history.accounts() {
        report.counts.note(ops);
        match check_account(history.rules(), account, ops, bounds) {
            Verdict::Right => {}
            Verdict::Wrong(story) => report.wrong.push(*story),
            Verdict::GaveUp { .. } => report.gave_up.push(account.clone()),
        }
    }
    report
}

/// Checks the operations of one account, in any order.
pub fn check_account(rules: &Rules, account: &Name, ops: &[Op], bounds: &Bounds) -> Verdict {
    let all: Vec<&Op> = ops.iter().collect();
    if let Some(story) = promises::broken(rules, account, &all) {
        return Verdict::Wrong(Box::new(story));
    }
    match search::search(rules, &Names::of(&all), &all, bounds) {
        (search::Found::Order, _) => Verdict::Right,
        (search::Found::TooMuch, steps) => Verdict::GaveUp { steps },
        (search::Found::None(stuck), _) => Verdict::Wrong(Box::new(story::tell(rules, account, ops, bounds, stuck))),
    }
}

#[cfg(test)]
mod tests;
