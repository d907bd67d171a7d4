//! How much of a leader one account may have: a bucket for each account that has lately sent something.
//!
//! A bucket that is full says the same as none, so only as many are kept as there are places; who finds all places of its row taken by
//! accounts that have used more of theirs takes that of the one which has used least. So a greedy account keeps its bucket, and
//! nobody is refused for another's sake.
//!
//! The bound may change at any time: no bucket counts as used by more than it holds by the bound of now.

use parking_lot::Mutex;

use super::Priority;
use crate::time::MonotonicMs;

/// Rows of places.
const ROWS: usize = 1024;
/// Places of a row.
const WAYS: usize = 4;
/// How long a whole bucket lasts at the bound, in milliseconds.
const BURST_MS: u64 = 2_000;
/// Nobody takes as long from looking at the clock to its account's bucket, in milliseconds.
const RACE_MS_MAX: u32 = 60_000;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// The account's hash; 0: nobody's.
    account: u64,
    /// Thousandths of a command that it has used of its bucket.
    used: u32,
    /// When that was, of the process's stopwatch.
    at_ms: u32,
}

/// The accounts of one leader.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    rows: Mutex<Vec<[Bucket; WAYS]>>,
}

impl Accounts {
    /// Whether each of these may be taken in, as a mask; `None`: all of them. Each account may send so many commands a second, any number
    /// where that is 0. Those without an account always may.
    pub(crate) fn admit(
        &self,
        per_second: u32,
        now: MonotonicMs,
        commands: impl ExactSizeIterator<Item = (Option<u64>, Priority)>,
    ) -> Option<Vec<bool>> {
        if per_second == 0 {
            return None;
        }
        // Thousandths of all that a bucket holds have to fit into 32 bits.
        let per_second = u64::from(per_second).min(1_000_000);
        let count = commands.len();
        let mut rows = self.rows.lock();
        if rows.is_empty() {
            rows.resize(ROWS, Default::default());
        }
        let mut refused: Option<Vec<bool>> = None;
        for (at, (account, priority)) in commands.enumerate() {
            let Some(account) = account else { continue };
            let row = &mut rows[account as usize % ROWS];
            if !admit_one(row, per_second, account.max(1), now, priority) {
                refused.get_or_insert_with(|| vec![true; count])[at] = false;
            }
        }
        refused
    }
}

