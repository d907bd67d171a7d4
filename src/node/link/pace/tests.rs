use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// So many bytes a turn.
const TURN_BYTES: usize = 64 * 1024;
/// And a second.
const RATE: u64 = TURNS * TURN_BYTES as u64;

fn pace() -> Pace {
    Pace::new(RATE)
}

/// What both buckets hold, in bytes.
fn kept(pace: &Pace) -> [usize; 2] {
    [&pace.sent, &pace.taken].map(|bucket| bucket.0.lock().tokens * TOKEN_BYTES)
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
    assert_eq!(kept(&pace), [BURST_TURNS * TURN_BYTES; 2]);
    let mut large = std::pin::pin!(pace.send(2 * BURST_TURNS * TURN_BYTES));
    assert!(large.as_mut().now_or_never().is_none(), "more than the bucket holds comes in turns");
    (0..BURST_TURNS).for_each(|_| pace.fill(WHOLE));
    assert!(large.as_mut().now_or_never().is_some());
}

#[test]
fn half_the_share_is_half_the_rate() {
    let pace = pace();
    assert_eq!(pace.rate(), RATE);
    pace.send(BURST_TURNS * TURN_BYTES).now_or_never().expect("a burst");
    let mut piece = std::pin::pin!(pace.send(2 * TURN_BYTES));
    let turns = (1..100).find(|_| {
        pace.fill(WHOLE / 2);
        piece.as_mut().now_or_never().is_some()
    });
    assert_eq!(turns, Some(4));
    assert_eq!(pace.rate(), RATE / 2);
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
    let set = pace();
    for rate in [0, 1, 1 << 16, u64::MAX] {
        let pace = Pace::new(rate);
        set.set(rate);
        for pace in [&pace, &set] {
            assert!(pace.send(1).now_or_never().is_some());
            assert!(pace.rate() > 0);
            pace.fill(WHOLE);
        }
        assert_eq!(set.rate(), pace.rate());
    }
}

#[test]
fn a_lower_rate_holds_for_who_waits_already_and_keeps_nothing_of_the_one_before() {
    let pace = Pace::new(100 * RATE);
    let mut piece = std::pin::pin!(pace.send(301 * TURN_BYTES));
    assert!(piece.as_mut().now_or_never().is_none(), "more than the bucket holds");
    assert!(pace.set(RATE) && !pace.set(RATE));
    assert_eq!((pace.rate(), kept(&pace)), (RATE, [0, BURST_TURNS * TURN_BYTES]));
    pace.fill(WHOLE);
    assert!(piece.as_mut().now_or_never().is_some(), "it lacked a turn of the lower rate");
    (0..100).for_each(|_| pace.fill(WHOLE));
    assert_eq!(kept(&pace), [BURST_TURNS * TURN_BYTES; 2]);
}

#[test]
fn a_higher_rate_serves_who_waits_already_and_makes_no_burst() {
    let pace = pace();
    pace.send(BURST_TURNS * TURN_BYTES).now_or_never().expect("a burst");
    let mut piece = std::pin::pin!(pace.send(1000 * TURN_BYTES));
    assert!(piece.as_mut().now_or_never().is_none());
    assert!(pace.set(100 * RATE));
    assert_eq!(kept(&pace), [0, BURST_TURNS * TURN_BYTES], "it fills up by and by");
    let turns = (1..100).find(|_| {
        pace.fill(WHOLE);
        piece.as_mut().now_or_never().is_some()
    });
    assert_eq!((turns, kept(&pace)), (Some(10), [0, 300 * TURN_BYTES]));
}

#[test]
fn who_stops_waiting_after_the_rate_has_fallen_leaves_no_burst_to_the_next() {
    let pace = Pace::new(100 * RATE);
    let mut first = Box::pin(pace.send(1000 * TURN_BYTES));
    let mut second = Box::pin(pace.send(2 * TURN_BYTES));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    pace.fill(WHOLE);
    pace.set(RATE);
    drop(first);
    assert!(second.as_mut().now_or_never().is_none(), "what the first had got doesn't come back");
    pace.fill(WHOLE);
    assert!(second.as_mut().now_or_never().is_none());
    pace.fill(WHOLE);
    assert!(second.as_mut().now_or_never().is_some());
}

