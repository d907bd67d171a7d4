//! How fast this node copies: buckets of tokens for all copies together, which fill more slowly while the node's groups get late.
//!
//! What copies may take is set for a machine that has nothing better to do. Members come first: the buckets are filled from the thread of
//! all groups, and how late it comes to that is how late everything comes to it that members wait for. While it is late the rate falls
//! by a part, again and again, and while it isn't it rises by a step (as senders on a network share a line: Chiu and Jain, "Analysis of
//! the increase and decrease algorithms for congestion avoidance", 1989). It never falls below a part of what is set: copies are what
//! keeps data safe, they have to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use crate::telemetry::Metrics;

/// Tokens are for so many bytes each.
const TOKEN_BYTES: usize = 256;
/// How often the buckets are filled up, and how often in a second.
const TURN: Duration = Duration::from_millis(20);
const TURNS: u64 = 50;
/// So many snapshots are sent at once: what is written to their shards meanwhile stays in the log, and the more share the rate the longer
/// each takes.
const PLACES: usize = 2;
/// What a bucket holds when nothing was copied for a while, in turns: pieces are to go out one by one, evenly.
const BURST_TURNS: usize = 3;

/// All of the rate.
const WHOLE: u32 = 1000;
/// The least of it that copies have, however late the node is.
const LEAST: u32 = WHOLE / 8;
/// And they always have so many bytes a second, or the whole: a piece of a snapshot waits for its tokens within its deadline.
const SLOW: u64 = 256 << 10;
/// By how much it rises in a turn: from the least to the whole in about four seconds.
const STEP: u32 = 4;
/// What it falls to in a turn, of 32: to half within half a second.
const FALL: u32 = 31;
/// The node is late when its turns are, on average, later than this. Of itself a timer is up to a millisecond late.
const LATE: Duration = Duration::from_millis(2);
/// For so many turns copies are in a hurry where one was too slow: ten minutes the first time, twice as long each time after it.
const HURRY: u32 = 600 * TURNS as u32;
/// The longest hurry: eight hours.
const HURRY_MAX: u32 = 8 * 3600 * TURNS as u32;
/// Whoever was too slow within so many turns was so for the same reason: a minute.
const AT_ONCE: u32 = 60 * TURNS as u32;
/// After so many turns without a hurry the next is short again: a week, in which the largest copy has ended, or was broken off again.
const FORGOTTEN: u32 = 7 * 24 * 3600 * TURNS as u32;
/// One turn is so much of the average: it looks back over about a quarter of a second.
const WEIGHT: u32 = 12;

/// One direction's tokens. Who waits first is served first.
#[derive(Debug)]
struct Bucket {
    tokens: Semaphore,
    most: usize,
}

impl Bucket {
    fn new(most: usize) -> Self {
        Self { tokens: Semaphore::new(most), most }
    }

    /// Waits for the tokens of so many bytes, and in turns for more of them than the bucket holds.
    async fn take(&self, bytes: usize) {
        let mut left = bytes.div_ceil(TOKEN_BYTES);
        while left > 0 {
            let some = left.min(self.most);
            left -= some;
            match self.tokens.acquire_many(u32::try_from(some).unwrap_or(u32::MAX)).await {
                Ok(tokens) => tokens.forget(),
                Err(_) => return,
            }
        }
    }

    fn fill(&self, tokens: usize) {
        let room = self.most.saturating_sub(self.tokens.available_permits());
        self.tokens.add_permits(tokens.min(room));
    }
}

/// How late the node is, and what share of the rate copies have for it.
#[derive(Debug)]
struct Strain {
    late: Duration,
    share: u32,
    least: u32,
}

impl Strain {
    fn new(least: u32) -> Self {
        Self { late: Duration::ZERO, share: WHOLE, least }
    }

    /// Takes in how late a turn was; who hurries makes room for nobody.
    fn turn(&mut self, late: Duration, hurries: bool) -> u32 {
        self.late = (self.late * (WEIGHT - 1) + late) / WEIGHT;
        self.share = if self.late > LATE && !hurries { self.share * FALL / 32 } else { self.share + STEP };
        self.share = self.share.clamp(self.least, WHOLE);
        self.share
    }
}

