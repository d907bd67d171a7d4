//! The front for async code: store threads, bounded queues, answers by oneshot.
//!
//! One thread writes (checkpoints, cooling, snapshots on their way in), some read. Checkpoints that wait together are taken
//! together and share a sync. In a simulation they are tasks; [`StoreHandle::inline`] runs every call where it is awaited.
//!
//! A call that is not awaited to its end is still carried out, but its answer is lost: treat its outcome as unknown.
//!
//! Whatever says that the store has failed, and a job that panics, goes to [`OnFatal`] first: the process is to end before
//! anybody acts upon it. Whatever says that a replica has lost something is told to all who watch
//! [`StoreHandle::losses`], whoever met it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::Failure;
use super::{
    Checkpoint, Checkpointed, Chunk, CoolBudget, Cooled, Export, ExportError, Exported, Haste, Header, Install, Key,
    OnFatal, Pair, ReadError, Scan, Space, Store, Usage, Value, WriteError,
};
use crate::ids::ReplicaId;
use crate::threads::{Apart, Pace, Threads};

/// The sizes of the front.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    /// Threads that read.
    pub read_threads: usize,
    /// Calls that wait for a reading thread; the next waits to be queued.
    pub reads_max: usize,
    /// Calls that wait for the writing thread; the next waits to be queued.
    pub writes_max: usize,
    /// Checkpoints that may share one sync.
    pub checkpoints_a_sync_max: usize,
}

impl Default for Queues {
    fn default() -> Self {
        Self { read_threads: 2, reads_max: 1024, writes_max: 256, checkpoints_a_sync_max: 16 }
    }
}

type Job = Box<dyn FnOnce(&dyn Store) + Send>;

struct CheckpointJob {
    replica: ReplicaId,
    checkpoint: Arc<Checkpoint>,
    haste: Haste,
    answer: oneshot::Sender<Result<Checkpointed, WriteError>>,
}

enum Write {
    Run(Job),
    Checkpoint(CheckpointJob),
}

enum Front {
    Inline(Arc<dyn Store>),
    Threads { reads: mpsc::Sender<Job>, writes: mpsc::Sender<Write> },
}

/// Replicas whose content isn't what was written, and why.
pub type Losses = BTreeMap<ReplicaId, String>;

/// Looks at every answer before it is given.
struct Watch {
    on_fatal: OnFatal,
    losses: watch::Sender<Losses>,
}

impl Watch {
    fn look<T, E: Failure>(&self, answer: &Result<T, E>) {
        let Err(error) = answer else { return };
        if let Some(why) = error.failed() {
            (self.on_fatal)(why);
        }
        if let Some((replica, why)) = error.lost() {
            self.losses.send_if_modified(|losses| {
                let is_new = !losses.contains_key(&replica);
                losses.entry(replica).or_insert(why);
                is_new
            });
        }
    }
}

/// A store, for async code. Cheap to clone.
#[derive(Clone)]
pub struct StoreHandle {
    front: Arc<Front>,
    watch: Arc<Watch>,
    apart: Apart,
}

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.front {
            Front::Inline(store) => f.debug_tuple("StoreHandle::inline").field(store).finish(),
            Front::Threads { .. } => f.write_str("StoreHandle"),
        }
    }
}

/// The threads behind a handle. They end when all handles are gone and what was queued is done.
#[derive(Debug)]
#[must_use = "join the threads to be sure that the store is closed"]
pub struct StoreThreads {
    joins: Vec<JoinHandle<()>>,
}

impl StoreThreads {
    /// Waits until the threads have ended: blocks for as long as a handle exists.
    pub fn join(self) {
        for join in self.joins {
            // A thread catches what its jobs throw; there is nobody to tell if it ended otherwise.
            let _ = join.join();
        }
    }
}

/// What a store thread works with.
struct Worker {
    store: Arc<dyn Store>,
    watch: Arc<Watch>,
}

impl Worker {
    /// Runs a job. One that panics loses its answer, and nobody knows what it has left behind.
    fn run<T>(&self, job: impl FnOnce(&dyn Store) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| job(&*self.store))) {
            Ok(done) => Some(done),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
                (self.watch.on_fatal)(&format!("a job of the store panicked: {text}"));
                None
            }
        }
    }
}

fn gone() -> String {
    "a store thread panicked or has ended".to_string()
}

