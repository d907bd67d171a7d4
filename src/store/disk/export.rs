//! Reading all of one checkpoint, in chunks.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::read::{self, Bounds};
use super::{Inner, Replica};
use crate::ids::ReplicaId;
use crate::store::rules::add;
use crate::store::{Export, ExportError, Exported, Header, Key, ReadError};

enum At {
    Images(Option<Key>),
    /// Where the next rows begin.
    Rows(Key),
    End,
}

pub(super) struct DiskExport {
    inner: Arc<Inner>,
    replica: Arc<Replica>,
    header: Header,
    serial: u64,
    at: At,
}

impl DiskExport {
    pub(super) fn begin(inner: &Arc<Inner>, id: ReplicaId, lease_ms: u64) -> Result<Self, ExportError> {
        let replica = inner.sound(id)?;
        let (header, serial) = {
            let mut lease = replica.lease.lock();
            let header = replica.view.read().header.clone().ok_or(ExportError::Empty(id))?;
            let serial = lease.take(inner.clock.monotonic(), lease_ms).ok_or(ExportError::Busy(id))?;
            (header, serial)
        };
        add(&inner.counters.exports, 1);
        Ok(Self { inner: Arc::clone(inner), replica, header, serial, at: At::Images(None) })
    }

    /// One step: a chunk, the end, or on to what comes next.
    fn step(&mut self, bytes_max: usize) -> Result<ControlFlow<Option<Exported>>, ReadError> {
        let id = self.replica.id;
        match &self.at {
            At::Images(after) => {
                let chunk = self.inner.view(id, |view| read::images(view, after.as_deref(), bytes_max))?;
                let last = chunk.pairs.last().map(|(key, _)| key.clone());
                self.at = if chunk.more { At::Images(last) } else { At::Rows(Vec::new()) };
                Ok(match chunk.pairs.is_empty() {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(Some(Exported::Images(chunk.pairs))),
                })
            }
            At::Rows(from) => {
                let bounds = Bounds { from, to: b"", limit: usize::MAX, bytes_max };
                let scan = self.inner.view(id, |view| read::scan(view, bounds))?;
                self.at = scan.next.map_or(At::End, At::Rows);
                Ok(match scan.rows.is_empty() {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(Some(Exported::Rows(scan.rows))),
                })
            }
            At::End => Ok(ControlFlow::Break(None)),
        }
    }
}

impl Export for DiskExport {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next(&mut self, bytes_max: usize) -> Result<Option<Exported>, ExportError> {
        loop {
            let step = self.step(bytes_max)?;
            // Asked after reading: a checkpoint cannot have come before what was read and be unknown here.
            let goes_on = self.replica.lease.lock().goes_on(self.serial, self.inner.clock.monotonic());
            match step {
                // All was read before: no checkpoint can spoil it any more.
                ControlFlow::Break(None) => return Ok(None),
                _ if !goes_on => {
                    add(&self.inner.counters.exports_broken_off, 1);
                    return Err(ExportError::LeaseLost(self.replica.id));
                }
                ControlFlow::Break(answer) => return Ok(answer),
                ControlFlow::Continue(()) => {}
            }
        }
    }
}

impl Drop for DiskExport {
    fn drop(&mut self) {
        self.replica.lease.lock().release(self.serial);
    }
}
