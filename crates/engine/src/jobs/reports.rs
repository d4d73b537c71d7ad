//! Jobs that count and judge and change nothing: each loads what it needs of a scope, and the core judges.

use std::sync::{Mutex, PoisonError};

use aionis_core::{
    clock::Timestamp,
    error::DomainError,
    ids::ScopeKey,
    jobs::{
        JobInfo, Over,
        checks::Strictness,
        counts::Activity,
        execution_loop::{LoopThresholds, judge},
        governance::{self, GovernanceReport as Governance, GovernanceThresholds, Subject},
        policy_adaptation::{ADAPTABLE, PolicyThresholds, adapt},
        quality_eval::{QualityThresholds, evaluate},
        rule_promotion::{PROMOTABLE, PromotionThresholds, suggest},
        tenants::{TenantActivity, Tenants},
    },
    ports::store::{RuleSignalQuery, Store},
};
use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Job, Report, Step, Stepped};

/// Scopes that are counted at once.
const SCOPES_AT_ONCE: usize = 50;
/// Scopes that are counted to set tenants side by side; the rest is told as left out.
const SCOPES_MAX: usize = 5_000;
/// What is fresh, in hours.
const FRESH_HOURS: u64 = 30 * 24;

pub(super) const EXECUTION_LOOP: JobInfo = of("execution-loop", "Judge whether rules and recalls get feedback");
pub(super) const GOVERNANCE: JobInfo =
    of("governance-weekly-report", "Report how a scope and its tenant are governed, with files for people");
pub(super) const POLICY_ADAPTATION: JobInfo =
    of("policy-adaptation", "Suggest rules to put into force and to switch off, and judge how bad it is");
pub(super) const QUALITY_EVAL: JobInfo =
    of("quality-eval", "Judge a scope by its vectors, doubles, archive and freshness");
pub(super) const RULE_PROMOTION: JobInfo =
    of("rule-promotion-suggest", "Suggest drafts and shadow rules that have earned their next state");

const fn of(name: &'static str, about: &'static str) -> JobInfo {
    JobInfo { name, about, changes: false, over: Over::Scopes, schedule: None }
}

/// Facts of a report of the core; the verdict is its `ok`. Names that say which scope it is of are said elsewhere.
fn facts(of: &impl Serialize) -> Result<Report, DomainError> {
    let value = serde_json::to_value(of).map_err(|e| DomainError::internal(format!("a report is no JSON: {e}")))?;
    let mut report = Report::default();
    if let Value::Object(facts) = value {
        for (name, fact) in
            facts.into_iter().filter(|(name, _)| !["tenant_id", "scope", "run_id", "window_hours"].contains(&&**name))
        {
            report.set(&name, fact);
        }
    }
    Ok(report)
}

/// Whether a report's verdict is good.
fn is_ok(report: &Report) -> bool {
    report.get("ok").and_then(Value::as_bool) == Some(true)
}

fn hours_before(now: Timestamp, hours: u64) -> Timestamp {
    let micros = i64::try_from(hours).unwrap_or(i64::MAX).saturating_mul(3_600_000_000);
    Timestamp(now.0.saturating_sub(micros))
}

async fn activity(store: &dyn Store, scope: &ScopeKey, since: Timestamp) -> Result<Activity, DomainError> {
    let found = store.activity(std::slice::from_ref(scope), since).await?;
    found.first().map(|one| one.activity).ok_or_else(|| DomainError::internal("a scope was not counted"))
}

/// What happened in every tenant, scope by scope, added up.
async fn tenants(store: &dyn Store, since: Timestamp) -> Result<Tenants, DomainError> {
    let mut all = Tenants::default();
    let scopes = store.scopes(None, None).await?;
    let keys: Vec<ScopeKey> =
        scopes.iter().map(|scope| ScopeKey::from_stored(&scope.scope_key)).collect::<Result<_, _>>()?;
    all.left_out = keys.len().saturating_sub(SCOPES_MAX) as u64;
    let mut by_tenant: std::collections::BTreeMap<String, Activity> = std::collections::BTreeMap::new();
    for page in keys[..keys.len().min(SCOPES_MAX)].chunks(SCOPES_AT_ONCE) {
        for one in store.activity(page, since).await? {
            by_tenant.entry(one.scope.tenant().to_owned()).or_default().add(&one.activity);
        }
    }
    all.tenants = by_tenant.into_iter().map(|(tenant, activity)| TenantActivity { tenant, activity }).collect();
    Ok(all)
}

macro_rules! judging {
    ($job:ty, $info:expr) => {
        fn info(&self) -> &'static JobInfo {
            &$info
        }

        fn holds(&self, report: &Report) -> bool {
            is_ok(report)
        }
    };
}

/// Quality of scopes.
#[derive(Clone, Copy, Debug, Default)]
pub struct QualityEval {
    /// Bounds.
    pub thresholds: QualityThresholds,
    /// How the verdict is taken.
    pub strictness: Strictness,
}

#[async_trait]
impl Job for QualityEval {
    judging!(Self, QUALITY_EVAL);

    fn params(&self) -> Value {
        json!({ "thresholds": self.thresholds, "strictness": self.strictness })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let counts = on.store.quality(on.scope()?, hours_before(on.now, FRESH_HOURS)).await?;
        Ok(Stepped { report: facts(&evaluate(&counts, self.thresholds, self.strictness))?, next: None })
    }
}

/// Rules that have earned their next state.
#[derive(Clone, Copy, Debug)]
pub struct RulePromotionSuggest {
    /// What a rule needs.
    pub thresholds: PromotionThresholds,
    /// Most rules looked at in a scope.
    pub limit: u32,
    /// Whether suggestions are a verdict.
    pub strict: bool,
}

