//! Reading: live first, then the archive.

use std::ops::Bound;

use super::codec::CLASS_IMAGE;
use super::db::Bad;
use super::tree::Rows;
use super::{Inner, View};
use crate::ids::ReplicaId;
use crate::store::rules::{Counters, add};
use crate::store::{Chunk, ReadError, Scan, Value};

/// A scan that has looked at this many rows and tombstones says that there is more, however few it found.
const LOOKED_AT_MAX: usize = 50_000;

impl Inner {
    /// Reads of one moment: no batch is applied to the replica meanwhile.
    pub(super) fn view<T>(&self, id: ReplicaId, call: impl FnOnce(&View) -> Result<T, Bad>) -> Result<T, ReadError> {
        let replica = self.sound(id)?;
        let view = replica.view.read();
        if view.gone {
            return Err(ReadError::UnknownReplica(id));
        }
        self.live.read(|| call(&view)).map_err(|bad| self.tell(id, bad))
    }
}

pub(super) fn images(view: &View, after: Option<&[u8]>, bytes_max: usize) -> Result<Chunk, Bad> {
    let mut chunk = Chunk::default();
    let mut bytes = 0;
    for found in view.live.range(CLASS_IMAGE, after.map_or(Bound::Unbounded, Bound::Excluded)) {
        if bytes > 0 && bytes >= bytes_max {
            chunk.more = true;
            break;
        }
        let (key, stored) = found?;
        let value = stored.value.ok_or_else(|| Bad::Corrupt("an image is a tombstone".to_string()))?;
        bytes += key.len() + value.len();
        chunk.pairs.push((key, value));
    }
    Ok(chunk)
}

pub(super) fn get(view: &View, key: &[u8], counters: &Counters) -> Result<Option<Value>, Bad> {
    if let Some((_, value)) = view.live.row(key)? {
        return Ok(value);
    }
    let Some(archive) = &view.archive else { return Ok(None) };
    add(&counters.archive_gets, 1);
    Ok(archive.row(key)?.and_then(|(_, value)| value))
}

/// What a scan asks for.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'a> {
    pub(super) from: &'a [u8],
    /// Exclusive; empty: to the end.
    pub(super) to: &'a [u8],
    pub(super) limit: usize,
    pub(super) bytes_max: usize,
}

/// Rows of live over rows of the archive, in key order. A live tombstone hides an archived row.
pub(super) fn scan(view: &View, bounds: Bounds<'_>) -> Result<Scan, Bad> {
    let mut scan = Scan { generation: view.header.as_ref().map_or(0, |header| header.generation), ..Scan::default() };
    if !bounds.to.is_empty() && bounds.from >= bounds.to {
        return Ok(scan);
    }
    let archived = view.archive.as_ref().map(|tree| Rows::from(tree, bounds.from)).transpose()?;
    let mut archived = archived.into_iter().flatten();
    let mut live = Rows::from(&view.live, bounds.from)?;
    let (mut next_live, mut next_archived) = (live.next().transpose()?, archived.next().transpose()?);
    let (mut bytes, mut looked_at) = (0, 0);
    loop {
        let order = match (&next_live, &next_archived) {
            (None, None) => return Ok(scan),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((live, _)), Some((archived, _))) => live.cmp(archived),
        };
        let row = if order.is_le() {
            if order.is_eq() {
                next_archived = archived.next().transpose()?;
            }
            std::mem::replace(&mut next_live, live.next().transpose()?)
        } else {
            std::mem::replace(&mut next_archived, archived.next().transpose()?)
        };
        let row = row.expect("the lesser of two keys is there");
        if !bounds.to.is_empty() && row.0.as_slice() >= bounds.to {
            return Ok(scan);
        }
        let full = scan.rows.len() >= bounds.limit || bytes >= bounds.bytes_max || looked_at >= LOOKED_AT_MAX;
        if full && (looked_at > 0 || bounds.limit == 0) {
            scan.next = Some(row.0);
            return Ok(scan);
        }
        looked_at += 1;
        if let (key, Some(value)) = row {
            bytes += key.len() + value.len();
            scan.rows.push((key, value));
        }
    }
}
