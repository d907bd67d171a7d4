//! What every store checks and computes in the same way: bounds, checksums, leases, verdicts.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{
    Checkpoint, CheckpointRecord, Haste, Key, Limits, Pair, ReadError, Retirement, Value, Verdict, WriteError,
};
use crate::ids::ReplicaId;
use crate::time::MonotonicMs;
use crate::versions::Spoken;

/// The version of [`StoredHeader`].
///
/// 1 (2026-11): the first, its fields 6 to 9 with several meanings one after the other; 2 (2026-11): as below;
/// 3 (2026-11): the same, of states that came about by the second version of commands.
pub(super) const HEADER_VERSION: u8 = 3;
// Whoever changes it has to write by the version that the replica or its cluster has come to, not by the newest.
const _: () = assert!(HEADER_VERSION == Spoken::BUILD.newest.formats().store_header);

/// Why a header can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    /// It is none.
    #[error("{what}: {why}")]
    Damaged {
        /// Which header.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// It is of another version.
    #[error("{what} has version {found}, this program knows {known}")]
    Version {
        /// Which header.
        what: &'static str,
        /// Its version.
        found: u8,
        /// The only one that is read.
        known: u8,
    },
}

/// Decodes a header that is an array with its version in front, if it is of version `known`: no other is looked into.
pub(super) fn decode_versioned<'b, T: minicbor::Decode<'b, ()>>(
    what: &'static str,
    known: u8,
    bytes: &'b [u8],
) -> Result<T, HeaderError> {
    let damaged = |e: minicbor::decode::Error| HeaderError::Damaged { what, why: e.to_string() };
    let mut decoder = minicbor::Decoder::new(bytes);
    decoder.array().map_err(damaged)?;
    let found = decoder.u8().map_err(damaged)?;
    if found != known {
        return Err(HeaderError::Version { what, found, known });
    }
    minicbor::decode(bytes).map_err(damaged)
}

/// What a store keeps of a replica's newest checkpoint beside the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) struct StoredHeader {
    #[n(0)]
    pub(super) version: u8,
    #[n(1)]
    pub(super) replica: ReplicaId,
    #[n(2)]
    pub(super) generation: u64,
    /// The sum of [`image_hash`] over all images, so that a checkpoint need not look at those it doesn't change.
    #[n(3)]
    pub(super) images_digest: u64,
    #[n(4)]
    pub(super) images: u64,
    #[n(5)]
    pub(super) image_bytes: u64,
    /// The sum of [`image_hash`] over the pages of the rows that this checkpoint has changed, and their number.
    #[n(6)]
    pub(super) rows_digest: u64,
    #[n(7)]
    pub(super) row_pages: u64,
    /// How many moves into the archive this checkpoint relies on.
    #[n(8)]
    pub(super) archive_moves: u64,
    /// The caller's.
    #[cbor(n(9), with = "minicbor::bytes")]
    pub(super) bytes: Vec<u8>,
}

impl StoredHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into a Vec cannot fail")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        decode_versioned("a replica's header", HEADER_VERSION, bytes)
    }
}

/// The checksum that goes into the log: over the encoded [`StoredHeader`], and so over the images' digest.
pub(super) fn checksum(encoded_header: &[u8]) -> u64 {
    xxh3_64(encoded_header)
}

/// One image's part in the digest.
pub(super) fn image_hash(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}

/// The images of a replica by key: hash and bytes (key included) of each. 40 bytes or so for an image of 2 to 4 KiB.
#[derive(Clone, Debug, Default)]
pub(super) struct ImageIndex {
    by_key: BTreeMap<Key, (u64, u64)>,
    digest: u64,
    bytes: u64,
}

