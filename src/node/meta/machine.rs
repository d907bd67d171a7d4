//! The meta state as a replicated machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::ids::{GroupId, Revision};
use crate::raft::{self, DecodeError, Frozen, Stop};
use crate::store::{Key, Pair};
use crate::time::{LogicalMs, Stamp};

use super::{Answer, Command, GroupRecord, MetaState};

/// What is in the machine's header: everything but the groups, which are an image each.
#[derive(minicbor::Encode, minicbor::Decode)]
struct Header {
    #[n(0)]
    state: MetaState,
    #[n(1)]
    stamp: Stamp,
}

/// The meta state, and who watches it on this node.
#[derive(Debug)]
pub struct Machine {
    state: Arc<MetaState>,
    stamp: Stamp,
    /// The groups as they were frozen last, to write only what has changed.
    frozen: BTreeMap<GroupId, u64>,
    watchers: watch::Sender<Arc<MetaState>>,
}

impl Machine {
    /// An empty state. Whatever is applied or restored is shown to `watchers`.
    pub fn new(watchers: watch::Sender<Arc<MetaState>>) -> Self {
        Self { state: Arc::default(), stamp: Stamp::default(), frozen: BTreeMap::new(), watchers }
    }

    fn show(&self) {
        self.watchers.send_replace(self.state.clone());
    }
}

impl raft::Machine for Machine {
    type Command = Command;
    type Answer = Answer;

    fn encode(command: &Command, out: &mut Vec<u8>) {
        minicbor::encode(command, out).expect("writing to a vector doesn't fail");
    }

    fn decode(body: &[u8]) -> Result<(Command, usize), DecodeError> {
        let mut decoder = minicbor::Decoder::new(body);
        let command = decoder.decode().map_err(|e| DecodeError::Malformed { what: "a command of the meta group", why: e.to_string() })?;
        Ok((command, decoder.position()))
    }

    fn missing(&self, _: &Command) -> Vec<Key> {
        Vec::new()
    }

    fn admit(&mut self, _: Key, _: Option<&[u8]>) {}

    fn apply(&mut self, stamp: Stamp, command: Command) -> Result<Answer, Stop> {
        self.stamp = stamp;
        let answer = Arc::make_mut(&mut self.state).apply(command);
        self.show();
        Ok(answer)
    }

    fn stamp(&self) -> Stamp {
        self.stamp
    }

    fn revision(&self) -> Revision {
        Revision(self.state.revision)
    }

    fn next_due(&self) -> Option<LogicalMs> {
        None
    }

    fn tick() -> Option<Command> {
        None
    }

    fn freeze(&mut self) -> Result<Frozen, Stop> {
        let changed = |group: &GroupId, record: &GroupRecord| self.frozen.get(group) != Some(&record.version);
        let encode = |record| minicbor::to_vec(record).expect("writing to a vector doesn't fail");
        let groups = &self.state.groups;
        let images = groups.iter().filter(|(group, record)| changed(group, record));
        let images = images.map(|(group, record)| (group.0.to_be_bytes().to_vec(), Some(encode(record)))).collect();
        self.frozen = groups.iter().map(|(group, record)| (*group, record.version)).collect();
        let state = MetaState { groups: BTreeMap::new(), ..(*self.state).clone() };
        let header = minicbor::to_vec(Header { state, stamp: self.stamp }).expect("writing to a vector doesn't fail");
        Ok(Frozen { header, images, rows: Vec::new() })
    }

    fn thawed(&mut self) {}

    fn empty(&self) -> Self {
        Self::new(self.watchers.clone())
    }

    fn restore(&self, header: &[u8], images: Vec<Pair>) -> Result<Self, Stop> {
        let damaged = |what: String| Stop(format!("the meta state's checkpoint is damaged: {what}"));
        let Header { mut state, stamp } = minicbor::decode(header).map_err(|e| damaged(e.to_string()))?;
        for (key, value) in images {
            let key = <[u8; 8]>::try_from(key).map_err(|key| damaged(format!("a key of {} bytes", key.len())))?;
            let record = minicbor::decode(&value).map_err(|e| damaged(e.to_string()))?;
            state.groups.insert(GroupId(u64::from_be_bytes(key)), record);
        }
        let frozen = state.groups.iter().map(|(group, record)| (*group, record.version)).collect();
        let machine = Self { state: Arc::new(state), stamp, frozen, watchers: self.watchers.clone() };
        machine.show();
        Ok(machine)
    }
}
