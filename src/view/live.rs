//! The active views of a shard, packed: chunks of records in the order of the accounts' tokens.
//!
//! A chunk is a run of records behind a version byte, 2 to 4 KiB of them, and is its own image: a checkpoint copies the
//! chunks that changed. A report is found by token, walks one chunk and is written in place. A chunk's key is the lowest
//! token that may stand in it; chunks split and merge as they grow and shrink, so the keys say nothing about the shard.
//!
//! When views are due is kept as a lower bound for each chunk and one for all: a report, which only postpones its view,
//! leaves both alone; [`Live::next_due`] makes exact what has passed.

use std::collections::{BTreeMap, BTreeSet};

use super::key::token;
use super::record::{self, LiveView, Progress};
use super::{Image, Settings};
use crate::ids::{AccountId, ViewId};
use crate::time::LogicalMs;

/// The version of images.
const IMAGE_VERSION: u8 = 1;
/// A chunk longer than this is split, unless it holds a single token.
const CHUNK_BYTES_MAX: usize = 4096;
/// A chunk shorter than this joins the one before.
const CHUNK_BYTES_MIN: usize = 1024;
/// Room is made in such steps, so that little of it is unused.
const ROOM_STEP: usize = 256;

/// Bits of an index slot that say where a record begins. A chunk is longer than a few KiB only where one account's views
/// are, of which there are at most 128 of at most 1.3 KiB.
const OFFSET_BITS: u32 = 20;
const OFFSET_MASK: u32 = (1 << OFFSET_BITS) - 1;

/// The bits of a token that an index slot holds.
fn tag(token: u64) -> u32 {
    token as u32 & (u32::MAX >> OFFSET_BITS)
}

#[derive(Clone, Debug)]
struct Chunk {
    /// The version, then records in order.
    bytes: Vec<u8>,
    /// For each record, the low bits of its token above the low bits of where it begins: so that a report touches its own
    /// record only, and not all before it.
    index: Vec<u32>,
    /// No view in it is due before.
    due: LogicalMs,
    /// It differs from its image in the store.
    changed: bool,
}

impl Chunk {
    fn new() -> Self {
        Self { bytes: vec![IMAGE_VERSION], index: Vec::new(), due: LogicalMs(u64::MAX), changed: true }
    }

    fn records(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut at = 1;
        std::iter::from_fn(move || {
            let (record, _) = record::split_record(self.bytes.get(at..)?).ok()?;
            at += record.len();
            Some((at - record.len(), record))
        })
    }

    /// Where a view's record begins, and its length.
    fn find(&self, token: u64, account: &str, view: &str) -> Option<(usize, usize)> {
        let begins = |slot: &&u32| **slot >> OFFSET_BITS == tag(token);
        for slot in self.index.iter().filter(begins) {
            let at = (slot & OFFSET_MASK) as usize;
            let (record, _) = record::split_record(&self.bytes[at..]).ok()?;
            if record::record_token(record) == token && record::record_is(record, account, Some(view)) {
                return Some((at, record.len()));
            }
        }
        None
    }

    /// Makes the index anew, after records have moved.
    fn reindex(&mut self) {
        let mut index = std::mem::take(&mut self.index);
        index.clear();
        let records = self.records();
        index.extend(records.map(|(at, r)| tag(record::record_token(r)) << OFFSET_BITS | at as u32 & OFFSET_MASK));
        index.shrink_to(index.len() + 4);
        self.index = index;
    }

    /// Replaces `bytes[at..at + old]` by `new`.
    fn splice(&mut self, at: usize, old: usize, new: &[u8]) {
        let len = self.bytes.len() - old + new.len();
        if len > self.bytes.capacity() {
            self.bytes.reserve_exact(len.next_multiple_of(ROOM_STEP) - self.bytes.len());
        }
        self.bytes.splice(at..at + old, new.iter().copied());
        self.changed = true;
        if old != new.len() {
            self.reindex();
        }
    }

    /// The earliest due time, exactly.
    fn due_exactly(&self, settings: &Settings) -> LogicalMs {
        let dues = self.records().filter_map(|(_, r)| record::read_progress(r)).map(|p| p.due(settings));
        dues.min().unwrap_or(LogicalMs(u64::MAX))
    }
}

/// The active views of a shard. See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    chunks: BTreeMap<u64, Chunk>,
    dropped: BTreeSet<u64>,
    count: u64,
    /// No view is due before.
    due: LogicalMs,
}

/// Reads a record that stands in a chunk.
fn read(record: &[u8]) -> LiveView {
    record::check_record(record).expect("records in memory were checked when they came in")
}

