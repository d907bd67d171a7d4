//! `clusterctl plan show`.

use serde::Serialize;

use super::super::context::{Context, Screen};
use super::super::exit::Failure;
use super::super::output::span;
use super::super::text::{plain, wrapped};
use super::super::watch;
use super::{Leads, Plan, account_sentence, copies_sentence};
use crate::proto::v1;

/// The change, and the rules that it follows.
#[derive(Debug, Serialize)]
struct Shown {
    plan: Plan,
    replication_factor: u32,
    slack_permille: u32,
    grace_ms: u64,
    automatic: bool,
    heat: bool,
    /// Null: what each node has set.
    copies_bytes_per_second: Option<u64>,
    /// Null: what each node has set.
    account_per_second: Option<u32>,
    leads: Leads,
    answered_by: String,
}

impl Shown {
    fn new(answer: v1::GetPlanResponse) -> Self {
        let rules = answer.rules.unwrap_or_default();
        Self {
            plan: Plan::from(answer.plan.unwrap_or_default()),
            replication_factor: rules.replication_factor,
            slack_permille: rules.slack_permille,
            grace_ms: rules.grace_ms,
            automatic: rules.automatic,
            heat: rules.heat,
            copies_bytes_per_second: rules.copies_bytes_per_second,
            account_per_second: rules.account_per_second,
            leads: Leads::new(answer.leads, rules.heat),
            answered_by: plain(&answer.answered_by),
        }
    }

    fn text(&self) -> String {
        let begin = if self.automatic { "changes begin by themselves" } else { "changes wait for `plan apply`" };
        let (grace, copies) = (span(self.grace_ms), self.replication_factor);
        let mut rules = format!("{copies} copies of each shard; {begin}; dead nodes are given up after {grace}");
        let copies = self.copies_bytes_per_second.map(|rate| copies_sentence(Some(rate)));
        let account = self.account_per_second.map(|rate| account_sentence(Some(rate)));
        for limit in copies.into_iter().chain(account) {
            rules.push_str("; ");
            rules.push_str(&limit);
        }
        let (rules, leads) = (wrapped(&rules, 80).join("\n"), wrapped(&self.leads.text(), 80).join("\n"));
        format!("{}\n\n{rules}\n{leads}", self.plan.text().trim_end())
    }
}

pub(super) async fn run(context: &Context, repeat: &watch::Repeat) -> Result<(), Failure> {
    watch::run(context, repeat, look).await
}

async fn look(context: &Context) -> Result<Screen, Failure> {
    let shown = Shown::new(context.read(context.admin()?.get_plan(v1::GetPlanRequest {})).await?);
    context.screen(&shown, || shown.text(), Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_where_a_rule_says_them() {
        let shown = |copies_bytes_per_second, account_per_second| {
            let limits = v1::PlacementRules { copies_bytes_per_second, account_per_second, ..Default::default() };
            let rules = v1::PlacementRules { replication_factor: 3, ..limits };
            Shown::new(v1::GetPlanResponse { rules: Some(rules), ..Default::default() })
        };
        let (own, ruled) = (shown(None, None), shown(Some(8 << 20), Some(500)));
        // The text is broken into lines.
        let words = |shown: &Shown| shown.text().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&ruled).contains("each node sends at most 8.0 MiB of copies a second"), "{}", ruled.text());
        assert!(
            words(&ruled).contains("each leader takes at most 500 commands a second of one account"),
            "{}",
            ruled.text()
        );
        assert!(!words(&own).contains("of copies a second") && !words(&own).contains("account"), "{}", own.text());
        let json = |shown: &Shown| {
            let json = serde_json::to_value(shown).unwrap();
            ["copies_bytes_per_second", "account_per_second"].map(|field| json[field].as_u64())
        };
        assert_eq!([json(&own), json(&ruled)], [[None, None], [Some(8 << 20), Some(500)]]);
    }
}
