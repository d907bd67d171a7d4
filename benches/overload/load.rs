//! The load: requests of five kinds, each due by the clock, sent to the node that leads its shard, and not waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use playhead::client::is_accepted;
use playhead::ids::AccountId;
use playhead::proto::v1;
use playhead::proto::v1::ErrorReason;
use playhead::proto::v1::collection_service_client::CollectionServiceClient;
use playhead::proto::v1::history_service_client::HistoryServiceClient;
use playhead::ring::{ShardCount, Token};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use crate::support::{Cluster, Result, film, playing};

/// Within what a request is good.
const DEADLINE: Duration = Duration::from_secs(1);
/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(5);
/// Calls on their way at once, of all kinds; what is due beyond them isn't sent.
const CALLS_MAX: u64 = 20_000;
/// Reports in a message, at most.
const BATCH_MAX: usize = 100;
/// Streams to each node, and messages that wait on one.
const STREAMS: usize = 4;
const MESSAGES_MAX: usize = 64;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A view is started.
    Start,
    /// A view is stopped.
    Stop,
    /// Progress is reported, over streams.
    Progress,
    /// A page of the history is listed, strongly.
    Listing,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Start, Self::Stop, Self::Progress, Self::Listing];

    /// In a table.
    pub fn label(self) -> &'static str {
        ["starts", "stops", "progress", "listings"][self as usize]
    }

    /// Of a hundred requests.
    fn share(self) -> f64 {
        [0.04, 0.04, 0.82, 0.10][self as usize]
    }
}

/// What became of the requests of one kind.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Really sent.
    pub sent: u64,
    /// Decided by the shard's state within the deadline.
    pub good: u64,
    /// Refused for load.
    pub refused: u64,
    /// Only accepted, as without a leader: no goodput.
    pub accepted: u64,
    /// Microseconds from when they were due, of those that were not refused.
    pub latencies: Histogram<u64>,
}

/// What became of a load.
pub struct Measured {
    /// Requests that were due.
    pub offered: u64,
    /// For how long.
    pub seconds: f64,
    kinds: Vec<Counted>,
}

impl Measured {
    pub fn of(&self, kind: Kind) -> &Counted {
        &self.kinds[kind as usize]
    }

    pub fn total(&self, what: impl Fn(&Counted) -> u64) -> u64 {
        self.kinds.iter().map(what).sum()
    }

    /// Decided in time, a second.
    pub fn goodput(&self) -> f64 {
        self.total(|of| of.good) as f64 / self.seconds
    }
}

struct Tally {
    kinds: [Mutex<Counted>; 4],
    calls: AtomicU64,
}

impl Tally {
    fn new() -> Arc<Self> {
        let latencies = || Histogram::new_with_bounds(1, 600_000_000, 2).expect("up to ten minutes in us");
        let counted = || Mutex::new(Counted { sent: 0, good: 0, refused: 0, accepted: 0, latencies: latencies() });
        Arc::new(Self { kinds: [counted(), counted(), counted(), counted()], calls: AtomicU64::new(0) })
    }

    fn sent(&self, kind: Kind, count: usize) {
        self.kinds[kind as usize].lock().sent += count as u64;
    }

    fn accepted(&self, kind: Kind) {
        self.kinds[kind as usize].lock().accepted += 1;
    }

    fn ended(&self, kind: Kind, due: Instant, reason: Option<ErrorReason>) {
        let took = due.elapsed();
        let mut counted = self.kinds[kind as usize].lock();
        match reason {
            Some(ErrorReason::Overloaded) => counted.refused += 1,
            reason => {
                let decided = reason.is_none_or(is_decided);
                counted.good += u64::from(decided && took <= DEADLINE);
                counted.latencies.saturating_record(took.as_micros() as u64);
            }
        }
    }
}

/// Whether the shard's state has said so.
fn is_decided(reason: ErrorReason) -> bool {
    use ErrorReason as R;
    matches!(reason, R::StreamLimit | R::ViewEnded | R::ViewExpired | R::ViewIdTaken)
}

