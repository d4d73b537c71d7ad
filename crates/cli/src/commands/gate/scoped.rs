//! The gates of scopes: `health`, `consistency`, `policy-adaptation`, `execution-loop`.

use aionis_core::{
    gates::{GateMode, Judgement},
    ids::{ScopeKey, TenantId},
    jobs::consistency::{Asked, CheckSet, Mode},
};
use clap::{Args, Parser};
use serde_json::{Map, Value, json};

use super::RunArgs;
use crate::{
    commands::job::{
        consistency_check::{LimitArgs, check_set},
        execution_loop, policy_adaptation,
        quality_eval::QualityArgs,
    },
    failure::{Failure, Verdict},
    gates::{
        artifacts::Artifacts,
        scoped::{ScopedAsk, look},
        surroundings,
    },
    output,
    settings::boolean,
    wiring,
};

/// One scope, as the server's settings name it unless others are given.
#[derive(Clone, Debug, Args)]
pub(super) struct PlaceArgs {
    /// Tenant of the scope.
    #[arg(long, visible_alias = "tenant", env = "MEMORY_TENANT_ID", default_value = "default")]
    pub(super) tenant_id: String,
    /// The scope.
    #[arg(long, env = "MEMORY_SCOPE", default_value = "default")]
    pub(super) scope: String,
}

impl PlaceArgs {
    /// The place, if both names can be one.
    pub(super) fn place(&self) -> Result<(String, String), Failure> {
        let key = ScopeKey::new(&TenantId::parse(&self.tenant_id)?, &self.scope)?;
        Ok((key.tenant().to_owned(), key.scope().to_owned()))
    }
}

/// How strictly a gate of scopes judges.
#[derive(Clone, Copy, Debug, Args)]
struct StrictArgs {
    /// Warnings fail the gate too, and so does what is inconclusive.
    #[arg(long)]
    strict_warnings: bool,
    /// A release is decided: what is inconclusive fails the gate.
    #[arg(long)]
    release: bool,
}

impl StrictArgs {
    const fn mode(self) -> GateMode {
        GateMode { strict_warnings: self.strict_warnings, release: self.release }
    }
}

/// What belongs to the health of a scope; the release gate has it too.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Health gate")]
pub(super) struct HealthParts {
    /// Most samples per consistency check.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    consistency_sample: u16,
    /// A flag of quality-eval, such as --quality-arg=--min-ready-ratio=0.5; may be repeated.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    quality_arg: Vec<String>,
    /// Judge the execution loop too.
    #[arg(long, env = "HEALTH_GATE_RUN_EXECUTION_LOOP_GATE", default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, value_parser = boolean)]
    run_execution_loop_gate: bool,
    /// A flag of execution-loop; may be repeated.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    execution_loop_arg: Vec<String>,
    /// Judge the policy too.
    #[arg(long, env = "HEALTH_GATE_RUN_POLICY_ADAPTATION_GATE", default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, value_parser = boolean)]
    run_policy_adaptation_gate: bool,
    /// A flag of policy-adaptation; may be repeated.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    policy_adaptation_arg: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl HealthParts {
    /// The consistency check, of a set.
    pub(super) fn asked(&self, check_set: CheckSet, mode: GateMode) -> Asked {
        asked(check_set, mode, self.consistency_sample, &self.limits)
    }

    /// All of it, for a scope.
    pub(super) fn ask(
        &self,
        place: (String, String),
        check_set: CheckSet,
        mode: GateMode,
    ) -> Result<ScopedAsk, Failure> {
        let execution_loop = parsed::<execution_loop::LoopArgs>("--execution-loop-arg", &self.execution_loop_arg)?;
        let policy = parsed::<policy_adaptation::PolicyArgs>("--policy-adaptation-arg", &self.policy_adaptation_arg)?;
        Ok(ScopedAsk {
            place: Some(place),
            mode,
            consistency: Some(self.asked(check_set, mode)),
            quality: Some(parsed::<QualityArgs>("--quality-arg", &self.quality_arg)?),
            execution_loop: self.run_execution_loop_gate.then_some(execution_loop),
            policy_adaptation: self.run_policy_adaptation_gate.then_some(policy),
        })
    }
}

fn asked(check_set: CheckSet, mode: GateMode, sample: u16, limits: &LimitArgs) -> Asked {
    Asked {
        check_set,
        mode: Mode::Full,
        batch: None,
        sample: usize::from(sample),
        strict: mode.fails_inconclusive(),
        strict_warnings: mode.strict_warnings,
        thresholds: limits.thresholds(),
    }
}

/// Flags of a report, given to a gate one by one.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct Only<T: Args> {
    #[command(flatten)]
    flags: T,
}

fn parsed<T: Args>(of: &str, flags: &[String]) -> Result<T, Failure> {
    Only::<T>::try_parse_from(flags).map(|only| only.flags).map_err(|e| {
        let text = e.to_string();
        let first = text.lines().next().unwrap_or_default();
        Failure::new(format!("{of}: {}", first.trim_start_matches("error: ")))
    })
}

/// Flags of `aionis gate health`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Health gate")]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Which consistency checks: scope, cross-tenant or all.
    #[arg(long, env = "HEALTH_GATE_CONSISTENCY_CHECK_SET", default_value = "all", value_parser = check_set)]
    consistency_check_set: CheckSet,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    parts: HealthParts,
    #[command(flatten)]
    run: RunArgs,
}