/// How long copies make no room for anybody, as one of them was too slow.
#[derive(Debug, Default)]
struct Hurry {
    /// So many turns more.
    left: u32,
    /// How many it was the last time.
    last: u32,
    /// Turns without.
    calm: u32,
}

impl Hurry {
    /// Who is in a hurry again was not in one for long enough: what has to be copied is large.
    fn begin(&mut self) {
        if self.left == 0 || self.last - self.left > AT_ONCE {
            self.last = self.last.saturating_mul(2).clamp(HURRY, HURRY_MAX);
        }
        self.left = self.last;
    }

    /// Whether there is one in this turn.
    fn turn(&mut self) -> bool {
        if self.left > 0 {
            (self.left, self.calm) = (self.left - 1, 0);
            return true;
        }
        self.calm = self.calm.saturating_add(1);
        if self.calm >= FORGOTTEN {
            self.last = 0;
        }
        false
    }
}

/// What all copies of a node wait for: those it sends and, apart from them, those it takes in.
#[derive(Debug)]
pub(crate) struct Pace {
    sent: Bucket,
    taken: Bucket,
    /// Of those that copy by the log, one waits for tokens at a time.
    entries: tokio::sync::Mutex<()>,
    places: Arc<Semaphore>,
    /// Tokens of a turn, at the whole rate.
    each_turn: usize,
    share: AtomicU32,
    hurry: Mutex<Hurry>,
}

