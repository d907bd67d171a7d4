//! `clusterctl settings set`.

use std::collections::HashMap;

use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::get::settings;
use super::{SetOptions, Settings, read};
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Changed {
    version: u64,
    changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Change {
    name: String,
    before: u64,
    after: u64,
}

impl Change {
    fn text(&self) -> String {
        let Self { name, before, after } = self;
        format!("{name}: {} instead of {}", read(name, *after), read(name, *before))
    }
}

pub(super) async fn run(context: &Context, options: SetOptions) -> Result<(), Failure> {
    let now = settings(context, &context.admin()?).await?;
    let changes = changes(&now, &options.figures)?;
    let version = match changes.is_empty() {
        true => now.version,
        false => update(context, now.version, &changes).await?,
    };
    let changed = Changed { version, changes };
    context.answer(&changed, || match changed.changes.as_slice() {
        [] => format!("nothing changes; version {version}"),
        some => format!("{}\nversion {version}", some.iter().map(Change::text).collect::<Vec<_>>().join("\n")),
    })
}

async fn update(context: &Context, version: u64, changes: &[Change]) -> Result<u64, Failure> {
    let what = changes.iter().map(Change::text).collect::<Vec<_>>().join("; ");
    let context = permission(context, &format!("In every shard: {what}")).await?;
    let figures: HashMap<String, u64> = changes.iter().map(|c| (c.name.clone(), c.after)).collect();
    // Only on what was read: two operators don't undo each other's changes unseen.
    let settings = Some(v1::Settings { version, figures });
    let answer = context.patient_admin().await?.update_settings(v1::UpdateSettingsRequest { settings }).await?;
    Ok(answer.settings.unwrap_or_default().version)
}

/// What of it is really a change; every name has to be known, and stand there once.
fn changes(now: &Settings, wanted: &[(String, u64)]) -> Result<Vec<Change>, Failure> {
    let mut changes: Vec<Change> = Vec::new();
    for (at, (name, after)) in wanted.iter().enumerate() {
        let Some(before) = now.figures.get(name) else {
            let known = now.figures.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Failure::Usage(format!("there is no figure {name}: {known} are there; nothing was changed")));
        };
        if wanted[..at].iter().any(|(other, _)| other == name) {
            return Err(Failure::Usage(format!("{name} stands there twice; nothing was changed")));
        }
        if before != after {
            changes.push(Change { name: name.clone(), before: *before, after: *after });
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_a_change_and_every_name_is_known() {
        let now = Settings::new(3, HashMap::from([("a_ms".into(), 1_000), ("b".into(), 2)]));
        let wanted = |figures: &[(&str, u64)]| -> Vec<(String, u64)> {
            figures.iter().map(|(name, value)| ((*name).to_string(), *value)).collect()
        };
        let found = changes(&now, &wanted(&[("a_ms", 5_000), ("b", 2)])).unwrap();
        assert_eq!(found, [Change { name: "a_ms".into(), before: 1_000, after: 5_000 }]);
        assert_eq!(found[0].text(), "a_ms: 5 s instead of 1 s");
        for wrong in [&[("c", 1)][..], &[("b", 1), ("b", 2)]] {
            assert!(matches!(changes(&now, &wanted(wrong)), Err(Failure::Usage(_))), "{wrong:?}");
        }
    }
}
