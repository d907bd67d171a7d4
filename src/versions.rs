//! The versions of a cluster: which there are, what each switched on, and which of them a build speaks.
//!
//! A cluster has one version, which stands in the meta state and only grows. Builds come and go node by node; what all of them must
//! do alike (commands in logs, formats of states and files, rules) changes only with this number, when an operator raises it.
//!
//! # Contract
//!
//! - [`TABLE`] has a row for every version that this build knows, without gaps. What a released row says never changes; a new
//!   row needs a data folder that was written under it (`tests/data/`, held by `tests/upgrades.rs`).
//! - Whatever a version switches on is a [`Feature`], and is asked for by [`ClusterVersion::has`] and nothing else.
//! - A shard works by the version that it has *adopted*, through its own log; it is never above the cluster's.
//!
//! # Caveats
//!
//! [`Spoken::BUILD`]'s oldest version may be raised only when no log and no checkpoint of an earlier one can be left anywhere: a
//! replica begins by version 1 and learns of later ones on the way through its log.

use std::fmt;

/// A version of the cluster. It begins with 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct ClusterVersion(#[n(0)] pub u32);

/// What something is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// The newest version of commands in the logs of shards.
    pub commands: u16,
    /// The header of a shard's state.
    pub state_header: u8,
    /// The header of a replica in the store.
    pub store_header: u8,
    /// The segments of the log.
    pub log: u32,
    /// The file `identity` of a data folder.
    pub identity: u32,
    /// What is said on the link.
    pub wire: u32,
}

/// A row of the [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Which.
    pub version: ClusterVersion,
    /// Year and month of the first build that knew it.
    pub since: &'static str,
    /// What it switched on, a line for operators.
    pub what: &'static str,
    /// What is written under it.
    pub formats: Formats,
}

/// All versions that this build knows, the oldest first.
pub const TABLE: &[Version] = &[
    Version {
        version: ClusterVersion(1),
        since: "2026-11",
        what: "the first",
        formats: Formats { commands: 2, state_header: 1, store_header: 3, log: 1, identity: 1, wire: 2 },
    },
    Version {
        version: ClusterVersion(2),
        since: "2026-11",
        what: "every shard keeps the version of its rules in its own log and state; a data folder says which version it was last in",
        formats: Formats { commands: 3, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 },
    },
    Version {
        version: ClusterVersion(3),
        since: "2026-11",
        what: "replicas know how old their state is at most; reads of one's own writes and of bounded age are answered by any of them; leaders say how long their lease is",
        formats: Formats { commands: 3, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 },
    },
    Version {
        version: ClusterVersion(4),
        since: "2026-11",
        what: "progress and starts are accepted while a shard has no leader, and handed off to it; policies may fail closed; devices of a pressed shard are told to report more seldom",
        formats: Formats { commands: 4, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 },
    },
    Version {
        version: ClusterVersion(5),
        since: "2026-11",
        what: "nodes come and go while the cluster runs: joined, drained, replaced and removed; placements are reached shard by shard; dead nodes are given up after a while; what is handed off late takes its place by the shard's time; leads move by what shards cost",
        formats: Formats { commands: 4, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 },
    },
    Version {
        version: ClusterVersion(6),
        since: "2026-11",
        what: "what copies may take of each node, and one account of each leader, are rules of the cluster, which running nodes follow",
        formats: Formats { commands: 4, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 },
    },
];

/// What a version has switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// A shard adopts versions by a command in its own log, and keeps the adopted one in its state.
    ShardVersions,
    /// The file `identity` names the newest cluster version that there is proof of.
    FolderVersions,
    /// Nodes ask each other for read indexes, and for answers to reads of one's own writes and of bounded age.
    ReadModes,
    /// Leaders tell their followers, with every append, how long a lease they ask for.
    ToldLeases,
    /// Nodes take hints while a shard has no leader, and shards take them over: the command for it, degraded views, what a shard
    /// remembers of ended views, policies that fail closed.
    Hints,
    /// A shard whose leader is pressed tells its devices to report more seldom, and its views remember what their devices were told.
    Stretch,
    /// What is handed off of a view that has ended takes its place by the shard's time, which no wrong calendar can turn.
    HandedOffInOrder,
    /// The meta group takes commands for nodes that come and go and for changes of the placement, and keeps what they say.
    NodeLife,
    /// Nodes tell each other what shards cost, and leads move by it; whether they do is a rule of the cluster.
    Heat,
    /// A shard that has lost most of its voters for good goes on with one that is left, by the meta group's word.
    Recovery,
    /// What copies may take of each node, and an account of each leader, can be rules of the cluster.
    LimitRules,
}

impl Feature {
    /// The version that switched it on.
    pub const fn since(self) -> ClusterVersion {
        match self {
            Self::ShardVersions | Self::FolderVersions => ClusterVersion(2),
            Self::ReadModes | Self::ToldLeases => ClusterVersion(3),
            Self::Hints | Self::Stretch => ClusterVersion(4),
            Self::HandedOffInOrder | Self::NodeLife | Self::Heat | Self::Recovery => ClusterVersion(5),
            Self::LimitRules => ClusterVersion(6),
        }
    }
}

impl ClusterVersion {
    /// What every cluster and shard began with.
    pub const FIRST: Self = Self(1);

    /// Whether it has `feature` switched on. Every gate is this one.
    pub const fn has(self, feature: Feature) -> bool {
        self.0 >= feature.since().0
    }