impl Pace {
    /// At most so many bytes a second each way.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let each_turn = usize::try_from(bytes_per_second / TURNS).unwrap_or(usize::MAX) / TOKEN_BYTES;
        let each_turn = each_turn.clamp(1, Semaphore::MAX_PERMITS / (2 * BURST_TURNS));
        let most = each_turn * BURST_TURNS;
        let (sent, taken) = (Bucket::new(most), Bucket::new(most));
        let (entries, places) = (tokio::sync::Mutex::default(), Arc::new(Semaphore::new(PLACES)));
        Self { sent, taken, entries, places, each_turn, share: AtomicU32::new(WHOLE), hurry: Mutex::default() }
    }

    /// Waits for a place to send a snapshot from.
    pub(crate) fn place(&self) -> impl Future<Output = Box<dyn Send>> + Send + use<> {
        let places = Arc::clone(&self.places);
        async move { Box::new(places.acquire_owned().await.ok()) as Box<dyn Send> }
    }

    /// Waits until so many bytes may be sent.
    pub(crate) async fn send(&self, bytes: usize) {
        self.sent.take(bytes).await;
    }

    /// Waits until so many bytes of a log may be sent.
    pub(crate) async fn send_entries(&self, bytes: usize) {
        let _one = self.entries.lock().await;
        self.sent.take(bytes).await;
    }

    /// Waits until so many bytes that have come may be put away.
    pub(crate) async fn take_in(&self, bytes: usize) {
        self.taken.take(bytes).await;
    }

    /// A copy was too slow, and begins again: none is slowed down for a while.
    pub(crate) fn hurry(&self) {
        self.hurry.lock().begin();
    }

    fn whole(&self) -> u64 {
        (self.each_turn * TOKEN_BYTES) as u64 * TURNS
    }

    /// The least share that copies have.
    fn least(&self) -> u32 {
        let slow = u128::from(SLOW) * u128::from(WHOLE) / u128::from(self.whole());
        u32::try_from(slow).unwrap_or(WHOLE).clamp(LEAST, WHOLE)
    }

    /// Bytes a second that each way has now.
    pub(crate) fn rate(&self) -> u64 {
        let now = u128::from(self.whole()) * u128::from(self.share.load(Ordering::Relaxed)) / u128::from(WHOLE);
        u64::try_from(now).unwrap_or(u64::MAX)
    }

    fn fill(&self, share: u32) {
        self.share.store(share, Ordering::Relaxed);
        let tokens = (self.each_turn.saturating_mul(share as usize) / WHOLE as usize).max(1);
        self.sent.fill(tokens);
        self.taken.fill(tokens);
    }

    /// Fills the buckets again and again. To be run where the groups run: how late it is there is what it goes by.
    pub(crate) async fn run(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut strain = Strain::new(self.least());
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            let due = turns.tick().await;
            let hurries = self.hurry.lock().turn();
            let share = strain.turn(due.elapsed(), hurries);
            self.fill(share);
            metrics.groups_late_seconds.set(strain.late.as_secs_f64());
            metrics.copies_bytes_per_second.set(i64::try_from(self.rate()).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    /// So many bytes a turn.
    const TURN_BYTES: usize = 64 * 1024;

    fn pace() -> Pace {
        Pace::new(TURNS * TURN_BYTES as u64)
    }

    #[test]
    fn what_is_copied_waits_for_its_tokens_and_nothing_is_saved_up_beyond_a_burst() {
        let pace = pace();
        assert!(pace.send(BURST_TURNS * TURN_BYTES).now_or_never().is_some(), "a burst");
        let mut piece = std::pin::pin!(pace.send(2 * TURN_BYTES));
        assert!(piece.as_mut().now_or_never().is_none());
        assert!(pace.take_in(BURST_TURNS * TURN_BYTES).now_or_never().is_some(), "the other way is not the same");
        pace.fill(WHOLE);
        assert!(piece.as_mut().now_or_never().is_none());
        pace.fill(WHOLE);
        assert!(piece.as_mut().now_or_never().is_some());
        (0..1000).for_each(|_| pace.fill(WHOLE));
        for bucket in [&pace.sent, &pace.taken] {
            assert_eq!(bucket.tokens.available_permits(), bucket.most);
        }
        let mut large = std::pin::pin!(pace.send(2 * BURST_TURNS * TURN_BYTES));
        assert!(large.as_mut().now_or_never().is_none(), "more than the bucket holds comes in turns");
        (0..BURST_TURNS).for_each(|_| pace.fill(WHOLE));
        assert!(large.as_mut().now_or_never().is_some());
    }

    #[test]
    fn half_the_share_is_half_the_rate() {
        let pace = pace();
        assert_eq!(pace.rate(), TURNS * TURN_BYTES as u64);
        pace.send(BURST_TURNS * TURN_BYTES).now_or_never().expect("a burst");
        let mut piece = std::pin::pin!(pace.send(2 * TURN_BYTES));
        let turns = (1..100).find(|_| {
            pace.fill(WHOLE / 2);
            piece.as_mut().now_or_never().is_some()
        });
        assert_eq!(turns, Some(4));
        assert_eq!(pace.rate(), TURNS * TURN_BYTES as u64 / 2);
    }

    #[test]
    fn only_so_many_snapshots_are_sent_at_once() {
        let pace = Pace::new(1);
        let places: Vec<_> = (0..PLACES).map(|_| pace.place().now_or_never().expect("a place")).collect();
        assert!(pace.place().now_or_never().is_none());
        drop(places);
        assert!(pace.place().now_or_never().is_some());
    }

    #[test]
    fn of_those_that_copy_by_the_log_one_waits_for_tokens() {
        let pace = pace();
        pace.send(BURST_TURNS * TURN_BYTES).now_or_never().expect("a burst");
        let mut first = std::pin::pin!(pace.send_entries(TURN_BYTES));
        let mut second = std::pin::pin!(pace.send_entries(TURN_BYTES));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        let mut piece = std::pin::pin!(pace.send(TURN_BYTES));
        assert!(piece.as_mut().now_or_never().is_none());
        pace.fill(WHOLE);
        assert!(first.as_mut().now_or_never().is_some());
        assert!(second.as_mut().now_or_never().is_none(), "a piece waited before it");
        pace.fill(WHOLE);
        assert!(piece.as_mut().now_or_never().is_some());
        assert!(second.as_mut().now_or_never().is_none());
        pace.fill(WHOLE);
        assert!(second.as_mut().now_or_never().is_some());
    }

    #[test]
    fn any_figure_makes_a_bucket() {
        for rate in [0, 1, 1 << 16, u64::MAX] {
            let pace = Pace::new(rate);
            assert!(pace.send(1).now_or_never().is_some());
            assert!(pace.rate() > 0);
        }
    }

    fn after(strain: &mut Strain, turns: usize, late: Duration) -> u32 {
        (0..turns).map(|_| strain.turn(late, false)).last().expect("a turn")
    }

    #[test]
    fn who_is_late_copies_less_and_never_nothing() {
        let mut strain = Strain::new(LEAST);
        assert_eq!(after(&mut strain, 1000, LATE / 2), WHOLE);
        let short = after(&mut strain, 1, 5 * LATE);
        assert_eq!(short, WHOLE, "one late turn says nothing");
        assert!(after(&mut strain, 50, 2 * LATE) < WHOLE / 2);
        assert_eq!(after(&mut strain, 500, Duration::from_secs(9)), LEAST);
        assert!(after(&mut strain, 50, Duration::ZERO) < WHOLE / 2, "it rises by and by");
        assert_eq!(after(&mut strain, 400, Duration::ZERO), WHOLE);
    }

    #[test]
    fn who_hurries_makes_room_for_nobody() {
        let mut strain = Strain::new(LEAST);
        assert_eq!(after(&mut strain, 500, Duration::from_secs(9)), LEAST);
        let share = (0..300).map(|_| strain.turn(Duration::from_secs(9), true)).last();
        assert_eq!(share, Some(WHOLE));
        assert!(after(&mut strain, 100, Duration::from_secs(9)) < WHOLE / 2, "until it has ended");
    }

    #[test]
    fn a_rate_that_is_small_already_is_not_made_smaller() {
        let least = |rate| Pace::new(rate).least();
        assert_eq!([least(65_536), least(SLOW), least(100 * SLOW)], [WHOLE, WHOLE, LEAST]);
        let half = least(2 * SLOW);
        assert!((WHOLE / 2..WHOLE * 11 / 20).contains(&half), "{half}");
    }

    #[test]
    fn who_was_too_slow_again_hurries_for_longer() {
        let lasts = |hurry: &mut Hurry| (0..).take_while(|_| hurry.turn()).count() as u32;
        let mut hurry = Hurry::default();
        assert!(!hurry.turn());
        hurry.begin();
        (0..AT_ONCE / 2).for_each(|_| assert!(hurry.turn()));
        hurry.begin();
        assert_eq!(lasts(&mut hurry), HURRY, "two at once are one");
        hurry.begin();
        assert_eq!(lasts(&mut hurry), 2 * HURRY);
        hurry.begin();
        (0..2 * AT_ONCE).for_each(|_| assert!(hurry.turn()));
        hurry.begin();
        assert_eq!(lasts(&mut hurry), 8 * HURRY, "before it was over");
        hurry.calm = FORGOTTEN - 2;
        assert!(!hurry.turn());
        hurry.begin();
        assert_eq!(lasts(&mut hurry), 16 * HURRY, "not that long ago");
        hurry.calm = FORGOTTEN - 1;
        assert!(!hurry.turn());
        hurry.begin();
        assert_eq!(lasts(&mut hurry), HURRY, "long ago");
        for _ in 0..10 {
            hurry.begin();
            lasts(&mut hurry);
        }
        assert_eq!(hurry.last, HURRY_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_follows_how_late_the_thread_is_and_not_while_there_is_a_hurry() {
        let (pace, metrics) = (Arc::new(pace()), Arc::new(Metrics::new()));
        let filling = tokio::spawn(pace.clone().run(metrics.clone()));
        let whole = pace.rate();
        let stalls = async |stalls: usize| {
            for _ in 0..stalls {
                tokio::task::yield_now().await;
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            tokio::task::yield_now().await;
        };
        stalls(100).await;
        assert_eq!(pace.rate(), whole / 8);
        assert_eq!(metrics.copies_bytes_per_second.get() as u64, whole / 8);
        assert!(metrics.groups_late_seconds.get() > 0.02);
        pace.hurry();
        stalls(100).await;
        assert_eq!(pace.rate(), whole);
        filling.abort();
    }
}
