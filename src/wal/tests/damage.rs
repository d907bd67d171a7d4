//! Cuts and flipped bytes: a torn tail is told from rot, and nothing that is trusted is ever wrong.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::crash::{Did, Model, World};
use super::*;
use crate::fs::Fs;
use crate::wal::format::{BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use crate::wal::scan::scan;

const IDS: u64 = 20;

/// A log on a disk, and what it said after each batch.
struct Written {
    files: Vec<(String, Vec<u8>)>,
    /// Up to where the log went, what it said there, and what was done to get there.
    states: Vec<(Place, Model, Vec<Did>)>,
}

impl Written {
    /// A log with some of everything, some hundred operations long.
    fn random(seed: u64, closed: bool) -> Self {
        let mut world = World::new(seed);
        let mut states = vec![(Place::default(), Model::default(), Vec::new())];
        let mut model = Model::default();
        for _ in 0..world.rng.random_range(3..60) {
            for _ in 0..world.rng.random_range(1..5) {
                world.act(&mut Vec::new());
            }
            drain(&mut world.engine);
            let did = std::mem::take(&mut world.since);
            did.iter().for_each(|did| model.apply(did));
            states.push((world.engine.durable, model.clone(), did));
        }
        Self::of(&world.fs, world.wal, world.engine, states, closed)
    }

    /// A short log of three replicas.
    fn short(closed: bool) -> Self {
        let fs = LyingFs::new(3);
        let (wal, mut engine, _) = open(&fs);
        let mut states = vec![(Place::default(), Model::default(), Vec::new())];
        for i in 0..4u64 {
            for r in 1..4 {
                wal.append(ReplicaId(r), vec![record(1, i, &[r as u8; 50])], ignore()).unwrap();
                if (i + r).is_multiple_of(3) {
                    drop(wal.save_vote(ReplicaId(r), Bytes::from(vec![i as u8 + 1; 9])).unwrap());
                }
            }
            if i == 2 {
                drop(wal.purge(A, id(1, 0)).unwrap());
                drop(wal.truncate_after(B, Some(id(1, 1))).unwrap());
                wal.append(B, vec![record(2, 2, b"instead")], ignore()).unwrap();
            }
            drain(&mut engine);
            states.push((engine.durable, Model::of(&wal, IDS).visible(), Vec::new()));
        }
        Self::of(&fs, wal, engine, states, closed)
    }

    fn of(fs: &LyingFs, wal: Wal, mut engine: Engine, states: Vec<(Place, Model, Vec<Did>)>, closed: bool) -> Self {
        if closed {
            close(&wal, &mut engine);
        }
        let files = fs.list().unwrap().into_iter().map(|name| (name.clone(), fs.content(&name).unwrap())).collect();
        Self { files, states }
    }

    fn disk(&self) -> LyingFs {
        let fs = LyingFs::new(0);
        for (name, content) in &self.files {
            fs.put(name, content);
        }
        fs
    }

    fn last(&self) -> Model {
        self.states.last().unwrap().1.clone().visible()
    }

    /// Opens a damaged copy: whatever is trusted must be right. Says what was found.
    fn check(&self, fs: &LyingFs) -> Recovery {
        self.check_again(fs, None)
    }

    /// Opens a damaged copy that was opened before, and ended where `first` says.
    fn check_again(&self, fs: &LyingFs, first: Option<&Recovery>) -> Recovery {
        let (wal, _engine, recovery) = open(fs);
        let (end, closed) = first.map_or((recovery.end, recovery.closed), |first| (first.end, first.closed));
        let found = Model::of(&wal, IDS).visible();
        let mut expected = vec![self.last()];
        if !closed {
            let before = self.states.iter().rposition(|(at, _, _)| *at <= end).unwrap();
            let mut model = self.states[before].1.clone();
            expected = vec![model.clone().visible()];
            for did in self.states.get(before + 1).iter().flat_map(|next| &next.2) {
                model.apply(did);
                expected.push(model.clone().visible());
            }
        }
        let right = expected.iter().any(|expected| {
            (0..IDS).map(ReplicaId).filter(|id| recovery.trusts(*id)).all(|id| {
                // Who was destroyed may be forgotten by a log that is damaged, but it has no state then.
                found.replicas.get(&id) == expected.replicas.get(&id)
            })
        });
        let trusted = |model: &Model| -> Vec<_> {
            let of = |id| (id, model.replicas.get(&id).cloned());
            (0..IDS).map(ReplicaId).filter(|id| recovery.trusts(*id)).map(of).collect()
        };
        assert!(
            right,
            "something that is trusted is wrong: {recovery:#?}\nfound {:#?}\nexpected {:#?}",
            trusted(&found),
            trusted(expected.last().unwrap())
        );
        for replica in &recovery.distrusted {
            assert!(!recovery.trusts(*replica));
            assert!(matches!(wal.save_vote(*replica, Bytes::new()), Err(WriteError::Distrusted { .. })));
            assert_eq!(wal.read_blocking(*replica, 0..9, 9), Err(ReadError::Distrusted { replica: *replica }));
        }
        recovery
    }
}

/// Where the first segment's batches end.
fn batch_ends(written: &Written) -> Vec<u64> {
    let found = scan(&written.disk(), 7).unwrap();
    let end = |batch: &crate::wal::scan::Found| {
        batch.offset + (BATCH_HEADER_BYTES as u64) + u64::from(batch.header.body_bytes)
    };
    found.segments[0].batches.iter().map(end).collect()
}

#[test]
fn a_log_that_breaks_off_anywhere_goes_back_to_its_last_whole_batch() {
    let written = Written::short(false);
    let (name, content) = &written.files[0];
    let ends = batch_ends(&written);
    assert_eq!(ends.len(), 5, "a snapshot and four batches");
    for cut in SEGMENT_HEADER_BYTES as u64..ends[4] {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let fs = written.disk();
        let mut bytes = content[..cut as usize].to_vec();
        bytes.resize(content.len(), 0);
        fs.put(name, &bytes);
        let (wal, _engine, recovery) = open(&fs);
        assert!(recovery.rot.is_empty(), "cut at {cut}: {recovery:?}");
        let expected = whole.checked_sub(1).map(|state| written.states[state].1.clone()).unwrap_or_default();
        let found = Model::of(&wal, IDS).visible();
        // Without its last bytes of padding a batch is whole too.
        let is_in_padding = ends.iter().any(|end| (1..8).contains(&(end - cut.min(*end))));
        assert!(found == expected || is_in_padding && found == written.states[whole].1, "cut at {cut}");
    }
}

#[test]
fn a_log_whose_file_was_made_shorter_trusts_nobody_that_it_may_have_lost_something_of() {
    let written = Written::short(true);
    let (name, content) = &written.files[0];
    let end = *batch_ends(&written).last().unwrap();
    let lengths =
        (0..end + 600).step_by(3).chain((end..content.len() as u64).step_by(512)).chain([content.len() as u64 - 1]);
    for len in lengths {
        let fs = written.disk();
        fs.put(name, &content[..len as usize]);
        let recovery = written.check(&fs);
        assert!(!recovery.rot.is_empty() && recovery.strangers_suspect, "{len} bytes: {recovery:?}");
        assert!(recovery.replicas.is_empty(), "{len} bytes: {recovery:?}");
        // The log goes on for whoever is given a fresh id, and doesn't forget whom it can't trust.
        if len % 4001 == 0 {
            let again = written.check_again(&fs, Some(&recovery));
            assert!(recovery.distrusted.is_subset(&again.distrusted) && again.strangers_suspect, "{len} bytes");
        }
    }
}

#[test]
fn a_segment_that_lost_its_end_costs_nobody_anything_who_is_proven_whole_by_a_later_one() {
    let mut tried = 0;
    for seed in 0..40 {
        let written = Written::random(seed, true);
        let found = scan(&written.disk(), 7).unwrap();
        let [.., before, _] = &found.segments[..] else { continue };
        let name = crate::wal::segments::name_of(before.id);
        let fs = written.disk();
        let whole = written.check(&fs);
        let fs = written.disk();
        let content = fs.content(&name).unwrap();
        let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        fs.put(&name, &content[..used.next_multiple_of(512)]);
        // Nothing but zeros is gone, or the file is so short that it can't be whole.
        let recovery = written.check(&fs);
        assert_eq!(recovery.replicas, whole.replicas, "seed {seed}: {recovery:?}");
        tried += 1;
    }
    assert!(tried > 10, "{tried}");
}

#[test]
fn a_flipped_byte_is_a_torn_tail_at_the_end_and_rot_before_it_and_never_a_wrong_answer() {
    for closed in [false, true] {
        let written = Written::short(closed);
        let found = scan(&written.disk(), 7).unwrap();
        let batches = &found.segments[0].batches;
        let (name, content) = &written.files[0];
        let last = batches.last().unwrap();
        let end = last.offset + BATCH_HEADER_BYTES as u64 + u64::from(last.header.body_bytes);
        let is_used = |at: u64| {
            let used = |b: &crate::wal::scan::Found| BATCH_HEADER_BYTES as u64 + u64::from(b.header.body_bytes);
            at < SEGMENT_HEADER_BYTES as u64 || batches.iter().any(|b| (b.offset..b.offset + used(b)).contains(&at))
        };
        let mut unseen = 0;
        for at in 0..end {
            let fs = written.disk();
            let mut bytes = content.clone();
            bytes[at as usize] ^= 1u8 << (at % 8);
            fs.put(name, &bytes);
            let recovery = written.check(&fs);
            let batches = 5 + u64::from(closed);
            if recovery.rot.is_empty() && recovery.torn.is_none() && recovery.batches == batches {
                unseen += u64::from(is_used(at));
                continue;
            }
            assert!(is_used(at), "byte {at}");
            let is_torn = recovery.rot.is_empty();
            assert_eq!(is_torn, at >= last.offset, "byte {at}, closed {closed}: {recovery:?}");
        }
        assert!(unseen < 12 * 14, "only the padding of records may be flipped unseen, {unseen} bytes were");
    }
}

#[test]
fn a_damaged_payload_costs_only_the_replica_that_it_belongs_to() {
    let written = Written::short(true);
    let (name, content) = &written.files[0];
    // Payloads are 50 times their replica's number.
    for replica in 1..4u8 {
        let runs: Vec<usize> =
            content.windows(50).enumerate().filter(|(_, w)| w == &[replica; 50]).map(|(at, _)| at).collect();
        assert!(runs.len() >= 4);
        for at in runs {
            let fs = written.disk();
            let mut bytes = content.clone();
            bytes[at + 25] ^= 4;
            fs.put(name, &bytes);
            let recovery = written.check(&fs);
            assert_eq!(recovery.distrusted.iter().copied().collect::<Vec<_>>(), [ReplicaId(replica.into())]);
            assert!(!recovery.strangers_suspect);
        }
    }
}

#[test]
fn who_is_not_to_be_trusted_stays_so_over_restarts_until_it_is_forgotten() {
    let written = Written::short(true);
    let (name, content) = &written.files[0];
    let fs = written.disk();
    let at = content.windows(50).position(|w| w == [2; 50]).unwrap();
    let mut bytes = content.clone();
    bytes[at] ^= 1;
    fs.put(name, &bytes);
    for _ in 0..4 {
        let (wal, mut engine, recovery) = open(&fs);
        assert_eq!(recovery.distrusted.iter().copied().collect::<Vec<_>>(), [B]);
        // The log goes on for others, also beyond the damage.
        let next = wal.replica_state(A).unwrap().last.unwrap().index + 1;
        for index in next..next + 300 {
            wal.append(A, vec![record(1, index, &[0; 700])], ignore()).unwrap();
            drop(wal.purge(A, id(1, index)).unwrap());
            drain(&mut engine);
        }
        fs.crash();
    }
    let (wal, mut engine, _) = open(&fs);
    drop(wal.forget(B).unwrap());
    drain(&mut engine);
    fs.crash();
    let (wal, _engine, recovery) = open(&fs);
    assert!(recovery.distrusted.is_empty() && wal.is_forgotten(B));
}

#[test]
fn a_segment_that_is_gone_or_swapped_is_noticed() {
    let written = (0..).map(|seed| Written::random(seed, true)).find(|written| written.files.len() > 3).unwrap();
    let names: Vec<&String> = written.files.iter().map(|(name, _)| name).filter(|n| !n.starts_with("spare")).collect();
    let found = scan(&written.disk(), 7).unwrap();
    assert!(found.segments.len() > 1);
    for (at, segment) in found.segments.iter().enumerate() {
        let name = crate::wal::segments::name_of(segment.id);
        assert!(names.contains(&&name));
        let fs = written.disk();
        fs.remove(&name).unwrap();
        if at + 1 < found.segments.len() {
            let recovery = written.check(&fs);
            assert!(!recovery.rot.is_empty(), "segment {at} of {}", found.segments.len());
        }
    }
}

#[test]
fn any_damage_to_any_log_leaves_nothing_wrong_that_is_trusted() {
    let (mut rotten, mut torn, mut some_trusted) = (0, 0, 0);
    let seeds = seeds(60);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut rng = StdRng::seed_from_u64(seed);
            let written = Written::random(seed, rng.random_bool(0.5));
            let fs = written.disk();
            for _ in 0..rng.random_range(1..4) {
                let (name, content) = &written.files[rng.random_range(0..written.files.len())];
                let mut bytes = fs.content(name).unwrap_or(content.clone());
                let used = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
                let at = rng.random_range(0..used);
                match rng.random_range(0..5) {
                    4 => bytes.truncate(at),
                    0 => bytes[at] ^= 1 << rng.random_range(0..8),
                    1 => bytes[at / 512 * 512..].iter_mut().take(512).for_each(|b| *b = 0),
                    2 => bytes[at..].iter_mut().take(rng.random_range(1..5000)).for_each(|b| *b = rng.random()),
                    _ => {
                        let from = rng.random_range(0..used) / 512 * 512;
                        let sector: Vec<u8> = bytes[from..].iter().copied().take(512).collect();
                        bytes[at / 512 * 512..].iter_mut().zip(sector).for_each(|(b, s)| *b = s);
                    }
                }
                fs.put(name, &bytes);
            }
            let recovery = written.check(&fs);
            // What was found once is found again, and the log can be used.
            let again = written.check_again(&fs, Some(&recovery));
            assert!(recovery.distrusted.is_subset(&again.distrusted));
            recovery
        });
        let Ok(recovery) = run else {
            panic!("failed; again with: WAL_SEED={seed} cargo test --lib wal::tests::damage")
        };
        rotten += u64::from(!recovery.rot.is_empty());
        torn += u64::from(recovery.torn.is_some());
        some_trusted += u64::from(!recovery.rot.is_empty() && !recovery.replicas.is_empty());
    }
    if count >= 60 {
        assert!(
            rotten > count / 5 && torn > count / 100 && some_trusted > count / 20,
            "{rotten} {torn} {some_trusted}"
        );
    }
}
