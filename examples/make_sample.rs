//! Writes the sample history that the demo imports: invented people, devices and titles in the layout of Netflix's export.
//!
//! `cargo run --example make_sample > cluster/sample/ViewingActivity.csv`
//!
//! Seeded, so that the same program writes the same bytes. It has what real exports have: plays that resume, seek back and
//! overlap on two devices, previews of several kinds, titles with commas, quotes, tabs, non-breaking spaces and 210
//! characters, two plays in one second, one row twice, and bookmarks of which the latest is the one of the latest end.

use std::collections::HashMap;
use std::io::{self, Write};

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The sample is the history that this number makes.
const SEED: u64 = 20_240_601;
/// 2024-03-01T00:00:00Z.
const FIRST_DAY_S: i64 = 1_709_251_200;
const DAYS: i64 = 92;
const PROFILES: [&str; 4] = ["Ines", "Tomás", "Grandma Ruth", "Kids"];
const DEVICES: [&str; 5] =
    ["Living room TV", "Ines's phone", "Tomás's laptop (browser)", "Kitchen tablet", "Ruth's TV stick"];
const FILMS: [(&str, i64); 12] = [
    ("The Lighthouse Keeper's Dog", 5_880),
    ("Nine Bridges to Lisbon", 7_440),
    ("Salt, Smoke, and the Sea", 6_960),
    ("A Short History of Rain", 5_400),
    ("Dr. Quill's \"Impossible\" Garden", 6_120),
    ("Midnight on the Orient Tram", 8_100),
    ("The\u{a0}Cartographer", 6_660),
    ("Paper Moons of Jupiter", 7_020),
    ("Uncle Bastian Buys a Boat", 5_640),
    ("The Last Typist", 6_300),
    ("Eleven O'Clock, Forever", 4_980),
    ("Wool", 5_160),
];
const SERIES: [(&str, i64, i64, i64); 5] = [
    ("Harbour Lights", 2, 8, 2_880),
    ("The Accidental Beekeeper", 3, 10, 1_500),
    ("Pip & the Planet Menders", 2, 13, 690),
    ("Cold Case: Reykjavík", 1, 6, 3_240),
    ("Bake\tOff the Grid", 1, 8, 3_420),
];
const PREVIEWS: [&str; 6] = ["HOOK", "TRAILER", "TEASER_TRAILER", "RECAP", "PROMOTIONAL", "CINEMAGRAPH"];

struct Row {
    profile: &'static str,
    start_s: i64,
    duration_s: i64,
    attributes: &'static str,
    title: String,
    kind: &'static str,
    device: &'static str,
    bookmark_s: i64,
    latest: bool,
}

/// Where a profile is in its series and films.
#[derive(Default)]
struct Progress {
    /// The next episode of each series.
    episode: [i64; SERIES.len()],
    /// Where the title that is being watched was left.
    left_at: HashMap<String, i64>,
}

fn main() -> io::Result<()> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut rows = Vec::new();
    for (number, profile) in PROFILES.into_iter().enumerate() {
        play_profile(&mut rng, number, profile, &mut rows);
    }
    add_oddities(&mut rows);
    mark_latest(&mut rows);
    // By profile, newest first, as the export is.
    rows.sort_by_key(|row| (row.profile, -row.start_s, -row.duration_s));
    write(&mut io::stdout().lock(), &rows)
}

/// Three months of one profile.
fn play_profile(rng: &mut StdRng, number: usize, profile: &'static str, rows: &mut Vec<Row>) {
    let mut progress = Progress::default();
    for day in 0..DAYS {
        if !rng.random_bool([0.55, 0.45, 0.25, 0.4][number]) {
            continue;
        }
        // Evenings, mostly; children in the afternoon.
        let hour = if profile == "Kids" { rng.random_range(14..18) } else { rng.random_range(18..23) };
        let mut now = FIRST_DAY_S + day * 86_400 + hour * 3_600 + rng.random_range(0..3_600);
        let device = match rng.random_range(0..10) {
            0..6 => DEVICES[[0, 0, 4, 3][number]],
            6..9 => DEVICES[[1, 2, 4, 3][number]],
            _ => DEVICES[3],
        };
        for _ in 0..rng.random_range(0..3) {
            now = preview(rng, profile, device, now, rows);
        }
        for _ in 0..rng.random_range(1..4) {
            now = play(rng, number, profile, device, now, &mut progress, rows);
        }
    }
}

fn preview(rng: &mut StdRng, profile: &'static str, device: &'static str, now: i64, rows: &mut Vec<Row>) -> i64 {
    let (series, ..) = SERIES[rng.random_range(0..SERIES.len())];
    let kind = PREVIEWS[rng.random_range(0..PREVIEWS.len())];
    let duration_s = rng.random_range(2..75);
    rows.push(Row {
        profile,
        start_s: now,
        duration_s,
        attributes: "Autoplayed: user action: None; ",
        title: format!("Season 1 {}: {series}", kind.to_lowercase().replace('_', " ")),
        kind,
        device,
        bookmark_s: duration_s,
        latest: false,
    });
    now + duration_s + rng.random_range(1..30)
}