#[test]
fn turns_that_come_at_once_serve_one_after_the_other_though_nobody_has_looked() {
    let pace = pace();
    pace.send(BURST_TURNS * TURN_BYTES).now_or_never().expect("a burst");
    let mut waiting = [(); 4].map(|()| Box::pin(pace.send(2 * TURN_BYTES)));
    for waits in &mut waiting {
        assert!(waits.as_mut().now_or_never().is_none());
    }
    let [first, second, third, fourth] = &mut waiting;
    (0..5).for_each(|_| pace.fill(WHOLE));
    assert_eq!([&mut *third, second, first].map(|waits| waits.as_mut().now_or_never().is_some()), [false, true, true]);
    pace.fill(WHOLE);
    assert!(third.as_mut().now_or_never().is_some() && fourth.as_mut().now_or_never().is_none());
    // Served before it stopped, which gives the next nothing.
    (0..2).for_each(|_| pace.fill(WHOLE));
    drop(waiting);
    assert!(pace.send(1).now_or_never().is_none() && kept(&pace)[0] == 0);
}

#[test]
fn who_may_copy_less_copies_in_smaller_pieces() {
    let pace = Pace::new(4 << 20);
    let pieces = |rate| {
        pace.set(rate);
        pace.piece_bytes(512 << 10)
    };
    assert_eq!([4 << 20, 65_536, 64 << 20, u64::MAX].map(pieces), [128 << 10, 128 << 10, 512 << 10, 512 << 10]);
    // By whole tokens of turns.
    assert!((255 << 10..=256 << 10).contains(&pieces(8 << 20)));
    assert_eq!(pace.piece_bytes(2 << 10), 2 << 10);
}

#[test]
fn the_least_share_follows_the_rate() {
    let pace = Pace::new(100 * SLOW);
    assert_eq!(pace.least(), LEAST);
    pace.set(SLOW);
    assert_eq!(pace.least(), WHOLE);
    pace.set(100 * SLOW);
    assert_eq!(pace.least(), LEAST);
}

/// Something that happens to a pace.
#[derive(Clone, Debug)]
enum Event {
    /// Somebody waits for so many bytes.
    Send(usize),
    /// Of those who wait this one looks whether it was served.
    Look(Index),
    /// This one stops waiting.
    Stop(Index),
    /// A turn, with this share.
    Fill(u32),
    /// Another rate, in tokens a turn.
    Set(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..3_000_000usize).prop_map(Event::Send),
        4 => any::<Index>().prop_map(Event::Look),
        1 => any::<Index>().prop_map(Event::Stop),
        8 => (LEAST..=WHOLE).prop_map(Event::Fill),
        2 => prop::sample::select(vec![1usize, 5, 20, 330, 1300, 50_000]).prop_map(Event::Set),
    ]
}

