//! `aionis job salience-decay`.

use aionis_engine::jobs::SalienceDecay;
use clap::Args;

use super::{HowArgs, SelectionArgs, run_job};
use crate::{
    failure::{Failure, Verdict},
    settings::DecaySettings,
};

/// Flags of `aionis job salience-decay`.
#[derive(Debug, Args)]
pub(crate) struct SalienceDecayArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    decay: DecaySettings,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn run(args: SalienceDecayArgs) -> Result<Verdict, Failure> {
    Failure::unless_empty(args.decay.problem().into_iter().collect())?;
    run_job(&SalienceDecay::new(args.decay.policy()), &args.selection.selection(), &args.how).await
}
