//! `aionis job`: maintenance that is run when it is needed, and what was run.

mod compression_rollup;
pub(crate) mod consistency_check;
mod consolidation;
mod embedding_backfill;
pub(crate) mod execution_loop;
mod governance_weekly_report;
mod history;
mod outbox_replay;
mod owner_review;
pub(crate) mod policy_adaptation;
pub(crate) mod quality_eval;
mod retention;
mod rule_promotion_suggest;
mod salience_decay;
mod scope_purge;
pub(crate) mod strictness;
mod topic_cluster;

use std::{collections::HashMap, sync::Arc, time::Duration};

use aionis_core::{clock::SystemClock, ports::store::RUN_LEASE};
use aionis_engine::jobs::{
    Job as AnyJob, JobReport, Progress, RunOptions, Runner, Selection, TargetReport, TargetStatus,
};
use aionis_store::Deployment;
use clap::{Args, Subcommand};
use tokio::sync::watch;

use super::serve::StopSignal;
use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{StorageSettings, env_file::EnvFileArgs},
    wiring,
};

/// Flags of `aionis job`.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// List the jobs, and when a worker runs them by itself.
    List(history::ListArgs),
    /// List what was run, the newest first.
    Runs(history::RunsArgs),
    /// Check whether what is stored fits together.
    ConsistencyCheck(Box<consistency_check::ConsistencyCheckArgs>),
    /// Merge queued pairs: one node of a group stays, the others become its aliases.
    ConsolidationApply(consolidation::ApplyArgs),
    /// Look for nodes that say the same and queue them in pairs.
    ConsolidationCandidates(consolidation::CandidatesArgs),
    /// Move the edges of aliases to the nodes they stand for.
    ConsolidationRedirectEdges(consolidation::RedirectArgs),
    /// Take merges back: aliases and their edges become what they were.
    ConsolidationUndo(consolidation::UndoArgs),
    /// Put dead letters and failed nodes back into the queue of vectors to derive.
    OutboxReplay(outbox_replay::OutboxReplayArgs),
    /// Queue nodes that have no vector of the present embedding model, whatever their state says.
    EmbeddingBackfill(embedding_backfill::EmbeddingBackfillArgs),
    /// Judge whether rules and recalls get feedback.
    ExecutionLoop(execution_loop::ExecutionLoopArgs),
    /// Report how a scope and its tenant are governed, with files for people.
    GovernanceWeeklyReport(governance_weekly_report::GovernanceWeeklyReportArgs),
    /// List private nodes without owner, and give them one.
    OwnerReview(owner_review::OwnerReviewArgs),
    /// Suggest rules to put into force and to switch off, and judge how bad it is.
    PolicyAdaptation(policy_adaptation::PolicyAdaptationArgs),
    /// Judge a scope by its vectors, doubles, archive and freshness.
    QualityEval(quality_eval::QualityEvalArgs),
    /// Remove old rows that are kept for a while only.
    Retention(retention::RetentionArgs),
    /// Suggest drafts and shadow rules that have earned their next state.
    RulePromotionSuggest(rule_promotion_suggest::RulePromotionSuggestArgs),
    /// Move what is faint and unused to a colder tier.
    SalienceDecay(salience_decay::SalienceDecayArgs),
    /// Remove everything one scope holds, by a plan that was looked at before.
    ScopePurge(scope_purge::ScopePurgeArgs),
    /// Put events that are alike into topics.
    TopicCluster(topic_cluster::TopicClusterArgs),
    /// Sum up topics by what their newest events say.
    CompressionRollup(compression_rollup::CompressionRollupArgs),
}

pub(crate) async fn run(args: JobArgs) -> Result<Verdict, Failure> {
    match args.job {
        Job::List(args) => history::list(&args),
        Job::Runs(args) => history::runs(args).await,
        Job::ConsistencyCheck(args) => consistency_check::run(*args).await,
        Job::ConsolidationApply(args) => consolidation::apply(args).await,
        Job::ConsolidationCandidates(args) => consolidation::candidates(args).await,
        Job::ConsolidationRedirectEdges(args) => consolidation::redirect(args).await,
        Job::ConsolidationUndo(args) => consolidation::undo(args).await,
        Job::OutboxReplay(args) => outbox_replay::run(args).await,
        Job::EmbeddingBackfill(args) => embedding_backfill::run(args).await,
        Job::ExecutionLoop(args) => execution_loop::run(args).await,
        Job::GovernanceWeeklyReport(args) => governance_weekly_report::run(args).await,
        Job::OwnerReview(args) => owner_review::run(args).await,
        Job::PolicyAdaptation(args) => policy_adaptation::run(args).await,
        Job::QualityEval(args) => quality_eval::run(args).await,
        Job::Retention(args) => retention::run(args).await,
        Job::RulePromotionSuggest(args) => rule_promotion_suggest::run(args).await,
        Job::SalienceDecay(args) => salience_decay::run(args).await,
        Job::ScopePurge(args) => scope_purge::run(args).await,
        Job::TopicCluster(args) => topic_cluster::run(args).await,
        Job::CompressionRollup(args) => compression_rollup::run(args).await,
    }
}

/// Which scopes a job works on. One of them has to be said: a job on everything is asked for by name.
#[derive(Clone, Debug, Args)]
#[group(id = "which", required = true, multiple = true)]
pub(crate) struct SelectionArgs {
    /// Only this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only this scope.
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// All tenants and scopes.
    #[arg(long, conflicts_with_all = ["tenant", "scope"])]
    pub(crate) all: bool,
}

