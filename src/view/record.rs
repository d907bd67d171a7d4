//! An active view as bytes: how it stands in memory and in an image. Little-endian.
//!
//! ```text
//!  0 u16 length of all       12 u8  number of played ranges    42 u64 started, logical
//!  2 u8  kind                13 u8  1: degraded; 2: again     50 u64 reported, logical
//!  3 u8  title type          14 u64 token of the account       58 u64 paused since, logical; MAX: it plays
//!  4 u8  player's state      22 u64 sequence                   66 u32 position; MAX: unknown
//!  5 u8  bytes of account    30 u48 started, wall              70 u32 runtime; MAX: unknown
//!  6 u8  bytes of view       36 u48 reported, wall             74 u32 credits; MAX: unknown
//!  7 u8  bytes of profile                                      78 the five names
//!  8 u8  bytes of device                                          then (u32 from, u32 to) for each played range
//!  9 u8  sixteenths of stretch
//! 10 u16 bytes of title
//! ```
//!
//! All media times are below 2^32 ms: commands with longer ones are refused.

use super::key::token;
use super::ranges::Ranges;
use super::{ActiveView, MEDIA_MS_MAX, Media, PlayState, Settings, Stretch, TitleType, ViewKind};
use crate::ids::{AccountId, DeviceId, ProfileId, TitleId, ViewId};
use crate::time::{LogicalMs, Stamp, WallMs};

/// The most played ranges that a view keeps.
pub(super) const VIEW_RANGES_MAX: usize = 16;
/// Where the names begin.
const NAMES: usize = 78;
const NONE: u32 = u32::MAX;
const WALL_MAX: u64 = (1 << 48) - 1;
const _: () = assert!(MEDIA_MS_MAX < NONE as u64);

pub(super) type ViewRanges = Ranges<VIEW_RANGES_MAX>;

/// The part of a view that reports change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) kind: ViewKind,
    pub(super) state: PlayState,
    pub(super) sequence: u64,
    pub(super) started: Stamp,
    pub(super) reported: Stamp,
    pub(super) paused_since: Option<LogicalMs>,
    pub(super) position_ms: Option<u32>,
    pub(super) played: ViewRanges,
    /// It was let in while the shard had no leader.
    pub(super) degraded: bool,
    /// A view of this id had ended before it started. Known of those that started since the shard takes hints over.
    pub(super) again: bool,
    /// Under which its device was told when to report next.
    pub(super) stretch: Stretch,
}

impl Progress {
    /// Whether anything was reported, under this id: reports are numbered from 1 on.
    pub(super) fn has_reported(&self) -> bool {
        self.sequence > 0
    }

    /// From its start to its last report, in ms.
    pub(super) fn elapsed_ms(&self) -> u64 {
        self.reported.logical.since(self.started.logical)
    }

    /// When the view expires unless it reports.
    pub(super) fn due(&self, settings: &Settings) -> LogicalMs {
        let silent = self.reported.logical.plus(settings.silence_ms(self.stretch));
        match self.paused_since {
            Some(since) => silent.min(since.plus(settings.pause_lives_ms)),
            None => silent,
        }
    }

    /// Whether the view counts against the stream limit at `now`.
    pub(super) fn holds_stream(&self, settings: &Settings, now: LogicalMs) -> bool {
        let paused_long = self.paused_since.is_some_and(|since| now >= since.plus(settings.pause_holds_ms));
        self.kind.takes_a_stream() && !paused_long
    }
}

/// An active view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveView {
    pub(super) account: AccountId,
    pub(super) view: ViewId,
    pub(super) profile: ProfileId,
    pub(super) device: DeviceId,
    pub(super) media: Media,
    pub(super) progress: Progress,
}

impl LiveView {
    /// How it is shown.
    pub(super) fn show(&self, settings: &Settings, now: LogicalMs) -> ActiveView {
        let progress = &self.progress;
        ActiveView {
            view: self.view.clone(),
            profile: self.profile.clone(),
            device: self.device.clone(),
            media: self.media.clone(),
            kind: progress.kind,
            state: progress.state,
            position_ms: progress.position_ms.map(u64::from),
            sequence: progress.sequence,
            started_at: progress.started.wall,
            reported_at: progress.reported.wall,
            watched_ms: progress.played.total_ms(),
            holds_stream: progress.holds_stream(settings, now),
            degraded: progress.degraded,
        }
    }

