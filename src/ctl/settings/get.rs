//! `clusterctl settings get`.

use super::super::context::Context;
use super::super::exit::Failure;
use super::super::output::{right, table, text};
use super::{Settings, read};
use crate::client::AdminClient;
use crate::proto::v1;

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let settings = settings(context, &context.admin()?).await?;
    context.answer(&settings, || {
        let mut rows = table(["FIGURE", "VALUE", "THAT IS"]);
        right(&mut rows, &[1]);
        for (name, value) in &settings.figures {
            rows.add_row([name.clone(), value.to_string(), read(name, *value)]);
        }
        format!("{}\n\nversion {}; change them with `clusterctl settings set`", text(&mut rows), settings.version)
    })
}

/// The settings as they are.
pub(super) async fn settings(context: &Context, admin: &AdminClient) -> Result<Settings, Failure> {
    let answer = context.read(admin.get_settings(v1::GetSettingsRequest {})).await?;
    let settings = answer.settings.unwrap_or_default();
    Ok(Settings::new(settings.version, settings.figures))
}
