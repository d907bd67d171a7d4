//! Moving rows that have cooled from live to the archive.
//!
//! A row has cooled when `cool_after_checkpoints` checkpoints have not changed it. Rows are looked at in key order, a budget
//! at a time, so that those that move together are neighbours and share pages. What has moved stays in live until the
//! replica's next checkpoint; a crash before that moves it once more, to the same end.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::codec::{self, ARCHIVE_HEADER_VERSION, CLASS_ROW, HEADER};
use super::db::Bad;
use super::tree::Tree;
use super::{Inner, Replica, Work};
use crate::ids::ReplicaId;
use crate::store::rules::add;
use crate::store::{CoolBudget, Cooled, Key, Pair, Value, WriteError};

/// The most rows that wait for a checkpoint to remove them from live. More are not moved.
const MOVED_MAX: usize = 200_000;

impl Inner {
    pub(super) fn cool(&self, id: ReplicaId, budget: CoolBudget) -> Result<Cooled, WriteError> {
        let replica = self.sound(id)?;
        let mut work = replica.work.lock();
        let (live, generation, gone) = {
            let view = replica.view.read();
            (view.live.clone(), view.header.as_ref().map_or(0, |header| header.generation), view.gone)
        };
        let idle = Cooled { wrapped: true, ..Cooled::default() };
        let Some(cold_at) = generation.checked_sub(self.options.cool_after_checkpoints) else { return Ok(idle) };
        if gone || cold_at == 0 || work.moved.len() >= MOVED_MAX {
            return Ok(idle);
        }
        let chosen = self.live.read(|| choose(&live, &work, cold_at, budget));
        let (rows, mut cooled, cursor) = chosen.map_err(|bad| self.tell_write(id, bad))?;
        if !rows.is_empty() {
            self.room_for(cooled.bytes_moved)?;
            self.archive_rows(&replica, &mut work, &rows).map_err(|bad| self.tell_write(id, bad))?;
            cooled.rows_moved = rows.len();
            add(&self.counters.cooled_rows, cooled.rows_moved);
            add(&self.counters.cooled_bytes, cooled.bytes_moved);
        }
        work.moved.extend(rows.into_keys());
        work.cursor = cursor;
        Ok(cooled)
    }

    /// Writes rows into the archive's pages, as one batch, and syncs it.
    fn archive_rows(&self, replica: &Replica, work: &mut Work, rows: &BTreeMap<Key, Option<Value>>) -> Result<(), Bad> {
        let (name, archive) = {
            let view = replica.view.read();
            (view.name, view.archive.clone())
        };
        let archive = match archive {
            Some(archive) => archive,
            None => self.archive.write(|| Ok(Tree { sled: self.archive.sled().open_tree(name.text())? }))?,
        };
        let mut header = work.archive_header.clone();
        header.version = ARCHIVE_HEADER_VERSION;
        header.moves += 1;
        let mut batch = sled::Batch::default();
        let mut rest = rows.iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let spread = self.archive.read(|| {
                let page = match archive.page_of(first)? {
                    Some(page) => Some(page),
                    // Before all pages: the first one takes it, under a smaller label.
                    None => archive.page_after(None)?,
                };
                let next = match &page {
                    Some((label, _)) => archive.page_after(Some(label))?,
                    None => None,
                };
                Ok((page, next.map(|(label, _)| label)))
            });
            let (page, next) = spread?;
            let mut changes = BTreeMap::new();
            while let Some((key, value)) = rest.next_if(|(key, _)| next.as_ref().is_none_or(|next| *key < next)) {
                changes.insert(key.clone(), value.clone());
            }
            let (label, old) = page.map_or((None, Vec::new()), |(label, rows)| (Some(label), rows));
            header.rows = header.rows.saturating_sub(old.len() as u64);
            header.bytes = header.bytes.saturating_sub(bytes_of(&old));
            header.pages = header.pages.saturating_sub(u64::from(label.is_some()));
            let mut merged: BTreeMap<Key, Value> = old.into_iter().collect();
            for (key, value) in changes {
                match value {
                    Some(value) => merged.insert(key, value),
                    None => merged.remove(&key),
                };
            }
            let merged: Vec<Pair> = merged.into_iter().collect();
            header.rows += merged.len() as u64;
            header.bytes += bytes_of(&merged);
            let pages = codec::divide(merged);
            header.pages += pages.len() as u64;
            put_pages(&mut work.archive, &mut batch, header.moves, label, &pages);
        }
        work.archive.put(&mut batch, HEADER.to_vec(), header.moves, Some(&header.encode()));
        {
            // Readers see the pages of one moment.
            let mut view = replica.view.write();
            self.archive.write(|| Ok(archive.sled.apply_batch(batch)?))?;
            view.archive = Some(archive);
        }
        self.sync(&self.archive)?;
        work.archive_header = header;
        Ok(())
    }
}

fn bytes_of(rows: &[Pair]) -> u64 {
    rows.iter().map(|(key, value)| codec::row_bytes(key, value) as u64).sum()
}

/// Puts the pages that take the place of one under `label`. The first keeps its label, unless its first row comes before it.
fn put_pages(writer: &mut super::Writer, batch: &mut sled::Batch, moves: u64, label: Option<Key>, pages: &[Vec<Pair>]) {
    let mut kept = false;
    for (n, page) in pages.iter().enumerate() {
        let first = &page[0].0;
        let name = match &label {
            Some(label) if n == 0 && label <= first => {
                kept = true;
                label
            }
            _ => first,
        };
        kept |= Some(name) == label.as_ref();
        writer.put(batch, codec::physical(CLASS_ROW, name), moves, Some(&codec::encode_page(page)));
    }
    if let (Some(label), false) = (label, kept) {
        writer.remove(batch, codec::physical(CLASS_ROW, &label));
    }
}

type Chosen = (BTreeMap<Key, Option<Value>>, Cooled, Option<Key>);

/// Finds rows that have cooled, from where the last call left off.
fn choose(live: &Tree, work: &Work, cold_at: u64, budget: CoolBudget) -> Result<Chosen, Bad> {
    let mut rows = BTreeMap::new();
    let mut cooled = Cooled::default();
    let mut cursor = work.cursor.clone();
    let from = cursor.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    for found in live.range_raw(CLASS_ROW, from) {
        let full = cooled.rows_looked_at >= budget.rows_looked_at_max || cooled.bytes_moved >= budget.bytes_moved_max;
        if full || work.moved.len() + rows.len() >= MOVED_MAX {
            return Ok((rows, cooled, cursor));
        }
        let (physical, raw) = found?;
        let key = physical[1..].to_vec();
        cooled.rows_looked_at += 1;
        let changed_at = codec::changed_at(&raw).ok_or_else(|| Bad::Corrupt("a row is cut short".to_string()))?;
        if changed_at <= cold_at && !work.moved.contains(&key) {
            let stored = live.decode(&physical, &raw)?;
            cooled.bytes_moved += key.len() + stored.value.as_ref().map_or(0, Vec::len);
            rows.insert(key.clone(), stored.value);
        }
        cursor = Some(key);
    }
    cooled.wrapped = true;
    Ok((rows, cooled, None))
}
