//! A machine for tests: counts, in rows that have to be resident.

use std::collections::BTreeMap;

use crate::ids::Revision;
use crate::raft::{Changes, Machine, Missing, Stop};
use crate::store::{Key, Pair, Value};
use crate::time::{LogicalMs, Stamp};

/// A command that makes every replica stop.
pub(crate) const POISON: u64 = u64::MAX;
/// How many rows there are.
const ROWS: u64 = 16;

/// Adds each command `n` to row `n % 16` and remembers it in an image, so that what was applied can be looked up.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    logical: LogicalMs,
    revision: u64,
    fence: u64,
    /// All commands that were applied, in order.
    pub(crate) applied: Vec<u64>,
    resident: BTreeMap<Key, u64>,
    dirty: BTreeMap<Key, u64>,
    frozen: Option<BTreeMap<Key, u64>>,
}

/// What was set aside.
#[derive(Debug)]
pub(crate) struct TallyFrozen {
    header: Vec<u8>,
    image: Vec<u8>,
    rows: Vec<(Key, Option<Value>)>,
}

fn row(command: u64) -> Key {
    vec![1, u8::try_from(command % ROWS).expect("small")]
}

impl Tally {
    fn get(&self, key: &[u8]) -> Option<u64> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.get(key));
        self.dirty.get(key).or_else(frozen).or_else(|| self.resident.get(key)).copied()
    }
}

impl Machine for Tally {
    type Command = u64;
    /// The revision, and the row's sum.
    type Answer = (u64, u64);
    type Fence = u64;
    type Frozen = TallyFrozen;

    fn encode(command: &u64, out: &mut Vec<u8>) {
        out.extend(command.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<u64, Stop> {
        bytes.try_into().map(u64::from_be_bytes).map_err(|_| Stop("not a number".to_string()))
    }

    fn missing(&self, _: Stamp, command: &u64) -> Result<Option<Missing<u64>>, Stop> {
        let key = row(*command);
        Ok(self.get(&key).is_none().then(|| Missing { fence: self.fence, keys: vec![key] }))
    }

    fn admit(&mut self, fence: u64, key: &[u8], value: Option<&[u8]>) -> bool {
        if fence != self.fence {
            return false;
        }
        let value = value.map_or(0, |v| u64::from_be_bytes(v.try_into().expect("8 bytes")));
        self.resident.insert(key.to_vec(), value);
        true
    }

    fn apply(&mut self, stamp: Stamp, command: &u64) -> Result<(u64, u64), Stop> {
        if *command == POISON {
            return Err(Stop("poison".to_string()));
        }
        assert!(stamp.logical >= self.logical, "time goes back");
        let key = row(*command);
        let sum = self.get(&key).ok_or_else(|| Stop("not resident".to_string()))? + command;
        self.dirty.insert(key, sum);
        self.logical = stamp.logical;
        self.revision += 1;
        self.applied.push(*command);
        Ok((self.revision, sum))
    }

    fn logical(&self) -> LogicalMs {
        self.logical
    }

    fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    fn next_due(&mut self, _: LogicalMs) -> Option<LogicalMs> {
        None
    }

    fn tick() -> Option<u64> {
        None
    }

    fn freeze(&mut self) -> Option<TallyFrozen> {
        if self.frozen.is_some() {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        let rows = dirty.iter().map(|(key, sum)| (key.clone(), Some(sum.to_be_bytes().to_vec()))).collect();
        self.frozen = Some(dirty);
        let image = self.applied.iter().flat_map(|n| n.to_be_bytes()).collect();
        let header = [self.logical.0.to_be_bytes(), self.revision.to_be_bytes()].concat();
        Some(TallyFrozen { header, image, rows })
    }

    fn changes(frozen: &TallyFrozen) -> Changes {
        let images = vec![(b"applied".to_vec(), Some(frozen.image.clone()))];
        Changes { header: frozen.header.clone(), images, rows: frozen.rows.clone() }
    }

    fn thawed(&mut self) {
        self.frozen = None;
        self.fence += 1;
    }

    fn dirty_bytes(&self) -> usize {
        self.dirty.len() * 10
    }

    fn trim(&mut self) {
        // As forgetful as can be, so that rows are fetched all the time.
        self.resident.clear();
    }

    fn empty(&self) -> Self {
        Self::default()
    }

    fn restore(&self, header: &[u8], images: Vec<Pair>) -> Result<Self, Stop> {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
        let applied = images.iter().flat_map(|(_, image)| image.chunks(8).map(number)).collect();
        Ok(Self {
            logical: LogicalMs(number(&header[..8])),
            revision: number(&header[8..]),
            applied,
            ..Self::default()
        })
    }
}