impl SelectionArgs {
    pub(crate) fn selection(&self) -> Selection {
        Selection { tenant: self.tenant.clone(), scope: self.scope.clone() }
    }
}

/// How a job is run; the same for all of them.
#[derive(Clone, Debug, Args)]
pub(crate) struct HowArgs {
    /// Only tell what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
    /// Most batches in one scope; the next run goes on there.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_batches: Option<u64>,
    /// Longest time for all of it, in ms; the batch it is in is finished, and the next run goes on there.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) deadline_ms: Option<u64>,
    /// How long a scope stays taken when this process dies, in ms.
    #[arg(long, default_value_t = u64::try_from(RUN_LEASE.as_millis()).unwrap_or(u64::MAX), value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub(crate) lease_ms: u64,
    #[command(flatten)]
    pub(crate) env_file: EnvFileArgs,
    #[command(flatten)]
    pub(crate) storage: StorageSettings,
}

/// Runs a job over what is selected, and says what it did. Exit 0 when all of it was done and holds, 2 when what a job judged
/// does not hold, 1 when something kept it from its end.
pub(crate) async fn run_job(job: &dyn AnyJob, selection: &Selection, how: &HowArgs) -> Result<Verdict, Failure> {
    run_job_then(job, selection, how, |_| Ok(())).await
}

/// As [`run_job`], with something done with the report before it is told.
pub(crate) async fn run_job_then(
    job: &dyn AnyJob,
    selection: &Selection,
    how: &HowArgs,
    then: impl FnOnce(&mut JobReport) -> Result<(), Failure>,
) -> Result<Verdict, Failure> {
    let store = wiring::open_existing(&how.storage).await?;
    let report = run_on(&store, job, selection, how).await;
    store.close().await;
    let mut report = report?;
    then(&mut report)?;
    if how.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    verdict(&report)
}

/// Runs a job on a store that is open; SIGTERM and Ctrl-C stop it after the batch it is in.
async fn run_on(
    store: &Arc<dyn Deployment>,
    job: &dyn AnyJob,
    selection: &Selection,
    how: &HowArgs,
) -> Result<JobReport, Failure> {
    let mut signal = StopSignal::new()?;
    let (stop, stopped) = watch::channel(false);
    let options = RunOptions {
        dry_run: how.dry_run,
        max_batches: how.max_batches,
        deadline: how.deadline_ms.map(Duration::from_millis),
        lease: Duration::from_millis(how.lease_ms),
        stop: Some(stopped),
        ..RunOptions::default()
    };
    let runner = Runner::new(Arc::clone(store) as _, Arc::new(SystemClock));
    let bar = Shown { bar: output::Bar::default(), job: job.info().name };
    let report = {
        let running = runner.run(job, selection, &options, &bar);
        tokio::pin!(running);
        tokio::select! {
            report = &mut running => report,
            () = signal.wait() => {
                stop.send_replace(true);
                running.await
            }
        }
    };
    bar.bar.clear();
    Ok(report?)
}

struct Shown {
    bar: output::Bar,
    job: &'static str,
}

impl Progress for Shown {
    fn begin(&self, targets: u64) {
        self.bar.start(targets, self.job);
    }

    fn step(&self) {
        self.bar.step(1);
    }
}

fn verdict(report: &JobReport) -> Result<Verdict, Failure> {
    let mut kinds: HashMap<TargetStatus, u64> = HashMap::new();
    report.targets.iter().for_each(|target| *kinds.entry(target.status).or_default() += 1);
    let count = |status| kinds.get(&status).copied().unwrap_or(0);
    if let Some(first) = report.with(TargetStatus::Failed).next() {
        let (failed, error) = (count(TargetStatus::Failed), first.error.as_deref().unwrap_or_default());
        return Err(Failure::new(format!("{} failed in {failed} scope(s); in {}: {error}", report.job, place(first))));
    }
    if let Some(first) = report.with(TargetStatus::Busy).next() {
        let error = first.error.as_deref().unwrap_or_default();
        let busy = count(TargetStatus::Busy);
        return Err(Failure::new(format!(
            "{} is under way in {busy} scope(s); in {}: {error}",
            report.job,
            place(first)
        )));
    }
    if let Some(first) = report.with(TargetStatus::Lost).next() {
        return Err(Failure::new(format!("another process took {} over in {}", report.job, place(first))));
    }
    Ok(Verdict::from(count(TargetStatus::Negative) == 0))
}

fn place(target: &TargetReport) -> String {
    match (&target.tenant_id, &target.scope) {
        (Some(tenant), Some(scope)) => format!("{tenant}/{scope}"),
        _ => "the deployment".to_owned(),
    }
}

fn print(report: &JobReport) {
    let would = if report.dry_run { "would be: " } else { "" };
    for target in &report.targets {
        let facts: Vec<String> = target.report.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let status = match target.status {
            TargetStatus::Done => String::new(),
            other => format!("{}: ", other.as_str()),
        };
        output::line(format!("{}: {status}{would}{}", place(target), facts.join(", ")));
    }
    if report.targets.len() != 1 {
        let facts: Vec<String> = report.total.iter().map(|(name, value)| format!("{name} {value}")).collect();
        output::line(format!("{} scope(s): {would}{}", report.targets.len(), facts.join(", ")));
    }
}
