//! Starting a replica: what the log and the store say is compared before anything runs.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use openraft::Raft;
use parking_lot::Mutex;

use super::minder::{Minder, Orders};
use super::{Group, GroupParts, Inner, StartError};
use crate::ids::ReplicaId;
use crate::raft::batcher::{Batcher, Lead, Queue};
use crate::raft::load::Accounts;
use crate::raft::log_store::{LogStore, to_wal};
use crate::raft::machine::{ApplyError, Broken, Cause, Core, Header, Machine, Replica, restore};
use crate::raft::meter::Meter;
use crate::raft::network::{Copying, Peers, Promise, inbound};
use crate::raft::read::{Reads, Rounder};
use crate::store::{self, ReadError};
use crate::time::MonotonicMs;
use crate::wal;

/// What the disk has of a replica.
struct Found {
    header: Option<store::Header>,
}

fn failed(replica: ReplicaId, why: impl ToString) -> StartError {
    StartError::Failed { replica, cause: Cause::Other, why: why.to_string() }
}

/// Compares log and store; makes the replica in the store if it is new. A replica whose disk has lost something that it may
/// have promised is retired, never repaired (invariant raft/7). What is whole and can't be understood is no loss: another
/// build may understand it, and all replicas of a group would be retired for it.
async fn find(parts: &GroupParts) -> Result<Found, StartError> {
    let replica = parts.replica;
    let retired = |why: String| StartError::Retired { replica, why };
    let failed = |why: String| failed(replica, why);
    // Changes nothing, and is refused for those of which the log knows that they must not come back.
    match parts.wal.save_committed(replica, parts.wal.replica_state(replica).and_then(|state| state.committed)) {
        Ok(()) => {}
        Err(e @ (wal::WriteError::Forgotten { .. } | wal::WriteError::Distrusted { .. })) => {
            return Err(retired(e.to_string()));
        }
        Err(e) => return Err(failed(e.to_string())),
    }
    // A replica that ran in this process before may have left a vote behind that is not durable yet.
    let flushed = parts.wal.flush().map_err(|e| failed(e.to_string()))?;
    flushed.await.map_err(|e| failed(e.to_string()))?;
    let state = parts.wal.replica_state(replica).unwrap_or_default();
    let has_log = state.vote.is_some() || state.last.is_some() || state.checkpoint.is_some();
    let header = match parts.store.header(replica).await {
        Ok(header) => header,
        Err(ReadError::UnknownReplica(_)) => {
            // Also a replica without a checkpoint: an empty tree need not survive, its log is all there is of it.
            parts.store.create(replica).await.map_err(|e| failed(e.to_string()))?;
            None
        }
        Err(ReadError::Retired { reason, .. }) => return Err(retired(reason.to_string())),
        Err(e @ ReadError::Corrupt { .. }) => return Err(retired(e.to_string())),
        Err(e) => return Err(failed(e.to_string())),
    };
    let Some(header) = header else {
        return match (state.checkpoint, state.last_purged) {
            (None, None) => Ok(Found { header: None }),
            _ => Err(retired("the log tells of a checkpoint, the store has none".to_string())),
        };
    };
    if !has_log {
        return Err(retired("the store has a checkpoint, the log has nothing: its votes are lost".to_string()));
    }
    if let Some(record) = state.checkpoint {
        let same = header.generation == record.generation;
        if header.generation < record.generation || (same && header.checksum != record.checksum) {
            let (found, recorded) = (header.generation, record.generation);
            return Err(retired(format!("checkpoint {found} is not checkpoint {recorded} that the log tells of")));
        }
    }
    let applied = Header::decode(&header.bytes).map_err(|e| failed(e.to_string()))?.meta.last_log_id;
    if state.last_purged.map(|id| id.index) > applied.map(|id| id.index) {
        return Err(retired("the log does not reach back to the checkpoint".to_string()));
    }
    // What a snapshot contradicts was cut off the log, durably, before the snapshot took the place of what was there.
    let logged = applied.and_then(|id| parts.wal.log_id(replica, id.index));
    if let Some((logged, applied)) = logged.zip(applied).filter(|(logged, applied)| *logged != to_wal(*applied)) {
        let (is, should) = (logged.term, applied.leader_id.term);
        let index = applied.index;
        return Err(retired(format!("entry {index} is of term {is} in the log, of term {should} in the checkpoint")));
    }
    Ok(Found { header: Some(header) })
}

async fn core<M: Machine>(
    parts: &GroupParts,
    machine: M,
    found: Found,
) -> Result<(Arc<Core<M>>, tokio::sync::mpsc::Receiver<crate::raft::machine::Missing<M::Fence>>), StartError> {
    let replica = parts.replica;
    let Some(found) = found.header else {
        return Ok(Core::new(replica, parts.store.clone(), machine, None, 0, &parts.config));
    };
    let header = Header::decode(&found.bytes).map_err(|e| failed(replica, e))?;
    let restored = restore(machine, &parts.store, replica, header.machine.clone()).await;
    let machine = restored.map_err(|error| match error {
        ApplyError::Store(e @ (ReadError::Corrupt { .. } | ReadError::Retired { .. })) => {
            StartError::Retired { replica, why: e.to_string() }
        }
        error => failed(replica, error),
    })?;
    Ok(Core::new(replica, parts.store.clone(), machine, Some(header), found.generation, &parts.config))
}

