//! Asks a cluster for everything that an import should have left there, and compares.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use super::Expected;
use super::expected::{Pair, PlayKey};
use crate::client::{Client, Error};
use crate::ids::AccountId;
use crate::proto::v1;

/// Calls under way at once to one node.
const CALLS: usize = 16;
/// Titles in a batch of resume points.
const TITLES: usize = 1_000;
/// The most mismatches that are described.
const MISMATCHES_MAX: usize = 20;

/// What one node answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeCheck {
    /// The node's endpoint.
    pub endpoint: String,
    /// Plays in the history.
    pub plays: usize,
    /// Entries in the history.
    pub entries: usize,
    /// Plays in the history that the file has not: previews, strangers.
    pub strangers: usize,
    /// Plays of the file that the history has not.
    pub missing: usize,
    /// Pairs whose last position is the file's latest bookmark.
    pub last_positions_right: usize,
    /// Pairs whose resume point is what the rules give.
    pub resume_points_right: usize,
}

/// What all nodes answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Real plays in the file.
    pub plays: usize,
    /// Entries that they make.
    pub entries: usize,
    /// Pairs of profile and title with one latest bookmark.
    pub pairs: usize,
    /// Of those, how many have a resume point by the rules.
    pub resumable: usize,
    /// What each node answered, by strong reads.
    pub nodes: Vec<NodeCheck>,
    /// What was wrong, in words: the first 20.
    pub mismatches: Vec<String>,
    /// How much was wrong.
    pub mismatch_count: usize,
}

impl Verification {
    /// Every node has answered everything right.
    pub fn is_right(&self) -> bool {
        self.mismatch_count == 0 && !self.nodes.is_empty()
    }

    fn mismatch(&mut self, what: String) {
        self.mismatch_count += 1;
        if self.mismatches.len() < MISMATCHES_MAX {
            self.mismatches.push(what);
        }
    }
}

/// Compares what each client (by its endpoint, one a node) reads of `account` with what is expected. All reads are strong.
pub async fn verify(
    clients: &[(String, Client)],
    account: &AccountId,
    expected: &Expected,
) -> Result<Verification, Error> {
    let resumable = expected.left_at.values().filter(|ms| Expected::resume_point(**ms).is_some()).count();
    let mut verification = Verification {
        plays: expected.plays_total(),
        entries: expected.entries_total(),
        pairs: expected.left_at.len(),
        resumable,
        ..Verification::default()
    };
    for (endpoint, client) in clients {
        let mut check = NodeCheck { endpoint: endpoint.clone(), ..NodeCheck::default() };
        for profile in expected.plays.keys() {
            history(client, account, profile, expected, &mut check, &mut verification).await?;
        }
        positions(client, account, expected, &mut check, &mut verification).await?;
        resume_points(client, account, expected, &mut check, &mut verification).await?;
        verification.nodes.push(check);
    }
    Ok(verification)
}

