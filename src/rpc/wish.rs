//! How fresh a caller wants an answer, and the revisions that it is told and hands back.

use super::backend::Cluster;
use super::fault::Fault;
use super::fields::Fields;
use crate::ids::{AccountId, GroupId, Revision, ShardId};
use crate::proto::v1;
use crate::raft::{ReadMode, Reading};
use crate::ring::Token;

/// The most milliseconds of a bound on the age of an answer: a day.
const STALENESS_MS_MAX: u64 = 86_400_000;
/// The most milliseconds that are waited for before a stale answer is given.
const STALE_AFTER_MS_MAX: u64 = 600_000;
/// What a field of one mode is told in another.
const OTHER_MODE: &str = "is only accepted with";
const MIN_REVISION: &str = "read_options.min_revision";
const MAX_STALENESS: &str = "read_options.max_staleness_ms";
const STALE_AFTER: &str = "read_options.stale_after_ms";

/// How fresh an answer must be, checked as far as that can be done without knowing the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    reading: Reading,
    /// What a SESSION read must have seen.
    seen: Option<Seen>,
}

/// A revision as callers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    cluster: u32,
    group: GroupId,
    revision: Revision,
}

/// A revision on the wire: opaque to callers; it names cluster, group and count.
pub(super) fn revision_text(cluster: Cluster, shard: ShardId, revision: Revision) -> String {
    format!("{:08x}-{:x}-{:x}", cluster.tag, GroupId::from(shard).0, revision.0)
}

/// Reads what [`revision_text`] has written, and nothing else.
fn seen(text: &str) -> Option<Seen> {
    let mut parts = text.split('-');
    let mut number = || {
        let part = parts.next().filter(|part| (1..=16).contains(&part.len()))?;
        let is_plain = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
    };
    let (cluster, group, revision) = (number()?, number()?, number()?);
    let seen = Seen { cluster: u32::try_from(cluster).ok()?, group: GroupId(group), revision: Revision(revision) };
    parts.next().is_none().then_some(seen)
}

impl Wish {
    /// Of the options of a request.
    pub(super) fn new(fields: &mut Fields, options: Option<v1::ReadOptions>) -> Self {
        let options = options.unwrap_or_default();
        let accepted = "READ_MODE_STRONG, READ_MODE_LEASE, READ_MODE_SESSION, READ_MODE_BOUNDED or READ_MODE_ANY";
        let told = fields.choice("read_options.mode", options.mode, accepted);
        let known = told.is_some();
        let told = told.unwrap_or_default();
        let seen = match (told, options.min_revision.as_str()) {
            (v1::ReadMode::Session, text) => {
                let seen = seen(text);
                if seen.is_none() {
                    fields.bad(MIN_REVISION, "is no revision: one that a write or a read has answered with is needed");
                }
                seen
            }
            (_, "") => None,
            (_, _) if known => {
                fields.bad(MIN_REVISION, format!("{OTHER_MODE} READ_MODE_SESSION"));
                None
            }
            _ => None,
        };
        let bound = match told {
            v1::ReadMode::Bounded => ms(fields, MAX_STALENESS, options.max_staleness_ms, STALENESS_MS_MAX),
            _ if options.max_staleness_ms != 0 && known => {
                fields.bad(MAX_STALENESS, format!("{OTHER_MODE} READ_MODE_BOUNDED"));
                None
            }
            _ => None,
        };
        let stale_after = match options.stale_after_ms {
            0 => None,
            wait => ms(fields, STALE_AFTER, wait, STALE_AFTER_MS_MAX),
        };
        let mode = match told {
            v1::ReadMode::Unspecified | v1::ReadMode::Strong => ReadMode::Strong,
            v1::ReadMode::Lease => ReadMode::Lease,
            v1::ReadMode::Any => ReadMode::Any,
            v1::ReadMode::Session => ReadMode::Session(seen.map_or(Revision(0), |seen| seen.revision)),
            v1::ReadMode::Bounded => ReadMode::Bounded(bound.unwrap_or(1)),
        };
        let stale_after = stale_after.map(std::time::Duration::from_millis);
        Self { reading: Reading { mode, stale_after }, seen }
    }

