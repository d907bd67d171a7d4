//! `clusterctl node restart-safe`: one node after the other, none before all is well, and no further one when one does not
//! come back.
//!
//! What tells that a node was restarted is its generation, which every process raises durably as it starts: a command that has
//! restarted nothing is found out. Whether a node is back is asked of the others.

mod how;
mod journal;
mod judge;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinHandle;

use super::super::ask::permission;
use super::super::connect::{self, Connection};
use super::super::context::Context;
use super::super::each::each;
use super::super::exit::Failure;
use super::super::output::span_of;
use super::super::shard::shards;
use super::super::status::Status;
use super::hand_over::{HandedOver, hand_over};
use super::{Node, node_name, show};
use crate::local::LocalCluster;
use crate::proto::v1;
use crate::time::MonotonicMs;
use how::How;
use journal::{Journal, Work};
use judge::{Refusal, Word};

/// How often it is looked while it is waited.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For how long what is seen may differ from what is wanted after leads have moved: others hear of it with the next pulses.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// A node that hands over answers within 5 seconds; with this much it is in time on a busy machine too.
const ANSWER_MIN: Duration = Duration::from_secs(10);
/// The most endpoints that are asked.
const ENDPOINTS_MAX: usize = 64;

/// Which nodes, and how.
#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// The node's name
    #[arg(value_name = "NAME", value_parser = node_name, required_unless_present = "all", conflicts_with = "all")]
    node: Option<String>,
    /// All nodes, one after the other
    #[arg(long)]
    all: bool,
    /// The command that restarts a node, for `sh -c`; {node}, {host} and {admin} (host and port) are filled in
    #[arg(long, value_name = "COMMAND", conflicts_with = "root")]
    exec: Option<String>,
    /// The folder of a local cluster whose process is to be restarted
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// How long each wait may take: until all is well, until the node is back
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = connect::duration)]
    wait: Duration,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let context = match &options.root {
        Some(root) => {
            let cluster = LocalCluster::open(root)?;
            context.at(Connection::new(cluster.client_endpoints(), cluster.admin_endpoints()))
        }
        None => context.clone(),
    };
    let how = match (&options.exec, &options.root) {
        (Some(command), _) => How::Command(command.clone()),
        (None, Some(root)) => How::Local(root.clone()),
        (None, None) => How::Hands,
    };
    let status = look(&context).await?;
    let nodes = chosen(&status, options.node.as_deref())?;
    how.check(&nodes)?;
    let names: Vec<String> = nodes.iter().map(|node| node.node.clone()).collect();
    let one_by_one = if names.len() == 1 { "" } else { ", one after the other" };
    let what = format!("Restarting {}{one_by_one}, {}, each once all is well", names.join(", "), how.told());
    let context = permission(&context, &what).await?;
    let journal = Journal::new(&context);
    let begun = context.clock.monotonic();
    let admins = status.nodes.iter().map(|node| node.admin_endpoint.clone()).filter(|endpoint| !endpoint.is_empty());
    let admins = admins.collect();
    let under_way = tokio::sync::Mutex::default();
    let rolling = Rolling { context: &context, journal: &journal, how: &how, wait: options.wait, admins, under_way };
    let ended = tokio::select! {
        ended = rolling.run(&nodes) => ended,
        interrupted = tokio::signal::ctrl_c() => Err(match interrupted {
            Ok(()) => rolling.interrupted(&nodes).await,
            Err(error) => error.into(),
        }),
    };
    journal.end(&names, context.clock.monotonic().since(begun), ended)
}

async fn look(context: &Context) -> Result<Status, Failure> {
    let context = context.again();
    let admin = context.admin()?;
    let status = Status::from(context.read(admin.get_cluster_status(v1::GetClusterStatusRequest {})).await?);
    match status.cluster_id.is_empty() {
        true => Err(Failure::Degraded(status.complaints().join("; "))),
        false => Ok(status),
    }
}

/// The node of this name, or all that belong to the cluster.
fn chosen(status: &Status, name: Option<&str>) -> Result<Vec<Node>, Failure> {
    let members = status.nodes.iter().filter(|node| node.intent != "removed");
    let Some(name) = name else { return Ok(members.cloned().collect()) };
    let node = members.clone().find(|node| node.node == name).cloned();
    node.map(|node| vec![node]).ok_or_else(|| show::unknown(name, &status.nodes))
}

