//! Tenants side by side: how far apart they are in active rules and in bad feedback.

use serde::Serialize;

use super::{
    checks::{Check, Measured, Severity, ratio, round4},
    counts::Activity,
};

/// A tenant and what happened in all its scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantActivity {
    /// The tenant.
    pub tenant: String,
    /// What happened.
    pub activity: Activity,
}

/// Tenants of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants {
    /// Ordered by name.
    pub tenants: Vec<TenantActivity>,
    /// Scopes that were not looked at.
    pub left_out: u64,
}

/// How far apart tenants are: the largest less the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// Tenants.
    pub tenant_count: u64,
    /// Tenants with enough feedback to have a ratio.
    pub tenants_with_feedback_floor: u64,
    /// Difference in active rules; nothing with fewer than two tenants.
    pub active_rule_count_drift: Option<u64>,
    /// Difference in the part of negative feedback; nothing with fewer than two tenants that have one.
    pub negative_ratio_drift: Option<f64>,
}

/// Bounds of the checks on tenants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DriftThresholds {
    /// Feedback a tenant needs to have a ratio.
    pub tenant_drift_min_feedback: u64,
    /// Largest difference in the part of negative feedback.
    pub max_tenant_negative_ratio_drift: f64,
    /// Largest difference in active rules.
    pub max_tenant_active_rule_count_drift: u64,
}

impl Default for DriftThresholds {
    fn default() -> Self {
        Self {
            tenant_drift_min_feedback: 5,
            max_tenant_negative_ratio_drift: 0.3,
            max_tenant_active_rule_count_drift: 20,
        }
    }
}

impl Tenants {
    /// How far apart they are.
    pub fn drift(&self, min_feedback: u64) -> Drift {
        let active = self.tenants.iter().map(|tenant| tenant.activity.rules.active);
        let spread = active.clone().max().zip(active.min()).map(|(max, min)| max - min);
        let ratios: Vec<f64> = self
            .tenants
            .iter()
            .map(|tenant| &tenant.activity.feedback)
            .filter(|feedback| feedback.total >= min_feedback.max(1))
            .filter_map(|feedback| ratio(feedback.negative, feedback.total))
            .collect();
        let (low, high) = ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), r| (low.min(*r), high.max(*r)));
        Drift {
            tenant_count: self.tenants.len() as u64,
            tenants_with_feedback_floor: ratios.len() as u64,
            active_rule_count_drift: spread.filter(|_| self.tenants.len() > 1),
            negative_ratio_drift: (ratios.len() > 1).then(|| round4(high - low)),
        }
    }

    /// The checks on tenants. One tenant alone drifts from nobody: that is inconclusive.
    pub fn checks(&self, thresholds: &DriftThresholds) -> [Check; 2] {
        let drift = self.drift(thresholds.tenant_drift_min_feedback);
        #[expect(clippy::cast_precision_loss, reason = "counts of rules")]
        let (rules, rules_max) =
            (drift.active_rule_count_drift.unwrap_or(0) as f64, thresholds.max_tenant_active_rule_count_drift as f64);
        let by_rules = Measured::number(rules, drift.tenant_count, 2);
        let by_ratio =
            Measured::number(drift.negative_ratio_drift.unwrap_or(0.0), drift.tenants_with_feedback_floor, 2);
        [
            Check::at_most("tenant_active_rule_count_drift_max", Severity::Warning, by_rules, rules_max),
            Check::at_most(
                "tenant_negative_ratio_drift_max",
                Severity::Warning,
                by_ratio,
                thresholds.max_tenant_negative_ratio_drift,
            ),
        ]
        .map(|check| check.unless_left_out(self.left_out, "scopes"))
    }
}