fn admit_one(row: &mut [Bucket; WAYS], per_second: u64, account: u64, now: MonotonicMs, priority: Priority) -> bool {
    let now_ms = now.0 as u32;
    let holds = per_second * BURST_MS;
    let since = |bucket: &Bucket| match bucket.at_ms.wrapping_sub(now_ms) {
        // Whoever looked at the clock later has come first.
        0..=RACE_MS_MAX => 0,
        _ => u64::from(now_ms.wrapping_sub(bucket.at_ms)),
    };
    let used = |bucket: &Bucket| {
        // What was used by the bound of then keeps nobody waiting for longer than a bucket lasts now.
        u64::from(bucket.used).min(holds).saturating_sub(since(bucket) * per_second)
    };
    let own = row.iter().position(|bucket| bucket.account == account);
    let at = own.unwrap_or_else(|| {
        let least = row.iter().enumerate().min_by_key(|(_, bucket)| used(bucket));
        least.map_or(0, |(at, _)| at)
    });
    let bucket = &mut row[at];
    let before = if own.is_some() { used(bucket) } else { 0 };
    // An eighth is kept for what makes an end of something.
    let most = if priority <= Priority::Prompt { holds } else { holds - holds / 8 };
    let fits = before + 1_000 <= most.max(1_000);
    let after = if fits { before + 1_000 } else { before };
    let at_ms = if own.is_some() && since(bucket) == 0 { bucket.at_ms } else { now_ms };
    *bucket = Bucket { account, used: u32::try_from(after).unwrap_or(u32::MAX), at_ms };
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accounts with a bound, commands a second.
    struct Bounded(u32, Accounts);

    impl Bounded {
        fn new(per_second: u32) -> Self {
            Self(per_second, Accounts::default())
        }
    }

    fn taken(
        Bounded(per_second, accounts): &Bounded,
        now: u64,
        account: u64,
        count: usize,
        priority: Priority,
    ) -> usize {
        let commands = vec![(Some(account), priority); count];
        let mask = accounts.admit(*per_second, MonotonicMs(now), commands.into_iter());
        mask.map_or(count, |mask| mask.iter().filter(|taken| **taken).count())
    }

    #[test]
    fn a_greedy_account_is_refused_and_nobody_else() {
        let accounts = Bounded::new(100);
        assert_eq!(taken(&accounts, 0, 7, 1_000, Priority::Report), 175, "two seconds' worth, less an eighth");
        assert_eq!(taken(&accounts, 0, 7, 1_000, Priority::Prompt), 25, "the eighth is for stops and starts");
        assert_eq!(taken(&accounts, 0, 7 + ROWS as u64, 100, Priority::Report), 100, "its neighbour in the table");
        assert_eq!(
            taken(&accounts, 1_000, 7, 1_000, Priority::Report),
            75,
            "what a second gives back, beyond the eighth"
        );
        assert_eq!(taken(&accounts, 60_000, 7, 1_000, Priority::Report), 175);
        assert!(
            Accounts::default()
                .admit(0, MonotonicMs(0), vec![(Some(1), Priority::Report); 9_999].into_iter())
                .is_none()
        );
    }

    #[test]
    fn the_table_never_grows_and_who_has_no_place_in_it_is_not_refused() {
        let accounts = Bounded::new(10);
        let greedy = 5;
        assert_eq!(taken(&accounts, 0, greedy, 100, Priority::Prompt), 20);
        for other in 1..100 {
            assert_eq!(taken(&accounts, 1, greedy + other * ROWS as u64, 1, Priority::Report), 1);
        }
        assert_eq!(accounts.1.rows.lock().len(), ROWS);
        assert_eq!(taken(&accounts, 2, greedy, 100, Priority::Prompt), 0, "the greedy one was not forgotten");
    }

    #[test]
    fn another_bound_holds_at_once_and_nobody_is_kept_waiting_by_the_one_before() {
        let mut accounts = Bounded::new(1_000_000);
        assert_eq!(taken(&accounts, 0, 7, 2_000_000, Priority::Prompt), 2_000_000);
        accounts.0 = 100;
        assert_eq!(taken(&accounts, 0, 7, 1_000, Priority::Prompt), 0, "its bucket is used");
        assert_eq!(taken(&accounts, 1_000, 7, 1_000, Priority::Prompt), 100);
        accounts.0 = 1_000;
        assert_eq!(taken(&accounts, 1_000, 7, 10_000, Priority::Prompt), 1_800, "what it has used counts");
        accounts.0 = 0;
        assert_eq!(taken(&accounts, 1_000, 7, 10_000, Priority::Prompt), 10_000);
        accounts.0 = 1;
        assert_eq!(taken(&accounts, 1_000, 7, 9, Priority::Prompt), 0);
        assert_eq!(taken(&accounts, 3_000, 7, 9, Priority::Prompt), 2);
    }

    #[test]
    fn who_looked_at_the_clock_earlier_and_comes_later_is_given_nothing_back() {
        let accounts = Bounded::new(100);
        assert_eq!(taken(&accounts, 1_000, 7, 1_000, Priority::Prompt), 200);
        assert_eq!(taken(&accounts, 999, 7, 1_000, Priority::Prompt), 0);
        assert_eq!(taken(&accounts, 1_010, 7, 1_000, Priority::Prompt), 1, "the clock has not gone back");
        // A month on, of which milliseconds in 32 bits tell no past from future.
        assert_eq!(taken(&accounts, 3_000_000_000, 7, 1_000, Priority::Prompt), 200);
    }
}
