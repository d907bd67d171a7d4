//! The machine of the meta group: a small state that is one value in the store.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{Changes, Machine, Missing, Stop};
use crate::ids::Revision;
use crate::raft::codec;
use crate::store::Pair;
use crate::time::{LogicalMs, Stamp, WallMs};

/// A small replicated state, pure: nodes, placement, epoch and what else the cluster knows of itself. Its encoding must fit
/// into 8 MiB.
pub trait MetaState: Send + Sync + Sized + 'static {
    /// Carries a command out. The answer goes to the proposer. An error stops every replica, so it is only for bytes that
    /// are no command of this build; what the rules forbid is an answer.
    fn apply(&mut self, stamp: Stamp, command: &[u8]) -> Result<Vec<u8>, Stop>;

    /// The state's bytes.
    fn encode(&self) -> Vec<u8>;

    /// The state that [`MetaState::encode`] gave.
    fn decode(bytes: &[u8]) -> Result<Self, Stop>;

    /// The state at the beginning.
    fn empty(&self) -> Self;
}

/// A [`MetaState`] as a replicated machine.
#[derive(Debug)]
pub struct MetaMachine<S> {
    state: S,
    stamp: Stamp,
    revision: Revision,
    changed_bytes: usize,
    frozen: bool,
}

/// What was set aside: all of the state.
#[derive(Debug)]
pub struct MetaFrozen {
    header: Vec<u8>,
    image: Vec<u8>,
}

#[derive(Encode, Decode)]
struct MetaHeader {
    #[n(0)]
    logical: LogicalMs,
    #[n(1)]
    wall: WallMs,
    #[n(2)]
    revision: Revision,
    #[n(3)]
    pieces: u32,
}

/// The most bytes of the state that go into one value of the store.
const PIECE_BYTES_MAX: usize = 512 << 10;
/// The most values that the state is cut into.
const PIECES_MAX: u32 = 16;

impl<S: MetaState> MetaMachine<S> {
    /// A machine that begins with `state`.
    pub fn new(state: S) -> Self {
        Self { state, stamp: Stamp::default(), revision: Revision(0), changed_bytes: 0, frozen: false }
    }

    /// The state, to be asked.
    pub fn state(&self) -> &S {
        &self.state
    }
}

impl<S: MetaState> Machine for MetaMachine<S> {
    type Command = Bytes;
    type Answer = Bytes;
    type Fence = ();
    type Frozen = MetaFrozen;

    fn encode(command: &Bytes, out: &mut Vec<u8>) {
        out.extend_from_slice(command);
    }

    fn decode(bytes: &[u8]) -> Result<Bytes, Stop> {
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn missing(&self, _: Stamp, _: &Bytes) -> Result<Option<Missing<()>>, Stop> {
        Ok(None)
    }

    fn admit(&mut self, (): (), _: &[u8], _: Option<&[u8]>) -> bool {
        true
    }

    fn apply(&mut self, stamp: Stamp, command: &Bytes) -> Result<Bytes, Stop> {
        let answer = self.state.apply(stamp, command)?;
        self.stamp = stamp;
        self.revision.0 += 1;
        self.changed_bytes += command.len();
        Ok(answer.into())
    }

    fn logical(&self) -> LogicalMs {
        self.stamp.logical
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn next_due(&mut self, _: LogicalMs) -> Option<LogicalMs> {
        None
    }

    fn tick() -> Option<Bytes> {
        None
    }

    fn freeze(&mut self) -> Option<MetaFrozen> {
        if self.frozen {
            return None;
        }
        let image = self.state.encode();
        let pieces = u32::try_from(image.len().div_ceil(PIECE_BYTES_MAX)).unwrap_or(u32::MAX);
        let header = MetaHeader { logical: self.stamp.logical, wall: self.stamp.wall, revision: self.revision, pieces };
        self.frozen = true;
        self.changed_bytes = 0;
        Some(MetaFrozen { header: codec::to_vec(&header), image })
    }

    fn changes(frozen: &MetaFrozen) -> Changes {
        let mut pieces = frozen.image.chunks(PIECE_BYTES_MAX);
        // Every piece that there could be is written or deleted, so that none of a longer state before stays behind.
        let images = (0..PIECES_MAX).map(|n| (n.to_be_bytes().to_vec(), pieces.next().map(<[u8]>::to_vec))).collect();
        Changes { header: frozen.header.clone(), images, rows: Vec::new() }
    }

    fn thawed(&mut self) {
        self.frozen = false;
    }

    fn dirty_bytes(&self) -> usize {
        self.changed_bytes
    }

    fn trim(&mut self) {}

    fn empty(&self) -> Self {
        Self::new(self.state.empty())
    }

    fn restore(&self, header: &[u8], images: Vec<Pair>) -> Result<Self, Stop> {
        let header: MetaHeader = codec::from_slice("the meta header", header).map_err(|e| Stop(e.to_string()))?;
        if images.len() != header.pieces as usize {
            return Err(Stop(format!("{} pieces of the meta state, not {}", images.len(), header.pieces)));
        }
        let bytes: Vec<u8> = images.into_iter().flat_map(|(_, piece)| piece).collect();
        Ok(Self {
            state: S::decode(&bytes)?,
            stamp: Stamp { logical: header.logical, wall: header.wall },
            revision: header.revision,
            changed_bytes: 0,
            frozen: false,
        })
    }
}
