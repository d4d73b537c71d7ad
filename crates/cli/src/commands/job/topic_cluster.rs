//! `aionis job topic-cluster`.

use aionis_core::ids::TenantId;
use aionis_engine::jobs::TopicCluster;
use clap::Args;

use super::{HowArgs, SelectionArgs, run_job};
use crate::{
    failure::{Failure, Verdict},
    settings::topics::TopicClusterSettings,
};

/// Flags of `aionis job topic-cluster`.
#[derive(Debug, Args)]
pub(crate) struct TopicClusterArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    topics: TopicClusterSettings,
    #[command(flatten)]
    ids: DerivedIdArgs,
}

/// What ids of derived nodes depend on.
#[derive(Debug, Args)]
pub(crate) struct DerivedIdArgs {
    /// Tenant of requests that name none; its scopes keep their plain names in derived ids.
    #[arg(long, env = "MEMORY_TENANT_ID", default_value = "default")]
    memory_tenant_id: String,
}

impl DerivedIdArgs {
    pub(crate) fn default_tenant(&self) -> Result<TenantId, Failure> {
        Ok(TenantId::parse(&self.memory_tenant_id)?)
    }
}

pub(crate) async fn run(args: TopicClusterArgs) -> Result<Verdict, Failure> {
    let job = TopicCluster::new(args.topics.to_job(args.ids.default_tenant()?.as_str()));
    run_job(&job, &args.selection.selection(), &args.how).await
}
