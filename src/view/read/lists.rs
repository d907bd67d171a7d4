//! The lists: scans of rows in the order of their keys, merged with what changed since the store was written.

use std::collections::BTreeMap;

use super::{Found, Unready};
use crate::ids::{AccountId, ProfileId, TitleId};
use crate::time::WallMs;
use crate::view::entry::EntryRow;
use crate::view::state::{Scan, State};
use crate::view::title::Span;
use crate::view::txn::{Bail, ContinueRow, TitleRef, Txn, continue_row, decode_row};
use crate::view::{ContinueItem, HistoryEntry, HistoryFilter, PAGE_ITEMS_MAX, Page, Reply, RowClass, RowKey};

/// The most bytes of rows that one page is made of.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// Whose list.
type Whose<'a> = (&'a AccountId, &'a ProfileId);

fn invalid(field: &str, accepted: &str) -> Reply {
    Reply::Invalid { field: field.into(), accepted: accepted.into() }
}

fn check_page(page: &Page) -> Option<Reply> {
    if page.items_max == 0 || page.items_max > PAGE_ITEMS_MAX {
        return Some(invalid("page.items_max", "must be 1 to 1000"));
    }
    None
}

const BAD_AFTER: &str = "must be where a page of this very list ended";

/// The key after `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Rows of a range as they are now, from its beginning on.
struct Known {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where what is known ends; `None`: all of the range is known.
    end: Option<Vec<u8>>,
}

/// How much is wanted of a list: so many rows, or so many bytes of them.
#[derive(Clone, Copy)]
struct Enough {
    rows: usize,
    bytes: u64,
}

impl Enough {
    /// For a page and `more` rows besides.
    fn of(page: &Page, more: usize) -> Self {
        let bytes = page.bytes_max.map_or(PAGE_BYTES_MAX, u64::from);
        Self { rows: page.items_max as usize + 1 + more, bytes: bytes.min(PAGE_BYTES_MAX) }
    }
}

/// The rows of `[from, to)` as they are now: enough of them, or all. Asks for a scan of the store where there is none that is of
/// this moment and long enough.
fn scan(state: &State, from: Vec<u8>, to: Vec<u8>, enough: Enough, found: Found<'_>) -> Result<Known, Unready> {
    if from >= to {
        return Ok(Known { rows: BTreeMap::new(), end: None });
    }
    let rows = state.rows();
    let ask = |limit, bytes_enough| {
        let (from, to) = (from.clone(), to.clone());
        Err(Unready::Scan(Scan { fence: state.fence(), from, to, limit, bytes_enough }))
    };
    let limit = enough.rows + rows.tombstones(&from, &to);
    let Some((scan, store)) =
        found.filter(|(scan, _)| scan.fence == state.fence() && scan.from == from && scan.to == to)
    else {
        return ask(limit, enough.bytes);
    };
    // Beyond the last row that was scanned nothing is known.
    let known = || store.rows.last().map_or_else(|| from.clone(), |(key, _)| after(key));
    let end = (!store.complete).then(known);
    let merged = rows.merge(&from, end.as_ref().unwrap_or(&to), &store.rows);
    let bytes: u64 = merged.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
    if end.is_none() || merged.len() >= enough.rows || bytes >= enough.bytes {
        return Ok(Known { rows: merged, end });
    }
    ask(limit.max(scan.limit.saturating_mul(2)), scan.bytes_enough.saturating_mul(2))
}

/// Fills a page: as many items as fit, and where the next page begins.
struct Filler {
    items_left: u32,
    bytes_left: u64,
    last: Option<Vec<u8>>,
    more: bool,
}

impl Filler {
    fn new(page: &Page) -> Self {
        let bytes_left = page.bytes_max.map_or(u64::MAX, u64::from);
        Self { items_left: page.items_max, bytes_left, last: None, more: false }
    }

    /// Whether an item goes on the page.
    fn takes<T: minicbor::Encode<()>>(&mut self, key: &[u8], item: &T) -> bool {
        let bytes = minicbor::to_vec(item).map_or(0, |b| b.len() as u64);
        if self.more || self.items_left == 0 || (self.last.is_some() && bytes > self.bytes_left) {
            self.more = true;
            return false;
        }
        self.items_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.last = Some(key.to_vec());
        true
    }

    /// What was offered was not all that there is.
    fn there_is_more(&mut self) {
        self.more = true;
    }