    /// For an account of this cluster: a revision of another cluster or shard says nothing here.
    pub(super) fn of(self, cluster: Cluster, account: &AccountId) -> Result<Reading, Fault> {
        let shard = cluster.shards.shard_of(Token::of(account));
        match self.seen {
            Some(seen) if seen.cluster != cluster.tag => Err(Fault::field(MIN_REVISION, "is of another cluster")),
            Some(seen) if seen.group != GroupId::from(shard) => {
                Err(Fault::field(MIN_REVISION, format!("is of another shard; account {account} is in shard {shard}")))
            }
            _ => Ok(self.reading),
        }
    }
}

fn ms(fields: &mut Fields, field: &'static str, value: i64, most: u64) -> Option<u64> {
    let fits = u64::try_from(value).ok().filter(|ms| (1..=most).contains(ms));
    if fits.is_none() {
        fields.bad(field, format!("is {value}: 1 to {most} milliseconds are accepted"));
    }
    fits
}

/// The mode of an answer, for the wire.
pub(super) fn told(mode: ReadMode) -> v1::ReadMode {
    match mode {
        ReadMode::Strong => v1::ReadMode::Strong,
        ReadMode::Lease => v1::ReadMode::Lease,
        ReadMode::Session(_) => v1::ReadMode::Session,
        ReadMode::Bounded(_) => v1::ReadMode::Bounded,
        ReadMode::Any => v1::ReadMode::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::ShardCount;
    use crate::versions::ClusterVersion;

    const HERE: Cluster = Cluster { tag: 0xABCD, shards: ShardCount::DEFAULT, version: ClusterVersion::FIRST };

    fn account() -> AccountId {
        AccountId::new("alice").unwrap()
    }

    fn wish(options: v1::ReadOptions) -> Result<Wish, Fault> {
        let mut fields = Fields::default();
        let wish = Wish::new(&mut fields, Some(options));
        fields.finish().map(|()| wish)
    }

    #[test]
    fn a_revision_comes_back_as_it_was_told_and_only_to_its_cluster_and_shard() {
        let shard = HERE.shards.shard_of(Token::of(&account()));
        let read = |text: String| wish(v1::ReadOptions::session(text)).and_then(|wish| wish.of(HERE, &account()));
        for revision in [0, 1, 4711, u64::MAX] {
            let reading = read(revision_text(HERE, shard, Revision(revision))).unwrap();
            assert_eq!(reading.mode, ReadMode::Session(Revision(revision)));
        }
        let other = Cluster { tag: 1, ..HERE };
        for wrong in [revision_text(other, shard, Revision(5)), revision_text(HERE, ShardId(shard.0 ^ 1), Revision(5))]
        {
            let told = tonic::Status::from(read(wrong).unwrap_err());
            assert_eq!(told.code(), tonic::Code::InvalidArgument);
            assert!(told.message().contains("another"), "{}", told.message());
        }
    }

    #[test]
    fn what_is_no_revision_is_refused() {
        let long = "f".repeat(17);
        for text in [
            "",
            "-",
            "0000abcd",
            "0000abcd-1",
            "0000abcd-1-",
            "0000abcd-1-5-",
            "0000abcd-1-5-6",
            "+1-1-5",
            "0000ABCD-1-5",
        ]
        .into_iter()
        .chain([format!("1-1-{long}").as_str(), "100000000-1-5", " 1-1-5", "1-1-5\n"])
        {
            assert!(wish(v1::ReadOptions::session(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_belongs_to_another_mode_or_is_out_of_bounds_is_refused() {
        let day = std::time::Duration::from_secs(86_400);
        let good = [v1::ReadOptions::bounded(day), v1::ReadOptions::any().or_stale_after(day / 1000)];
        assert!(good.into_iter().all(|options| wish(options).is_ok()));
        let bad = [
            v1::ReadOptions { max_staleness_ms: 0, ..v1::ReadOptions::bounded(day) },
            v1::ReadOptions { max_staleness_ms: -1, ..v1::ReadOptions::bounded(day) },
            v1::ReadOptions::bounded(day * 2),
            v1::ReadOptions { max_staleness_ms: 5, ..v1::ReadOptions::strong() },
            v1::ReadOptions { min_revision: "1-1-1".into(), ..v1::ReadOptions::any() },
            v1::ReadOptions { stale_after_ms: -1, ..v1::ReadOptions::strong() },
            v1::ReadOptions::strong().or_stale_after(day),
            v1::ReadOptions { mode: 17, ..v1::ReadOptions::default() },
        ];
        for options in bad {
            assert!(wish(options.clone()).is_err(), "{options:?}");
        }
    }
}
