//! `clusterctl shard check`.
//!
//! A state's digest says something only beside the digest of another replica after the same entry of the log. Nodes tell
//! theirs at moments of their own, so that on a busy shard two answers are seldom about the same entry: what was told is
//! therefore kept over several looks, and compared entry by entry. Nodes tell some older digests too, and compare those
//! themselves: where we have not seen the same entry of all, their word counts.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{judged, number, ranges, right, table, text};
use super::{AGREE, DIFFER, Replica, SILENT, Shard, shards};
use crate::proto::v1::get_shard_request::Of;

/// How long to wait between two looks: nodes tell how their replicas are once a second.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// How many entries are remembered of each replica.
const REMEMBERED_MAX: usize = 64;

/// Which shards.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(in super::super) struct Options {
    /// The shard's number
    shard: Option<u32>,
    /// Every shard
    #[arg(long)]
    all: bool,
}

/// What came of one shard.
#[derive(Debug, Serialize)]
struct Checked {
    shard: u32,
    verdict: Verdict,
    /// The entry after which the states were compared; null when they never were.
    index: Option<u64>,
    /// What each replica told of it; empty when they were never compared.
    replicas: Vec<Told>,
    /// Why they could not be compared, or who differs.
    why: Option<String>,
}

/// How the replicas compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Equal,
    Differ,
    NotCompared,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Told {
    node: String,
    digest: String,
}

pub(super) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let checked = check(context, options.shard, false).await?;
    let verdict = verdict(&checked);
    context.show(context.screen(&checked, || text_of(&checked), verdict)?)
}

/// The shards by how their replicas' states compare.
#[derive(Debug, Default, Serialize)]
pub(in super::super) struct Compared {
    pub(in super::super) equal: Vec<u32>,
    pub(in super::super) differ: Vec<u32>,
    pub(in super::super) not_compared: Vec<u32>,
}

/// Compares all shards, within `--timeout`: equal are those whose replicas are at an entry that none was beyond at the first
/// look. What they agreed on earlier settles nothing; what they differ in does.
pub(in super::super) async fn compare_all(context: &Context) -> Result<Compared, Failure> {
    let mut compared = Compared::default();
    for Checked { shard, verdict, .. } in check(context, None, true).await? {
        match verdict {
            Verdict::Equal => compared.equal.push(shard),
            Verdict::Differ => compared.differ.push(shard),
            Verdict::NotCompared => compared.not_compared.push(shard),
        }
    }
    Ok(compared)
}