impl ImageIndex {
    pub(super) fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        let old = match value {
            Some(value) => {
                let new = (image_hash(key, value), (key.len() + value.len()) as u64);
                self.digest = self.digest.wrapping_add(new.0);
                self.bytes += new.1;
                self.by_key.insert(key.to_vec(), new)
            }
            None => self.by_key.remove(key),
        };
        if let Some((hash, bytes)) = old {
            self.digest = self.digest.wrapping_sub(hash);
            self.bytes -= bytes;
        }
    }

    /// The keys, with what is known of each.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&Key, &(u64, u64))> {
        self.by_key.iter()
    }

    /// Sum and number of what is in it.
    pub(super) fn digest(&self) -> (u64, u64) {
        (self.digest, self.by_key.len() as u64)
    }

    /// A header over these images.
    pub(super) fn header(&self, replica: ReplicaId, generation: u64, bytes: &[u8]) -> StoredHeader {
        StoredHeader {
            version: HEADER_VERSION,
            replica,
            generation,
            images_digest: self.digest,
            images: self.by_key.len() as u64,
            image_bytes: self.bytes,
            bytes: bytes.to_vec(),
            ..StoredHeader::default()
        }
    }

    /// Whether these are the `what` that a header tells of.
    pub(super) fn matches(&self, what: &str, wanted: (u64, u64)) -> Result<(), String> {
        let found = self.digest();
        if found == wanted {
            return Ok(());
        }
        Err(format!(
            "{} {what} with digest {:016x} found, the header tells of {} with {:016x}",
            found.1, found.0, wanted.1, wanted.0
        ))
    }
}

/// Refuses what is beyond [`Limits`], stale or ambiguous, before anything is touched.
pub(super) fn check_checkpoint(replica: ReplicaId, new: &Checkpoint, last: Option<u64>) -> Result<(), WriteError> {
    if last.is_some_and(|last| new.generation <= last) || new.generation == 0 {
        return Err(WriteError::StaleGeneration { replica, given: new.generation, last: last.unwrap_or(0) });
    }
    check_value("a header's length in bytes", new.header.len())?;
    check_changes(replica, &new.images)?;
    check_changes(replica, &new.rows)
}

fn check_changes(replica: ReplicaId, changes: &[(Key, Option<Value>)]) -> Result<(), WriteError> {
    for (key, value) in changes {
        check_key(replica, key)?;
        check_value("a value's length in bytes", value.as_ref().map_or(0, Vec::len))?;
    }
    let ascending = changes.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let mut seen = HashSet::new();
    if !ascending && !changes.iter().all(|(key, _)| seen.insert(key)) {
        return Err(WriteError::BadKey { replica, what: "a key comes twice in one checkpoint" });
    }
    Ok(())
}

/// Refuses what an install cannot take: rows that do not ascend, and what is beyond [`Limits`].
pub(super) fn check_put(
    replica: ReplicaId,
    images: &[Pair],
    rows: &[Pair],
    last_row: Option<&[u8]>,
) -> Result<(), WriteError> {
    for (key, value) in images.iter().chain(rows) {
        check_key(replica, key)?;
        check_value("a value's length in bytes", value.len())?;
    }
    let first = rows.first().map(|(key, _)| key.as_slice());
    let ascend = rows.windows(2).all(|pair| pair[0].0 < pair[1].0) && (first.is_none() || last_row < first);
    if !ascend {
        return Err(WriteError::BadKey { replica, what: "the rows of a snapshot do not ascend" });
    }
    Ok(())
}

pub(super) fn check_key(replica: ReplicaId, key: &[u8]) -> Result<(), WriteError> {
    if key.is_empty() {
        return Err(WriteError::BadKey { replica, what: "a key is empty" });
    }
    if key.len() > Limits::KEY_BYTES {
        let (what, value) = ("a key's length in bytes", key.len());
        return Err(WriteError::OutOfBounds { what, value, max: Limits::KEY_BYTES });
    }
    Ok(())
}

pub(super) fn check_value(what: &'static str, len: usize) -> Result<(), WriteError> {
    if len > Limits::VALUE_BYTES {
        return Err(WriteError::OutOfBounds { what, value: len, max: Limits::VALUE_BYTES });
    }
    Ok(())
}

