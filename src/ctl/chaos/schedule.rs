//! Which fault comes when, to whom, for how long: decided by the seed alone.

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// The most shards whose leaders move in one fault.
const MOVES_MAX: u32 = 3;

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// A node is killed (SIGKILL), and started again after a while
    Kill,
    /// A node stands still (SIGSTOP) for longer than a lease, and goes on (SIGCONT)
    Pause,
    /// A node is asked to stop (SIGTERM), and started again
    Restart,
    /// All nodes are killed at once, and started again
    KillAll,
    /// Other replicas are made the leaders of some shards
    Move,
    /// A node is killed while another stands still; with 5 replicas, so that every shard keeps a quorum
    PauseKill,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::KillAll => "kill-all",
            Self::Move => "move",
            Self::PauseKill => "pause-kill",
        }
    }

    /// Why it cannot be done to a cluster with so many voting replicas of each shard; none if it can.
    fn hindrance(self, replicas: u32) -> Option<&'static str> {
        match self {
            Self::Move if replicas < 3 => Some("needs shards with 3 replicas or more"),
            Self::PauseKill if replicas < 5 => Some("needs shards with 5 replicas, so that three of them go on"),
            _ => None,
        }
    }

    /// How long it lasts, milliseconds. A pause outlasts the longest election and lease that nodes take with their own settings.
    fn lasts_ms(self, rng: &mut StdRng) -> u64 {
        match self {
            Self::Kill => rng.random_range(1_000..8_000),
            Self::Pause | Self::PauseKill => rng.random_range(4_000..9_000),
            Self::KillAll => rng.random_range(500..3_000),
            Self::Restart | Self::Move => 0,
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// How long after the beginning of the one before it at the earliest, milliseconds.
    pub(super) after_ms: u64,
    /// The nodes, by their number from 0: of a pause with a kill first who stands still, then who dies.
    pub(super) nodes: Vec<usize>,
    /// For how long, milliseconds, until it is undone; 0: it is over when it is done.
    pub(super) lasts_ms: u64,
    /// The shards whose leaders move, each with a number that chooses among its other replicas.
    pub(super) moves: Vec<(u32, usize)>,
}

/// What the schedule is drawn for.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) shards: u32,
    pub(super) kinds: Vec<Kind>,
    /// Between the beginnings of two faults on average, milliseconds.
    pub(super) every_ms: u64,
}

/// The faults that were asked for, or all that fit; why not, if one does not fit.
pub(super) fn kinds(asked: &[Kind], replicas: u32) -> Result<Vec<Kind>, String> {
    if asked.is_empty() {
        let all = Kind::value_variants().iter().copied();
        return Ok(all.filter(|kind| kind.hindrance(replicas).is_none()).collect());
    }
    let mut kinds = asked.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    match kinds.iter().find_map(|kind| Some((kind, kind.hindrance(replicas)?))) {
        Some((kind, why)) => Err(format!("--faults {} {why}; these have {replicas}", kind.word())),
        None => Ok(kinds),
    }
}

/// Faults without end. Each kind comes once before any comes again. No fault begins before the one before it is undone, so that
/// a quorum that it takes away comes back.
#[derive(Debug)]
pub(super) struct Schedule {
    terms: Terms,
    rng: StdRng,
    /// The kinds that are still to come before all come again.
    hand: Vec<Kind>,
}

impl Schedule {
    pub(super) fn new(terms: Terms) -> Self {
        let rng = StdRng::seed_from_u64(terms.seed);
        Self { terms, rng, hand: Vec::new() }
    }
}

