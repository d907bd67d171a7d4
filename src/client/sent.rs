//! When requests whose outcome is unknown were sent for the first time.
//!
//! A caller may send such a request again under its id, and must say how old it is: the cluster remembers requests only for so
//! long, and refuses one that it may have forgotten rather than do it twice. What this client has sent it knows by itself.

use std::collections::VecDeque;

use crate::time::MonotonicMs;

/// Requests that are remembered; the oldest are forgotten first.
const SENT_MAX: usize = 4_096;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Sent {
    unknown: VecDeque<(String, MonotonicMs)>,
}

impl Sent {
    /// How long ago a request was sent for the first time, as far as is known.
    pub(super) fn age_ms(&self, id: &str, now: MonotonicMs) -> Option<u64> {
        self.unknown.iter().rev().find(|(known, _)| known == id).map(|(_, at)| now.since(*at))
    }

    /// Remembers a request whose outcome is unknown.
    pub(super) fn ended_unknown(&mut self, id: String, first_sent: MonotonicMs) {
        if self.age_ms(&id, first_sent).is_some() {
            return;
        }
        if self.unknown.len() >= SENT_MAX {
            self.unknown.pop_front();
        }
        self.unknown.push_back((id, first_sent));
    }

    /// Forgets a request whose outcome is known.
    pub(super) fn ended(&mut self, id: &str) {
        self.unknown.retain(|(known, _)| known != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts_until_the_outcome_is_known_and_the_oldest_are_forgotten_first() {
        let mut sent = Sent::default();
        sent.ended_unknown("a".into(), MonotonicMs(10));
        sent.ended_unknown("a".into(), MonotonicMs(50));
        assert_eq!(sent.age_ms("a", MonotonicMs(60)), Some(50));
        for n in 0..SENT_MAX - 1 {
            sent.ended_unknown(n.to_string(), MonotonicMs(70));
        }
        assert_eq!(sent.age_ms("a", MonotonicMs(70)), Some(60));
        sent.ended_unknown("b".into(), MonotonicMs(70));
        assert_eq!(sent.age_ms("a", MonotonicMs(70)), None);
        sent.ended("b");
        assert_eq!(sent.age_ms("b", MonotonicMs(70)), None);
    }
}