/// Starts a replica on the groups' thread.
pub(super) async fn start<M: Machine>(parts: GroupParts, machine: M) -> Result<Group<M>, StartError> {
    parts.config.validate()?;
    let (thread, replica) = (parts.thread.clone(), parts.replica);
    let started = thread.run(start_there(parts, machine)).await;
    started.unwrap_or_else(|| Err(failed(replica, "the thread of the groups has ended, or starting panicked")))
}

async fn start_there<M: Machine>(parts: GroupParts, machine: M) -> Result<Group<M>, StartError> {
    let replica = parts.replica;
    // Frames wait until the replica is restored; a second replica under this id is refused here.
    let frames = parts.switchboard.open(parts.group, replica).ok_or(StartError::Running(replica))?;
    match assemble(parts.clone(), machine, frames).await {
        Ok(group) => Ok(group),
        Err(error) => {
            parts.switchboard.close(replica);
            Err(error)
        }
    }
}

async fn assemble<M: Machine>(
    parts: GroupParts,
    machine: M,
    frames: tokio::sync::mpsc::Receiver<crate::raft::network::Inbound>,
) -> Result<Group<M>, StartError> {
    let (group, replica, config) = (parts.group, parts.replica, Arc::clone(&parts.config));
    let found = find(&parts).await?;
    let (core, fetches) = core(&parts, machine, found).await?;
    let log = LogStore::new(parts.wal.clone(), replica, config.append_bytes_max, Arc::<Core<M>>::clone(&core));
    let link = Arc::clone(parts.switchboard.link());
    let peers = Peers {
        link: Arc::clone(&link),
        group,
        from: replica,
        config: Arc::clone(&config),
        known: Arc::clone(&parts.known),
        transfers: Arc::new(AtomicU64::new(parts.clock.wall().0)),
        acknowledged: Arc::default(),
        copying: Copying::new(config.long_entry_bytes),
    };
    let promise = Arc::new(Promise::new(&config));
    let state = Replica::new(group, Arc::clone(&core), parts.wal.clone(), config.snapshot_lease_ms);
    let openraft = config.openraft(format!("group {group}"))?;
    let openraft = Arc::new(openraft::Config { enable_elect: !parts.switchboard.is_held(group), ..openraft });
    let raft =
        Raft::new(replica.0, openraft, peers.clone(), log, state).await.map_err(|error| match core.broken() {
            Some(Broken { cause: Cause::Lost, why }) => StartError::Retired { replica, why },
            Some(Broken { cause, why }) => StartError::Failed { replica, cause, why },
            None => failed(replica, error),
        })?;
    peers.copying.know(raft.server_metrics(), raft.data_metrics());
    let bounds = (config.queue_commands_max, config.queue_bytes_max);
    let (load, clock) = (Arc::clone(&parts.load), Arc::clone(&parts.clock));
    let queue = Arc::new(Queue::new(bounds, config.entry_commands_max, load, clock));
    let accounts = Accounts::default();
    let lead = Arc::new(Lead::new(replica, Arc::clone(&parts.clock), raft.server_metrics()));
    let reads = Arc::new(Reads::new(&config, Arc::clone(&parts.clock)));
    let minding = Arc::new(Orders::default());
    let meter = Arc::new(Meter::default());
    let spawn = |task: futures::future::BoxFuture<'static, ()>| parts.thread.handle().spawn(task);
    let tasks = vec![
        spawn(Box::pin(inbound::run(
            raft.clone(),
            parts.store.clone(),
            link,
            config.clone(),
            replica,
            Arc::clone(&promise),
            frames,
        ))),
        spawn(Box::pin(Arc::clone(&core).prefetch_all(fetches))),
        spawn(Box::pin(
            Batcher {
                raft: raft.clone(),
                core: Arc::clone(&core),
                queue: Arc::clone(&queue),
                lead: Arc::clone(&lead),
                config,
                meter: Arc::clone(&meter),
            }
            .run(),
        )),
        spawn(Box::pin(
            Rounder { raft: raft.clone(), core: Arc::clone(&core), lead: Arc::clone(&lead), reads: Arc::clone(&reads) }
                .run(),
        )),
        spawn(Box::pin(
            Minder {
                parts: parts.clone(),
                raft: raft.clone(),
                core: Arc::clone(&core),
                queue: Arc::clone(&queue),
                lead: Arc::clone(&lead),
                reads: Arc::clone(&reads),
                orders: Arc::clone(&minding),
                checkpoint_due: MonotonicMs(0),
            }
            .run(),
        )),
    ];
    let tasks = Mutex::new(tasks);
    Ok(Group {
        inner: Arc::new(Inner {
            parts,
            raft,
            core,
            queue,
            accounts,
            lead,
            reads,
            promise,
            peers,
            tasks,
            minding,
            meter,
        }),
    })
}
