//! The weekly report: how a scope and the tenants beside it are governed. Made once here, shown as JSON, as Markdown and as
//! a page.

mod markdown;
mod page;

use serde::Serialize;
use time::OffsetDateTime;

pub use self::{markdown::markdown, page::page};
use super::{
    checks::{Check, CheckState, CheckSummary, Measured, Severity, Strictness, ratio, round4},
    counts::{Activity, RuleCounts},
    execution_loop::{TENANTS_SHOWN_MAX, decision_link},
    tenants::{Drift, DriftThresholds, TenantActivity, Tenants},
};
use crate::{clock::Timestamp, ids::ScopeKey};

/// Bounds of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GovernanceThresholds {
    /// Smallest part of feedback on tools whose decision is stored.
    pub min_decision_link_coverage: f64,
    /// Smallest part of recalls of which it is known who asked.
    pub min_recall_identity_coverage: f64,
    /// Smallest part of private nodes with an owner.
    pub min_private_owner_coverage: f64,
    /// Feedback or recalls a part of them needs to say anything.
    pub min_sample: u64,
    /// Tenants.
    #[serde(flatten)]
    pub tenants: DriftThresholds,
}

impl Default for GovernanceThresholds {
    fn default() -> Self {
        Self {
            min_decision_link_coverage: 0.95,
            min_recall_identity_coverage: 0.8,
            min_private_owner_coverage: 1.0,
            min_sample: 5,
            tenants: DriftThresholds::default(),
        }
    }
}

/// What a report is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The scope.
    pub scope: ScopeKey,
    /// Length of the window.
    pub window_hours: u64,
    /// The ISO week it is the report of, `YYYY-Www`.
    pub report_week: String,
    /// Its id.
    pub run_id: String,
    /// When it was made.
    pub generated_at: Timestamp,
    /// Where it is kept.
    pub out_dir: String,
}

/// Feedback of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FeedbackSnapshot {
    /// In the window.
    pub total: u64,
    /// By outcome.
    pub positive: u64,
    /// By outcome.
    pub negative: u64,
    /// By outcome.
    pub neutral: u64,
    /// Part of it that names its run.
    pub run_id_coverage: Option<f64>,
}

/// Decisions of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DecisionSnapshot {
    /// Feedback on tools.
    pub tools_feedback_total: u64,
    /// Whose decision is stored.
    pub linked_decision_id: u64,
    /// Part of it.
    pub link_coverage: Option<f64>,
}

/// Recalls of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RecallSnapshot {
    /// In the window.
    pub total: u64,
    /// Of which it is known who asked.
    pub with_identity: u64,
    /// Part of them.
    pub identity_coverage: Option<f64>,
}

/// Lanes of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LaneSnapshot {
    /// Private nodes.
    pub private_total: u64,
    /// With an owner.
    pub private_with_owner: u64,
    /// Part of them.
    pub private_owner_coverage: Option<f64>,
    /// Shared nodes.
    pub shared_total: u64,
}

/// The scope.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScopeSnapshot {
    /// Feedback.
    pub feedback: FeedbackSnapshot,
    /// Rules.
    pub rules: RuleCounts,
    /// Decisions.
    pub decision: DecisionSnapshot,
    /// Recalls.
    pub recall: RecallSnapshot,
    /// Lanes.
    pub lane: LaneSnapshot,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantRow {
    /// Tenant.
    pub tenant_id: String,
    /// Rules by state.
    pub active_rules: u64,
    /// Rules by state.
    pub shadow_rules: u64,
    /// Rules by state.
    pub draft_rules: u64,
    /// Rules by state.
    pub disabled_rules: u64,
    /// Feedback in the window.
    pub feedback_total: u64,
    /// By outcome.
    pub feedback_positive: u64,
    /// By outcome.
    pub feedback_negative: u64,
    /// Part of it that is negative.
    pub feedback_negative_ratio: Option<f64>,
    /// Part of it that names its run.
    pub feedback_run_id_coverage: Option<f64>,
    /// Part of feedback on tools whose decision is stored.
    pub decision_link_coverage: Option<f64>,
    /// Recalls in the window.
    pub recall_total: u64,
    /// Part of them of which it is known who asked.
    pub recall_identity_coverage: Option<f64>,
    /// Private nodes.
    pub private_total: u64,
    /// Part of them with an owner.
    pub private_owner_coverage: Option<f64>,
}