impl StoreHandle {
    /// Starts the threads. `on_fatal` is called, before whoever asked is answered, when the store has failed.
    pub fn spawn(store: Arc<dyn Store>, queues: Queues, on_fatal: OnFatal) -> io::Result<(Self, StoreThreads)> {
        Self::start(store, queues, on_fatal, Threads::Own)
    }

    /// As [`Self::spawn`], with threads or tasks; tasks are nothing to join, and end with the last handle.
    pub fn start(
        store: Arc<dyn Store>,
        queues: Queues,
        on_fatal: OnFatal,
        threads: Threads,
    ) -> io::Result<(Self, StoreThreads)> {
        let watch = Arc::new(Watch { on_fatal, losses: watch::Sender::default() });
        let worker = Arc::new(Worker { store, watch: Arc::clone(&watch) });
        let (reads, read_jobs) = mpsc::channel::<Job>(queues.reads_max.max(1));
        let (writes, write_jobs) = mpsc::channel::<Write>(queues.writes_max.max(1));
        let group_max = queues.checkpoints_a_sync_max.max(1);
        let handle = Self { front: Arc::new(Front::Threads { reads, writes }), watch, apart: Apart::new(threads) };
        let mut joins = Vec::new();
        if let Threads::Tasks(pace) = handle.apart.threads() {
            tokio::spawn(paced_reads(Arc::clone(&worker), read_jobs, Arc::clone(pace)));
            tokio::spawn(paced_writes(worker, write_jobs, group_max, Arc::clone(pace)));
            return Ok((handle, StoreThreads { joins }));
        }
        let read_jobs = Arc::new(Mutex::new(read_jobs));
        for n in 0..queues.read_threads.max(1) {
            let (worker, jobs) = (Arc::clone(&worker), Arc::clone(&read_jobs));
            let run = move || run_reads(&worker, &jobs);
            joins.push(std::thread::Builder::new().name(format!("store-read-{n}")).spawn(run)?);
        }
        let run = move || run_writes(&worker, write_jobs, group_max);
        joins.push(std::thread::Builder::new().name("store-write".to_string()).spawn(run)?);
        Ok((handle, StoreThreads { joins }))
    }

    /// Runs every call in place: for simulations, whose store does not block.
    pub fn inline(store: Arc<dyn Store>) -> Self {
        let watch = Watch { on_fatal: Arc::new(|_| {}), losses: watch::Sender::default() };
        Self { front: Arc::new(Front::Inline(store)), watch: Arc::new(watch), apart: Apart::new(Threads::Own) }
    }

    /// Who does what would block beside the store's own calls: making a state out of what was read, or a checkpoint.
    pub fn apart(&self) -> &Apart {
        &self.apart
    }

    /// The replicas of which anybody has been told that their content isn't what was written, now and whenever another is
    /// found. For them everything is answered `Retired` from then on.
    pub fn losses(&self) -> watch::Receiver<Losses> {
        self.watch.losses.subscribe()
    }

