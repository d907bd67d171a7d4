//! Accounts that are used by a Zipf law, and the few that a live event makes hot.

use playhead::ids::AccountId;
use playhead::ring::{ShardCount, Token};

use crate::nodes::NODES;
use crate::support::Result;

const ACCOUNTS: usize = 100_000;
const ZIPF_S: f64 = 0.99;
/// Accounts of the event, by their rank: not the largest anyway.
const EVENT: std::ops::Range<usize> = 200..206;
/// What the event adds, as a part of everything else.
pub const EVENT_SHARE: f64 = 0.6;

/// SplitMix64: a run asks the same in the same order.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// An account, where it belongs.
pub struct Account {
    pub name: String,
    /// Which of the nodes has it by `mod N`.
    pub node_by_mod: usize,
    shard: u32,
}

/// All of them.
pub struct Accounts {
    pub all: Vec<Account>,
    /// How much of everything is asked of an account and of all before it.
    sums: Vec<f64>,
    random: Random,
}

impl Accounts {
    pub fn new(shards: u32, seed: u64) -> Result<Self> {
        let count = ShardCount::new(shards)?;
        let (mut all, mut sums, mut sum) = (Vec::with_capacity(ACCOUNTS), Vec::with_capacity(ACCOUNTS), 0.0);
        for rank in 0..ACCOUNTS {
            let name = format!("member-{rank:06}");
            let token = Token::of(&AccountId::new(name.as_str())?);
            let node_by_mod = (token.0 % NODES as u64) as usize;
            all.push(Account { name, node_by_mod, shard: count.shard_of(token).0 });
            sum += ((rank + 1) as f64).powf(-ZIPF_S);
            sums.push(sum);
        }
        sums.iter_mut().for_each(|part| *part /= sum);
        Ok(Self { all, sums, random: Random(seed) })
    }

    /// The next account that is asked for something.
    pub fn next(&mut self, event: bool) -> usize {
        if event && self.random.unit() < EVENT_SHARE / (1.0 + EVENT_SHARE) {
            return EVENT.start + (self.random.unit() * EVENT.len() as f64) as usize;
        }
        let at = self.random.unit();
        self.sums.partition_point(|part| *part < at).min(ACCOUNTS - 1)
    }

    /// What they are like.
    pub fn told(&self) -> String {
        let first = 100.0 * self.sums[0];
        let shards: Vec<String> = EVENT.map(|rank| self.all[rank].shard.to_string()).collect();
        let nodes: Vec<String> = EVENT.map(|rank| self.all[rank].node_by_mod.to_string()).collect();
        format!(
            "{ACCOUNTS} accounts, Zipf s = {ZIPF_S}: the first has {first:.1} % of all; the event's are in the shards {}, \
             by mod {NODES} on the nodes {}",
            shards.join(" "),
            nodes.join(" ")
        )
    }
}
