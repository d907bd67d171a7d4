//! Checkpoints: one batch each, one flush and one sync for all that came together.

use std::sync::Arc;

use super::Inner;
use super::codec::{self, CLASS_IMAGE, CLASS_ROW, HEADER};
use super::cool::Moved;
use crate::ids::ReplicaId;
use crate::store::rules::{self, StoredHeader, add};
use crate::store::{Checkpoint, Checkpointed, Haste, Header, Key, Value, WriteError};

impl Inner {
    pub(super) fn checkpoint(
        &self,
        checkpoints: Vec<(ReplicaId, Arc<Checkpoint>, Haste)>,
    ) -> Vec<Result<Checkpointed, WriteError>> {
        if let Err(refused) = rules::check_group(checkpoints.len()) {
            return vec![Err(refused); checkpoints.len()];
        }
        self.make_way(&checkpoints);
        let mut answers: Vec<_> = checkpoints.iter().map(|(id, new, haste)| self.apply(*id, new, *haste)).collect();
        if answers.iter().any(Result::is_ok)
            && let Err(bad) = self.sync(&self.live)
        {
            for (answer, (id, ..)) in answers.iter_mut().zip(&checkpoints).filter(|(answer, _)| answer.is_ok()) {
                *answer = Err(self.tell_write(*id, bad.clone()));
            }
        }
        answers
    }

    /// Moves what the last checkpoints have left in live, with one sync for all. What goes wrong here goes wrong once more
    /// in [`Self::apply`], which tells it.
    fn make_way(&self, checkpoints: &[(ReplicaId, Arc<Checkpoint>, Haste)]) {
        let mut moved = Vec::new();
        for replica in checkpoints.iter().filter_map(|(id, ..)| self.sound(*id).ok()) {
            let mut work = replica.work.lock();
            if self.move_rows(&replica, &mut work, usize::MAX).is_ok_and(|cooled| cooled.rows_moved > 0) {
                drop(work);
                moved.push(replica);
            }
        }
        if moved.len() > 1 && self.sync(&self.archive).is_ok() {
            for replica in moved {
                let mut work = replica.work.lock();
                work.moves_synced = work.archive_header.moves;
            }
        }
    }

    /// Applies one checkpoint as one batch. Nothing of it is durable yet.
    fn apply(&self, id: ReplicaId, new: &Checkpoint, haste: Haste) -> Result<Checkpointed, WriteError> {
        let replica = self.sound(id)?;
        let mut work = replica.work.lock();
        let work = &mut *work;
        let last = replica.view.read().header.as_ref().map(|header| header.generation);
        rules::check_checkpoint(id, new, last)?;
        let bytes = bytes_of(&new.images) + bytes_of(&new.rows);
        self.room_for(bytes)?;
        self.move_rows(&replica, work, usize::MAX)?;
        self.settle_moves(work).map_err(|bad| self.tell_write(id, bad))?;
        let has_archive = replica.view.read().archive.is_some();
        let mut lease = replica.lease.lock();
        if !lease.allows_change(self.clock.monotonic(), haste) {
            add(&self.counters.checkpoints_held_off, 1);
            return Err(WriteError::Busy(id));
        }
        let mut batch = sled::Batch::default();
        for (key, value) in &new.images {
            work.images.put(key, value.as_deref());
            let physical = codec::physical(CLASS_IMAGE, key);
            match value {
                Some(value) => work.live.put(&mut batch, physical, new.generation, Some(value)),
                None => work.live.remove(&mut batch, physical),
            }
        }
        // The rows of the checkpoint before are in the archive; those of this one take their place.
        for (label, _) in std::mem::take(&mut work.pages).labels() {
            work.live.remove(&mut batch, codec::physical(CLASS_ROW, label));
        }
        // Without an archive there is nothing that a tombstone would have to hide.
        let mut rows: Vec<_> = new.rows.iter().filter(|(_, value)| value.is_some() || has_archive).cloned().collect();
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for page in codec::divide(rows) {
            let (label, encoded) = (&page[0].0, codec::encode_page(&page));
            work.pages.put(label, Some(&encoded));
            work.live.put(&mut batch, codec::physical(CLASS_ROW, label), new.generation, Some(&encoded));
        }
        let (rows_digest, row_pages) = work.pages.digest();
        let moves = work.archive_header.moves;
        let images = work.images.header(id, new.generation, &new.header);
        let stored = StoredHeader { rows_digest, row_pages, archive_moves: moves, ..images }.encode();
        work.live.put(&mut batch, HEADER.to_vec(), new.generation, Some(&stored));
        work.moved = if row_pages > 0 { Moved::nothing() } else { Moved::All };
        let done = Checkpointed { generation: new.generation, checksum: rules::checksum(&stored) };
        {
            let mut view = replica.view.write();
            if view.gone {
                return Err(crate::store::ReadError::UnknownReplica(id).into());
            }
            let applied = self.live.write(|| Ok(view.live.sled.apply_batch(batch)?));
            applied.map_err(|bad| self.tell_write(id, bad))?;
            view.header =
                Some(Header { generation: done.generation, checksum: done.checksum, bytes: new.header.clone() });
        }
        add(&self.counters.checkpoints, 1);
        add(&self.counters.checkpoint_images, new.images.len());
        add(&self.counters.checkpoint_rows, new.rows.len());
        add(&self.counters.checkpoint_bytes, bytes);
        Ok(done)
    }
}

pub(super) fn bytes_of(changes: &[(Key, Option<Value>)]) -> usize {
    changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
}
