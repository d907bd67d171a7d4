//! How fast this node sends snapshots: a bucket of tokens for all of them together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Tokens are for so many bytes each.
const TOKEN_BYTES: usize = 1024;
/// How often the bucket is filled up, and how often in a second.
const TURN: Duration = Duration::from_millis(20);
const TURNS: u64 = 50;
/// So many snapshots are sent at once: what is written to their shards meanwhile stays in the log, and the more share the rate the longer
/// each takes.
const PLACES: usize = 2;
/// What the bucket holds when nothing was sent for a while, in turns.
const BURST_TURNS: usize = 10;

/// The bucket. Who waits first is served first.
#[derive(Debug)]
pub(crate) struct Pace {
    tokens: Semaphore,
    places: Arc<Semaphore>,
    each_turn: usize,
    most: usize,
}

impl Pace {
    /// At most so many bytes a second.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let each_turn = usize::try_from(bytes_per_second / TURNS).unwrap_or(usize::MAX) / TOKEN_BYTES;
        let each_turn = each_turn.clamp(1, Semaphore::MAX_PERMITS / (2 * BURST_TURNS));
        let most = each_turn * BURST_TURNS;
        Self { tokens: Semaphore::new(most), places: Arc::new(Semaphore::new(PLACES)), each_turn, most }
    }

    /// Waits for a place to send a snapshot from.
    pub(crate) fn place(&self) -> impl Future<Output = Box<dyn Send>> + Send + use<> {
        let places = Arc::clone(&self.places);
        async move { Box::new(places.acquire_owned().await.ok()) as Box<dyn Send> }
    }

    /// Waits for the tokens of so many bytes, and in turns for more of them than the bucket holds.
    pub(crate) async fn take(&self, bytes: usize) {
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

    fn fill(&self) {
        let room = self.most.saturating_sub(self.tokens.available_permits());
        self.tokens.add_permits(self.each_turn.min(room));
    }

    /// Fills the bucket again and again.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        loop {
            turns.tick().await;
            self.fill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn what_is_sent_waits_for_its_tokens_and_nothing_is_saved_up_beyond_a_burst() {
        let pace = Pace::new(50 * 64 * 1024);
        assert_eq!(pace.each_turn, 64);
        assert!(pace.take(640 * 1024).now_or_never().is_some(), "a burst");
        let mut piece = std::pin::pin!(pace.take(100 * 1024));
        assert!(piece.as_mut().now_or_never().is_none());
        pace.fill();
        assert!(piece.as_mut().now_or_never().is_none());
        pace.fill();
        assert!(piece.as_mut().now_or_never().is_some());
        (0..1000).for_each(|_| pace.fill());
        assert_eq!(pace.tokens.available_permits(), pace.most);
        let large = pace.take(2 * pace.most * TOKEN_BYTES);
        let mut large = std::pin::pin!(large);
        assert!(large.as_mut().now_or_never().is_none(), "more than the bucket holds comes in turns");
        (0..BURST_TURNS).for_each(|_| pace.fill());
        assert!(large.as_mut().now_or_never().is_some());
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
    fn any_figure_makes_a_bucket() {
        for rate in [0, 1, 1 << 16, u64::MAX] {
            assert!(Pace::new(rate).take(1).now_or_never().is_some());
        }
    }
}
