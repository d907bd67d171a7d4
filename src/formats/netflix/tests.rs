use proptest::prelude::*;

use super::*;

const HEADER: &str = "Profile Name,Start Time,Duration,Attributes,Title,Supplemental Video Type,Device Type,Bookmark,\
                      Latest Bookmark,Country\n";
const ROW: &str =
    "Ana,2022-07-28 04:22:00,01:02:03,,Harbour: Season 1: Fog (Episode 2),,TV,00:41:05,00:41:05,PT (Portugal)\n";
/// 2022-07-28T04:22:00Z.
const START_MS: u64 = 1_658_982_120_000;

fn export(text: &str) -> Export {
    read(text.as_bytes()).unwrap()
}

fn one(text: &str) -> Play {
    let export = export(text);
    assert_eq!(export.refused, [], "{text}");
    assert_eq!(export.plays.len(), 1, "{text}");
    export.plays[0].clone()
}

fn refusal(row: &str) -> String {
    let export = export(&format!("{HEADER}{row}"));
    assert_eq!((export.plays.len(), export.refused.len()), (0, 1), "{row}");
    export.refused[0].to_string()
}

fn plain() -> Play {
    one(&format!("{HEADER}{ROW}"))
}

#[test]
fn a_row_of_the_plain_layout_is_understood() {
    let play = plain();
    assert_eq!(play.line, 2);
    assert_eq!(play.profile.as_str(), "Ana");
    assert_eq!(play.title.as_str(), "Harbour: Season 1: Fog (Episode 2)");
    assert_eq!(play.device.as_str(), "TV");
    assert_eq!(play.kind, Kind::Title);
    assert_eq!(play.start, WallMs(START_MS));
    assert_eq!(play.duration_ms, 3_723_000);
    assert_eq!(play.end(), WallMs(START_MS + 3_723_000));
    assert_eq!(play.bookmark_ms, Some(2_465_000));
    assert_eq!(play.latest_bookmark, LatestBookmark::At(2_465_000));
}

#[test]
fn columns_are_found_by_name_in_any_order_with_any_spelling() {
    for text in [
        "Title,Latest Bookmark,Bookmark,Device Type,Duration,Start Time (UTC),Profile Name,Attributes,Country\n\
         Harbour: Season 1: Fog (Episode 2),00:41:05,00:41:05,TV,01:02:03,2022-07-28 04:22:00,Ana,,PT (Portugal)\n",
        "ProfileName,StartTime,Duration,Attributes,Title,SupplementalVideoType,DeviceType,Bookmark,LatestBookmark,Country\n\
         Ana,2022-07-28 04:22:00,01:02:03,,Harbour: Season 1: Fog (Episode 2),,TV,00:41:05,00:41:05,PT (Portugal)\n",
        "profile_name,start_time_utc,duration,title,device_type,bookmark,latest_bookmark,country,shoe size\n\
         Ana,2022-07-28T04:22:00Z,1:02:03,Harbour: Season 1: Fog (Episode 2),TV,0:41:05,0:41:05,PT (Portugal),44\n",
    ] {
        let mut play = one(text);
        play.line = 2;
        assert_eq!(play, plain(), "{text}");
    }
}

#[test]
fn a_file_without_a_header_is_taken_in_the_export_s_own_order() {
    let play = one(ROW);
    assert_eq!(play, Play { line: 1, ..plain() });
    // Even if a profile has the name of a column.
    assert_eq!(one(&ROW.replace("Ana", "Title")).profile.as_str(), "Title");
}

#[test]
fn spreadsheets_rewrite_dates_and_durations() {
    for (start, ms) in [
        ("7/28/2022 4:22", START_MS),
        ("07/28/2022 04:22:00", START_MS),
        ("2022-07-28T04:22:00.250Z", START_MS + 250),
        ("2022-07-28 4:22:00", START_MS),
        ("1970-01-01 00:00:00", 0),
        ("1/1/1970 0:00", 0),
    ] {
        let play =
            one(&format!("{HEADER}{}", ROW.replace("2022-07-28 04:22:00", start).replace("01:02:03", "1:02:03")));
        assert_eq!((play.start, play.duration_ms), (WallMs(ms), 3_723_000), "{start}");
    }
}

