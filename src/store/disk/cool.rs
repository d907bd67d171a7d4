//! Moving rows from live to the archive.
//!
//! Live holds, of rows, what the newest checkpoint has changed, and nothing else; all others are in the archive. So all that
//! is in live was written by one checkpoint, or is an image: things that live equally long. (Where they do not, sled's file
//! grows to several times its content: see `docs/decisions/`.) What the newest checkpoint has changed is moved before the
//! next takes its place. A crash in between moves it once more, to the same end.

use std::collections::BTreeMap;

use super::codec::{self, ARCHIVE_HEADER_VERSION, CLASS_ROW, Change, HEADER};
use super::db::Bad;
use super::tree::{Rows, Tree};
use super::{Inner, Replica, Work};
use crate::ids::ReplicaId;
use crate::store::rules::add;
use crate::store::{CoolBudget, Cooled, Key, ReadError, Value, WriteError};

/// How much of live's rows the archive has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Moved {
    /// All rows before this key.
    UpTo(Key),
    /// All of them.
    #[default]
    All,
}

impl Moved {
    pub(super) fn nothing() -> Self {
        Self::UpTo(Key::new())
    }
}

impl Inner {
    pub(super) fn cool(&self, id: ReplicaId, budget: CoolBudget) -> Result<Cooled, WriteError> {
        let replica = self.sound(id)?;
        let mut work = replica.work.lock();
        let cooled = self.move_rows(&replica, &mut work, budget.bytes_moved_max)?;
        self.settle_moves(&mut work).map_err(|bad| self.tell_write(id, bad))?;
        Ok(cooled)
    }

    /// Moves rows until about so many bytes are moved. What was moved is not synced yet: see [`Self::settle_moves`].
    pub(super) fn move_rows(&self, replica: &Replica, work: &mut Work, bytes_max: usize) -> Result<Cooled, WriteError> {
        let mut cooled = Cooled { done: true, ..Cooled::default() };
        let Moved::UpTo(from) = work.moved.clone() else { return Ok(cooled) };
        let live = {
            let view = replica.view.read();
            if view.gone {
                return Err(ReadError::UnknownReplica(replica.id).into());
            }
            view.live.clone()
        };
        let mut next = None;
        let chosen = self.live.read(|| {
            let mut rows = BTreeMap::new();
            for row in Rows::from(&live, &from)? {
                let row = row?;
                if cooled.bytes_moved >= bytes_max && !rows.is_empty() {
                    next = Some(row.0);
                    break;
                }
                cooled.bytes_moved += codec::row_bytes(&row);
                rows.insert(row.0, row.1);
            }
            Ok(rows)
        });
        let rows = chosen.map_err(|bad| self.tell_write(replica.id, bad))?;
        if !rows.is_empty() {
            self.room_for(cooled.bytes_moved)?;
            self.archive_rows(replica, work, &rows).map_err(|bad| self.tell_write(replica.id, bad))?;
        }
        cooled.rows_moved = rows.len();
        cooled.done = next.is_none();
        work.moved = next.map_or(Moved::All, Moved::UpTo);
        add(&self.counters.cooled_rows, cooled.rows_moved);
        add(&self.counters.cooled_bytes, cooled.bytes_moved);
        Ok(cooled)
    }

    /// Makes what was moved durable, so that a checkpoint may rely on it.
    pub(super) fn settle_moves(&self, work: &mut Work) -> Result<(), Bad> {
        if work.moves_synced < work.archive_header.moves {
            self.sync(&self.archive)?;
            work.moves_synced = work.archive_header.moves;
        }
        Ok(())
    }

    /// Writes rows into the archive's pages, as one batch.
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
            let ((label, old), next) = self.archive.read(|| page_for(&archive, first))?;
            header.rows = header.rows.saturating_sub(old.len() as u64);
            header.bytes = header.bytes.saturating_sub(bytes_of(&old));
            header.pages = header.pages.saturating_sub(u64::from(label.is_some()));
            let mut merged: BTreeMap<Key, Option<Value>> = old.into_iter().collect();
            while let Some((key, value)) = rest.next_if(|(key, _)| next.as_ref().is_none_or(|next| *key < next)) {
                match value {
                    Some(value) => merged.insert(key.clone(), Some(value.clone())),
                    None => merged.remove(key),
                };
            }
            let merged: Vec<Change> = merged.into_iter().collect();
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
        work.archive_header = header;
        Ok(())
    }
}

pub(super) fn bytes_of(rows: &[Change]) -> u64 {
    rows.iter().map(|row| codec::row_bytes(row) as u64).sum()
}

type Page = (Option<Key>, Vec<Change>);

/// The page that takes a row (its label and rows; no label where there is no page at all), and the label of the page behind.
fn page_for(archive: &Tree, row: &[u8]) -> Result<(Page, Option<Key>), Bad> {
    let page = match archive.page_of(row)? {
        Some(page) => Some(page),
        // Before all pages: the first one takes it, under a smaller label.
        None => archive.page_after(None)?,
    };
    let Some((label, rows)) = page else { return Ok(((None, Vec::new()), None)) };
    let next = archive.label_after(&label)?;
    Ok(((Some(label), rows), next))
}

/// Puts the pages that take the place of one under `label`. The first keeps its label, unless its first row comes before it.
fn put_pages(
    writer: &mut super::Writer,
    batch: &mut sled::Batch,
    moves: u64,
    label: Option<Key>,
    pages: &[Vec<Change>],
) {
    let mut kept = false;
    for (n, page) in pages.iter().enumerate() {
        let first = &page[0].0;
        let name = label.as_ref().filter(|label| n == 0 && *label <= first).unwrap_or(first);
        kept |= Some(name) == label.as_ref();
        writer.put(batch, codec::physical(CLASS_ROW, name), moves, Some(&codec::encode_page(page)));
    }
    if let (Some(label), false) = (label, kept) {
        writer.remove(batch, codec::physical(CLASS_ROW, &label));
    }
}
