//! A plain model beside the log, through power cuts, dying processes and failing disks, for thousands of seeds.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::fs::Fault;

/// What a caller did, entry by entry.
#[derive(Clone, Debug)]
pub(super) enum Did {
    Entry(ReplicaId, Record),
    Truncate(ReplicaId, Option<LogId>),
    Purge(ReplicaId, LogId),
    Vote(ReplicaId, Bytes),
    Checkpoint(ReplicaId, CheckpointRecord),
    Forget(ReplicaId),
}

/// One replica, plainly.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plain {
    purged: Option<LogId>,
    entries: BTreeMap<u64, Record>,
    vote: Option<Bytes>,
    checkpoint: Option<CheckpointRecord>,
}

impl Plain {
    fn last(&self) -> Option<LogId> {
        self.entries.values().last().map(|record| record.id).or(self.purged)
    }
}

/// All of it, plainly.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) replicas: BTreeMap<ReplicaId, Plain>,
    pub(super) forgotten: BTreeSet<ReplicaId>,
}

impl Model {
    pub(super) fn apply(&mut self, did: &Did) {
        match did {
            Did::Entry(id, record) => {
                self.replicas.entry(*id).or_default().entries.insert(record.id.index, record.clone());
            }
            Did::Truncate(id, last) => {
                let end = last.map_or(0, |last| last.index + 1);
                self.replicas.entry(*id).or_default().entries.retain(|index, _| *index < end);
            }
            Did::Purge(id, upto) => {
                let plain = self.replicas.entry(*id).or_default();
                if plain.purged.is_none_or(|purged| purged.index < upto.index) {
                    plain.purged = Some(*upto);
                    plain.entries.retain(|index, _| *index > upto.index);
                }
            }
            Did::Vote(id, vote) => self.replicas.entry(*id).or_default().vote = Some(vote.clone()),
            Did::Checkpoint(id, record) => self.replicas.entry(*id).or_default().checkpoint = Some(*record),
            Did::Forget(id) => {
                self.replicas.remove(id);
                self.forgotten.insert(*id);
            }
        }
    }

    /// What the log says, in the model's words.
    pub(super) fn of(wal: &Wal, ids: u64) -> Self {
        let mut model = Self::default();
        for id in (0..ids).map(ReplicaId) {
            if wal.is_forgotten(id) {
                model.forgotten.insert(id);
                continue;
            }
            let Some(state) = wal.replica_state(id) else { continue };
            let entries: BTreeMap<u64, Record> = entries(wal, id).into_iter().map(|r| (r.id.index, r)).collect();
            let plain = Plain { purged: state.last_purged, entries, vote: state.vote, checkpoint: state.checkpoint };
            assert_eq!(plain.last(), state.last);
            for index in 0..state.last.map_or(0, |last| last.index + 2) {
                let known = plain.entries.get(&index).map(|r| r.id).or(plain.purged.filter(|p| p.index == index));
                assert_eq!(wal.log_id(id, index), known);
            }
            model.replicas.insert(id, plain);
        }
        model
    }

    /// Without replicas of which nothing is left: the log may know them or not.
    pub(super) fn visible(mut self) -> Self {
        self.replicas.retain(|_, plain| *plain != Plain::default());
        self
    }
}

pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) fs: LyingFs,
    pub(super) wal: Wal,
    pub(super) engine: Engine,
    /// What is durable for sure, then everything done since, oldest first.
    base: Model,
    pub(super) since: Vec<Did>,
    /// How many of `since` were acknowledged.
    acked: Arc<AtomicUsize>,
    pub(super) now: Model,
    pub(super) ids: u64,
    term: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let fs = LyingFs::new(seed);
        let (wal, engine, _) = open(&fs);
        Self {
            rng: StdRng::seed_from_u64(seed),
            fs,
            wal,
            engine,
            base: Model::default(),
            since: Vec::new(),
            acked: Arc::default(),
            now: Model::default(),
            ids: 4,
            term: 1,
        }
    }

    fn did(&mut self, did: Did) {
        self.now.apply(&did);
        self.since.push(did);
    }

    /// Says that everything done so far is durable.
    fn done(&self) -> Done {
        let (acked, count) = (Arc::clone(&self.acked), self.since.len());
        Box::new(move |result| {
            if result.is_ok() {
                acked.fetch_max(count, Ordering::SeqCst);
            }
        })
    }

    /// Ties a write that has a future to [`World::done`].
    fn watch(&mut self, durable: Result<Durable, WriteError>, watched: &mut Vec<(Durable, usize)>) {
        watched.push((durable.unwrap(), self.since.len()));
    }

    pub(super) fn act(&mut self, watched: &mut Vec<(Durable, usize)>) {
        let id = ReplicaId(self.rng.random_range(0..self.ids));
        if self.now.forgotten.contains(&id) {
            self.ids = (self.ids + 1).min(20);
            return;
        }
        let plain = self.now.replicas.get(&id).cloned().unwrap_or_default();
        let next = plain.last().map_or(self.rng.random_range(0..2), |last| last.index + 1);
        match self.rng.random_range(0..100) {
            0..60 => {
                let large = if self.rng.random_bool(0.02) { 14_000 } else { 900 };
                let count = self.rng.random_range(0..6);
                let records: Vec<Record> = (next..next + count)
                    .map(|index| record(self.term, index, &vec![self.rng.random(); self.rng.random_range(0..large)]))
                    .collect();
                for record in &records {
                    self.did(Did::Entry(id, record.clone()));
                }
                let done = self.done();
                self.wal.append(id, records, done).unwrap();
            }
            60..75 => {
                let vote = Bytes::from(vec![self.rng.random(); self.rng.random_range(0..40)]);
                self.did(Did::Vote(id, vote.clone()));
                let durable = self.wal.save_vote(id, vote);
                self.watch(durable, watched);
            }
            75..82 => {
                let some: Vec<LogId> = plain.entries.values().map(|r| r.id).collect();
                let last = if some.is_empty() || self.rng.random_bool(0.1) {
                    plain.purged
                } else {
                    Some(some[self.rng.random_range(some.len() / 2..some.len())])
                };
                self.term += 1;
                self.did(Did::Truncate(id, last));
                let durable = self.wal.truncate_after(id, last);
                self.watch(durable, watched);
            }
            82..90 => {
                let upto = match plain.last() {
                    Some(last) if self.rng.random_bool(0.8) => {
                        let first = plain.entries.keys().next().copied().unwrap_or(last.index);
                        let index = self.rng.random_range(first..=last.index);
                        plain.entries.get(&index).map_or(last, |r| r.id)
                    }
                    _ => LogId { term: self.term, leader: 1, index: next + self.rng.random_range(0..20) },
                };
                self.did(Did::Purge(id, upto));
                let durable = self.wal.purge(id, upto);
                self.watch(durable, watched);
            }
            90..95 => {
                let record = CheckpointRecord { generation: self.rng.random(), applied: plain.last(), checksum: 5 };
                self.did(Did::Checkpoint(id, record));
                let durable = self.wal.checkpoint(id, record);
                self.watch(durable, watched);
            }
            95..99 => {
                if let Some(last) = plain.last() {
                    self.wal.save_committed(id, Some(last)).unwrap();
                }
            }
            _ => {
                self.did(Did::Forget(id));
                let durable = self.wal.forget(id);
                self.watch(durable, watched);
            }
        }
    }

    /// Works for a while; at the end the log has been closed, has failed, or is cut off in the middle.
    fn live(&mut self) {
        let mut watched = Vec::new();
        if self.rng.random_bool(0.2) {
            let nth = self.rng.random_range(1..30);
            self.fs.fail(if self.rng.random_bool(0.5) { Fault::Write(nth) } else { Fault::Sync(nth) });
        }
        let mut failed = false;
        for _ in 0..self.rng.random_range(1..120) {
            self.act(&mut watched);
            if self.rng.random_bool(0.4) {
                failed = self.engine.step().is_err();
            }
            if failed {
                break;
            }
        }
        if self.rng.random_bool(0.2) && !failed {
            assert_eq!(
                Model::of(&self.wal, self.ids).visible(),
                self.now.clone().visible(),
                "what was written is there"
            );
        }
        if self.rng.random_bool(0.3) && !failed {
            self.wal.close();
            while let Ok(progress) = self.engine.step() {
                if progress == Progress::Closed {
                    break;
                }
            }
        }
        for (mut durable, count) in watched {
            if durable.try_get() == Some(Ok(())) {
                self.acked.fetch_max(count, Ordering::SeqCst);
            }
        }
    }

    /// Goes down, comes up, and finds a state that was there at some moment not before the last acknowledgement.
    fn restart(&mut self) {
        if self.rng.random_bool(0.7) {
            self.fs.crash();
        } else {
            self.fs.kill();
        }
        if self.rng.random_bool(0.2) {
            // It goes down again while it comes up.
            let nth = self.rng.random_range(1..4);
            self.fs.fail(if self.rng.random_bool(0.5) { Fault::Write(nth) } else { Fault::Sync(nth) });
            drop(Wal::open_stepped(Arc::new(self.fs.clone()), small()));
            self.fs.crash();
        }
        let (wal, engine, recovery) = open(&self.fs);
        assert!(recovery.rot.is_empty() && recovery.distrusted.is_empty(), "{recovery:?}");
        let found = Model::of(&wal, self.ids).visible();
        for replica in wal.replicas() {
            let state = wal.replica_state(replica).unwrap();
            assert!(state.committed.map(|c| c.index) <= state.last.map(|l| l.index), "a marker ahead of the log");
        }
        let acked = self.acked.load(Ordering::SeqCst);
        let mut model = std::mem::take(&mut self.base);
        for did in &self.since[..acked] {
            model.apply(did);
        }
        let mut at = acked;
        while found != model.clone().visible() {
            assert!(at < self.since.len(), "the log has come back as it never was, or has lost something: {found:#?}");
            model.apply(&self.since[at]);
            at += 1;
        }
        self.base = model.clone();
        self.now = model;
        self.since.clear();
        self.acked = Arc::default();
        (self.wal, self.engine) = (wal, engine);
    }
}

#[test]
fn what_was_acknowledged_survives_and_what_survives_is_a_prefix_of_what_was_done() {
    for seed in seeds(300) {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..8 {
                world.live();
                world.restart();
            }
        });
        assert!(run.is_ok(), "failed; again with: WAL_SEED={seed} cargo test --lib wal::tests::crash");
    }
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let bytes = |seed| {
        let mut world = World::new(seed);
        for _ in 0..4 {
            world.live();
            world.restart();
        }
        let fs: &dyn crate::fs::Fs = &world.fs;
        fs.list().unwrap().into_iter().map(|name| (world.fs.content(&name), name)).collect::<Vec<_>>()
    };
    for seed in 0..20 {
        assert!(bytes(seed) == bytes(seed), "seed {seed}");
    }
}