#[test]
fn ends_of_line_a_byte_order_mark_and_empty_lines_make_no_difference() {
    let crlf = format!("\u{feff}{HEADER}\n{ROW}\n \n").replace('\n', "\r\n");
    assert_eq!(one(&crlf), Play { line: 3, ..plain() });
    assert_eq!(one(&format!("\u{feff}\r\n{}", ROW.trim_end())), Play { line: 2, ..plain() });
}

#[test]
fn a_title_written_with_other_spaces_is_the_same_title() {
    let play = one(&format!("{HEADER}{}", ROW.replace("Season 1: Fog", "Season\u{a0}1:\tFog")));
    assert_eq!(play, plain());
}

#[test]
fn long_titles_with_commas_and_quotes_are_taken_whole() {
    let title = format!("The {}\"end\"", "long, winding, endless ".repeat(9));
    assert!(title.len() > 210);
    let quoted = format!("\"{}\"", title.replace('"', "\"\""));
    assert_eq!(
        one(&format!("{HEADER}{}", ROW.replace("Harbour: Season 1: Fog (Episode 2)", &quoted))).title.as_str(),
        title
    );
    let huge = "n".repeat(2_000);
    let cut = one(&format!("{HEADER}{}", ROW.replace("Harbour", &huge))).title;
    assert_eq!(cut.as_str().len(), TitleId::BYTES_MAX);
}

#[test]
fn two_plays_in_one_second_are_two_and_exact_duplicates_are_equal() {
    let other = ROW.replace("01:02:03", "01:02:04");
    let attributes = ROW.replace(",,Harbour", ",\"Autoplayed: user action: None; \",Harbour");
    let plays = export(&format!("{HEADER}{ROW}{other}{ROW}{attributes}")).plays;
    let same = |play: &Play| Play { line: 2, ..play.clone() } == plays[0];
    assert_eq!(plays.iter().map(same).collect::<Vec<_>>(), [true, false, true, true]);
}

#[test]
fn everything_with_a_supplemental_type_is_a_preview() {
    for kind in ["HOOK", "TRAILER", "RECAP", "SOMETHING_NEW"] {
        assert_eq!(one(&format!("{HEADER}{}", ROW.replace(",,TV", &format!(",{kind},TV")))).kind, Kind::Preview);
    }
}

#[test]
fn bookmarks_may_be_missing_or_not_the_latest() {
    let row = ROW.replace("00:41:05,00:41:05", "00:41:05,Not latest view");
    assert_eq!(one(&format!("{HEADER}{row}")).latest_bookmark, LatestBookmark::NotLatest);
    let play = one(&format!("{HEADER}{}", ROW.replace("00:41:05,00:41:05", ",").replace(",TV,", ",,")));
    assert_eq!((play.bookmark_ms, play.latest_bookmark), (None, LatestBookmark::Unknown));
    assert_eq!(play.device.as_str(), "unknown");
}

#[test]
fn refused_rows_say_their_line_and_why_and_the_rest_goes_on() {
    let bad = ROW.replace("2022-07-28", "28/7/2022");
    let export = export(&format!("{HEADER}{ROW}{bad}{HEADER}{ROW}"));
    assert_eq!(export.plays.len(), 2);
    assert_eq!(export.refused.len(), 1);
    assert!(export.refused[0].to_string().starts_with("line 3: Start Time \"28/7/2022 04:22:00\" is not a time"));
}

