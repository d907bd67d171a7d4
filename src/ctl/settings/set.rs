//! `clusterctl settings set`.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::super::ask::permission;
use super::super::context::Context;
use super::super::exit::Failure;
use super::get::settings;
use super::{SetOptions, Settings, read};
use crate::proto::v1;

/// How long until the nodes are asked again.
const AGAIN: Duration = Duration::from_millis(100);

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
    let changes = changes_of(&now, &options.figures)?;
    let changed = if changes.is_empty() {
        Changed { version: now.version, changes }
    } else {
        let what = changes.iter().map(Change::text).collect::<Vec<_>>().join("; ");
        let permitted = permission(context, &format!("In every shard: {what}")).await?;
        change(&permitted, now, changes, &options.figures).await?
    };
    context.answer(&changed, || match changed.changes.as_slice() {
        [] => format!("nothing changes; version {}", changed.version),
        some => {
            format!("{}\nversion {}", some.iter().map(Change::text).collect::<Vec<_>>().join("\n"), changed.version)
        }
    })
}

/// Changes what was read, and nothing newer: two operators don't undo each other's changes unseen. Where what was read had
/// come from a node that was behind, it is read anew, and done if it is still what was agreed to.
async fn change(
    context: &Context,
    mut now: Settings,
    mut changes: Vec<Change>,
    wanted: &[(String, u64)],
) -> Result<Changed, Failure> {
    loop {
        if changes.is_empty() {
            return Ok(Changed { version: now.version, changes });
        }
        let figures: HashMap<String, u64> = changes.iter().map(|c| (c.name.clone(), c.after)).collect();
        let request = v1::UpdateSettingsRequest { settings: Some(v1::Settings { version: now.version, figures }) };
        let refused = match context.patient_admin().await?.update_settings(request).await {
            Ok(answer) => {
                let version = answer.settings.unwrap_or_default().version;
                return Ok(Changed { version, changes });
            }
            Err(error) if error.reason() == Some(v1::ErrorReason::Conflict) => error,
            Err(error) => return Err(error.into()),
        };
        let Some(newer) = newer(context, now.version).await? else { return Err(refused.into()) };
        let anew = changes_of(&newer, wanted)?;
        if anew != changes && !context.yes {
            return Err(refused.into());
        }
        (now, changes) = (newer, anew);
    }
}

/// The settings as soon as a node tells of a version above `version`; `None` if none does in time.
async fn newer(context: &Context, version: u64) -> Result<Option<Settings>, Failure> {
    loop {
        let told = settings(context, &context.admin()?).await?;
        if told.version > version {
            return Ok(Some(told));
        }
        if context.left() < AGAIN * 2 {
            return Ok(None);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What of it is really a change; every name has to be known, and stand there once.
fn changes_of(now: &Settings, wanted: &[(String, u64)]) -> Result<Vec<Change>, Failure> {
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
        let found = changes_of(&now, &wanted(&[("a_ms", 5_000), ("b", 2)])).unwrap();
        assert_eq!(found, [Change { name: "a_ms".into(), before: 1_000, after: 5_000 }]);
        assert_eq!(found[0].text(), "a_ms: 5 s instead of 1 s");
        for wrong in [&[("c", 1)][..], &[("b", 1), ("b", 2)]] {
            assert!(matches!(changes_of(&now, &wanted(wrong)), Err(Failure::Usage(_))), "{wrong:?}");
        }
    }
}