/// Tenants side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrossTenant {
    /// How far apart they are.
    #[serde(flatten)]
    pub drift: Drift,
    /// Scopes that were not looked at.
    pub scopes_left_out: u64,
    /// Those with most feedback.
    pub top_tenants: Vec<TenantRow>,
}

/// How it stands as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Light {
    /// An error check fails.
    Red,
    /// A warning fails, or something is inconclusive.
    Yellow,
    /// Every check passes.
    Green,
}

impl Light {
    /// Text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Yellow => "yellow",
            Self::Green => "green",
        }
    }
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GovernanceReport {
    /// The verdict.
    pub ok: bool,
    /// What this is.
    pub kind: &'static str,
    /// How it stands as a whole.
    pub overall: Light,
    /// The ISO week.
    pub report_week: String,
    /// Its id.
    pub run_id: String,
    /// When it was made.
    pub generated_at: String,
    /// Where it is kept.
    pub out_dir: String,
    /// Length of the window.
    pub window_hours: u64,
    /// Tenant.
    pub tenant_id: String,
    /// Scope.
    pub scope: String,
    /// What was asked for.
    pub thresholds: GovernanceThresholds,
    /// The scope.
    pub scope_snapshot: ScopeSnapshot,
    /// Tenants.
    pub cross_tenant: CrossTenant,
    /// The checks.
    pub checks: Vec<Check>,
    /// What they say together.
    pub summary: CheckSummary,
    /// What to do, one per check that does not pass.
    pub recommendations: Vec<&'static str>,
}

/// Makes the report.
pub fn report(
    subject: Subject,
    activity: &Activity,
    tenants: &Tenants,
    (thresholds, strictness): (GovernanceThresholds, Strictness),
) -> GovernanceReport {
    let checks = checks(activity, tenants, &thresholds);
    let summary = CheckSummary::of(&checks);
    let overall = match &summary {
        red if !red.failed_errors.is_empty() => Light::Red,
        green if green.pass => Light::Green,
        _ => Light::Yellow,
    };
    GovernanceReport {
        ok: strictness.holds(&checks),
        kind: "governance_weekly_report",
        overall,
        report_week: subject.report_week,
        run_id: subject.run_id,
        generated_at: subject.generated_at.to_iso(),
        out_dir: subject.out_dir,
        window_hours: subject.window_hours,
        tenant_id: subject.scope.tenant().to_owned(),
        scope: subject.scope.scope().to_owned(),
        scope_snapshot: snapshot(activity),
        cross_tenant: CrossTenant {
            drift: tenants.drift(thresholds.tenants.tenant_drift_min_feedback),
            scopes_left_out: tenants.left_out,
            top_tenants: top(tenants),
        },
        thresholds,
        recommendations: checks.iter().filter(|check| !check.pass).map(recommendation).collect(),
        checks,
        summary,
    }
}

fn checks(activity: &Activity, tenants: &Tenants, t: &GovernanceThresholds) -> Vec<Check> {
    let Activity { feedback, recall, lanes, .. } = activity;
    let mut checks = vec![
        Check::at_least(
            "scope_private_owner_coverage_min",
            Severity::Error,
            Measured::ratio(lanes.private_with_owner, lanes.private, 1),
            t.min_private_owner_coverage,
        ),
        decision_link(
            "scope_decision_link_coverage_min",
            Severity::Warning,
            feedback,
            (t.min_sample, t.min_decision_link_coverage),
        ),
        Check::at_least(
            "scope_recall_identity_coverage_min",
            Severity::Warning,
            Measured::ratio(recall.with_identity, recall.total, t.min_sample),
            t.min_recall_identity_coverage,
        ),
    ];
    checks.extend(tenants.checks(&t.tenants));
    checks
}

fn recommendation(check: &Check) -> &'static str {
    if check.state == CheckState::Inconclusive {
        return match check.name {
            "tenant_active_rule_count_drift_max" | "tenant_negative_ratio_drift_max" => {
                "Too few tenants with enough feedback to compare: nothing is known about drift."
            }
            _ => "Too little happened in the window to tell: nothing is known, which is not the same as well.",
        };
    }
    match check.name {
        "scope_private_owner_coverage_min" => {
            "Some private nodes have no owner, so nobody sees them: list them with `aionis job owner-review` and assign them."
        }
        "scope_decision_link_coverage_min" => {
            "Send decision_id or run_id with feedback on tools, so that it is credited to the decision it is about."
        }
        "scope_recall_identity_coverage_min" => {
            "Let callers say who asks: recalls without an agent or a team see what is shared only."
        }
        "tenant_active_rule_count_drift_max" => {
            "Tenants differ much in their number of active rules: review those with most and those with fewest."
        }
        "tenant_negative_ratio_drift_max" => {
            "Tenants differ much in negative feedback: look at the rules of the worst with `aionis job policy-adaptation`."
        }
        _ => "Look at this check.",
    }
}