#[async_trait]
impl Job for RulePromotionSuggest {
    judging!(Self, RULE_PROMOTION);

    fn params(&self) -> Value {
        json!({ "thresholds": self.thresholds, "limit": self.limit, "strict": self.strict })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let scope = on.scope()?;
        let query = RuleSignalQuery {
            scope: scope.clone(),
            states: PROMOTABLE,
            since: hours_before(on.now, self.thresholds.window_hours),
            limit: self.limit as usize,
        };
        let page = on.store.rule_signals(&query).await?;
        let report = suggest(scope, &page, self.thresholds, (u64::from(self.limit), self.strict));
        Ok(Stepped { report: facts(&report)?, next: None })
    }
}

/// Rules to put into force and to switch off.
#[derive(Clone, Copy, Debug)]
pub struct PolicyAdaptation {
    /// What a rule needs, and the bounds of the checks.
    pub thresholds: PolicyThresholds,
    /// Most rules looked at in a scope.
    pub limit: u32,
    /// How the verdict is taken.
    pub strictness: Strictness,
}

#[async_trait]
impl Job for PolicyAdaptation {
    judging!(Self, POLICY_ADAPTATION);

    fn params(&self) -> Value {
        json!({ "thresholds": self.thresholds, "limit": self.limit, "strictness": self.strictness })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let scope = on.scope()?;
        let query = RuleSignalQuery {
            scope: scope.clone(),
            states: ADAPTABLE,
            since: hours_before(on.now, self.thresholds.window_hours),
            limit: self.limit as usize,
        };
        let page = on.store.rule_signals(&query).await?;
        let how = (u64::from(self.limit), self.strictness);
        Ok(Stepped { report: facts(&adapt(scope, &page, self.thresholds, how, on.now))?, next: None })
    }
}

/// Whether rules and recalls get feedback.
#[derive(Debug)]
pub struct ExecutionLoop {
    /// Bounds.
    pub thresholds: LoopThresholds,
    /// Whether tenants are set side by side.
    pub cross_tenant: bool,
    /// How the verdict is taken.
    pub strictness: Strictness,
    // Counted once for all scopes of a run.
    tenants: OnceCell<Tenants>,
}

impl ExecutionLoop {
    /// A job for one run.
    pub fn new(thresholds: LoopThresholds, cross_tenant: bool, strictness: Strictness) -> Self {
        Self { thresholds, cross_tenant, strictness, tenants: OnceCell::new() }
    }
}

#[async_trait]
impl Job for ExecutionLoop {
    judging!(Self, EXECUTION_LOOP);

    fn params(&self) -> Value {
        json!({
            "thresholds": self.thresholds, "cross_tenant": self.cross_tenant, "strictness": self.strictness,
        })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let since = hours_before(on.now, self.thresholds.window_hours);
        let activity = activity(on.store, on.scope()?, since).await?;
        let side_by_side = if self.cross_tenant {
            Some(self.tenants.get_or_try_init(|| tenants(on.store, since)).await?)
        } else {
            None
        };
        let report = judge(&activity, side_by_side, self.thresholds, self.strictness);
        Ok(Stepped { report: facts(&report)?, next: None })
    }
}

/// The weekly report. What was made is kept until it is taken, for whoever writes the files.
#[derive(Debug)]
pub struct GovernanceWeeklyReport {
    /// Bounds.
    pub thresholds: GovernanceThresholds,
    /// Length of the window.
    pub window_hours: u64,
    /// The week; none takes the present one.
    pub report_week: Option<String>,
    /// The id; none takes the time.
    pub run_id: Option<String>,
    /// Where it will be kept; none takes `artifacts/governance/weekly/<week>_<run id>`.
    pub out_dir: Option<String>,
    /// How the verdict is taken.
    pub strictness: Strictness,
    made: Mutex<Vec<Governance>>,
}

impl GovernanceWeeklyReport {
    /// A job for one run.
    pub fn new(thresholds: GovernanceThresholds, window_hours: u64, strictness: Strictness) -> Self {
        Self {
            thresholds,
            window_hours,
            report_week: None,
            run_id: None,
            out_dir: None,
            strictness,
            made: Mutex::default(),
        }
    }

    /// What was made, once.
    pub fn take(&self) -> Vec<Governance> {
        std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Job for GovernanceWeeklyReport {
    judging!(Self, GOVERNANCE);

    fn params(&self) -> Value {
        json!({
            "thresholds": self.thresholds, "window_hours": self.window_hours, "report_week": self.report_week,
            "report_run_id": self.run_id, "strictness": self.strictness,
        })
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let (scope, since) = (on.scope()?, hours_before(on.now, self.window_hours));
        let report_week = self.report_week.clone().unwrap_or_else(|| governance::iso_week(on.now));
        let run_id = self.run_id.clone().unwrap_or_else(|| governance::default_run_id(on.now));
        let default_dir = || format!("artifacts/governance/weekly/{report_week}_{run_id}");
        let subject = Subject {
            scope: scope.clone(),
            window_hours: self.window_hours,
            out_dir: self.out_dir.clone().unwrap_or_else(default_dir),
            report_week,
            run_id,
            generated_at: on.now,
        };
        let (activity, tenants) = (activity(on.store, scope, since).await?, tenants(on.store, since).await?);
        let made = governance::report(subject, &activity, &tenants, (self.thresholds, self.strictness));
        let mut report = facts(&made)?;
        report.set("report_run_id", made.run_id.as_str());
        // What would be added up over scopes and is no count.
        report.set("window", json!({ "hours": self.window_hours }));
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
        Ok(Stepped { report, next: None })
    }
}