/// Looks at this shard, or at all, until nothing more is to be learned or the time is over.
async fn check(context: &Context, shard: Option<u32>, from_now: bool) -> Result<Vec<Checked>, Failure> {
    let mut looked: BTreeMap<u32, Looked> = BTreeMap::new();
    loop {
        for shard in shards(context, shard.map(Of::Shard)).await? {
            let floor = if from_now { newest(&shard) } else { 0 };
            looked.entry(shard.shard).or_insert_with(|| Looked { floor, ..Looked::default() }).take(shard);
        }
        let over = context.left() <= LOOK_EVERY * 2;
        if over || looked.values().all(Looked::is_settled) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(looked.iter().map(|(shard, looked)| looked.checked(*shard)).collect())
}

/// The newest entry that any replica of it has in its state.
fn newest(shard: &Shard) -> u64 {
    shard.replicas.iter().map(|replica| replica.applied_index).fold(shard.applied_index, u64::max)
}

/// What was told of a shard over several looks.
#[derive(Debug, Default)]
struct Looked {
    /// As it was last told.
    replicas: Vec<Replica>,
    /// Digests by entry, of each replica by its number.
    told: BTreeMap<u64, BTreeMap<u64, String>>,
    /// What the answering node found by itself: whether they differ, after which entry, and how many it compared.
    found: (&'static str, u64, usize),
    /// Equal states after an earlier entry say nothing.
    floor: u64,
}

impl Looked {
    fn take(&mut self, shard: Shard) {
        // Once different is different.
        if self.found.0 != DIFFER {
            self.found = (shard.digests, shard.digest_index, shard.digest_compared as usize);
        }
        self.replicas = shard.replicas;
        for replica in self.replicas.iter().filter(|replica| !replica.digest.is_empty()) {
            let told = self.told.entry(replica.replica_id).or_default();
            told.insert(replica.applied_index, replica.digest.clone());
            if told.len() > REMEMBERED_MAX {
                told.pop_first();
            }
        }
    }

    /// Why a replica can't be compared, whatever is waited for.
    fn hindrance(&self, replica: &Replica) -> Option<&'static str> {
        match replica.role {
            role @ (SILENT | "unheard" | "stopped" | "failed" | "retired") => Some(role),
            _ => None,
        }
    }

    /// The newest entry after which as many replicas as possible have told, and what they told.
    fn compared(&self) -> Option<(u64, Vec<Told>)> {
        let name = |id: &u64| self.replicas.iter().find(|replica| replica.replica_id == *id).map(|r| r.node.clone());
        let indexes = self.told.values().flat_map(BTreeMap::keys);
        let at = |index: u64| -> Vec<Told> {
            let told = self.told.iter().filter_map(|(id, told)| Some((name(id)?, told.get(&index)?.clone())));
            told.map(|(node, digest)| Told { node, digest }).collect()
        };
        // A difference outweighs any number of equal states.
        let compared = indexes.map(|index| (*index, at(*index))).filter(|(_, told)| told.len() > 1);
        let compared = compared.filter(|(index, told)| *index >= self.floor || differ(told));
        compared.max_by_key(|(index, told)| (differ(told), told.len(), *index))
    }

    /// The answering node has compared all replicas and found them equal.
    fn is_found_equal(&self) -> bool {
        self.found.0 == AGREE && self.found.1 >= self.floor.max(1) && self.found.2 >= self.replicas.len()
    }

    /// Looking again will not tell more.
    fn is_settled(&self) -> bool {
        if self.found.0 == DIFFER || self.is_found_equal() {
            return true;
        }
        let reachable = self.replicas.iter().filter(|replica| self.hindrance(replica).is_none()).count();
        match self.compared() {
            Some((_, told)) => differ(&told) || told.len() >= reachable,
            None => reachable < 2,
        }
    }

    fn checked(&self, shard: u32) -> Checked {
        let (index, replicas) = self.compared().unzip();
        let replicas = replicas.unwrap_or_default();
        let told = |r: &Replica| replicas.iter().any(|told| told.node == r.node) && self.hindrance(r).is_none();
        let missing = self.replicas.iter().filter(|r| !told(r));
        let why = |r: &Replica| match self.hindrance(r) {
            Some(hindrance) => format!("{} is {hindrance}", r.node),
            None if r.digest.is_empty() => format!("{} does not tell its digest", r.node),
            None => format!("{} was at other entries, last at {}", r.node, number(r.applied_index)),
        };
        let missing: Vec<String> = missing.map(why).collect();
        let hindered = self.replicas.iter().any(|replica| self.hindrance(replica).is_some());
        let (verdict, why) = if differ(&replicas) {
            (Verdict::Differ, Some(odd_ones(&replicas)))
        } else if self.found.0 == DIFFER {
            let (index, replicas) = (Some(self.found.1), Vec::new());
            let why = Some("found by the nodes themselves".to_string());
            return Checked { shard, verdict: Verdict::Differ, index, replicas, why };
        } else if self.is_found_equal() && !hindered && !missing.is_empty() {
            let (index, verdict) = (Some(self.found.1), Verdict::Equal);
            let all = self.replicas.iter().map(|r| Told { node: r.node.clone(), digest: String::new() });
            let replicas = all.collect();
            return Checked { shard, verdict, index, replicas, why: Some("compared by the nodes themselves".into()) };
        } else if self.replicas.len() == 1 {
            (Verdict::Equal, Some("it is the only replica".to_string()))
        } else if !missing.is_empty() || replicas.is_empty() {
            let why = if missing.is_empty() { "no replica told of itself".into() } else { missing.join("; ") };
            (Verdict::NotCompared, Some(why))
        } else {
            (Verdict::Equal, None)
        };
        Checked { shard, verdict, index, replicas, why }
    }
}

fn differ(told: &[Told]) -> bool {
    told.windows(2).any(|pair| pair[0].digest != pair[1].digest)
}

/// Who differs from most of the others.
fn odd_ones(told: &[Told]) -> String {
    let like = |digest: &str| told.iter().filter(|other| other.digest == digest).count();
    let most = told.iter().map(|told| like(&told.digest)).max().unwrap_or_default();
    if most * 2 <= told.len() {
        return "no majority has the same state".into();
    }
    let odd = told.iter().filter(|told| like(&told.digest) < most).map(|told| told.node.as_str());
    format!("{} differs from the others", odd.collect::<Vec<_>>().join(", "))
}

fn verdict(checked: &[Checked]) -> Result<(), Failure> {
    let of = |verdict: Verdict| -> Vec<u32> {
        checked.iter().filter(|checked| checked.verdict == verdict).map(|checked| checked.shard).collect()
    };
    let (differ, unknown) = (of(Verdict::Differ), of(Verdict::NotCompared));
    let named = |shards: Vec<u32>| format!("{} {}", if shards.len() == 1 { "shard" } else { "shards" }, ranges(shards));
    let mut complaints = Vec::new();
    if !differ.is_empty() {
        complaints.push(format!("replicas of {} have different states", named(differ)));
    }
    if !unknown.is_empty() {
        complaints.push(format!("not all replicas of {} could be compared", named(unknown)));
    }
    if complaints.is_empty() { Ok(()) } else { Err(Failure::Degraded(complaints.join("; "))) }
}

fn text_of(checked: &[Checked]) -> String {
    let mut rows = table(["SHARD", "STATES", "ENTRY", "COMPARED", "DIGEST", "WHY"]);
    right(&mut rows, &[0, 2]);
    for checked in checked {
        let verdict = match checked.verdict {
            Verdict::Equal => "equal",
            Verdict::Differ => "DIFFER",
            Verdict::NotCompared => "unknown",
        };
        let start = |digest: &str| digest.chars().take(8).collect::<String>();
        let digest = match checked.verdict {
            Verdict::Differ => {
                let each = checked.replicas.iter().map(|told| format!("{} {}", told.node, start(&told.digest)));
                each.collect::<Vec<_>>().join("\n")
            }
            _ => {
                let told = checked.replicas.first().map(|told| start(&told.digest));
                told.filter(|digest| !digest.is_empty()).unwrap_or_else(|| "-".to_string())
            }
        };
        let nodes: Vec<&str> = checked.replicas.iter().map(|told| told.node.as_str()).collect();
        rows.add_row([
            checked.shard.into(),
            judged(verdict, checked.verdict == Verdict::Equal),
            checked.index.map_or_else(|| "-".to_string(), number).into(),
            nodes.join(" ").into(),
            digest.into(),
            super::super::text::wrapped(checked.why.as_deref().unwrap_or_default(), 32).join("\n").into(),
        ]);
    }
    text(&mut rows)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::proto::v1;

    fn shard(replicas: &[(u64, u64, &str)]) -> Shard {
        let replica = |(id, applied, digest): &(u64, u64, &str)| v1::ReplicaStatus {
            replica_id: *id,
            node: format!("n{id}"),
            role: v1::ReplicaRole::Follower.into(),
            applied_index: *applied,
            digest: (*digest).into(),
            ..Default::default()
        };
        Shard::from(v1::ShardStatus { replicas: replicas.iter().map(replica).collect(), ..Default::default() })
    }

    fn looked(looks: &[&[(u64, u64, &str)]]) -> Looked {
        let mut looked = Looked::default();
        looks.iter().for_each(|replicas| looked.take(shard(replicas)));
        looked
    }

    #[test]
    fn states_are_compared_after_the_same_entry_also_over_several_looks() {
        let once = looked(&[&[(1, 9, "a"), (2, 8, "b"), (3, 9, "a")]]);
        assert!(!once.is_settled());
        let checked = once.checked(0);
        assert_eq!((checked.verdict, checked.index), (Verdict::NotCompared, Some(9)));
        assert_eq!(checked.why.as_deref(), Some("n2 was at other entries, last at 8"));
        // The second has come to where the others were; they are elsewhere by now.
        let twice = looked(&[&[(1, 9, "a"), (2, 8, "b"), (3, 9, "a")], &[(1, 12, "c"), (2, 9, "a"), (3, 13, "d")]]);
        assert!(twice.is_settled());
        assert_eq!((twice.checked(0).verdict, twice.checked(0).index), (Verdict::Equal, Some(9)));
    }

    #[test]
    fn equal_states_after_an_entry_before_the_first_look_settle_nothing_where_that_is_asked_for() {
        let looks: [&[(u64, u64, &str)]; 2] = [&[(1, 64, "a"), (2, 64, "a")], &[(1, 90, "b"), (2, 90, "b")]];
        let mut from_now = Looked { floor: newest(&shard(&[(1, 64, ""), (2, 90, "")])), ..Looked::default() };
        from_now.take(shard(looks[0]));
        assert!(!from_now.is_settled());
        from_now.found = (AGREE, 64, 2);
        assert!(!from_now.is_settled(), "the nodes' own word of then says nothing either");
        assert_eq!(from_now.checked(0).verdict, Verdict::NotCompared);
        from_now.take(shard(looks[1]));
        assert_eq!((from_now.checked(0).verdict, from_now.checked(0).index), (Verdict::Equal, Some(90)));
        from_now.take(shard(&[(1, 32, "a"), (2, 32, "x")]));
        assert_eq!(from_now.checked(0).verdict, Verdict::Differ, "a difference counts whenever it was");
    }

    #[test]
    fn a_difference_is_found_and_names_the_odd_one() {
        let differs = looked(&[&[(1, 9, "a"), (2, 9, "x"), (3, 9, "a")], &[(1, 11, "e"), (2, 11, "e"), (3, 11, "e")]]);
        let checked = differs.checked(0);
        assert_eq!((checked.verdict, checked.why.as_deref()), (Verdict::Differ, Some("n2 differs from the others")));
        assert!(verdict(&[checked]).is_err());
        let torn = looked(&[&[(1, 9, "a"), (2, 9, "x")]]);
        assert_eq!(torn.checked(0).why.as_deref(), Some("no majority has the same state"));
    }

    #[test]
    fn what_is_silent_is_not_waited_for_and_not_called_equal() {
        let mut silent = shard(&[(1, 9, "a"), (2, 9, "a"), (3, 9, "")]);
        silent.replicas[2].role = "unheard";
        let mut looked = Looked::default();
        looked.take(silent);
        assert!(looked.is_settled());
        let checked = looked.checked(0);
        assert_eq!((checked.verdict, checked.why.as_deref()), (Verdict::NotCompared, Some("n3 is unheard")));
        // One that told the same before its node fell silent is not checked now.
        let mut looked = Looked::default();
        let fallen = BTreeSet::from(["n3".to_string()]);
        looked.take(shard(&[(1, 9, "a"), (2, 9, "a"), (3, 9, "a")]).without(&fallen));
        assert!(looked.is_settled());
        assert_eq!(looked.checked(0).verdict, Verdict::NotCompared);
    }

    #[test]
    fn what_the_nodes_found_themselves_counts() {
        let found = |check: v1::DigestCheck, compared| {
            let mut shard = shard(&[(1, 9, "a"), (2, 8, "b"), (3, 7, "c")]);
            (shard.digests, shard.digest_index, shard.digest_compared) = (super::super::word(check), 5, compared);
            let mut looked = Looked::default();
            looked.take(shard);
            assert!(looked.is_settled() || compared < 3);
            (looked.checked(0).verdict, looked.checked(0).index)
        };
        assert_eq!(found(v1::DigestCheck::Agree, 3), (Verdict::Equal, Some(5)));
        assert_eq!(found(v1::DigestCheck::Agree, 2), (Verdict::NotCompared, None));
        assert_eq!(found(v1::DigestCheck::Differ, 3), (Verdict::Differ, Some(5)));
    }
}