/// Refuses a `get` of too many keys.
pub(super) fn check_get(keys: &[Key]) -> Result<(), ReadError> {
    if keys.len() > Limits::KEYS_A_GET {
        let (what, value) = ("the number of keys", keys.len());
        return Err(ReadError::OutOfBounds { what, value, max: Limits::KEYS_A_GET });
    }
    Ok(())
}

/// Refuses a `checkpoint` of too many replicas.
pub(super) fn check_group(checkpoints: usize) -> Result<(), WriteError> {
    if checkpoints > Limits::CHECKPOINTS_A_CALL {
        let (what, value) = ("the number of checkpoints", checkpoints);
        return Err(WriteError::OutOfBounds { what, value, max: Limits::CHECKPOINTS_A_CALL });
    }
    Ok(())
}

/// Who reads all of a replica, and until when it has to go on.
#[derive(Debug, Default)]
pub(super) struct Lease {
    held: Option<Held>,
    serial: u64,
    /// When a change was held off last, or went ahead of a reader that went on.
    pressed_at: Option<MonotonicMs>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    serial: u64,
    lease_ms: u64,
    until: MonotonicMs,
}

/// For how long after a change was held off nobody else may begin to read: readers that follow each other would hold it off for ever.
/// The same after a reader was broken off: what was urgent was mostly begun before it became so, and another follows at once.
const CHANGE_FIRST_MS: u64 = 1000;

impl Lease {
    /// Takes the lease unless another has it and its time has not run out: the serial number to show.
    pub(super) fn take(&mut self, now: MonotonicMs, lease_ms: u64) -> Option<u64> {
        let change_first = self.pressed_at.is_some_and(|at| now < at.plus(CHANGE_FIRST_MS));
        if change_first || self.held.is_some_and(|held| now < held.until) {
            return None;
        }
        self.serial += 1;
        self.held = Some(Held { serial: self.serial, lease_ms, until: now.plus(lease_ms) });
        Some(self.serial)
    }

    /// Whether the reader with this number still reads what it began with.
    fn holds(&self, serial: u64) -> bool {
        self.held.is_some_and(|held| held.serial == serial)
    }

    /// The same, of a reader that goes on now: its time begins anew.
    pub(super) fn goes_on(&mut self, serial: u64, now: MonotonicMs) -> bool {
        let held = self.held.as_mut().filter(|held| held.serial == serial);
        if let Some(Held { lease_ms, until, .. }) = held {
            *until = now.plus(*lease_ms);
        }
        self.holds(serial)
    }

    pub(super) fn release(&mut self, serial: u64) {
        if self.holds(serial) {
            self.held = None;
        }
    }

    /// Whether a checkpoint may go ahead; breaks a lease whose time has run out, and for one in such haste any.
    pub(super) fn allows_change(&mut self, now: MonotonicMs, haste: Haste) -> bool {
        let goes_on = self.held.is_some_and(|held| now < held.until);
        self.pressed_at = goes_on.then_some(now);
        if goes_on && haste == Haste::Patient {
            return false;
        }
        self.held = None;
        true
    }

    pub(super) fn break_off(&mut self) {
        self.held = None;
    }
}

