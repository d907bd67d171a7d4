//! How fast this node copies: buckets of tokens for all copies together, which fill more slowly while the node's groups get late.
//!
//! What copies may take is set for a machine that has nothing better to do. Members come first: the buckets are filled from the thread of
//! all groups, and how late it comes to that is how late everything comes to it that members wait for. While it is late the rate falls
//! by a part, again and again, and while it isn't it rises by a step (as senders on a network share a line: Chiu and Jain, "Analysis of
//! the increase and decrease algorithms for congestion avoidance", 1989). It never falls below a part of what is set: copies are what
//! keeps data safe, they have to end.
//!
//! What is set may change at any time ([`Pace::set`]), also for who waits already: whoever waits gets what it lacks as fast as buckets
//! are filled then, and no bucket ever has more than a burst of the rate that is set.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::MissedTickBehavior;

use crate::telemetry::Metrics;
use crate::threads::Turns;

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

/// Pieces of snapshots are what may be copied in such a part of a second.
const PIECES: u64 = 32;
/// They are not made smaller than that, in bytes: each is a message.
const PIECE_BYTES: usize = 128 << 10;

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
/// Copies are under way until nothing was copied for so many turns: ten seconds, as they come one after the other with steps between them.
const LULL: u32 = 10 * TURNS as u32;
/// One turn is so much of the average: it looks back over about a quarter of a second.
const WEIGHT: u32 = 12;

/// What somebody who waits still lacks.
#[derive(Debug)]
struct Debt {
    tokens: usize,
    paid: oneshot::Sender<()>,
}

/// One direction's tokens, and who waits for some.
#[derive(Debug)]
struct Level {
    /// Those that nobody has asked for: at most `most`, and none while somebody waits.
    tokens: usize,
    most: usize,
    /// Who waits, the longest first: as many as there are places for snapshots, pieces that come and one message of entries, and whoever of
    /// them has stopped waiting since the last turn or behind one who waits.
    debts: VecDeque<Debt>,
    /// Somebody has asked since it was last told.
    asked: bool,
}

impl Level {
    /// Takes so many tokens. Where there are not as many they are owed: told when all of them have come.
    fn take(&mut self, tokens: usize) -> Option<oneshot::Receiver<()>> {
        self.asked = true;
        let here = if self.debts.is_empty() { tokens.min(self.tokens) } else { 0 };
        self.tokens -= here;
        if here == tokens {
            return None;
        }
        let (paid, told) = oneshot::channel();
        self.debts.push_back(Debt { tokens: tokens - here, paid });
        Some(told)
    }

    /// More tokens have come: for who waits first, then for the next; what is left is kept. Who has stopped waiting gets nothing more, and
    /// gives nothing back: its bytes may go without the rest, and what came back in one go would be a burst for the next.
    fn fill(&mut self, tokens: usize) {
        let mut left = self.tokens.saturating_add(tokens);
        while let Some(debt) = self.debts.front_mut() {
            if !debt.paid.is_closed() {
                let given = debt.tokens.min(left);
                (debt.tokens, left) = (debt.tokens - given, left - given);
                if debt.tokens > 0 {
                    break;
                }
            }
            if let Some(debt) = self.debts.pop_front() {
                // Who stops waiting just now needs not be told.
                let _ = debt.paid.send(());
            }
        }
        self.tokens = left.min(self.most);
    }

    /// It holds so many from now on.
    fn hold(&mut self, most: usize) {
        (self.most, self.tokens) = (most, self.tokens.min(most));
    }
}

/// One direction's tokens. Who waits first is served first, also where nobody looks whether it was.
#[derive(Debug)]
struct Bucket(Mutex<Level>);

impl Bucket {
    fn new(most: usize) -> Self {
        Self(Mutex::new(Level { tokens: most, most, debts: VecDeque::new(), asked: false }))
    }

    /// Waits for the tokens of so many bytes, be it more of them than the bucket holds.
    async fn take(&self, bytes: usize) {
        let waits = self.0.lock().take(bytes.div_ceil(TOKEN_BYTES));
        if let Some(paid) = waits {
            // Whoever could drop the other end lives as long as this.
            let _ = paid.await;
        }
    }