    /// Its row; `None` for one that this build doesn't know.
    pub fn row(self) -> Option<&'static Version> {
        TABLE.iter().find(|row| row.version == self)
    }

    /// What is written under it; of one that this build doesn't know, as under the newest that it knows.
    pub const fn formats(self) -> Formats {
        let mut at = TABLE.len() - 1;
        while at > 0 && TABLE[at].version.0 > self.0 {
            at -= 1;
        }
        TABLE[at].formats
    }
}

impl Default for ClusterVersion {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterVersion({})", self.0)
    }
}

/// The cluster versions that a node can work by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Spoken {
    /// The oldest.
    #[n(0)]
    pub oldest: ClusterVersion,
    /// The newest.
    #[n(1)]
    pub newest: ClusterVersion,
}

impl Spoken {
    /// What this build speaks.
    pub const BUILD: Self = Self { oldest: TABLE[0].version, newest: TABLE[TABLE.len() - 1].version };
    /// What builds speak that don't say: those of before there was a second version.
    pub const FIRST: Self = Self { oldest: ClusterVersion::FIRST, newest: ClusterVersion::FIRST };

    /// At most `newest`, as a build speaks that knows no newer one; 0 is no bound.
    pub fn at_most(self, newest: u32) -> Self {
        match newest {
            0 => self,
            newest => Self { newest: self.newest.min(ClusterVersion(newest)).max(self.oldest), ..self },
        }
    }

    /// What a node says of itself in numbers; zeros mean that it doesn't say.
    pub fn told(oldest: u32, newest: u32) -> Self {
        match (oldest, newest) {
            (_, 0) => Self::FIRST,
            (oldest, newest) => Self { oldest: ClusterVersion(oldest.max(1)), newest: ClusterVersion(newest) },
        }
    }

    /// Whether it can work by `version`.
    pub fn speaks(self, version: ClusterVersion) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// The newest version that all of these speak; `None` when there is none.
    pub fn newest_of_all(all: impl IntoIterator<Item = Self>) -> Option<ClusterVersion> {
        let both = |a: Self, b: Self| Self { oldest: a.oldest.max(b.oldest), newest: a.newest.min(b.newest) };
        all.into_iter().reduce(both).filter(|common| common.oldest <= common.newest).map(|common| common.newest)
    }
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_begins_with_a_first_version_and_has_no_gaps() {
        let numbers: Vec<u32> = TABLE.iter().map(|row| row.version.0).collect();
        let without_gaps: Vec<u32> = (Spoken::BUILD.oldest.0..=Spoken::BUILD.newest.0).collect();
        assert_eq!(numbers, without_gaps);
        assert!(Spoken::BUILD.oldest >= ClusterVersion::FIRST);
        assert!(TABLE.iter().all(|row| !row.what.is_empty() && row.since.len() == 7));
    }

    #[test]
    fn what_released_versions_write_never_changes() {
        let formats = |n: u32| ClusterVersion(n).formats();
        assert_eq!(formats(1), Formats { commands: 2, state_header: 1, store_header: 3, log: 1, identity: 1, wire: 2 });
        assert_eq!(formats(2), Formats { commands: 3, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 });
        assert_eq!(formats(3), Formats { commands: 3, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 });
        assert_eq!(formats(4), Formats { commands: 4, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 });
        assert_eq!(formats(5), Formats { commands: 4, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 });
        assert_eq!(formats(6), Formats { commands: 4, state_header: 2, store_header: 3, log: 1, identity: 2, wire: 2 });
        assert_eq!(formats(99), TABLE[TABLE.len() - 1].formats);
        assert_eq!(formats(0), TABLE[0].formats);
    }

    #[test]
    fn a_feature_is_on_from_its_version_on() {
        let features =
            [Feature::ShardVersions, Feature::FolderVersions, Feature::ReadModes, Feature::Hints, Feature::Stretch];
        let last =
            [Feature::HandedOffInOrder, Feature::NodeLife, Feature::Heat, Feature::Recovery, Feature::LimitRules];
        for feature in features.into_iter().chain(last) {
            let ClusterVersion(since) = feature.since();
            assert!(!ClusterVersion(since - 1).has(feature), "{feature:?}");
            assert!(ClusterVersion(since).has(feature) && ClusterVersion(since + 1).has(feature), "{feature:?}");
        }
    }

    #[test]
    fn nodes_agree_on_the_newest_version_that_all_of_them_speak() {
        let of = |oldest, newest| Spoken::told(oldest, newest);
        assert_eq!(Spoken::newest_of_all([of(1, 3), of(1, 2), of(2, 5)]), Some(ClusterVersion(2)));
        assert_eq!(Spoken::newest_of_all([of(1, 3), of(0, 0)]), Some(ClusterVersion(1)), "one that doesn't say");
        assert_eq!(Spoken::newest_of_all([of(1, 1), of(2, 3)]), None);
        assert_eq!(Spoken::newest_of_all([]), None);
    }

    #[test]
    fn a_brake_makes_a_build_speak_less_and_never_nothing() {
        let build = Spoken::told(2, 4);
        assert_eq!((build.at_most(0), build.at_most(3), build.at_most(9)), (build, Spoken::told(2, 3), build));
        assert_eq!(build.at_most(1), Spoken::told(2, 2));
        assert!(
            build.speaks(ClusterVersion(2)) && !build.speaks(ClusterVersion(1)) && !build.speaks(ClusterVersion(5))
        );
        assert_eq!((build.to_string(), Spoken::FIRST.to_string()), ("2 to 4".into(), "1".into()));
    }
}