#[test]
fn every_reason_for_a_refusal_is_told() {
    for (row, reason) in [
        (ROW.replace("2022-07-28", "2022-02-30"), "is not a time"),
        (ROW.replace("2022-07-28", "1969-12-31"), "is out of range: years 1970"),
        (ROW.replace("04:22:00", "24:22:00"), "is not a time"),
        (ROW.replace("01:02:03", "-1:02:03"), "Duration \"-1:02:03\" is not a duration"),
        (ROW.replace("01:02:03", "01:62:03"), "is not a duration"),
        (ROW.replace("01:02:03", ""), "is not a duration"),
        (ROW.replace("01:02:03", "99999999999999999999:00:00"), "is not a duration"),
        (ROW.replace("01:02:03", "720:00:01"), "is not a duration: H:MM:SS is accepted, up to 30 days"),
        (ROW.replace("00:41:05,00:41:05", "9999:00:00,"), "Bookmark \"9999:00:00\" is not a duration"),
        (ROW.replace("00:41:05,00:41:05", "00:41:05,later"), "nor \"Not latest view\""),
        (ROW.replace("Ana", " "), "Profile Name must not be empty"),
        (ROW.replace("Harbour", "Har\u{7}bour"), "Title has a control character at byte 3"),
        (ROW.replace("Harbour", "Har,bour"), "a title with commas must stand in quotes"),
        (ROW.replace("Harbour", "\"Harbour"), "opens a quote that is not closed"),
        (ROW.replace("Harbour", "Har\0bour"), "NUL byte"),
        (ROW[..40].to_string(), "the file seems to be cut off here"),
        (format!("{}\n", &ROW[..40]), "columns where 10 are expected"),
        (format!("{}\n", "x".repeat(LINE_BYTES_MAX + 1)), "is longer than"),
        (format!("{}\n", ",".repeat(FIELDS_MAX)), "more than 64 fields"),
    ] {
        let told = refusal(&row);
        assert!(told.starts_with("line 2: ") && told.contains(reason), "{told}");
    }
    let mut bytes = HEADER.as_bytes().to_vec();
    bytes.extend(b"Ana\xff,x\n");
    assert!(read(&bytes[..]).unwrap().refused[0].to_string().contains("is not UTF-8 from byte 3"));
}

#[test]
fn files_that_are_something_else_are_told_so() {
    for (bytes, told) in [
        (&b""[..], "is empty"),
        (b"\n\n", "is empty"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"\xff\xfeP\0r\0", "UTF-16"),
        (b"\x7fELF\x02\0\0\n", "a binary file"),
        (b"Title,Date\nx,1/1/22\n", "the short list"),
        (b"Profile Name,Title,Start Time\n", "has no column \"Duration\""),
        (b"Title,Title\n", "has two columns \"Title\""),
        (b"hello\n", "neither the names of columns"),
        (b"caf\xe9\n", "is not UTF-8"),
        (b"\"open\n", "opens a quote"),
    ] {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(told), "{bytes:?}: {error}");
    }
    let endless = vec![b'x'; LINE_BYTES_MAX + 1];
    assert!(read(&endless[..]).unwrap_err().to_string().contains("first line has more than"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&bytes[..]);
        let mut with_header = HEADER.as_bytes().to_vec();
        with_header.extend(&bytes);
        let _ = read(&with_header[..]);
    }

    #[test]
    fn no_damage_to_a_row_makes_it_panic_or_lose_count(
        at in 0..ROW.len(), bytes in proptest::collection::vec(any::<u8>(), 0..4), cut in 0..ROW.len(),
    ) {
        let mut file = HEADER.as_bytes().to_vec();
        let mut row = ROW.as_bytes().to_vec();
        row.splice(at..(at + bytes.len()).min(ROW.len()), bytes);
        row.truncate(cut.max(1));
        file.extend(&row);
        let lines_max = 1 + row.iter().filter(|b| **b == b'\n').count();
        if let Ok(export) = read(&file[..]) {
            prop_assert!(export.plays.len() + export.refused.len() <= lines_max);
        }
    }

    #[test]
    fn times_read_back_as_they_were_written(seconds in 0u64..253_402_300_799, h in 0u64..720, m in 0u64..60, s in 0u64..60) {
        let moment = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
        prop_assert_eq!(value::start(&moment.strftime("%Y-%m-%d %H:%M:%S").to_string()), Ok(WallMs(seconds * 1000)));
        prop_assert_eq!(value::duration(&format!("{h}:{m:02}:{s:02}")), Ok((h * 3600 + m * 60 + s) * 1000));
    }
}
