//! The rows of a shard as far as they are resident: what changed over what is being written over what was read.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::{Fence, Frozen, RowKey};

/// What is known of a row: its bytes, or that there is none.
type Value = Option<Arc<[u8]>>;

/// Look-ups go dirty -> frozen -> clean. Clean rows are two generations: what was read or written lately, and what was
/// before that.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    dirty: BTreeMap<RowKey, Value>,
    dirty_bytes: usize,
    frozen: Option<Arc<Frozen>>,
    young: BTreeMap<RowKey, Value>,
    young_bytes: usize,
    old: BTreeMap<RowKey, Value>,
    old_bytes: usize,
    thaws: u64,
}

/// What a row takes, about.
fn size(key: &RowKey, value: &Value) -> usize {
    key.as_bytes().len() + value.as_ref().map_or(0, |v| v.len()) + 64
}

impl Rows {
    /// What is known of a row; `None`: nothing, it isn't resident.
    pub(super) fn get(&self, key: &RowKey) -> Option<Option<&[u8]>> {
        let frozen = || self.frozen.as_ref().and_then(|f| f.rows.get(key));
        let value =
            self.dirty.get(key).or_else(frozen).or_else(|| self.young.get(key)).or_else(|| self.old.get(key))?;
        Some(value.as_deref())
    }

    /// Changes a row.
    pub(super) fn put(&mut self, key: RowKey, value: Option<Vec<u8>>) {
        let value: Value = value.map(Arc::from);
        self.dirty_bytes += size(&key, &value);
        let key_len = key.as_bytes().len();
        if let Some(before) = self.dirty.insert(key, value) {
            self.dirty_bytes -= key_len + before.map_or(0, |v| v.len()) + 64;
        }
    }

    /// Takes in what the store said, unless a checkpoint has overtaken it.
    pub(super) fn admit(&mut self, fence: Fence, key: RowKey, value: Option<&[u8]>) -> bool {
        if fence != self.fence() {
            return false;
        }
        if !self.young.contains_key(&key) && !self.old.contains_key(&key) {
            self.put_clean(key, value.map(Arc::from));
        }
        true
    }

    fn put_clean(&mut self, key: RowKey, value: Value) {
        self.young_bytes += size(&key, &value);
        let key_len = key.as_bytes().len();
        if let Some(before) = self.young.insert(key, value) {
            self.young_bytes -= key_len + before.map_or(0, |v| v.len()) + 64;
        }
    }

    /// See [`State::follow`](super::State::follow).
    pub(super) fn follow(&mut self, before: &Self) {
        self.thaws = self.thaws.max(before.thaws) + 1;
    }

    pub(super) fn fence(&self) -> Fence {
        Fence(self.thaws)
    }

    pub(super) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Takes out the dirty rows, to be frozen.
    pub(super) fn take_dirty(&mut self) -> BTreeMap<RowKey, Value> {
        self.dirty_bytes = 0;
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn freeze(&mut self, frozen: Arc<Frozen>) {
        self.frozen = Some(frozen);
    }

    /// The frozen rows are in the store: they are clean now, and what was read before is worthless.
    pub(super) fn thaw(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        self.thaws += 1;
        match Arc::try_unwrap(frozen) {
            // Of much that was changed at once, e.g. imported, the rest is put among it: the fewer rows are moved.
            Ok(frozen) if frozen.rows.len() > self.young.len() => {
                self.young_bytes = frozen.rows.iter().map(|(key, value)| size(key, value)).sum();
                let before = std::mem::replace(&mut self.young, frozen.rows);
                for (key, value) in before {
                    if !self.young.contains_key(&key) {
                        self.put_clean(key, value);
                    }
                }
            }
            Ok(frozen) => frozen.rows.into_iter().for_each(|(key, value)| self.put_clean(key, value)),
            Err(shared) => shared.rows.iter().for_each(|(key, value)| self.put_clean(key.clone(), value.clone())),
        }
    }

    /// Forgets clean rows, the older generation first, until at most `bytes` are left.
    pub(super) fn evict(&mut self, bytes: usize) {
        if self.young_bytes > bytes / 2 {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        if self.old_bytes + self.young_bytes > bytes {
            self.old.clear();
            self.old_bytes = 0;
        }
    }

    /// How many rows of a range are deleted over what the store has.
    pub(super) fn tombstones(&self, from: &[u8], to: &[u8]) -> usize {
        if from >= to {
            return 0;
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let count = |rows: &BTreeMap<RowKey, Value>| rows.range::<[u8], _>(range).filter(|(_, v)| v.is_none()).count();
        count(&self.dirty) + self.frozen.as_ref().map_or(0, |f| count(&f.rows))
    }

    /// The rows of a range as they are now: what the store had, under what changed since.
    pub(super) fn merge(&self, from: &[u8], to: &[u8], store: &[(Vec<u8>, Vec<u8>)]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = store.iter().cloned().collect();
        if from >= to {
            return BTreeMap::new();
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let mut lay = |over: &BTreeMap<RowKey, Value>| {
            for (key, value) in over.range::<[u8], _>(range) {
                match value {
                    Some(value) => rows.insert(key.as_bytes().to_vec(), value.to_vec()),
                    None => rows.remove(key.as_bytes()),
                };
            }
        };
        if let Some(frozen) = &self.frozen {
            lay(&frozen.rows);
        }
        lay(&self.dirty);
        rows
    }
}
