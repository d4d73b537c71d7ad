//! `aionis job scope-purge`.

use aionis_core::{
    canon::Digest,
    ids::{ScopeKey, TenantId},
    jobs::scope_purge::PurgeMode,
};
use aionis_engine::jobs::{ScopePurge, Selection};
use clap::Args;

use super::{HowArgs, run_job};
use crate::failure::{Failure, Verdict};

/// Longest name of who purges, in bytes.
const BY_MAX: usize = 128;

/// Flags of `aionis job scope-purge`.
#[derive(Debug, Args)]
pub(crate) struct ScopePurgeArgs {
    /// The tenant; exactly this one.
    #[arg(long)]
    tenant: String,
    /// The scope; exactly this one.
    #[arg(long)]
    scope: String,
    /// Remove everything, by the plan of --plan. Without it the plan is told and nothing is changed.
    #[arg(long, requires = "plan", conflicts_with = "dry_run")]
    apply: bool,
    /// Hash of the plan, as the command without --apply tells it.
    #[arg(long, value_name = "HASH", value_parser = plan_hash, requires = "apply")]
    plan: Option<Digest>,
    /// How rows may be removed: `auto` truncates partitions that hold this scope alone and deletes what is in none,
    /// `partition` refuses what is in none, `delete` deletes.
    #[arg(long, default_value = "auto", value_parser = mode)]
    mode: PurgeMode,
    /// Refuse, before anything is touched, if rows would have to be deleted one by one.
    #[arg(long)]
    fail_on_delete: bool,
    /// Rows removed in one transaction, at most.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    batch_size: u32,
    /// Who purges, for the record.
    #[arg(long, default_value_t = user(), value_parser = name)]
    by: String,
    #[command(flatten)]
    how: HowArgs,
}

fn plan_hash(text: &str) -> Result<Digest, String> {
    Digest::from_hex(text).map_err(|_| "must be the 64 hexadecimal digits the plan was told with".to_owned())
}

fn mode(text: &str) -> Result<PurgeMode, String> {
    PurgeMode::parse(text).ok_or_else(|| format!("must be {}", PurgeMode::choices()))
}

/// Who works here, as the system says.
fn user() -> String {
    std::env::var("USER").ok().filter(|user| name(user).is_ok()).unwrap_or_else(|| "operator".to_owned())
}

fn name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() || name.len() > BY_MAX || name.chars().any(char::is_control) {
        return Err(format!("must be a name of 1 to {BY_MAX} bytes without control characters"));
    }
    Ok(name.to_owned())
}

pub(crate) async fn run(mut args: ScopePurgeArgs) -> Result<Verdict, Failure> {
    let scope = ScopeKey::new(&TenantId::parse(&args.tenant)?, &args.scope)?;
    args.how.dry_run = !args.apply;
    let job = ScopePurge {
        scope,
        plan: args.plan,
        mode: args.mode,
        fail_on_delete: args.fail_on_delete,
        batch_size: usize::try_from(args.batch_size).unwrap_or(usize::MAX),
        by: args.by,
    };
    run_job(&job, &Selection::default(), &args.how).await
}