    /// Its bytes.
    pub(super) fn to_record(&self) -> Vec<u8> {
        let names = [
            self.account.as_str(),
            self.view.as_str(),
            self.profile.as_str(),
            self.device.as_str(),
            self.media.title.as_str(),
        ];
        let names_len: usize = names.iter().map(|n| n.len()).sum();
        let mut bytes = vec![0; NAMES];
        bytes.reserve_exact(names_len + 8 * VIEW_RANGES_MAX);
        for (at, name) in names[..4].iter().enumerate() {
            bytes[5 + at] = u8::try_from(name.len()).expect("names have at most 128 bytes");
        }
        bytes[3] = title_type_tag(self.media.title_type);
        put_u16(&mut bytes, 10, names[4].len());
        put_u64(&mut bytes, 14, token(&self.account));
        put_u32(&mut bytes, 70, media_ms(self.media.duration_ms));
        put_u32(&mut bytes, 74, media_ms(self.media.credits_ms));
        names.iter().for_each(|name| bytes.extend(name.as_bytes()));
        bytes.extend(std::iter::repeat_n(0, 8 * self.progress.played.as_slice().len()));
        bytes[12] = self.progress.played.as_slice().len() as u8;
        let len = bytes.len();
        put_u16(&mut bytes, 0, len);
        write_progress(&mut bytes, &self.progress);
        bytes
    }
}

fn title_type_tag(title_type: TitleType) -> u8 {
    match title_type {
        TitleType::Other => 0,
        TitleType::Film => 1,
        TitleType::Episode => 2,
    }
}

fn media_ms(ms: Option<u64>) -> u32 {
    ms.map_or(NONE, |ms| u32::try_from(ms).unwrap_or(NONE - 1))
}

/// The whole record that `bytes` begin with, or why there is none.
pub(super) fn split_record(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let len = bytes.get(..2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))).ok_or("a record is cut short")?;
    if len < NAMES {
        return Err(format!("a record claims to have {len} bytes"));
    }
    bytes.split_at_checked(len).ok_or_else(|| format!("a record of {len} bytes is cut short"))
}

/// Reads a whole record and checks everything in it.
pub(super) fn check_record(record: &[u8]) -> Result<LiveView, String> {
    let names_len = record[5..9].iter().map(|b| usize::from(*b)).sum::<usize>() + usize::from(get_u16(record, 10));
    let ranges = usize::from(record[12]);
    if record.len() != NAMES + names_len + 8 * ranges {
        return Err("a record's length is not the sum of its parts".to_string());
    }
    if record[2] > 3 || record[3] > 2 || record[4] > 2 || record[13] > 3 {
        return Err("a record has an unknown kind, title type, state or mark".to_string());
    }
    let view = read_view(record)?;
    if get_u64(record, 14) != token(&view.account) {
        return Err(format!("the record of view {} has another account's token", view.view));
    }
    Ok(view)
}

/// Reads a record.
fn read_view(record: &[u8]) -> Result<LiveView, String> {
    let mut rest = &record[NAMES..];
    let mut name = |len: usize| -> Result<&str, String> {
        let (name, tail) = rest.split_at_checked(len).ok_or("a name is cut short")?;
        rest = tail;
        std::str::from_utf8(name).map_err(|e| format!("a name is no text: {e}"))
    };
    let bad = |e: crate::ids::InvalidId| format!("a name {e}");
    Ok(LiveView {
        account: AccountId::new(name(usize::from(record[5]))?).map_err(bad)?,
        view: ViewId::new(name(usize::from(record[6]))?).map_err(bad)?,
        profile: ProfileId::new(name(usize::from(record[7]))?).map_err(bad)?,
        device: DeviceId::new(name(usize::from(record[8]))?).map_err(bad)?,
        media: Media {
            title: TitleId::new(name(usize::from(get_u16(record, 10)))?).map_err(bad)?,
            title_type: match record[3] {
                1 => TitleType::Film,
                2 => TitleType::Episode,
                _ => TitleType::Other,
            },
            duration_ms: some_ms(get_u32(record, 70)).map(u64::from),
            credits_ms: some_ms(get_u32(record, 74)).map(u64::from),
        },
        progress: read_progress(record).ok_or("played ranges are out of order")?,
    })
}

/// The token of a record's account.
pub(super) fn record_token(record: &[u8]) -> u64 {
    get_u64(record, 14)
}

