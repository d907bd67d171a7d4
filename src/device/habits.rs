//! What a household does next: draws from how people were measured to watch.

use std::time::Duration;

use rand::Rng;

use crate::proto::v1;

/// Titles of the whole service.
const TITLES: usize = 4_000;
/// Titles that a household chooses from.
const FAVOURITES: usize = 40;
/// Zipf's slope over the whole service.
const SERVICE_SLOPE: f64 = 0.58;
/// Zipf's slope among a household's favourites.
const HOUSEHOLD_SLOPE: f64 = 1.1;

/// A title of the invented catalogue; everything of it follows from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Title(pub(super) u32);

impl Title {
    pub(super) fn id(self) -> String {
        match self.is_episode() {
            true => format!("series-{:03}-e{:02}", self.0 / 12, self.0 % 12 + 1),
            false => format!("film-{:04}", self.0),
        }
    }

    pub(super) fn is_episode(self) -> bool {
        !self.0.is_multiple_of(5)
    }

    /// Its length, milliseconds: episodes 22 to 58 minutes, films 80 to 139.
    pub(super) fn duration_ms(self) -> u64 {
        let minutes = match self.is_episode() {
            true => 22 + u64::from(self.0 / 12 * 7 % 37),
            false => 80 + u64::from(self.0 * 13 % 60),
        };
        minutes * 60_000
    }

    /// What plays after it.
    pub(super) fn next(self) -> Self {
        Self((self.0 + 1) % TITLES as u32)
    }
}

/// A household's taste.
#[derive(Debug)]
pub(super) struct Taste {
    favourites: Vec<Title>,
}

impl Taste {
    pub(super) fn draw(rng: &mut impl Rng) -> Self {
        Self { favourites: (0..FAVOURITES).map(|_| Title(zipf(rng, TITLES, SERVICE_SLOPE) as u32)).collect() }
    }

    /// Something to watch.
    pub(super) fn choose(&self, rng: &mut impl Rng) -> Title {
        self.favourites[zipf(rng, FAVOURITES, HOUSEHOLD_SLOPE)]
    }
}

/// A rank from 0, drawn by Zipf's law with this slope (of the continuous law, by inversion: near enough, and without a table).
fn zipf(rng: &mut impl Rng, ranks: usize, slope: f64) -> usize {
    let u: f64 = rng.random();
    let top = (ranks + 1) as f64;
    let rank = match (slope - 1.0).abs() < 1e-9 {
        true => top.powf(u),
        false => (1.0 + u * (top.powf(1.0 - slope) - 1.0)).powf(1.0 / (1.0 - slope)),
    };
    (rank as usize).clamp(1, ranks) - 1
}

/// How long a play lasts, milliseconds: log-normal, p50 1,200 s, p90 2,900 s, at least a minute, at most five hours.
pub(super) fn play_ms(rng: &mut impl Rng) -> u64 {
    const MEDIAN_S: f64 = 1_200.0;
    const SIGMA: f64 = 0.69;
    let (u, v): (f64, f64) = (rng.random::<f64>().max(f64::MIN_POSITIVE), rng.random());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    ((MEDIAN_S * (SIGMA * normal).exp()).clamp(60.0, 18_000.0) * 1_000.0) as u64
}

/// Whether something begun before is resumed, rather than something chosen.
pub(super) fn resumes(rng: &mut impl Rng) -> bool {
    rng.random_bool(0.5)
}

/// Whether the play seeks back once, and by how many milliseconds.
pub(super) fn seeks_back(rng: &mut impl Rng) -> Option<u64> {
    rng.random_bool(0.03).then(|| rng.random_range(30_000..600_000))
}

/// How many further devices begin to play beside this one.
pub(super) fn joined_by(rng: &mut impl Rng) -> usize {
    match rng.random_range(0..1_000) {
        0..4 => 2,
        4..54 => 1,
        _ => 0,
    }
}

/// How a play ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The device stops it.
    Stop,
    /// The next title follows in the same stream.
    Next,
    /// The device loses its power; its next start replaces the view.
    Vanish,
}

pub(super) fn ending(rng: &mut impl Rng, title: Title) -> Ending {
    match rng.random_range(0..100) {
        0..3 => Ending::Vanish,
        3..28 if title.is_episode() => Ending::Next,
        _ => Ending::Stop,
    }
}

pub(super) fn title_type(title: Title) -> v1::TitleType {
    if title.is_episode() { v1::TitleType::Episode } else { v1::TitleType::Film }
}

/// By how much a told interval is more than the usual one; its jitter is not.
pub(super) fn stretch(told_ms: i64, usual: Duration) -> f64 {
    let times = told_ms as f64 / (usual.as_millis() as f64).max(1.0);
    if times > 1.2 { times } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn plays_last_as_long_as_measured() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut plays: Vec<u64> = (0..20_000).map(|_| play_ms(&mut rng) / 1_000).collect();
        plays.sort_unstable();
        let at = |share: usize| plays[plays.len() * share / 100];
        assert!((990..=1_440).contains(&at(50)), "{}", at(50));
        assert!((2_490..=3_280).contains(&at(90)), "{}", at(90));
        assert!((4_860..=7_410).contains(&at(99)), "{}", at(99));
    }

    #[test]
    fn ranks_fall_off_by_zipf_s_law() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut counts = [0u32; FAVOURITES];
        (0..50_000).for_each(|_| counts[zipf(&mut rng, FAVOURITES, HOUSEHOLD_SLOPE)] += 1);
        assert!(
            counts[0] > counts[4] && counts[4] > counts[FAVOURITES - 1] && counts[FAVOURITES - 1] > 0,
            "{counts:?}"
        );
        assert!((0..1_000).all(|_| zipf(&mut rng, 3, 1.0) < 3));
    }

    #[test]
    fn every_title_has_an_id_of_its_own_and_is_never_short() {
        let ids: std::collections::BTreeSet<String> = (0..TITLES as u32).map(|n| Title(n).id()).collect();
        assert_eq!(ids.len(), TITLES);
        assert!((0..TITLES as u32).all(|n| Title(n).duration_ms() >= 1_320_000));
        assert_eq!(Title(TITLES as u32 - 1).next(), Title(0));
    }

    #[test]
    fn a_device_that_is_told_to_report_more_seldom_does_and_jitter_is_no_stretch() {
        let usual = Duration::from_secs(60);
        assert_eq!([54_000, 60_000, 66_000, 0].map(|told| stretch(told, usual)), [1.0; 4]);
        assert_eq!(stretch(120_000, usual), 2.0);
    }
}
