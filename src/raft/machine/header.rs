//! The header of a checkpoint: ours around the machine's.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::Stop;
use crate::raft::codec::{self, SnapshotMetaRepr};
use crate::raft::types::SnapshotMeta;
use crate::time::Stamp;

/// The version that is written, and the newest that is read.
///
/// 1: 2026-11, the first.
const VERSION: u8 = 1;

/// What a checkpoint covers, and the machine's own header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The last applied entry, and the membership as of it.
    pub(crate) meta: SnapshotMeta,
    /// The last applied stamp.
    pub(crate) stamp: Stamp,
    /// The machine's.
    pub(crate) machine: Vec<u8>,
}

#[derive(Encode, Decode)]
struct HeaderRepr {
    #[n(0)]
    version: u8,
    #[n(1)]
    meta: SnapshotMetaRepr,
    #[n(2)]
    stamp: Stamp,
    #[n(3)]
    machine: ByteVec,
}

impl Header {
    /// The header's bytes.
    pub(crate) fn encode(self) -> Vec<u8> {
        let meta = SnapshotMetaRepr::from(&self.meta);
        codec::to_vec(&HeaderRepr { version: VERSION, meta, stamp: self.stamp, machine: self.machine.into() })
    }

    /// The header that [`Header::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Stop> {
        let header: HeaderRepr = codec::from_slice("a checkpoint's header", bytes).map_err(|e| Stop(e.to_string()))?;
        if header.version > VERSION {
            return Err(Stop(format!("a checkpoint of version {}: this build reads up to {VERSION}", header.version)));
        }
        let meta = header.meta.try_into().map_err(|e: codec::DecodeError| Stop(e.to_string()))?;
        Ok(Self { meta, stamp: header.stamp, machine: header.machine.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{StoredMembership, log_id};
    use crate::time::{LogicalMs, WallMs};

    #[test]
    fn a_header_comes_back_and_a_later_version_is_refused() {
        let header = Header {
            meta: SnapshotMeta { last_log_id: Some(log_id(2, 9)), last_membership: StoredMembership::default() },
            stamp: Stamp { logical: LogicalMs(5), wall: WallMs(6) },
            machine: vec![1, 2, 3],
        };
        let mut bytes = header.clone().encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        bytes[1] = 2;
        assert!(Header::decode(&bytes).is_err());
        assert!(Header::decode(&bytes[..5]).is_err());
    }
}
