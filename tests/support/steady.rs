//! A load that notices every request that fails: devices that play by calls and by streams, strong readers of every node, and
//! callers without any retry at the nodes that are not being restarted.

#![allow(dead_code, reason = "every test program uses its own part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use playhead::client::Client;
use playhead::device::{Fleet, Plan, Way};
use playhead::proto::v1;
use playhead::proto::v1::collection_service_client::CollectionServiceClient;
use playhead::proto::v1::progress_service_client::ProgressServiceClient;
use playhead::time::Clock;
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::support::{Cluster, Result};

/// Accounts that readers and callers without retries work on.
const ACCOUNTS: u64 = 16;
/// The patience of clients: they try again within it.
const DEADLINE: Duration = Duration::from_secs(20);
/// The patience of callers without retries: shorter than any election of the clusters that they are at.
const BARE: Duration = Duration::from_secs(2);
/// Between two calls of one reader or caller.
const PAUSE: Duration = Duration::from_millis(15);
/// Failures that are told in words.
const TOLD_MAX: usize = 20;

/// Calls that were answered, and those that were not.
#[derive(Default)]
pub struct Tally {
    pub answered: AtomicU64,
    pub failed: AtomicU64,
    told: parking_lot::Mutex<Vec<String>>,
    /// The call that took longest, milliseconds, and whose it was.
    longest: parking_lot::Mutex<(u64, String)>,
}

impl Tally {
    async fn call<T, E: std::fmt::Display>(
        &self,
        who: &str,
        clock: &dyn Clock,
        call: impl Future<Output = std::result::Result<T, E>>,
    ) {
        let since = clock.monotonic();
        let outcome = call.await;
        let took_ms = clock.monotonic().since(since);
        {
            let mut longest = self.longest.lock();
            if took_ms > longest.0 {
                *longest = (took_ms, who.to_string());
            }
        }
        self.note(who, &outcome);
    }

    fn note<T, E: std::fmt::Display>(&self, who: &str, outcome: &std::result::Result<T, E>) {
        match outcome {
            Ok(_) => drop(self.answered.fetch_add(1, Relaxed)),
            Err(why) => {
                self.failed.fetch_add(1, Relaxed);
                let mut told = self.told.lock();
                if told.len() < TOLD_MAX {
                    told.push(format!("{who}: {why}"));
                }
            }
        }
    }

    fn text(&self) -> String {
        let (answered, failed) = (self.answered.load(Relaxed), self.failed.load(Relaxed));
        let (longest_ms, whose) = &*self.longest.lock();
        format!("{answered} answered, {failed} failed, the longest took {longest_ms} ms: {whose}")
    }
}

/// Who callers without retries stay away from.
#[derive(Default)]
enum Away {
    #[default]
    Nobody,
    From(String),
    All,
}

pub struct Steady {
    calls: Fleet,
    streams: Fleet,
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    /// Who callers without retries stay away from.
    away: Arc<RwLock<Away>>,
    pub reads: Arc<Tally>,
    /// Calls without retries.
    pub bare: Arc<Tally>,
}

fn account(number: u64) -> String {
    format!("steady-{number}")
}

impl Steady {
    pub async fn start(cluster: &Cluster, households: usize) -> Result<Self> {
        let client = cluster.client(DEADLINE)?;
        for number in 0..ACCOUNTS {
            start_view(&client, number).await?;
        }
        let plan = |seed| Plan { interval: Duration::from_millis(200), ..Plan::new(households, seed) };
        let calls = Fleet::start(cluster.client(DEADLINE)?, cluster.clock.clone(), plan(1));
        let by_stream = Plan { way: Way::Streams { streams: 3, window: 8 }, ..plan(2) };
        let streams = Fleet::start(cluster.client(DEADLINE)?, cluster.clock.clone(), by_stream);
        let mut steady = Self {
            calls,
            streams,
            tasks: JoinSet::new(),
            stop: Arc::default(),
            away: Arc::default(),
            reads: Arc::default(),
            bare: Arc::default(),
        };
        for name in cluster.local.names() {
            steady.read_through(cluster, &name)?;
        }
        // Each caller has accounts of its own, so that its sequences only grow.
        let names = cluster.local.names();
        for (at, name) in names.iter().enumerate() {
            let own: Vec<u64> = (0..ACCOUNTS).filter(|n| *n as usize % names.len() == at).collect();
            steady.call_barely(cluster, name, own)?;
        }
        Ok(steady)
    }

