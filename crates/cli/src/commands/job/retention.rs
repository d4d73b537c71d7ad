//! `aionis job retention`.

use aionis_engine::jobs::{Retention, Selection};
use clap::Args;

use super::{HowArgs, run_job};
use crate::{
    failure::{Failure, Verdict},
    settings::retention::RetentionSettings,
};

/// Flags of `aionis job retention`.
#[derive(Debug, Args)]
pub(crate) struct RetentionArgs {
    #[command(flatten)]
    retention: RetentionSettings,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn run(args: RetentionArgs) -> Result<Verdict, Failure> {
    run_job(&Retention { days: args.retention.days() }, &Selection::default(), &args.how).await
}
