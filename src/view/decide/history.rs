//! Putting plays into history entries: plays of the same profile, title and device that are near each other are one entry.
//!
//! Entries are what is connected by nearness, so the order in which plays come makes no difference: a play between two
//! entries, near both, makes them one.

use crate::ids::DeviceId;
use crate::time::WallMs;
use crate::view::entry::{ENTRY_PLAYS_MAX, EntryRow, Play};
use crate::view::title::{Page, Span, insert_span};
use crate::view::txn::{Bail, TitleRef, Txn};

/// What became of a play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is in the history now.
    Added,
    /// It was there already.
    Unchanged,
    /// Its entry holds as many plays as one may.
    Full,
}

/// Spans of the device that are near `[from, to]`, with the page where each stands.
pub(super) fn spans_near(
    txn: &mut Txn<'_>,
    at: &TitleRef,
    device: &DeviceId,
    from: WallMs,
    to: WallMs,
    gap_ms: u64,
) -> Result<Vec<(Option<u32>, Span)>, Bail> {
    let takes = |span: &&Span| span.takes(device, from, to, gap_ms);
    let row = txn.title(at)?;
    let mut near: Vec<_> = row.spans.iter().filter(takes).map(|s| (None, s.clone())).collect();
    let pages: Vec<u32> = row.pages_within(WallMs(from.0.saturating_sub(gap_ms)), to.plus(gap_ms)).collect();
    let mark = txn.mark();
    for page in &pages {
        Txn::go_on(txn.page(at, *page))?;
    }
    txn.settle(mark)?;
    for page in pages {
        near.extend(txn.page(at, page)?.spans.iter().filter(takes).map(|s| (Some(page), s.clone())));
    }
    Ok(near)
}

/// Puts a play into the history. `always`: an entry that is full grows longer, though the play itself isn't kept.
pub(super) fn place(
    txn: &mut Txn<'_>,
    at: &TitleRef,
    device: &DeviceId,
    play: Play,
    always: bool,
) -> Result<Placed, Bail> {
    let near = spans_near(txn, at, device, play.start, play.end(), txn.settings.entry_gap_ms)?;
    let mark = txn.mark();
    for (_, span) in &near {
        Txn::go_on(txn.entry(at, device, span.start))?;
    }
    txn.settle(mark)?;
    let (mut start, mut end) = (play.start, play.end());
    let mut plays = Vec::new();
    for (_, span) in &near {
        let entry = txn.entry(at, device, span.start)?;
        (start, end) = (start.min(span.start), end.max(entry.end));
        plays.extend(entry.plays.iter().cloned());
    }
    if plays.iter().any(|p| p.is_same(&play)) {
        return Ok(Placed::Unchanged);
    }
    let full = plays.len() >= ENTRY_PLAYS_MAX;
    if full && !always {
        return Ok(Placed::Full);
    }
    if !full {
        plays.push(play);
    }
    plays.sort();
    let span = Span { start, len_ms: end.since(start), device: device.clone() };
    move_spans(txn, at, &near, span)?;
    for (_, span) in &near {
        txn.put_entry(at, device, span.start, None);
    }
    txn.put_entry(at, device, start, Some(EntryRow { end, plays }));
    Ok(if full { Placed::Full } else { Placed::Added })
}

/// Takes `gone` out of the directory and puts `span` in.
fn move_spans(txn: &mut Txn<'_>, at: &TitleRef, gone: &[(Option<u32>, Span)], span: Span) -> Result<(), Bail> {
    let target = txn.title(at)?.page_for(span.start);
    if let Some(page) = target {
        txn.page(at, page)?;
    }
    for (page, span) in gone {
        match page {
            None => txn.title(at)?.spans.retain(|s| s != span),
            Some(page) => change_page(txn, at, *page, |p| p.spans.retain(|s| s != span))?,
        }
    }
    match target {
        None => insert_span(&mut txn.title(at)?.spans, span),
        Some(page) => {
            // It may have been emptied and dropped just now.
            change_page(txn, at, page, |p| insert_span(&mut p.spans, span))?;
            split_page(txn, at, page)?;
        }
    }
    if let Some((id, page)) = txn.title(at)?.seal() {
        txn.new_page(at, id, page);
    }
    Ok(())
}

fn change_page(txn: &mut Txn<'_>, at: &TitleRef, id: u32, change: impl FnOnce(&mut Page)) -> Result<(), Bail> {
    let page = txn.page(at, id)?;
    change(page);
    let page = page.clone();
    txn.title(at)?.page_changed(id, &page);
    Ok(())
}

fn split_page(txn: &mut Txn<'_>, at: &TitleRef, id: u32) -> Result<(), Bail> {
    if let Some(newer) = txn.page(at, id)?.split() {
        change_page(txn, at, id, |_| ())?;
        let new = txn.title(at)?.add_page(&newer);
        txn.new_page(at, new, newer);
    }
    Ok(())
}
