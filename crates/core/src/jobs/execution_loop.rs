//! Whether what rules and recalls do comes back as feedback, in a scope and over tenants.

use serde::Serialize;

use super::{
    checks::{Check, CheckSummary, Measured, Severity, Strictness, ratio, round4},
    counts::{Activity, FeedbackCounts, LaneCounts, RecallCounts},
    tenants::{Drift, DriftThresholds, Tenants},
};

/// Tenants a report shows at most.
pub const TENANTS_SHOWN_MAX: usize = 20;

/// Bounds of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LoopThresholds {
    /// Length of the window.
    pub window_hours: u64,
    /// Feedback in the window.
    pub min_feedback_events: u64,
    /// Different runs that gave feedback.
    pub min_distinct_runs: u64,
    /// Smallest part of feedback that names its run.
    pub min_run_id_coverage: f64,
    /// Largest part of negative feedback.
    pub max_negative_ratio: f64,
    /// Smallest part of active rules with feedback.
    pub min_active_feedback_coverage: f64,
    /// Most active rules without feedback.
    pub max_stale_active_rules: u64,
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

impl Default for LoopThresholds {
    fn default() -> Self {
        Self {
            window_hours: 24,
            min_feedback_events: 10,
            min_distinct_runs: 3,
            min_run_id_coverage: 0.8,
            max_negative_ratio: 0.35,
            min_active_feedback_coverage: 0.6,
            max_stale_active_rules: 5,
            min_decision_link_coverage: 0.95,
            min_recall_identity_coverage: 0.8,
            min_private_owner_coverage: 1.0,
            min_sample: 5,
            tenants: DriftThresholds::default(),
        }
    }
}

/// Rules by state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LoopRules {
    /// By state.
    pub draft: u64,
    /// By state.
    pub shadow: u64,
    /// By state.
    pub active: u64,
    /// By state.
    pub disabled: u64,
    /// Active rules with feedback in the window.
    pub active_with_recent_feedback: u64,
    /// Active rules without.
    pub stale_active: u64,
    /// Part of active rules with feedback.
    pub active_feedback_coverage: Option<f64>,
}

/// Feedback on tools and the decisions it names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LoopDecisions {
    /// Feedback on tools.
    pub tools_feedback_total: u64,
    /// That names a decision.
    pub with_decision_id: u64,
    /// Whose decision is stored.
    pub linked_decision_id: u64,
    /// Part of it.
    pub link_coverage: Option<f64>,
}

/// A tenant in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantLine {
    /// Tenant.
    pub tenant_id: String,
    /// Active rules.
    pub active_rules: u64,
    /// Feedback in the window.
    pub feedback_total: u64,
    /// Part of it that is negative.
    pub negative_ratio: Option<f64>,
}

/// Tenants side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoopTenants {
    /// How far apart they are.
    #[serde(flatten)]
    pub drift: Drift,
    /// Scopes that were not looked at.
    pub scopes_left_out: u64,
    /// Those with most feedback.
    pub sample: Vec<TenantLine>,
}

