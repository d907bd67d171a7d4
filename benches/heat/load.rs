//! The load: starts and reports, each due by the clock, sent to the nodes in turn and not waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use playhead::proto::v1;
use playhead::proto::v1::collection_service_client::CollectionServiceClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::accounts::{Accounts, EVENT_SHARE};
use crate::nodes::NODES;
use crate::support::{Cluster, Result, film, playing};

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(10);
/// Starts on their way at once; what is due beyond them isn't sent.
const STARTS_MAX: u64 = 2_000;
/// Messages that wait on a stream; what is due beyond them isn't sent.
const MESSAGES_MAX: usize = 64;
/// Nothing is offered for longer: a bench ends by itself, whatever becomes of it.
const ENDS: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(5);
/// The view of each account.
const VIEW: &str = "main";

/// What was asked of the cluster since the last time that somebody wanted to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub sent: u64,
    pub not_sent: u64,
    pub failed: u64,
    /// By the node that would have to do it by `mod N`.
    pub by_mod_n: [u64; NODES],
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Asked>,
    starts: AtomicU64,
    event: AtomicBool,
    /// Whether the view of an account has been started.
    started: Vec<AtomicBool>,
}

/// Everything that is offered.
pub struct Load {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// The way to one node.
struct Way {
    channel: Channel,
    messages: mpsc::Sender<v1::ReportProgressStreamRequest>,
    gathered: Vec<v1::ProgressReport>,
    /// Reports of the messages on their way.
    pending: Arc<Mutex<HashMap<u64, usize>>>,
    next: u64,
}

impl Way {
    async fn open(address: &str, shared: Arc<Shared>) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        let (messages, out) = mpsc::channel(MESSAGES_MAX);
        let pending: Arc<Mutex<HashMap<u64, usize>>> = Arc::default();
        let mut client = CollectionServiceClient::new(channel.clone());
        let mut answers = client.report_progress_stream(ReceiverStream::new(out)).await?.into_inner();
        let waiting = pending.clone();
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let count = waiting.lock().remove(&answer.batch_id).unwrap_or_default();
                let failed = match answer.error {
                    Some(_) => count,
                    None => answer.results.iter().filter(|result| result.error.is_some()).count(),
                };
                shared.asked.lock().failed += failed as u64;
            }
        });
        Ok(Self { channel, messages, gathered: Vec::new(), pending, next: 0 })
    }

    /// Sends what was gathered, unless the node has stopped reading; how many were not sent.
    fn flush(&mut self) -> usize {
        let reports = std::mem::take(&mut self.gathered);
        if reports.is_empty() {
            return 0;
        }
        let Ok(place) = self.messages.try_reserve() else { return reports.len() };
        self.next += 1;
        self.pending.lock().insert(self.next, reports.len());
        place.send(v1::ReportProgressStreamRequest { batch_id: self.next, reports });
        0
    }
}

impl Load {
    /// Connects, and begins to offer so many requests a second.
    pub async fn begin(cluster: &Cluster, accounts: Accounts, rate: f64) -> Result<Self> {
        let started = accounts.all.iter().map(|_| AtomicBool::new(false)).collect();
        let shared = Arc::new(Shared { started, ..Shared::default() });
        let mut ways = Vec::new();
        for name in cluster.local.names() {
            let address = cluster.local.endpoints(&name).ok_or("a node without endpoints")?.client.clone();
            ways.push(Way::open(&address, shared.clone()).await?);
        }
        let sequences = vec![0; accounts.all.len()];
        let offering = Offering { shared: shared.clone(), accounts, ways, sequences, turn: 0 };
        Ok(Self { shared, task: tokio::spawn(offering.run(rate)) })
    }

    /// Whether there is an event from now on.
    pub fn event(&self, event: bool) {
        self.shared.event.store(event, Ordering::Relaxed);
    }

    /// What was asked since this was asked.
    pub fn take(&self) -> Asked {
        std::mem::take(&mut *self.shared.asked.lock())
    }

    pub async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

struct Offering {
    shared: Arc<Shared>,
    accounts: Accounts,
    ways: Vec<Way>,
    sequences: Vec<u64>,
    turn: usize,
}

impl Offering {
    async fn run(mut self, rate: f64) {
        let begun = Instant::now();
        let (mut last, mut due) = (begun, 0.0);
        let mut ticks = tokio::time::interval(TICK);
        while begun.elapsed() < ENDS {
            ticks.tick().await;
            let event = self.shared.event.load(Ordering::Relaxed);
            due += rate * (if event { 1.0 + EVENT_SHARE } else { 1.0 }) * last.elapsed().as_secs_f64();
            last = Instant::now();
            while due >= 1.0 {
                due -= 1.0;
                self.ask(event);
            }
            let not_sent = self.ways.iter_mut().map(Way::flush).sum::<usize>() as u64;
            self.shared.asked.lock().not_sent += not_sent;
        }
    }

    fn ask(&mut self, event: bool) {
        let at = self.accounts.next(event);
        let account = &self.accounts.all[at];
        {
            let mut asked = self.shared.asked.lock();
            asked.sent += 1;
            asked.by_mod_n[account.node_by_mod] += 1;
        }
        self.turn = (self.turn + 1) % self.ways.len();
        let way = &mut self.ways[self.turn];
        if self.shared.started[at].load(Ordering::Relaxed) {
            self.sequences[at] += 1;
            way.gathered.push(playing(&account.name, VIEW, self.sequences[at]));
            return;
        }
        if self.shared.starts.fetch_add(1, Ordering::Relaxed) >= STARTS_MAX {
            self.shared.starts.fetch_sub(1, Ordering::Relaxed);
            self.shared.asked.lock().not_sent += 1;
            return;
        }
        // Said again while it is on its way, it is the same start.
        let (shared, channel, request) = (self.shared.clone(), way.channel.clone(), film(&account.name, VIEW));
        tokio::spawn(async move {
            let mut request = tonic::Request::new(request);
            request.set_timeout(DEADLINE);
            match CollectionServiceClient::new(channel).start_view(request).await {
                Ok(_) => shared.started[at].store(true, Ordering::Relaxed),
                Err(_) => shared.asked.lock().failed += 1,
            }
            shared.starts.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