    fn next(self) -> Option<Vec<u8>> {
        self.last.filter(|_| self.more)
    }
}

/// The continue-watching row: what the rows say, but for titles that are being watched, which stand where their last report
/// puts them.
pub(super) fn continue_watching(
    state: &State,
    txn: &mut Txn<'_>,
    whose: Whose<'_>,
    page: &Page,
    found: Found<'_>,
) -> Result<Reply, Unready> {
    if let Some(bad) = check_page(page) {
        return Ok(bad);
    }
    let list = RowKey::list(RowClass::Continue, whose.0, whose.1);
    if page.after.as_ref().is_some_and(|a| RowKey::read_continue_row(&list, a).is_none()) {
        return Ok(invalid("page.after", BAD_AFTER));
    }
    let from = page.after.as_ref().map_or_else(|| RowKey::first_at(&list, WallMs(u64::MAX)), |a| after(a));
    let oldest = WallMs(txn.stamp.wall.0.saturating_sub(txn.settings.continue_ms));
    let to = RowKey::end_at(&list, oldest);
    let active = active_items(txn, whose)?;
    let known = scan(state, from.clone(), to.clone(), Enough::of(page, active.len()), found)?;
    let end = known.end.as_ref().unwrap_or(&to);
    let mut items = BTreeMap::new();
    for (key, value) in known.rows {
        let row_key = RowKey::from_bytes(&key);
        let Some((_, title)) = RowKey::read_continue_row(&list, &key) else { return Err(damaged(row_key).into()) };
        let row: ContinueRow = decode_row(&row_key, &value).map_err(Bail::Stop)?;
        if !active.contains_key(&title) {
            let ContinueRow { title_type, resume } = row;
            items.insert(key, ContinueItem { title, title_type, resume, active: false });
        }
    }
    for item in active.into_values().flatten() {
        let key = RowKey::continue_row(whose.0, whose.1, item.resume.at, &item.title).as_bytes().to_vec();
        // What lies beyond what is known may have others before it.
        if key >= from && key < *end {
            items.insert(key, item);
        }
    }
    let mut filler = Filler::new(page);
    let items = items.into_iter().filter(|(key, item)| filler.takes(key, item)).map(|(_, item)| item).collect();
    if known.end.is_some() {
        filler.there_is_more();
    }
    Ok(Reply::ContinueWatching { items, next: filler.next() })
}

fn damaged(key: RowKey) -> Bail {
    Bail::Stop(crate::view::Stop::DamagedRow { key, why: "its key cannot be read".to_string() })
}

/// The items of titles that are being watched; `None` for one that has no item.
fn active_items(txn: &mut Txn<'_>, whose: Whose<'_>) -> Result<BTreeMap<TitleId, Option<ContinueItem>>, Bail> {
    let views = txn.views(whose.0);
    let moving = views.iter().filter(|v| v.profile == *whose.1 && v.progress.kind.moves_resume_points());
    let titles: Vec<TitleRef> = moving.map(TitleRef::of).collect();
    let mark = txn.mark();
    for at in &titles {
        Txn::go_on(txn.title(at))?;
    }
    txn.settle(mark)?;
    let mut items = BTreeMap::new();
    for at in titles {
        let row = txn.title_as_if_ended(&at)?;
        let item = continue_row(&row).map(|row| ContinueItem {
            title: at.title.clone(),
            title_type: row.title_type,
            resume: row.resume,
            active: true,
        });
        items.insert(at.title, item);
    }
    Ok(items)
}

/// The history, of all titles or of one.
pub(super) fn history(
    state: &State,
    txn: &mut Txn<'_>,
    whose: Whose<'_>,
    filter: &HistoryFilter,
    page: &Page,
    found: Found<'_>,
) -> Result<Reply, Unready> {
    if let Some(bad) = check_page(page) {
        return Ok(bad);
    }
    let list = RowKey::list(RowClass::Entry, whose.0, whose.1);
    let read_after = |a: &Vec<u8>| RowKey::read_entry(&list, a);
    let fits = |title: &TitleId| filter.title.as_ref().is_none_or(|t| t == title);
    if page.after.as_ref().is_some_and(|a| !read_after(a).is_some_and(|(_, title, _)| fits(&title))) {
        return Ok(invalid("page.after", BAD_AFTER));
    }
    if filter.to == Some(WallMs(0)) {
        return Ok(Reply::History { entries: Vec::new(), next: None });
    }
    let newest = filter.to.map_or(WallMs(u64::MAX), |to| WallMs(to.0 - 1));
    let first = RowKey::first_at(&list, newest);
    let from = page.after.as_ref().map_or(first.clone(), |a| after(a).max(first));
    let to = RowKey::end_at(&list, filter.from.unwrap_or(WallMs(0)));
    let enough = Enough::of(page, 0);
    let (rows, complete) = match &filter.title {
        Some(title) => title_history(txn, &TitleRef::new(whose.0, whose.1, title), &from, &to, enough)?,
        None => profile_history(state, &list, from, to, enough, found)?,
    };
    let mut filler = Filler::new(page);
    let rows = rows.into_iter().filter(|(key, entry)| filler.takes(key, entry));
    let entries = rows.map(|(_, entry)| entry).collect();
    if !complete {
        filler.there_is_more();
    }
    Ok(Reply::History { entries, next: filler.next() })
}

