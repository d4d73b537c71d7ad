//! `aionis partition`: from flat tables to partitioned ones while the program works on (PostgreSQL). Exit 0 done, 2 a
//! comparison or check does not hold, 1 refused or failed.

mod args;
mod print;

use std::time::Duration;

use aionis_core::ids::{ScopeKey, TenantId};
use aionis_store::postgres::partition::{
    BackfillOptions, EnsureOptions, PartitionAdmin, PromoteOptions, ReadinessOptions, ShadowOptions, VerifyOptions,
    WindowOptions,
};
use clap::{Args, Subcommand};
use serde::Serialize;

pub(crate) use self::args::ReadinessArgs;
use self::args::{
    BackfillArgs, CommonArgs, EnsureArgs, PlanArgs, PromoteArgs, RollbackArgs, ShadowArgs, StatusArgs, SwapArgs,
    VerifyArgs, WindowArgs,
};
use crate::{
    failure::{Failure, Verdict},
    gates::partition_readiness,
    output,
};

/// Flags of `aionis partition`.
#[derive(Debug, Args)]
pub(crate) struct PartitionArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Tell sizes, large scopes and how long it takes about; changes nothing.
    Plan(Box<PlanArgs>),
    /// Make the partitioned twins of all tables, empty.
    Ensure(Box<EnsureArgs>),
    /// Begin to mirror every change into the twins, then copy older rows; goes on where it stopped.
    Backfill(Box<BackfillArgs>),
    /// Compare every row of both layouts.
    Verify(Box<VerifyArgs>),
    /// Compare numbers of rows of both layouts, scope by scope.
    Gap(Box<CommonArgs>),
    /// Ask both layouts for what was recalled lately and compare answers, order and latency.
    ShadowRead(Box<ShadowArgs>),
    /// Make the checks of `aionis gate partition-readiness` and allow the cutover for an hour if all pass.
    Readiness(Box<ReadinessArgs>),
    /// Exchange the layouts in one short transaction; the flat tables are kept current.
    Cutover(Box<SwapArgs>),
    /// One step back: after a cutover to the flat tables, before it away with the twins.
    Rollback(Box<RollbackArgs>),
    /// Remove the flat tables; there is no way back from there.
    Finalize(Box<SwapArgs>),
    /// Give a large scope partitions of its own.
    PromoteScope(Box<PromoteArgs>),
    /// Tell how far everything is.
    Status(Box<StatusArgs>),
}

/// Runs one.
pub(crate) async fn run(args: PartitionArgs) -> Result<Verdict, Failure> {
    match args.action {
        Action::Plan(args) => {
            let report = open(&args.common).await?.plan(args.own_from_rows).await?;
            tell(&args.common, &report, || print::plan(&report))?;
        }
        Action::Ensure(args) => {
            let options = EnsureOptions { hash_partitions: args.hash_partitions, own_from_rows: args.own_from_rows };
            let report = open(&args.common).await?.ensure(&options).await?;
            tell(&args.common, &report, || print::ensure(&report))?;
        }
        Action::Backfill(args) => backfill(&args).await?,
        Action::Verify(args) => return verify(&args).await,
        Action::Gap(common) => {
            let report = open(&common).await?.gap().await?;
            tell(&common, &report, || print::gap(&report))?;
            return Ok(Verdict::from(report.ok));
        }
        Action::ShadowRead(args) => {
            let report = open(&args.common).await?.shadow_read(&shadow(&args)).await?;
            tell(&args.common, &report, || print::shadow(&report))?;
            return Ok(Verdict::from(report.ok));
        }
        Action::Readiness(args) => return judge(&args, true).await,
        Action::Cutover(args) => {
            let report = open(&args.common).await?.cutover(&window(&args.window)).await?;
            tell(&args.common, &report, || print::swap(&report))?;
        }
        Action::Rollback(args) => {
            let (mut admin, window) = (open(&args.common).await?, window(&args.window));
            let report = if args.drop_twins { admin.discard(&window).await? } else { admin.rollback(&window).await? };
            tell(&args.common, &report, || print::swap(&report))?;
        }
        Action::Finalize(args) => {
            let report = open(&args.common).await?.finalize(&window(&args.window)).await?;
            tell(&args.common, &report, || print::swap(&report))?;
        }
        Action::PromoteScope(args) => promote(&args).await?,
        Action::Status(args) => {
            let report = open(&args.common).await?.status(args.events).await?;
            tell(&args.common, &report, || print::status(&report))?;
        }
    }
    Ok(Verdict::Positive)
}

async fn open(common: &CommonArgs) -> Result<PartitionAdmin, Failure> {
    Ok(partition_readiness::connect(&common.storage).await??)
}

fn tell(common: &CommonArgs, report: &impl Serialize, for_people: impl FnOnce()) -> Result<(), Failure> {
    if common.json {
        return output::json(report);
    }
    for_people();
    Ok(())
}

fn window(args: &WindowArgs) -> WindowOptions {
    WindowOptions {
        lock_timeout: Duration::from_millis(args.lock_timeout_ms),
        attempts_max: args.attempts,
        ..WindowOptions::default()
    }
}

fn shadow(args: &ShadowArgs) -> ShadowOptions {
    ShadowOptions { queries_max: args.queries, limit: args.limit, min_overlap: args.min_overlap }
}

async fn backfill(args: &BackfillArgs) -> Result<(), Failure> {
    let options = BackfillOptions {
        batch_size: args.batch_size,
        batches_max: args.max_batches,
        pace: Duration::from_millis(args.pace_ms),
        dry_run: args.dry_run,
        window: window(&args.window),
    };
    let report = open(&args.common).await?.backfill(&options).await?;
    tell(&args.common, &report, || print::backfill(&report))
}

async fn verify(args: &VerifyArgs) -> Result<Verdict, Failure> {
    let options = VerifyOptions { buckets: args.buckets, samples_max: args.sample_limit };
    let report = open(&args.common).await?.verify(&options).await?;
    tell(&args.common, &report, || print::verify(&report))?;
    Ok(Verdict::from(report.ok))
}

async fn promote(args: &PromoteArgs) -> Result<(), Failure> {
    let scope = ScopeKey::new(&TenantId::parse(&args.tenant)?, &args.scope)?;
    let options = PromoteOptions { batch_size: args.batch_size, window: window(&args.window) };
    let report = open(&args.common).await?.promote_scope(&scope, &options).await?;
    tell(&args.common, &report, || print::promote(&report))
}

/// Makes the readiness checks; with `note` a positive verdict is noted, so that the cutover may be made.
pub(crate) async fn judge(args: &ReadinessArgs, note: bool) -> Result<Verdict, Failure> {
    let checks = ReadinessOptions {
        verify: VerifyOptions { buckets: args.buckets, samples_max: args.sample_limit },
        shadow: ShadowOptions {
            queries_max: args.read_shadow_queries,
            limit: args.read_shadow_limit,
            min_overlap: args.read_shadow_min_overlap,
        },
        accept_inconclusive: args.accept_inconclusive,
    };
    let options = partition_readiness::RunOptions {
        run_id: args.run_id.clone(),
        out_dir: args.out_dir.clone(),
        checks,
        ..partition_readiness::RunOptions::default()
    };
    let outcome = partition_readiness::run(&args.common.storage, &options, note).await?;
    if args.common.json {
        output::json(&outcome.summary)?;
    } else {
        print::readiness(&outcome);
    }
    Ok(Verdict::from(outcome.ok))
}