fn reason(status: &Status) -> ErrorReason {
    let info = status.get_details_error_info();
    info.and_then(|info| ErrorReason::from_name(&info.reason)).unwrap_or_default()
}

/// The messages on their way on one stream, by batch: when each was due, and how many reports it has.
type Pending = Arc<Mutex<HashMap<u64, (Instant, usize, Arc<Tally>)>>>;

struct Stream {
    messages: mpsc::Sender<v1::ReportProgressStreamRequest>,
    pending: Pending,
    next: u64,
}

impl Stream {
    async fn open(channel: Channel) -> Result<Self> {
        let (messages, out) = mpsc::channel(MESSAGES_MAX);
        let pending: Pending = Arc::default();
        let mut client = CollectionServiceClient::new(channel);
        let mut answers = client.report_progress_stream(ReceiverStream::new(out)).await?.into_inner();
        let waiting = pending.clone();
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let Some((due, count, tally)) = waiting.lock().remove(&answer.batch_id) else { continue };
                match answer.error {
                    Some(error) => (0..count).for_each(|_| tally.ended(Kind::Progress, due, Some(error.reason()))),
                    None => answer.results.iter().for_each(|result| {
                        if result.error.is_none() && result.standing() == v1::WriteStanding::Accepted {
                            return tally.accepted(Kind::Progress);
                        }
                        tally.ended(Kind::Progress, due, result.error.as_ref().map(|error| error.reason()));
                    }),
                }
            }
        });
        Ok(Self { messages, pending, next: 0 })
    }

    /// Sends reports that were due, unless the node has stopped reading.
    fn send(&mut self, reports: Vec<v1::ProgressReport>, due: Instant, tally: &Arc<Tally>) {
        let Ok(place) = self.messages.try_reserve() else { return };
        self.next += 1;
        tally.sent(Kind::Progress, reports.len());
        self.pending.lock().insert(self.next, (due, reports.len(), tally.clone()));
        place.send(v1::ReportProgressStreamRequest { batch_id: self.next, reports });
    }
}

/// A node and the connections to it.
struct Node {
    channels: Vec<Channel>,
    streams: Vec<Stream>,
    gathered: Vec<v1::ProgressReport>,
    turn: usize,
}

struct Playing {
    account: String,
    node: usize,
    sequence: u64,
    turns: u64,
}

/// Everything that offers it.
pub struct Load {
    nodes: Vec<Node>,
    playing: Vec<Playing>,
    next: [usize; 4],
}

impl Load {
    /// Starts a view of each account, and connects.
    pub async fn new(cluster: &Cluster, accounts: usize) -> Result<Self> {
        let leaders = cluster.leaders().await?;
        let (names, mut nodes) = (cluster.local.names(), Vec::new());
        for name in &names {
            let address = cluster.local.endpoints(name).ok_or("a node without endpoints")?.client.clone();
            let mut channels = Vec::new();
            for _ in 0..STREAMS {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
                channels.push(endpoint.connect().await?);
            }
            let mut streams = Vec::new();
            for channel in &channels {
                streams.push(Stream::open(channel.clone()).await?);
            }
            nodes.push(Node { channels, streams, gathered: Vec::new(), turn: 0 });
        }
        let count = ShardCount::new(cluster.shards)?;
        let led_by = |account: &str| -> Result<usize> {
            let shard = count.shard_of(Token::of(&AccountId::new(account)?)).0;
            let name = leaders.iter().find(|(_, shards)| shards.contains(&shard)).map(|(name, _)| name);
            Ok(names.iter().position(|known| Some(known) == name).unwrap_or(0))
        };
        let mut playing = Vec::new();
        for n in 0..accounts {
            let account = format!("member-{n:05}");
            playing.push(Playing { node: led_by(&account)?, account, sequence: 0, turns: 0 });
        }
        let client = cluster.client(Duration::from_secs(60))?;
        for chunk in playing.chunks(64) {
            let starting = chunk.iter().map(|one| client.start_view(start(&one.account, "main", "tv")));
            futures::future::try_join_all(starting).await?;
        }
        Ok(Self { nodes, playing, next: [0; 4] })
    }

