//! `clusterctl plan apply`, `pause`, `resume` and `cancel`.

use clap::Args;

use super::super::context::Context;
use super::super::exit::Failure;
use super::{How, change};
use crate::client::{AdminClient, Error};
use crate::proto::v1;

#[derive(Debug, Args)]
pub(in crate::ctl) struct Options {
    /// Wait until everything that moves has moved
    #[arg(long)]
    wait: bool,
}

/// What is to become of the change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    Apply,
    Pause,
    Resume,
    Cancel,
}

impl Turn {
    fn sentence(self) -> &'static str {
        match self {
            Self::Apply => "The change that is due begins",
            Self::Pause => "No further move begins, those under way are finished",
            Self::Resume => "The paused change goes on",
            Self::Cancel => "The change is dropped, what is under way is finished, the rest stays where it is",
        }
    }

    async fn ask(self, admin: &AdminClient) -> Result<Option<v1::Plan>, Error> {
        Ok(match self {
            Self::Apply => admin.apply_plan(v1::ApplyPlanRequest {}).await?.plan,
            Self::Pause => admin.pause_plan(v1::PausePlanRequest {}).await?.plan,
            Self::Resume => admin.resume_plan(v1::ResumePlanRequest {}).await?.plan,
            Self::Cancel => admin.cancel_plan(v1::CancelPlanRequest {}).await?.plan,
        })
    }
}

pub(super) async fn run(context: &Context, turn: Turn, options: Options) -> Result<(), Failure> {
    let how = How { dry_run: false, wait: options.wait };
    change(context, how, async |admin: AdminClient, only_ask| {
        // These calls have no dry run of their own: what they act upon is the plan as it is.
        let plan = match only_ask {
            true => admin.get_plan(v1::GetPlanRequest {}).await?.plan,
            false => turn.ask(&admin).await?,
        };
        Ok((turn.sentence().to_string(), plan))
    })
    .await
}
