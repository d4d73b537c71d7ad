//! `aionis job owner-review`.

use aionis_core::{
    ids::NodeId,
    jobs::owner_review::{Assignment, Chosen, Owner},
};
use aionis_engine::jobs::OwnerReview;
use clap::Args;
use uuid::Uuid;

use super::{HowArgs, SelectionArgs, run_job};
use crate::failure::{Failure, Verdict};

/// Flags of `aionis job owner-review`.
#[derive(Debug, Args)]
pub(crate) struct OwnerReviewArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Agent that becomes the owner.
    #[arg(long, value_parser = name, group = "assign")]
    assign_agent: Option<String>,
    /// Team that becomes the owner.
    #[arg(long, value_parser = name, group = "assign")]
    assign_team: Option<String>,
    /// Ids of the nodes that get the owner, with commas between.
    #[arg(long, value_delimiter = ',', requires_all = ["assign", "scope"], group = "chosen")]
    ids: Vec<Uuid>,
    /// All listed nodes get the owner.
    #[arg(long, requires = "assign", group = "chosen")]
    all_listed: bool,
    /// Do it; without this it is only told.
    #[arg(long, requires = "chosen", conflicts_with = "dry_run")]
    apply: bool,
    #[command(flatten)]
    how: HowArgs,
}

fn name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let well_formed = !name.is_empty() && name.len() <= 200 && !name.chars().any(char::is_control);
    if well_formed { Ok(name.to_owned()) } else { Err("must be a name of 1 to 200 bytes".to_owned()) }
}

impl OwnerReviewArgs {
    fn assignment(&self) -> Result<Option<Assignment>, Failure> {
        let owner = match (&self.assign_agent, &self.assign_team) {
            (Some(agent), _) => Owner::Agent(agent.clone()),
            (None, Some(team)) => Owner::Team(team.clone()),
            (None, None) => return Ok(None),
        };
        let chosen = match (self.all_listed, &self.ids[..]) {
            (true, _) => Chosen::AllListed,
            (false, []) => {
                return Err(Failure::new(
                    "--assign-agent or --assign-team needs --ids or --all-listed; say which nodes",
                ));
            }
            (false, ids) => Chosen::Ids(ids.iter().copied().map(NodeId).collect()),
        };
        Ok(Some(Assignment { owner, chosen }))
    }
}

pub(crate) async fn run(args: OwnerReviewArgs) -> Result<Verdict, Failure> {
    let job = OwnerReview { assignment: args.assignment()? };
    let how = HowArgs { dry_run: !args.apply, ..args.how.clone() };
    run_job(&job, &args.selection.selection(), &how).await
}
