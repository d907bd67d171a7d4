//! Faults, one after the other, while the households play.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::context::Context;
use super::super::exit::Failure;
use super::nodes::{Led, Nodes, complaints, is_noticed, led_by};
use super::row::Row;
use super::schedule::{Fault, Kind};
use super::view::View;
use crate::client::AdminClient;
use crate::device::{Fleet, Snapshot, Stats};
use crate::proto::v1::{self, get_shard_request::Of};
use crate::time::MonotonicMs;

/// How long the cluster may take to be healthy again.
const HEAL_MAX: Duration = Duration::from_secs(90);
/// How long households may take until they stand still; who takes longer follows.
const STILL_MAX: Duration = Duration::from_secs(3);
/// How long it may take to compare those that stand still.
const COMPARE_MAX: Duration = Duration::from_secs(60);
/// How often a leader is asked to hand over.
const TRANSFERS_MAX: usize = 3;
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What faults are done with.
pub(super) struct Play<'a> {
    pub(super) context: &'a Context,
    pub(super) nodes: &'a mut Nodes,
    pub(super) fleet: &'a Fleet,
    pub(super) stats: Arc<Stats>,
    pub(super) view: View,
    pub(super) begun: MonotonicMs,
    /// Nothing further is begun, and what is under way is undone.
    pub(super) stop: CancellationToken,
}