/// What the scope is governed by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoopGovernance {
    /// Recalls in the window.
    pub recall_audit: RecallCounts,
    /// Lanes.
    pub lane_boundary: LaneCounts,
    /// Tenants; nothing when they were not asked for.
    pub tenant_policy_drift: Option<LoopTenants>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoopMetrics {
    /// Feedback in the window.
    pub feedback: FeedbackCounts,
    /// Rules.
    pub rules: LoopRules,
    /// Decisions.
    pub decision: LoopDecisions,
    /// Governance.
    pub governance: LoopGovernance,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoopReport {
    /// The verdict.
    pub ok: bool,
    /// What this is.
    pub kind: &'static str,
    /// What was asked for.
    pub thresholds: LoopThresholds,
    /// What was measured.
    pub metrics: LoopMetrics,
    /// The checks.
    pub checks: Vec<Check>,
    /// What they say together.
    pub summary: CheckSummary,
}

/// Judges a scope; tenants only if they are given.
pub fn judge(
    activity: &Activity,
    tenants: Option<&Tenants>,
    thresholds: LoopThresholds,
    strictness: Strictness,
) -> LoopReport {
    let mut checks = checks(activity, &thresholds);
    if let Some(tenants) = tenants {
        checks.extend(tenants.checks(&thresholds.tenants));
    }
    LoopReport {
        ok: strictness.holds(&checks),
        kind: "execution_loop_gate",
        thresholds,
        metrics: metrics(activity, tenants, thresholds.tenants.tenant_drift_min_feedback),
        summary: CheckSummary::of(&checks),
        checks,
    }
}

/// What is sampled (feedback, recalls) needs a sample; what is there as a whole (rules, nodes) needs one member. Of a
/// minimum of events it is a failure to have too few, and inconclusive to have none: nobody has begun.
fn checks(activity: &Activity, t: &LoopThresholds) -> Vec<Check> {
    use Severity::{Error, Warning};
    let Activity { feedback: f, rules: r, recall, lanes } = activity;
    let sampled = |part, whole| Measured::ratio(part, whole, t.min_sample);
    #[expect(clippy::cast_precision_loss, reason = "counts of rows")]
    let (events, runs, stale) =
        (f.total as f64, f.distinct_runs as f64, r.active.saturating_sub(r.active_with_feedback) as f64);
    #[expect(clippy::cast_precision_loss, reason = "bounds a person chose")]
    let (min_events, min_runs, max_stale) =
        (t.min_feedback_events as f64, t.min_distinct_runs as f64, t.max_stale_active_rules as f64);
    let number = Measured::number;
    vec![
        Check::at_least("feedback_events_min", Warning, number(events, f.total, 1), min_events),
        Check::at_least("feedback_distinct_runs_min", Warning, number(runs, f.total, 1), min_runs),
        Check::at_least(
            "feedback_run_id_coverage_min",
            Warning,
            sampled(f.with_run_id, f.total),
            t.min_run_id_coverage,
        ),
        Check::at_most("feedback_negative_ratio_max", Error, sampled(f.negative, f.total), t.max_negative_ratio),
        Check::at_least(
            "active_rule_feedback_coverage_min",
            Warning,
            Measured::ratio(r.active_with_feedback, r.active, 1),
            t.min_active_feedback_coverage,
        ),
        Check::at_most("stale_active_rules_max", Warning, number(stale, r.active, 1), max_stale),
        decision_link("decision_link_coverage_min", Warning, f, (t.min_sample, t.min_decision_link_coverage)),
        Check::at_least(
            "recall_identity_coverage_min",
            Warning,
            sampled(recall.with_identity, recall.total),
            t.min_recall_identity_coverage,
        ),
        Check::at_least(
            "private_owner_coverage_min",
            Error,
            Measured::ratio(lanes.private_with_owner, lanes.private, 1),
            t.min_private_owner_coverage,
        ),
    ]
}

/// Feedback on tools whose decision is stored: an id that leads nowhere links nothing.
pub(super) fn decision_link(
    name: &'static str,
    severity: Severity,
    f: &FeedbackCounts,
    (min_sample, min): (u64, f64),
) -> Check {
    Check::at_least(name, severity, Measured::ratio(f.tools_linked, f.tools, min_sample), min)
}

fn metrics(activity: &Activity, tenants: Option<&Tenants>, min_feedback: u64) -> LoopMetrics {
    let Activity { feedback, rules: r, recall, lanes } = *activity;
    LoopMetrics {
        feedback,
        rules: LoopRules {
            draft: r.draft,
            shadow: r.shadow,
            active: r.active,
            disabled: r.disabled,
            active_with_recent_feedback: r.active_with_feedback,
            stale_active: r.active.saturating_sub(r.active_with_feedback),
            active_feedback_coverage: ratio(r.active_with_feedback, r.active).map(round4),
        },
        decision: LoopDecisions {
            tools_feedback_total: feedback.tools,
            with_decision_id: feedback.tools_with_decision,
            linked_decision_id: feedback.tools_linked,
            link_coverage: ratio(feedback.tools_linked, feedback.tools).map(round4),
        },
        governance: LoopGovernance {
            recall_audit: recall,
            lane_boundary: lanes,
            tenant_policy_drift: tenants.map(|tenants| LoopTenants {
                drift: tenants.drift(min_feedback),
                scopes_left_out: tenants.left_out,
                sample: sample(tenants),
            }),
        },
    }
}

fn sample(tenants: &Tenants) -> Vec<TenantLine> {
    let mut lines: Vec<TenantLine> = tenants
        .tenants
        .iter()
        .map(|tenant| TenantLine {
            tenant_id: tenant.tenant.clone(),
            active_rules: tenant.activity.rules.active,
            feedback_total: tenant.activity.feedback.total,
            negative_ratio: ratio(tenant.activity.feedback.negative, tenant.activity.feedback.total).map(round4),
        })
        .collect();
    lines.sort_by(|a, b| b.feedback_total.cmp(&a.feedback_total).then_with(|| a.tenant_id.cmp(&b.tenant_id)));
    lines.truncate(TENANTS_SHOWN_MAX);
    lines
}

#[cfg(test)]
#[path = "execution_loop_tests.rs"]
mod tests;
