//! What openraft runs on: tokio, with the ticks of a node's groups few and together.
//!
//! Each group ticks by itself, five times in a heartbeat and at a phase that openraft draws: some tens of groups tick thousands of times a second,
//! at as many moments, to look at timers that are far longer, and hardly two heartbeats share a message, which costs two system calls
//! and a wake-up on either side. On the thread of all groups a tick waits instead for the next point of a grid, and a group has one point in a
//! heartbeat: groups with the same point tick as one, and what of their heartbeats is ready at once goes to each node in one message.
//! There are [`POINTS`] points to a heartbeat, so that the groups do not all come at once; which one is a group's goes by its tick's task, and
//! stays the same whatever holds the thread up.
//!
//! # Caveats
//!
//! [`AsyncRuntime::sleep_until`] is all that tells a tick from other waiting: in the pinned openraft only its ticks call it, and the
//! forwarder of what is on disk, which sleeps for a microsecond to take more at once. Tokio would make one to two milliseconds of that; here
//! it is none.

use std::cell::Cell;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

#[allow(
    deprecated,
    reason = "openraft still names its tokio runtime here; its own crate for it is not a dependency"
)]
use openraft::impls::TokioRuntime as Tokio;
use openraft::{AsyncRuntime, Instant as _, OptionalSend};

/// How many points of the grid there are to a heartbeat.
const POINTS: u32 = 4;
/// What is no more than this ahead is not waited for. A tick that is so near comes a moment early, and then again.
const AT_ONCE: Duration = Duration::from_micros(1);

type Instant = <Tokio as AsyncRuntime>::Instant;

#[derive(Clone, Copy, Debug)]
struct Grid {
    origin: Instant,
    heartbeat: Duration,
}

thread_local! {
    /// On threads without a grid, such as those of simulations, ticks come when openraft wants them.
    static GRID: Cell<Option<Grid>> = const { Cell::new(None) };
}

/// From now on groups on this thread tick once in `heartbeat`, many at a time; as each of them likes when that is zero.
pub(super) fn together_here(heartbeat: Duration) {
    GRID.set((!heartbeat.is_zero()).then(|| Grid { origin: Instant::now(), heartbeat }));
}

/// What openraft is to take for the time between two heartbeats, so that each tick sends one: a tick that is handled late must not make
/// the next one come too early for it, or that heartbeat would wait for the one after.
pub(super) fn due_ms(heartbeat_ms: u64) -> u64 {
    heartbeat_ms - heartbeat_ms.div_ceil(8)
}

/// The point of the task that calls this.
fn own_point() -> u32 {
    let mut hasher = DefaultHasher::new();
    tokio::task::try_id().hash(&mut hasher);
    (hasher.finish() % u64::from(POINTS)) as u32
}

impl Grid {
    /// The first time after `deadline`, or just then, that is the `own`th point of a heartbeat.
    fn next(self, own: u32, deadline: Instant) -> Instant {
        let first = self.origin + self.heartbeat / POINTS * own;
        if deadline <= first {
            return first;
        }
        let past = (deadline - first).as_nanos() % self.heartbeat.as_nanos();
        // Less than a heartbeat, which is far less than u64 can tell.
        let left = self.heartbeat - Duration::from_nanos(past as u64);
        if past == 0 { deadline } else { deadline + left }
    }

    /// When to go on, who wants to at `deadline`.
    fn wake(self, own: u32, deadline: Instant, now: Instant) -> Instant {
        // What lies long back is over at once; of what is just over tokio waits for the end of the millisecond.
        if deadline.saturating_duration_since(now) <= AT_ONCE { self.origin } else { self.next(own, deadline) }
    }
}

/// Tokio; [`AsyncRuntime::sleep_until`], by which openraft ticks, sleeps to a point of the thread's grid.
#[derive(Debug)]
pub(crate) struct Together(Tokio);

impl AsyncRuntime for Together {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Tokio as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        Tokio::sleep_until(GRID.get().map_or(deadline, |grid| grid.wake(own_point(), deadline, Instant::now())))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Tokio::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::raft::RaftThread;
    use crate::raft::types::Types;

    const HEARTBEAT: Duration = Duration::from_millis(100);

