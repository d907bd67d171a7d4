//! `clusterctl` while some shards of a cluster have no quorum and all others work: two of five nodes are down. Then they are down
//! for good, and those shards are recovered from what is left of them.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use playhead::local::Endpoints;
use playhead::proto::v1;
use program::{json, run};
use support::{CALM, Cluster, Result, film};
use tokio::time::Instant;

const SHARDS: u32 = 8;
/// For how long it is looked until nodes have noticed that others are gone.
const SETTLES: Duration = Duration::from_secs(90);
/// What a call that can't succeed is given, and how much later it must have ended at the latest.
const TIMEOUT: (&str, Duration) = ("2s", Duration::from_secs(8));

/// Where the replicas of each shard are.
async fn places(at: &str) -> BTreeMap<u32, BTreeSet<String>> {
    let shards = json(at, &["shard", "list"], 0).await;
    let nodes = |shard: &serde_json::Value| {
        let replicas = shard["replicas"].as_array().unwrap().iter();
        replicas.map(|replica| replica["node"].as_str().unwrap().to_string()).collect()
    };
    let shards = shards.as_array().unwrap().iter();
    shards.map(|shard| (u32::try_from(shard["shard"].as_u64().unwrap()).unwrap(), nodes(shard))).collect()
}

/// Two nodes whose loss takes the quorum from some shards, not from all, and not from the meta group.
async fn victims(at: &str, places: &BTreeMap<u32, BTreeSet<String>>) -> BTreeSet<String> {
    let meta = json(at, &["raft", "show", "meta"], 0).await;
    let voters = |node: &str| meta["voters"].as_array().unwrap().iter().filter(|voter| voter["node"] == node).count();
    let most = (meta["voters"].as_array().unwrap().len() - 1) / 2;
    let names: Vec<String> = (1..=5).map(|n| format!("n{n}")).collect();
    let pairs = names.iter().flat_map(|a| names.iter().filter(move |b| a < *b).map(move |b| [a.clone(), b.clone()]));
    let fits = |pair: &[String; 2]| {
        let dead = dead(places, &pair.iter().cloned().collect()).len();
        (1..places.len()).contains(&dead) && pair.iter().map(|node| voters(node)).sum::<usize>() <= most
    };
    pairs.into_iter().find(fits).expect("some pair shares some shards and not all").into_iter().collect()
}

/// The shards that have lost two of three replicas.
fn dead(places: &BTreeMap<u32, BTreeSet<String>>, gone: &BTreeSet<String>) -> BTreeSet<u32> {
    places.iter().filter(|(_, nodes)| nodes.intersection(gone).count() >= 2).map(|(shard, _)| *shard).collect()
}