/// Walks a profile's whole history.
async fn history(
    client: &Client,
    account: &AccountId,
    profile: &str,
    expected: &Expected,
    check: &mut NodeCheck,
    verification: &mut Verification,
) -> Result<(), Error> {
    let empty = Default::default();
    let wanted = expected.plays.get(profile).unwrap_or(&empty);
    let mut found = BTreeSet::new();
    let (mut entries, mut page_token, mut before) = (0, String::new(), None);
    loop {
        let request = v1::ListHistoryRequest {
            account_id: account.to_string(),
            profile_id: profile.to_string(),
            page_size: 500,
            page_token,
            include_plays: true,
            ..Default::default()
        };
        let page = client.list_history(request).await?;
        for entry in &page.entries {
            let start = entry.start_time.map(|t| (t.seconds, t.nanos));
            if before.is_some_and(|before| start > before) {
                verification.mismatch(format!("{}: {profile}: {:?} is out of order", check.endpoint, entry.title_id));
            }
            before = Some(start);
            check.plays += entry.plays.len();
            for play in &entry.plays {
                let key = key(entry, play);
                if !wanted.contains(&key) || found.contains(&key) {
                    check.strangers += 1;
                    verification.mismatch(format!("{}: {profile}: {key:?} is not in the file", check.endpoint));
                }
                found.insert(key);
            }
        }
        entries += page.entries.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    check.entries += entries;
    let missing = wanted.difference(&found).count();
    check.missing += missing;
    if missing > 0 {
        verification.mismatch(format!("{}: {profile}: {missing} plays are missing", check.endpoint));
    }
    let entries_wanted = expected.entries.get(profile).copied().unwrap_or_default();
    if entries != entries_wanted {
        verification.mismatch(format!("{}: {profile}: {entries} entries, not {entries_wanted}", check.endpoint));
    }
    Ok(())
}

/// A play as the file's plays are told apart.
fn key(entry: &v1::HistoryEntry, play: &v1::Play) -> PlayKey {
    let ms = |time: &Option<prost_types::Timestamp>| {
        let time = time.unwrap_or_default();
        u64::try_from(time.seconds).unwrap_or_default() * 1_000
            + u64::try_from(time.nanos).unwrap_or_default() / 1_000_000
    };
    PlayKey {
        title: entry.title_id.clone(),
        device: entry.device_id.clone(),
        start_ms: ms(&play.start_time),
        end_ms: ms(&play.end_time),
        position_ms: play.position_ms.and_then(|ms| u64::try_from(ms).ok()),
    }
}

/// Asks for last positions in batches.
async fn positions(
    client: &Client,
    account: &AccountId,
    expected: &Expected,
    check: &mut NodeCheck,
    verification: &mut Verification,
) -> Result<(), Error> {
    let mut by_profile: BTreeMap<&str, Vec<(&Pair, u64)>> = BTreeMap::new();
    for (pair, ms) in &expected.left_at {
        by_profile.entry(&pair.profile).or_default().push((pair, *ms));
    }
    for (profile, pairs) in by_profile {
        for batch in pairs.chunks(TITLES) {
            let request = v1::BatchGetResumePointsRequest {
                account_id: account.to_string(),
                profile_id: profile.to_string(),
                title_ids: batch.iter().map(|(pair, _)| pair.title.clone()).collect(),
                read_options: None,
            };
            let points = client.batch_get_resume_points(request).await?.resume_points;
            for (at, (pair, ms)) in batch.iter().enumerate() {
                let found = points.get(at).filter(|p| p.title_id == pair.title).and_then(|p| p.last_position_ms);
                if found.and_then(|found| u64::try_from(found).ok()) == Some(*ms) {
                    check.last_positions_right += 1;
                } else {
                    let what = format!("{:?} was left at {found:?} ms, not {ms}", pair.title);
                    verification.mismatch(format!("{}: {profile}: {what}", check.endpoint));
                }
            }
        }
    }
    Ok(())
}

/// Asks for every resume point by itself.
async fn resume_points(
    client: &Client,
    account: &AccountId,
    expected: &Expected,
    check: &mut NodeCheck,
    verification: &mut Verification,
) -> Result<(), Error> {
    let asked = stream::iter(&expected.left_at).map(|(pair, ms)| async move {
        let request = v1::GetResumePointRequest {
            account_id: account.to_string(),
            profile_id: pair.profile.clone(),
            title_id: pair.title.clone(),
            read_options: None,
        };
        let point = client.get_resume_point(request).await?.resume_point.unwrap_or_default();
        Ok::<_, Error>((pair, *ms, point.position_ms.and_then(|ms| u64::try_from(ms).ok())))
    });
    let answers: Vec<_> = asked.buffer_unordered(CALLS).try_collect().await?;
    for (pair, ms, found) in answers {
        let wanted = Expected::resume_point(ms);
        if found == wanted {
            check.resume_points_right += 1;
        } else {
            let what = format!("{:?} resumes at {found:?} ms, not {wanted:?}", pair.title);
            verification.mismatch(format!("{}: {}: {what}", check.endpoint, pair.profile));
        }
    }
    Ok(())
}