    async fn read<T, E, F>(&self, call: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Failure + From<ReadError> + Send + 'static,
        F: FnOnce(&dyn Store) -> Result<T, E> + Send + 'static,
    {
        match &*self.front {
            Front::Inline(store) => {
                let done = call(&**store);
                self.watch.look(&done);
                done
            }
            Front::Threads { reads, .. } => {
                let (job, answer) = job(&self.watch, call);
                let gone = || ReadError::Failed(gone());
                reads.send(job).await.map_err(|_| gone())?;
                answer.await.map_err(|_| gone())?
            }
        }
    }

    /// As [`Self::read`], of what is no data: a failure is the caller's alone.
    async fn measure<T, F>(&self, call: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> Result<T, ReadError> + Send + 'static,
    {
        self.read::<_, ReadError, _>(move |store| Ok(call(store))).await?
    }

    async fn write<T, F>(&self, call: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> Result<T, WriteError> + Send + 'static,
    {
        match &*self.front {
            Front::Inline(store) => {
                let done = call(&**store);
                self.watch.look(&done);
                done
            }
            Front::Threads { writes, .. } => {
                let (job, answer) = job(&self.watch, call);
                writes.send(Write::Run(job)).await.map_err(|_| WriteError::Failed(gone()))?;
                answer.await.map_err(|_| WriteError::Failed(gone()))?
            }
        }
    }

    /// See [`Store::create`].
    pub async fn create(&self, replica: ReplicaId) -> Result<(), WriteError> {
        self.write(move |store| store.create(replica)).await
    }

    /// See [`Store::replicas`].
    pub async fn replicas(&self) -> Result<Vec<ReplicaId>, ReadError> {
        self.read(|store| Ok(store.replicas())).await
    }

    /// See [`Store::header`].
    pub async fn header(&self, replica: ReplicaId) -> Result<Option<Header>, ReadError> {
        self.read(move |store| store.header(replica)).await
    }

    /// See [`Store::images`].
    pub async fn images(&self, replica: ReplicaId, after: Option<Key>, bytes_max: usize) -> Result<Chunk, ReadError> {
        self.read(move |store| store.images(replica, after.as_deref(), bytes_max)).await
    }

    /// See [`Store::get`].
    pub async fn get(&self, replica: ReplicaId, keys: Vec<Key>) -> Result<Vec<Option<Value>>, ReadError> {
        self.read(move |store| store.get(replica, &keys)).await
    }

    /// See [`Store::scan`].
    pub async fn scan(&self, replica: ReplicaId, from: Key, to: Key, limit: usize) -> Result<Scan, ReadError> {
        self.read(move |store| store.scan(replica, &from, &to, limit)).await
    }

    /// See [`Store::checkpoint`]: checkpoints that wait together share a sync.
    pub async fn checkpoint(
        &self,
        replica: ReplicaId,
        checkpoint: Arc<Checkpoint>,
        haste: Haste,
    ) -> Result<Checkpointed, WriteError> {
        match &*self.front {
            Front::Inline(store) => {
                let answer = store.checkpoint(vec![(replica, checkpoint, haste)]).pop();
                answer.unwrap_or_else(|| Err(WriteError::Failed("no answer to a checkpoint".to_string())))
            }
            Front::Threads { writes, .. } => {
                let (tell, answer) = oneshot::channel();
                let job = CheckpointJob { replica, checkpoint, haste, answer: tell };
                writes.send(Write::Checkpoint(job)).await.map_err(|_| WriteError::Failed(gone()))?;
                answer.await.map_err(|_| WriteError::Failed(gone()))?
            }
        }
    }

    /// See [`Store::cool`].
    pub async fn cool(&self, replica: ReplicaId, budget: CoolBudget) -> Result<Cooled, WriteError> {
        self.write(move |store| store.cool(replica, budget)).await
    }

    /// See [`Store::begin_install`].
    pub async fn begin_install(&self, replica: ReplicaId) -> Result<InstallHandle, WriteError> {
        let install = self.write(move |store| store.begin_install(replica)).await?;
        Ok(InstallHandle { store: self.clone(), install: Some(install) })
    }

    /// See [`Store::export`].
    pub async fn export(&self, replica: ReplicaId, lease_ms: u64) -> Result<ExportHandle, ExportError> {
        let export = self.read(move |store| store.export(replica, lease_ms)).await?;
        Ok(ExportHandle { store: self.clone(), header: export.header().clone(), export: Some(export) })
    }

    /// See [`Store::drop_replica`].
    pub async fn drop_replica(&self, replica: ReplicaId) -> Result<(), WriteError> {
        self.write(move |store| store.drop_replica(replica)).await
    }

    /// See [`Store::usage`]. That it can't be measured now ends nothing.
    pub async fn usage(&self) -> Result<Usage, ReadError> {
        self.measure(|store| store.usage()).await
    }

    /// See [`Store::space`]. That it can't be measured now ends nothing.
    pub async fn space(&self) -> Result<Space, ReadError> {
        self.measure(|store| store.space()).await
    }

    /// See [`Store::counters`].
    pub async fn counters(&self) -> Result<Vec<(&'static str, u64)>, ReadError> {
        self.read(|store| Ok(store.counters())).await
    }
}

/// A snapshot on its way in; see [`Install`]. After an error, or a call that was not awaited to its end, it is of no use.
pub struct InstallHandle {
    store: StoreHandle,
    install: Option<Box<dyn Install>>,
}

impl std::fmt::Debug for InstallHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InstallHandle")
    }
}

impl InstallHandle {
    /// See [`Install::put`].
    pub async fn put(&mut self, images: Vec<Pair>, rows: Vec<Pair>) -> Result<(), WriteError> {
        let mut install = self.install.take().ok_or_else(|| WriteError::Failed(gone()))?;
        let put = move |_: &dyn Store| install.put(images, rows).map(|()| install);
        self.install = Some(self.store.write(put).await?);
        Ok(())
    }