impl Play<'_> {
    fn now(&self) -> MonotonicMs {
        self.context.clock.monotonic()
    }

    /// Plays on without a fault until then; whether it came to that.
    pub(super) async fn calm(&mut self, until: MonotonicMs) -> Result<bool, Failure> {
        while self.now() < until && !self.stop.is_cancelled() {
            let left = Duration::from_millis(until.since(self.now()));
            self.view.draw(None, &self.stats.snapshot(), self.now())?;
            self.pause_for(left.min(View::RENEW)).await;
        }
        Ok(!self.stop.is_cancelled())
    }

    async fn pause_for(&self, duration: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(duration) => {}
        }
    }

    /// Does one fault, undoes it, and waits until the cluster is healthy again.
    pub(super) async fn carry_out(&mut self, fault: &Fault) -> Result<Row, Failure> {
        self.nodes.look();
        let admins = self.nodes.admins(self.context)?;
        let nodes: Vec<String> = fault.nodes.iter().map(|number| self.nodes.name(*number)).collect();
        let led = led_by(&admins, &nodes).await;
        let stood_still = self.fleet.stand_still(STILL_MAX).await;
        let (before, began) = (self.stats.snapshot(), self.now());
        self.stats.take_gaps(began);
        let at_ms = began.since(self.begun);
        let mut row = Row { at_ms, fault: Some(fault.kind), nodes, stood_still, ..Row::default() };
        let concerned = match fault.kind {
            Kind::Move => self.move_leaders(fault, &mut row, &before).await,
            _ => match self.disturb(fault, &admins, &led, &mut row, &before).await {
                Ok(()) => led.into_keys().collect(),
                Err(failure) => {
                    row.shown = false;
                    row.trouble(format!("{failure:#}"));
                    led.into_keys().collect()
                }
            },
        };
        row.lasted_ms = Some(self.now().since(began));
        row.count(&before, &self.stats.snapshot(), true);
        row.shards = concerned.len();
        if concerned.is_empty() && row.shown {
            row.remarks.push("it led no shard at that moment".into());
        }
        let healed = self.heal(&mut row, &before, began).await;
        self.fleet.go_on();
        healed?;
        self.nodes.take_troubles().into_iter().for_each(|what| row.trouble(what));
        for name in self.nodes.local.take_moved() {
            row.remarks.push(format!("{name} has other ports now: its own were taken"));
        }
        let gaps = self.stats.take_gaps(self.now());
        row.gaps(concerned.iter().filter_map(|shard| gaps.get(shard).copied()).collect());
        row.count(&before, &self.stats.snapshot(), false);
        self.view.ended(&row)?;
        Ok(row)
    }

    /// A fault of processes: they are disturbed, and brought back.
    async fn disturb(
        &mut self,
        fault: &Fault,
        admins: &[(String, AdminClient)],
        led: &Led,
        row: &mut Row,
        before: &Snapshot,
    ) -> Result<(), Failure> {
        let names = row.nodes.clone();
        let running = names.iter().all(|name| self.nodes.local.pid(name).is_some());
        if !running {
            return Err(Failure::error("a node did not run before: nothing was done"));
        }
        match fault.kind {
            Kind::Kill => self.nodes.local.kill(&names[0]).await?,
            Kind::KillAll => self.nodes.local.kill_all().await?,
            Kind::Pause => self.nodes.pause(&names[0])?,
            Kind::PauseKill => {
                self.nodes.pause(&names[0])?;
                self.nodes.local.kill(&names[1]).await?;
            }
            Kind::Restart => {
                let stopped =
                    self.drawn(row, before, async |nodes: &mut Nodes| nodes.local.stop(&names[0]).await).await??;
                if !stopped.is_well() {
                    return Err(Failure::error(format!("{} {stopped}", names[0])));
                }
            }
            Kind::Move => {}
        }
        let paused = matches!(fault.kind, Kind::Pause | Kind::PauseKill).then(|| names[0].as_str());
        let noticed = self.last(fault.lasts_ms, admins, paused, led, row, before).await?;
        if let Some(paused) = paused {
            self.nodes.resume(paused)?;
        }
        self.drawn(row, before, async |nodes: &mut Nodes| nodes.start_all().await).await??;
        row.shown = paused.is_none() || noticed;
        if !row.shown {
            row.remarks.push("it went on before any other node noticed: this one does not count".into());
        }
        Ok(())
    }

    /// Lets a fault last; whether others noticed the node that stands still.
    async fn last(
        &mut self,
        lasts_ms: u64,
        admins: &[(String, AdminClient)],
        paused: Option<&str>,
        led: &Led,
        row: &mut Row,
        before: &Snapshot,
    ) -> Result<bool, Failure> {
        let (until, mut noticed) = (self.now().plus(lasts_ms), false);
        while self.now() < until && !self.stop.is_cancelled() {
            self.renew(row, before, true)?;
            let left = Duration::from_millis(until.since(self.now()));
            match paused {
                Some(paused) if !noticed => {
                    noticed = tokio::time::timeout(left, is_noticed(admins, paused, led)).await.unwrap_or(false);
                    self.pause_for(left.min(LOOK_EVERY)).await;
                }
                _ => self.pause_for(left.min(View::RENEW)).await,
            }
        }
        Ok(noticed)
    }

    /// Makes other replicas leaders; the shards that have moved.
    async fn move_leaders(&mut self, fault: &Fault, row: &mut Row, before: &Snapshot) -> Vec<u32> {
        let (mut moved, mut to) = (Vec::new(), BTreeSet::new());
        for (shard, choice) in &fault.moves {
            if self.stop.is_cancelled() {
                break;
            }
            let context = self.context;
            let moving = self.drawn(row, before, async |_: &mut Nodes| transfer(context, *shard, *choice).await).await;
            match moving.and_then(|moved| moved) {
                Ok(Some(leader)) => {
                    moved.push(*shard);
                    to.insert(leader);
                }
                Ok(None) => row.remarks.push(format!("shard {shard} has no other replica")),
                Err(failure) => row.trouble(format!("shard {shard} was not moved: {failure}")),
            }
        }
        (row.nodes, row.shown) = (to.into_iter().collect(), !moved.is_empty());
        if moved.is_empty() {
            row.remarks.push("no leader moved: this one does not count".into());
        }
        moved
    }

    /// Waits until every node says that all is well and every shard has acknowledged writes since the fault began.
    async fn heal(&mut self, row: &mut Row, before: &Snapshot, began: MonotonicMs) -> Result<(), Failure> {
        let undone = self.now();
        // With what is left of an interrupted fault, if there is anything.
        if let Err(e) = self.drawn(row, before, async |nodes: &mut Nodes| nodes.heal().await).await? {
            row.trouble(format!("not started again: {e}"));
            return Ok(());
        }
        let admins = self.nodes.admins(self.context)?;
        let deadline = undone.plus(u64::try_from(HEAL_MAX.as_millis()).unwrap_or(u64::MAX));
        // How long the comparing has taken is not how long the healing has.
        let mut compared_ms = None;
        loop {
            let mut wrong = complaints(&admins).await;
            if wrong.is_empty() && compared_ms.is_none() {
                compared_ms = Some(self.compare(row, before).await?);
            }
            let silent = self.stats.silent_since(began);
            if !silent.is_empty() {
                wrong.push(format!("shards {silent:?} have acknowledged no write since"));
            }
            if wrong.is_empty() {
                let took_ms = self.now().since(undone);
                row.healthy_after_ms = Some(took_ms.saturating_sub(compared_ms.unwrap_or_default()));
                return Ok(());
            }
            if self.now() >= deadline {
                row.remarks.push(format!("not healthy after {} s: {}", HEAL_MAX.as_secs(), wrong.join("; ")));
                return Ok(());
            }
            self.renew(row, before, false)?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Compares the households that stand still, and lets them go on; how long that took, milliseconds.
    async fn compare(&mut self, row: &mut Row, before: &Snapshot) -> Result<u64, Failure> {
        let (fleet, begun) = (self.fleet, self.now());
        let compared = self.drawn(row, before, async |_: &mut Nodes| fleet.compare_still(COMPARE_MAX).await).await?;
        (row.compared, row.facts) = compared;
        if row.compared < row.stood_still {
            row.trouble(format!("{} households could not be compared", row.stood_still - row.compared));
        }
        self.fleet.go_on();
        Ok(self.now().since(begun))
    }

    fn renew(&mut self, row: &mut Row, before: &Snapshot, lasting: bool) -> Result<(), Failure> {
        let now = self.stats.snapshot();
        row.count(before, &now, lasting);
        self.view.draw(Some(row), &now, self.context.clock.monotonic())
    }

    /// Does something with the nodes that takes its time, and goes on showing how it goes.
    async fn drawn<T>(
        &mut self,
        row: &mut Row,
        before: &Snapshot,
        work: impl AsyncFnOnce(&mut Nodes) -> T,
    ) -> Result<T, Failure> {
        let work = work(self.nodes);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(View::RENEW) => {}
            }
            let now = self.stats.snapshot();
            // Once it is undone, what is acknowledged is no longer acknowledged in spite of it.
            let lasting = row.lasted_ms.is_none();
            row.count(before, &now, lasting);
            self.view.draw(Some(row), &now, self.context.clock.monotonic())?;
        }
    }
}

