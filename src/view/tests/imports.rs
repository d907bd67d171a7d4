//! Imports, entries, and lists of them.

use super::*;

pub(super) fn past(start_minute: u64, minutes: u64, position_ms: u64) -> ImportPlay {
    ImportPlay {
        profile: profile("ann"),
        title: title("heat"),
        title_type: TitleType::Film,
        device: device("tv"),
        kind: ViewKind::Full,
        start: WallMs(WALL - 100_000 * MINUTE + start_minute * MINUTE),
        elapsed_ms: minutes * MINUTE,
        position_ms: Some(position_ms),
        duration_ms: None,
    }
}

fn import(shard: &mut Shard, plays: &[ImportPlay]) -> Vec<ImportResult> {
    let command = AccountCommand::ImportHistory(ImportHistory { plays: plays.to_vec() });
    match shard.run(at(0), command) {
        Answer::Imported(imported) => imported.results,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_play_is_added_unchanged_kept_out_or_refused_with_its_reason() {
    let mut shard = Shard::new(Settings::default());
    let play = past(0, 10, 600_000);
    let plays = [
        play.clone(),
        play.clone(),
        ImportPlay { position_ms: Some(1), ..play.clone() },
        ImportPlay { kind: ViewKind::Preview, ..play.clone() },
        ImportPlay { duration_ms: Some(0), ..play.clone() },
        ImportPlay { position_ms: Some(u64::MAX), ..play.clone() },
        ImportPlay { elapsed_ms: u64::MAX, ..play.clone() },
        ImportPlay { start: WallMs(WALL), ..play.clone() },
        ImportPlay { start: WallMs(u64::MAX), ..play.clone() },
        ImportPlay { start: WallMs(0), position_ms: None, ..play },
    ];
    use ImportResult::*;
    let expected = [Added, Unchanged, Added, Preview, BadDuration, BadPosition, BadElapsed, InFuture, InFuture, Added];
    assert_eq!(import(&mut shard, &plays), expected);
    let again = import(&mut shard, &plays);
    assert_eq!(again.iter().filter(|r| **r == Unchanged).count(), 4);
    let history = shard.history(at(0));
    assert_eq!(history.iter().map(|e| e.plays.len()).collect::<Vec<_>>(), [2, 1]);
    let empty = AccountCommand::ImportHistory(ImportHistory { plays: Vec::new() });
    assert!(matches!(shard.reject(at(0), empty), Rejection::Invalid { .. }));
}

#[test]
fn a_play_between_two_entries_makes_them_one() {
    let mut shard = Shard::new(Settings::default());
    import(&mut shard, &[past(0, 10, 1), past(120, 10, 2)]);
    assert_eq!(shard.history(at(0)).len(), 2);
    import(&mut shard, &[ImportPlay { device: device("pad"), ..past(60, 10, 3) }]);
    assert_eq!(shard.history(at(0)).len(), 3);
    shard.restart();
    import(&mut shard, &[past(60, 10, 3)]);
    let history = shard.history(at(0));
    assert_eq!(history.iter().map(|e| e.plays.len()).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(history[1].end.since(history[1].start), 130 * MINUTE);
}

#[test]
fn the_play_that_ended_last_says_where_the_title_was_left() {
    let mut shard = Shard::new(Settings::default());
    import(&mut shard, &[past(10, 5, 300_000), past(0, 60, 2_000_000)]);
    let state = shard.title(at(0), "heat");
    assert_eq!(state.resume.map(|r| r.position_ms), Some(2_000_000));
    assert_eq!((state.watched_at, state.play_count), (None, 0));
    // With a runtime, a play can conclude it, by itself.
    let end = ImportPlay { duration_ms: Some(100 * MINUTE), ..past(200, 60, 95 * MINUTE) };
    import(&mut shard, &[ImportPlay { elapsed_ms: 49 * MINUTE, ..end.clone() }]);
    assert_eq!(shard.title(at(0), "heat").play_count, 0);
    import(&mut shard, &[end]);
    let state = shard.title(at(0), "heat");
    assert_eq!((state.resume, state.play_count), (None, 1));
    assert_eq!(state.last.unwrap().position_ms, 95 * MINUTE);
}

#[test]
fn an_entry_holds_a_thousand_plays_and_a_view_that_ends_in_a_full_one_still_counts() {
    let mut shard = Shard::new(Settings::default());
    let at_end = |n: u64| ImportPlay { start: WallMs(WALL - 1000 * MINUTE + n), ..past(0, 1, n) };
    let plays: Vec<_> = (0..1001).map(at_end).collect();
    assert!(import(&mut shard, &plays[..1000]).iter().all(|r| *r == ImportResult::Added));
    assert_eq!(import(&mut shard, &plays[1000..]), [ImportResult::EntryFull]);
    let near = ImportPlay { start: WallMs(WALL - 999 * MINUTE), ..past(0, 1000, 0) };
    assert_eq!(import(&mut shard, &[near]), [ImportResult::EntryFull]);
    shard.start(at(0), start("v1", "pad", film("heat")));
    shard.stop(at(30 * MINUTE), "v1", 30 * MINUTE);
    assert_eq!(shard.title(at(0), "heat").resume.unwrap().position_ms, 30 * MINUTE);
}

/// A title seen 700 times, two hours apart, imported in some order.
fn many(order: impl Fn(u64) -> u64) -> Shard {
    let mut shard = Shard::new(Settings::default());
    let mut plays: Vec<_> = (0..700).map(|n| past(n * 120, 10, n)).collect();
    plays.sort_by_key(|p| order(p.position_ms.unwrap()));
    for (n, plays) in plays.chunks(50).enumerate() {
        assert!(import(&mut shard, plays).iter().all(|r| *r == ImportResult::Added));
        match n % 3 {
            0 => shard.restart(),
            1 => shard.checkpoint(),
            _ => {}
        }
        shard.state.evict(0);
    }
    shard
}

fn list(shard: &mut Shard, filter: &HistoryFilter, items_max: u32) -> Vec<HistoryEntry> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = Page { items_max, bytes_max: None, after };
        match shard.ask(at(0), &Query::ListHistory(account("a"), profile("ann"), filter.clone(), page)) {
            Reply::History { entries, next } => {
                all.extend(entries);
                after = next;
            }
            other => panic!("{other:?}"),
        }
        if after.is_none() {
            return all;
        }
    }
}

#[test]
fn a_title_seen_very_often_has_its_directory_in_pages_and_answers_the_same_in_any_order() {
    let newest_first = |n: u64| u64::MAX - n;
    let scattered = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut shards = [many(|n| n), many(newest_first), many(scattered)];
    let everything = HistoryFilter::default();
    let of_title = HistoryFilter { title: Some(title("heat")), ..HistoryFilter::default() };
    let from = past(100 * 120, 0, 0).start;
    let to = past(200 * 120, 0, 0).start;
    let expected = list(&mut shards[0], &everything, 1000);
    assert_eq!(expected.len(), 700);
    assert!(expected.windows(2).all(|w| w[0].start > w[1].start));
    for shard in &mut shards {
        shard.checkpoint();
        let pages = shard.store.keys().filter(|k| k[0] == RowClass::TitlePage as u8).count();
        assert!((5..=30).contains(&pages), "{pages} pages");
        assert_eq!(list(shard, &everything, 33), expected);
        assert_eq!(list(shard, &of_title, 33), expected);
        for title in [None, Some(title("heat"))] {
            let filter = HistoryFilter { title, from: Some(from), to: Some(to) };
            assert_eq!(list(shard, &filter, 33), expected[500..600]);
        }
        // A play that touches an old entry finds it.
        assert_eq!(import(shard, &[past(100 * 120 + 20, 10, 7)]), [ImportResult::Added]);
        assert_eq!(shard.state.counts().entries, 700);
        assert_eq!(import(shard, &[past(100 * 120 + 60, 10, 7), past(300 * 120, 10, 300)])[1], ImportResult::Unchanged);
        assert_eq!(shard.state.counts().entries, 699);
        assert_eq!(list(shard, &of_title, 1000).len(), 699);
    }
}

#[test]
fn a_page_ends_by_items_or_bytes_and_a_token_of_another_list_is_refused() {
    let mut shard = many(|n| n);
    let ask = |shard: &mut Shard, who: &str, filter: HistoryFilter, page: Page| {
        shard.ask(at(0), &Query::ListHistory(account("a"), profile(who), filter, page))
    };
    let sized = |items_max, bytes_max, after| Page { items_max, bytes_max: Some(bytes_max), after };
    let Reply::History { entries, next: Some(token) } =
        ask(&mut shard, "ann", HistoryFilter::default(), sized(100, 1, None))
    else {
        panic!("no page")
    };
    assert_eq!(entries.len(), 1);
    let other_title = HistoryFilter { title: Some(title("ran")), ..HistoryFilter::default() };
    let none = HistoryFilter::default;
    let refused = [
        ask(&mut shard, "bob", none(), sized(1, 1, Some(token.clone()))),
        ask(&mut shard, "ann", other_title, sized(1, 1, Some(token.clone()))),
        ask(&mut shard, "ann", none(), sized(1, 1, Some(token[..token.len() - 1].to_vec()))),
        ask(&mut shard, "ann", none(), sized(1, 1, Some(Vec::new()))),
        ask(&mut shard, "ann", none(), sized(0, 1, None)),
        ask(&mut shard, "ann", none(), sized(1001, 1, None)),
        shard.ask(at(0), &Query::ListContinueWatching(account("a"), profile("ann"), sized(1, 1, Some(token)))),
        shard.ask(at(0), &Query::GetResumePoints(account("a"), profile("ann"), Vec::new())),
    ];
    assert!(refused.iter().all(|r| matches!(r, Reply::Invalid { .. })), "{refused:?}");
}

#[test]
fn a_list_stays_where_it_was_while_new_entries_arrive() {
    let mut shard = many(|n| n);
    let page = |after| Page { items_max: 10, bytes_max: None, after };
    let ask = |shard: &mut Shard, after| {
        let query = Query::ListHistory(account("a"), profile("ann"), HistoryFilter::default(), page(after));
        match shard.ask(at(0), &query) {
            Reply::History { entries, next } => (entries, next),
            other => panic!("{other:?}"),
        }
    };
    let (first, token) = ask(&mut shard, None);
    let (second, _) = ask(&mut shard, token.clone());
    import(&mut shard, &[past(99_000, 10, 1), past(0, 20, 1)]);
    shard.checkpoint();
    assert_eq!(ask(&mut shard, token).0, second);
    assert_ne!(ask(&mut shard, None).0, first);
}

#[test]
fn a_page_reads_no_more_bytes_than_it_may_have_and_pages_of_bytes_leave_nothing_out() {
    let mut shard = many(|n| n);
    shard.checkpoint();
    shard.state.evict(0);
    let ask = |title: Option<&str>, bytes_max, after| {
        let filter = HistoryFilter { title: title.map(super::title), ..HistoryFilter::default() };
        let page = Page { items_max: 1000, bytes_max, after };
        Query::ListHistory(account("a"), profile("ann"), filter, page)
    };
    match shard.state.query(&ask(None, Some(700), None), at(0)) {
        Lookup::Scan(scan) => assert_eq!(scan.bytes_enough, 700),
        other => panic!("{other:?}"),
    }
    let titles: BTreeSet<String> = shard.history(at(0)).iter().map(|e| e.title.to_string()).collect();
    let first = titles.first().map(String::as_str);
    for title in [None, first] {
        let Reply::History { entries: all, .. } = shard.ask(at(0), &ask(title, None, None)) else { panic!("no page") };
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let Reply::History { entries, next } = shard.ask(at(0), &ask(title, Some(700), after)) else {
                panic!("no page")
            };
            assert!(entries.len() < all.len() || all.len() < 4);
            seen.extend(entries);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }
}