    /// See [`Install::finish`].
    pub async fn finish(mut self, generation: u64, header: Vec<u8>) -> Result<Checkpointed, WriteError> {
        let install = self.install.take().ok_or_else(|| WriteError::Failed(gone()))?;
        self.store.write(move |_| install.finish(generation, header)).await
    }
}

/// A reader of all of one checkpoint; see [`Export`]. After an error, or a call that was not awaited to its end, it is of no
/// use.
pub struct ExportHandle {
    store: StoreHandle,
    header: Header,
    export: Option<Box<dyn Export>>,
}

impl std::fmt::Debug for ExportHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportHandle").field("generation", &self.header.generation).finish_non_exhaustive()
    }
}

impl ExportHandle {
    /// See [`Export::header`].
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// See [`Export::next`].
    pub async fn next(&mut self, bytes_max: usize) -> Result<Option<Exported>, ExportError> {
        let mut export = self.export.take().ok_or_else(|| ReadError::Failed(gone()))?;
        let next = move |_: &dyn Store| export.next(bytes_max).map(|chunk| (chunk, export));
        let (chunk, export) = self.store.read(next).await?;
        self.export = Some(export);
        Ok(chunk)
    }
}

fn job<T, E, F>(watch: &Arc<Watch>, call: F) -> (Job, oneshot::Receiver<Result<T, E>>)
where
    T: Send + 'static,
    E: Failure + Send + 'static,
    F: FnOnce(&dyn Store) -> Result<T, E> + Send + 'static,
{
    let (tell, answer) = oneshot::channel();
    let watch = Arc::clone(watch);
    let job: Job = Box::new(move |store| {
        let done = call(store);
        watch.look(&done);
        // Whoever asked may have gone.
        let _ = tell.send(done);
    });
    (job, answer)
}

fn run_reads(worker: &Worker, jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // The threads take turns at waiting; the one that waits holds the lock, the others wait for it.
        let next = jobs.lock().blocking_recv();
        match next {
            // The answer of one that panicked is lost, which its caller sees as a failed store.
            Some(job) => drop(worker.run(job)),
            None => return,
        }
    }
}

fn run_writes(worker: &Worker, mut jobs: mpsc::Receiver<Write>, group_max: usize) {
    let mut taken = VecDeque::new();
    while let Some(first) = taken.pop_front().or_else(|| jobs.blocking_recv()) {
        write(worker, first, &mut jobs, &mut taken, group_max);
    }
}

/// Does what was taken, and with a checkpoint the checkpoints that follow it.
fn write(
    worker: &Worker,
    first: Write,
    jobs: &mut mpsc::Receiver<Write>,
    taken: &mut VecDeque<Write>,
    group_max: usize,
) {
    let first = match first {
        Write::Run(job) => {
            let _ = worker.run(job);
            return;
        }
        Write::Checkpoint(first) => first,
    };
    let mut group = vec![first];
    while group.len() < group_max {
        match taken.pop_front().or_else(|| jobs.try_recv().ok()) {
            // A second checkpoint of a replica has to come after its first.
            Some(Write::Checkpoint(next)) if group.iter().all(|g| g.replica != next.replica) => group.push(next),
            Some(other) => {
                taken.push_back(other);
                break;
            }
            None => break,
        }
    }
    run_group(worker, group);
}

/// The reading threads as a task.
async fn paced_reads(worker: Arc<Worker>, mut jobs: mpsc::Receiver<Job>, pace: Arc<dyn Pace>) {
    while let Some(job) = jobs.recv().await {
        tokio::time::sleep(pace.next()).await;
        let _ = worker.run(job);
    }
}