    /// The test's thread has a grid as long as this lives.
    struct OnGrid;

    impl OnGrid {
        fn new() -> Self {
            together_here(HEARTBEAT);
            Self
        }
    }

    impl Drop for OnGrid {
        fn drop(&mut self) {
            together_here(Duration::ZERO);
        }
    }

    proptest! {
        #[test]
        fn a_tick_is_late_by_less_than_a_heartbeat(ahead in 0u64..10_000_000, own in 0..POINTS, ms in 10u64..10_000) {
            let grid = Grid { origin: Instant::now(), heartbeat: Duration::from_millis(ms) };
            let deadline = grid.origin + Duration::from_micros(ahead);
            let point = grid.next(own, deadline);
            prop_assert!(point - deadline < grid.heartbeat && point >= deadline);
            let first = grid.origin + grid.heartbeat / POINTS * own;
            prop_assert_eq!((point - first).as_nanos() % grid.heartbeat.as_nanos(), 0);
        }

        /// As openraft does: the next tick is due at the next multiple of a period after the last one was handled, and sends a heartbeat
        /// when the interval is over since the last one was sent.
        #[test]
        fn a_group_sends_a_heartbeat_at_each_tick_that_is_late_by_up_to_an_eighth_of_one(
            ms in 10u64..10_000,
            own in 0..POINTS,
            phase in 0u64..1_000_000,
            late in prop::collection::vec(0.0..1.0f64, 50),
        ) {
            let grid = Grid { origin: Instant::now(), heartbeat: Duration::from_millis(ms) };
            let interval = Duration::from_millis(due_ms(ms));
            let period = Duration::from_millis((due_ms(ms) * 13 / 64).max(1));
            let phase = grid.origin + Duration::from_micros(phase);
            let mut tick = grid.next(own, phase);
            let mut due = tick;
            for late in late {
                let handled = tick + grid.heartbeat.mul_f64(late / 8.0);
                prop_assert!(handled >= due, "no heartbeat at this tick");
                due = handled + interval;
                let periods = (handled - phase).as_nanos() / period.as_nanos() + 1;
                let next = grid.next(own, phase + period * u32::try_from(periods).unwrap());
                prop_assert_eq!(next - tick, grid.heartbeat);
                tick = next;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn groups_of_different_phases_tick_at_the_same_few_moments() {
        let grid = OnGrid::new();
        let began = tokio::time::Instant::now();
        let ticks = (1..=64).map(|ahead| {
            tokio::spawn(async move {
                Together::sleep_until(Instant::now() + Duration::from_micros(300 * ahead)).await;
                (own_point(), began.elapsed().as_millis())
            })
        });
        let ticked = futures::future::join_all(ticks).await.into_iter().map(|tick| tick.unwrap());
        let moments: BTreeSet<_> = ticked.collect();
        let expected = (0..POINTS).map(|own| (own, if own == 0 { 100 } else { u128::from(own) * 25 }));
        assert_eq!(moments, expected.collect(), "64 ticks, and each point has some");
        drop(grid);
        let before = tokio::time::Instant::now();
        Together::sleep_until(Instant::now() + Duration::from_millis(7)).await;
        assert_eq!(before.elapsed(), Duration::from_millis(7), "without a grid it is as long as was wanted");
    }

    #[tokio::test(start_paused = true)]
    async fn a_microsecond_is_not_waited_for() {
        let _grid = OnGrid::new();
        tokio::time::sleep(Duration::from_millis(30)).await;
        let before = tokio::time::Instant::now();
        Together::sleep_until(Instant::now() + Duration::from_micros(1)).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn all_groups_of_a_node_run_on_a_grid() {
        fn runs_on<T: openraft::RaftTypeConfig<AsyncRuntime = R>, R: AsyncRuntime>() {}
        runs_on::<Types, Together>();
        for heartbeat in [HEARTBEAT, Duration::ZERO] {
            let thread = RaftThread::spawn("groups", heartbeat).unwrap();
            let grid = thread.run(async { GRID.get().map(|grid| grid.heartbeat) }).await.unwrap();
            assert_eq!(grid, (!heartbeat.is_zero()).then_some(heartbeat));
            tokio::task::spawn_blocking(move || thread.end()).await.unwrap();
        }
    }
}
