//! Checkpoints: one batch each, one flush and one sync for all that came together.

use std::sync::Arc;

use super::Inner;
use super::codec::{self, CLASS_IMAGE, CLASS_ROW, HEADER};
use crate::ids::ReplicaId;
use crate::store::rules::{self, add};
use crate::store::{Checkpoint, Checkpointed, Header, Key, Value, WriteError};

impl Inner {
    pub(super) fn checkpoint(
        &self,
        checkpoints: Vec<(ReplicaId, Arc<Checkpoint>)>,
    ) -> Vec<Result<Checkpointed, WriteError>> {
        if let Err(refused) = rules::check_group(checkpoints.len()) {
            return vec![Err(refused); checkpoints.len()];
        }
        let mut answers: Vec<_> = checkpoints.iter().map(|(replica, new)| self.apply(*replica, new)).collect();
        if answers.iter().any(Result::is_ok)
            && let Err(bad) = self.sync(&self.live)
        {
            for (answer, (id, _)) in answers.iter_mut().zip(&checkpoints).filter(|(answer, _)| answer.is_ok()) {
                *answer = Err(self.tell_write(*id, bad.clone()));
            }
        }
        answers
    }

    /// Applies one checkpoint as one batch. Nothing of it is durable yet.
    fn apply(&self, id: ReplicaId, new: &Checkpoint) -> Result<Checkpointed, WriteError> {
        let replica = self.sound(id)?;
        let mut work = replica.work.lock();
        let work = &mut *work;
        let (last, has_archive) = {
            let view = replica.view.read();
            (view.header.as_ref().map(|header| header.generation), view.archive.is_some())
        };
        rules::check_checkpoint(id, new, last)?;
        let bytes = bytes_of(&new.images) + bytes_of(&new.rows);
        self.room_for(bytes)?;
        let mut lease = replica.lease.lock();
        if !lease.allows_change(self.clock.monotonic()) {
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
        for (key, value) in &new.rows {
            work.moved.remove(key);
            let physical = codec::physical(CLASS_ROW, key);
            if value.is_some() || has_archive {
                work.live.put(&mut batch, physical, new.generation, value.as_deref());
            } else {
                // There is nothing that a tombstone would have to hide.
                work.live.remove(&mut batch, physical);
            }
        }
        for key in std::mem::take(&mut work.moved) {
            work.live.remove(&mut batch, codec::physical(CLASS_ROW, &key));
        }
        let stored = work.images.header(id, new.generation, work.archive_header.moves, &new.header).encode();
        work.live.put(&mut batch, HEADER.to_vec(), new.generation, Some(&stored));
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