    /// Strong reads through one node, with a client that tries again there until its deadline.
    fn read_through(&mut self, cluster: &Cluster, name: &str) -> Result<()> {
        let client = cluster.client_of(name, DEADLINE)?;
        let (stop, reads, name) = (self.stop.clone(), self.reads.clone(), name.to_string());
        let clock = cluster.clock.clone();
        self.tasks.spawn(async move {
            for number in (0..ACCOUNTS).cycle().take_while(|_| !stop.load(Relaxed)) {
                let read = client.get_resume_point(resume_point(number));
                reads.call(&format!("a strong read through {name}"), &*clock, read).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(())
    }

    /// Writes and strong reads by plain gRPC at one node, each tried once.
    fn call_barely(&mut self, cluster: &Cluster, name: &str, accounts: Vec<u64>) -> Result<()> {
        let endpoints = cluster.local.endpoints(name).ok_or("the node has no endpoints")?;
        let channel = Endpoint::from_shared(format!("http://{}", endpoints.client))?.connect_lazy();
        let (stop, bare, name) = (self.stop.clone(), self.bare.clone(), name.to_string());
        let (away, clock) = (self.away.clone(), cluster.clock.clone());
        self.tasks.spawn(async move {
            for sequence in 1.. {
                for number in &accounts {
                    if stop.load(Relaxed) {
                        return;
                    }
                    // Held over the call: a node is not restarted while a caller that can't know is at it.
                    let away = away.read().await;
                    if !matches!(&*away, Away::All) && !matches!(&*away, Away::From(node) if *node == name) {
                        bare_calls(&channel, &bare, &*clock, &name, *number, sequence).await;
                    }
                    drop(away);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
        Ok(())
    }

    /// Callers without retries stay away from this node from now on, or from none.
    pub async fn stay_away(&self, from: Option<&str>) {
        *self.away.write().await = from.map_or(Away::Nobody, |node| Away::From(node.to_string()));
    }

    /// Callers without retries stay away from all.
    pub async fn only_with_retries(&self) {
        *self.away.write().await = Away::All;
    }

    /// The longest time between two acknowledged writes of each shard since the last call, milliseconds.
    pub fn take_gaps(&self, cluster: &Cluster) -> Vec<u64> {
        let now = cluster.clock.monotonic();
        let by_calls = self.calls.stats().take_gaps(now);
        let mut gaps: BTreeMap<u32, u64> = self.streams.stats().take_gaps(now);
        for (shard, gap) in by_calls {
            // A shard took no writes only as long as neither fleet's were acknowledged.
            gaps.entry(shard).and_modify(|known| *known = gap.min(*known)).or_insert(gap);
        }
        let mut gaps: Vec<u64> = gaps.into_values().collect();
        gaps.sort_unstable();
        gaps
    }

    /// Stops, reads everything back through each node, prints what was counted and says what failed.
    pub async fn end(mut self, cluster: &Cluster) -> Result<()> {
        self.stop.store(true, Relaxed);
        while let Some(task) = self.tasks.join_next().await {
            task?;
        }
        let clients: Vec<Client> =
            cluster.local.names().iter().map(|name| cluster.client_of(name, DEADLINE)).collect::<Result<_>>()?;
        let mut wrong = Vec::new();
        for (way, fleet) in [("calls", self.calls), ("streams", self.streams)] {
            let report = fleet.stop().await.check(&clients).await;
            let c = &report.counters;
            println!(
                "devices by {way}: {} reports and {} writes acknowledged, {} strong reads, unavailable {}, unknown {}, \
                 mismatches {}, answered within p50 {:.1} ms, p99 {:.1} ms",
                c.reports_acknowledged,
                c.writes_acknowledged,
                c.reads,
                c.unavailable,
                c.unknown,
                c.mismatches,
                c.p50_us as f64 / 1e3,
                c.p99_us as f64 / 1e3,
            );
            if !report.is_right() || c.unavailable + c.unknown > 0 {
                wrong.push(format!("devices by {way}: {report:?}"));
            }
        }
        println!("strong reads through every node: {}", self.reads.text());
        println!("calls without retries at the nodes that stay: {}", self.bare.text());
        for tally in [&self.reads, &self.bare] {
            wrong.extend(tally.told.lock().iter().cloned());
        }
        assert!(self.reads.answered.load(Relaxed) > 0, "nothing was asked");
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("requests have failed:\n{}\n{}", wrong.join("\n"), cluster.logs()).into()),
        }
    }
}

async fn bare_calls(channel: &Channel, bare: &Tally, clock: &dyn Clock, name: &str, number: u64, sequence: u64) {
    let report = v1::ProgressReport {
        account_id: account(number),
        view_id: "view".into(),
        sequence,
        position_ms: Some(1_000 + sequence as i64),
        ..Default::default()
    };
    let request = v1::ReportProgressRequest { report: Some(report) };
    let (mut writer, mut reader) =
        (CollectionServiceClient::new(channel.clone()), ProgressServiceClient::new(channel.clone()));
    bare.call(&format!("a bare write at {name}"), clock, writer.report_progress(within(request))).await;
    bare.call(&format!("a bare read at {name}"), clock, reader.get_resume_point(within(resume_point(number)))).await;
}

fn within<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(BARE);
    request
}

fn resume_point(number: u64) -> v1::GetResumePointRequest {
    v1::GetResumePointRequest {
        account_id: account(number),
        profile_id: "p".into(),
        title_id: "film".into(),
        ..Default::default()
    }
}

async fn start_view(client: &Client, number: u64) -> Result<()> {
    let request = v1::StartViewRequest {
        account_id: account(number),
        view_id: "view".into(),
        profile_id: "p".into(),
        device_id: "tv".into(),
        title_id: "film".into(),
        title_type: v1::TitleType::Film.into(),
        duration_ms: Some(6_000_000),
        ..Default::default()
    };
    client.start_view(request).await?;
    Ok(())
}
