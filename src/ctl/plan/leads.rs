//! How leads are balanced, in words.

use serde::Serialize;

use super::super::text::plain;
use crate::proto::v1;

/// By what leads are balanced, and what that waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::ctl) struct Leads {
    state: &'static str,
    waits: Vec<String>,
    /// Of the mean, in thousandths. Null: it isn't known.
    hottest_permille: Option<u32>,
}

impl Leads {
    /// Of an answer; a build that doesn't tell has told the rule at least.
    pub(in crate::ctl) fn new(told: Option<v1::LeadBalance>, heat: bool) -> Self {
        let told = told.unwrap_or_default();
        let state = match told.state() {
            v1::LeadBalanceState::Unspecified if heat => "by_cost",
            v1::LeadBalanceState::Unspecified | v1::LeadBalanceState::ByNumber => "by_number",
            v1::LeadBalanceState::ByCost => "by_cost",
            v1::LeadBalanceState::Waits => "waits",
        };
        let waits = told.waits.iter().map(|wait| plain(wait)).collect();
        Self { state, waits, hottest_permille: Some(told.hottest_permille).filter(|permille| *permille > 0) }
    }

    /// As a sentence without its full stop.
    pub(in crate::ctl) fn text(&self) -> String {
        let Self { state, waits, hottest_permille } = self;
        let by = match *state {
            "by_number" => return "leads are even by number".into(),
            "waits" => format!("leads move by what shards cost, but not now: {}", waits.join("; ")),
            _ => "leads move by what shards cost".into(),
        };
        match hottest_permille {
            Some(permille) => format!("{by} (the hottest node: {:.2} of the mean)", f64::from(*permille) / 1e3),
            None => by,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_are_told_to_move_to_wait_and_for_what_or_to_be_even_by_number() {
        let told = |state: v1::LeadBalanceState, waits: &[&str], hottest_permille| {
            let waits = waits.iter().map(ToString::to_string).collect();
            Leads::new(Some(v1::LeadBalance { state: state.into(), waits, hottest_permille }), true).text()
        };
        let (cost, waits) = ("leads move by what shards cost", ["n3 is not heard", "n2 takes no leads now"]);
        assert_eq!(
            told(v1::LeadBalanceState::ByCost, &[], 1_071),
            format!("{cost} (the hottest node: 1.07 of the mean)")
        );
        assert_eq!(
            told(v1::LeadBalanceState::Waits, &waits, 0),
            format!("{cost}, but not now: n3 is not heard; n2 takes no leads now")
        );
        assert_eq!(told(v1::LeadBalanceState::ByNumber, &[], 0), "leads are even by number");
        assert_eq!((Leads::new(None, true).text(), Leads::new(None, false).state), (cost.into(), "by_number"));
    }
}
