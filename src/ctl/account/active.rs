//! `clusterctl account active`.

use serde::Serialize;

use super::super::context::{Context, Screen};
use super::super::exit::Failure;
use super::super::output::{table, text};
use super::super::text::short;
use super::super::watch;
use super::views::{ActiveView, table_of};
use super::{ActiveOptions, Source};
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Active {
    account_id: String,
    views: Vec<ActiveView>,
    read: Source,
}

pub(super) async fn run(context: &Context, options: ActiveOptions) -> Result<(), Failure> {
    watch::run(context, &options.repeat, async |context: &Context| look(context, &options).await).await
}

async fn look(context: &Context, options: &ActiveOptions) -> Result<Screen, Failure> {
    let account_id = options.account.to_string();
    let request =
        v1::ListActiveViewsRequest { account_id: account_id.clone(), read_options: options.reading.options()? };
    let answer = context.read(context.asking()?.list_active_views(request)).await?;
    let views = answer.views.into_iter().map(ActiveView::from).collect();
    let active = Active { account_id, views, read: Source::from(answer.read_info) };
    let verdict = active.read.verdict();
    context.screen(&active, || active.text(context), verdict)
}

impl Active {
    fn text(&self, context: &Context) -> String {
        let now = context.clock.wall();
        let mut out = format!("account {}\n\n{}\n", short(&self.account_id, 70), table_of(&self.views, now));
        if !self.views.is_empty() {
            // To be named whole in `view end`.
            let mut names = table(["ON", "VIEW"]);
            for view in &self.views {
                names.add_row([short(&view.device_id, 20), view.view_id.clone()]);
            }
            out.push_str(&format!("\n{}\n", text(&mut names)));
        }
        format!("{out}\n{}", self.read.text(now))
    }
}
