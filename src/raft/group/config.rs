//! The sizes and times of a group.

use std::time::Duration;

use openraft::SnapshotPolicy;

use crate::planted::{self, Bug};
use crate::raft::ticks;

/// What a group is run with. The defaults are meant for production; tests make the times shorter.
///
/// A group without its leader waits for one lease after the last that its replicas have heard of it whatever happens, and then until
/// somebody is told to stand for election ([`crate::raft::Group::stand`]). By its own timers it waits for the longest election time and
/// an election time more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Between two heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest silence of a leader after which a follower stands for election, in milliseconds.
    pub election_ms_min: u64,
    /// The longest, exclusive, in milliseconds.
    pub election_ms_max: u64,
    /// For how long a replica that has heard its leader helps nobody else to the lead, in milliseconds; at most `election_ms_max`.
    /// LEASE reads rest on it.
    pub lease_ms: u64,
    /// How long an appended entry's answer is waited for before the stream is begun anew, in milliseconds. Longer than a
    /// slow fsync.
    pub append_ms_max: u64,
    /// How long one piece of a snapshot may take on the other side, in milliseconds.
    pub snapshot_piece_ms_max: u64,
    /// How long a snapshot may take to be installed after its last piece, in milliseconds.
    pub snapshot_install_ms_max: u64,
    /// For how long whoever reads a snapshot from the store may ask for nothing before a checkpoint goes ahead, in milliseconds.
    /// Longer than anything that is waited for between two pieces.
    pub snapshot_lease_ms: u64,
    /// About how many bytes of a snapshot go into one piece, at most: fewer where the link says so.
    pub snapshot_piece_bytes: usize,
    /// Pieces of a snapshot on their way at once.
    pub snapshot_pieces_in_flight: usize,
    /// The most commands in one entry.
    pub entry_commands_max: usize,
    /// The most bytes of commands in one entry.
    pub entry_bytes_max: usize,
    /// The most commands that wait to be proposed.
    pub queue_commands_max: usize,
    /// The most bytes of commands that wait to be proposed.
    pub queue_bytes_max: usize,
    /// The most reads that wait for a quorum or a lease.
    pub reads_max: usize,
    /// The most entries in one append message.
    pub append_entries_max: u64,
    /// About how many bytes of entries go into one append message.
    pub append_bytes_max: usize,
    /// Append messages on their way to one follower at once.
    pub appends_in_flight: usize,
    /// How long followers may wait to hear that an entry is committed, in milliseconds, so that the next one tells it.
    pub commit_hold_ms: u64,
    /// Bytes of log since the last checkpoint after which another is made.
    pub checkpoint_log_bytes: u64,
    /// Time since the last checkpoint after which another is made if anything was applied, in milliseconds.
    pub checkpoint_ms_max: u64,
    /// Bytes of log that stay after a checkpoint, so that a follower that is a little behind needs no snapshot.
    pub log_keep_bytes: u64,
    /// Where a log of more bytes than this still begins with its shard's first entry, that one goes as soon as there is a checkpoint, however
    /// much may stay. openraft makes a new replica by the log where the log has everything, and to apply so much, and to write it down
    /// twice, costs the new replica several times what a snapshot does.
    pub whole_log_bytes_max: u64,
    /// An entry that has so many bytes beyond what short commands take, as imports of history have, takes long to decode and to apply: that
    /// is done apart from the thread of all groups. And a message of entries with so many bytes waits for the pace of copies, where a replica
    /// is made by the log.
    pub long_entry_bytes: usize,
    /// The most bytes of decoded commands that wait to be applied; beyond them they are decoded again.
    pub decoded_bytes_max: usize,
}

/// How long, at most, until entries are offered again to a follower that could not be reached. Not the time of an election: a
/// node that was restarted follows by its heartbeats long before, and takes part in no quorum until entries reach it.
const UNREACHED_MS_MAX: u64 = 250;

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_ms_min: 300,
            election_ms_max: 600,
            lease_ms: 150,
            append_ms_max: 2000,
            snapshot_piece_ms_max: 16_000,
            snapshot_install_ms_max: 120_000,
            snapshot_lease_ms: 60_000,
            snapshot_piece_bytes: 512 << 10,
            snapshot_pieces_in_flight: 4,
            entry_commands_max: 4096,
            entry_bytes_max: 1 << 20,
            queue_commands_max: 65_536,
            queue_bytes_max: 16 << 20,
            reads_max: 65_536,
            append_entries_max: 256,
            append_bytes_max: 1 << 20,
            appends_in_flight: 16,
            commit_hold_ms: 10,
            checkpoint_log_bytes: 16 << 20,
            checkpoint_ms_max: 60_000,
            log_keep_bytes: 4 << 20,
            whole_log_bytes_max: 256 << 10,
            long_entry_bytes: 16 << 10,
            decoded_bytes_max: 2 << 20,
        }
    }
}

