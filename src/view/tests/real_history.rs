//! A real viewing history, where one is at hand: `PLAYHEAD_REAL_HISTORY` names the file.

use std::collections::BTreeMap;

use super::*;

struct Row {
    play: ImportPlay,
    /// Where the export says that the title was left, on the rows that say so.
    latest_ms: Option<u64>,
}

fn clock_ms(text: &str) -> u64 {
    text.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap()) * 1000
}

fn read() -> Option<Vec<Row>> {
    let Ok(path) = std::env::var("PLAYHEAD_REAL_HISTORY") else {
        eprintln!("skipped: PLAYHEAD_REAL_HISTORY is not set");
        return None;
    };
    let mut rows = Vec::new();
    for line in csv::Reader::from_path(path).unwrap().into_records() {
        let line = line.unwrap();
        let start: jiff::civil::DateTime = line[1].parse().unwrap();
        let start = start.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_millisecond();
        let play = ImportPlay {
            profile: profile(&line[0]),
            // Two of its titles hold control characters, which an importer has to take out.
            title: title(&line[4].replace(char::is_control, "")),
            title_type: TitleType::Other,
            device: device(&line[6]),
            kind: if line[5].is_empty() { ViewKind::Full } else { ViewKind::Preview },
            start: WallMs(start as u64),
            elapsed_ms: clock_ms(&line[2]),
            position_ms: Some(clock_ms(&line[7])),
            duration_ms: None,
        };
        let latest = (&line[8] != "Not latest view").then(|| clock_ms(&line[8]));
        rows.push(Row { play, latest_ms: latest });
    }
    Some(rows)
}

fn import(shard: &mut Shard, plays: &[ImportPlay]) -> Imported {
    let mut results = Vec::new();
    for (n, plays) in plays.chunks(1000).enumerate() {
        let command = AccountCommand::ImportHistory(ImportHistory { plays: plays.to_vec() });
        let id = request(&format!("import {n} {:?}", shard.state.revision()));
        match shard.apply(at(n as u64), &Envelope::request(id, account("a"), command)).answer {
            Answer::Imported(imported) => results.extend(imported.results),
            other => panic!("not imported: {other:?}"),
        }
    }
    Imported { results }
}

fn all_history(shard: &mut Shard, who: &ProfileId) -> Vec<HistoryEntry> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = Page { items_max: 100, bytes_max: Some(20_000), after };
        let query = Query::ListHistory(account("a"), who.clone(), HistoryFilter::default(), page);
        match shard.ask(at(0), &query) {
            Reply::History { entries, next } => {
                all.extend(entries);
                after = next;
            }
            other => panic!("no history: {other:?}"),
        }
        if after.is_none() {
            return all;
        }
    }
}

/// All that members can see.
fn visible(shard: &mut Shard, rows: &[Row]) -> (Vec<TitleState>, Vec<Vec<HistoryEntry>>, AccountSummary) {
    let mut titles = BTreeMap::<&ProfileId, std::collections::BTreeSet<&TitleId>>::new();
    for row in rows {
        titles.entry(&row.play.profile).or_default().insert(&row.play.title);
    }
    let (mut states, mut histories) = (Vec::new(), Vec::new());
    for (who, titles) in titles {
        let titles: Vec<TitleId> = titles.into_iter().cloned().collect();
        for titles in titles.chunks(1000) {
            match shard.ask(at(0), &Query::GetResumePoints(account("a"), who.clone(), titles.to_vec())) {
                Reply::ResumePoints(more) => states.extend(more),
                other => panic!("{other:?}"),
            }
        }
        histories.push(all_history(shard, who));
    }
    match shard.ask(at(0), &Query::GetAccount(account("a"))) {
        Reply::Account(summary) => (states, histories, summary),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_real_history_comes_out_as_its_export_says_in_any_order() {
    let Some(rows) = read() else { return };
    let plays: Vec<ImportPlay> = rows.iter().map(|r| r.play.clone()).collect();
    let mut shard = Shard::new(Settings::default());
    let imported = import(&mut shard, &plays);
    println!("{} rows: {:?}, reads {}", plays.len(), shard.state.counts(), shard.reads);
    assert_eq!(imported.count(ImportResult::Added), 8147);
    assert_eq!(imported.count(ImportResult::Preview), 9992 - 8147);
    assert_eq!(shard.state.counts().plays, 8147);
    assert_eq!(shard.state.counts().entries, 5752);
    let again = import(&mut shard, &plays);
    assert_eq!((again.count(ImportResult::Added), again.count(ImportResult::Unchanged)), (0, 8147));

    let (mut equal, mut resumable) = (0, 0);
    for row in rows.iter().filter(|r| r.play.kind == ViewKind::Full) {
        let Some(latest_ms) = row.latest_ms else { continue };
        let query = Query::GetResumePoints(account("a"), row.play.profile.clone(), vec![row.play.title.clone()]);
        let Reply::ResumePoints(states) = shard.ask(at(0), &query) else { panic!("no resume points") };
        assert_eq!(states[0].last.as_ref().map(|l| l.position_ms), Some(latest_ms), "{:?}", row.play);
        assert_eq!((states[0].watched_at, states[0].play_count), (None, 0));
        assert_eq!(states[0].resume.is_some(), latest_ms >= 120_000);
        equal += 1;
        resumable += usize::from(states[0].resume.is_some());
    }
    println!("{equal} positions equal, {resumable} of them resumable");
    assert_eq!(equal, 3689);

    let expected = visible(&mut shard, &rows);
    assert_eq!(expected.1.iter().flatten().map(|e| e.plays.len()).sum::<usize>(), 8147);
    let mut seed = 1u64;
    for order in 0..3 {
        let mut plays = plays.clone();
        match order {
            0 => plays.reverse(),
            _ => plays.sort_by_cached_key(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                seed >> 33
            }),
        }
        let mut other = Shard::new(Settings::default());
        for plays in plays.chunks(777) {
            import(&mut other, plays);
            other.restart();
        }
        assert!(visible(&mut other, &rows) == expected, "another order gave another state");
    }
}