impl Live {
    /// How many views are active.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn chunk_key(&self, token: u64) -> Option<u64> {
        self.chunks.range(..=token).next_back().map(|(key, _)| *key)
    }

    /// A view.
    pub(super) fn get(&self, account: &AccountId, view: &ViewId) -> Option<LiveView> {
        let token = token(account);
        let (_, chunk) = self.chunks.range(..=token).next_back()?;
        let (at, len) = chunk.find(token, account.as_str(), view.as_str())?;
        Some(read(&chunk.bytes[at..at + len]))
    }

    /// What reports change of a view.
    pub(super) fn progress(&self, account: &AccountId, view: &ViewId) -> Option<Progress> {
        let token = token(account);
        let (_, chunk) = self.chunks.range(..=token).next_back()?;
        let (at, len) = chunk.find(token, account.as_str(), view.as_str())?;
        record::read_progress(&chunk.bytes[at..at + len])
    }

    /// All views of an account, by view id.
    pub(super) fn of_account(&self, account: &AccountId) -> Vec<LiveView> {
        let token = token(account);
        let Some((_, chunk)) = self.chunks.range(..=token).next_back() else { return Vec::new() };
        let of_account = |r: &&[u8]| record::record_token(r) == token && record::record_is(r, account.as_str(), None);
        chunk.records().map(|(_, r)| r).filter(of_account).map(read).collect()
    }

    /// Changes a view's progress in place, where `change` says so (`Some`).
    pub(super) fn update<R>(
        &mut self,
        settings: &Settings,
        account: &AccountId,
        view: &ViewId,
        change: impl FnOnce(&mut Progress) -> Option<R>,
    ) -> Option<R> {
        let token = token(account);
        let (&key, chunk) = self.chunks.range_mut(..=token).next_back()?;
        let (at, len) = chunk.find(token, account.as_str(), view.as_str())?;
        let mut progress = record::read_progress(&chunk.bytes[at..at + len])?;
        let answer = change(&mut progress)?;
        let (had, has) = (record::record_ranges(&chunk.bytes[at..at + len]), progress.played.as_slice().len());
        let new_len = len + 8 * has - 8 * had;
        if has != had {
            record::set_record_ranges(&mut chunk.bytes[at..at + len], has);
            let more = has.saturating_sub(had);
            let fewer = had.saturating_sub(has);
            chunk.splice(at + len - 8 * fewer, 8 * fewer, &[0; 8 * record::VIEW_RANGES_MAX][..8 * more]);
        }
        let record = &mut chunk.bytes[at..at + new_len];
        record::write_progress(record, &progress);
        chunk.changed = true;
        let due = progress.due(settings);
        chunk.due = chunk.due.min(due);
        self.due = self.due.min(due);
        if chunk.bytes.len() > CHUNK_BYTES_MAX {
            self.split(key);
        }
        Some(answer)
    }

    /// Puts a view in, in place of the one with its id.
    pub(super) fn put(&mut self, settings: &Settings, view: &LiveView) {
        let due = view.progress.due(settings);
        let bytes = view.to_record();
        let token = token(&view.account);
        let key = self.chunk_key(token).unwrap_or(0);
        self.dropped.remove(&key);
        let chunk = self.chunks.entry(key).or_insert_with(Chunk::new);
        match chunk.find(token, view.account.as_str(), view.view.as_str()) {
            Some((at, len)) => chunk.splice(at, len, &bytes),
            None => {
                let order = record::record_order(&bytes);
                let at = chunk.records().find(|(_, r)| record::record_order(r) > order).map(|(at, _)| at);
                let at = at.unwrap_or(chunk.bytes.len());
                chunk.splice(at, 0, &bytes);
                self.count += 1;
            }
        }
        chunk.due = chunk.due.min(due);
        self.due = self.due.min(due);
        if chunk.bytes.len() > CHUNK_BYTES_MAX {
            self.split(key);
        }
    }

    /// Takes a view out.
    pub(super) fn remove(&mut self, account: &AccountId, view: &ViewId) {
        let token = token(account);
        let Some((&key, chunk)) = self.chunks.range_mut(..=token).next_back() else { return };
        let Some((at, len)) = chunk.find(token, account.as_str(), view.as_str()) else { return };
        chunk.splice(at, len, &[]);
        self.count -= 1;
        if chunk.bytes.len() < CHUNK_BYTES_MIN {
            self.join(key);
        }
    }

    /// Splits a chunk where a token begins, as near to its middle as can be.
    fn split(&mut self, key: u64) {
        let Some(chunk) = self.chunks.get_mut(&key) else { return };
        let middle = chunk.bytes.len() / 2;
        let mut last = None;
        let starts = chunk.records().filter_map(|(at, r)| {
            let token = record::record_token(r);
            let begins = last.replace(token) != Some(token);
            (begins && at > 1).then_some((at, token))
        });
        let Some((at, token)) = starts.min_by_key(|(at, _)| at.abs_diff(middle)) else { return };
        let mut upper = Chunk::new();
        upper.splice(1, 0, &chunk.bytes[at..]);
        upper.due = chunk.due;
        chunk.bytes.truncate(at);
        chunk.reindex();
        chunk.bytes.shrink_to(at.next_multiple_of(ROOM_STEP));
        chunk.changed = true;
        self.dropped.remove(&token);
        self.chunks.insert(token, upper);
    }

    /// Drops an empty chunk; joins a small one to the chunk before, where there is room for both.
    fn join(&mut self, key: u64) {
        let len = self.chunks.get(&key).map_or(0, |c| c.bytes.len());
        let before = self.chunks.range(..key).next_back().map(|(k, c)| (*k, c.bytes.len()));
        match before {
            Some((before, room)) if len <= 1 || room + len <= CHUNK_BYTES_MAX * 3 / 4 => {
                let Some(gone) = self.chunks.remove(&key) else { return };
                let Some(chunk) = self.chunks.get_mut(&before) else { return };
                let end = chunk.bytes.len();
                chunk.splice(end, 0, &gone.bytes[1..]);
                chunk.due = chunk.due.min(gone.due);
                self.dropped.insert(key);
            }
            None if len <= 1 => {
                self.chunks.remove(&key);
                self.dropped.insert(key);
            }
            _ => {}
        }
    }

    /// See [`State::next_due`](super::State::next_due).
    pub(super) fn next_due(&mut self, settings: &Settings, now: LogicalMs) -> Option<LogicalMs> {
        if self.count == 0 {
            return None;
        }
        if self.due <= now {
            let mut due = LogicalMs(u64::MAX);
            for chunk in self.chunks.values_mut() {
                if chunk.due <= now {
                    chunk.due = chunk.due_exactly(settings);
                }
                due = due.min(chunk.due);
            }
            self.due = due;
        }
        Some(self.due)
    }

    /// The views that are due at `now`, the longest due first, at most `max`.
    pub(super) fn due(&self, settings: &Settings, now: LogicalMs, max: usize) -> Vec<LiveView> {
        let mut due: Vec<(LogicalMs, u64, &[u8])> = Vec::new();
        for chunk in self.chunks.values().filter(|c| c.due <= now) {
            for (_, record) in chunk.records() {
                let Some(at) = record::read_progress(record).map(|p| p.due(settings)) else { continue };
                if at <= now {
                    due.push((at, record::record_token(record), record));
                }
            }
        }
        due.sort_by(|a, b| (a.0, record::record_order(a.2)).cmp(&(b.0, record::record_order(b.2))));
        due.truncate(max);
        due.into_iter().map(|(_, _, record)| read(record)).collect()
    }

    /// Forgets all bounds of due times: the rules changed.
    pub(super) fn forget_due(&mut self) {
        self.chunks.values_mut().for_each(|c| c.due = LogicalMs(0));
        self.due = LogicalMs(0);
    }

    /// Images that changed since the last call; `None`: dropped.
    pub(super) fn take_changed(&mut self) -> Vec<Image> {
        let dropped = std::mem::take(&mut self.dropped);
        let gone = dropped.into_iter().map(|key| (key.to_be_bytes().to_vec(), None));
        let changed = self.chunks.iter_mut().filter(|(_, c)| c.changed).map(|(key, chunk)| {
            chunk.changed = false;
            (key.to_be_bytes().to_vec(), Some(chunk.bytes.as_slice().into()))
        });
        gone.chain(changed).collect()
    }

    /// Takes in an image as it was stored, and checks all of it.
    pub(super) fn restore(&mut self, key: &[u8], image: &[u8]) -> Result<(), String> {
        let key = u64::from_be_bytes(key.try_into().map_err(|_| "an image's key has 8 bytes")?);
        let Some((&IMAGE_VERSION, mut rest)) = image.split_first() else {
            return Err(format!("image version {:?} is unknown", image.first()));
        };
        let mut last: Option<&[u8]> = None;
        while !rest.is_empty() {
            let (record, tail) = record::split_record(rest)?;
            record::check_record(record)?;
            let in_order = last.is_none_or(|last| record::record_order(last) < record::record_order(record));
            if !in_order || record::record_token(record) < key {
                return Err("its views are out of order".to_string());
            }
            (last, rest) = (Some(record), tail);
            self.count += 1;
        }
        let mut chunk = Chunk { bytes: image.to_vec(), index: Vec::new(), due: LogicalMs(0), changed: false };
        chunk.reindex();
        match self.chunks.insert(key, chunk) {
            None => Ok(()),
            Some(_) => Err("there are two images with its key".to_string()),
        }
    }

    /// Checks that restored images do not overlap.
    pub(super) fn check(&self) -> Result<(), (u64, String)> {
        let mut next_keys = self.chunks.keys().skip(1);
        for (key, chunk) in &self.chunks {
            let last = chunk.records().last().map(|(_, r)| record::record_token(r));
            if let (Some(next), Some(last)) = (next_keys.next(), last)
                && last >= *next
            {
                return Err((*key, "it overlaps the next image".to_string()));
            }
        }
        Ok(())
    }
}
