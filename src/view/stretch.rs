//! By how much a shard's devices report more seldom than its settings say, while its leader is pressed.
//!
//! A device that was told a longer interval is silent for longer, so its view has to know: each view keeps the stretch under which its device was
//! told last, and expires by that, whatever has become of the shard's own since.

use minicbor::{Decode, Encode};

use super::Settings;
use super::settings::INTERVAL_MS;

/// By how much: so many sixteenths beyond once. Bounded by the longest interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Stretch(#[n(0)] pub u8);

impl Stretch {
    /// As the settings say.
    pub const NONE: Self = Self(0);
    /// The shortest interval, as long as the longest.
    pub const MOST: Self = Self(176);

    /// The interval under it, before jitter: at most the longest that devices are told with theirs.
    pub fn interval_ms(self, settings: &Settings) -> u64 {
        let most = INTERVAL_MS.1 * 100 / (100 + settings.jitter_percent);
        let longer = settings.interval_ms.saturating_mul(16 + u64::from(self.0)) / 16;
        longer.min(most).max(settings.interval_ms)
    }

    /// The least under which no interval grows any more.
    pub fn most_of(settings: &Settings) -> Self {
        let longest = Self::MOST.interval_ms(settings);
        (0..=Self::MOST.0).map(Self).find(|stretch| stretch.interval_ms(settings) >= longest).unwrap_or(Self::MOST)
    }
}

impl std::fmt::Display for Stretch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} %", 100 + u32::from(self.0) * 100 / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_stretched_up_to_the_longest_with_its_jitter_and_never_shortened() {
        let settings = Settings::default();
        let ms = |sixteenths| Stretch(sixteenths).interval_ms(&settings);
        assert_eq!([ms(0), ms(8), ms(14), ms(255)], [60_000, 90_000, 109_090, 109_090]);
        assert_eq!(Stretch::most_of(&settings), Stretch(14));
        let longest = Settings { interval_ms: 120_000, ..Settings::default() };
        assert_eq!((Stretch(9).interval_ms(&longest), Stretch::most_of(&longest)), (120_000, Stretch::NONE));
        let shortest = Settings { interval_ms: 10_000, jitter_percent: 0, ..Settings::default() };
        assert_eq!((Stretch::MOST.interval_ms(&shortest), Stretch::most_of(&shortest)), (120_000, Stretch::MOST));
    }
}