fn part(of: u64, whole: u64) -> Option<f64> {
    ratio(of, whole).map(round4)
}

fn snapshot(activity: &Activity) -> ScopeSnapshot {
    let Activity { feedback: f, rules, recall, lanes } = activity;
    ScopeSnapshot {
        feedback: FeedbackSnapshot {
            total: f.total,
            positive: f.positive,
            negative: f.negative,
            neutral: f.neutral,
            run_id_coverage: part(f.with_run_id, f.total),
        },
        rules: *rules,
        decision: DecisionSnapshot {
            tools_feedback_total: f.tools,
            linked_decision_id: f.tools_linked,
            link_coverage: part(f.tools_linked, f.tools),
        },
        recall: RecallSnapshot {
            total: recall.total,
            with_identity: recall.with_identity,
            identity_coverage: part(recall.with_identity, recall.total),
        },
        lane: LaneSnapshot {
            private_total: lanes.private,
            private_with_owner: lanes.private_with_owner,
            private_owner_coverage: part(lanes.private_with_owner, lanes.private),
            shared_total: lanes.shared,
        },
    }
}

fn top(tenants: &Tenants) -> Vec<TenantRow> {
    let mut rows: Vec<TenantRow> = tenants.tenants.iter().map(row).collect();
    rows.sort_by(|a, b| {
        let by_size = (b.feedback_total, b.active_rules).cmp(&(a.feedback_total, a.active_rules));
        by_size.then_with(|| a.tenant_id.cmp(&b.tenant_id))
    });
    rows.truncate(TENANTS_SHOWN_MAX);
    rows
}

fn row(tenant: &TenantActivity) -> TenantRow {
    let Activity { feedback: f, rules, recall, lanes } = &tenant.activity;
    TenantRow {
        tenant_id: tenant.tenant.clone(),
        active_rules: rules.active,
        shadow_rules: rules.shadow,
        draft_rules: rules.draft,
        disabled_rules: rules.disabled,
        feedback_total: f.total,
        feedback_positive: f.positive,
        feedback_negative: f.negative,
        feedback_negative_ratio: part(f.negative, f.total),
        feedback_run_id_coverage: part(f.with_run_id, f.total),
        decision_link_coverage: part(f.tools_linked, f.tools),
        recall_total: recall.total,
        recall_identity_coverage: part(recall.with_identity, recall.total),
        private_total: lanes.private,
        private_owner_coverage: part(lanes.private_with_owner, lanes.private),
    }
}

fn utc(at: Timestamp) -> OffsetDateTime {
    let nanos = i128::from(at.0) * 1_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The ISO week of a time, `YYYY-Www`.
pub fn iso_week(at: Timestamp) -> String {
    let (year, week, _) = utc(at).to_iso_week_date();
    format!("{year:04}-W{week:02}")
}

/// The default id of a report, `YYYYMMDD_HHMMSS` in UTC.
pub fn default_run_id(at: Timestamp) -> String {
    let at = utc(at);
    let (year, month, day) = at.to_calendar_date();
    format!("{year:04}{:02}{day:02}_{:02}{:02}{:02}", u8::from(month), at.hour(), at.minute(), at.second())
}

/// Reads an ISO week.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_week(text: &str) -> Result<String, String> {
    let number = text.split_once("-W").filter(|(year, week)| {
        let digits = |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
        digits(year, 4) && digits(week, 2)
    });
    let week = number.and_then(|(_, week)| week.parse::<u8>().ok()).filter(|week| (1..=53).contains(week));
    week.map(|_| text.to_owned()).ok_or_else(|| "must be an ISO week like 2026-W08".to_owned())
}

/// Reads the id of a report, which becomes part of a path.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_run_id(text: &str) -> Result<String, String> {
    let well_formed = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.bytes().any(|b| b.is_ascii_alphanumeric());
    if well_formed { Ok(text.to_owned()) } else { Err("must be 1 to 64 of A-Z a-z 0-9 . _ -".to_owned()) }
}

/// A part as people read it.
fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "no data".to_owned(), |part| format!("{:.1} %", part * 100.0))
}

/// A number as people read it.
fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "no data".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests;
