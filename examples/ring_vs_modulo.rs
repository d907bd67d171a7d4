//! What a join moves and how even the load is: the ring with bounded load beside `mod N`, for a million accounts.
//!
//! `cargo run --example ring_vs_modulo`

use comfy_table::{CellAlignment, Table, presets};
use playhead::ids::{AccountId, NodeId};
use playhead::ring::{Member, Placement, Replication, Rules, ShardCount, Slack, Token, place};

const ACCOUNTS: usize = 1_000_000;
const SHARDS: u32 = 4096;
/// Of the Zipf law that accounts are used by: the account of rank r is used 1 / r^s as much as the first.
const ZIPF_S: f64 = 0.99;

/// Who holds an account, with the leader first.
type Holders = Vec<usize>;

struct Population {
    tokens: Vec<Token>,
    /// How much each account is used, summing up to 1.
    zipf: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let population = population()?;
    let count = ShardCount::new(SHARDS)?;
    println!(
        "{ACCOUNTS} accounts, {SHARDS} shards, 3 replicas. Load counts a node's replicas; lead what its leaders serve."
    );
    println!(
        "min: what the new node must hold, by its share. mod N: account on nodes h mod N, h+1 mod N, h+2 mod N.\n"
    );

    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "join",
        "by",
        "accounts moved",
        "replicas moved",
        "of min",
        "load max/mean",
        "lead max/mean",
        "lead, Zipf 0.99",
    ]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for nodes in [3, 10, 100] {
        for slack in [50, 0] {
            let rules = Rules { replication: Replication::DEFAULT, slack: Slack::new(slack)? };
            let before = place(&members(nodes), count, rules, &Placement::empty(count))?;
            let after = place(&members(nodes + 1), count, rules, &before)?;
            let of = |placement: &Placement, token: Token| holders(placement, count.shard_of(token));
            let name = format!("ring, slack {}%", f64::from(slack) / 10.0);
            table.add_row(row(&population, nodes, name, |t| of(&before, t), |t| of(&after, t)));
        }
        let modulo =
            |nodes: usize| move |token: Token| (0..3).map(|i| (token.0 as usize % nodes + i) % nodes).collect();
        table.add_row(row(&population, nodes, "mod N".to_string(), modulo(nodes), modulo(nodes + 1)));
    }
    println!("{table}");
    println!(
        "\naccounts moved: those whose leader or only copy would be on another node (on the ring: preferred leader)."
    );
    Ok(())
}

fn population() -> anyhow::Result<Population> {
    let account = |n: usize| AccountId::new(format!("account-{n}"));
    let tokens = (0..ACCOUNTS).map(|n| Ok(Token::of(&account(n)?))).collect::<anyhow::Result<_>>()?;
    let mut zipf: Vec<f64> = (1..=ACCOUNTS).map(|rank| (rank as f64).powf(-ZIPF_S)).collect();
    let sum: f64 = zipf.iter().sum();
    zipf.iter_mut().for_each(|use_| *use_ /= sum);
    Ok(Population { tokens, zipf })
}

fn members(nodes: usize) -> Vec<Member> {
    (0..nodes as u64).map(|n| Member::plain(NodeId(n))).collect()
}

fn holders(placement: &Placement, shard: playhead::ids::ShardId) -> Holders {
    let replicas = placement.get(shard).expect("every token's shard is placed");
    let mut nodes: Holders = replicas.nodes.iter().map(|n| n.0 as usize).collect();
    nodes.sort_by_key(|&n| Some(NodeId(n as u64)) != replicas.leader);
    nodes
}

fn row(
    population: &Population,
    nodes: usize,
    name: String,
    before: impl Fn(Token) -> Holders,
    after: impl Fn(Token) -> Holders,
) -> Vec<String> {
    let (mut accounts, mut replicas) = (0, 0);
    let mut held = vec![0usize; nodes + 1];
    let mut led = vec![0usize; nodes + 1];
    let mut used = vec![0f64; nodes + 1];
    for (&token, share) in population.tokens.iter().zip(&population.zipf) {
        let (before, after) = (before(token), after(token));
        accounts += usize::from(before[0] != after[0]);
        replicas += after.iter().filter(|n| !before.contains(n)).count();
        after.iter().for_each(|&n| held[n] += 1);
        led[after[0]] += 1;
        used[after[0]] += share;
    }
    let peak =
        |loads: &[f64]| loads.iter().copied().fold(0.0, f64::max) * loads.len() as f64 / loads.iter().sum::<f64>();
    let whole = |loads: &[usize]| peak(&loads.iter().map(|&l| l as f64).collect::<Vec<_>>());
    let minimum = (3 * ACCOUNTS) as f64 / (nodes + 1) as f64;
    vec![
        format!("{nodes} -> {}", nodes + 1),
        name,
        format!("{accounts} ({:.1}%)", 100.0 * accounts as f64 / ACCOUNTS as f64),
        format!("{replicas} ({:.1}%)", 100.0 * replicas as f64 / (3 * ACCOUNTS) as f64),
        format!("{:.2}x", replicas as f64 / minimum),
        format!("{:.3}", whole(&held)),
        format!("{:.3}", whole(&led)),
        format!("{:.3}", peak(&used)),
    ]
}
