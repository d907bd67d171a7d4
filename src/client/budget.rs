//! How much a client may try again where it was refused for load: a share of what it asks, and no more.
//!
//! A cluster that refuses nine of ten has ten times too much to do, and whoever tries each refused call again adds to that. With this bound
//! all clients together never ask more than a fifth beyond what their callers ask, however long it lasts (as gRPC's retry
//! throttling does, proposal A6).

use parking_lot::Mutex;

/// Hundredths of a retry that each call or report earns.
const EARNED: u64 = 20;
/// What is there at the beginning, and at most, in hundredths: short refusals are outlasted.
const MOST: u64 = 100 * 100;

/// The retries that a client has left.
#[derive(Debug)]
pub(super) struct Budget(Mutex<u64>);

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(MOST))
    }
}

impl Budget {
    /// So many calls or reports are asked for the first time.
    pub(super) fn earn(&self, calls: usize) {
        let mut left = self.0.lock();
        *left = left.saturating_add(calls as u64 * EARNED).min(MOST);
    }

    /// Whether one may be tried again.
    pub(super) fn spend(&self) -> bool {
        let mut left = self.0.lock();
        match left.checked_sub(100) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_calls_beyond_a_reserve() {
        let budget = Budget::default();
        let spent = |budget: &Budget| std::iter::repeat_with(|| budget.spend()).take_while(|may| *may).count();
        assert_eq!(spent(&budget), 100);
        budget.earn(50);
        assert_eq!(spent(&budget), 10);
        budget.earn(1_000_000);
        assert_eq!(spent(&budget), 100, "the reserve is no more than it was");
    }
}