/// Compares what was found of a replica with what the log tells. `found` is the newest checkpoint, if any.
pub(super) fn judge(found: Option<(u64, u64)>, record: Option<&CheckpointRecord>) -> Verdict {
    let retired = match (found, record) {
        (found, None) => return Verdict::Sound { generation: found.map(|(generation, _)| generation) },
        (None, Some(record)) => Retirement::Missing { recorded: record.generation },
        (Some((generation, checksum)), Some(record)) if generation == record.generation => {
            if checksum == record.checksum {
                return Verdict::Sound { generation: Some(generation) };
            }
            Retirement::ChecksumMismatch { generation, found: checksum, recorded: record.checksum }
        }
        (Some((generation, _)), Some(record)) if generation > record.generation => {
            return Verdict::Sound { generation: Some(generation) };
        }
        (Some((generation, _)), Some(record)) => Retirement::Older { found: generation, recorded: record.generation },
    };
    Verdict::Retired(retired)
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a store has done since it was opened.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $($(#[$doc])* pub(super) $name: AtomicU64,)* }

        impl Counters {
            /// All counters by name.
            pub(super) fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Checkpoints made durable.
    checkpoints,
    /// Times that one was held off as the one before was being read.
    checkpoints_held_off,
    /// Images in them, tombstones included.
    checkpoint_images,
    /// Rows in them, tombstones included.
    checkpoint_rows,
    /// Bytes of keys and values in them.
    checkpoint_bytes,
    /// Times that a database was flushed and synced.
    syncs,
    /// Rows and tombstones moved to the archive.
    cooled_rows,
    /// Their bytes.
    cooled_bytes,
    /// Rows looked up.
    gets,
    /// Rows looked up that the live database didn't know.
    archive_gets,
    /// Scans.
    scans,
    /// Rows that they found.
    scanned_rows,
    /// Snapshots begun to be read.
    exports,
    /// Of these, those whose checkpoint was replaced before they were read to the end.
    exports_broken_off,
    /// Snapshots installed.
    installs,
    /// Times that something read was not what was written.
    corruptions,
    /// Times that something read made no sense, whoever is to blame.
    unclear,
}

pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_not_met_retires_the_replica() {
        let record = CheckpointRecord { replica: ReplicaId(1), generation: 5, checksum: 7 };
        let retired = Verdict::Retired;
        assert_eq!(judge(None, None), Verdict::Sound { generation: None });
        assert_eq!(judge(Some((3, 1)), None), Verdict::Sound { generation: Some(3) });
        assert_eq!(judge(None, Some(&record)), retired(Retirement::Missing { recorded: 5 }));
        assert_eq!(judge(Some((5, 7)), Some(&record)), Verdict::Sound { generation: Some(5) });
        assert_eq!(judge(Some((6, 1)), Some(&record)), Verdict::Sound { generation: Some(6) });
        assert_eq!(judge(Some((4, 7)), Some(&record)), retired(Retirement::Older { found: 4, recorded: 5 }));
        let mismatch = Retirement::ChecksumMismatch { generation: 5, found: 8, recorded: 7 };
        assert_eq!(judge(Some((5, 8)), Some(&record)), retired(mismatch));
    }

    #[test]
    fn the_digest_does_not_depend_on_the_way_to_the_images() {
        let (mut a, mut b) = (ImageIndex::default(), ImageIndex::default());
        a.put(b"x", Some(b"1"));
        a.put(b"y", Some(b"old"));
        a.put(b"y", Some(b"2"));
        a.put(b"z", Some(b"gone"));
        a.put(b"z", None);
        b.put(b"y", Some(b"2"));
        b.put(b"x", Some(b"1"));
        assert_eq!(a.header(ReplicaId(1), 1, b""), b.header(ReplicaId(1), 1, b""));
        assert_eq!(b.matches("images", a.digest()), Ok(()));
        b.put(b"x", Some(b"3"));
        assert!(b.matches("images", a.digest()).is_err());
    }

    #[test]
    fn the_header_keeps_its_bytes() {
        let images = ImageIndex::default();
        let header = StoredHeader { archive_moves: 2, row_pages: 4, ..images.header(ReplicaId(258), 3, b"abc") };
        let bytes = header.encode();
        assert_eq!(bytes, [0x8a, 3, 0x19, 1, 2, 3, 0, 0, 0, 0, 4, 2, 0x43, b'a', b'b', b'c']);
        assert_eq!(StoredHeader::decode(&bytes), Ok(header));
        assert!(matches!(StoredHeader::decode(&bytes[..5]), Err(HeaderError::Damaged { .. })));
        let other = [&[0x8a, 1][..], &bytes[2..]].concat();
        assert!(matches!(StoredHeader::decode(&other), Err(HeaderError::Version { found: 1, known: 3, .. })));
        assert_eq!(checksum(&bytes), 0xa820_92ff_8e89_af11);
    }

    const PATIENT: Haste = Haste::Patient;

    #[test]
    fn a_lease_holds_changes_off_until_its_time_runs_out() {
        let mut lease = Lease::default();
        assert!(lease.allows_change(MonotonicMs(0), PATIENT));
        let first = lease.take(MonotonicMs(0), 10);
        assert_eq!(first, Some(1));
        assert!(!lease.allows_change(MonotonicMs(9), PATIENT));
        assert_eq!(lease.take(MonotonicMs(9), 10), None);
        assert!(lease.holds(1));
        assert!(lease.allows_change(MonotonicMs(10), PATIENT));
        assert!(!lease.holds(1));
        assert_eq!(lease.take(MonotonicMs(10), 10), Some(2));
        lease.release(1);
        assert!(lease.holds(2));
        lease.release(2);
        assert!(lease.allows_change(MonotonicMs(11), PATIENT));
    }

    #[test]
    fn a_lease_lasts_while_its_reader_goes_on() {
        let mut lease = Lease::default();
        lease.take(MonotonicMs(100), 10);
        for at in (100..10_000).step_by(9) {
            assert!(!lease.allows_change(MonotonicMs(at), PATIENT), "{at}");
            assert!(lease.goes_on(1, MonotonicMs(at)));
        }
        assert!(!lease.goes_on(2, MonotonicMs(10_000)));
        assert!(lease.goes_on(1, MonotonicMs(20_000)), "nobody wanted to change anything meanwhile");
        assert!(!lease.allows_change(MonotonicMs(20_009), PATIENT));
        assert!(lease.allows_change(MonotonicMs(20_010), PATIENT));
        assert!(!lease.goes_on(1, MonotonicMs(20_010)));
    }

    #[test]
    fn what_is_urgent_breaks_a_lease_and_what_follows_it_comes_before_the_next_reader() {
        let mut lease = Lease::default();
        assert_eq!(lease.take(MonotonicMs(0), 10), Some(1));
        assert!(lease.allows_change(MonotonicMs(5), Haste::Urgent));
        assert!(!lease.goes_on(1, MonotonicMs(5)));
        assert_eq!(lease.take(MonotonicMs(6), 10), None);
        assert!(lease.allows_change(MonotonicMs(7), PATIENT), "nobody reads");
        assert_eq!(lease.take(MonotonicMs(8), 10), Some(2));
        assert!(lease.allows_change(MonotonicMs(9), Haste::Urgent));
        assert_eq!(lease.take(MonotonicMs(9 + CHANGE_FIRST_MS), 10), Some(3), "nothing followed");
        lease.release(3);
        assert!(lease.allows_change(MonotonicMs(9 + CHANGE_FIRST_MS), Haste::Urgent));
        assert_eq!(lease.take(MonotonicMs(9 + CHANGE_FIRST_MS), 10), Some(4), "nobody was broken off");
    }

    #[test]
    fn a_change_that_was_held_off_comes_before_the_next_reader() {
        let mut lease = Lease::default();
        lease.take(MonotonicMs(0), 10);
        assert!(!lease.allows_change(MonotonicMs(5), PATIENT));
        lease.release(1);
        assert_eq!(lease.take(MonotonicMs(5), 10), None);
        assert!(lease.allows_change(MonotonicMs(6), PATIENT));
        assert_eq!(lease.take(MonotonicMs(6), 10), Some(2));
        assert!(!lease.allows_change(MonotonicMs(7), PATIENT));
        lease.release(2);
        assert_eq!(lease.take(MonotonicMs(7 + CHANGE_FIRST_MS), 10), Some(3), "nobody changes anything any more");
    }
}