/// A setting that no group can be run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct InvalidConfig {
    /// Which.
    pub setting: &'static str,
    /// What is accepted.
    pub why: String,
}

impl GroupConfig {
    /// For how long a replica that has heard its leader helps nobody else to the lead.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.min(self.election_ms_max))
    }

    /// How old a quorum's word may be for a LEASE read to trust it: shorter than the lease, as no two clocks run alike.
    pub(crate) fn lease_trusted(&self) -> Duration {
        self.lease() * 9 / 10
    }

    /// For how long a replica helps nobody else that has heard a leader which didn't say how long its lease is.
    pub fn lease_untold(&self) -> Duration {
        Duration::from_millis(self.election_ms_max)
    }

    /// After how much silence of a quorum openraft's leader takes no more writes.
    pub(crate) fn quorum_silence(&self) -> Duration {
        Duration::from_millis(self.election_ms_max)
    }

    /// Checks that the settings fit together.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let at_least_one = [
            ("entry_commands_max", self.entry_commands_max),
            ("entry_bytes_max", self.entry_bytes_max),
            ("queue_commands_max", self.queue_commands_max),
            ("queue_bytes_max", self.queue_bytes_max),
            ("reads_max", self.reads_max),
            ("append_bytes_max", self.append_bytes_max),
            ("appends_in_flight", self.appends_in_flight),
            ("snapshot_piece_bytes", self.snapshot_piece_bytes),
            ("snapshot_pieces_in_flight", self.snapshot_pieces_in_flight),
        ];
        for (setting, value) in at_least_one {
            if value == 0 {
                return Err(InvalidConfig { setting, why: "must be at least 1".to_string() });
            }
        }
        self.openraft(String::new()).map(|_| ())
    }

    /// The settings as openraft takes them.
    pub(crate) fn openraft(&self, name: String) -> Result<openraft::Config, InvalidConfig> {
        let config = openraft::Config {
            cluster_name: name,
            heartbeat_interval: ticks::due_ms(self.heartbeat_ms),
            // Whoever has just answered an append has heard of its leader.
            heartbeat_min_interval: Some(self.heartbeat_ms * 3 / 4),
            election_timeout_min: self.election_ms_min,
            election_timeout_max: self.election_ms_max,
            max_payload_entries: self.append_entries_max,
            // Only ours decide when there is a snapshot and what of the log goes with it: see the checkpointer.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX / 2,
            install_snapshot_timeout: self.snapshot_install_ms_max,
            enable_pre_vote: Some(true),
            // With the default a restarted leader goes on without an election, and a strong read can miss writes that
            // were acknowledged: invariant raft/3.
            enable_leader_restore: Some(planted::is(Bug::LeaderRestore)),
            // A leader that lost its quorum stops its heartbeats in turns, so that followers which hear only it may elect.
            quorum_loss_probe_interval: Some(self.election_ms_max.saturating_mul(2)),
            // How long a follower that could not be reached is left alone: it may be back, and the next to go be counting on it.
            backoff: format!("{}ms ...{}ms", self.heartbeat_ms.clamp(1, UNREACHED_MS_MAX / 2), UNREACHED_MS_MAX),
            api_channel_size: Some(4096),
            notification_channel_size: Some(4096),
            state_machine_channel_size: Some(1024),
            ..openraft::Config::default()
        };
        config.validate().map_err(|e| InvalidConfig { setting: "times and sizes of consensus", why: e.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_accepted_and_contradictions_are_named() {
        assert_eq!(GroupConfig::default().validate(), Ok(()));
        let openraft = GroupConfig::default().openraft(String::new()).unwrap();
        assert_eq!(openraft.heartbeat_interval, 87, "due before the tick that sends it, which comes every 100 ms");
        let slow = GroupConfig { heartbeat_ms: 900, ..GroupConfig::default() };
        assert!(slow.validate().is_err());
        let none = GroupConfig { entry_commands_max: 0, ..GroupConfig::default() };
        assert_eq!(none.validate().map_err(|e| e.setting), Err("entry_commands_max"));
    }
}
