//! What a replica has done for those who asked it, while it led.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a replica has done as its group's leader since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Commands committed and queries answered.
    pub requests: u64,
    /// Bytes of these commands, as they stand in the log, and of these queries with their answers, as they are sent to other nodes.
    pub bytes: u64,
}

impl Work {
    /// What was done since `before`. A replica that was started anew meanwhile counts from there.
    pub fn since(self, before: Self) -> Self {
        if self.requests < before.requests || self.bytes < before.bytes {
            return self;
        }
        Self { requests: self.requests - before.requests, bytes: self.bytes - before.bytes }
    }
}

/// Counts it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    pub(crate) fn add(&self, requests: u64, bytes: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Work {
        Work { requests: self.requests.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// How long something is when it is encoded; nothing is kept of it.
pub(crate) fn encoded_bytes(what: &impl minicbor::Encode<()>) -> u64 {
    struct Count(u64);
    impl minicbor::encode::Write for Count {
        type Error = Infallible;

        fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
            self.0 += bytes.len() as u64;
            Ok(())
        }
    }
    let mut count = Count(0);
    // What fails to be encoded isn't sent either.
    let _ = minicbor::encode(what, &mut count);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_from_the_last_look_and_anew_after_a_start() {
        let meter = Meter::default();
        meter.add(3, 100);
        let before = meter.now();
        meter.add(2, 50);
        assert_eq!(meter.now().since(before), Work { requests: 2, bytes: 50 });
        let started_anew = Work { requests: 1, bytes: 9 };
        assert_eq!(started_anew.since(before), started_anew);
        assert_eq!(encoded_bytes(&vec!["abc", "d"]), minicbor::to_vec(vec!["abc", "d"]).unwrap().len() as u64);
    }
}