/// Whether a record is of this account and, where one is given, this view.
pub(super) fn record_is(record: &[u8], account: &str, view: Option<&str>) -> bool {
    let (a, v) = (usize::from(record[5]), usize::from(record[6]));
    &record[NAMES..NAMES + a] == account.as_bytes()
        && view.is_none_or(|view| &record[NAMES + a..NAMES + a + v] == view.as_bytes())
}

/// What the order of records is: by token, then account, then view.
pub(super) fn record_order(record: &[u8]) -> (u64, &[u8], &[u8]) {
    let (a, v) = (usize::from(record[5]), usize::from(record[6]));
    (record_token(record), &record[NAMES..NAMES + a], &record[NAMES + a..NAMES + a + v])
}

/// Reads what reports change; `None` when the played ranges make no sense.
pub(super) fn read_progress(record: &[u8]) -> Option<Progress> {
    let count = usize::from(record[12]);
    let ranges = &record[record.len().checked_sub(8 * count)?..];
    let stretches = ranges.chunks_exact(8).map(|r| (get_u32(r, 0), get_u32(r, 4)));
    Some(Progress {
        kind: match record[2] {
            1 => ViewKind::Preview,
            2 => ViewKind::Live,
            3 => ViewKind::Offline,
            _ => ViewKind::Full,
        },
        state: match record[4] {
            1 => PlayState::Paused,
            2 => PlayState::Buffering,
            _ => PlayState::Playing,
        },
        sequence: get_u64(record, 22),
        started: Stamp { wall: WallMs(get_u48(record, 30)), logical: LogicalMs(get_u64(record, 42)) },
        reported: Stamp { wall: WallMs(get_u48(record, 36)), logical: LogicalMs(get_u64(record, 50)) },
        paused_since: Some(LogicalMs(get_u64(record, 58))).filter(|at| at.0 != u64::MAX),
        position_ms: some_ms(get_u32(record, 66)),
        played: Ranges::from_iter(stretches)?,
        degraded: record[13] & 1 != 0,
        again: record[13] & 2 != 0,
        stretch: Stretch(record[9]),
    })
}

/// Writes what reports change. The record must have room for just its played ranges.
pub(super) fn write_progress(record: &mut [u8], progress: &Progress) {
    record[2] = match progress.kind {
        ViewKind::Full => 0,
        ViewKind::Preview => 1,
        ViewKind::Live => 2,
        ViewKind::Offline => 3,
    };
    record[4] = match progress.state {
        PlayState::Playing => 0,
        PlayState::Paused => 1,
        PlayState::Buffering => 2,
    };
    record[13] = u8::from(progress.degraded) | u8::from(progress.again) << 1;
    record[9] = progress.stretch.0;
    put_u64(record, 22, progress.sequence);
    put_u48(record, 30, progress.started.wall.0);
    put_u48(record, 36, progress.reported.wall.0);
    put_u64(record, 42, progress.started.logical.0);
    put_u64(record, 50, progress.reported.logical.0);
    put_u64(record, 58, progress.paused_since.map_or(u64::MAX, |at| at.0));
    put_u32(record, 66, progress.position_ms.unwrap_or(NONE));
    let ranges = progress.played.as_slice();
    debug_assert_eq!(usize::from(record[12]), ranges.len(), "the record was resized for its ranges");
    let start = record.len() - 8 * ranges.len();
    for (room, range) in record[start..].chunks_exact_mut(8).zip(ranges) {
        put_u32(room, 0, range.0);
        put_u32(room, 4, range.1);
    }
}

/// How many played ranges a record has room for.
pub(super) fn record_ranges(record: &[u8]) -> usize {
    usize::from(record[12])
}

/// Says how many played ranges a record will have room for; its end has to be resized for them next.
pub(super) fn set_record_ranges(record: &mut [u8], count: usize) {
    let len = record.len() + 8 * count - 8 * record_ranges(record);
    record[12] = u8::try_from(count).expect("at most 16");
    put_u16(record, 0, len);
}

fn some_ms(ms: u32) -> Option<u32> {
    Some(ms).filter(|ms| *ms != NONE)
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn get_u48(bytes: &[u8], at: usize) -> u64 {
    u64::from(get_u32(bytes, at)) | u64::from(get_u16(bytes, at + 4)) << 32
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put_u16(bytes: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("records are shorter than 64 KiB");
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u48(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 6].copy_from_slice(&value.min(WALL_MAX).to_le_bytes()[..6]);
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