impl Iterator for Schedule {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let Self { terms, rng, hand } = self;
        if hand.is_empty() {
            hand.extend(&terms.kinds);
            hand.shuffle(rng);
        }
        let kind = hand.pop()?;
        let after_ms = (terms.every_ms as f64 * rng.random_range(0.7..1.3)) as u64;
        let first = rng.random_range(0..terms.nodes);
        let nodes = match kind {
            Kind::Kill | Kind::Pause | Kind::Restart => vec![first],
            Kind::KillAll => (0..terms.nodes).collect(),
            Kind::Move => Vec::new(),
            Kind::PauseKill => vec![first, (first + rng.random_range(1..terms.nodes)) % terms.nodes],
        };
        let lasts_ms = kind.lasts_ms(rng);
        let moves = match kind {
            Kind::Move => {
                let count = rng.random_range(1..=MOVES_MAX.min(terms.shards)) as usize;
                let shards = rand::seq::index::sample(rng, terms.shards as usize, count);
                shards.into_iter().map(|shard| (shard as u32, rng.random_range(0..60))).collect()
            }
            _ => Vec::new(),
        };
        Some(Fault { kind, after_ms, nodes, lasts_ms, moves })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(seed: u64, nodes: usize, replicas: u32) -> Terms {
        let kinds = kinds(&[], replicas).expect("no kind was asked for");
        Terms { seed, nodes, shards: 8, kinds, every_ms: 10_000 }
    }

    fn drawn(terms: Terms, count: usize) -> Vec<Fault> {
        Schedule::new(terms).take(count).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_gives_others() {
        let of = |seed| drawn(terms(seed, 5, 5), 100);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn what_a_seed_gives_stays_the_same_from_build_to_build() {
        let first = &drawn(terms(42, 3, 3), 5);
        let words: Vec<String> = first
            .iter()
            .map(|f| format!("{} {:?} {} {} {:?}", f.kind.word(), f.nodes, f.after_ms, f.lasts_ms, f.moves))
            .collect();
        assert_eq!(words, GOLDEN, "seeds that people have written down would mean something else");
    }

    const GOLDEN: [&str; 5] = [
        "pause [1] 8492 7182 []",
        "restart [2] 9435 0 []",
        "kill-all [0, 1, 2] 10704 2343 []",
        "kill [1] 12095 4355 []",
        "move [] 11931 0 [(3, 23), (6, 42)]",
    ];

    #[test]
    fn every_kind_comes_before_any_comes_again_and_every_node_has_its_turn() {
        for seed in 0..50 {
            let faults = drawn(terms(seed, 5, 5), 60);
            for round in faults.chunks(6) {
                let mut kinds: Vec<Kind> = round.iter().map(|fault| fault.kind).collect();
                kinds.sort_unstable();
                assert_eq!(kinds, Kind::value_variants(), "seed {seed}");
            }
            let hit = |node| faults.iter().any(|fault| fault.kind != Kind::KillAll && fault.nodes.contains(&node));
            assert!((0..5).all(hit), "seed {seed}");
        }
    }

    #[test]
    fn no_fault_takes_the_quorum_away_for_ever() {
        for fault in drawn(terms(3, 5, 5), 500) {
            // Whatever is down comes back, and apart from all at once two of five are the most.
            assert!(fault.lasts_ms < 10_000);
            assert!(fault.kind == Kind::KillAll || fault.nodes.len() <= 2, "{fault:?}");
            assert!(fault.kind != Kind::PauseKill || fault.nodes[0] != fault.nodes[1], "{fault:?}");
            assert!(fault.nodes.iter().all(|node| *node < 5) && fault.moves.iter().all(|(shard, _)| *shard < 8));
            assert!((7_000..13_000).contains(&fault.after_ms));
        }
        assert!(drawn(terms(3, 3, 3), 100).iter().all(|fault| fault.kind != Kind::PauseKill));
    }

    #[test]
    fn a_fault_that_the_cluster_is_too_small_for_is_refused_by_name() {
        assert_eq!(kinds(&[Kind::Move, Kind::Kill, Kind::Kill], 3), Ok(vec![Kind::Kill, Kind::Move]));
        let refused = kinds(&[Kind::Kill, Kind::PauseKill], 3).expect_err("two of three is no quorum");
        assert!(refused.contains("--faults pause-kill needs shards with 5 replicas"), "{refused}");
        assert!(kinds(&[Kind::Move], 1).is_err());
        assert_eq!(kinds(&[], 1), Ok(vec![Kind::Kill, Kind::Pause, Kind::Restart, Kind::KillAll]));
    }
}
