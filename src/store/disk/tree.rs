//! A replica's tree in one database, through the codec.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::codec::{self, CLASS_PIECE, CLASS_ROW, Change, Stored};
use super::db::Bad;
use crate::store::Key;

/// A tree of a replica.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) sled: sled::Tree,
}

impl Tree {
    pub(super) fn get(&self, physical: &[u8]) -> Result<Option<Stored>, Bad> {
        match self.sled.get(physical)? {
            Some(raw) => self.decode(physical, &raw).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn decode(&self, physical: &[u8], raw: &[u8]) -> Result<Stored, Bad> {
        codec::decode(physical, raw, |piece| Ok(self.sled.get(piece)?.map(|found| found.to_vec())))
    }

    /// What lies under the keys of a class, from one on, in order: the key without its class byte.
    pub(super) fn range(&self, class: u8, from: Bound<&[u8]>) -> impl Iterator<Item = Result<(Key, Stored), Bad>> {
        self.range_raw(class, from).map(|found| {
            let (physical, raw) = found?;
            let stored = self.decode(&physical, &raw)?;
            Ok((physical[1..].to_vec(), stored))
        })
    }

    pub(super) fn range_raw(
        &self,
        class: u8,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), Bad>> + use<> {
        let from = match from {
            Bound::Included(key) => Bound::Included(codec::physical(class, key)),
            Bound::Excluded(key) => Bound::Excluded(codec::physical(class, key)),
            Bound::Unbounded => Bound::Included(vec![class]),
        };
        self.sled.range((from, Bound::Excluded(vec![class + 1]))).map(|found| found.map_err(Bad::from))
    }

    /// The page that a row would be in, with its label: the last whose label is not greater.
    pub(super) fn page_of(&self, row: &[u8]) -> Result<Option<(Key, Vec<Change>)>, Bad> {
        let range = codec::physical(CLASS_ROW, &[])..=codec::physical(CLASS_ROW, row);
        self.sled.range(range).next_back().map(|found| found.map_err(Bad::from).and_then(|f| self.page(&f))).transpose()
    }

    /// The first page with a label greater than `label` (the first of all: `None`).
    pub(super) fn page_after(&self, label: Option<&[u8]>) -> Result<Option<(Key, Vec<Change>)>, Bad> {
        let from = label.map_or(Bound::Unbounded, Bound::Excluded);
        self.range_raw(CLASS_ROW, from).next().map(|found| found.and_then(|f| self.page(&f))).transpose()
    }

    /// The first label greater than `label`. What lies under it is not looked at.
    pub(super) fn label_after(&self, label: &[u8]) -> Result<Option<Key>, Bad> {
        let next = self.range_raw(CLASS_ROW, Bound::Excluded(label)).next().transpose()?;
        Ok(next.map(|(physical, _)| physical[1..].to_vec()))
    }

    /// A row, or its tombstone.
    pub(super) fn row(&self, key: &[u8]) -> Result<Option<Change>, Bad> {
        let page = self.page_of(key)?;
        Ok(page.and_then(|(_, rows)| rows.into_iter().find(|(found, _)| found == key)))
    }

    fn page(&self, (physical, raw): &(sled::IVec, sled::IVec)) -> Result<(Key, Vec<Change>), Bad> {
        let stored = self.decode(physical, raw)?;
        // Its checksum is right: it was written so.
        let rows = codec::decode_page(&stored.value.unwrap_or_default()).map_err(Bad::Unclear)?;
        Ok((physical[1..].to_vec(), rows))
    }
}

/// The rows of a tree in key order, page after page.
pub(super) struct Rows<'a> {
    tree: &'a Tree,
    label: Option<Key>,
    page: std::vec::IntoIter<Change>,
    ended: bool,
}

impl<'a> Rows<'a> {
    /// All rows with keys not less than `from`.
    pub(super) fn from(tree: &'a Tree, from: &[u8]) -> Result<Self, Bad> {
        let (label, mut page) = match tree.page_of(from)? {
            Some((label, page)) => (Some(label), page),
            None => (None, Vec::new()),
        };
        page.retain(|(key, _)| key.as_slice() >= from);
        Ok(Self { tree, label, page: page.into_iter(), ended: false })
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Change, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if let Some(row) = self.page.next() {
                return Some(Ok(row));
            }
            match self.tree.page_after(self.label.as_deref()) {
                Ok(Some((label, page))) => {
                    self.label = Some(label);
                    self.page = page.into_iter();
                }
                Ok(None) => self.ended = true,
                Err(bad) => {
                    self.ended = true;
                    return Some(Err(bad));
                }
            }
        }
        None
    }
}

/// Puts changes of a tree in a batch. It knows which values lie in pieces, so that none are left behind.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Physical keys of values in pieces, with their number.
    pieces: BTreeMap<Vec<u8>, u16>,
}

impl Writer {
    /// Finds the pieces that a tree has.
    pub(super) fn load(tree: &Tree) -> Result<Self, Bad> {
        let mut pieces = BTreeMap::new();
        for found in tree.range_raw(CLASS_PIECE, Bound::Unbounded) {
            let (key, _) = found?;
            let owner = codec::piece_owner(&key).ok_or_else(|| Bad::Corrupt("a piece without an owner".to_string()))?;
            *pieces.entry(owner.to_vec()).or_insert(0) += 1;
        }
        Ok(Self { pieces })
    }

    pub(super) fn put(&mut self, batch: &mut sled::Batch, physical: Vec<u8>, generation: u64, value: Option<&[u8]>) {
        let encoded = codec::encode(&physical, generation, value);
        let count = u16::try_from(encoded.pieces.len()).expect("checked by the codec");
        self.cut(batch, &physical, count);
        for (n, piece) in (0..count).zip(encoded.pieces) {
            batch.insert(codec::piece_key(&physical, n), piece);
        }
        if count > 0 {
            self.pieces.insert(physical.clone(), count);
        }
        batch.insert(physical, encoded.value);
    }

    pub(super) fn remove(&mut self, batch: &mut sled::Batch, physical: Vec<u8>) {
        self.cut(batch, &physical, 0);
        batch.remove(physical);
    }

    /// Removes the pieces from `keep` on.
    fn cut(&mut self, batch: &mut sled::Batch, physical: &[u8], keep: u16) {
        if let Some(count) = self.pieces.remove(physical) {
            for n in keep..count {
                batch.remove(codec::piece_key(physical, n));
            }
        }
    }
}