/// Makes another replica of a shard its leader; its node, or none where there is no other replica. A leader whose followers are
/// not up to date may refuse at first.
async fn transfer(context: &Context, number: u32, choice: usize) -> Result<Option<String>, Failure> {
    for _ in 1..TRANSFERS_MAX {
        match try_transfer(context, number, choice).await {
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            moved => return moved,
        }
    }
    try_transfer(context, number, choice).await
}

async fn try_transfer(context: &Context, number: u32, choice: usize) -> Result<Option<String>, Failure> {
    let context = context.again();
    let admin = context.patient_admin().await?;
    let shard = admin.get_shard(v1::GetShardRequest { of: Some(Of::Shard(number)) }).await?.shard.unwrap_or_default();
    let others: Vec<&String> = shard.placement.iter().filter(|node| **node != shard.leader).collect();
    let Some(to) = others.get(choice % others.len().max(1)) else {
        return Ok(None);
    };
    let request = v1::TransferLeaderRequest { shard: number, to_node: (*to).clone() };
    let answer = admin.transfer_leader(request).await?;
    // Term 0: it has not heard of it.
    match answer.leader == **to && answer.term > shard.term {
        true => Ok(Some(answer.leader)),
        false => {
            let (leader, term) = (answer.leader, answer.term);
            Err(Failure::error(format!("{leader:?} leads in term {term}, not {to:?} in one after {}", shard.term)))
        }
    }
}