async fn start_view(cluster: &Cluster, account: &str) -> Result<()> {
    cluster.client(Duration::from_secs(20))?.start_view(film(account, "v1")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_without_a_quorum_are_named_and_all_others_are_served() -> Result<()> {
    let mut cluster = Cluster::start(5, SHARDS, &CALM).await?;
    let list = |endpoints: Vec<String>| endpoints.join(",");
    let at = format!("{};admin={}", list(cluster.local.client_endpoints()), list(cluster.local.admin_endpoints()));
    run(&at, &["status", "--wait", "--timeout", "60s"]).await;
    let mut accounts: BTreeMap<u32, String> = BTreeMap::new();
    for account in (0..64).map(|n| format!("quorum-{n}")) {
        if accounts.len() == SHARDS as usize {
            break;
        }
        let shard = json(&at, &["shard", "show", "--account", &account], 0).await["shard"].as_u64().unwrap();
        let shard = u32::try_from(shard).unwrap();
        if let Entry::Vacant(first) = accounts.entry(shard) {
            start_view(&cluster, &account).await?;
            first.insert(account);
        }
    }
    let places = places(&at).await;
    let gone = victims(&at, &places).await;
    let dead = dead(&places, &gone);
    for node in &gone {
        cluster.local.kill(node).await?;
    }
    let begun = Instant::now();
    let told = format!("{} of {SHARDS} shards have no leader", dead.len());
    loop {
        let status = run(&at, &["status"]).await;
        let diagnosis = run(&at, &["doctor", "-o", "json"]).await;
        if status.code == 3 && status.err.contains(&told) && diagnosis.out.contains("shard-without-quorum") {
            assert_eq!(diagnosis.code, 3, "{}", diagnosis.err);
            break;
        }
        assert!(begun.elapsed() < SETTLES, "{told}: {}{}\n{}", status.out, status.err, diagnosis.out);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let listed = json(&at, &["shard", "list"], 3).await;
    let unled = listed.as_array().unwrap().iter().filter(|shard| shard["leader"].is_null());
    let unled: BTreeSet<u32> = unled.map(|shard| u32::try_from(shard["shard"].as_u64().unwrap()).unwrap()).collect();
    assert_eq!(unled, dead);
    let asking = accounts.iter().map(|(shard, account)| told_as_it_is(&at, *shard, account, dead.contains(shard)));
    futures::future::join_all(asking).await;
    let there = cluster.local.names().into_iter().filter(|node| !gone.contains(node));
    let there: Vec<_> = there.filter_map(|node| cluster.local.endpoints(&node).cloned()).collect();
    let of = |endpoint: fn(&Endpoints) -> &str| there.iter().map(endpoint).collect::<Vec<_>>().join(",");
    let at = format!("{};admin={}", of(|e| &e.client), of(|e| &e.admin));
    let before = replicas(&at).await;
    let loss = Loss { gone, dead, before };
    recovered(&mut cluster, &at, &loss).await?;
    for (shard, account) in &accounts {
        let told = run(&at, &["account", "active", account, "--timeout", "30s"]).await;
        // What was acknowledged before is there, also where it was asked to end while nobody could.
        let ended = !loss.dead.contains(shard) || told.out.contains("none");
        assert!(told.code == 0 && (ended || told.out.contains("film-1")), "shard {shard}: {}{}", told.out, told.err);
        start_view(&cluster, &format!("{account}-again")).await?;
    }
    come_back(&mut cluster, &at, &loss).await
}

/// The replicas of each shard by their nodes.
type Replicas = BTreeMap<u32, BTreeMap<String, u64>>;

/// What the cluster has lost.
struct Loss {
    /// Nodes.
    gone: BTreeSet<String>,
    /// Shards that have no quorum for it.
    dead: BTreeSet<u32>,
    before: Replicas,
}

impl Loss {
    /// The node that has what is left of a dead shard.
    fn survivor(&self, shard: u32) -> String {
        self.before[&shard].keys().find(|node| !self.gone.contains(*node)).cloned().expect("one of three is left")
    }
}

/// All replicas, whatever the cluster lacks.
async fn replicas(at: &str) -> Replicas {
    let listed = run(at, &["shard", "list", "-o", "json"]).await;
    let shards: Vec<serde_json::Value> = serde_json::from_str(&listed.out).unwrap_or_default();
    let of = |shard: &serde_json::Value| {
        let replicas = shard["replicas"].as_array().unwrap().iter();
        replicas.map(|r| (r["node"].as_str().unwrap().to_string(), r["replica_id"].as_u64().unwrap())).collect()
    };
    shards.iter().map(|shard| (u32::try_from(shard["shard"].as_u64().unwrap()).unwrap(), of(shard))).collect()
}

/// One of the two that are gone is removed, the other given up, and then each shard that is dead goes on with what is left.
async fn recovered(cluster: &mut Cluster, at: &str, loss: &Loss) -> Result<()> {
    let Loss { gone, dead, .. } = loss;
    let [removed, given_up] = gone.iter().map(String::as_str).collect::<Vec<_>>()[..] else { panic!("{gone:?}") };
    let first = dead.first().unwrap().to_string();
    let refused = run(at, &["recover", "shard", &first, "--yes"]).await;
    assert!(refused.code == 1 && refused.err.contains("may have a quorum when"), "{}{}", refused.out, refused.err);
    let refused = run(at, &["node", "remove", removed, "--force", "--yes"]).await;
    assert!(refused.code == 1 && refused.err.contains("no quorum of voters that live"), "{}", refused.err);
    let done = run(at, &["node", "remove", removed, "--force", "--quorum-lost", "--yes"]).await;
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let refused = run(at, &["recover", "shards", "--all", "--yes"]).await;
    assert!(refused.code == 1 && refused.err.contains("shards are not recovered"), "{}", refused.err);
    let done = run(at, &["node", "give-up", given_up, "--yes"]).await;
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let asked = run(at, &["recover", "shards", "--all", "--dry-run"]).await;
    assert!(asked.code == 0 && asked.out.contains("nothing was done yet"), "{}{}", asked.out, asked.err);
    asked.assert_fits();
    // One that is killed needs another one that is recovered as an operator would.
    if dead.len() > 1 {
        killed_when_recorded(cluster, *dead.first().unwrap(), loss).await?;
    }
    all_recovered(cluster, at).await;
    // It leads at least this one, the other replicas of which are made anew.
    let leads = loss.survivor(*dead.last().unwrap());
    cluster.local.kill(&leads).await?;
    cluster.local.start_node(&leads).await?;
    all_recovered(cluster, at).await;
    Ok(())
}

/// A shard is recovered, and the node that it is to go on with killed as soon as that is recorded; and starts again. Others may be led by
/// that node as well, and the meta group.
async fn killed_when_recorded(cluster: &mut Cluster, shard: u32, loss: &Loss) -> Result<()> {
    let from_node = loss.survivor(shard);
    let other = cluster.local.names().into_iter().find(|node| *node != from_node && !loss.gone.contains(node)).unwrap();
    let request = v1::RecoverShardRequest { shard, from_node: from_node.clone(), validate_only: false };
    cluster.admin_of(&other, Duration::from_secs(20))?.recover_shard(request).await?;
    cluster.local.kill(&from_node).await?;
    cluster.local.start_node(&from_node).await?;
    Ok(())
}

/// All shards that are dead are recovered, and then nothing is left to be. A node that has just started takes those that are gone for alive
/// for some seconds, and what it led has no leader: both are refused, and asked again.
async fn all_recovered(cluster: &Cluster, at: &str) {
    let begun = Instant::now();
    loop {
        let done = run(at, &["recover", "shards", "--all", "--yes", "--timeout", "60s"]).await;
        done.assert_fits();
        let left = run(at, &["recover", "shards", "--all", "--yes", "-o", "json"]).await;
        let answer = serde_json::from_str::<serde_json::Value>(&left.out).unwrap_or_default();
        let none = answer["recovered"].as_array().map(Vec::len) == Some(0);
        if done.code == 0 && left.code == 0 && none {
            return;
        }
        assert!(begun.elapsed() < SETTLES, "{}{}\n{}\n{}", done.out, done.err, left.out, cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Those that were gone come back with all that they had, alone at first: two of three voters of the dead shards. They neither lead
/// those nor keep their replicas of them.
async fn come_back(cluster: &mut Cluster, at: &str, loss: &Loss) -> Result<()> {
    let Loss { gone, dead, before } = loss;
    let others: Vec<String> = cluster.local.names().into_iter().filter(|node| !gone.contains(node)).collect();
    for node in &others {
        cluster.local.pause(node, true)?;
    }
    for node in gone {
        cluster.local.start_node(node).await?;
    }
    // Longer than two elections take; nothing is waited for here, what must not be is looked for.
    let alone = Instant::now();
    while alone.elapsed() < Duration::from_secs(6) {
        for node in gone {
            let admin = cluster.admin_of(node, Duration::from_secs(2))?;
            for shard in dead {
                let of = Some(v1::get_raft_state_request::Of::Shard(*shard));
                let state = admin.get_raft_state(v1::GetRaftStateRequest { of }).await;
                let state = state.ok().and_then(|answer| answer.state).unwrap_or_default();
                assert_ne!(state.role(), v1::ReplicaRole::Leader, "{node} leads shard {shard} by members of before");
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for node in &others {
        cluster.local.pause(node, false)?;
    }
    let begun = Instant::now();
    loop {
        let now = replicas(at).await;
        let old = dead.iter().flat_map(|shard| {
            let had = before[shard].iter().filter(|(node, _)| gone.contains(*node)).map(|(_, replica)| *replica);
            let has: BTreeSet<u64> = now.get(shard).into_iter().flat_map(|r| r.values().copied()).collect();
            had.filter(move |replica| has.contains(replica)).collect::<Vec<_>>()
        });
        let old: Vec<u64> = old.collect();
        let whole = dead.iter().all(|shard| now.get(shard).is_some_and(|replicas| replicas.len() == 3));
        if old.is_empty() && whole {
            break;
        }
        assert!(begun.elapsed() < SETTLES, "{old:?} are still there, of {now:?}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Of a shard that is dead everything is refused in time, but what may be old; of another one everything is answered.
async fn told_as_it_is(at: &str, shard: u32, account: &str, is_dead: bool) {
    let (code, timeout) = if is_dead { (3, TIMEOUT.0) } else { (0, "30s") };
    for output in ["table", "json"] {
        for question in [["account", "active", account], ["account", "show", account], ["policy", "get", account]] {
            let begun = Instant::now();
            let told = run(at, &[&question[..], &["--timeout", timeout, "-o", output]].concat()).await;
            assert_eq!(told.code, code, "shard {shard}: {question:?}: {}{}", told.out, told.err);
            assert_eq!(is_dead, told.err.starts_with("clusterctl: degraded: "), "{question:?}: {}", told.err);
            assert!(!is_dead || (told.out.is_empty() && begun.elapsed() < TIMEOUT.1), "{question:?} hangs");
        }
    }
    let old = run(at, &["account", "active", account, "--read", "any", "--timeout", "30s"]).await;
    assert!(matches!(old.code, 0 | 3) && old.out.contains("film-1"), "{}{}", old.out, old.err);
    let ended = run(at, &["view", "end", account, "v1", "--yes", "--timeout", timeout]).await;
    assert!(if is_dead { matches!(ended.code, 1 | 3) } else { ended.code == 0 }, "{}", ended.err);
}