/// Entries with their keys, and whether these are all that there are.
type Entries = (Vec<(Vec<u8>, HistoryEntry)>, bool);

fn profile_history(
    state: &State,
    list: &[u8],
    from: Vec<u8>,
    to: Vec<u8>,
    enough: Enough,
    found: Found<'_>,
) -> Result<Entries, Unready> {
    let mut entries = Vec::new();
    let known = scan(state, from, to, enough, found)?;
    let mut bytes = 0;
    for (key, value) in known.rows {
        if entries.len() == enough.rows || (bytes >= enough.bytes && bytes > 0) {
            return Ok((entries, false));
        }
        bytes += value.len() as u64;
        let row_key = RowKey::from_bytes(&key);
        let Some((start, title, device)) = RowKey::read_entry(list, &key) else { return Err(damaged(row_key).into()) };
        let row: EntryRow = decode_row(&row_key, &value).map_err(Bail::Stop)?;
        entries.push((key, row.show(title, device, start)));
    }
    Ok((entries, known.end.is_none()))
}

/// Entries of one title that are asked for at once, at first; then twice as many each time, as long as they are small enough.
const ENTRIES_AT_ONCE: usize = 32;

/// One title's entries with keys in `[from, to)`: by the title's directory, newest pages first, no further than needed.
fn title_history(txn: &mut Txn<'_>, at: &TitleRef, from: &[u8], to: &[u8], enough: Enough) -> Result<Entries, Bail> {
    let key =
        |span: &Span| RowKey::entry(&at.account, &at.profile, span.start, &at.title, &span.device).as_bytes().to_vec();
    let row = txn.title(at)?.clone();
    let mut spans = BTreeMap::new();
    let mut add = |list: &[Span]| {
        let keyed = list.iter().map(|s| (key(s), s.clone())).filter(|(k, _)| k.as_slice() >= from && k.as_slice() < to);
        spans.extend(keyed);
        spans.keys().nth(enough.rows - 1).and_then(|k| spans.get(k)).map(|s: &Span| s.start)
    };
    let mut enough_from = add(&row.spans);
    let mut pages = row.pages;
    pages.sort_by_key(|p| std::cmp::Reverse((p.to, p.id)));
    for page in pages {
        // All that is newer than this is there already.
        if enough_from.is_some_and(|start| page.to < start) {
            break;
        }
        enough_from = add(&txn.page(at, page.id)?.spans);
    }
    let chosen: Vec<_> = spans.into_iter().take(enough.rows).collect();
    let mut entries = Vec::new();
    let mut bytes = 0;
    let (mut rest, mut at_once) = (chosen.as_slice(), ENTRIES_AT_ONCE);
    while !rest.is_empty() {
        let (some, later) = rest.split_at(at_once.min(rest.len()));
        (rest, at_once) = (later, at_once * 2);
        let mark = txn.mark();
        for (_, span) in some {
            Txn::go_on(txn.entry(at, &span.device, span.start))?;
        }
        txn.settle(mark)?;
        for (key, span) in some {
            if bytes >= enough.bytes && bytes > 0 {
                return Ok((entries, false));
            }
            let row = txn.entry(at, &span.device, span.start)?.clone();
            let entry = row.show(at.title.clone(), span.device.clone(), span.start);
            bytes += minicbor::to_vec(&entry).map_or(0, |bytes| bytes.len() as u64);
            entries.push((key.clone(), entry));
        }
    }
    // One more than a page holds was looked for, so that what follows is known to be there.
    Ok((entries, true))
}