proptest! {
    /// In any order: nothing is sent that no turn has filled in, no more than a burst is kept, who waits first is served first, and as
    /// soon as what it lacks has come, whoever looks when.
    #[test]
    fn whatever_the_rate_becomes_meanwhile_nobody_stalls_and_nothing_bursts(
        events in prop::collection::vec(event(), 1..200)
    ) {
        let pace = Pace::new((5 * TOKEN_BYTES) as u64 * TURNS);
        // What each who waits still lacks, in tokens; and what the bucket holds.
        let mut waiting: Vec<(BoxFuture<'_, ()>, usize)> = Vec::new();
        let (mut each_turn, mut holds) = (5usize, 5 * BURST_TURNS);
        for event in events {
            match event {
                Event::Send(bytes) => {
                    let tokens = bytes.div_ceil(TOKEN_BYTES);
                    let here = if waiting.iter().all(|(_, lacks)| *lacks == 0) { tokens.min(holds) } else { 0 };
                    holds -= here;
                    let mut sent = pace.send(bytes).boxed();
                    let served = (&mut sent).now_or_never().is_some();
                    prop_assert_eq!(served, here == tokens);
                    if !served {
                        waiting.push((sent, tokens - here));
                    }
                }
                Event::Look(_) | Event::Stop(_) if waiting.is_empty() => {}
                Event::Look(index) => {
                    let at = index.index(waiting.len());
                    let (sent, lacks) = &mut waiting[at];
                    let served = sent.now_or_never().is_some();
                    prop_assert_eq!(served, *lacks == 0);
                    if served {
                        drop(waiting.remove(at));
                    }
                }
                Event::Stop(index) => drop(waiting.remove(index.index(waiting.len()))),
                Event::Fill(share) => {
                    pace.fill(share);
                    holds += (each_turn * share as usize / WHOLE as usize).max(1);
                    for (_, lacks) in &mut waiting {
                        let given = holds.min(*lacks);
                        (*lacks, holds) = (*lacks - given, holds - given);
                    }
                    holds = holds.min(each_turn * BURST_TURNS);
                }
                Event::Set(tokens) => {
                    each_turn = tokens;
                    pace.set((tokens * TOKEN_BYTES) as u64 * TURNS);
                    holds = holds.min(each_turn * BURST_TURNS);
                }
            }
            let level = pace.sent.0.lock();
            prop_assert_eq!(level.tokens, holds);
            prop_assert!(level.tokens <= each_turn * BURST_TURNS && level.most == each_turn * BURST_TURNS);
        }
        for (sent, lacks) in waiting {
            prop_assert_eq!(sent.now_or_never().is_some(), lacks == 0);
        }
    }
}

/// Threads that wait, stop waiting and are served at once: whoever doesn't stop is served in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_at_once_are_all_served() {
    let pace = Arc::new(pace());
    let sends = |n: usize| {
        let pace = pace.clone();
        tokio::spawn(async move {
            let mut waited = 0;
            for round in 0..200 {
                let mut sent = Box::pin(pace.send((n + round) % 7 * TURN_BYTES / 2 + 1));
                if (&mut sent).now_or_never().is_none() {
                    waited += 1;
                    // Every third time it stops after one look.
                    if !(n + round).is_multiple_of(3) {
                        sent.await;
                    }
                }
            }
            waited
        })
    };
    let all = tokio::spawn(futures::future::try_join_all((0..8).map(sends)));
    let served = async {
        while !all.is_finished() {
            if !pace.sent.0.lock().debts.is_empty() {
                pace.fill(WHOLE);
            }
            tokio::task::yield_now().await;
        }
        all.await
    };
    let served = tokio::time::timeout(Duration::from_secs(120), served).await;
    let waited = served.expect("nobody is forgotten").expect("no panic").expect("no panic");
    assert!(waited.iter().all(|waited| *waited > 0), "{waited:?}");
    assert!(pace.sent.0.lock().debts.iter().all(|debt| debt.paid.is_closed()));
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
async fn another_rate_is_told_and_kept_to_by_who_waits_while_buckets_are_filled() {
    let (pace, metrics) = (Arc::new(Pace::new(SLOW)), Arc::new(Metrics::new()));
    let filling = tokio::spawn(pace.clone().run(Turns::default(), metrics.clone()));
    pace.send(BURST_TURNS * SLOW as usize / TURNS as usize).await;
    let begun = tokio::time::Instant::now();
    let waits = tokio::spawn({
        let pace = pace.clone();
        // A second of the first rate, a quarter of one of the second.
        async move { pace.send(SLOW as usize).await }
    });
    tokio::time::sleep(TURN).await;
    assert!(pace.set(4 * SLOW));
    waits.await.expect("it is sent");
    let took = begun.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_millis(400)).contains(&took), "{took:?}");
    assert_eq!(metrics.copies_bytes_per_second.get() as u64, pace.rate());
    assert!(pace.set(SLOW / 2));
    tokio::time::sleep(2 * TURN).await;
    assert_eq!(metrics.copies_bytes_per_second.get() as u64, pace.rate());
    assert!(pace.rate() <= SLOW / 2);
    filling.abort();
}

#[tokio::test(start_paused = true)]
async fn the_rate_follows_how_late_the_thread_is_and_not_while_there_is_a_hurry() {
    let (pace, metrics) = (Arc::new(pace()), Arc::new(Metrics::new()));
    let filling = tokio::spawn(pace.clone().run(Turns::default(), metrics.clone()));
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

#[tokio::test(start_paused = true)]
async fn turns_are_short_while_something_is_copied_and_for_a_while_after_it() {
    let (turns, lull) = (Turns::of_threads(), TURN * LULL);
    type Copies = fn(&Pace) -> BoxFuture<'_, ()>;
    let ways: [Copies; 3] =
        [|pace| pace.send(1).boxed(), |pace| pace.send_entries(1).boxed(), |pace| pace.take_in(1).boxed()];
    for copies in ways {
        let pace = Arc::new(pace());
        let filling = tokio::spawn(pace.clone().run(turns.clone(), Arc::new(Metrics::new())));
        tokio::time::sleep(lull).await;
        assert!(!turns.are_short(), "nothing was copied");
        pace.set(2 * RATE);
        tokio::time::sleep(2 * TURN).await;
        assert!(!turns.are_short(), "another rate is no copy");
        pace.set(RATE);
        for _ in 0..2 {
            copies(&pace).await;
            tokio::time::sleep(2 * TURN).await;
            assert!(turns.are_short());
            assert_ne!(crate::threads::are_short_here(), Some(false), "the thread that it runs on takes part");
            tokio::time::sleep(lull / 2).await;
            assert!(turns.are_short(), "more may come");
        }
        tokio::time::sleep(lull).await;
        assert!(!turns.are_short());
        assert_ne!(crate::threads::are_short_here(), Some(true));
        // Who waits has copies under way, however long.
        let mut waits = Box::pin(pace.send(100 * RATE as usize));
        assert!((&mut waits).now_or_never().is_none());
        tokio::time::sleep(2 * lull).await;
        assert!(turns.are_short());
        drop(waits);
        tokio::time::sleep(2 * lull).await;
        assert!(!turns.are_short());
        filling.abort();
    }
}