    /// Offers so many requests a second for so long, waits until all have had their time, and tells what became of them.
    pub async fn run(&mut self, rate: f64, duration: Duration) -> Result<Measured> {
        let tally = Tally::new();
        let begun = Instant::now();
        let mut offered = [0_u64; 4];
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            let elapsed = begun.elapsed().min(duration);
            for kind in Kind::ALL {
                let due = (rate * kind.share() * elapsed.as_secs_f64()) as u64;
                for _ in offered[kind as usize]..due {
                    self.ask(kind, &tally);
                }
                offered[kind as usize] = due;
            }
            self.nodes.iter_mut().for_each(|node| node.flush(&tally));
            if elapsed >= duration {
                break;
            }
        }
        tokio::time::sleep(DEADLINE + Duration::from_millis(200)).await;
        let kinds = tally.kinds.iter().map(|counted| counted.lock().clone()).collect();
        Ok(Measured { offered: offered.iter().sum(), seconds: duration.as_secs_f64(), kinds })
    }

    fn ask(&mut self, kind: Kind, tally: &Arc<Tally>) {
        let at = self.next[kind as usize];
        self.next[kind as usize] = (at + 1) % self.playing.len();
        let one = &mut self.playing[at];
        let node = &mut self.nodes[one.node];
        if kind == Kind::Progress {
            one.sequence += 1;
            node.gathered.push(playing(&one.account, "main", one.sequence));
            return;
        }
        if tally.calls.fetch_add(1, Ordering::Relaxed) >= CALLS_MAX {
            tally.calls.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        tally.sent(kind, 1);
        if kind == Kind::Start {
            one.turns += 1;
        }
        let view = format!("extra-{}", one.turns);
        node.turn += 1;
        let channel = node.channels[node.turn % node.channels.len()].clone();
        let (account, tally, due) = (one.account.clone(), tally.clone(), Instant::now());
        tokio::spawn(async move {
            let told = call(kind, channel, &account, view).await;
            match told {
                Ok(Standing::Accepted) => tally.accepted(kind),
                Ok(Standing::Decided) => tally.ended(kind, due, None),
                Err(status) => tally.ended(kind, due, Some(reason(&status))),
            }
            tally.calls.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl Node {
    /// Sends what was gathered since the last tick.
    fn flush(&mut self, tally: &Arc<Tally>) {
        let due = Instant::now();
        while !self.gathered.is_empty() {
            let rest = self.gathered.split_off(self.gathered.len().min(BATCH_MAX));
            let reports = std::mem::replace(&mut self.gathered, rest);
            self.turn += 1;
            let stream = self.turn % self.streams.len();
            self.streams[stream].send(reports, due, tally);
        }
    }
}

/// What an answer is worth.
enum Standing {
    Decided,
    Accepted,
}

async fn call(kind: Kind, channel: Channel, account: &str, view: String) -> Result<Standing, Status> {
    fn timed<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        request
    }
    let account_id = account.to_string();
    let info = match kind {
        Kind::Start => {
            let request = start(account, &view, "phone");
            CollectionServiceClient::new(channel).start_view(timed(request)).await?.into_inner().write_info
        }
        Kind::Stop => {
            let request = v1::StopViewRequest { account_id, view_id: view, ..Default::default() };
            CollectionServiceClient::new(channel).stop_view(timed(request)).await?.into_inner().write_info
        }
        Kind::Listing => {
            let request = v1::ListHistoryRequest { account_id, profile_id: "p".into(), ..Default::default() };
            HistoryServiceClient::new(channel).list_history(timed(request)).await?;
            None
        }
        Kind::Progress => None,
    };
    Ok(if is_accepted(info.as_ref()) { Standing::Accepted } else { Standing::Decided })
}

fn start(account: &str, view: &str, device: &str) -> v1::StartViewRequest {
    v1::StartViewRequest { device_id: device.into(), title_id: format!("title-{view}"), ..film(account, view) }
}
