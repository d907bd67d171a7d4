//! Times as the export writes them.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::LatestBookmark;
use crate::time::WallMs;
use crate::view::MEDIA_MS_MAX;

const START: &str =
    "is not a time: 2022-07-28 04:22:00, 2022-07-28T04:22:00Z and 7/28/2022 4:22 are accepted, all UTC, month first";
const YEARS: &str = "is out of range: years 1970 to 9999 are accepted";
const DURATION: &str = "is not a duration: H:MM:SS is accepted, up to 30 days (720:00:00)";

/// A start: UTC, with a dash or slashes in the date.
pub(super) fn start(text: &str) -> Result<WallMs, &'static str> {
    let (date, time) = text.split_once(['T', ' ']).ok_or(START)?;
    let date = match date.contains('/') {
        true => date_with_slashes(date),
        false => date_with_dashes(date),
    };
    let (hour, minute, second, ms) = time_of_day(time.trim().trim_end_matches('Z')).ok_or(START)?;
    let (year, month, day) = date.ok_or(START)?;
    if !(1970..=9999).contains(&year) {
        return Err(YEARS);
    }
    let date = Date::new(year, month, day).map_err(|_| START)?;
    let time = Time::new(hour, minute, second, 0).map_err(|_| START)?;
    let moment = TimeZone::UTC.to_timestamp(DateTime::from_parts(date, time)).map_err(|_| YEARS)?;
    let seconds = u64::try_from(moment.as_second()).map_err(|_| YEARS)?;
    Ok(WallMs(seconds * 1000 + ms))
}

fn date_with_dashes(text: &str) -> Option<(i16, i8, i8)> {
    let mut parts = text.split('-');
    let date = (number(parts.next()?, 4..=4)?, number(parts.next()?, 1..=2)?, number(parts.next()?, 1..=2)?);
    parts.next().is_none().then_some(date)
}

fn date_with_slashes(text: &str) -> Option<(i16, i8, i8)> {
    let mut parts = text.split('/');
    let (month, day) = (number(parts.next()?, 1..=2)?, number(parts.next()?, 1..=2)?);
    let year = number(parts.next()?, 4..=4)?;
    parts.next().is_none().then_some((year, month, day))
}

/// `H:MM`, `HH:MM:SS` or `HH:MM:SS.fff`.
fn time_of_day(text: &str) -> Option<(i8, i8, i8, u64)> {
    let mut parts = text.split(':');
    let (hour, minute) = (number(parts.next()?, 1..=2)?, number(parts.next()?, 2..=2)?);
    let Some(second) = parts.next() else { return Some((hour, minute, 0, 0)) };
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    if parts.next().is_some() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let digits: u64 = number(fraction, 1..=9)?;
    let ms = digits * 1_000 / 10u64.pow(u32::try_from(fraction.len()).ok()?);
    Some((hour, minute, number(second, 2..=2)?, ms))
}

/// A duration in milliseconds.
pub(super) fn duration(text: &str) -> Result<u64, &'static str> {
    clock(text).ok_or(DURATION)
}

/// A bookmark in milliseconds; `None` where there is none.
pub(super) fn bookmark(text: &str) -> Result<Option<u64>, &'static str> {
    match text {
        "" => Ok(None),
        text => clock(text).map(Some).ok_or(DURATION),
    }
}

/// What the column `Latest Bookmark` says.
pub(super) fn latest_bookmark(text: &str) -> Result<LatestBookmark, &'static str> {
    match text {
        "" => Ok(LatestBookmark::Unknown),
        text if text.eq_ignore_ascii_case("not latest view") => Ok(LatestBookmark::NotLatest),
        text => clock(text)
            .map(LatestBookmark::At)
            .ok_or("is neither a duration (H:MM:SS, up to 30 days) nor \"Not latest view\""),
    }
}

/// `H:MM:SS` in milliseconds: what no cluster takes is refused here, by its line.
fn clock(text: &str) -> Option<u64> {
    let mut parts = text.split(':');
    let hours: u64 = number(parts.next()?, 1..=4)?;
    let minutes: u64 = number(parts.next()?, 2..=2)?;
    let seconds: u64 = number(parts.next()?, 2..=2)?;
    let ms = (hours * 3600 + minutes * 60 + seconds) * 1000;
    (parts.next().is_none() && ms <= MEDIA_MS_MAX && minutes < 60 && seconds < 60).then_some(ms)
}

/// Digits only, as many as `digits` allows.
fn number<T: std::str::FromStr>(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<T> {
    (digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}
