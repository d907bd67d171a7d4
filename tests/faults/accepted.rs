//! What was only accepted while a shard had no leader: whether it is found once there is one again.

use std::collections::{BTreeMap, BTreeSet};

/// The accepted writes of one view.
#[derive(Debug, Default)]
struct Said {
    start: bool,
    reports: BTreeSet<u64>,
    stop: Option<u64>,
}

impl Said {
    fn count(&self) -> u64 {
        u64::from(self.start) + self.reports.len() as u64 + u64::from(self.stop.is_some())
    }
}

/// A view as it was read back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// The furthest of its positions.
    pub(crate) position_ms: Option<i64>,
    pub(crate) watched_ms: i64,
    pub(crate) runs: bool,
}

/// All accepted writes, by account and view.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    said: BTreeMap<String, BTreeMap<String, Said>>,
}

impl Accepted {
    fn of(&mut self, account: &str, view: &str) -> &mut Said {
        self.said.entry(account.into()).or_default().entry(view.into()).or_default()
    }

    pub(crate) fn start(&mut self, account: &str, view: &str) {
        self.of(account, view).start = true;
    }

    pub(crate) fn report(&mut self, account: &str, view: &str, sequence: u64) {
        self.of(account, view).reports.insert(sequence);
    }

    pub(crate) fn stop(&mut self, account: &str, view: &str, sequence: u64) {
        self.of(account, view).stop = Some(sequence);
    }

    pub(crate) fn has(&self, account: &str) -> bool {
        self.said.contains_key(account)
    }

    /// The accepted writes of an account that are not in what was read back. `position` says where a view is after so many reports, which
    /// only ever grows: a later one stands for those before it. Of a view whose start was never answered, and that nobody knows,
    /// nothing can be found, and nothing is lost.
    pub(crate) fn missing(
        &self,
        account: &str,
        found: &BTreeMap<String, Found>,
        position: impl Fn(u64) -> i64,
        is_known: impl Fn(&str) -> bool,
    ) -> u64 {
        let views = self.said.get(account).into_iter().flatten();
        let missing = views.map(|(view, said)| match found.get(view) {
            None if said.start || is_known(view) => said.count(),
            None => 0,
            Some(found) => {
                let is_there = |sequence: u64| found.position_ms.is_some_and(|at| at >= position(sequence));
                let reports = said.reports.iter().filter(|sequence| !is_there(**sequence)).count() as u64;
                reports + u64::from(said.stop.is_some_and(|sequence| found.runs || !is_there(sequence)))
            }
        });
        missing.sum()
    }
}