struct Rolling<'a> {
    context: &'a Context,
    journal: &'a Journal<'a>,
    how: &'a How,
    wait: Duration,
    /// Where all nodes serve operators.
    admins: Vec<String>,
    /// The restart of a node's process, if one has begun: it goes on when whoever waits for it is dropped.
    under_way: tokio::sync::Mutex<Option<JoinHandle<Result<String, Failure>>>>,
}

impl Rolling<'_> {
    async fn run(&self, nodes: &[Node]) -> Result<(), Failure> {
        for node in nodes {
            self.one(node).await?;
        }
        Ok(())
    }

    async fn one(&self, node: &Node) -> Result<(), Failure> {
        let name = &node.node;
        let others = self.others(node);
        self.journal.begin(name, Work::WellBefore);
        let status = self.well_before(&others, node).await?;
        self.journal.done(format!("{} of {} shards led", status.shards_led, status.shards))?;
        // Where it is now, not where it was when the first node was restarted.
        let node = chosen(&status, Some(name))?.pop().unwrap_or_else(|| node.clone());
        self.journal.begin(name, Work::HandOver);
        let ready = async {
            let given = self.give_leads(&node).await?;
            self.still_spared(&others, &node).await.map(|()| given)
        };
        let (generation, detail) = match ready.await {
            Ok(given) => given,
            Err(failure) => return Err(self.give_back(&node, failure).await),
        };
        self.journal.done(detail)?;
        self.journal.begin(name, Work::Restart);
        let detail = match self.restart(&node).await {
            Ok(detail) => detail,
            Err(failure) => return Err(self.give_back(&node, failure).await),
        };
        self.journal.done(detail)?;
        self.journal.begin(name, Work::Back);
        let back = self.until(&others, |status| judge::missing(name, generation, status)).await;
        match back {
            Ok(status) => {
                let now = status.nodes.iter().find(|node| node.node == *name).map_or(0, |node| node.generation);
                self.journal.done(format!("start {now}, was {generation}"))?;
            }
            Err(failure) => return Err(self.give_back(&node, not_back(name, failure)).await),
        }
        self.journal.begin(name, Work::WellAfter);
        let status = self.until(&others, complaint).await.map_err(|failure| not_back(name, failure))?;
        self.caught_up(&others, name, &status).await.map_err(|failure| not_back(name, failure))?;
        self.journal.done(format!("{} of {} replicas follow", status.replicas_current, status.replicas_wanted))
    }

    /// Restarts the process, as a task of its own: an interrupt waits for it too.
    async fn restart(&self, node: &Node) -> Result<String, Failure> {
        let (how, context, node, wait) = (self.how.clone(), self.context.clone(), node.clone(), self.wait);
        *self.under_way.lock().await = Some(tokio::spawn(async move { how.restart(&context, &node, wait).await }));
        self.restarted().await.unwrap_or_else(|| Err(Failure::error("no restart has begun")))
    }

    /// How the restart that is under way has ended; `None`: none is.
    async fn restarted(&self) -> Option<Result<String, Failure>> {
        let mut under_way = self.under_way.lock().await;
        let ended = under_way.as_mut()?.await;
        *under_way = None;
        Some(ended.unwrap_or_else(|error| Err(Failure::error(error.to_string()))))
    }

    /// Looks once more, now that the node leads nothing: another one may have gone since, or be held by somebody else who wants to
    /// restart it.
    async fn still_spared(&self, others: &Context, node: &Node) -> Result<(), Failure> {
        let (begun, patience) = (self.context.clock.monotonic(), self.wait.min(SETTLE_MAX));
        loop {
            let looked = async {
                let status = look(others).await?;
                let refused = self.refusal(others, node, &status).await?;
                Ok(refused.map(|refused| refused.why).or_else(|| complaint(&status)))
            };
            let failure = match looked.await {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => Failure::Degraded(why),
                Err(failure) => failure,
            };
            self.journal.waits(&words(&failure));
            if u128::from(self.context.clock.monotonic().since(begun)) >= patience.as_millis() {
                return Err(reworded(failure, |why| format!("{} is not restarted: {why}", node.node)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What each of these nodes says of itself; who is silent is left out.
    async fn words(&self, nodes: &[Node]) -> Vec<Word> {
        let context = self.context.again();
        let said = each(&context, nodes, async |admin| {
            let meta = v1::GetRaftStateRequest { of: Some(v1::get_raft_state_request::Of::Meta(true)) };
            let status = admin.get_cluster_status(v1::GetClusterStatusRequest {}).await?;
            Ok((admin.get_raft_state(meta).await?.state, status))
        });
        let word = |(node, meta, status): (String, _, v1::GetClusterStatusResponse)| {
            let own = Status::from(status).nodes.into_iter().find(|own| own.node == node);
            Word { without_leads: own.is_some_and(|own| own.without_leads), node, meta }
        };
        let said = said.await.into_iter().filter_map(|said| Some((said.node, said.answer.ok()?)));
        said.map(|(node, (meta, status))| word((node, meta, status))).collect()
    }

    /// Waits until the node's replicas have applied what any had applied when this was called: a replica follows by its heartbeats
    /// before entries reach it, and is no help to a quorum until they do.
    async fn caught_up(&self, others: &Context, name: &str, status: &Status) -> Result<(), Failure> {
        let begun = self.context.clock.monotonic();
        let (mut marks, mut meta_mark) = (None, None);
        loop {
            let why = match shards(&others.again(), None).await {
                Ok(now) => {
                    let words = self.words(&status.nodes).await;
                    let marks = marks.get_or_insert_with(|| judge::marks(&now));
                    let meta_mark = *meta_mark.get_or_insert_with(|| judge::meta_mark(&words));
                    match (judge::behind(name, marks, &now), judge::meta_behind(name, meta_mark, &words)) {
                        (0, None) => return Ok(()),
                        (0, Some(why)) => why,
                        (some, _) => format!("{some} replicas of {name} catch up"),
                    }
                }
                Err(failure) => words(&failure),
            };
            self.journal.waits(&why);
            if self.is_over(begun) {
                return Err(Failure::Degraded(self.too_long(&why)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The same surroundings, asking the other nodes: this one goes away meanwhile. What was given on the command line comes after
    /// them.
    fn others(&self, node: &Node) -> Context {
        let Connection { client, admin } = self.context.connection.clone();
        let mut endpoints: Vec<String> = Vec::new();
        for endpoint in self.admins.iter().chain(&admin) {
            if *endpoint != node.admin_endpoint && !endpoints.contains(endpoint) && endpoints.len() < ENDPOINTS_MAX {
                endpoints.push(endpoint.clone());
            }
        }
        if endpoints.is_empty() {
            endpoints.push(node.admin_endpoint.clone());
        }
        self.context.at(Connection::new(client, endpoints))
    }

    /// Waits until all is well and the node can be spared; otherwise nothing is done to it.
    async fn well_before(&self, others: &Context, node: &Node) -> Result<Status, Failure> {
        let begun = self.context.clock.monotonic();
        loop {
            let waited = self.until(others, complaint).await;
            let status = match &waited {
                Ok(status) => status.clone(),
                Err(_) => look(others).await?,
            };
            let refused = self.refusal(others, node, &status).await?;
            let name = &node.node;
            match (waited, refused) {
                (Ok(status), None) => return Ok(status),
                (Ok(_), Some(refused)) if refused.for_good || self.is_over(begun) => {
                    return Err(Failure::Degraded(format!("{name} is not restarted: {}", refused.why)));
                }
                // Who was asked may not have heard of the last restart yet.
                (Ok(_), Some(refused)) => self.journal.waits(&refused.why),
                (Err(failure), None) => {
                    return Err(reworded(failure, |why| format!("{name} is not restarted: {why}")));
                }
                (Err(failure), Some(refused)) => {
                    return Err(reworded(failure, |why| format!("{name} is not restarted: {}; {why}", refused.why)));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Why the node can't be spared, by what is known now.
    async fn refusal(&self, others: &Context, node: &Node, status: &Status) -> Result<Option<Refusal>, Failure> {
        let known = shards(&others.again(), None).await?;
        let words = self.words(&status.nodes).await;
        Ok(judge::refusal(&node.node, &known, &words, status))
    }

    /// Asks the node once to give its leads away. `None`: its version can't.
    async fn ask_for_leads(&self, node: &Node) -> Result<Option<HandedOver>, Failure> {
        let mut patient = self.context.clone();
        patient.timeout = patient.timeout.max(ANSWER_MIN);
        hand_over(&patient.again(), node, self.wait).await
    }

    /// Has the node give its leads away; which process it is, and what came of it. Asked again, it hands over what is left.
    async fn give_leads(&self, node: &Node) -> Result<(u64, String), Failure> {
        let begun = self.context.clock.monotonic();
        let mut handed = 0;
        loop {
            let asked = match self.ask_for_leads(node).await {
                Err(failure @ Failure::Unreachable(_)) if !self.is_over(begun) => {
                    self.journal.waits(&words(&failure));
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                asked => asked?,
            };
            let Some(done) = asked else {
                return Ok((node.generation, "left to its stopping: its version can't before".to_string()));
            };
            handed += done.handed_over;
            // The process of which it is known that it ends has to be another one later.
            let generation = done.generation.max(node.generation);
            if done.leads == 0 {
                return Ok((generation, format!("{handed} leads went to others")));
            }
            let why = format!("{} leads that nobody else can take yet", done.leads);
            self.journal.waits(&why);
            if self.is_over(begun) {
                return Err(Failure::Degraded(format!("{} is not restarted: {}", node.node, self.too_long(&why))));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets a node that was not restarted take leads again; the failure, with a word more if that was not possible.
    async fn give_back(&self, node: &Node, failure: Failure) -> Failure {
        match hand_over(&self.context.again(), node, Duration::ZERO).await {
            Ok(_) => failure,
            Err(_) => reworded(failure, |why| {
                format!(
                    "{why}; if {} runs on, it takes leads again with `clusterctl node hand-over {0} --end`",
                    node.node
                )
            }),
        }
    }

    /// Looks until nothing is missing, as long as a wait may take. Who is silent is asked again: nodes come and go here.
    async fn until(&self, others: &Context, missing: impl Fn(&Status) -> Option<String>) -> Result<Status, Failure> {
        let begun = self.context.clock.monotonic();
        loop {
            let failure = match look(others).await {
                Ok(status) => match missing(&status) {
                    None => return Ok(status),
                    Some(why) => Failure::Degraded(why),
                },
                Err(failure) => failure,
            };
            self.journal.waits(&words(&failure));
            if self.is_over(begun) {
                return Err(reworded(failure, |why| self.too_long(why)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn is_over(&self, begun: MonotonicMs) -> bool {
        u128::from(self.context.clock.monotonic().since(begun)) >= self.wait.as_millis()
    }

    fn too_long(&self, why: &str) -> String {
        format!("after {} still: {why}", span_of(self.wait))
    }

    /// Where it stands when somebody interrupts, and what to do.
    async fn interrupted(&self, nodes: &[Node]) -> Failure {
        let Some((name, work)) = self.journal.now() else {
            return Failure::error("interrupted; nothing was under way");
        };
        let again = "clusterctl status --wait tells when all is well; then begin again";
        if work == Work::Restart {
            self.context.note(&format!("{name}: its restart is waited for; interrupt again to leave it alone"));
            tokio::select! {
                _ = self.restarted() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        let failure = match work {
            Work::WellBefore | Work::HandOver => {
                Failure::error(format!("interrupted: {name} was not restarted; begin again when you like"))
            }
            Work::Restart => Failure::error(format!(
                "interrupted: {name} was being restarted, and may be or may not; clusterctl node show {name} shows its starts; \
                 {again}"
            )),
            Work::Back => Failure::error(format!("interrupted: {name} had not come back yet; {again}")),
            Work::WellAfter => {
                Failure::error(format!("interrupted: {name} is restarted, and not all is well yet; {again}"))
            }
        };
        match nodes.iter().find(|node| node.node == name) {
            Some(node) if matches!(work, Work::HandOver | Work::Restart | Work::Back) => {
                self.give_back(node, failure).await
            }
            _ => failure,
        }
    }
}

/// What is not well.
fn complaint(status: &Status) -> Option<String> {
    let complaints = status.complaints();
    (!complaints.is_empty()).then(|| complaints.join("; "))
}

/// A failure's reason, without its kind.
fn words(failure: &Failure) -> String {
    match failure {
        Failure::Usage(why) | Failure::Degraded(why) | Failure::Unreachable(why) => why.clone(),
        Failure::Error(_) => failure.to_string(),
    }
}

/// The same kind of failure, in other words.
fn reworded(failure: Failure, say: impl FnOnce(&str) -> String) -> Failure {
    let said = say(&words(&failure));
    match failure {
        Failure::Error(_) => Failure::error(said),
        Failure::Usage(_) => Failure::Usage(said),
        Failure::Degraded(_) => Failure::Degraded(said),
        Failure::Unreachable(_) => Failure::Unreachable(said),
    }
}

fn not_back(name: &str, failure: Failure) -> Failure {
    reworded(failure, |why| {
        format!("{name} has not come back as it should: {why}; look at its log before anything else")
    })
}
