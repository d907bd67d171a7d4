//! The meta state as the meta group replicates it.

use std::sync::Arc;

use crate::raft::{self, Stop};
use crate::time::Stamp;

use super::{Answer, Command, MetaState};

/// The meta state behind an `Arc`, so that whoever looks takes a copy for nothing and keeps it as it was.
#[derive(Debug, Default)]
pub struct Replicated(Arc<MetaState>);

impl Replicated {
    /// The state now.
    pub fn state(&self) -> &Arc<MetaState> {
        &self.0
    }
}

impl Command {
    /// The command's bytes, as the meta group's log carries them.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a vector doesn't fail")
    }
}

impl Answer {
    /// Reads what the meta group answered.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, minicbor::decode::Error> {
        minicbor::decode(bytes)
    }
}

impl raft::MetaState for Replicated {
    fn apply(&mut self, _: Stamp, command: &[u8]) -> Result<Vec<u8>, Stop> {
        let command: Command =
            minicbor::decode(command).map_err(|e| Stop(format!("a command of the meta group: {e}")))?;
        let answer = Arc::make_mut(&mut self.0).apply(command);
        Ok(minicbor::to_vec(answer).expect("writing to a vector doesn't fail"))
    }

    fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(&*self.0).expect("writing to a vector doesn't fail")
    }

    fn decode(bytes: &[u8]) -> Result<Self, Stop> {
        let state = minicbor::decode(bytes).map_err(|e| Stop(format!("the meta state: {e}")))?;
        Ok(Self(Arc::new(state)))
    }

    fn empty(&self) -> Self {
        Self::default()
    }
}