/// One play of a film or of the next episode; returns when it is over.
fn play(
    rng: &mut StdRng,
    number: usize,
    profile: &'static str,
    device: &'static str,
    now: i64,
    progress: &mut Progress,
    rows: &mut Vec<Row>,
) -> i64 {
    let (title, runtime_s, series) = if rng.random_bool(0.75) {
        let favourites = [[0, 1, 3], [3, 4, 0], [4, 0, 4], [2, 2, 1]][number];
        let series = favourites[rng.random_range(0..3)];
        let (name, seasons, episodes, runtime_s) = SERIES[series];
        let next = progress.episode[series] % (seasons * episodes);
        let title =
            format!("{name}: Season {}: Chapter {} (Episode {})", next / episodes + 1, next + 1, next % episodes + 1);
        (title, runtime_s, Some(series))
    } else {
        let (name, runtime_s) = FILMS[(rng.random_range(0..4) + number * 3) % FILMS.len()];
        (name.to_string(), runtime_s, None)
    };
    let mut from = progress.left_at.get(&title).copied().unwrap_or(0);
    if from > 600 && rng.random_bool(0.1) {
        from -= rng.random_range(30..400);
    }
    let left = runtime_s - from;
    let duration_s = if rng.random_bool(0.55) { left } else { rng.random_range(5..left.max(6)) };
    let bookmark_s = from + duration_s;
    let done = bookmark_s * 100 >= runtime_s * 95;
    progress.left_at.insert(title.clone(), if done { 0 } else { bookmark_s });
    if let (true, Some(series)) = (done, series) {
        progress.episode[series] += 1;
    }
    rows.push(Row {
        profile,
        start_s: now,
        // Pauses make the time longer than what was played, a little.
        duration_s: duration_s + rng.random_range(0..20),
        attributes: if rng.random_bool(0.1) { "Autoplayed: user action: User_Interaction; " } else { "" },
        title,
        kind: "",
        device,
        bookmark_s,
        latest: false,
    });
    now + duration_s + rng.random_range(20..5_400)
}

/// What exports in the wild have once in a while.
fn add_oddities(rows: &mut Vec<Row>) {
    let long = "The Extraordinary, Improbable, and Almost Entirely True Adventures of Professor Emmeline Ostergaard, \
                Her Seven Clockwork Sparrows, and the Borrowed Airship, as Told by a Most Unreliable Parrot: Part One";
    let odd = |start_s, duration_s, title: &str, device, bookmark_s| Row {
        profile: "Tomás",
        start_s: FIRST_DAY_S + start_s,
        duration_s,
        attributes: "",
        title: title.to_string(),
        kind: "",
        device,
        bookmark_s,
        latest: false,
    };
    rows.push(odd(40_000, 3_000, long, DEVICES[2], 2_990));
    // Two plays in one second, and two devices on one title whose later start ends earlier.
    rows.push(odd(50_000, 900, "Wool", DEVICES[0], 890));
    rows.push(odd(50_000, 930, "Wool", DEVICES[0], 915));
    rows.push(odd(130_000, 5_000, "A Short History of Rain", DEVICES[0], 4_980));
    rows.push(odd(131_000, 600, "A Short History of Rain", DEVICES[2], 580));
    // A device that lost its clock.
    rows.push(Row { start_s: 12, ..odd(0, 1_200, "The Last Typist", DEVICES[3], 1_190) });
}

/// The latest bookmark is the one of the latest end.
fn mark_latest(rows: &mut [Row]) {
    let mut latest: HashMap<(&str, String), (i64, usize)> = HashMap::new();
    for (number, row) in rows.iter().enumerate() {
        let end = row.start_s + row.duration_s;
        let best = latest.entry((row.profile, row.title.clone())).or_insert((end, number));
        if end > best.0 {
            *best = (end, number);
        }
    }
    for (_, number) in latest.into_values() {
        rows[number].latest = true;
    }
}

fn write(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    writeln!(
        out,
        "Profile Name,Start Time,Duration,Attributes,Title,Supplemental Video Type,Device Type,Bookmark,Latest Bookmark,Country"
    )?;
    let doubled = (rows.len() / 2..rows.len()).find(|number| rows[*number].kind.is_empty());
    for (number, row) in rows.iter().enumerate() {
        let line = line(row)?;
        writeln!(out, "{line}")?;
        if Some(number) == doubled {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

fn line(row: &Row) -> io::Result<String> {
    let start = Timestamp::from_second(row.start_s).map_err(io::Error::other)?;
    let latest = if row.latest { clock(row.bookmark_s) } else { "Not latest view".to_string() };
    let fields = [
        row.profile.to_string(),
        start.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        clock(row.duration_s),
        row.attributes.to_string(),
        row.title.clone(),
        row.kind.to_string(),
        row.device.to_string(),
        clock(row.bookmark_s),
        latest,
        "PT (Portugal)".to_string(),
    ];
    Ok(fields.map(quoted).join(","))
}

fn quoted(field: String) -> String {
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

fn clock(seconds: i64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}