/// One scope, or all.
#[derive(Clone, Debug, Args)]
struct OneOrAll {
    #[command(flatten)]
    place: PlaceArgs,
    /// All tenants and scopes, in the place of one scope.
    #[arg(long)]
    all: bool,
}

impl OneOrAll {
    fn place(&self) -> Result<Option<(String, String)>, Failure> {
        if self.all { Ok(None) } else { self.place.place().map(Some) }
    }
}

/// Flags of `aionis gate consistency`.
#[derive(Debug, Args)]
pub(crate) struct ConsistencyArgs {
    #[command(flatten)]
    of: OneOrAll,
    /// Which checks: scope, cross-tenant or all.
    #[arg(long, default_value = "all", value_parser = check_set)]
    check_set: CheckSet,
    /// Most samples per check.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    sample: u16,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Flags of `aionis gate policy-adaptation`.
#[derive(Debug, Args)]
pub(crate) struct PolicyGateArgs {
    #[command(flatten)]
    of: OneOrAll,
    #[command(flatten)]
    bounds: policy_adaptation::PolicyArgs,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Flags of `aionis gate execution-loop`.
#[derive(Debug, Args)]
pub(crate) struct LoopGateArgs {
    #[command(flatten)]
    of: OneOrAll,
    #[command(flatten)]
    bounds: execution_loop::LoopArgs,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// A gate that looks at nothing yet.
const fn nothing(place: Option<(String, String)>, mode: GateMode) -> ScopedAsk {
    ScopedAsk { place, mode, consistency: None, quality: None, execution_loop: None, policy_adaptation: None }
}

pub(super) async fn health(args: HealthArgs) -> Result<Verdict, Failure> {
    let ask = args.parts.ask(args.place.place()?, args.consistency_check_set, args.strict.mode())?;
    judged("health_gate", &ask, &args.run).await
}

pub(super) async fn consistency(args: ConsistencyArgs) -> Result<Verdict, Failure> {
    let mode = args.strict.mode();
    let mut ask = nothing(args.of.place()?, mode);
    ask.consistency = Some(asked(args.check_set, mode, args.sample, &args.limits));
    judged("consistency_gate", &ask, &args.run).await
}

pub(super) async fn policy(args: PolicyGateArgs) -> Result<Verdict, Failure> {
    let mut ask = nothing(args.of.place()?, args.strict.mode());
    ask.policy_adaptation = Some(args.bounds);
    judged("policy_adaptation_gate", &ask, &args.run).await
}

pub(super) async fn execution_loop(args: LoopGateArgs) -> Result<Verdict, Failure> {
    let mut ask = nothing(args.of.place()?, args.strict.mode());
    ask.execution_loop = Some(args.bounds);
    judged("execution_loop_gate", &ask, &args.run).await
}

/// Opens the store, looks, writes the summary.
async fn judged(kind: &'static str, ask: &ScopedAsk, run: &RunArgs) -> Result<Verdict, Failure> {
    let (store, schema) = wiring::open_to_judge(&run.storage).await?;
    let artifacts = Artifacts::new(kind, run.run_id.as_deref(), run.out_dir.as_deref());
    let found = match &artifacts {
        Ok(_) => look(&store, ask).await,
        Err(failure) => Err(failure.clone()),
    };
    let versions = surroundings::versions(&*store, &schema).await;
    store.close().await;
    let (artifacts, found) = (artifacts?, found?);
    let mut document = Map::new();
    document.insert("kind".to_owned(), json!(kind));
    document.insert("run_id".to_owned(), json!(artifacts.run_id));
    document.insert("timestamp_utc".to_owned(), json!(artifacts.started.to_iso()));
    document.extend(found.document);
    document.insert("versions".to_owned(), versions?);
    document.insert("machine".to_owned(), surroundings::machine());
    document.insert("artifacts".to_owned(), artifacts.named());
    artifacts.summary(&document)?;
    if run.json {
        output::json(&Value::Object(document))?;
    } else {
        tell(kind, &found.judgement, &artifacts);
    }
    Ok(Verdict::from(found.judgement.ok))
}

/// The verdict for people.
pub(super) fn tell(kind: &str, judgement: &Judgement, artifacts: &Artifacts) {
    output::line(format!("{kind}: {}", judgement.verdict));
    for reason in &judgement.fail_reasons {
        output::line(format!("  {reason}"));
    }
    output::line(format!("summary: {}", artifacts.summary_path().display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_reports_are_typed_and_unknown_ones_refused() {
        let owned = |flags: &[&str]| flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>();
        let quality = |flags: &[&str]| parsed::<QualityArgs>("--quality-arg", &owned(flags));
        let thresholds = quality(&["--min-ready-ratio=0.5", "--min-sample", "7"]).unwrap().thresholds();
        assert_eq!((thresholds.min_ready_ratio, thresholds.min_sample), (0.5, 7));
        for wrong in [&["--min-ready-ratio=abc"][..], &["--min-ready"], &["--strict"], &["x"], &["--min-sample"]] {
            let refused = quality(wrong).unwrap_err().to_string();
            assert!(refused.starts_with("--quality-arg: "), "{refused}");
        }
    }
}