    fn fill(&self, tokens: usize) {
        self.0.lock().fill(tokens);
    }

    fn hold(&self, most: usize) {
        self.0.lock().hold(most);
    }

    /// Whether somebody has asked for some since this was last called, or waits.
    fn is_used(&self) -> bool {
        let mut level = self.0.lock();
        std::mem::take(&mut level.asked) || !level.debts.is_empty()
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

/// Since when nothing is copied, in turns.
#[derive(Debug)]
struct Lull(u32);

impl Lull {
    /// Nothing was copied since the process began.
    fn new() -> Self {
        Self(LULL)
    }

    /// Takes in whether something was copied since the last turn. Whether copies are under way.
    fn turn(&mut self, copied: bool) -> bool {
        self.0 = if copied { 0 } else { LULL.min(self.0 + 1) };
        self.0 < LULL
    }
}

/// The tokens of a turn at this rate, at least one.
fn tokens_a_turn(bytes_per_second: u64) -> usize {
    (usize::try_from(bytes_per_second / TURNS).unwrap_or(usize::MAX) / TOKEN_BYTES).max(1)
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
    each_turn: AtomicUsize,
    share: AtomicU32,
    hurry: Mutex<Hurry>,
}

impl Pace {
    /// At most so many bytes a second each way.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let each_turn = tokens_a_turn(bytes_per_second);
        let most = each_turn * BURST_TURNS;
        let (sent, taken) = (Bucket::new(most), Bucket::new(most));
        let (entries, places) = (tokio::sync::Mutex::default(), Arc::new(Semaphore::new(PLACES)));
        let (each_turn, share) = (AtomicUsize::new(each_turn), AtomicU32::new(WHOLE));
        Self { sent, taken, entries, places, each_turn, share, hurry: Mutex::default() }
    }

    /// At most so many bytes a second each way from now on, also for who waits already. Whether that is another rate than before.
    pub(crate) fn set(&self, bytes_per_second: u64) -> bool {
        let each_turn = tokens_a_turn(bytes_per_second);
        let before = self.each_turn.swap(each_turn, Ordering::Relaxed);
        for bucket in [&self.sent, &self.taken] {
            bucket.hold(each_turn * BURST_TURNS);
        }
        before != each_turn
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

    /// How many bytes of a snapshot go into one piece, where `usual` are the most: a piece keeps some thread of both nodes for as long as it
    /// takes, and members wait for that.
    pub(crate) fn piece_bytes(&self, usual: usize) -> usize {
        usize::try_from(self.whole() / PIECES).unwrap_or(usual).max(PIECE_BYTES).min(usual)
    }

    fn whole(&self) -> u64 {
        (self.each_turn.load(Ordering::Relaxed) * TOKEN_BYTES) as u64 * TURNS
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
        let whole = self.each_turn.load(Ordering::Relaxed);
        let tokens = (whole.saturating_mul(share as usize) / WHOLE as usize).max(1);
        self.sent.fill(tokens);
        self.taken.fill(tokens);
    }

    /// Fills the buckets again and again, and has turns short while copies are under way. To be run on the thread where the groups run: how
    /// late it is there is what it goes by, and that thread takes part in the turns.
    pub(crate) async fn run(self: Arc<Self>, turns_of_threads: Turns, metrics: Arc<Metrics>) {
        let (mut strain, mut lull, mut taker) = (Strain::new(self.least()), Lull::new(), turns_of_threads.taker());
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            let due = turns.tick().await;
            let hurries = self.hurry.lock().turn();
            // What is set may be another rate by now.
            strain.least = self.least();
            let (sent, taken) = (self.sent.is_used(), self.taken.is_used());
            turns_of_threads.set_short(lull.turn(sent || taken));
            taker.look();
            let share = strain.turn(due.elapsed(), hurries);
            self.fill(share);
            metrics.groups_late_seconds.set(strain.late.as_secs_f64());
            metrics.copies_bytes_per_second.set(i64::try_from(self.rate()).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests;