/// The writing thread as a task.
async fn paced_writes(worker: Arc<Worker>, mut jobs: mpsc::Receiver<Write>, group_max: usize, pace: Arc<dyn Pace>) {
    let mut taken = VecDeque::new();
    loop {
        let first = match taken.pop_front() {
            Some(first) => first,
            None => match jobs.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        tokio::time::sleep(pace.next()).await;
        write(&worker, first, &mut jobs, &mut taken, group_max);
    }
}

fn run_group(worker: &Worker, group: Vec<CheckpointJob>) {
    let checkpoints = group.iter().map(|job| (job.replica, Arc::clone(&job.checkpoint), job.haste)).collect();
    let answers = worker.run(|store| store.checkpoint(checkpoints)).unwrap_or_default();
    answers.iter().for_each(|answer| worker.watch.look(answer));
    let answers = answers.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    for (job, answer) in group.into_iter().zip(answers) {
        let _ = job.answer.send(answer.unwrap_or_else(|| Err(WriteError::Failed(gone()))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::TestClock;
    use crate::store::{Fault, MemDisk, MemStore};

    const A: ReplicaId = ReplicaId(1);

    #[derive(Debug)]
    struct AtOnce;

    impl Pace for AtOnce {
        fn next(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }
    }

    /// What the process is ended for when a checkpoint meets `fault`; then its answer.
    fn fatal(fault: Fault, threads: Threads) -> (Vec<String>, Result<Checkpointed, WriteError>) {
        let (disk, told) = (MemDisk::new(), Arc::new(Mutex::new(Vec::new())));
        let (store, _) = MemStore::open(&disk, Arc::new(TestClock::default()), &[]);
        let on_fatal: OnFatal = {
            let told = Arc::clone(&told);
            Arc::new(move |why| told.lock().push(why.to_string()))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _here = runtime.enter();
        let started = StoreHandle::start(Arc::new(store), Queues::default(), on_fatal, threads);
        let (handle, threads) = started.unwrap();
        let answer = runtime.block_on(async {
            handle.create(A).await.unwrap();
            assert_eq!(handle.header(ReplicaId(9)).await, Err(ReadError::UnknownReplica(ReplicaId(9))));
            assert_eq!(handle.create(A).await, Err(WriteError::Exists(A)));
            assert_eq!(*told.lock(), Vec::<String>::new(), "what is only refused ends nothing");
            disk.fail_next(fault);
            handle.checkpoint(A, Arc::new(Checkpoint { generation: 1, ..Checkpoint::default() }), Haste::Patient).await
        });
        drop(handle);
        threads.join();
        let told = told.lock().clone();
        (told, answer)
    }

    #[test]
    fn a_store_that_has_failed_ends_the_process_before_anybody_is_answered() {
        let ways = [Threads::Own, Threads::Tasks(Arc::new(AtOnce))];
        for (fault, threads) in [Fault::Refused, Fault::Unsynced].into_iter().flat_map(|f| ways.clone().map(|w| (f, w)))
        {
            let (told, answer) = fatal(fault, threads);
            assert!(matches!(answer, Err(WriteError::Failed(_))), "{answer:?}");
            assert_eq!(told.len(), 1, "{told:?}");
        }
    }

    #[test]
    fn what_can_not_be_measured_ends_nothing() {
        let disk = MemDisk::new();
        let (store, _) = MemStore::open(&disk, Arc::new(TestClock::default()), &[]);
        let on_fatal: OnFatal = Arc::new(|why| panic!("{why}"));
        let (handle, threads) = StoreHandle::spawn(Arc::new(store), Queues::default(), on_fatal).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let failed = || Err::<(), _>(ReadError::Failed("too many open files".to_string()));
            assert_eq!(handle.measure(move |_| failed()).await, failed());
            assert!(handle.space().await.is_ok() && handle.usage().await.is_ok());
        });
        drop(handle);
        threads.join();
    }

    #[test]
    fn a_loss_that_anybody_meets_is_told_to_all_who_watch() {
        let disk = MemDisk::new();
        let (store, _) = MemStore::open(&disk, Arc::new(TestClock::default()), &[]);
        let on_fatal: OnFatal = Arc::new(|why| panic!("{why}"));
        let (handle, threads) = StoreHandle::spawn(Arc::new(store), Queues::default(), on_fatal).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let losses = handle.losses();
            for replica in [A, ReplicaId(2)] {
                handle.create(replica).await.unwrap();
            }
            disk.rot(A);
            assert!(losses.borrow().is_empty());
            assert!(handle.get(A, vec![vec![1]]).await.is_err());
            assert_eq!(losses.borrow().keys().copied().collect::<Vec<_>>(), [A]);
            assert!(handle.get(ReplicaId(2), vec![vec![1]]).await.is_ok());
        });
        drop(handle);
        threads.join();
    }

    #[test]
    fn a_panicking_job_ends_the_process() {
        let (told, answer) = fatal(Fault::Panics, Threads::Own);
        assert!(matches!(answer, Err(WriteError::Failed(_))), "{answer:?}");
        assert!(told.iter().any(|why| why.contains("panics by request")), "{told:?}");
    }
}
